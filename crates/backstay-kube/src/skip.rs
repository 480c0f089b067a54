//! What a capture leaves out, and why: objects that a cluster makes by itself, that mean nothing in another, or
//! that were marked.
//!
//! Looks at objects as they were read, before they are normalised: `status`, owners and uids decide.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::Value;

use crate::{GroupKind, ObjectId};

/// Label that keeps an object out of every capture.
pub const EXCLUDE_LABEL: &str = "backstay.dev/exclude";

/// Label on a Secret of ours that keeps an object until a release creates it again.
pub const WAITING_LABEL: &str = "backstay.dev/waiting";

/// Why an object is not captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SkipReason {
    /// Labelled `backstay.dev/exclude`.
    Excluded,
    /// One of Backstay's own objects.
    Own,
    /// Says what happens in one cluster: Events, Leases, Nodes, attachments.
    ClusterState,
    /// Its controller is captured too and makes it again.
    Owned,
    /// A pod or job that is over.
    Finished,
    /// Endpoints that a controller keeps.
    Endpoints,
    /// Every namespace gets one: `kube-root-ca.crt`, a bare `default` service account.
    PerNamespace,
    /// A service-account token that the cluster made by itself.
    Token,
    /// Access rules and APIs of the API server itself.
    Machinery,
    /// Snapshots of volumes: the volumes themselves are replicated.
    VolumeSnapshot,
    /// Read by a tool on the client's side; no cluster knows the kind.
    ClientSide,
    /// Being deleted at the source.
    Deleting,
    /// A binding whose subjects are all of namespaces that are not captured.
    NoSubject,
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SkipReason::Excluded => "labelled backstay.dev/exclude",
            SkipReason::Own => "one of Backstay's own objects",
            SkipReason::ClusterState => "state of one cluster",
            SkipReason::Owned => "made again by its controller, which is captured",
            SkipReason::Finished => "finished",
            SkipReason::Endpoints => "kept by a controller",
            SkipReason::PerNamespace => "made in every namespace by the cluster",
            SkipReason::Token => "a service-account token",
            SkipReason::Machinery => "part of the API server",
            SkipReason::VolumeSnapshot => "a snapshot of a volume",
            SkipReason::ClientSide => "read by a client-side tool only",
            SkipReason::Deleting => "being deleted",
            SkipReason::NoSubject => "for service accounts of other namespaces only",
        })
    }
}

/// Who is captured, for questions about owners.
#[derive(Debug, Clone, Default)]
pub struct Owners(BTreeSet<(String, String, String, String)>);

impl Owners {
    /// Takes note of an object that is read by this capture.
    pub fn add(&mut self, id: &ObjectId) {
        let namespace = id.namespace.clone().unwrap_or_default();
        self.0.insert((namespace, id.kind.group.clone(), id.kind.kind.clone(), id.name.clone()));
    }

    /// Whether the controller of `object` was noted.
    fn has_controller_of(&self, id: &ObjectId, object: &Value) -> bool {
        let owners = object.pointer("/metadata/ownerReferences").and_then(Value::as_array);
        owners.into_iter().flatten().any(|owner| {
            let text = |field| owner.get(field).and_then(Value::as_str).unwrap_or_default();
            let is_controller = owner.get("controller").and_then(Value::as_bool) == Some(true);
            let group = text("apiVersion").split_once('/').map_or("", |(group, _)| group);
            // An owner is in the namespace of its child, or cluster-scoped.
            is_controller
                && [id.namespace.as_deref().unwrap_or_default(), ""].iter().any(|namespace| {
                    let key = (
                        (*namespace).to_owned(),
                        group.to_owned(),
                        text("kind").to_owned(),
                        text("name").to_owned(),
                    );
                    self.0.contains(&key)
                })
        })
    }
}

/// Whether, and why, an object is left out of a capture.
pub fn skip(id: &ObjectId, object: &Value, owners: &Owners) -> Option<SkipReason> {
    if label(object, EXCLUDE_LABEL).is_some_and(|value| value != "false") {
        return Some(SkipReason::Excluded);
    }
    if id.kind.is("", "Secret") && label(object, WAITING_LABEL).is_some() {
        return Some(SkipReason::Own);
    }
    if object.pointer("/metadata/deletionTimestamp").is_some_and(|time| !time.is_null()) {
        return Some(SkipReason::Deleting);
    }
    whole_kind(&id.kind).or_else(|| by_kind(id, object)).or_else(|| {
        let made_again = owner_stage(&id.kind) > 0;
        (made_again && owners.has_controller_of(id, object)).then_some(SkipReason::Owned)
    })
}

/// When a kind can be judged: its controllers are of kinds of lower stages. Stage 0 is never made again: what has
/// an owner there, such as a StatefulSet of an operator, is held instead.
pub fn owner_stage(kind: &GroupKind) -> u8 {
    match (kind.group.as_str(), kind.kind.as_str()) {
        ("apps", "ReplicaSet" | "ControllerRevision")
        | ("batch", "Job")
        | ("core.strimzi.io", "StrimziPodSet") => 1,
        ("", "Pod") => 2,
        _ => 0,
    }
}

/// Why no object of a kind is ever captured, so that none needs to be listed.
pub fn whole_kind(kind: &GroupKind) -> Option<SkipReason> {
    match (kind.group.as_str(), kind.kind.as_str()) {
        ("backstay.dev", _) => Some(SkipReason::Own),
        ("kustomize.config.k8s.io", _) => Some(SkipReason::ClientSide),
        ("" | "events.k8s.io", "Event")
        | ("coordination.k8s.io", "Lease" | "LeaseCandidate")
        | ("", "Node") => Some(SkipReason::ClusterState),
        ("storage.k8s.io", "CSINode" | "VolumeAttachment" | "CSIStorageCapacity") => {
            Some(SkipReason::ClusterState)
        }
        ("certificates.k8s.io", "CertificateSigningRequest") => Some(SkipReason::ClusterState),
        ("snapshot.storage.k8s.io", "VolumeSnapshot" | "VolumeSnapshotContent")
        | ("groupsnapshot.storage.k8s.io", "VolumeGroupSnapshot" | "VolumeGroupSnapshotContent") => {
            Some(SkipReason::VolumeSnapshot)
        }
        _ => None,
    }
}

fn by_kind(id: &ObjectId, object: &Value) -> Option<SkipReason> {
    let when = |condition: bool, reason| condition.then_some(reason);
    match (id.kind.group.as_str(), id.kind.kind.as_str()) {
        ("", "Pod") => {
            let phase = object.pointer("/status/phase").and_then(Value::as_str);
            // The kubelet's copy of a file on its node.
            let is_mirror = object.pointer("/metadata/annotations/kubernetes.io~1config.mirror").is_some();
            when(is_mirror, SkipReason::ClusterState)
                .or(when(matches!(phase, Some("Succeeded" | "Failed")), SkipReason::Finished))
        }
        ("batch", "Job") => when(is_finished_job(object), SkipReason::Finished),
        ("", "Endpoints") => when(is_controller_made_endpoints(object), SkipReason::Endpoints),
        ("discovery.k8s.io", "EndpointSlice") => {
            let manager = label(object, "endpointslice.kubernetes.io/managed-by");
            when(manager.is_some_and(|manager| manager.ends_with(".k8s.io")), SkipReason::Endpoints)
        }
        ("", "ConfigMap") => when(id.name == "kube-root-ca.crt", SkipReason::PerNamespace),
        ("", "ServiceAccount") => when(is_bare_default_account(id, object), SkipReason::PerNamespace),
        ("", "Secret") => when(is_issued_token(id, object), SkipReason::Token),
        ("rbac.authorization.k8s.io", _) => {
            let bootstrap = label(object, "kubernetes.io/bootstrapping").is_some();
            when(bootstrap || id.name.starts_with("system:"), SkipReason::Machinery)
        }
        ("apiregistration.k8s.io", "APIService") => {
            let managed = label(object, "kube-aggregator.kubernetes.io/automanaged").is_some();
            let local = object.pointer("/spec/service").is_none_or(Value::is_null);
            when(managed || local, SkipReason::Machinery)
        }
        _ => None,
    }
}

fn label<'o>(object: &'o Value, name: &str) -> Option<&'o str> {
    object.pointer("/metadata/labels")?.get(name)?.as_str()
}

/// Whether an object is a Job that is over.
pub(crate) fn is_finished_job(object: &Value) -> bool {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|condition| {
        let text = |field| condition.get(field).and_then(Value::as_str);
        matches!(text("type"), Some("Complete" | "Failed")) && text("status") == Some("True")
    })
}

/// Endpoints that follow a selector carry the time of the last change, at first; they say whose they are since
/// Kubernetes 1.33, and before only by who wrote them. Others are the API server's own.
fn is_controller_made_endpoints(object: &Value) -> bool {
    let annotations = object.pointer("/metadata/annotations").and_then(Value::as_object);
    let managers = object.pointer("/metadata/managedFields").and_then(Value::as_array);
    let is_controller =
        |entry: &Value| entry.get("manager").and_then(Value::as_str) == Some("kube-controller-manager");
    annotations.is_some_and(|map| map.contains_key("endpoints.kubernetes.io/last-change-trigger-time"))
        || label(object, "endpoints.kubernetes.io/managed-by") == Some("endpoint-controller")
        || label(object, "endpointslice.kubernetes.io/skip-mirror") == Some("true")
        || managers.is_some_and(|entries| !entries.is_empty() && entries.iter().all(is_controller))
}

/// A `default` account that says nothing but its name.
fn is_bare_default_account(id: &ObjectId, object: &Value) -> bool {
    let says = |pointer| object.pointer(pointer).is_some_and(|value| !value.is_null());
    id.name == "default"
        && ![
            "/imagePullSecrets",
            "/automountServiceAccountToken",
            "/metadata/annotations",
            "/metadata/labels",
        ]
        .iter()
        .any(|pointer| says(pointer))
}

/// Characters of the end of a generated name.
const GENERATED: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// A token that the cluster made for an account by itself, `<account>-token-<5 characters>`, as it did before
/// Kubernetes 1.24. One that somebody asked for is mounted by the name he gave it: the other cluster fills it anew.
fn is_issued_token(id: &ObjectId, object: &Value) -> bool {
    let account = object.pointer("/metadata/annotations/kubernetes.io~1service-account.name");
    let is_generated = |account: &str| {
        let end = id.name.strip_prefix(account).and_then(|rest| rest.strip_prefix("-token-"));
        end.is_some_and(|end| end.len() == 5 && end.bytes().all(|b| GENERATED.contains(&b)))
    };
    object.get("type").and_then(Value::as_str) == Some("kubernetes.io/service-account-token")
        && object.pointer("/data/token").is_some()
        && account.and_then(Value::as_str).is_some_and(is_generated)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn reason(api: &str, kind: &str, name: &str, rest: Value) -> Option<SkipReason> {
        let mut object =
            json!({"apiVersion": api, "kind": kind, "metadata": {"name": name, "namespace": "shop"}});
        for (field, value) in rest.as_object().unwrap() {
            match field.as_str() {
                "labels" | "annotations" | "ownerReferences" => object["metadata"][field] = value.clone(),
                _ => object[field] = value.clone(),
            }
        }
        let mut owners = Owners::default();
        let web = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "shop"}});
        owners.add(&ObjectId::of(&web).unwrap());
        skip(&ObjectId::of(&object).unwrap(), &object, &owners)
    }

    #[test]
    fn the_list() {
        use SkipReason as R;
        let owner = |name: &str, controller: bool| json!({"ownerReferences": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": name, "controller": controller}]});
        let done = json!({"status": {"conditions": [{"type": "Complete", "status": "True"}]}});
        let token = |data: Value| {
            json!({"type": "kubernetes.io/service-account-token", "data": data,
                "annotations": {"kubernetes.io/service-account.name": "app"}})
        };
        let mirror = json!({"annotations": {"kubernetes.io/config.mirror": "hash"}});
        let no = json!({});
        for (api, kind, name, rest, expected) in [
            ("v1", "Event", "e", no.clone(), Some(R::ClusterState)),
            ("events.k8s.io/v1", "Event", "e", no.clone(), Some(R::ClusterState)),
            ("coordination.k8s.io/v1", "Lease", "l", no.clone(), Some(R::ClusterState)),
            ("v1", "Node", "n", no.clone(), Some(R::ClusterState)),
            ("storage.k8s.io/v1", "VolumeAttachment", "v", no.clone(), Some(R::ClusterState)),
            ("snapshot.storage.k8s.io/v1", "VolumeSnapshot", "v", no.clone(), Some(R::VolumeSnapshot)),
            ("backstay.dev/v1alpha1", "ReplicationPlan", "p", no.clone(), Some(R::Own)),
            ("kustomize.config.k8s.io/v1beta1", "Kustomization", "k", no.clone(), Some(R::ClientSide)),
            ("v1", "Secret", "s", json!({"labels": {"backstay.dev/exclude": ""}}), Some(R::Excluded)),
            ("v1", "Secret", "s", json!({"labels": {"backstay.dev/exclude": "false"}}), None),
            ("v1", "Secret", "s", json!({"labels": {"backstay.dev/waiting": "true"}}), Some(R::Own)),
            ("v1", "Secret", "app-token-x7k2z", token(json!({"token": "t"})), Some(R::Token)),
            ("v1", "Secret", "app-token-x7k2z", token(json!({})), None),
            ("v1", "Secret", "app-token-ci", token(json!({"token": "t"})), None),
            ("v1", "Secret", "app-user-token", token(json!({"token": "t"})), None),
            (
                "groupsnapshot.storage.k8s.io/v1",
                "VolumeGroupSnapshot",
                "g",
                no.clone(),
                Some(R::VolumeSnapshot),
            ),
            ("v1", "Pod", "etcd-node-1", mirror, Some(R::ClusterState)),
            ("apps/v1", "ReplicaSet", "r", owner("web", true), Some(R::Owned)),
            ("v1", "Pod", "p", owner("web", true), Some(R::Owned)),
            ("v1", "Pod", "p", owner("web", false), None),
            ("v1", "Pod", "p", owner("other", true), None),
            ("v1", "Service", "s", owner("web", true), None),
            ("v1", "Pod", "p", json!({"status": {"phase": "Succeeded"}}), Some(R::Finished)),
            ("v1", "Pod", "p", json!({"status": {"phase": "Running"}}), None),
            ("batch/v1", "Job", "j", done, Some(R::Finished)),
            ("v1", "ConfigMap", "kube-root-ca.crt", no.clone(), Some(R::PerNamespace)),
            ("v1", "ServiceAccount", "default", no.clone(), Some(R::PerNamespace)),
            ("v1", "ServiceAccount", "default", json!({"imagePullSecrets": [{"name": "r"}]}), None),
            ("rbac.authorization.k8s.io/v1", "ClusterRole", "system:node", no.clone(), Some(R::Machinery)),
            (
                "rbac.authorization.k8s.io/v1",
                "ClusterRole",
                "admin",
                json!({"labels": {"kubernetes.io/bootstrapping": "x"}}),
                Some(R::Machinery),
            ),
            ("rbac.authorization.k8s.io/v1", "Role", "mine", no.clone(), None),
            ("apiregistration.k8s.io/v1", "APIService", "v1.apps", no.clone(), Some(R::Machinery)),
            (
                "apiregistration.k8s.io/v1",
                "APIService",
                "v1.a.io",
                json!({"spec": {"service": {"name": "s"}}}),
                None,
            ),
            ("v1", "Endpoints", "e", no, None),
            (
                "v1",
                "Endpoints",
                "e",
                json!({"labels": {"endpoints.kubernetes.io/managed-by": "endpoint-controller"}}),
                Some(R::Endpoints),
            ),
        ] {
            assert_eq!(reason(api, kind, name, rest.clone()), expected, "{kind} {name} {rest}");
        }
    }
}
