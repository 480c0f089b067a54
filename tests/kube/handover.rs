//! Switchover and failback of a plan over namespaces: two sites beside two control planes.

use std::fs;
use std::path::Path;
use std::time::Duration;

use backstay_tests::kube::{self, ControlPlane, ControlPlaneOptions};
use backstay_tests::{Pair, Site, assert_same, eventually};
use serde_json::Value;

use crate::plans::Rig;

const PATIENCE: Duration = Duration::from_secs(90);

const PLAN: &str = "
apiVersion: backstay.dev/v1alpha1
kind: ReplicationPlan
metadata: {name: shop}
spec: {pair: west, namespaces: [shop]}
";

const APP: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: pv-data}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  storageClassName: local
  persistentVolumeReclaimPolicy: Retain
  hostPath: {path: VOLUME}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data, namespace: shop}
spec: {accessModes: [ReadWriteOnce], storageClassName: local, resources: {requests: {storage: 1Gi}}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: shop}
data: {colour: blue, old: x}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers: [{name: web, image: registry.example.org/web:1, volumeMounts: [{name: data, mountPath: /data}]}]
      volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: report, namespace: shop}
spec:
  schedule: '0 0 1 1 *'
  jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: report, image: report:1}]}}}}
---
apiVersion: v1
kind: Pod
metadata: {name: tool, namespace: shop}
spec: {containers: [{name: tool, image: registry.example.org/tool:1}]}
";

/// A control plane and the site beside it.
struct Side<'a> {
    plane: &'a ControlPlane,
    site: &'a Site,
}

impl Side<'_> {
    fn get(&self, args: &[&str]) -> Value {
        self.plane.cluster().get(&[args, &["-n", "shop"]].concat())
    }

    fn pods(&self) -> usize {
        self.get(&["pods"])["items"].as_array().unwrap().len()
    }

    #[track_caller]
    fn runs(&self, replicas: i64) {
        assert_eq!(self.get(&["deployment", "web"])["spec"]["replicas"], replicas);
        assert_ne!(self.get(&["cronjob", "report"])["spec"]["suspend"], true);
        assert!(self.plane.cluster().has(&["pod", "tool", "-n", "shop"]));
    }

    #[track_caller]
    fn stands(&self) {
        assert_eq!(self.get(&["deployment", "web"])["spec"]["replicas"], 0);
        assert_eq!(self.get(&["cronjob", "report"])["spec"]["suspend"], true);
        assert!(!self.plane.cluster().has(&["pod", "tool", "-n", "shop"]));
        eventually("its pods are gone", PATIENCE, || self.pods() == 0);
        assert_eq!(self.get(&["pvc", "data"])["status"]["phase"], "Bound");
    }

    /// A cycle of this side, applied by the other.
    #[track_caller]
    fn sync_to(&self, other: &Side<'_>) {
        let point = self.site.sync("shop")["id"].clone();
        eventually("the other side has applied it", PATIENCE, || {
            let status = other.site.status("shop");
            status["appliedRestorePoint"] == point && status["objects"]["failed"] == 0
        });
    }
}

fn place(side: &Side<'_>) -> String {
    let volume = side.plane.cluster().get(&["pv", "pv-data"]);
    volume["spec"]["hostPath"]["path"].as_str().unwrap().to_owned()
}

#[test]
fn a_namespace_goes_there_and_comes_back() {
    if !kube::can_run("handover::a_namespace_goes_there_and_comes_back") {
        return;
    }
    let [east, west] = std::thread::scope(|scope| {
        ["east", "west"]
            .map(|name| {
                let options = ControlPlaneOptions { controllers: true, ..Default::default() };
                scope.spawn(move || ControlPlane::start(name, options))
            })
            .map(|thread| thread.join().unwrap())
    });
    let pair = Pair::with(east.cluster().beside(), west.cluster().beside());
    let volume = pair.source("volume");
    fs::write(volume.join("orders"), "1\n").unwrap();
    east.cluster().apply_yaml(&APP.replace("VOLUME", volume.to_str().unwrap()));
    let (east, west) = (Side { plane: &east, site: &pair.east }, Side { plane: &west, site: &pair.west });
    eventually("the claim is bound, and pods are there", PATIENCE, || {
        east.get(&["pvc", "data"])["status"]["phase"] == "Bound" && east.pods() == 3
    });
    pair.east.apply(PLAN).ok();
    east.sync_to(&west);

    // There: nothing runs on either side in between, and the last write is there.
    fs::write(volume.join("orders"), "1\n2\n").unwrap();
    pair.east.cli(["switchover", "shop"]).ok();
    west.runs(2);
    // What fell due while it was held is not made up for: it ran on the other side.
    let last = west.get(&["cronjob", "report"])["status"]["lastScheduleTime"].clone();
    assert!(last.is_string(), "{last}");
    eventually("pods are there", PATIENCE, || west.pods() == 3);
    eventually("the other side is the standby", PATIENCE, || pair.east.status("shop")["role"] == "standby");
    east.stands();
    let replica = pair.west.replica("shop", "shop-data");
    assert_same(&volume, &replica);
    assert_eq!((Path::new(&place(&east)), Path::new(&place(&west))), (volume.as_path(), replica.as_path()));

    // What happens away reaches home, held.
    fs::write(replica.join("orders"), "1\n2\n3\n").unwrap();
    let patch = r#"{"data":{"colour":"red","old":null}}"#;
    west.plane.cluster().kubectl(["patch", "configmap", "settings", "-n", "shop", "-p", patch]).ok();
    west.plane.cluster().kubectl(["scale", "deployment", "web", "-n", "shop", "--replicas=4"]).ok();
    west.sync_to(&east);
    assert_eq!(east.get(&["configmap", "settings"])["data"], serde_json::json!({"colour": "red"}));
    east.stands();
    assert_same(&replica, &volume);

    // And back.
    pair.east.cli(["failback", "shop"]).ok();
    east.runs(4);
    eventually("pods are there", PATIENCE, || east.pods() == 5);
    eventually("the other side is the standby", PATIENCE, || pair.west.status("shop")["role"] == "standby");
    west.stands();
    assert_eq!((Path::new(&place(&east)), Path::new(&place(&west))), (volume.as_path(), replica.as_path()));
    east.sync_to(&west);

    // And there again: a volume that was active once on either side can still be written.
    east.plane.cluster().kubectl(["label", "pv", "pv-data", "tier=gold"]).ok();
    east.sync_to(&west);
    assert_eq!(west.plane.cluster().get(&["pv", "pv-data"])["metadata"]["labels"]["tier"], "gold");
    fs::write(volume.join("orders"), "1\n2\n3\n4\n").unwrap();
    pair.east.cli(["switchover", "shop"]).ok();
    assert_eq!(pair.west.status("shop")["role"], "active");
    west.runs(4);
    eventually("the other side is the standby", PATIENCE, || pair.east.status("shop")["role"] == "standby");
    east.stands();
    assert_same(&volume, &replica);
    west.sync_to(&east);
    pair.west.cli(["failback", "shop"]).ok();
    assert_eq!(pair.east.status("shop")["role"], "active");
    east.runs(4);
    assert_eq!((Path::new(&place(&east)), Path::new(&place(&west))), (volume.as_path(), replica.as_path()));
    east.sync_to(&west);
}

/// The server dies while the workloads are being held: nothing is handed over, and once it is back everything runs as it
/// did.
/// A settings object of a namespace, as somebody there wrote it.
fn settings(namespace: &str, value: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {namespace}}}\n---\napiVersion: v1\nkind: ConfigMap\n\
         metadata: {{name: settings, namespace: {namespace}}}\ndata: {{by: {value}}}\n"
    )
}

/// The other side says after a takeover that the plan has another namespace: at home it is kept, told and not written, until
/// the operator there accepts it.
#[test]
fn a_namespace_that_home_has_not_named_is_not_written() {
    if !kube::can_run("handover::a_namespace_that_home_has_not_named_is_not_written") {
        return;
    }
    let [east, west] = ["east", "west"].map(|name| ControlPlane::start(name, ControlPlaneOptions::default()));
    let mut pair = Pair::with(east.cluster().beside(), west.cluster().beside());
    east.cluster().apply_yaml(&settings("shop", "home"));
    east.cluster().apply_yaml(&settings("vault", "home"));
    west.cluster().apply_yaml(&settings("vault", "peer"));
    pair.east.apply(PLAN).ok();
    pair.east.sync("shop");
    pair.take_over("shop");
    pair.west.kill();
    let file = pair.west.dir().join("plans/shop/plan.json");
    let mut record: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    record["spec"]["namespaces"] = serde_json::json!(["shop", "vault"]);
    fs::write(&file, serde_json::to_vec(&record).unwrap()).unwrap();
    pair.west.serve();
    pair.east.serve();
    pair.wait_connected();
    eventually("east has stepped down", PATIENCE, || pair.east.status("shop")["role"] == "standby");
    let point = pair.west.sync("shop")["id"].clone();
    eventually("east shows it", PATIENCE, || pair.east.status("shop")["appliedRestorePoint"] == point);
    let by = |namespace: &str| {
        let found: Value = east.cluster().get(&["configmap", "settings", "-n", namespace]);
        found["data"]["by"].as_str().unwrap().to_owned()
    };
    assert_eq!(by("vault"), "home");
    let proposed = pair.east.status("shop")["proposed"].clone();
    assert_eq!(proposed["fields"], serde_json::json!(["namespaces"]), "{proposed}");
    assert_eq!(proposed["withheld"], serde_json::json!(["namespace vault"]), "{proposed}");

    pair.east.cli(["plan", "accept", "shop"]).ok();
    eventually("what was accepted is applied", PATIENCE, || pair.east.status("shop")["proposed"].is_null());
    assert!(!pair.east.status("shop")["objects"].is_null());
}

#[test]
fn a_server_that_dies_while_it_is_told_to_hold_brings_everything_back() {
    const TEST: &str = "handover::a_server_that_dies_while_it_is_told_to_hold_brings_everything_back";
    if !kube::can_run(TEST) {
        return;
    }
    let mut rig = Rig::start();
    let volume = rig.app();
    let east = &rig.pair.east;
    east.apply(PLAN).ok();
    east.allow_errors("API server");
    rig.cycle();
    let replicas = |plane: &ControlPlane| {
        plane.cluster().get(&["statefulset", "db", "-n", "shop"])["spec"]["replicas"].clone()
    };
    assert_eq!(replicas(&rig.active), 3);
    // A pod that does not go: the handover waits for it.
    let finalizers = |plane: &ControlPlane, list: &str| {
        let patch = format!("{{\"metadata\": {{\"finalizers\": [{list}]}}}}");
        plane.cluster().kubectl(["patch", "pod", "db-0", "-n", "shop", "--type=merge", "-p", &patch]).ok();
    };
    eventually("its pods are there", PATIENCE, || rig.active.cluster().has(&["pod", "db-0", "-n", "shop"]));
    finalizers(&rig.active, "\"example.org/stays\"");
    let mut asked = east.command(["switchover", "shop"]).spawn().unwrap();
    let record = east.dir().join("plans/shop/plan.json");
    eventually("it holds", PATIENCE, || replicas(&rig.active) == 0);
    rig.active.kill_apiserver();
    assert!(!asked.wait().unwrap().success(), "handed over without a server");
    assert_eq!(rig.pair.west.status("shop")["role"], "standby");
    assert_eq!(rig.on_standby(&["statefulset", "db"])["spec"]["replicas"], 0);

    rig.active.restart_apiserver();
    eventually("everything runs again", PATIENCE, || {
        !fs::read_to_string(&record).unwrap().contains("\"standing\": true")
    });
    assert_eq!(replicas(&rig.active), 3);
    let report = rig.active.cluster().get(&["cronjob", "report", "-n", "shop"]);
    assert_ne!(report["spec"]["suspend"], true);
    assert_eq!(rig.pair.east.status("shop")["role"], "active");
    finalizers(&rig.active, "");
    fs::write(volume.join("orders"), "1\n2\n").unwrap();
    rig.pair.east.cli(["switchover", "shop"]).ok();
    assert_eq!(rig.on_standby(&["statefulset", "db"])["spec"]["replicas"], 3);
    assert_same(&volume, &rig.pair.west.replica("shop", "shop-data"));
}
