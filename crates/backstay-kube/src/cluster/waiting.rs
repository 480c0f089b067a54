//! Waiting: objects that cannot be held and were deleted when their cluster stood still, each kept in a Secret.
//!
//! Such a record is written before its object is deleted, so that at any moment a capture finds the one or the other
//! (or both: then the object counts). It goes when a release has created the object again, and with the first restore
//! point that comes from the other side, which knows better. A Secret, because a pod may have one in its environment.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::Method;
use k8s_openapi::ByteString;
use serde_json::{Value, json};

use super::FIELD_MANAGER;
use super::error::ClusterError;
use super::fault::Fault;
use super::live::Slot;
use super::request::{Ask, METADATA};
use super::write::{APPLY_PATCH, WRITES_MAX, WriteError, Writer, parallel};
use crate::GroupKind;
use crate::normalise::PLAN_LABEL;
use crate::object::CLUSTER_SCOPE;
use crate::skip::WAITING_LABEL;

/// The entry of the Secret with the object, as canonical JSON.
const ENTRY: &str = "object";
/// Type of the Secret.
const TYPE: &str = "backstay.dev/waiting";
/// Characters of the hash in a record's name: 64 bits, among the few records of one namespace.
const HASH_CHARS: usize = 16;

/// The object that a record keeps.
pub(super) fn kept(record: &Value) -> Option<Value> {
    let data = record.pointer("/data")?.get(ENTRY)?;
    let ByteString(bytes) = serde_json::from_value(data.clone()).ok()?;
    serde_json::from_slice(&bytes).ok()
}

impl Writer {
    /// Keeps a captured object in a record.
    pub(super) async fn keep_waiting(&self, slot: &Slot, index: usize) -> Result<(), WriteError> {
        let object = self.objects.get(index).ok_or(Fault::Json)?;
        let kind = GroupKind::new("", "Secret");
        let resource = self.served.versions(&kind).first().ok_or(Fault::NoKind { kind: kind.clone() })?;
        let namespace = slot.namespace.clone().or_else(|| self.any_namespace()).ok_or(Fault::NoNamespace)?;
        let hash = blake3::hash(slot.to_string().as_bytes()).to_hex();
        let name = format!("backstay-waiting-{}", hash.chars().take(HASH_CHARS).collect::<String>());
        let record = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": name,
                "namespace": namespace,
                "labels": {PLAN_LABEL: self.prepare.plan().as_str(), WAITING_LABEL: "true"},
                "annotations": self.prepare.stamps().into_iter().collect::<BTreeMap<_, _>>(),
            },
            "type": TYPE,
            "data": {ENTRY: ByteString(object.bytes.clone())},
        });
        let path = resource.object_path(Some(&namespace), &name);
        let ask = Ask {
            method: Method::PATCH,
            path: format!("{path}?fieldManager={FIELD_MANAGER}&force=true"),
            accept: METADATA,
            content_type: Some(APPLY_PATCH),
            body: record.to_string().into_bytes(),
        };
        let slot = Slot { kind, namespace: Some(namespace), name };
        self.cluster.ask(&ask).await.map(drop).map_err(|error| self.failed(&slot, error))
    }

    /// The first namespace of the capture: a place for what has none.
    fn any_namespace(&self) -> Option<String> {
        let scope = |key: &backstay_types::manifest::RelPath| {
            key.components().next().map(|scope| String::from_utf8_lossy(scope).into_owned())
        };
        let scopes = self.objects.iter().filter_map(|object| scope(&object.key));
        scopes.filter(|scope| scope != CLUSTER_SCOPE).min()
    }

    /// Deletes the records of the plan, once everything that waited is there.
    pub(super) async fn forget_waiting(self: &Arc<Self>) -> Result<(), ClusterError> {
        if self.tally().failures.count > 0 {
            return Ok(());
        }
        let plan = self.prepare.plan().as_str();
        let records = self.live.objects.iter().filter(|(_, live)| live.waits && live.ours && !live.deleting);
        let records = records.filter(|(_, live)| live.plan.as_deref() == Some(plan));
        let records = records.map(|(slot, live)| (slot.clone(), live.uid.clone())).collect();
        let writer = self.clone();
        parallel(records, WRITES_MAX, move |(slot, uid)| {
            let writer = writer.clone();
            async move { writer.remove(slot, uid).await }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_record_keeps_is_found_again() {
        let object = json!({"kind": "Pod", "spec": {"env": "\u{e9}"}});
        let bytes = ByteString(object.to_string().into_bytes());
        assert_eq!(kept(&json!({"data": {ENTRY: bytes}})), Some(object));
        for damaged in [json!({}), json!({"data": {ENTRY: "!"}}), json!({"data": {ENTRY: "eA=="}})] {
            assert_eq!(kept(&damaged), None, "{damaged}");
        }
    }
}
