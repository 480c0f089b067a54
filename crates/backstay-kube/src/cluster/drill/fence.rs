//! What closes a namespace: from its pods, only those of the drill and names can be reached.

use serde_json::{Value, json};

use super::DRILL_LABEL;
use crate::skip::EXCLUDE_LABEL;

/// Name of the policy in every namespace of a drill.
pub(super) const POLICY: &str = "backstay-drill";

/// Ports of name servers; 5353 is that of OpenShift's pods.
const DNS_PORTS: [u16; 2] = [53, 5353];
/// Where NodeLocal DNSCache listens, which is not a pod's address.
const NODE_LOCAL_DNS: &str = "169.254.20.10/32";

/// A namespace of the source as it is made for a drill; `captured` is it at the source, where that is known.
pub(super) fn namespace(name: &str, captured: Option<&Value>, drill: &str) -> Value {
    let marks = |field: &str| {
        let found = captured.and_then(|object| object.get("metadata")?.get(field));
        found.filter(|marks| marks.is_object()).cloned().unwrap_or_else(|| json!({}))
    };
    let mut object = json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": marks("labels"), "annotations": marks("annotations")},
    });
    label(&mut object, drill);
    object
}

/// The policy of a namespace.
pub(super) fn policy(namespace: &str, drill: &str) -> Value {
    let ports: Vec<_> = DNS_PORTS
        .into_iter()
        .flat_map(|port| ["UDP", "TCP"].map(|protocol| json!({"protocol": protocol, "port": port})))
        .collect();
    let mut object = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": POLICY, "namespace": namespace},
        "spec": {
            "podSelector": {},
            "policyTypes": ["Egress"],
            "egress": [
                {"to": [
                    {"podSelector": {}},
                    {"namespaceSelector": {"matchLabels": {DRILL_LABEL: drill}}},
                ]},
                {"to": [{"namespaceSelector": {}}, {"ipBlock": {"cidr": NODE_LOCAL_DNS}}], "ports": ports},
            ],
        },
    });
    label(&mut object, drill);
    object
}

/// Marks an object as a drill's, and keeps it out of captures.
pub(super) fn label(object: &mut Value, drill: &str) {
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    let labels = metadata.entry("labels").or_insert_with(|| json!({}));
    if !labels.is_object() {
        *labels = json!({});
    }
    if let Some(labels) = labels.as_object_mut() {
        labels.insert(DRILL_LABEL.to_owned(), drill.into());
        labels.insert(EXCLUDE_LABEL.to_owned(), "true".into());
    }
}
