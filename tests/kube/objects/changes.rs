//! What happens at the source arrives in the next cycle; what others do on the standby is theirs, or is told.

use backstay_tests::kube;
use backstay_tests::kube::ControlPlane;
use serde_json::{Value, json};

use super::rig::{Rig, get};

const BEFORE: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: shop}
data: {mode: fast, extra: a}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: goes, namespace: shop}
data: {a: b}
---
apiVersion: v1
kind: Secret
metadata: {name: fixed, namespace: shop}
immutable: true
stringData: {key: one}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data, namespace: shop}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: one, namespace: shop}
rules: []
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: bind, namespace: shop}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: one}
subjects: [{kind: User, name: ann}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, namespace: shop}
spec:
  replicas: 2
  serviceName: db
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec: {containers: [{name: db, image: \"localhost/db:1\"}]}
";

fn uid(plane: &ControlPlane, kind: &str, name: &str) -> String {
    get(plane, &[kind, name, "-n", "shop"])["metadata"]["uid"].as_str().unwrap().to_owned()
}

/// Deletes and creates at the source, as a user with an immutable field does.
fn replace(rig: &Rig, kind: &str, name: &str, yaml: &str) {
    let active = rig.active.cluster();
    active.kubectl(["delete", kind, name, "-n", "shop", "--cascade=orphan", "--wait=true"]).ok();
    active.apply_yaml(yaml);
}

#[test]
fn what_changes_at_the_source_arrives() {
    if !kube::can_run("objects::changes::what_changes_at_the_source_arrives") {
        return;
    }
    let mut rig = Rig::start(true, json!({"namespaces": ["shop"]}));
    let active = rig.active.cluster();
    active.apply_yaml(BEFORE);
    rig.cycle();
    let set_before = uid(&rig.standby, "statefulset", "db");

    active
        .kubectl([
            "patch",
            "configmap",
            "settings",
            "-n",
            "shop",
            "--type=json",
            "-p",
            r#"[{"op":"replace","path":"/data/mode","value":"slow"},{"op":"remove","path":"/data/extra"}]"#,
        ])
        .ok();
    active.kubectl(["delete", "configmap", "goes", "-n", "shop"]).ok();
    active.kubectl(["delete", "pvc", "data", "-n", "shop", "--wait=true"]).ok();
    replace(
        &rig,
        "secret",
        "fixed",
        "{apiVersion: v1, kind: Secret, metadata: {name: fixed, namespace: shop}, immutable: true, stringData: {key: two}}",
    );
    replace(
        &rig,
        "rolebinding",
        "bind",
        "{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: bind, namespace: shop}, \
        roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}, subjects: [{kind: User, name: ann}]}",
    );
    replace(
        &rig,
        "statefulset",
        "db",
        "{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: db, namespace: shop}, spec: {replicas: 2, \
        serviceName: other, selector: {matchLabels: {app: db}}, template: {metadata: {labels: {app: db}}, spec: {containers: [{name: db, image: \"localhost/db:2\"}]}}}}",
    );
    // A rename is one that goes and one that comes.
    active.kubectl(["delete", "role", "one", "-n", "shop"]).ok();
    active.apply_yaml("{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: two, namespace: shop}, rules: []}");

    let report = rig.cycle();
    assert_eq!(
        (report.created, report.changed, report.recreated, report.removed, report.kept),
        (1, 1, 3, 2, 1),
        "{report:?}"
    );
    assert_eq!(get(&rig.standby, &["configmap", "settings", "-n", "shop"])["data"], json!({"mode": "slow"}));
    assert!(!rig.standby.cluster().has(&["configmap", "goes", "-n", "shop"]));
    assert!(!rig.standby.cluster().has(&["role", "one", "-n", "shop"]));
    assert!(rig.standby.cluster().has(&["role", "two", "-n", "shop"]));
    assert!(
        rig.standby.cluster().has(&["pvc", "data", "-n", "shop"]),
        "a claim stays without the plan's word"
    );
    assert_eq!(get(&rig.standby, &["secret", "fixed", "-n", "shop"])["data"]["key"], "dHdv");
    assert_eq!(get(&rig.standby, &["rolebinding", "bind", "-n", "shop"])["roleRef"]["name"], "view");
    let set = get(&rig.standby, &["statefulset", "db", "-n", "shop"]);
    assert_eq!((&set["spec"]["serviceName"], &set["spec"]["replicas"]), (&json!("other"), &json!(0)));
    assert_ne!(set["metadata"]["uid"], set_before);

    rig.spec.purge_deleted_data = true;
    assert_eq!(rig.cycle().removed, 1);
    assert!(!rig.standby.cluster().has(&["pvc", "data", "-n", "shop"]), "now the plan says so");
}

#[test]
fn what_others_made_is_theirs_and_what_they_changed_is_told() {
    if !kube::can_run("objects::changes::what_others_made_is_theirs_and_what_they_changed_is_told") {
        return;
    }
    let rig = Rig::start(true, json!({"namespaces": ["shop"]}));
    rig.active.cluster().apply_yaml(BEFORE);
    let standby = rig.standby.cluster();
    standby.apply_yaml("{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {owner: ops}}}");
    standby.apply_yaml(
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: settings, namespace: shop}, data: {mine: x}}",
    );
    standby.apply_yaml(
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: notes, namespace: shop}, data: {mine: x}}",
    );
    let theirs = || ["settings", "notes"].map(|name| get(&rig.standby, &["configmap", name, "-n", "shop"]));
    let (before, namespace) = (theirs(), get(&rig.standby, &["namespace", "shop"]));

    let report = rig.apply(&rig.capture());
    assert_eq!(report.failures.count, 1, "{report:?}");
    assert_eq!(report.failures.named[0].key, "ConfigMap shop/settings");
    assert_eq!(report.failures.named[0].message, "it exists on the standby and was not made by Backstay");
    assert_eq!((report.shared, theirs()), (1, before));
    assert_eq!(get(&rig.standby, &["namespace", "shop"]), namespace);

    // Handed over by its label.
    standby.kubectl(["label", "configmap", "settings", "-n", "shop", "backstay.dev/plan=shop"]).ok();
    assert_eq!(rig.cycle().changed, 1);
    drifted(&rig);
}

fn drifted(rig: &Rig) {
    let standby = rig.standby.cluster();
    standby.kubectl(["scale", "statefulset", "db", "-n", "shop", "--replicas=1"]).ok();
    standby.kubectl(["annotate", "configmap", "goes", "-n", "shop", "note=x"]).ok();
    standby
        .kubectl(["patch", "configmap", "goes", "-n", "shop", "--type=merge", "-p", r#"{"data":{"a":null}}"#])
        .ok();
    standby.kubectl(["delete", "role", "one", "-n", "shop"]).ok();
    let report = rig.cycle();
    assert_eq!((report.created, report.changed, report.drifted), (1, 2, 3), "{report:?}");
    let drift = |object: &str| report.drifts.iter().find(|drift| drift.object == object).unwrap();
    let set = drift("StatefulSet.apps shop/db");
    assert_eq!(
        (set.changed.as_slice(), set.managers.as_slice()),
        (&["spec.replicas".to_owned()][..], &["kubectl".to_owned()][..])
    );
    assert_eq!(drift("ConfigMap shop/goes").changed, ["data"]);
    // What was there before it was handed over stays, and is told in every cycle.
    assert_eq!(drift("ConfigMap shop/settings").added, ["data.mine"]);
    let held: Value = get(&rig.standby, &["statefulset", "db", "-n", "shop"]);
    assert_eq!(held["spec"]["replicas"], 0, "held again");
    assert_eq!(get(&rig.standby, &["configmap", "goes", "-n", "shop"])["data"], json!({"a": "b"}));
    let settled = rig.cycle();
    assert_eq!((settled.drifted, settled.changed), (1, 0), "{settled:?}");
}
