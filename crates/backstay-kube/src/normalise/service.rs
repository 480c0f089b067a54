//! Services: what the cluster allocated goes, what the operator asked for stays.

use serde_json::{Map, Value};

use super::remove;

/// Annotation in which `kubectl apply` keeps what it was given.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Strips allocated addresses and ports.
pub(super) fn service(object: &mut Value) {
    let asked = Asked::of(object);
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return };
    // A headless service says `None` itself.
    if spec.get("clusterIP").and_then(Value::as_str) != Some("None") {
        spec.remove("clusterIP");
        spec.remove("clusterIPs");
    }
    spec.remove("loadBalancerIP");
    if !asked.health_port {
        spec.remove("healthCheckNodePort");
    }
    let ports = spec.get_mut("ports").and_then(Value::as_array_mut);
    for port in ports.into_iter().flatten().filter_map(Value::as_object_mut) {
        if !asked.node_port(port) {
            port.remove("nodePort");
        }
    }
    remove(object, "/status", "loadBalancer");
}

/// Which ports somebody asked for.
struct Asked {
    /// `None` if the object was never in a cluster: then everything in it was written by hand.
    ports: Option<Vec<String>>,
    health_port: bool,
}

impl Asked {
    fn of(object: &Value) -> Self {
        let managers = object.pointer("/metadata/managedFields").and_then(Value::as_array);
        let applied = object
            .pointer("/metadata/annotations")
            .and_then(|annotations| annotations.get(LAST_APPLIED))
            .and_then(Value::as_str)
            .and_then(|text| serde_json::from_str::<Value>(text).ok());
        let was_live = object.pointer("/metadata/uid").is_some() || managers.is_some();
        if !was_live {
            return Self { ports: None, health_port: true };
        }
        let mut ports = Vec::new();
        let mut health_port = false;
        for spec in managers.into_iter().flatten().filter_map(|manager| manager.pointer("/fieldsV1/f:spec")) {
            health_port |= spec.get("f:healthCheckNodePort").is_some();
            let fields = spec.get("f:ports").and_then(Value::as_object);
            let with_port =
                fields.into_iter().flatten().filter(|(_, fields)| fields.get("f:nodePort").is_some());
            ports.extend(with_port.filter_map(|(key, _)| managed_port(key)));
        }
        if let Some(spec) = applied.as_ref().and_then(|applied| applied.get("spec")) {
            health_port |= spec.get("healthCheckNodePort").is_some();
            let list = spec.get("ports").and_then(Value::as_array);
            let with_port = list.into_iter().flatten().filter_map(Value::as_object);
            ports.extend(with_port.filter(|port| port.contains_key("nodePort")).map(identity));
        }
        Self { ports: Some(ports), health_port }
    }

    fn node_port(&self, port: &Map<String, Value>) -> bool {
        self.ports.as_ref().is_none_or(|asked| asked.contains(&identity(port)))
    }
}

/// What tells the ports of a service apart: number and protocol.
fn identity(port: &Map<String, Value>) -> String {
    let number = port.get("port").and_then(Value::as_u64).unwrap_or(0);
    format!("{number}/{}", port.get("protocol").and_then(Value::as_str).unwrap_or("TCP"))
}

/// The same of a key of managed fields: `k:{"port":80,"protocol":"TCP"}`.
fn managed_port(key: &str) -> Option<String> {
    let fields: Value = serde_json::from_str(key.strip_prefix("k:")?).ok()?;
    fields.as_object().map(identity)
}
