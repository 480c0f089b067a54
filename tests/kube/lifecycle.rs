//! The life of a plan on clusters: who may begin it, what its end leaves running, and the ways back to a standby.

use std::fs;
use std::time::Duration;

use backstay_tests::kube::{self, Cluster};
use backstay_tests::{assert_same, eventually};
use serde_json::Value;

use crate::controllers::{self, HOME, await_condition, condition, plan};
use crate::plans::Rig;

const PATIENCE: Duration = Duration::from_secs(90);

const PLAN: &str = "
apiVersion: backstay.dev/v1alpha1
kind: ReplicationPlan
metadata: {name: shop}
spec: {pair: west, namespaces: [shop]}
";

/// A Deployment of a namespace of its own; nothing runs it but controllers.
const WEB: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: NAME}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: NAME}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {MORE containers: [{name: web, image: registry.example.org/web:1}]}
";

fn web(name: &str, more: &str) -> String {
    WEB.replace("NAME", name).replace("MORE", more)
}

fn replicas(cluster: &Cluster, namespace: &str) -> Value {
    cluster.get(&["deployment", "web", "-n", namespace])["spec"]["replicas"].clone()
}

/// A plan that went there and came back is deleted, at home and then on its standby: what runs goes on running, and no
/// resource makes the plan anew.
#[test]
fn a_deleted_plan_goes_on_running() {
    if !kube::can_run("lifecycle::a_deleted_plan_goes_on_running") {
        return;
    }
    let rig = controllers::Rig::start();
    let (east, west) = (rig.active.cluster(), rig.standby.cluster());
    east.apply_yaml(&web("shop", ""));
    east.apply_yaml(&plan(HOME, "shop", "pair: west, namespaces: [shop], schedule: {interval: 3s}"));
    let resource = ["bsplan", "shop", "-n", HOME];
    await_condition(east, &resource, "Synced", "True", "Committed");
    await_condition(west, &resource, "Ready", "True", "Standby");
    rig.pair.east.cli(["switchover", "shop"]).ok();
    await_condition(west, &resource, "Ready", "True", "Accepted");
    eventually("the resource at home is a mirror", PATIENCE, || is_mirror(&east.get(&resource)));
    rig.pair.west.cli(["failback", "shop"]).ok();
    let own = await_condition(east, &resource, "Ready", "True", "Accepted");
    assert!(own["metadata"]["labels"]["backstay.dev/mirror"].is_null(), "{own}");
    eventually("the other is a mirror again", PATIENCE, || is_mirror(&west.get(&resource)));
    await_condition(east, &resource, "Synced", "True", "Committed");
    assert_eq!(replicas(east, "shop"), 2);

    east.kubectl(["delete", "bsplan", "shop", "-n", HOME, "--timeout=60s"]).ok();
    let ended = await_condition(west, &resource, "Ready", "False", "Ended");
    assert_eq!(condition(&ended, "Synced")["reason"], "Ended", "{ended}");
    rig.pair.west.cli(["plan", "delete", "shop"]).ok();
    eventually("the mirror is gone", PATIENCE, || !west.has(&resource));

    // Where the copies are held, no plan begins that is active.
    west.apply_yaml(&plan(HOME, "shop", "pair: east, namespaces: [shop]"));
    let refused = await_condition(west, &resource, "Ready", "False", "Fenced");
    let message = condition(&refused, "Ready")["message"].as_str().unwrap().to_owned();
    assert!(message.contains("is the held copy of a standby"), "{message}");
    let manifest = plan(HOME, "shop", "pair: east, namespaces: [shop]");
    rig.pair.west.apply(&manifest).refused(&[4], &["is the held copy of a standby"]);
    west.kubectl(["delete", "bsplan", "shop", "-n", HOME, "--timeout=60s"]).ok();

    // Where they run, one that knows of them begins, at their epoch.
    east.apply_yaml(&plan(HOME, "shop", "pair: west, namespaces: [shop]"));
    let refused = await_condition(east, &resource, "Ready", "False", "Fenced");
    let message = condition(&refused, "Ready")["message"].as_str().unwrap().to_owned();
    assert!(message.contains("backstay.dev/adopt: \"3\""), "{message}");
    east.kubectl(["annotate", "bsplan", "shop", "-n", HOME, "backstay.dev/adopt=3"]).ok();
    let begun = await_condition(east, &resource, "Ready", "True", "Accepted");
    eventually("its epoch is shown", PATIENCE, || east.get(&resource)["status"]["epoch"] == 3);
    assert!(begun["metadata"]["finalizers"].is_array(), "{begun}");
    rig.pair.east.sync("shop");
    assert_eq!(rig.pair.west.status("shop")["role"], "standby");
    assert_eq!((replicas(east, "shop"), replicas(west, "shop")), (2.into(), 0.into()));
}

fn is_mirror(resource: &Value) -> bool {
    resource["metadata"]["labels"]["backstay.dev/mirror"] == "true"
        && resource["metadata"]["finalizers"].is_null()
        && resource["status"]["role"] == "standby"
}

/// A site that has lost what it knew of its plans makes none of a resource that it had told of another role.
#[test]
fn a_resource_that_was_told_otherwise_begins_nothing() {
    if !kube::can_run("lifecycle::a_resource_that_was_told_otherwise_begins_nothing") {
        return;
    }
    let mut rig = controllers::Rig::start();
    let resource = ["bsplan", "files", "-n", HOME];
    let folder = rig.pair.source("folder");
    let volumes = format!("volumes: [{{name: data, path: {}}}]", folder.display());
    rig.active.cluster().apply_yaml(&plan(HOME, "files", &format!("pair: west, {volumes}")));
    await_condition(rig.active.cluster(), &resource, "Ready", "True", "Accepted");
    rig.pair.east.sync("files");
    // One that an operator wrote on the standby is left alone, and told.
    rig.pair.west.terminate();
    let other = rig.pair.source("other");
    let west = rig.standby.cluster();
    if west.has(&resource) {
        west.kubectl(["delete", "bsplan", "files", "-n", HOME]).ok();
    }
    let volumes = format!("volumes: [{{name: data, path: {}}}]", other.display());
    west.apply_yaml("{apiVersion: v1, kind: Namespace, metadata: {name: backstay-system}}");
    west.apply_yaml(&plan(HOME, "files", &format!("pair: east, {volumes}")));
    rig.pair.west.serve();
    await_condition(west, &resource, "Ready", "True", "Standby");

    rig.pair.east.kill();
    rig.pair.west.terminate();
    fs::remove_dir_all(rig.pair.west.dir().join("plans")).unwrap();
    rig.pair.west.serve();
    await_condition(west, &resource, "Ready", "False", "ToldOtherwise");
    assert!(rig.pair.west.cli(["plan", "list", "-o", "json"]).ok().items().is_empty());
}

/// Who may write plans in a namespace gets no say over a plan of the command line.
#[test]
fn a_tenant_takes_no_plan_of_the_command_line_over() {
    if !kube::can_run("lifecycle::a_tenant_takes_no_plan_of_the_command_line_over") {
        return;
    }
    let rig = controllers::Rig::start();
    let east = rig.active.cluster();
    east.apply_yaml(&web("shop", ""));
    east.apply_yaml("{apiVersion: v1, kind: Namespace, metadata: {name: tenant}}");
    let spec = "{pair: west, namespaces: [shop], retention: {last: 9}}";
    rig.pair.east.apply(&PLAN.replace("{pair: west, namespaces: [shop]}", spec)).ok();
    let theirs = plan("tenant", "shop", "pair: west, namespaces: [tenant], retention: {last: 1}");
    // Finalizers and labels are written by whoever writes the resource.
    let theirs = theirs.replace(
        "namespace: tenant}",
        "namespace: tenant, finalizers: [backstay.dev/plan], labels: {backstay.dev/mirror: 'true'}}",
    );
    east.apply_yaml(&theirs);
    let resource = ["bsplan", "shop", "-n", "tenant"];
    let refused = await_condition(east, &resource, "Ready", "False", "NameTaken");
    assert!(refused["status"]["role"].is_null(), "{refused}");
    let retention =
        || rig.pair.east.cli(["plan", "get", "shop", "-o", "json"]).ok().json()["spec"]["retention"].clone();
    assert_eq!(retention()["last"], 9);
    east.kubectl(["delete", "bsplan", "shop", "-n", "tenant", "--timeout=60s"]).ok();
    assert_eq!(retention()["last"], 9);

    // In the daemon's namespace it is the administrator who asks.
    east.apply_yaml(&plan(HOME, "shop", "pair: west, namespaces: [shop], retention: {last: 8}"));
    await_condition(east, &["bsplan", "shop", "-n", HOME], "Ready", "True", "Accepted");
    eventually("it is taken over", PATIENCE, || retention()["last"] == 8);
}

/// The other side takes over and cannot start everything: whoever asked is told, and so is everybody who looks there.
#[test]
fn a_takeover_that_stops_half_way_is_told() {
    if !kube::can_run("lifecycle::a_takeover_that_stops_half_way_is_told") {
        return;
    }
    let rig = Rig::start();
    rig.app();
    let (east, west) = (&rig.pair.east, &rig.pair.west);
    east.apply(PLAN).ok();
    rig.cycle();
    west.allow_errors("promotion stopped");
    let standby = rig.standby.cluster();
    let quota = "{apiVersion: v1, kind: ResourceQuota, metadata: {name: none, namespace: shop}, spec: {hard: {secrets: '0'}}}";
    standby.kubectl(["delete", "secret", "password", "-n", "shop"]).ok();
    standby.apply_yaml(quota);
    eventually("the quota is in force", PATIENCE, || {
        standby.kubectl(["create", "secret", "generic", "probe", "-n", "shop", "--dry-run=server"]).code != 0
    });
    let refused = east.cli(["switchover", "shop"]);
    let refused = refused.refused(&[7], &["is not done", "shop/password", "backstay promote shop"]);
    assert!(!refused.stdout.contains("nothing lost"), "{}", refused.stdout);
    let status = west.status("shop");
    assert_eq!(status["role"], "promoting", "{status}");
    assert!(status["promotionError"]["message"].as_str().unwrap().contains("shop/password"), "{status}");
    assert_eq!(status["objects"]["failed"], 1, "{status}");
    assert!(status["objects"]["firstFailures"][0].as_str().unwrap().contains("shop/password"), "{status}");

    standby.kubectl(["delete", "resourcequota", "none", "-n", "shop"]).ok();
    eventually("the quota is gone", PATIENCE, || west.cli(["promote", "shop"]).code == 0);
    let status = west.status("shop");
    assert_eq!((&status["role"], &status["promotionError"]), (&"active".into(), &Value::Null), "{status}");
    assert!(standby.has(&["secret", "password", "-n", "shop"]));
}

/// Two plans that share what belongs to no namespace go away and come home, each on its own.
#[test]
fn plans_that_share_a_class_come_home_each_on_its_own() {
    if !kube::can_run("lifecycle::plans_that_share_a_class_come_home_each_on_its_own") {
        return;
    }
    let rig = Rig::start();
    let (east, west) = (&rig.pair.east, &rig.pair.west);
    rig.active.cluster().apply_yaml(
        "{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {name: gold}, value: 1000}",
    );
    for name in ["one", "two"] {
        rig.active.cluster().apply_yaml(&web(name, "priorityClassName: gold,"));
        east.apply(
            &PLAN.replace("name: shop", &format!("name: {name}")).replace("[shop]", &format!("[{name}]")),
        )
        .ok();
        east.sync(name);
    }
    for name in ["one", "two"] {
        east.cli(["switchover", name]).ok();
        assert_eq!(replicas(rig.standby.cluster(), name), 2);
    }
    for name in ["one", "two"] {
        eventually("the other side is the standby", PATIENCE, || east.status(name)["role"] == "standby");
        west.sync(name);
        west.cli(["failback", name]).ok();
        assert_eq!(replicas(rig.active.cluster(), name), 2);
        assert_eq!(replicas(rig.standby.cluster(), name), 0);
    }
}

/// A side that comes back without its namespace has nothing that runs: it becomes the standby, keeps the data that is left,
/// and its volume is the plan's again.
#[test]
fn a_side_whose_namespace_is_gone_becomes_the_standby() {
    if !kube::can_run("lifecycle::a_side_whose_namespace_is_gone_becomes_the_standby") {
        return;
    }
    let mut rig = Rig::start();
    let volume = rig.app();
    rig.pair.east.apply(PLAN).ok();
    rig.cycle();
    rig.pair.east.kill();
    fs::write(volume.join("orders"), "1\nwritten after the last point\n").unwrap();
    rig.active.cluster().kubectl(["delete", "namespace", "shop", "--timeout=90s"]).ok();
    rig.pair.west.promote("shop", &[]);
    rig.pair.east.serve();
    rig.pair.wait_connected();
    eventually("it is the standby", PATIENCE, || rig.pair.east.status("shop")["role"] == "standby");
    let points = rig.pair.east.restore_point_ids("shop");
    assert_eq!(points.len(), 1, "what was written is kept: {points:?}");

    let point = rig.pair.west.sync("shop")["id"].clone();
    eventually("it follows", PATIENCE, || rig.pair.east.status("shop")["appliedRestorePoint"] == point);
    let status = rig.pair.east.status("shop");
    assert_eq!(status["objects"]["failed"], 0, "{status}");
    assert_same(&rig.pair.west.replica("shop", "shop-data"), &volume);
    eventually("the claim has its volume", PATIENCE, || {
        rig.active.cluster().get(&["pvc", "data", "-n", "shop"])["status"]["phase"] == "Bound"
    });
    rig.pair.west.cli(["failback", "shop"]).ok();
    assert_eq!(rig.active.cluster().get(&["statefulset", "db", "-n", "shop"])["spec"]["replicas"], 3);
}

/// Somebody deletes a claim on the standby: the one that is made anew gets the volume.
#[test]
fn a_claim_made_anew_on_the_standby_binds() {
    if !kube::can_run("lifecycle::a_claim_made_anew_on_the_standby_binds") {
        return;
    }
    let rig = Rig::start();
    rig.app();
    rig.pair.east.apply(PLAN).ok();
    rig.cycle();
    let standby = rig.standby.cluster();
    let phase = |args: &[&str]| standby.get(args)["status"]["phase"].clone();
    let claim = ["pvc", "data", "-n", "shop"];
    eventually("the claim is bound", PATIENCE, || phase(&claim) == "Bound");
    standby.kubectl(["delete", "pvc", "data", "-n", "shop", "--timeout=60s"]).ok();
    eventually("its volume is left", PATIENCE, || phase(&["pv", "pv-data"]) == "Released");
    rig.active.cluster().kubectl(["label", "configmap", "settings", "-n", "shop", "a=b"]).ok();
    let status = rig.cycle();
    assert_eq!(status["objects"]["failed"], 0, "{status}");
    eventually("the new claim is bound", PATIENCE, || phase(&claim) == "Bound");
}
