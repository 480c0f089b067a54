//! A namespace with one of everything: it arrives, stays held, costs nothing while nothing changes, and comes back
//! exactly.

use std::time::Duration;

use backstay_tests::kube::{self, ControlPlane};
use backstay_tests::{eventually, eventually_some};
use serde_json::{Value, json};

use super::rig::{PodWatch, Rig, captured, contents, get, versions};

const EVERYTHING: &str = include_str!("../fixtures/everything.yaml");
const CUSTOM: &str = include_str!("../fixtures/custom.yaml");

/// The application runs on the active side, as far as it can without nodes.
pub(super) fn install(plane: &ControlPlane) {
    let active = plane.cluster();
    active.apply_yaml(EVERYTHING);
    eventually("the definitions are served", Duration::from_secs(30), || {
        active.has(&["databases.a.example.org", "-n", "shop"])
            && active.has(&["databases.b.example.org", "-n", "shop"])
    });
    active.apply_yaml(CUSTOM.split("---\napiVersion: admissionregistration").next().unwrap());
    let owner = get(plane, &["databases.a.example.org", "main", "-n", "shop"]);
    let child = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "main-users", "namespace": "shop",
        "ownerReferences": [{"apiVersion": "a.example.org/v1", "kind": "Database", "name": "main", "uid": owner["metadata"]["uid"], "controller": true}]}});
    active.apply_yaml(&child.to_string());
    // The webhook comes last: its backend never answers.
    active.apply_yaml(CUSTOM);
    eventually("pods of every controller", Duration::from_secs(60), || {
        let pods = get(plane, &["pods", "-n", "shop"]);
        // Three of the Deployment, one of the set (its second waits), one each of the others, and the bare one.
        pods["items"].as_array().unwrap().len() >= 8
    });
    eventually("the claim is bound", Duration::from_secs(60), || {
        get(plane, &["pvc", "data", "-n", "shop"])["status"]["phase"] == "Bound"
    });
}

#[test]
fn one_of_everything_stays_held_and_comes_back() {
    if !kube::can_run("objects::everything::one_of_everything_stays_held_and_comes_back") {
        return;
    }
    let rig = Rig::start(true, json!({"namespaces": ["shop"]}));
    install(&rig.active);
    let pods = PodWatch::start(&rig.standby);

    let first = rig.capture();
    assert!(first.report.is_complete(), "{:?}", first.report);
    assert_eq!(first.volumes.len(), 2, "one claim by hand, one of the set's first pod: {:?}", first.volumes);
    let report = rig.apply(&first);
    assert_eq!(report.failures.named, []);
    assert_eq!(report.deferred, 2, "the bare pod and the webhook: {report:?}");
    let at_first = versions(&rig.standby, "shop");

    // Controllers have had their say once they have looked at everything: this one is the last of a chain.
    eventually("the standby's controllers have seen the StatefulSet", Duration::from_secs(60), || {
        let set = get(&rig.standby, &["statefulset", "db", "-n", "shop"]);
        set["status"]["observedGeneration"] == set["metadata"]["generation"]
    });
    // But for the autoscaler's, which comes round every 15 s.
    eventually("the standby's controllers have seen the autoscaler", Duration::from_secs(60), || {
        get(&rig.standby, &["hpa", "web", "-n", "shop"])["status"]["conditions"].is_array()
    });
    assert_held(&rig);
    settle(&rig);
    let before = versions(&rig.standby, "shop");
    let unchanged = rig.cycle();
    assert_eq!(
        (unchanged.created, unchanged.changed, unchanged.recreated, unchanged.removed),
        (0, 0, 0, 0),
        "{unchanged:?}"
    );
    assert_eq!(unchanged.drifts, []);
    assert_eq!(versions(&rig.standby, "shop"), before, "an unchanged cycle wrote something");
    assert!(at_first.len() > 25, "{at_first:?}");
    assert_eq!(pods.events(), "", "pods on the standby before promotion");

    promote(&rig, &pods);
}

/// What is kept from running, and how.
fn assert_held(rig: &Rig) {
    for (kind, name, pointer, expected) in [
        ("deployment", "web", "/spec/replicas", json!(0)),
        ("statefulset", "db", "/spec/replicas", json!(0)),
        ("replicaset", "single", "/spec/replicas", json!(0)),
        ("replicationcontroller", "old", "/spec/replicas", json!(0)),
        ("daemonset", "agent", "/spec/template/spec/nodeSelector/backstay.dev~1held", json!("no-such-node")),
        ("job", "import", "/spec/suspend", json!(true)),
        ("cronjob", "report", "/spec/suspend", json!(true)),
        ("cronjob", "paused", "/spec/suspend", json!(true)),
        ("databases.a.example.org", "main", "/spec/instances", json!(0)),
        ("databases.b.example.org", "main", "/spec/instances", json!(3)),
        ("service", "web", "/spec/ports/0/nodePort", json!(30080)),
        ("hpa", "web", "/spec/minReplicas", json!(2)),
    ] {
        let object = get(&rig.standby, &[kind, name, "-n", "shop"]);
        assert_eq!(object.pointer(pointer), Some(&expected), "{kind} {name}");
        assert_eq!(object["metadata"]["labels"]["backstay.dev/plan"], "shop", "{kind} {name}");
    }
    let volume = get(&rig.standby, &["pv", "shop-data"]);
    assert_eq!(volume["spec"]["persistentVolumeReclaimPolicy"], "Retain");
    let owner = get(&rig.standby, &["databases.a.example.org", "main", "-n", "shop"]);
    let child = get(&rig.standby, &["secret", "main-users", "-n", "shop"]);
    assert_eq!(
        child["metadata"]["ownerReferences"][0]["uid"], owner["metadata"]["uid"],
        "linked to the owner here"
    );
    assert!(!rig.standby.cluster().has(&["validatingwebhookconfiguration", "shop-check"]));
    assert!(!rig.standby.cluster().has(&["pod", "tool", "-n", "shop"]));
    let subjects = get(&rig.standby, &["clusterrolebinding", "shop-nodes"]);
    assert_eq!(subjects["subjects"].as_array().unwrap().len(), 1, "of the scope only");
}

/// Until controllers write no more.
fn settle(rig: &Rig) {
    let mut last = versions(&rig.standby, "shop");
    eventually_some("the standby's controllers are done", Duration::from_secs(60), || {
        std::thread::sleep(Duration::from_millis(500));
        let now = versions(&rig.standby, "shop");
        let same = now == last;
        last = now;
        same.then_some(())
    });
}

fn promote(rig: &Rig, pods: &PodWatch) {
    let last = rig.capture();
    rig.apply(&last);
    assert_eq!(pods.events(), "", "pods on the standby before promotion");
    let report = rig.release(&last);
    assert_eq!(report.failures.named, []);
    assert!(report.waves.is_sorted() && report.waves.len() >= 5, "{:?}", report.waves);
    eventually("pods of the Deployment", Duration::from_secs(60), || pods.events().contains("web-"));

    let again = rig.release(&last);
    assert_eq!((again.released, again.created), (0, 0), "a release is done once: {again:?}");

    let (source, mut there) = (contents(&last), contents(&rig.try_capture(&rig.standby).unwrap()));
    // What the standby's own controllers made of the released: jobs of the schedule.
    there.retain(|key, _| source.contains_key(key) || !key.starts_with("shop/batch_Job/report-"));
    for (key, object) in &source {
        assert_eq!(there.get(key), Some(object), "{key}");
    }
    let keys = |all: &std::collections::BTreeMap<String, Value>| all.keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&there), keys(&source));
    assert_eq!(captured(&last, "shop/apps_Deployment/web")["spec"]["replicas"], 3);
    assert!(rig.standby.cluster().has(&["validatingwebhookconfiguration", "shop-check"]));
}
