//! Isolate: from the objects of a restore point to those of a drill. Pure; nothing is asked of a server.
//!
//! What leaves a namespace is closed or left out: Services are inside the cluster, Ingresses and routes stay away, rules
//! that open egress are taken off the application's own policies (policies add up: one that opens is enough), and pods that share something with their node, or that the node
//! mounts storage for which is not a copy, are not started: no policy holds a node. Of what is cluster-scoped only volumes come, under
//! other names: all else is the standby's own by the same names.

use std::collections::{BTreeMap, BTreeSet};

use backstay_types::PlanName;
use backstay_types::manifest::{InvalidPath, RelPath};
use backstay_types::plan::PlanSpec;
use serde_json::{Map, Value};

use super::fence::{self, POLICY};
use super::{Isolated, joined};
use crate::cluster::capture::is_record;
use crate::cluster::error::ClusterError;
use crate::cluster::prepare::VolumePlace;
use crate::folder::CapturedObject;
use crate::object::CLUSTER_SCOPE;
use crate::transform::{Transformed, Transforms};
use crate::{GroupKind, ObjectId, canonical};

/// Objects of a kind of warning that are named; the rest are counted.
const NAMED_MAX: usize = 8;

/// Longest name of a volume: a DNS subdomain.
const VOLUME_NAME_BYTES_MAX: usize = 253;

/// Groups whose kinds lead into the cluster, or open what is closed.
const OPENING_GROUPS: [&str; 6] = [
    "cilium.io",
    "crd.projectcalico.org",
    "gateway.networking.k8s.io",
    "projectcalico.org",
    "route.openshift.io",
    "traefik.io",
];

/// What pods may mount: what is in the drill's namespace, or is made for the pod. All else is a folder of the node, or
/// storage that the node reaches, such as an NFS share: the very one that the active side writes.
const INNER_VOLUMES: [&str; 8] = [
    "configMap",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

/// Cluster-scoped kinds that the standby has from the plan's own apply, and a drill uses as they are.
const SHARED: [(&str, &str); 8] = [
    ("", "Namespace"),
    ("apiextensions.k8s.io", "CustomResourceDefinition"),
    ("networking.k8s.io", "IngressClass"),
    ("node.k8s.io", "RuntimeClass"),
    ("rbac.authorization.k8s.io", "ClusterRole"),
    ("scheduling.k8s.io", "PriorityClass"),
    ("storage.k8s.io", "CSIDriver"),
    ("storage.k8s.io", "StorageClass"),
];

/// The objects of a drill. `volumes` says where the copies are, by the volumes' names at the source.
pub fn isolate(
    objects: &[CapturedObject],
    name: &PlanName,
    number: u64,
    spec: &PlanSpec,
    volumes: &BTreeMap<String, VolumePlace>,
) -> Result<Isolated, ClusterError> {
    let mut work = Work {
        drill: name.as_str(),
        suffix: format!("-drill-{number}"),
        volumes,
        left_out: BTreeMap::new(),
        captured: BTreeMap::new(),
        sources: spec.namespaces.iter().cloned().collect(),
    };
    let damaged = |what: String| ClusterError::Answer { doing: format!("prepare drill {name}"), why: what };
    let mut rest = Vec::new();
    for object in objects {
        let parsed = serde_json::from_slice::<Value>(&object.bytes).ok();
        let id = parsed.as_ref().and_then(|value| ObjectId::of(value).ok());
        let (Some(mut value), Some(id)) = (parsed, id) else {
            return Err(damaged(format!("{} is not an object", object.key)));
        };
        if is_record(&id) || !work.isolate(&object.key, &id, &mut value) {
            continue;
        }
        fence::label(&mut value, work.drill);
        let key = work.key(&object.key, &id).map_err(|error| damaged(error.to_string()))?;
        rest.push(CapturedObject { key, bytes: canonical::to_bytes(&value) });
    }
    let fence = work.fence().map_err(|error| damaged(error.to_string()))?;
    let spec = work.spec(spec);
    let opening = Opening::of(&spec)?;
    if fence.iter().any(|object| opening.changes(object)) {
        return Err(damaged("a transform of the plan changes the policy that closes the drill".to_owned()));
    }
    rest.retain(|object| match opening.opens(object) {
        Some(id) => work.leave_out("the plan's transforms would open what a drill closes", &id),
        None => true,
    });
    let all = fence.iter().cloned().chain(rest).collect::<Vec<_>>();
    let namespaces: BTreeSet<_> =
        work.sources.iter().filter_map(|source| spec.namespace_mapping.get(source).cloned()).collect();
    Ok(Isolated {
        name: name.clone(),
        namespaces: namespaces.into_iter().collect(),
        warnings: work.warnings(),
        fence: fence.into(),
        objects: all.into(),
        volumes: volumes.iter().map(|(name, place)| (work.volume(name), place.clone())).collect(),
        spec,
    })
}

struct Work<'a> {
    drill: &'a str,
    suffix: String,
    volumes: &'a BTreeMap<String, VolumePlace>,
    /// Objects that are not started, by the reason.
    left_out: BTreeMap<&'static str, Vec<String>>,
    /// Namespaces as they are at the source.
    captured: BTreeMap<String, Value>,
    /// Namespaces of the source.
    sources: BTreeSet<String>,
}

impl Work<'_> {
    /// Whether an object is for the drill, which it then fits.
    fn isolate(&mut self, key: &RelPath, id: &ObjectId, value: &mut Value) -> bool {
        let scope = key.components().next().map(String::from_utf8_lossy).unwrap_or_default();
        if scope == CLUSTER_SCOPE {
            return self.cluster_scoped(id, value);
        }
        self.sources.insert(scope.into_owned());
        if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            // Whoever would take it off may not look at a drill.
            metadata.remove("finalizers");
        }
        if leads_in(&id.kind) {
            return self.leave_out("they lead into or out of the drill", id);
        }
        if shares_with_node(value) {
            return self.leave_out(
                "their pods share network or processes with the node, which cannot be closed",
                id,
            );
        }
        if mounts_from_outside(value) {
            return self.leave_out(
                "their pods mount what is not the drill's: folders of the node, or shared storage",
                id,
            );
        }
        match (id.kind.group.as_str(), id.kind.kind.as_str()) {
            ("", "Service") => close_service(value),
            ("", "PersistentVolumeClaim") => self.point_claim(id, value),
            ("networking.k8s.io", "NetworkPolicy") => return id.name != POLICY && close_policy(value),
            _ => {}
        }
        true
    }

    fn cluster_scoped(&mut self, id: &ObjectId, value: &mut Value) -> bool {
        if id.kind.is("", "Namespace") {
            self.sources.insert(id.name.clone());
            self.captured.insert(id.name.clone(), value.clone());
            return false;
        }
        if id.kind.is("", "PersistentVolume") {
            let is_copied = self.volumes.contains_key(&id.name);
            if is_copied {
                set(value, "/metadata", "name", self.volume(&id.name).into());
                set(value, "/spec", "persistentVolumeReclaimPolicy", "Retain".into());
                if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
                    metadata.remove("finalizers");
                }
            }
            return is_copied;
        }
        let is_shared = SHARED.iter().any(|(group, kind)| id.kind.is(group, kind));
        if !is_shared {
            self.leave_out("they are of the whole cluster", id);
        }
        false
    }

    /// A claim asks for the copy of its volume; one whose volume is not copied gets an empty one.
    fn point_claim(&mut self, id: &ObjectId, value: &mut Value) {
        let bound = value.pointer("/spec/volumeName").and_then(Value::as_str).unwrap_or_default().to_owned();
        if self.volumes.contains_key(&bound) {
            set(value, "/spec", "volumeName", self.volume(&bound).into());
        } else if let Some(spec) = value.get_mut("spec").and_then(Value::as_object_mut) {
            spec.remove("volumeName");
            self.leave_out("their data is not copied, and they get empty volumes", id);
        }
    }

    fn leave_out(&mut self, why: &'static str, id: &ObjectId) -> bool {
        self.left_out.entry(why).or_default().push(id.to_string());
        false
    }

    fn volume(&self, source: &str) -> String {
        joined(source, &self.suffix, VOLUME_NAME_BYTES_MAX)
    }

    /// The key of what an object has become.
    fn key(&self, key: &RelPath, id: &ObjectId) -> Result<RelPath, InvalidPath> {
        if id.kind.is("", "PersistentVolume") {
            key_of(CLUSTER_SCOPE, "_PersistentVolume", &self.volume(&id.name))
        } else {
            Ok(key.clone())
        }
    }

    fn fence(&self) -> Result<Vec<CapturedObject>, InvalidPath> {
        let mut objects = Vec::new();
        for source in &self.sources {
            let namespace = fence::namespace(source, self.captured.get(source), self.drill);
            let policy = fence::policy(source, self.drill);
            for (key, object) in [
                (key_of(CLUSTER_SCOPE, "_Namespace", source)?, namespace),
                (key_of(source, "networking.k8s.io_NetworkPolicy", POLICY)?, policy),
            ] {
                objects.push(CapturedObject { key, bytes: canonical::to_bytes(&object) });
            }
        }
        Ok(objects)
    }

    /// The plan as the drill has it: every namespace is another, and patches follow theirs.
    fn spec(&self, spec: &PlanSpec) -> PlanSpec {
        let here = |source: &String| spec.namespace_mapping.get(source).unwrap_or(source).clone();
        let max = backstay_types::limits::NAME_BYTES_MAX;
        let mapping: BTreeMap<_, _> = self
            .sources
            .iter()
            .map(|source| (source.clone(), joined(&here(source), &self.suffix, max)))
            .collect();
        let renamed: BTreeMap<_, _> =
            mapping.iter().map(|(source, drill)| (here(source), drill.clone())).collect();
        let mut spec = spec.clone();
        for rule in &mut spec.transforms {
            if let Some(namespace) = &mut rule.namespace
                && let Some(drill) = renamed.get(namespace)
            {
                namespace.clone_from(drill);
            }
        }
        spec.namespace_mapping = mapping;
        spec
    }

    fn warnings(&self) -> Vec<String> {
        let told = |(why, objects): (&&str, &Vec<String>)| {
            let named = objects.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join(", ");
            let more = objects.len().saturating_sub(NAMED_MAX);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            format!("not as a takeover would have them, because {why}: {named}{more}")
        };
        self.left_out.iter().map(told).collect()
    }
}

/// What the transforms of a plan, which come last, would do to objects of a drill.
struct Opening {
    with: Transforms,
    without: Transforms,
}

impl Opening {
    fn of(spec: &PlanSpec) -> Result<Self, ClusterError> {
        let without = Transforms::new(&PlanSpec { transforms: Vec::new(), ..spec.clone() })?;
        Ok(Self { with: Transforms::new(spec)?, without })
    }

    fn changes(&self, object: &CapturedObject) -> bool {
        result_of(&self.with, object) != result_of(&self.without, object)
    }

    /// The object, if it would not be closed any more. One that cannot be transformed fails when it is applied.
    fn opens(&self, object: &CapturedObject) -> Option<ObjectId> {
        let value = result_of(&self.with, object).filter(|_| self.changes(object))?;
        let id = ObjectId::of(&value).ok()?;
        let mut closed = value.clone();
        let is_wanted = match (id.kind.group.as_str(), id.kind.kind.as_str()) {
            ("", "Service") => {
                close_service(&mut closed);
                true
            }
            ("networking.k8s.io", "NetworkPolicy") => close_policy(&mut closed),
            _ => true,
        };
        let is_closed = is_wanted
            && closed == value
            && !leads_in(&id.kind)
            && !shares_with_node(&value)
            && !mounts_from_outside(&value);
        let source = serde_json::from_slice(&object.bytes).ok()?;
        if is_closed { None } else { ObjectId::of(&source).ok() }
    }
}

fn result_of(transforms: &Transforms, object: &CapturedObject) -> Option<Value> {
    let mut value = serde_json::from_slice(&object.bytes).ok()?;
    matches!(transforms.apply(&mut value), Ok(Transformed::Kept)).then_some(value)
}

fn key_of(scope: &str, kind: &str, name: &str) -> Result<RelPath, InvalidPath> {
    [scope, kind, name].iter().try_fold(RelPath::root(), |path, part| path.join(part.as_bytes()))
}

fn set(value: &mut Value, at: &str, field: &str, to: Value) {
    if let Some(map) = value.pointer_mut(at).and_then(Value::as_object_mut) {
        map.insert(field.to_owned(), to);
    }
}

fn leads_in(kind: &GroupKind) -> bool {
    let is_ingress =
        kind.kind == "Ingress" && matches!(kind.group.as_str(), "networking.k8s.io" | "extensions");
    is_ingress || OPENING_GROUPS.contains(&kind.group.as_str())
}

/// The specs of pods in an object, wherever its kind has them.
fn pod_specs(value: &Value) -> impl Iterator<Item = &Value> {
    let places = ["/spec", "/spec/template/spec", "/spec/jobTemplate/spec/template/spec"];
    places
        .into_iter()
        .filter_map(|place| value.pointer(place))
        .filter(|spec| spec.get("containers").is_some())
}

/// Whether the pods of an object share the network, or the processes, of their node.
fn shares_with_node(value: &Value) -> bool {
    let shares = |spec: &Value| {
        ["hostNetwork", "hostPID", "hostIPC"].iter().any(|field| spec.get(*field) == Some(&Value::Bool(true)))
    };
    pod_specs(value).any(shares)
}

/// Whether the pods of an object mount what is neither in the drill's namespace nor made for them.
fn mounts_from_outside(value: &Value) -> bool {
    let is_outside = |volume: &Value| {
        let sources = volume.as_object().into_iter().flat_map(Map::keys).filter(|field| *field != "name");
        sources.into_iter().any(|source| !INNER_VOLUMES.contains(&source.as_str()))
    };
    pod_specs(value).any(|spec| {
        spec.get("volumes").and_then(Value::as_array).is_some_and(|volumes| volumes.iter().any(is_outside))
    })
}

/// A Service that is reached from inside the cluster alone, and takes no port of the nodes.
fn close_service(value: &mut Value) {
    let Some(spec) = value.get_mut("spec").and_then(Value::as_object_mut) else { return };
    for field in [
        "allocateLoadBalancerNodePorts",
        "externalIPs",
        "externalTrafficPolicy",
        "healthCheckNodePort",
        "loadBalancerClass",
        "loadBalancerIP",
        "loadBalancerSourceRanges",
    ] {
        spec.remove(field);
    }
    if let Some("LoadBalancer" | "NodePort") = spec.get("type").and_then(Value::as_str) {
        spec.insert("type".to_owned(), "ClusterIP".into());
    }
    let ports = spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten();
    ports.filter_map(Value::as_object_mut).for_each(|port| drop(port.remove("nodePort")));
}

/// Takes what a policy opens for egress; whether anything is left of it.
fn close_policy(value: &mut Value) -> bool {
    let Some(spec) = value.get_mut("spec").and_then(Value::as_object_mut) else { return false };
    let has_ingress = is_about(spec, "Ingress");
    spec.remove("egress");
    spec.insert("policyTypes".to_owned(), serde_json::json!(["Ingress"]));
    has_ingress
}

/// Whether a policy is about ingress: it says so, or says nothing.
fn is_about(spec: &Map<String, Value>, direction: &str) -> bool {
    let types = spec.get("policyTypes").and_then(Value::as_array);
    types.is_none_or(|types| types.iter().any(|one| one.as_str() == Some(direction)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn captured(value: Value) -> CapturedObject {
        let key = ObjectId::of(&value).unwrap().key(&crate::object::Scopes::default()).unwrap();
        CapturedObject { key, bytes: canonical::to_bytes(&value) }
    }

    fn pod(host_network: bool) -> Value {
        json!({"spec": {"hostNetwork": host_network, "containers": []}})
    }

    fn isolated(objects: Vec<Value>) -> Isolated {
        transformed(objects, &json!({"kind": "*/*", "namespace": "store", "mergePatch": "{}"})).unwrap()
    }

    fn transformed(objects: Vec<Value>, transform: &Value) -> Result<Isolated, ClusterError> {
        let objects: Vec<_> = objects.into_iter().map(captured).collect();
        let spec: PlanSpec = serde_json::from_value(json!({
            "pair": "west", "namespaces": ["shop"], "namespaceMapping": {"shop": "store"},
            "transforms": [transform],
        }))
        .unwrap();
        let place = VolumePlace { path: "/copies/data".into(), node: None };
        let volumes = BTreeMap::from([("pv".to_owned(), place)]);
        isolate(&objects, &"shop-drill-2".parse().unwrap(), 2, &spec, &volumes)
    }

    fn found(drill: &Isolated, key: &str) -> Option<Value> {
        let object = drill.objects.iter().find(|object| object.key.to_string() == key)?;
        Some(serde_json::from_slice(&object.bytes).unwrap())
    }

    #[test]
    fn namespaces_are_its_own_and_closed_first() {
        let drill = isolated(vec![
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": {"tier": "a"}}}),
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "shop", "finalizers": ["x/y"]}}),
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "other"}}),
        ]);
        assert_eq!(drill.namespaces, ["other-drill-2", "store-drill-2"]);
        assert_eq!(drill.names()["shop"], "store-drill-2");
        assert_eq!(drill.spec.transforms[0].namespace.as_deref(), Some("store-drill-2"));
        let fence: Vec<_> = drill.fence.iter().map(|object| object.key.to_string()).collect();
        assert_eq!(
            fence,
            [
                "_cluster/_Namespace/other",
                "other/networking.k8s.io_NetworkPolicy/backstay-drill",
                "_cluster/_Namespace/shop",
                "shop/networking.k8s.io_NetworkPolicy/backstay-drill",
            ]
        );
        assert_eq!(drill.objects.len(), 6);
        let namespace = found(&drill, "_cluster/_Namespace/shop").unwrap();
        assert_eq!(
            namespace["metadata"]["labels"],
            json!({"tier": "a", "backstay.dev/drill": "shop-drill-2", "backstay.dev/exclude": "true"})
        );
        let settings = found(&drill, "shop/_ConfigMap/c").unwrap();
        assert_eq!(settings["metadata"].get("finalizers"), None);
        let policy = found(&drill, "shop/networking.k8s.io_NetworkPolicy/backstay-drill").unwrap();
        assert_eq!(policy["spec"]["policyTypes"], json!(["Egress"]));
        assert_eq!(policy["spec"]["egress"].as_array().unwrap().len(), 2, "the drill, and names");
    }

    #[test]
    fn volumes_are_copies_under_names_of_their_own() {
        let drill = isolated(vec![
            json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "pv"},
                "spec": {"hostPath": {"path": "/x"}, "persistentVolumeReclaimPolicy": "Delete", "claimRef": {"namespace": "shop", "name": "data"}}}),
            json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "disk"}, "spec": {"csi": {"driver": "d"}}}),
            json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data", "namespace": "shop"}, "spec": {"volumeName": "pv"}}),
            json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "disk", "namespace": "shop"}, "spec": {"volumeName": "disk"}}),
        ]);
        let volume = found(&drill, "_cluster/_PersistentVolume/pv-drill-2").unwrap();
        assert_eq!(volume["metadata"]["name"], "pv-drill-2");
        assert_eq!(volume["spec"]["persistentVolumeReclaimPolicy"], "Retain");
        assert!(drill.volumes.contains_key("pv-drill-2"));
        assert_eq!(
            found(&drill, "shop/_PersistentVolumeClaim/data").unwrap()["spec"]["volumeName"],
            "pv-drill-2"
        );
        // The disk behind a driver is the standby's, or nobody's: never a drill's.
        assert_eq!(found(&drill, "_cluster/_PersistentVolume/disk-drill-2"), None);
        assert_eq!(
            found(&drill, "shop/_PersistentVolumeClaim/disk").unwrap()["spec"].get("volumeName"),
            None
        );
        assert!(drill.warnings.iter().any(|text| text.contains("shop/disk")), "{:?}", drill.warnings);
    }

    /// A share that a pod mounts by itself is mounted by the node: no policy closes that, and it is the real one.
    #[test]
    fn what_is_not_a_copy_is_not_mounted() {
        let workload = |name: &str, volume: Value| {
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": "shop"},
                "spec": {"template": {"spec": {"containers": [], "volumes": [volume]}}}})
        };
        let job = json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "job", "namespace": "shop"},
            "spec": {"jobTemplate": {"spec": {"template": {"spec": {"containers": [], "hostPID": true}}}}}});
        let drill = isolated(vec![
            workload("claim", json!({"name": "data", "persistentVolumeClaim": {"claimName": "data"}})),
            workload("settings", json!({"name": "data", "configMap": {"name": "settings"}})),
            workload("scratch", json!({"name": "data", "emptyDir": {}})),
            workload("share", json!({"name": "data", "nfs": {"server": "192.0.2.1", "path": "/shop"}})),
            workload("folder", json!({"name": "data", "hostPath": {"path": "/srv/shop"}})),
            workload("driver", json!({"name": "data", "csi": {"driver": "files.example"}})),
            job,
        ]);
        for inner in ["claim", "settings", "scratch"] {
            assert!(found(&drill, &format!("shop/apps_Deployment/{inner}")).is_some(), "{inner}");
        }
        for outer in ["share", "folder", "driver", "job"] {
            assert!(found(&drill, &format!("shop/apps_Deployment/{outer}")).is_none(), "{outer}");
            assert!(drill.warnings.iter().any(|text| text.contains(&format!("shop/{outer}"))), "{outer}");
        }
        assert_eq!(drill.objects.len(), 2 + 3);
    }

    #[test]
    fn transforms_open_nothing_again() {
        let service = || json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop"}, "spec": {"ports": [{"port": 80}]}});
        let open = json!({"kind": "Service", "mergePatch": "{\"spec\": {\"type\": \"LoadBalancer\"}}"});
        let drill = transformed(vec![service()], &open).unwrap();
        assert_eq!(found(&drill, "shop/_Service/web"), None);
        assert!(drill.warnings.iter().any(|text| text.contains("Service shop")), "{:?}", drill.warnings);
        let label =
            json!({"kind": "Service", "mergePatch": "{\"metadata\": {\"labels\": {\"site\": \"west\"}}}"});
        assert!(found(&transformed(vec![service()], &label).unwrap(), "shop/_Service/web").is_some());
        let fence = json!({"kind": "networking.k8s.io/NetworkPolicy", "mergePatch": "{\"spec\": {\"egress\": [{}]}}"});
        let error = transformed(vec![service()], &fence).unwrap_err();
        assert!(error.to_string().contains("closes the drill"), "{error}");
    }

    #[test]
    fn nothing_leads_out() {
        let workload = |name: &str, template: Value| json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": "shop"}, "spec": {"template": template}});
        let policy = |name: &str, spec: Value| json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": name, "namespace": "shop"}, "spec": spec});
        let drill = isolated(vec![
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop"},
                "spec": {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "externalIPs": ["192.0.2.1"], "ports": [{"port": 80, "nodePort": 30080}]}}),
            json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "web", "namespace": "shop"}}),
            json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "web", "namespace": "shop"}}),
            workload("inside", pod(false)),
            workload("outside", pod(true)),
            policy("opens", json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{}]})),
            policy("both", json!({"podSelector": {}, "ingress": [{}], "egress": [{}]})),
            json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "all"}}),
            json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "fast"}}),
        ]);
        let service = found(&drill, "shop/_Service/web").unwrap();
        assert_eq!(service["spec"], json!({"type": "ClusterIP", "ports": [{"port": 80}]}));
        assert!(found(&drill, "shop/apps_Deployment/inside").is_some());
        let both = found(&drill, "shop/networking.k8s.io_NetworkPolicy/both").unwrap();
        assert_eq!(both["spec"], json!({"podSelector": {}, "ingress": [{}], "policyTypes": ["Ingress"]}));
        assert_eq!(drill.objects.len(), 2 + 3, "the fence, the Service, one Deployment, one policy");
        for named in ["Ingress.networking.k8s.io shop/web", "HTTPRoute", "outside", "ClusterRoleBinding"] {
            assert!(drill.warnings.iter().any(|text| text.contains(named)), "{named}: {:?}", drill.warnings);
        }
        assert!(!drill.warnings.iter().any(|text| text.contains("fast")), "{:?}", drill.warnings);
    }
}
