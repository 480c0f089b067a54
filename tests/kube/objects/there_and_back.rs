//! A cluster that stands still: everything is held where it is, can be captured as it was, and let go again; and the
//! whole way there and back.

use std::collections::BTreeMap;
use std::time::Duration;

use backstay_kube::cluster::Captured;
use backstay_tests::{eventually, kube};
use serde_json::{Value, json};

use super::everything::install;
use super::rig::{PodWatch, contents, get};
use super::sites::{Side, spec_of, two};

const PATIENCE: Duration = Duration::from_secs(60);

/// What the fixture lacks: a set that deletes its claims, a claim with an owner, objects of tools that write in other
/// ways, an object outside of the plan.
const MORE: &str = "
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: cache, namespace: shop}
spec:
  replicas: 1
  serviceName: headless
  persistentVolumeClaimRetentionPolicy: {whenScaled: Delete, whenDeleted: Delete}
  selector: {matchLabels: {app: cache}}
  template:
    metadata: {labels: {app: cache}}
    spec: {containers: [{name: cache, image: localhost/cache:1}]}
  volumeClaimTemplates:
    - metadata: {name: cached}
      spec: {accessModes: [ReadWriteOnce], storageClassName: local, resources: {requests: {storage: 1Gi}}}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: disks, namespace: shop}
spec:
  selector: {matchLabels: {app: disks}}
  template:
    metadata: {labels: {app: disks}}
    spec: {nodeSelector: {disk: ssd}, containers: [{name: disks, image: localhost/disks:1}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: agent-of-ops, namespace: shop, labels: {backstay.dev/exclude: \"true\"}}
spec:
  replicas: 1
  selector: {matchLabels: {app: ops}}
  template:
    metadata: {labels: {app: ops}}
    spec: {containers: [{name: ops, image: localhost/ops:1}]}
---
apiVersion: v1
kind: Secret
metadata: {name: untouched, namespace: shop}
stringData: {a: b}
";

fn one_side() -> Side {
    let side = Side::start("home", spec_of(json!({"namespaces": ["shop"]})));
    install(&side.plane);
    side.plane.cluster().apply_yaml(MORE);
    // A name that occurs twice: a server-side apply of the whole object would be refused.
    side.plane.cluster().kubectl(["patch", "deployment", "web", "-n", "shop", "--type=json", "-p",
        r#"[{"op":"add","path":"/spec/template/spec/containers/0/env","value":[{"name":"A","value":"1"},{"name":"A","value":"2"}]}]"#]).ok();
    // A run of the CronJob that is under way.
    side.plane.cluster().kubectl(["create", "job", "run", "-n", "shop", "--from=cronjob/paused"]).ok();
    eventually("the controllers are done", PATIENCE, || pods(&side).len() >= 11);
    let owner =
        get(&side.plane, &["databases.a.example.org", "main", "-n", "shop"])["metadata"]["uid"].clone();
    let owners = json!({"metadata": {"ownerReferences": [{"apiVersion": "a.example.org/v1", "kind": "Database", "name": "main", "uid": owner}]}});
    let patch = owners.to_string();
    side.plane.cluster().kubectl(["patch", "pvc", "data", "-n", "shop", "--type=merge", "-p", &patch]).ok();
    side
}

/// Names of the pods in the namespace.
fn pods(side: &Side) -> Vec<String> {
    let pods = get(&side.plane, &["pods", "-n", "shop"]);
    let name = |pod: &Value| pod["metadata"]["name"].as_str().unwrap().to_owned();
    pods["items"].as_array().unwrap().iter().map(name).collect()
}

#[track_caller]
fn assert_same(found: &BTreeMap<String, Value>, expected: &BTreeMap<String, Value>) {
    for (key, object) in expected {
        assert_eq!(found.get(key), Some(object), "{key}");
    }
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
}

/// Without the first so many objects of a capture, as if the run had been killed.
fn half(captured: &Captured) -> Captured {
    let mut half = captured.clone();
    half.objects = half.objects.into_iter().step_by(2).collect();
    half
}

/// Objects of the namespace and of the cluster with a mark of ours.
fn marked(side: &Side) -> Vec<String> {
    let kinds = "all,configmaps,secrets,pvc,pv,serviceaccounts,roles,rolebindings,clusterrolebindings,namespaces,\
         ingresses,networkpolicies,databases.a.example.org,clusterroles,storageclasses";
    let all = get(&side.plane, &[kinds, "-A"]);
    let is_marked = |object: &&Value| {
        // A Deployment copies its annotations to what it makes, and never takes one away.
        if object["metadata"]["ownerReferences"][0]["kind"] == "Deployment" {
            return false;
        }
        object["metadata"].get("managedFields").is_none() && {
            let text = object["metadata"].to_string();
            text.contains("backstay.dev/") && !text.contains("backstay.dev/exclude")
        }
    };
    let name = |object: &Value| format!("{} {}", object["kind"], object["metadata"]["name"]);
    all["items"].as_array().unwrap().iter().filter(is_marked).map(name).collect()
}

#[test]
fn what_stands_still_is_captured_as_it_was_and_let_go_as_it_was() {
    if !kube::can_run("objects::there_and_back::what_stands_still_is_captured_as_it_was_and_let_go_as_it_was")
    {
        return;
    }
    let side = one_side();
    let before = side.capture();
    let was = contents(&before);
    assert!(!side.running_pods().is_empty());

    // Half of it, then the rest; a capture gives the originals at any time.
    // (A webhook that is not of the half refuses the ConfigMaps.)
    let part = side.try_stand_still(&half(&before)).unwrap();
    assert!(part.changed > 5, "{part:?}");
    assert_same(&side.contents(), &was);
    let report = side.stand_still(&before);
    assert!(report.changed > 5, "{report:?}");
    assert_eq!(report.deferred, 2, "the bare pod and the webhook: {report:?}");
    assert_eq!(report.removed + part.removed, 2);
    assert_same(&side.contents(), &was);

    assert_held(&side);
    // The Deployment outside of the plan runs on, and is not waited for.
    eventually("pods are gone", PATIENCE, || side.running_pods().is_empty());
    eventually("only the others' pod is left", PATIENCE, || {
        let left = pods(&side);
        left.len() == 1 && left[0].starts_with("agent-of-ops-")
    });
    for claim in ["data", "cached-cache-0", "data-db-0"] {
        let claim = get(&side.plane, &["pvc", claim, "-n", "shop"]);
        assert!(claim["metadata"]["deletionTimestamp"].is_null(), "{claim}");
    }
    let again = side.stand_still(&side.capture());
    assert_eq!((again.changed, again.removed, again.created), (0, 0, 0), "{again:?}");
    assert_same(&side.contents(), &was);

    // Taken back: as if it had never been.
    side.let_go(&before);
    assert_same(&side.contents(), &was);
    assert_eq!(marked(&side), [""; 0]);
    let claim = get(&side.plane, &["pvc", "data", "-n", "shop"]);
    assert_eq!(claim["metadata"]["ownerReferences"][0]["name"], "main", "{claim}");
    assert!(side.plane.cluster().has(&["validatingwebhookconfiguration", "shop-check"]));
    let others = get(&side.plane, &["clusterrolebinding", "shop-nodes"]);
    assert_eq!(others["subjects"].as_array().unwrap().len(), 2, "of the other namespaces too");
    assert_eq!(get(&side.plane, &["job", "run", "-n", "shop"])["spec"]["suspend"], false);
    eventually("everything runs again", PATIENCE, || pods(&side).len() >= 11);
    let again = side.let_go(&before);
    assert_eq!((again.released, again.created), (0, 0), "{again:?}");
}

/// Everything that runs something is held, and others' objects are as they were.
fn assert_held(side: &Side) {
    for (kind, name, pointer, expected) in [
        ("deployment", "web", "/spec/replicas", json!(0)),
        ("deployment", "agent-of-ops", "/spec/replicas", json!(1)),
        ("statefulset", "db", "/spec/replicas", json!(0)),
        ("statefulset", "cache", "/spec/replicas", json!(0)),
        ("replicaset", "single", "/spec/replicas", json!(0)),
        ("replicationcontroller", "old", "/spec/replicas", json!(0)),
        (
            "daemonset",
            "agent",
            "/spec/template/spec/nodeSelector",
            json!({"backstay.dev/held": "no-such-node"}),
        ),
        (
            "daemonset",
            "disks",
            "/spec/template/spec/nodeSelector",
            json!({"backstay.dev/held": "no-such-node", "disk": "ssd"}),
        ),
        ("job", "import", "/spec/suspend", json!(true)),
        ("cronjob", "report", "/spec/suspend", json!(true)),
        ("job", "run", "/spec/suspend", json!(true)),
        ("databases.a.example.org", "main", "/spec/instances", json!(0)),
        ("secret", "untouched", "/metadata/labels", json!({"backstay.dev/plan": "shop"})),
    ] {
        let object = get(&side.plane, &[kind, name, "-n", "shop"]);
        assert_eq!(object.pointer(pointer), Some(&expected), "{kind} {name}");
    }
    let volume = get(&side.plane, &["pv", "shop-data"]);
    assert_eq!(volume["spec"]["persistentVolumeReclaimPolicy"], "Retain");
    assert_eq!(volume["spec"]["hostPath"]["path"], "/srv/shop");
    let claim = get(&side.plane, &["pvc", "data", "-n", "shop"]);
    assert!(claim["metadata"]["ownerReferences"].is_null(), "{claim}");
    assert!(!side.plane.cluster().has(&["validatingwebhookconfiguration", "shop-check"]));
    assert!(!side.plane.cluster().has(&["pod", "tool", "-n", "shop"]));
    let namespace = get(&side.plane, &["namespace", "shop"]);
    assert!(namespace["metadata"]["labels"]["backstay.dev/plan"].is_null(), "shared: {namespace}");
}

#[test]
fn a_plan_that_starts_applications_is_adopted_and_runs_on() {
    if !kube::can_run("objects::there_and_back::a_plan_that_starts_applications_is_adopted_and_runs_on") {
        return;
    }
    let side = Side::start("home", spec_of(json!({"namespaces": ["shop"], "startApplications": true})));
    install(&side.plane);
    // It runs on as well, and its backend never answers.
    side.plane.cluster().kubectl(["delete", "validatingwebhookconfiguration", "shop-check"]).ok();
    let before = side.capture();
    let report = side.stand_still(&before);
    assert_eq!((report.held, report.deferred, report.removed), (0, 0, 0), "{report:?}");
    assert!(report.changed > 20, "{report:?}");
    let web = get(&side.plane, &["deployment", "web", "-n", "shop"]);
    assert_eq!(
        (&web["spec"]["replicas"], &web["metadata"]["labels"]["backstay.dev/plan"]),
        (&json!(3), &json!("shop"))
    );
    assert!(side.plane.cluster().has(&["pod", "tool", "-n", "shop"]));
    assert_same(&side.contents(), &contents(&before));
}

/// An application that goes away and comes back.
const SHOP: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: local}
provisioner: kubernetes.io/no-provisioner
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: orders}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Delete
  storageClassName: local
  local: {path: /srv/orders}
  claimRef: {namespace: shop, name: orders}
  nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: rack, operator: In, values: [r1]}]}]}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: orders, namespace: shop}
spec: {accessModes: [ReadWriteOnce], storageClassName: local, resources: {requests: {storage: 1Gi}}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: shop}
data: {mode: fast, goes: away}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: gone, namespace: shop}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{name: http, port: 80}, {name: old, port: 81}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: \"east.example.org/web:1\", env: [{name: A, value: \"1\"}, {name: B, value: \"2\"}]}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: same, namespace: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: same}}
  template:
    metadata: {labels: {app: same}}
    spec: {containers: [{name: same, image: \"east.example.org/same:1\"}]}
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
    spec:
      containers: [{name: db, image: \"east.example.org/db:1\", volumeMounts: [{name: orders, mountPath: /orders}]}]
      volumes: [{name: orders, persistentVolumeClaim: {claimName: orders}}]
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: report, namespace: shop}
spec:
  schedule: \"0 0 1 1 *\"
  jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: report, image: \"east.example.org/report:1\"}]}}}}
---
apiVersion: batch/v1
kind: Job
metadata: {name: import, namespace: shop}
spec: {template: {spec: {restartPolicy: Never, containers: [{name: import, image: \"east.example.org/import:1\"}]}}}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: web, namespace: shop}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}
  minReplicas: 2
  maxReplicas: 5
  metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 70}}}]
---
apiVersion: v1
kind: Pod
metadata: {name: tool, namespace: shop}
spec: {containers: [{name: tool, image: \"east.example.org/tool:1\"}]}
";

/// What becomes of the application while it is away.
fn change_away(away: &Side) {
    let patch = |kind: &str, name: &str, patch: &str| {
        let args = ["patch", kind, name, "-n", "shop-dr", "--type=json", "-p", patch];
        away.plane.cluster().kubectl(args).ok();
    };
    patch(
        "configmap",
        "settings",
        r#"[{"op":"replace","path":"/data/mode","value":"slow"},{"op":"remove","path":"/data/goes"}]"#,
    );
    patch("service", "web", r#"[{"op":"remove","path":"/spec/ports/1"}]"#);
    patch(
        "deployment",
        "web",
        r#"[{"op":"replace","path":"/spec/template/spec/containers/0/image","value":"west.example.org/web:2"},
            {"op":"remove","path":"/spec/template/spec/containers/0/env/1"}]"#,
    );
    patch("cronjob", "report", r#"[{"op":"replace","path":"/spec/schedule","value":"0 1 1 1 *"}]"#);
    patch("hpa", "web", r#"[{"op":"replace","path":"/spec/maxReplicas","value":7}]"#);
    let cluster = away.plane.cluster();
    cluster.kubectl(["scale", "statefulset", "db", "-n", "shop-dr", "--replicas=4"]).ok();
    cluster.kubectl(["delete", "configmap", "gone", "-n", "shop-dr"]).ok();
    cluster.apply_yaml(
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: came, namespace: shop-dr}, data: {a: b}}",
    );
}

/// Contents without the place of the volume, which each side has its own of.
fn without_places(side: &Side) -> BTreeMap<String, Value> {
    let mut all = side.contents();
    let volume = all.get_mut("_cluster/_PersistentVolume/orders").unwrap();
    let spec = volume["spec"].as_object_mut().unwrap();
    assert!(spec.remove("local").is_some());
    spec.remove("nodeAffinity");
    all
}

/// Without the note that kubectl leaves of what it was given, which names the namespace it was given for.
fn without_client_notes(mut all: BTreeMap<String, Value>) -> BTreeMap<String, Value> {
    for object in all.values_mut() {
        if let Some(notes) = object.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
            notes.remove("kubectl.kubernetes.io/last-applied-configuration");
        }
    }
    all
}

/// The same of the other side, under the names of this one.
fn as_at_home(all: &BTreeMap<String, Value>) -> BTreeMap<String, Value> {
    let text = serde_json::to_string(all).unwrap();
    serde_json::from_str(&text.replace("shop-dr", "shop").replace("west.example.org", "east.example.org"))
        .unwrap()
}

#[test]
fn an_application_goes_away_and_comes_back() {
    if !kube::can_run("objects::there_and_back::an_application_goes_away_and_comes_back") {
        return;
    }
    let [mut home, mut away] = two(json!({
        "namespaces": ["shop"],
        "namespaceMapping": {"shop": "shop-dr"},
        "imageRegistryMapping": {"east.example.org": "west.example.org"},
    }));
    away.place("orders", "/replica/orders", Some("node-w"));
    home.place("orders", "/srv/orders", Some("node-e"));
    home.plane.cluster().apply_yaml(SHOP);
    let bound = |side: &Side, namespace: &str| {
        eventually("the claim is bound", PATIENCE, || {
            get(&side.plane, &["pvc", "orders", "-n", namespace])["status"]["phase"] == "Bound"
        });
    };
    bound(&home, "shop");
    eventually("it runs", PATIENCE, || home.running_pods().len() >= 8);
    let volume = get(&home.plane, &["pv", "orders"])["spec"].clone();

    // There.
    let pods_away = PodWatch::start(&away.plane);
    away.apply(&home.capture(), &home);
    home.stand_still(&home.capture());
    eventually("nothing runs at home", PATIENCE, || home.running_pods().is_empty());
    let last = home.capture();
    let was = without_places(&home);
    let report = away.apply(&last, &home);
    assert_eq!((report.changed, report.created, report.removed), (0, 0, 0), "held where it was: {report:?}");
    assert_eq!(pods_away.events(), "", "pods before the release");
    away.release(&last, &home);
    assert_same(&as_at_home(&without_places(&away)), &was);
    let waits = away.not_ready(&last, &home);
    let ready = [
        "Deployment.apps shop-dr/same: 0 of 2",
        "Pod shop-dr/tool: Pending",
        "StatefulSet.apps shop-dr/db: 0 of 2",
    ];
    eventually("controllers have looked", PATIENCE, || {
        let waits = away.not_ready(&last, &home);
        ready.iter().all(|begin| waits.iter().any(|one| one.starts_with(begin)))
    });
    assert_eq!(waits.len(), 4, "{waits:?}");

    // What the other side sends changes home, held, and only what is different.
    let pods_home = PodWatch::start(&home.plane);
    let first = home.apply(&away.capture(), &away);
    // (The volume: it is asked to be on another node, and stays where it is.)
    assert_eq!((first.changed, first.created, first.removed, first.drifted), (1, 0, 0, 0), "{first:?}");
    assert!(
        get(&home.plane, &["secrets", "-n", "shop"])["items"].as_array().unwrap().is_empty(),
        "records are over"
    );
    change_away(&away);
    let changed = home.apply(&away.capture(), &away);
    assert_eq!((changed.changed, changed.created, changed.removed), (6, 1, 1), "{changed:?}");
    assert_eq!(get(&home.plane, &["statefulset", "db", "-n", "shop"])["spec"]["replicas"], 0);
    let unchanged = home.apply(&away.capture(), &away);
    assert_eq!((unchanged.changed, unchanged.created, unchanged.drifts), (0, 0, vec![]));

    // Drift of what was adopted and of what was taken over.
    for name in ["same", "web"] {
        home.plane.cluster().kubectl(["scale", "deployment", name, "-n", "shop", "--replicas=1"]).ok();
    }
    let drifted = home.apply(&away.capture(), &away);
    assert_eq!((drifted.changed, drifted.drifted), (2, 2), "{drifted:?}");
    for drift in &drifted.drifts {
        assert_eq!(drift.changed, ["spec.replicas"], "{drift:?}");
    }

    come_back(&home, &away, &pods_home);
    assert_eq!(get(&home.plane, &["pv", "orders"])["spec"]["local"], volume["local"]);
    assert_eq!(get(&home.plane, &["pv", "orders"])["spec"]["nodeAffinity"], volume["nodeAffinity"]);
    bound(&home, "shop");
    bound(&away, "shop-dr");
}

fn come_back(home: &Side, away: &Side, pods_home: &PodWatch) {
    let started = |events: &str| events.lines().filter(|line| line.starts_with("ADDED")).count();
    eventually("the drift is over", PATIENCE, || home.running_pods().is_empty());
    let drifted = started(&pods_home.events());
    away.stand_still(&away.capture());
    eventually("nothing runs away", PATIENCE, || away.running_pods().is_empty());
    let last = away.capture();
    let was = without_places(away);
    let report = home.apply(&last, away);
    assert_eq!((report.changed, report.created), (0, 0), "{report:?}");
    assert_eq!(started(&pods_home.events()), drifted, "pods at home before the release");
    home.release(&last, away);
    assert_same(&without_client_notes(without_places(home)), &without_client_notes(as_at_home(&was)));
    eventually("it runs at home", PATIENCE, || home.running_pods().len() >= 8);
    let again = home.release(&last, away);
    assert_eq!((again.released, again.created), (0, 0), "{again:?}");

    // And away once more, where everything is ours already.
    let report = away.apply(&home.capture(), home);
    assert_eq!((report.changed, report.created, report.drifted), (0, 0, 0), "{report:?}");
}
