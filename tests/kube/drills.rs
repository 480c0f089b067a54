//! Drills of plans over namespaces: in namespaces of their own, closed before anything is in them, gone afterwards.
//!
//! A control plane runs no pods, so that workloads are never ready: drills here fail there, or have none.

use std::path::Path;

use backstay_tests::kube;
use serde_json::Value;

use crate::plans::Rig;

const PLAN: &str = "
apiVersion: backstay.dev/v1alpha1
kind: ReplicationPlan
metadata: {name: shop}
spec: {pair: west, namespaces: [shop], drill: {timeout: 2s}}
";

/// Beside the application: what would lead out of a drill.
const DOORS: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {type: NodePort, ports: [{port: 80, nodePort: 30123}], selector: {app: web}}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web, namespace: shop}
spec: {rules: [{host: shop.example.org, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: opens, namespace: shop}
spec: {podSelector: {}, policyTypes: [Egress], egress: [{}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: on-host, namespace: shop}
spec:
  selector: {matchLabels: {app: on-host}}
  template:
    metadata: {labels: {app: on-host}}
    spec: {hostNetwork: true, containers: [{name: web, image: registry.example.org/web:1}]}
";

/// Everything of the standby that a drill must not touch, with the versions of the server.
fn standby(rig: &Rig) -> Vec<String> {
    let kinds = "statefulsets,deployments,services,configmaps,secrets,ingresses,networkpolicies,cronjobs,pvc";
    let mut found = rig.on_standby(&[kinds])["items"].as_array().unwrap().clone();
    found.extend(
        rig.standby.cluster().get(&["pv", "pv-data"]).as_object().map(|map| Value::Object(map.clone())),
    );
    found.push(rig.standby.cluster().get(&["namespace", "shop"]));
    let line = |object: &Value| {
        format!("{} {} {}", object["kind"], object["metadata"]["name"], object["metadata"]["resourceVersion"])
    };
    found.iter().map(line).collect()
}

fn labelled(rig: &Rig, kind: &str) -> Vec<String> {
    let found = rig.standby.cluster().get(&[kind, "-l", "backstay.dev/drill"]);
    let names = found["items"].as_array().unwrap().iter();
    names.map(|object| object["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_drill_has_namespaces_of_its_own() {
    if !kube::can_run("drills::a_drill_has_namespaces_of_its_own") {
        return;
    }
    let rig = Rig::start();
    let volume = rig.app();
    rig.active.cluster().apply_yaml(DOORS);
    rig.pair.east.apply(PLAN).ok();
    rig.cycle();
    backstay_tests::eventually(
        "the claim is bound to the replica",
        std::time::Duration::from_secs(60),
        || rig.on_standby(&["pvc", "data"])["status"]["phase"] == "Bound",
    );
    let before = standby(&rig);

    // The pods never run here: what was made is looked at.
    let output = rig
        .pair
        .west
        .cli(["drill", "shop", "--keep", "-o", "json"])
        .refused(&[1], &["not ready", "StatefulSet"]);
    let report = output.json();
    assert_eq!(report["namespaces"], serde_json::json!(["shop-drill-1"]), "{report}");
    let steps = report["steps"].as_array().unwrap();
    let state = |name: &str| steps.iter().find(|step| step["name"] == name).unwrap()["state"].clone();
    assert_eq!(
        (state("start objects"), state("wait until ready")),
        ("done".into(), "failed".into()),
        "{report}"
    );
    let warnings = report["warnings"].to_string();
    for left_out in ["Ingress.networking.k8s.io shop/web", "Deployment.apps shop/on-host"] {
        assert!(warnings.contains(left_out), "{warnings}");
    }

    let get = |kind: &str, name: &str| rig.standby.cluster().get(&[kind, name, "-n", "shop-drill-1"]);
    assert_eq!(get("statefulset", "db")["spec"]["replicas"], 3, "released");
    assert_ne!(get("cronjob", "report")["spec"]["suspend"], true);
    assert_eq!(get("configmap", "settings")["data"]["colour"], "blue");
    assert_eq!(get("service", "web")["spec"]["type"], "ClusterIP");
    assert_eq!(get("networkpolicy", "backstay-drill")["spec"]["policyTypes"], serde_json::json!(["Egress"]));
    for (kind, name) in [("ingress", "web"), ("networkpolicy", "opens"), ("deployment", "on-host")] {
        assert!(!rig.standby.cluster().has(&[kind, name, "-n", "shop-drill-1"]), "{kind} {name}");
    }
    let copy = rig.standby.cluster().get(&["pv", "pv-data-drill-1"])["spec"]["hostPath"]["path"].clone();
    let copy = Path::new(copy.as_str().unwrap());
    assert!(copy.starts_with(rig.pair.west.dir().join("drills/shop-1")), "{}", copy.display());
    backstay_tests::assert_same(&volume, copy);
    assert_eq!(get("pvc", "data")["spec"]["volumeName"], "pv-data-drill-1");
    assert_eq!(standby(&rig), before, "the standby was touched");

    // A cycle leaves the drill alone, and the next drill removes it.
    rig.cycle();
    assert_eq!(get("statefulset", "db")["spec"]["replicas"], 3);
    rig.pair.west.cli(["drill", "shop"]).refused(&[1], &["not ready"]);
    assert_eq!((labelled(&rig, "namespace"), labelled(&rig, "pv")), (vec![], vec![]));
    assert!(!copy.exists());
    assert_eq!(standby(&rig), before, "the standby was touched");
}

/// Where the policy that closes a namespace is refused, nothing is made in it.
#[test]
fn nothing_is_started_in_a_namespace_that_is_open() {
    if !kube::can_run("drills::nothing_is_started_in_a_namespace_that_is_open") {
        return;
    }
    let rig = Rig::start();
    rig.app();
    rig.pair.east.apply(PLAN).ok();
    rig.cycle();
    rig.standby.cluster().apply_yaml(
        "
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: no-policies}
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules: [{apiGroups: [networking.k8s.io], apiVersions: ['*'], operations: [CREATE], resources: [networkpolicies]}]
  validations: [{expression: 'false', message: no policies here}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: no-policies}
spec: {policyName: no-policies, validationActions: [Deny]}
",
    );
    backstay_tests::eventually("policies are refused", std::time::Duration::from_secs(60), || {
        let policy = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: probe, namespace: shop}, spec: {podSelector: {}}}";
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), policy).unwrap();
        let args = ["create", "--dry-run=server", "-f", file.path().to_str().unwrap()];
        rig.standby.cluster().kubectl(args).code != 0
    });
    rig.pair.west.cli(["drill", "shop", "--keep"]).refused(&[1], &["no policies here"]);
    assert_eq!(labelled(&rig, "namespace"), ["shop-drill-1"]);
    for kind in ["configmap/settings", "statefulset/db", "secret/password", "pvc/data"] {
        let (kind, name) = kind.split_once('/').unwrap();
        assert!(!rig.standby.cluster().has(&[kind, name, "-n", "shop-drill-1"]), "{kind} {name}");
    }
    // A namespace that somebody else made is no drill's.
    rig.pair.west.cli(["drill", "shop", "--clean"]).ok();
    assert_eq!(labelled(&rig, "namespace"), Vec::<String>::new());
    rig.standby.cluster().kubectl(["create", "namespace", "shop-drill-2"]).ok();
    rig.pair.west.cli(["drill", "shop"]).refused(&[1], &["shop-drill-2"]);
    assert!(rig.standby.cluster().has(&["namespace", "shop-drill-2"]), "it was removed with the drill");
}
