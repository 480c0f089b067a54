//! The manifest folder as the cluster: captured with the volumes, held on the standby, released exactly.

use std::fs;
use std::path::{Path, PathBuf};
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
        let status = pair.west.status("shop");
        !status["appliedRestorePoint"].is_null()
            && objects_under(&pair.west.manifests("shop")).contains_key("shop/ConfigMap/settings")
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

/// A file of somebody else's where an object is to be stops the promotion, and is named; the operator may leave it, and the
/// site is active then, with all others released.
#[test]
fn what_cannot_be_released_is_named_and_may_be_left() {
    let mut pair = synced();
    pair.west.allow_errors("promotion stopped");
    eventually("the objects are applied", Duration::from_secs(30), || {
        pair.west.status("shop")["appliedRestorePoint"] == pair.east.status("shop")["lastRestorePoint"]
    });
    let taken = file_of(&pair.west.manifests("shop"), "StatefulSet", "db");
    let foreign = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: by-hand, namespace: shop}\n";
    fs::write(&taken, foreign).unwrap();
    pair.east.kill();
    pair.west.cli(["promote", "shop"]).refused(&[7], &["shop/apps_StatefulSet/db", "--accept-partial"]);
    assert_eq!(pair.west.status("shop")["role"], "promoting");
    let report = pair.west.promote("shop", &["--accept-partial"]);
    assert!(report["warnings"].to_string().contains("shop/apps_StatefulSet/db"), "{report}");
    assert_eq!(pair.west.status("shop")["role"], "active");
    assert_eq!(fs::read_to_string(&taken).unwrap(), foreign, "a file of others was changed");
    let released = objects_under(&pair.west.manifests("shop"));
    assert_eq!(object(&released, "shop/Deployment/web").pointer("/spec/replicas"), Some(&json!(3)));
}

/// The file of an object in a held folder.
fn file_of(dir: &Path, kind: &str, name: &str) -> PathBuf {
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let file = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().contains(kind) && file.ends_with(&format!("{name}.yaml")) {
                return path;
            }
        }
    }
    panic!("no file of {kind} {name} under {}", dir.display());
}

/// What somebody does to the held files: one removed, one edited, one that would run.
fn tamper(dir: &Path) {
    fs::remove_file(file_of(dir, "Deployment", "one-by-default")).unwrap();
    let settings = file_of(dir, "ConfigMap", "settings");
    fs::write(&settings, fs::read_to_string(&settings).unwrap().replace("value", "TAMPERED")).unwrap();
    let web = file_of(dir, "Deployment", "web");
    fs::write(&web, fs::read_to_string(&web).unwrap().replace("replicas: 0", "replicas: 5")).unwrap();
}

/// The objects of a held folder, whichever restore point wrote them last.
fn held_in(dir: &Path) -> std::collections::BTreeMap<String, Value> {
    let mut objects = objects_under(dir);
    for object in objects.values_mut() {
        if let Some(marks) = object.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
            marks.remove("backstay.dev/restore-point");
        }
    }
    objects
}

/// Files of the standby's folder that were removed, edited or let go are as they were after the next cycle, and `verify`
/// sees them.
#[test]
fn what_somebody_changed_in_the_folder_is_held_again() {
    let pair = synced();
    let folder = pair.west.manifests("shop");
    let before = held_in(&folder);
    let held_again = |what: &str| {
        pair.east.sync("shop");
        eventually(what, Duration::from_secs(20), || folder.exists() && held_in(&folder) == before);
    };
    tamper(&folder);
    let verified = pair.west.cli(["verify", "shop"]).refused(&[6], &[]);
    assert!(format!("{}{}", verified.stdout, verified.stderr).contains("3 files in"), "{verified}");
    held_again("the files are as they were");
    let told = pair.west.status("shop")["replicaWarning"].to_string();
    assert!(told.contains("apps_Deployment/web"), "{told}");
    tamper(&folder);
    pair.west.cli(["verify", "shop", "--repair"]).ok();
    assert_eq!(held_in(&folder), before);
    fs::remove_dir_all(&folder).unwrap();
    held_again("the folder is made anew");
}

/// … and before a promotion that comes first.
#[test]
fn what_somebody_changed_in_the_folder_is_not_promoted() {
    for whole in [false, true] {
        let mut pair = synced();
        let folder = pair.west.manifests("shop");
        if whole {
            fs::remove_dir_all(&folder).unwrap();
        } else {
            tamper(&folder);
        }
        let report = pair.take_over("shop");
        assert!(report["warnings"].to_string().contains("were changed here"), "{report}");
        let released = objects_under(&folder);
        for (key, original) in &originals(&pair.work("originals")) {
            let found = object(&released, key);
            for part in ["spec", "data", "webhooks"] {
                assert_eq!(found.get(part), original.get(part), "{key}: {part}");
            }
        }
    }
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
