//! The custom resources, `backstay.dev/v1alpha1`.
//!
//! Specs that are also read without a cluster are those of `backstay-types`, wrapped and not repeated: a field
//! is declared once, documented once, and checked by one schema. [`all_yaml`] is what `backstay crds` prints;
//! `config/crds/` holds the same text, one file per kind (test `the_committed_files_are_current`).
#![expect(clippy::duplicated_attributes, reason = "every printer column has a type and a path")]

mod action;
mod pair;
mod plan;
mod point;
mod rule;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::core::CustomResourceExt;
use serde_json::Value;

pub use action::{Failover, FailoverAction, FailoverSpec, FailoverStatus, FailoverStep};
pub use pair::{ClusterPair, ClusterPairSpec, ClusterPairStatus};
pub use plan::{
    CycleProgress, PlanStatus, ReplicationPlan, ReplicationPlanSpec, SchedulePolicy, SchedulePolicySpec,
    SchedulePolicyStatus,
};
pub use point::{RestorePoint, RestorePointSpec, RestorePointStatus};
pub use rule::{Rule, RuleSpec, RuleStatus};

use crate::yaml;

/// API group of every kind.
pub const GROUP: &str = "backstay.dev";
/// Group and version, as `apiVersion` has it.
pub const API_VERSION: &str = "backstay.dev/v1alpha1";

/// The definitions, in order of name.
pub fn definitions() -> Vec<CustomResourceDefinition> {
    vec![
        ClusterPair::crd(),
        Failover::crd(),
        ReplicationPlan::crd(),
        RestorePoint::crd(),
        Rule::crd(),
        SchedulePolicy::crd(),
    ]
}

/// The definitions as YAML, each with the name of its file in `config/crds/`.
pub fn files() -> Vec<(String, String)> {
    definitions().iter().map(|definition| (file_name(definition), text(definition))).collect()
}

/// All definitions as one YAML text.
pub fn all_yaml() -> String {
    definitions().iter().map(|definition| format!("---\n{}", text(definition))).collect()
}

fn file_name(definition: &CustomResourceDefinition) -> String {
    format!("{}.yaml", definition.spec.names.plural)
}

fn text(definition: &CustomResourceDefinition) -> String {
    let mut value = serde_json::to_value(definition).expect("a definition is JSON");
    known_formats(&mut value);
    yaml::emit(&value).expect("a definition is YAML")
}

/// What is derived, in the words of the API server: formats of unsigned integers are unknown to it (the bounds say
/// it already), and bounds of integers are integers.
fn known_formats(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            let format = match map.get("format").and_then(Value::as_str) {
                Some("uint8" | "uint16") => Some("int32"),
                Some("uint32" | "uint64" | "uint") => Some("int64"),
                _ => None,
            };
            if let Some(format) = format {
                map.insert("format".to_owned(), Value::String(format.to_owned()));
            }
            for bound in ["minimum", "maximum"] {
                let whole = map.get(bound).and_then(Value::as_number).and_then(whole);
                if let Some(whole) = whole {
                    map.insert(bound.to_owned(), whole);
                }
            }
            map.values_mut().for_each(known_formats);
        }
        Value::Array(items) => items.iter_mut().for_each(known_formats),
        _ => {}
    }
}

/// A number without its empty fraction.
fn whole(number: &serde_json::Number) -> Option<Value> {
    number.to_string().strip_suffix(".0")?.parse::<i64>().ok().map(Value::from)
}

#[cfg(test)]
mod tests;
