//! Waves of a promotion: what is released before what. Data first, then what uses it, then what drives it, last
//! what stands in the way of others.
//!
//! A number in the annotation `backstay.dev/promote-wave` goes before the default of the kind.

use std::fmt;

use serde_json::Value;

use crate::failure::Failures;
use crate::hold::{self, HoldTable};
use crate::{GroupKind, ObjectId};

/// Annotation that puts an object in a wave of its own choice.
pub const WAVE_ANNOTATION: &str = "backstay.dev/promote-wave";

/// Configuration, services, and all else that runs nothing.
pub const WAVE_PASSIVE: i32 = 0;
/// Stateful sets and the custom resources of operators: databases, brokers.
pub const WAVE_DATA: i32 = 10;
/// Deployments and the like, bare pods.
pub const WAVE_WORKLOADS: i32 = 20;
/// Jobs and schedules of jobs.
pub const WAVE_JOBS: i32 = 30;
/// Autoscalers, once there are replicas to look at.
pub const WAVE_AUTOSCALERS: i32 = 40;
/// Aggregated APIs and webhooks: with their backends not up yet they would refuse everything.
pub const WAVE_HOOKS: i32 = 50;

/// What a release will do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReleasePlan {
    /// Lowest first.
    pub waves: Vec<Wave>,
    /// What an operator should know and nothing failed for.
    pub warnings: Vec<String>,
    /// Objects that cannot be prepared, and would not be released.
    pub failures: Failures,
}

/// Objects that are released together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wave {
    /// Its number.
    pub number: i32,
    /// Its objects, such as `Deployment.apps shop/web`, or their keys in a folder.
    pub objects: Vec<String>,
}

/// `wave 10: 2 objects (StatefulSet.apps shop/db, …)`.
impl fmt::Display for Wave {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Wave { number, objects } = self;
        let first: Vec<_> = objects.iter().take(3).map(String::as_str).collect();
        let more = if objects.len() > first.len() { ", …" } else { "" };
        write!(f, "wave {number}: {} objects ({}{more})", objects.len(), first.join(", "))
    }
}

/// The wave an object is released in. An annotation that is not a number counts as none; [`bad_wave`] tells.
pub fn wave(id: &ObjectId, object: &Value) -> i32 {
    annotation(object).and_then(|text| text.parse().ok()).unwrap_or_else(|| by_kind(id, object))
}

/// The text of a wave annotation that is not a number.
pub fn bad_wave(object: &Value) -> Option<&str> {
    annotation(object).filter(|text| text.parse::<i32>().is_err())
}

fn annotation(object: &Value) -> Option<&str> {
    object.pointer("/metadata/annotations")?.get(WAVE_ANNOTATION)?.as_str()
}

fn by_kind(id: &ObjectId, object: &Value) -> i32 {
    let GroupKind { group, kind } = &id.kind;
    match (group.as_str(), kind.as_str()) {
        ("admissionregistration.k8s.io" | "apiregistration.k8s.io", _) => WAVE_HOOKS,
        ("autoscaling" | "keda.sh", _) => WAVE_AUTOSCALERS,
        ("batch", _) => WAVE_JOBS,
        ("apps" | "apps.kruise.io", "StatefulSet") => WAVE_DATA,
        ("", "Pod" | "ReplicationController") => WAVE_WORKLOADS,
        ("apps" | "extensions", "DaemonSet" | "Deployment" | "ReplicaSet") => WAVE_WORKLOADS,
        ("apps.kruise.io" | "apps.openshift.io" | "argoproj.io", _) => WAVE_WORKLOADS,
        // What keeps a volume from being reclaimed runs nothing.
        ("", "PersistentVolume") => WAVE_PASSIVE,
        // Custom resources that are held, by whichever rule, or that wait.
        _ if hold::is_held(object) || HoldTable::has_rule(&id.kind) => WAVE_DATA,
        _ => WAVE_PASSIVE,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use serde_json::json;

    use super::*;

    #[test]
    fn data_goes_first_and_hooks_last_unless_told_otherwise() {
        let wave_of = |api: &str, kind: &str, annotation: Option<&str>| {
            let annotations = annotation.map(|text| json!({WAVE_ANNOTATION: text}));
            let object = json!({"apiVersion": api, "kind": kind, "metadata": {"name": "x", "annotations": annotations}});
            wave(&ObjectId::of(&object).unwrap(), &object)
        };
        let order = [
            ("v1", "ConfigMap"),
            ("postgresql.cnpg.io/v1", "Cluster"),
            ("apps/v1", "Deployment"),
            ("batch/v1", "CronJob"),
            ("autoscaling/v2", "HorizontalPodAutoscaler"),
            ("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration"),
        ];
        let waves: Vec<i32> = order.iter().map(|(api, kind)| wave_of(api, kind, None)).collect();
        assert!(waves.is_sorted_by(|a, b| a < b), "{waves:?}");
        assert_eq!(wave_of("apps/v1", "StatefulSet", None), WAVE_DATA);
        assert_eq!(wave_of("apps/v1", "Deployment", Some("-5")), -5);
        assert_eq!(wave_of("apps/v1", "Deployment", Some("soon")), WAVE_WORKLOADS);
    }
}
