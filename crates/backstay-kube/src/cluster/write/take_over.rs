//! Taking over: an object that others made and that stood still is ours from the first restore point that changes it.
//!
//! A server-side apply takes away only what no other manager holds. So the fields that others hold become ours first,
//! but for those that are not the application's: status, what Kubernetes itself keeps there, and what belongs to one
//! cluster. From then on the object is what is applied, and a field that is gone at the source is gone here.
//!
//! At a crash in between the object is as it was, and the next run applies it.

use http::Method;
use serde_json::{Value, json};

use super::{CONFLICTS_MAX, WriteError, Writer, is_kept};
use crate::cluster::FIELD_MANAGER;
use crate::cluster::discovery::Resource;
use crate::cluster::drift::{is_component, united};
use crate::cluster::live::Slot;
use crate::cluster::request::{Ask, METADATA};

const JSON_PATCH: &str = "application/json-patch+json";

/// Fields that stay whose they are: what normalising takes off an object, since it is of one cluster.
const OF_THE_CLUSTER: [&str; 7] = [
    "/f:metadata/f:finalizers",
    "/f:metadata/f:ownerReferences",
    "/f:spec/f:clusterIP",
    "/f:spec/f:clusterIPs",
    "/f:spec/f:healthCheckNodePort",
    "/f:spec/f:loadBalancerIP",
    "/f:status",
];

impl Writer {
    /// Takes an object over.
    pub(super) async fn take_over(&self, slot: &Slot, resource: &Resource) -> Result<(), WriteError> {
        let path = resource.object_path(slot.namespace.as_deref(), &slot.name);
        let mut conflicts = 0;
        loop {
            let object: Value = match self.cluster.ask_for(&Ask::get(path.clone(), METADATA)).await {
                Ok(object) => object,
                // It is created anew.
                Err(error) if error.is_not_found() => return Ok(()),
                Err(error) => return Err(self.failed(slot, error)),
            };
            let entries = object.pointer("/metadata/managedFields").and_then(Value::as_array);
            let entries =
                taken_over(entries.map_or(&[], Vec::as_slice), &resource.api_version(), is_kept(slot));
            let version = object.pointer("/metadata/resourceVersion").cloned().unwrap_or_default();
            let patch = json!([
                {"op": "replace", "path": "/metadata/managedFields", "value": entries},
                {"op": "replace", "path": "/metadata/resourceVersion", "value": version},
            ]);
            let ask = Ask {
                method: Method::PATCH,
                path: format!("{path}?fieldManager={FIELD_MANAGER}"),
                accept: METADATA,
                content_type: Some(JSON_PATCH),
                body: patch.to_string().into_bytes(),
            };
            match self.cluster.ask(&ask).await {
                Ok(_) => return Ok(()),
                Err(error) if error.is_conflict() && conflicts < CONFLICTS_MAX => conflicts += 1,
                Err(error) => return Err(self.failed(slot, error)),
            }
        }
    }
}

/// Who holds which field afterwards. Of an object with data only what we wrote is ours: the API server keeps the
/// rest as it is.
fn taken_over(entries: &[Value], api_version: &str, only_ours: bool) -> Vec<Value> {
    let text =
        |entry: &Value, field: &str| entry.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let becomes_ours = |entry: &&Value| {
        let manager = text(entry, "manager");
        let is_ours = manager == FIELD_MANAGER;
        let is_applications = matches!(text(entry, "subresource").as_str(), "" | "scale")
            && text(entry, "apiVersion") == api_version
            && !is_component(&manager);
        is_ours || is_applications && !only_ours
    };
    let (ours, theirs): (Vec<_>, Vec<_>) = entries.iter().partition(becomes_ours);
    let fields = |entry: &Value| entry.get("fieldsV1").cloned().unwrap_or_else(|| json!({}));
    let mut all = ours.iter().map(|entry| fields(entry)).reduce(united).unwrap_or_else(|| json!({}));
    for place in OF_THE_CLUSTER {
        let Some((parent, name)) = place.rsplit_once('/') else { continue };
        if let Some(parent) = all.pointer_mut(parent).and_then(Value::as_object_mut) {
            parent.remove(name);
        }
    }
    let time = ours.iter().map(|entry| text(entry, "time")).max();
    let own = json!({"manager": FIELD_MANAGER, "operation": "Apply", "apiVersion": api_version, "time": time,
        "fieldsType": "FieldsV1", "fieldsV1": all});
    theirs.into_iter().cloned().chain([own]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(manager: &str, operation: &str, subresource: &str, fields: Value) -> Value {
        json!({"manager": manager, "operation": operation, "apiVersion": "apps/v1", "subresource": subresource,
            "time": "2026-01-01T00:00:00Z", "fieldsType": "FieldsV1", "fieldsV1": fields})
    }

    #[test]
    fn what_is_the_application_s_becomes_ours() {
        let entries = [
            entry(
                "helm",
                "Update",
                "",
                json!({"f:spec": {"f:template": {"f:a": {}}, "f:loadBalancerIP": {}}, "f:status": {}}),
            ),
            entry("backstay", "Update", "", json!({"f:spec": {"f:replicas": {}}})),
            entry(
                "kube-controller-manager",
                "Update",
                "",
                json!({"f:metadata": {"f:annotations": {"f:r": {}}}}),
            ),
            entry("operator", "Update", "status", json!({"f:status": {"f:x": {}}})),
        ];
        let after = taken_over(&entries, "apps/v1", false);
        let managers: Vec<_> = after.iter().map(|entry| entry["manager"].as_str().unwrap()).collect();
        assert_eq!(managers, ["kube-controller-manager", "operator", "backstay"]);
        assert_eq!(after[2]["operation"], "Apply");
        assert_eq!(after[2]["fieldsV1"], json!({"f:spec": {"f:template": {"f:a": {}}, "f:replicas": {}}}));

        let after = taken_over(&entries, "apps/v1", true);
        assert_eq!(after.len(), 4);
        assert_eq!(after[3]["fieldsV1"], json!({"f:spec": {"f:replicas": {}}}));
    }
}
