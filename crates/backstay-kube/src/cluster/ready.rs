//! Ready: which of the workloads that were released do not serve yet.
//!
//! What a workload's own controller says counts, once it has looked at what was released. Jobs are not waited for:
//! they are ready when they are over.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;
use tokio::task::spawn_blocking;

use super::Cluster;
use super::apply::ApplyOptions;
use super::discovery::Resource;
use super::error::{ClusterError, RequestError};
use super::items::Items;
use super::live::Slot;
use super::prepare::{Prepare, Purpose};
use super::request::{JSON, Pager};
use crate::GroupKind;
use crate::folder::CapturedObject;
use crate::normalise::PLAN_LABEL;

/// Group, kind and plural of what is waited for.
const WORKLOADS: [(&str, &str, &str); 6] = [
    ("", "Pod", "pods"),
    ("", "ReplicationController", "replicationcontrollers"),
    ("apps", "DaemonSet", "daemonsets"),
    ("apps", "Deployment", "deployments"),
    ("apps", "ReplicaSet", "replicasets"),
    ("apps", "StatefulSet", "statefulsets"),
];

impl Cluster {
    /// The released workloads of a restore point that are not ready, by their names here and in order, such as
    /// `Deployment.apps shop/web: 1 of 3 replicas ready`. None left means that what was released serves.
    pub async fn not_ready(
        &self,
        objects: &Arc<Vec<CapturedObject>>,
        options: &ApplyOptions<'_>,
    ) -> Result<Vec<String>, ClusterError> {
        let mut prepare = Prepare::new(options, Purpose::Run)?;
        let objects = objects.clone();
        let items = spawn_blocking(move || {
            prepare.learn(&objects);
            Items::of(&prepare, &objects)
        });
        let items = items.await.map_err(|_| ClusterError::Worker { what: "preparing the objects" })?;
        let mut waited = Vec::new();
        for (group, kind, plural) in WORKLOADS {
            let kind = GroupKind::new(group, kind);
            let version = "v1".to_owned();
            let resource = Resource { kind, version, plural: plural.to_owned(), namespaced: true };
            let wanted = items.items.iter().map(|item| &item.slot).filter(|slot| slot.kind == resource.kind);
            let wanted: BTreeSet<&Slot> = wanted.collect();
            let namespaces: BTreeSet<&str> =
                wanted.iter().filter_map(|slot| slot.namespace.as_deref()).collect();
            let mut states = BTreeMap::new();
            for namespace in namespaces {
                let error = |error: RequestError| error.fatal(format!("list {plural} of the standby"));
                states.extend(self.states(&resource, namespace, options).await.map_err(error)?);
            }
            waited.extend(wanted.into_iter().filter_map(|slot| {
                let state = states.get(slot).cloned().unwrap_or_else(|| Some("it is not there".to_owned()));
                state.map(|why| format!("{slot}: {why}"))
            }));
        }
        waited.sort_unstable();
        Ok(waited)
    }

    /// What each workload of ours still lacks; nothing if it is ready.
    async fn states(
        &self,
        resource: &Resource,
        namespace: &str,
        options: &ApplyOptions<'_>,
    ) -> Result<BTreeMap<Slot, Option<String>>, RequestError> {
        let selector = format!("{PLAN_LABEL}={}", options.plan);
        let pager = Pager::new(resource.path(Some(namespace)), Some(&selector), JSON);
        let state = |object: Value| {
            let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
            let slot = Slot {
                kind: resource.kind.clone(),
                namespace: Some(namespace.to_owned()),
                name: name.to_owned(),
            };
            (slot, lacks(&resource.kind, &object))
        };
        Ok(self.list(pager).await?.into_iter().map(state).collect())
    }
}

/// What a workload lacks to be ready.
fn lacks(kind: &GroupKind, object: &Value) -> Option<String> {
    let number = |pointer: &str| object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    if kind.kind == "Pod" {
        return pod_lacks(object);
    }
    if number("/status/observedGeneration") < number("/metadata/generation") {
        return Some("its controller has not looked at it yet".to_owned());
    }
    let (wanted, ready, what) = match kind.kind.as_str() {
        "DaemonSet" => (number("/status/desiredNumberScheduled"), number("/status/numberReady"), "pods"),
        "Deployment" => {
            let ready = number("/status/readyReplicas").min(number("/status/updatedReplicas"));
            (number("/spec/replicas"), ready, "replicas")
        }
        _ => (number("/spec/replicas"), number("/status/readyReplicas"), "replicas"),
    };
    (ready < wanted).then(|| format!("{ready} of {wanted} {what} ready"))
}

fn pod_lacks(pod: &Value) -> Option<String> {
    let phase = pod.pointer("/status/phase").and_then(Value::as_str).unwrap_or("Pending");
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    let is_ready = conditions.into_iter().flatten().any(|condition| {
        let text = |field| condition.get(field).and_then(Value::as_str);
        text("type") == Some("Ready") && text("status") == Some("True")
    });
    (!is_ready && phase != "Succeeded").then(|| format!("{phase} and not ready"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_workload_is_ready_once_its_controller_says_so() {
        let state = |kind: &str, generation: i64, status: Value| {
            let object =
                json!({"metadata": {"generation": generation}, "spec": {"replicas": 3}, "status": status});
            lacks(&GroupKind::new("apps", kind), &object)
        };
        let seen = |ready: i64, updated: i64| json!({"observedGeneration": 2, "readyReplicas": ready, "updatedReplicas": updated});
        assert_eq!(state("Deployment", 2, seen(1, 3)).as_deref(), Some("1 of 3 replicas ready"));
        assert_eq!(state("Deployment", 2, seen(3, 2)).as_deref(), Some("2 of 3 replicas ready"));
        assert_eq!(state("Deployment", 2, seen(3, 3)), None);
        assert_eq!(
            state("Deployment", 3, seen(3, 3)).as_deref(),
            Some("its controller has not looked at it yet")
        );
        // A set that updates on deletion has old pods, which serve.
        assert_eq!(state("StatefulSet", 2, seen(3, 0)), None);
        let nodes = json!({"observedGeneration": 2, "desiredNumberScheduled": 2, "numberReady": 1});
        assert_eq!(state("DaemonSet", 2, nodes).as_deref(), Some("1 of 2 pods ready"));
        let pod = |phase: &str, ready: &str| {
            lacks(
                &GroupKind::new("", "Pod"),
                &json!({"status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]}}),
            )
        };
        assert_eq!(pod("Running", "False").as_deref(), Some("Running and not ready"));
        assert_eq!(pod("Running", "True"), None);
        assert_eq!(pod("Succeeded", "False"), None);
    }
}
