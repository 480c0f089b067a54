//! Servers that die, and objects that are refused: counted, named, and healed by the next cycle.

use std::time::Duration;

use backstay_tests::kube;
use backstay_tests::{eventually, eventually_some};
use backstay_types::{Class, Classify};
use serde_json::json;

use super::rig::{Rig, get};

/// A namespace of many small objects.
fn many(rig: &Rig, count: usize) {
    let mut list = vec![json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}})];
    list.extend((0..count).map(|n| {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("c{n}"), "namespace": "shop"}, "data": {"n": n.to_string()}})
    }));
    let file = tempfile::NamedTempFile::with_suffix(".json").unwrap();
    std::fs::write(file.path(), json!({"apiVersion": "v1", "kind": "List", "items": list}).to_string())
        .unwrap();
    rig.active.cluster().kubectl(["create", "-f", file.path().to_str().unwrap()]).ok();
}

#[test]
fn a_killed_server_costs_a_cycle_and_no_more() {
    if !kube::can_run("objects::trouble::a_killed_server_costs_a_cycle_and_no_more") {
        return;
    }
    let mut rig = Rig::start(false, json!({"namespaces": ["shop"]}));
    many(&rig, 2500);
    let captured = rig.capture();

    let killed = rig.apply_while(&captured, |standby| {
        eventually("the apply is under way", Duration::from_secs(60), || {
            standby.cluster().has(&["configmap", "c5", "-n", "shop"])
        });
        standby.kill_apiserver();
    });
    assert_eq!(killed.unwrap_err().class(), Class::Transient);
    rig.standby.restart_apiserver();
    let resumed = rig.apply(&captured);
    assert_eq!(resumed.failures.named, []);
    // Of what the first had written, nothing is written again.
    assert!(resumed.unchanged >= 5 && resumed.created > 0, "{resumed:?}");
    assert_eq!((resumed.created + resumed.unchanged, resumed.changed), (2501, 0), "{resumed:?}");

    rig.active.kill_apiserver();
    assert_eq!(rig.try_capture(&rig.active).unwrap_err().class(), Class::Transient);
    rig.active.restart_apiserver();
    let again = rig.capture();
    assert_eq!(again.objects, captured.objects);
    assert_eq!(rig.apply(&again).changed, 0);
}

const APPS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {type: NodePort, ports: [{name: a, port: 80, nodePort: 30080}, {name: b, port: 81, nodePort: 30081}]}
---
apiVersion: v1
kind: Secret
metadata: {name: password, namespace: shop}
stringData: {password: correct-horse}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: shop}
data: {a: b}
";

const DEAD_WEBHOOK: &str = "
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: guard}
webhooks:
  - name: guard.example.org
    admissionReviewVersions: [v1]
    sideEffects: None
    failurePolicy: Fail
    timeoutSeconds: 1
    clientConfig: {url: \"https://127.0.0.1:1/guard\"}
    rules: [{apiGroups: [\"\"], apiVersions: [v1], operations: [CREATE], resources: [secrets]}]
";

#[test]
fn a_taken_port_is_given_up_and_a_refused_object_is_named() {
    if !kube::can_run("objects::trouble::a_taken_port_is_given_up_and_a_refused_object_is_named") {
        return;
    }
    let rig = Rig::start(false, json!({"namespaces": ["shop"]}));
    rig.active.cluster().apply_yaml(APPS);
    let standby = rig.standby.cluster();
    standby.apply_yaml("{apiVersion: v1, kind: Service, metadata: {name: theirs, namespace: default}, spec: {type: NodePort, ports: [{port: 80, nodePort: 30080}]}}");
    standby.apply_yaml(DEAD_WEBHOOK);
    // An API server takes its time to act on a new webhook.
    eventually("the webhook refuses", Duration::from_secs(30), || {
        let probe = "--dry-run=server";
        standby.kubectl(["create", "secret", "generic", "probe", probe]).code != 0
    });

    let report = rig.apply(&rig.capture());
    assert_eq!(
        report.warnings,
        ["Service shop/web: node port 30080 is taken on the standby: it gets another"]
    );
    let ports = get(&rig.standby, &["service", "web", "-n", "shop"])["spec"]["ports"].clone();
    assert_ne!(ports[0]["nodePort"], 30080);
    assert_eq!(ports[1]["nodePort"], 30081, "the other port is as it was asked for");
    let failures = &report.failures.named;
    assert_eq!(failures.len(), 1, "{failures:?}");
    assert_eq!((failures[0].key.as_str(), failures[0].class), ("Secret shop/password", Class::Transient));
    assert!(failures[0].message.contains("guard.example.org"), "{}", failures[0].message);
    assert!(!failures[0].message.contains("correct"), "{}", failures[0].message);
    assert!(failures[0].hint.as_ref().unwrap().contains("webhook"));

    standby.kubectl(["delete", "validatingwebhookconfiguration", "guard"]).ok();
    let healed = eventually_some("the next cycle heals it", Duration::from_secs(30), || {
        let report = rig.apply(&rig.capture());
        (report.failures.count == 0).then_some(report)
    });
    assert_eq!((healed.created, healed.changed), (1, 0), "{healed:?}");
    let after = get(&rig.standby, &["service", "web", "-n", "shop"])["spec"]["ports"].clone();
    assert_eq!(after, ports, "the port that was given stays");
}

#[test]
fn a_namespace_on_its_way_out_is_waited_for() {
    if !kube::can_run("objects::trouble::a_namespace_on_its_way_out_is_waited_for") {
        return;
    }
    let rig = Rig::start(true, json!({"namespaces": ["shop"]}));
    rig.active.cluster().apply_yaml(APPS);
    let standby = rig.standby.cluster();
    standby.apply_yaml("{apiVersion: v1, kind: Namespace, metadata: {name: shop}}");
    standby.apply_yaml("{apiVersion: v1, kind: ConfigMap, metadata: {name: stuck, namespace: shop, finalizers: [example.org/never]}}");
    standby.kubectl(["delete", "namespace", "shop", "--wait=false"]).ok();

    let report = rig.apply(&rig.capture());
    assert!(report.failures.count >= 3, "{report:?}");
    for failure in report.failures.named.iter().filter(|failure| !failure.key.contains("ServiceAccount")) {
        assert_eq!(
            (failure.message.as_str(), failure.class),
            ("namespace shop is being deleted", Class::Busy),
            "{}",
            failure.key
        );
    }
    standby
        .kubectl([
            "patch",
            "configmap",
            "stuck",
            "-n",
            "shop",
            "--type=merge",
            "-p",
            r#"{"metadata":{"finalizers":null}}"#,
        ])
        .ok();
    eventually("the namespace is gone", Duration::from_secs(60), || !standby.has(&["namespace", "shop"]));
    rig.cycle();
    assert!(standby.has(&["secret", "password", "-n", "shop"]));
}

const DEAD_API: &str = "
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: v1.widgets.example.org}
spec:
  group: widgets.example.org
  version: v1
  groupPriorityMinimum: 100
  versionPriority: 100
  insecureSkipTLSVerify: true
  service: {namespace: default, name: nowhere}
";

const WIDGETS: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.widgets.example.org}
spec:
  group: widgets.example.org
  scope: Namespaced
  names: {plural: widgets, singular: widget, kind: Widget}
  versions:
    - {name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}
";

#[test]
fn an_api_that_does_not_answer_is_missing_and_its_objects_are_not_gone() {
    if !kube::can_run("objects::trouble::an_api_that_does_not_answer_is_missing_and_its_objects_are_not_gone")
    {
        return;
    }
    let rig = Rig::start(false, json!({"namespaces": ["shop"]}));
    let active = rig.active.cluster();
    active.apply_yaml(APPS);
    active.apply_yaml(WIDGETS);
    eventually("widgets are served", Duration::from_secs(30), || active.has(&["widgets", "-n", "shop"]));
    active.apply_yaml(
        "{apiVersion: widgets.example.org/v1, kind: Widget, metadata: {name: w, namespace: shop}}",
    );
    rig.cycle();
    assert!(rig.standby.cluster().has(&["widgets", "w", "-n", "shop"]));

    active.kubectl(["delete", "crd", "widgets.widgets.example.org", "--wait=true"]).ok();
    active.kubectl(["delete", "apiservice", "v1.widgets.example.org", "--ignore-not-found"]).ok();
    active.apply_yaml(DEAD_API);
    let captured = eventually_some("the capture misses the API", Duration::from_secs(60), || {
        let captured = rig.capture();
        (!captured.report.missing.is_empty()).then_some(captured)
    });
    let missing = &captured.report.missing;
    assert!(missing.iter().all(|one| one.group == "widgets.example.org"), "{missing:?}");
    assert!(!captured.report.is_complete());
    let report = rig.apply(&captured);
    assert_eq!(report.failures.named, []);
    assert_eq!(report.removed, 0, "{report:?}");
    assert!(rig.standby.cluster().has(&["widgets", "w", "-n", "shop"]), "what was not seen is not gone");

    active.kubectl(["delete", "apiservice", "v1.widgets.example.org"]).ok();
    let report = eventually_some("the capture is complete again", Duration::from_secs(60), || {
        let captured = rig.capture();
        captured.report.is_complete().then(|| rig.apply(&captured))
    });
    assert_eq!(
        (report.removed, report.kept),
        (1, 1),
        "the kind went with its definition, which stays: {report:?}"
    );
}
