//! The manifest folder as the cluster: captured with the volumes, held on the standby, released exactly.

use std::fs;
use std::path::Path;
use std::time::Duration;

use backstay_tests::{Pair, Plan, eventually, object, objects_under};
use serde_json::{Value, json};

const SHOP: &str = "\
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  namespace: shop
  uid: 6f2b0f0e-0000-4000-8000-000000000001
  resourceVersion: \"4711\"
  creationTimestamp: \"2026-01-01T00:00:00Z\"
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: \"nginx:1.27\"}]}
status: {readyReplicas: 3}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: one-by-default, namespace: shop}
spec:
  selector: {matchLabels: {app: one}}
  template: {metadata: {labels: {app: one}}, spec: {containers: [{name: c, image: x}]}}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, namespace: shop}
spec:
  replicas: 2
  serviceName: db
  selector: {matchLabels: {app: db}}
  template: {metadata: {labels: {app: db}}, spec: {containers: [{name: db, image: \"postgres:17\"}]}}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent, namespace: shop}
spec:
  selector: {matchLabels: {app: agent}}
  template: {metadata: {labels: {app: agent}}, spec: {nodeSelector: {disk: ssd}, containers: [{name: a, image: x}]}}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: nightly, namespace: shop}
spec:
  schedule: \"0 3 * * *\"
  jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: x}]}}}}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: asleep, namespace: shop}
spec:
  suspend: true
  schedule: \"0 4 * * *\"
  jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: x}]}}}}
---
apiVersion: v1
kind: Pod
metadata: {name: bare, namespace: shop}
spec: {containers: [{name: c, image: x}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: shop}
data: {key: value, multi: \"one\\ntwo\\n\"}
---
apiVersion: example.org/v1
kind: Widget
metadata: {name: own, namespace: shop}
spec: {running: true, size: 7}
---
apiVersion: postgresql.cnpg.io/v1
kind: Cluster
metadata: {name: pg, namespace: shop}
spec: {instances: 3}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: guard}
webhooks: []
";

/// Syncs the folder once and gives the pair.
fn synced() -> Pair {
    let pair = Pair::start();
    let (folder, data) = (pair.source("k8s"), pair.source("data"));
    fs::write(folder.join("shop.yaml"), SHOP).unwrap();
    fs::write(data.join("file"), b"x").unwrap();
    let plan = Plan::new("shop")
        .volume("data", &data)
        .manifests(&folder)
        .field("holds: [{group: example.org, kind: Widget, path: /spec/running, heldValue: \"false\"}]");
    pair.east.apply(&plan.yaml()).ok();
    pair.east.sync("shop");
    eventually("the objects are on the standby", Duration::from_secs(20), || {
        objects_under(&pair.west.manifests("shop")).contains_key("shop/ConfigMap/settings")
    });
    pair
}

/// The source's objects as they should be after promotion: what a server fills in is gone.
fn originals(dir: &Path) -> std::collections::BTreeMap<String, Value> {
    fs::create_dir_all(dir).unwrap();
    fs::write(dir.join("all.yaml"), SHOP).unwrap();
    objects_under(dir)
}

/// Invariant 9: nothing that runs may run on the standby.
#[test]
fn every_controller_is_held() {
    let pair = synced();
    let held = objects_under(&pair.west.manifests("shop"));
    let at = |key: &str, pointer: &str| object(&held, key).pointer(pointer).cloned().unwrap_or(Value::Null);
    for key in ["shop/Deployment/web", "shop/Deployment/one-by-default", "shop/StatefulSet/db"] {
        assert_eq!(at(key, "/spec/replicas"), 0, "{key}");
    }
    let selector = at("shop/DaemonSet/agent", "/spec/template/spec/nodeSelector");
    assert_ne!(selector, json!({"disk": "ssd"}), "the daemon set would run");
    assert!(selector.as_object().is_some_and(|selector| !selector.is_empty()), "{selector}");
    for key in ["shop/CronJob/nightly", "shop/CronJob/asleep"] {
        assert_eq!(at(key, "/spec/suspend"), true, "{key}");
    }
    assert_eq!(at("shop/Widget/own", "/spec/running"), false);
    assert_eq!(at("shop/Cluster/pg", "/metadata/annotations/cnpg.io~1hibernation"), "on");
    assert!(!held.contains_key("shop/Pod/bare"), "a bare pod exists before promotion");
    assert!(
        !held.contains_key("_/ValidatingWebhookConfiguration/guard"),
        "a webhook exists before promotion"
    );
    assert_eq!(at("shop/ConfigMap/settings", "/data"), json!({"key": "value", "multi": "one\ntwo\n"}));
    assert_eq!(at("shop/Deployment/web", "/metadata/uid"), Value::Null);
    assert_eq!(at("shop/Deployment/web", "/status"), Value::Null);
}

/// Promotion restores every original value exactly, and creates what waited.
#[test]
fn promotion_releases_everything_exactly() {
    let mut pair = synced();
    pair.take_over("shop");
    let released = objects_under(&pair.west.manifests("shop"));
    let originals = originals(&pair.work("originals"));
    for (key, original) in &originals {
        let found = object(&released, key);
        for part in ["spec", "data", "webhooks"] {
            assert_eq!(found.get(part), original.get(part), "{key}: {part}");
        }
        let annotations = found.pointer("/metadata/annotations").map(Value::to_string).unwrap_or_default();
        assert!(!annotations.contains("hibernation"), "{key}: {annotations}");
        assert!(!annotations.contains("backstay.dev/held"), "{key} still says it is held: {annotations}");
    }
    assert_eq!(released.len(), originals.len(), "{:?}", released.keys());
}

/// An object that cannot be released stops the promotion after all others were, and is named; the operator may leave it, and
/// the site is active then.
#[test]
fn what_cannot_be_released_is_named_and_may_be_left() {
    let mut pair = synced();
    pair.west.allow_errors("promotion stopped");
    let broken = pair.west.manifests("shop").join("shop/apps_StatefulSet/db.yaml");
    eventually("the standby has its objects", Duration::from_secs(60), || broken.is_file());
    let text = fs::read_to_string(&broken).unwrap();
    fs::write(&broken, format!("{text}\n: [\n")).unwrap();
    pair.east.kill();
    pair.west.cli(["promote", "shop"]).refused(&[7], &["shop/apps_StatefulSet/db", "--accept-partial"]);
    assert_eq!(pair.west.status("shop")["role"], "promoting");
    let report = pair.west.promote("shop", &["--accept-partial"]);
    assert!(report["warnings"].to_string().contains("shop/apps_StatefulSet/db"), "{report}");
    assert_eq!(pair.west.status("shop")["role"], "active");
    fs::write(&broken, text).unwrap();
    let released = objects_under(&pair.west.manifests("shop"));
    assert_eq!(object(&released, "shop/Deployment/web").pointer("/spec/replicas"), Some(&json!(3)));
}

/// How the plan holds may change, and so may what it has: the standby follows though no object at the source did.
#[test]
fn the_standby_follows_the_plan() {
    let pair = synced();
    let data = pair.work("data");
    let on_standby = || objects_under(&pair.west.manifests("shop"));
    let plan = || Plan::new("shop").volume("data", &data);
    let both = plan().manifests(&pair.work("k8s")).field(
        "holds: [{group: example.org, kind: Widget, path: /spec/running, heldValue: \"\\\"never\\\"\"}]",
    );
    pair.east.apply(&both.yaml()).ok();
    pair.east.sync("shop");
    eventually("the object is held in the new way", Duration::from_secs(20), || {
        object(&on_standby(), "shop/Widget/own")["spec"]["running"] == "never"
    });
    pair.east.apply(&plan().yaml()).ok();
    pair.east.sync("shop");
    eventually("what could be promoted is gone", Duration::from_secs(20), || {
        // Namespaces, volumes and claims go only by the plan's own word.
        on_standby()
            .keys()
            .all(|key| key.starts_with("_") || key.contains("/Namespace/") || key.contains("/Persistent"))
    });
}

/// Changes, renames and deletions at the source arrive with the next cycle; what others put there stays.
#[test]
fn the_standby_follows_the_source() {
    let pair = synced();
    let folder = pair.work("k8s");
    let foreign = pair.west.manifests("shop").join("by-hand.yaml");
    fs::write(&foreign, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: by-hand, namespace: shop}\n")
        .unwrap();
    let changed = SHOP.replace("replicas: 3", "replicas: 5").replace("name: settings", "name: options");
    fs::write(folder.join("shop.yaml"), changed).unwrap();
    pair.east.sync("shop");
    eventually("the standby follows", Duration::from_secs(20), || {
        let objects = objects_under(&pair.west.manifests("shop"));
        objects.contains_key("shop/ConfigMap/options") && !objects.contains_key("shop/ConfigMap/settings")
    });
    let objects = objects_under(&pair.west.manifests("shop"));
    assert_eq!(object(&objects, "shop/Deployment/web").pointer("/spec/replicas"), Some(&json!(0)));
    assert!(foreign.is_file(), "a file of others was removed");
    let told = pair.west.promote("shop", &["--force", "--dry-run"])["waves"].to_string();
    assert!(told.contains("wave 10: ") && told.contains("shop/apps_StatefulSet/db"), "{told}");
    pair.west.promote("shop", &["--force"]);
    let objects = objects_under(&pair.west.manifests("shop"));
    assert_eq!(object(&objects, "shop/Deployment/web").pointer("/spec/replicas"), Some(&json!(5)));
}

/// A folder that holds no YAML that can be read fails the cycle, naming the file.
#[test]
fn a_broken_manifest_is_named() {
    let pair = synced();
    pair.east.allow_errors("broken.yaml");
    fs::write(pair.work("k8s").join("broken.yaml"), "kind: [Deployment\n").unwrap();
    pair.east.cli(["sync", "shop"]).refused(&[2, 7], &["broken.yaml"]);
    assert_eq!(pair.west.restore_points("shop").len(), 1);
}
