use std::fs;
use std::path::{Path, PathBuf};

use super::*;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/crds")
}

fn printed() -> Vec<Value> {
    yaml::parse(&all_yaml()).unwrap()
}

/// After a change of a type: `UPDATE_CRDS=1 cargo test -p backstay-kube crds`, or split what `backstay crds` prints.
#[test]
fn the_committed_files_are_current() {
    let files = files();
    if std::env::var_os("UPDATE_CRDS").is_some() {
        fs::create_dir_all(folder()).unwrap();
        files.iter().for_each(|(name, text)| fs::write(folder().join(name), text).unwrap());
    }
    for (name, text) in &files {
        let committed = fs::read_to_string(folder().join(name)).unwrap_or_default();
        assert!(
            committed == *text,
            "config/crds/{name} is not what `backstay crds` prints: run UPDATE_CRDS=1 cargo test -p backstay-kube crds"
        );
    }
    let entries = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = entries.filter(|name| name != "kustomization.yaml").collect();
    names.sort();
    assert_eq!(names, files.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>());
    let installed = fs::read_to_string(folder().join("kustomization.yaml")).unwrap();
    let installed: Vec<_> = installed.lines().filter_map(|line| line.trim().strip_prefix("- ")).collect();
    assert_eq!(installed, names, "kustomize installs all of them");
}

/// `kubectl explain` shows what stands at the type, not what stands at the field.
#[test]
fn the_least_consistency_says_what_a_plan_without_it_keeps() {
    let plans = definitions().into_iter().find(|crd| crd.spec.names.kind == "ReplicationPlan").unwrap();
    let schema = serde_json::to_value(&plans.spec.versions[0].schema).unwrap();
    let field = &schema["openAPIV3Schema"]["properties"]["spec"]["properties"]["minimumConsistency"];
    let told = field["description"].as_str().unwrap();
    assert!(told.contains("made without it") && told.contains("keeps `crash`"), "{told}");
}

#[test]
fn every_kind_is_complete() {
    let scopes: Vec<_> = definitions().into_iter().map(|crd| (crd.spec.names.kind, crd.spec.scope)).collect();
    let expected = [
        ("ClusterPair", "Cluster"),
        ("Failover", "Namespaced"),
        ("ReplicationPlan", "Namespaced"),
        ("RestorePoint", "Namespaced"),
        ("Rule", "Namespaced"),
        ("SchedulePolicy", "Cluster"),
    ];
    assert_eq!(scopes, expected.map(|(kind, scope)| (kind.to_owned(), scope.to_owned())));
    for crd in definitions() {
        let kind = &crd.spec.names.kind;
        assert_eq!(crd.spec.names.categories, Some(vec!["backstay".to_owned()]), "{kind}");
        assert!(crd.spec.names.short_names.is_some_and(|names| !names.is_empty()), "{kind}");
        let version = &crd.spec.versions[0];
        assert_eq!(format!("{}/{}", crd.spec.group, version.name), API_VERSION, "{kind}");
        assert!(version.subresources.as_ref().unwrap().status.is_some(), "{kind}");
        assert!(version.additional_printer_columns.as_ref().unwrap().len() > 1, "{kind}");
    }
}

#[test]
fn a_plan_in_a_cluster_has_the_fields_of_a_plan_without_one() {
    let plan = printed().into_iter().find(|crd| crd["spec"]["names"]["kind"] == "ReplicationPlan").unwrap();
    let spec = &plan["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    let own = serde_json::to_value(schemars::schema_for!(backstay_types::plan::PlanSpec)).unwrap();
    let names = |value: &Value| value["properties"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(spec), names(&own));
    assert_eq!(spec["required"], serde_json::json!(["pair"]));
    let schedule = &spec["properties"]["schedule"];
    assert_eq!(schedule["properties"]["interval"]["pattern"], "^([0-9]+(d|h|m|s|ms))+$");
}

/// The rules of structural schemas: every value has a type outside of `anyOf` and its kin, nothing is a
/// reference, and mappings are open or closed but not both.
#[test]
fn schemas_are_structural() {
    for crd in printed() {
        let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        structural(schema, crd["spec"]["names"]["kind"].as_str().unwrap());
    }
}

fn structural(schema: &Value, at: &str) {
    let typed = schema.get("type").is_some_and(Value::is_string)
        || schema.get("x-kubernetes-int-or-string").is_some();
    assert!(typed, "{at} has one type: {schema}");
    for banned in
        ["$ref", "$defs", "definitions", "oneOf", "const", "unevaluatedProperties", "anyOf", "allOf"]
    {
        assert!(schema.get(banned).is_none(), "{at} has {banned}: {schema}");
    }
    let closed = schema.get("additionalProperties") == Some(&Value::Bool(false));
    assert!(!closed, "{at}: a structural schema prunes and is never closed: {schema}");
    assert!(
        schema.get("properties").is_none() || schema.get("additionalProperties").is_none(),
        "{at}: {schema}"
    );
    if let Some(format) = schema.get("format").and_then(Value::as_str) {
        assert!(["int32", "int64", "date-time", "double"].contains(&format), "{at}: format {format}");
    }
    for (name, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        structural(property, &format!("{at}.{name}"));
    }
    for inner in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get(inner).filter(|inner| inner.is_object()) {
            structural(inner, &format!("{at}[]"));
        }
    }
}
