//! Normalise: take out of an object what one cluster wrote into it, so that it can be applied to another and so
//! that an unchanged object is unchanged bytes.
//!
//! Pure functions on one object. What is needed from its neighbours comes in as options.
//!
//! 1. Normalising twice is normalising once (test `normalising_twice_is_normalising_once`).
//! 2. `spec` of a kind that is not listed here is never touched (test `unlisted_kinds_keep_their_spec`).
//! 3. A held object comes out with its originals: a bundle never carries a standby's zeros (test
//!    `a_held_object_is_captured_as_it_was`).

mod cluster;
mod service;

use serde_json::{Map, Value};

use crate::hold::{self, HoldError};
use crate::{GroupKind, ObjectId};

pub use cluster::limit_subjects;

/// Label on every object Backstay owns: the plan it belongs to.
pub const PLAN_LABEL: &str = "backstay.dev/plan";
/// Annotation on every object Backstay owns: the restore point that last changed it.
pub const RESTORE_POINT_ANNOTATION: &str = "backstay.dev/restore-point";
/// Annotation on every object Backstay wrote in a cluster: the epoch of the plan at which it did.
pub const EPOCH_ANNOTATION: &str = "backstay.dev/epoch";
/// Annotation on every object Backstay applies to a cluster: the hash of what it applied.
pub const APPLIED_ANNOTATION: &str = "backstay.dev/applied";

/// Annotation on a volume whose data was on a cluster before it became a standby: it stays where it is.
pub const HOME_ANNOTATION: &str = "backstay.dev/home";

/// What a capture keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NormaliseOptions {
    /// Keep `status`.
    pub keep_status: bool,
    /// Keep the finalizers of custom resources; those of built-in kinds always go, their controllers add them.
    pub keep_finalizers: bool,
    /// Keep `spec.volumeName` of a claim: its volume is captured too, not provisioned anew.
    pub keep_volume_name: bool,
}

impl Default for NormaliseOptions {
    fn default() -> Self {
        Self { keep_status: false, keep_finalizers: true, keep_volume_name: true }
    }
}

/// Fields of `metadata` that the API server writes.
const SERVER_METADATA: [&str; 8] = [
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "generation",
    "managedFields",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// Normalises an object in place.
pub fn normalise(object: &mut Value, options: NormaliseOptions) -> Result<(), HoldError> {
    let kind = ObjectId::of(object)?.kind;
    hold::release(object)?;
    // First of all, while `managedFields` and `uid` are there to tell what was explicit and what was live.
    by_kind(object, &kind, options);
    if !options.keep_status {
        remove(object, "", "status");
    }
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        for field in SERVER_METADATA {
            metadata.remove(field);
        }
        if kind.is_built_in() || !options.keep_finalizers {
            metadata.remove("finalizers");
        }
        relinkable_owners(metadata);
    }
    unmark(object);
    for field in ["labels", "annotations"] {
        // The API server does not tell an empty mapping from none.
        if object.pointer(&format!("/metadata/{field}")).and_then(Value::as_object).is_some_and(Map::is_empty)
        {
            remove(object, "/metadata", field);
        }
    }
    Ok(())
}

/// Takes our own label and annotations off an object.
pub fn unmark(object: &mut Value) {
    remove_mark(object, "labels", PLAN_LABEL);
    remove_annotations(
        object,
        &[RESTORE_POINT_ANNOTATION, EPOCH_ANNOTATION, APPLIED_ANNOTATION, HOME_ANNOTATION],
    );
}

/// Takes the mark of a volume at home off.
pub(crate) fn unmark_home(object: &mut Value) {
    remove_annotations(object, &[HOME_ANNOTATION]);
}

fn by_kind(object: &mut Value, kind: &GroupKind, options: NormaliseOptions) {
    match (kind.group.as_str(), kind.kind.as_str()) {
        ("", "Service") => service::service(object),
        ("", "PersistentVolume") => cluster::persistent_volume(object),
        ("", "PersistentVolumeClaim") => cluster::claim(object, options.keep_volume_name),
        ("", "Secret") => cluster::secret(object),
        ("", "ServiceAccount") => cluster::service_account(object),
        ("", "Namespace") => cluster::namespace(object),
        ("", "Pod") => cluster::pod(object),
        ("apps", "Deployment" | "StatefulSet" | "DaemonSet") => cluster::workload(object),
        ("batch", "Job") => cluster::job(object),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => {
            cluster::injected_ca(object, &["/spec/conversion/webhook/clientConfig"]);
        }
        ("apiregistration.k8s.io", "APIService") => cluster::injected_ca(object, &["/spec"]),
        (
            "admissionregistration.k8s.io",
            "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration",
        ) => {
            let webhooks = object.get("webhooks").and_then(Value::as_array).map_or(0, Vec::len);
            let configs: Vec<_> = (0..webhooks).map(|at| format!("/webhooks/{at}/clientConfig")).collect();
            cluster::injected_ca(object, &configs.iter().map(String::as_str).collect::<Vec<_>>());
        }
        _ => {}
    }
}

/// A uid means nothing in another cluster: the reference stays by kind and name, to be linked again there.
fn relinkable_owners(metadata: &mut Map<String, Value>) {
    let owners = metadata.get_mut("ownerReferences").and_then(Value::as_array_mut);
    for owner in owners.into_iter().flatten().filter_map(Value::as_object_mut) {
        owner.remove("uid");
    }
}

/// Removes a field of the mapping at `parent`.
fn remove(object: &mut Value, parent: &str, field: &str) -> Option<Value> {
    object.pointer_mut(parent)?.as_object_mut()?.remove(field)
}

/// Removes a label or an annotation, and the mapping with its last one.
fn remove_mark(object: &mut Value, field: &str, name: &str) {
    let parent = format!("/metadata/{field}");
    if remove(object, &parent, name).is_some()
        && object.pointer(&parent).and_then(Value::as_object).is_some_and(Map::is_empty)
    {
        remove(object, "/metadata", field);
    }
}

fn remove_annotations(object: &mut Value, names: &[&str]) {
    names.iter().for_each(|name| remove_mark(object, "annotations", name));
}

#[cfg(test)]
mod tests;
