//! The other kinds of the table: what binds an object to one cluster.

use serde_json::Value;

use super::{remove, remove_annotations, remove_mark};

/// Claims: the claim is bound anew, by name.
pub(super) fn persistent_volume(object: &mut Value) {
    remove(object, "/spec/claimRef", "uid");
    remove(object, "/spec/claimRef", "resourceVersion");
    remove_annotations(object, &["pv.kubernetes.io/bound-by-controller"]);
}

/// Binding state, the node that was picked, and the source the data once came from: the data comes with us.
pub(super) fn claim(object: &mut Value, keep_volume_name: bool) {
    remove_annotations(
        object,
        &[
            "pv.kubernetes.io/bind-completed",
            "pv.kubernetes.io/bound-by-controller",
            "volume.beta.kubernetes.io/storage-provisioner",
            "volume.kubernetes.io/selected-node",
            "volume.kubernetes.io/storage-provisioner",
        ],
    );
    if !keep_volume_name {
        remove(object, "/spec", "volumeName");
    }
    remove(object, "/spec", "dataSource");
    remove(object, "/spec", "dataSourceRef");
}

/// A service-account token is issued anew by the other cluster.
pub(super) fn secret(object: &mut Value) {
    if object.get("type").and_then(Value::as_str) != Some("kubernetes.io/service-account-token") {
        return;
    }
    for field in ["token", "ca.crt", "namespace"] {
        remove(object, "/data", field);
    }
    if object.get("data").and_then(Value::as_object).is_some_and(serde_json::Map::is_empty) {
        remove(object, "", "data");
    }
    remove_annotations(object, &["kubernetes.io/service-account.uid"]);
}

/// Secrets that the token controller listed: `<name>-token-…` and `<name>-dockercfg-…`.
pub(super) fn service_account(object: &mut Value) {
    let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned();
    let generated = |secret: &Value| {
        let secret = secret.get("name").and_then(Value::as_str).unwrap_or_default();
        ["token", "dockercfg"].iter().any(|what| secret.starts_with(&format!("{name}-{what}-")))
    };
    for field in ["secrets", "imagePullSecrets"] {
        let Some(list) = object.get_mut(field).and_then(Value::as_array_mut) else { continue };
        let before = list.len();
        list.retain(|secret| !generated(secret));
        if list.is_empty() && before > 0 {
            remove(object, "", field);
        }
    }
}

/// The server's own finalizer, and the label it keeps equal to the name.
pub(super) fn namespace(object: &mut Value) {
    remove(object, "/spec", "finalizers");
    if object.get("spec").and_then(Value::as_object).is_some_and(serde_json::Map::is_empty) {
        remove(object, "", "spec");
    }
    remove_mark(object, "labels", "kubernetes.io/metadata.name");
}

/// A pod that ran was given a node, which the other cluster does not have; one written by hand may ask for one.
pub(super) fn pod(object: &mut Value) {
    if object.pointer("/metadata/uid").is_some() {
        remove(object, "/spec", "nodeName");
    }
}

/// Counters of the controllers.
pub(super) fn workload(object: &mut Value) {
    remove_annotations(
        object,
        &["deployment.kubernetes.io/revision", "deprecated.daemonset.template.generation"],
    );
}

/// The selector and labels that tie a job to its pods by uid.
pub(super) fn job(object: &mut Value) {
    if object.pointer("/spec/manualSelector").and_then(Value::as_bool) == Some(true) {
        return;
    }
    // A job never has a selector of its own otherwise; the server would refuse it.
    remove(object, "/spec", "selector");
    let generated =
        ["batch.kubernetes.io/controller-uid", "batch.kubernetes.io/job-name", "controller-uid", "job-name"];
    for name in generated {
        remove_mark(object, "labels", name);
        remove(object, "/spec/template/metadata/labels", name);
    }
    for (parent, field) in [("/spec/template/metadata", "labels"), ("/spec/template", "metadata")] {
        let empty = object.pointer(&format!("{parent}/{field}")).and_then(Value::as_object);
        if empty.is_some_and(serde_json::Map::is_empty) {
            remove(object, parent, field);
        }
    }
}

/// Annotations that ask a controller to fill in a certificate authority.
const INJECTORS: [&str; 4] = [
    "cert-manager.io/inject-apiserver-ca",
    "cert-manager.io/inject-ca-from",
    "cert-manager.io/inject-ca-from-secret",
    "service.beta.openshift.io/inject-cabundle",
];

/// A bundle that a controller filled in is filled in again on the other side. One that came with the object
/// stays: nobody would, and its key is in a Secret that replicates too.
pub(super) fn injected_ca(object: &mut Value, configs: &[&str]) {
    let annotations = object.pointer("/metadata/annotations").and_then(Value::as_object);
    if annotations.is_some_and(|annotations| INJECTORS.iter().any(|name| annotations.contains_key(*name))) {
        configs.iter().for_each(|config| drop(remove(object, config, "caBundle")));
    }
}

/// Leaves in a RoleBinding or ClusterRoleBinding only subjects in scope: service accounts of captured namespaces,
/// and users and groups, which belong to no namespace. Answers whether any is left.
pub fn limit_subjects(object: &mut Value, in_scope: impl Fn(&str) -> bool) -> bool {
    let own = object.pointer("/metadata/namespace").and_then(Value::as_str).map(str::to_owned);
    let Some(subjects) = object.get_mut("subjects").and_then(Value::as_array_mut) else { return false };
    subjects.retain(|subject| {
        let is_account = subject.get("kind").and_then(Value::as_str) == Some("ServiceAccount");
        let namespace = subject.get("namespace").and_then(Value::as_str).or(own.as_deref());
        !is_account || namespace.is_some_and(&in_scope)
    });
    !subjects.is_empty()
}
