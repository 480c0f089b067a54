use std::path::Path;

use backstay_types::Span;
use backstay_types::plan::SnapshotKind;

use super::*;

const SHOP: &str = "\
apiVersion: backstay.dev/v1alpha1
kind: ReplicationPlan
metadata: {name: shop}
spec:
  pair: west
  schedule: {interval: 15m}
  retention: {last: 10, daily: 7}
  rpoTarget: 20m
  volumes:
    - {name: data, path: /srv/shop/data}
    - {name: disk0, device: /var/lib/vm/disk0.img}
  manifests: {path: /srv/shop/k8s}
";

fn error(text: &str) -> String {
    let error = parse("shop.yaml", text).unwrap_err();
    assert_eq!(error.class(), Class::Invalid);
    error.to_string()
}

/// The error of the sample plan with one text replaced.
fn error_with(from: &str, to: &str) -> String {
    assert!(SHOP.contains(from), "{from}");
    error(&SHOP.replace(from, to))
}

#[test]
fn the_sample_of_the_manual_is_read() {
    let documents = parse("shop.yaml", SHOP).unwrap();
    let [Document::Plan { name, spec, .. }] = documents.as_slice() else { panic!("{documents:?}") };
    assert_eq!(name.as_str(), "shop");
    assert_eq!(spec.pair, "west");
    assert_eq!(spec.schedule.as_ref().unwrap().interval, Some(Span::from_secs(900)));
    assert_eq!((spec.retention.last, spec.retention.daily), (10, 7));
    assert_eq!(spec.volumes[1].device.as_deref(), Some(Path::new("/var/lib/vm/disk0.img")));
    assert_eq!(spec.volumes[0].snapshot.provider, SnapshotKind::Auto);
}

#[test]
fn several_documents_are_read_and_told_apart() {
    let policy = "apiVersion: backstay.dev/v1alpha1\nkind: SchedulePolicy\nmetadata: {name: hourly}\nspec: {interval: 1h, retain: {last: 3}}\n";
    let documents = parse("all.yaml", &format!("---\n{policy}---\n# empty\n---\n{SHOP}")).unwrap();
    assert_eq!(documents.iter().map(Document::name).collect::<Vec<_>>(), ["hourly", "shop"]);
    let Document::SchedulePolicy { spec, .. } = &documents[0] else { panic!("{documents:?}") };
    assert_eq!((spec.schedule.interval, spec.retain.unwrap().last), (Some(Span::from_secs(3600)), 3));
    let twice = error(&format!("{SHOP}---\n{policy}---\n{SHOP}"));
    assert_eq!(twice, "read shop.yaml, document 3, line 19: ReplicationPlan shop is document 1 already");
    let unknown = policy.replace("retain", "retane");
    assert_eq!(
        error(&unknown),
        "read shop.yaml, document 1, line 4: unknown field `retane` in spec, did you mean `retain`?"
    );
}

#[test]
fn a_text_without_documents_is_an_error() {
    for text in ["", "\n\n", "# only a comment\n", "---\n", "---\n# a comment\n---\n"] {
        let error = parse("shop.yaml", text).expect_err(text);
        assert_eq!(error.to_string(), "read shop.yaml: it holds no documents");
        assert!(error.class() == Class::Invalid && error.hint().is_some());
    }
}

#[test]
fn an_unknown_field_is_named() {
    for (from, to, expected) in [
        (
            "interval",
            "intervall",
            "line 6: unknown field `intervall` in spec.schedule, did you mean `interval`?",
        ),
        (
            "pair: west",
            "pair: west\n  scedule: {}",
            "line 6: unknown field `scedule` in spec, did you mean `schedule`?",
        ),
        ("rpoTarget", "rpo_target", "line 8: unknown field `rpo_target` in spec, did you mean `rpoTarget`?"),
        (
            "path: /srv/shop/data",
            "pth: /srv",
            "line 10: unknown field `pth` in spec.volumes[0], did you mean `path`?",
        ),
        ("pair: west", "pair: west\n  zzzzzzzz: 1", "line 6: unknown field `zzzzzzzz` in spec"),
        (
            "{name: shop}",
            "{name: shop, lables: {}}",
            "line 3: unknown field `lables` in metadata, did you mean `labels`?",
        ),
        (
            "spec:\n",
            "spce: {}\nspec:\n",
            "line 4: unknown field `spce` in the document, did you mean `spec`?",
        ),
    ] {
        assert_eq!(error_with(from, to), format!("read shop.yaml, document 1, {expected}"));
    }
}

#[test]
fn wrong_types_say_what_was_expected() {
    for (from, to, expected) in [
        ("pair: west", "pair: 3", "line 5: spec.pair: expected text, found 3"),
        ("pair: west", "pair:", "line 5: spec.pair: expected text, found nothing"),
        ("  pair: west\n", "", "line 5: missing field `pair` in spec"),
        ("last: 10", "last: ten", "line 7: spec.retention.last: expected a whole number, found \"ten\""),
        ("last: 10", "last: -1", "line 7: spec.retention.last: expected at least 0, found -1"),
        ("last: 10", "last: 1.5", "line 7: spec.retention.last: expected a whole number, found 1.5"),
        ("{path: /srv/shop/k8s}", "/srv", "line 12: spec.manifests: expected a mapping, found \"/srv\""),
        ("{interval: 15m}", "[15m]", "line 6: spec.schedule: expected a mapping, found a list"),
        (
            "interval: 15m",
            "interval: 15",
            "line 6: spec.schedule.interval: expected a duration such as 15m, found 15",
        ),
        (
            "interval: 15m",
            "interval: 15 min",
            "line 6: spec.schedule.interval: duration \"15 min\": expected a form like 15m, 1h30m, 90s or 2d",
        ),
        (
            "name: data",
            "name: Data",
            "line 10: spec.volumes[0].name: name \"Data\": expected 1 to 63 characters of a-z, 0-9 and '-', not at either end",
        ),
        (
            "{name: shop}",
            "{name: Shop}",
            "line 3: metadata.name: name \"Shop\": expected 1 to 63 characters of a-z, 0-9 and '-', not at either end",
        ),
        (
            "/data}",
            "/data, snapshot: {provider: reflnk}}",
            "line 10: spec.volumes[0].snapshot.provider: expected one of auto, none, reflink, btrfs, command, found \"reflnk\", did you mean `reflink`?",
        ),
        ("v1alpha1", "v1", "line 1: apiVersion: expected backstay.dev/v1alpha1, found backstay.dev/v1"),
        (
            "kind: ReplicationPlan",
            "kind: ReplicationPlans",
            "line 2: kind: expected ReplicationPlan, SchedulePolicy or Rule, found ReplicationPlans, did you mean `ReplicationPlan`?",
        ),
        ("kind: ReplicationPlan\n", "", "line 1: missing field `kind` in the document"),
    ] {
        assert_eq!(error_with(from, to), format!("read shop.yaml, document 1, {expected}"));
    }
    assert_eq!(
        error("- 1\n"),
        "read shop.yaml, document 1, line 1: the document: expected a mapping, found a list"
    );
    assert!(error("a: [\n").starts_with("read shop.yaml, line "));
    assert!(error("a: 1\na: 2\n").contains("duplicate"), "{}", error("a: 1\na: 2\n"));
}

#[test]
fn contradictions_are_found_at_their_line() {
    for (from, to, expected) in [
        ("name: disk0", "name: data", "line 11: spec: two volumes are named data"),
        (
            ", path: /srv/shop/data",
            "",
            "line 10: spec: volume data: expected exactly one of `path` and `device`",
        ),
        (
            "path: /srv/shop/data",
            "path: data",
            "line 5: spec: volume data: `path`: expected an absolute path, found \"data\"",
        ),
        (
            "rpoTarget: 20m",
            "schedulePolicy: hourly",
            "line 5: spec: expected at most one of `schedule` and `schedulePolicy`",
        ),
        (
            "rpoTarget: 20m",
            "holds: [{kind: X, path: spec, heldValue: '0'}]",
            "line 8: spec.holds for X: `path` \"spec\": expected a JSON pointer such as /spec/replicas",
        ),
    ] {
        assert_eq!(error_with(from, to), format!("read shop.yaml, document 1, {expected}"));
    }
}

#[test]
fn a_huge_text_is_refused_before_it_is_parsed() {
    let error = parse("shop.yaml", &" ".repeat(limits::PLAN_BYTES_MAX + 1)).unwrap_err();
    assert_eq!(error.class(), Class::LimitExceeded);
}

#[test]
fn what_a_cluster_prints_can_be_applied() {
    let printed = SHOP.replace(
        "{name: shop}",
        "{name: shop, namespace: a, uid: x, generation: 2, creationTimestamp: \"2026-01-01T00:00:00Z\"}",
    );
    assert_eq!(
        parse("a", &format!("{printed}status: {{phase: Idle}}\n")).unwrap(),
        parse("a", SHOP).unwrap()
    );
}

fn sample(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/samples").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn every_sample_is_read() {
    assert_eq!(parse("shop.yaml", &sample("shop.yaml")).unwrap(), parse("shop.yaml", SHOP).unwrap());
    let policies = parse("schedule-policy.yaml", &sample("schedule-policy.yaml")).unwrap();
    assert_eq!(policies.iter().map(Document::name).collect::<Vec<_>>(), ["business-hours", "nightly"]);
    for name in ["full.yaml", "cluster.yaml"] {
        assert_eq!(parse(name, &sample(name)).unwrap().len(), 1, "{name}");
    }
}

#[test]
fn the_samples_have_every_field() {
    let cluster = yaml::parse::<Value>(&sample("cluster.yaml")).unwrap().remove(0);
    let full = yaml::parse::<Value>(&sample("full.yaml")).unwrap().remove(0);
    let schema = schema_of::<PlanSpec>();
    let names =
        |schema: &Value| schema["properties"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let has = |value: &Value, name: &str| !value[name].is_null();
    for name in names(&schema) {
        // What it cannot have beside `schedule`, and beside `minimumConsistency`.
        assert!(
            ["schedulePolicy", "allowFuzzy"].contains(&name.as_str())
                || has(&full["spec"], &name)
                || has(&cluster["spec"], &name),
            "neither config/samples/full.yaml nor cluster.yaml has {name}"
        );
    }
    let schedule = schema_of::<backstay_types::plan::Schedule>();
    names(&schedule).iter().for_each(|name| assert!(has(&full["spec"]["schedule"], name), "{name}"));
}

#[test]
fn a_transform_that_cannot_be_used_is_refused_with_its_line() {
    let text = "apiVersion: backstay.dev/v1alpha1\nkind: ReplicationPlan\nmetadata: {name: shop}\nspec:\n  pair: west\n  namespaces: [shop]\n  transforms:\n    - {kind: Service, jsonPatch: '{a: 1}'}\n";
    let error = parse("plan.yaml", text).unwrap_err();
    assert!(
        error.to_string().starts_with("read plan.yaml, document 1, line 8: spec.transforms[0].jsonPatch: "),
        "{error}"
    );
    assert!(error.hint().is_some());
}

#[test]
fn a_rule_is_read_and_checked() {
    let text = "apiVersion: backstay.dev/v1alpha1\nkind: Rule\nmetadata: {name: quiet}\nspec:\n  rules:\n  - podSelector: {app: db}\n    actions:\n    - {value: sync, timeout: 10s, onError: Continue}\n";
    let documents = parse("rule.yaml", text).unwrap();
    let [Document::Rule { name, spec }] = documents.as_slice() else { panic!("{documents:?}") };
    assert_eq!((name.as_str(), documents[0].kind()), ("quiet", "Rule"));
    assert_eq!(spec.rules[0].actions[0].timeout(), Span::from_secs(10));
    for (from, to, expected) in [
        (
            "onError: Continue",
            "onError: Ignore",
            "line 8: spec.rules[0].actions[0].onError: expected one of Fail, Continue, found \"Ignore\"",
        ),
        (
            "timeout",
            "timout",
            "line 8: unknown field `timout` in spec.rules[0].actions[0], did you mean `timeout`?",
        ),
        ("{app: db}", "{}", "line 5: spec.rules[0].podSelector: expected at least one"),
        (
            "value: sync",
            "value: sync, background: true",
            "line 5: spec.rules[0].actions[0].value: expected `${WAIT_CMD}` if and only if `background` is true",
        ),
    ] {
        assert_eq!(error(&text.replace(from, to)), format!("read shop.yaml, document 1, {expected}"));
    }
    let without_pods = error_with("pair: west", "pair: west\n  preExecRule: quiet");
    assert!(without_pods.contains("run in pods"), "{without_pods}");
}

#[test]
fn the_ready_made_rules_are_read_and_are_shell() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/rules");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let documents = parse("rule", &std::fs::read_to_string(&path).unwrap())
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        for document in documents {
            let Document::Rule { name, spec } = document else { panic!("{}: {document:?}", path.display()) };
            for action in spec.rules.iter().flat_map(|target| &target.actions) {
                let shell =
                    std::process::Command::new("sh").args(["-n", "-c", &action.value]).output().unwrap();
                assert!(shell.status.success(), "{name}: {}", String::from_utf8_lossy(&shell.stderr));
            }
            // What lets go after the snapshot fits there.
            assert!(!name.ends_with("unlock") || spec.validate_after().is_ok(), "{name}");
            names.push(name);
        }
    }
    names.sort();
    let expected = [
        "cassandra",
        "elasticsearch",
        "etcd",
        "kafka",
        "mariadb",
        "mongodb",
        "mongodb-unlock",
        "mysql",
        "postgresql",
        "redis",
    ];
    assert_eq!(names, expected);
}
