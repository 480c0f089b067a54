//! Plans over namespaces, end to end: two sites beside two control planes.

use std::fs;
use std::path::Path;
use std::time::Duration;

use backstay_tests::kube::{self, ControlPlane, ControlPlaneOptions};
use backstay_tests::{Pair, assert_same, eventually, eventually_some};
use serde_json::Value;

const PLAN: &str = "
apiVersion: backstay.dev/v1alpha1
kind: ReplicationPlan
metadata: {name: shop}
spec: {pair: west, namespaces: [shop]}
";

/// An application with a volume that is a folder of this machine.
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
data: {colour: blue}
---
apiVersion: v1
kind: Secret
metadata: {name: password, namespace: shop}
stringData: {password: correct-horse}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, namespace: shop}
spec:
  serviceName: db
  replicas: 3
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      containers: [{name: db, image: registry.example.org/db:1, volumeMounts: [{name: data, mountPath: /data}]}]
      volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: report, namespace: shop}
spec:
  schedule: '0 0 1 1 *'
  jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: report, image: report:1}]}}}}
";

pub(crate) struct Rig {
    pub(crate) active: ControlPlane,
    pub(crate) standby: ControlPlane,
    pub(crate) pair: Pair,
}

impl Rig {
    pub(crate) fn start() -> Rig {
        let [active, standby] = std::thread::scope(|scope| {
            ["active", "standby"]
                .map(|name| {
                    let options = ControlPlaneOptions { controllers: true, ..Default::default() };
                    scope.spawn(move || ControlPlane::start(name, options))
                })
                .map(|thread| thread.join().unwrap())
        });
        let pair = Pair::with(active.cluster().beside(), standby.cluster().beside());
        Rig { active, standby, pair }
    }

    /// Applies the application, its claim bound to a folder; gives the folder.
    pub(crate) fn app(&self) -> std::path::PathBuf {
        let volume = self.pair.source("volume");
        fs::write(volume.join("orders"), "1\n").unwrap();
        self.active.cluster().apply_yaml(&APP.replace("VOLUME", volume.to_str().unwrap()));
        eventually("the claim is bound", Duration::from_secs(60), || {
            self.active.cluster().get(&["pvc", "data", "-n", "shop"])["status"]["phase"] == "Bound"
        });
        volume
    }

    /// One cycle, and the standby's status once it has applied it.
    #[track_caller]
    pub(crate) fn cycle(&self) -> Value {
        let point = self.pair.east.sync("shop")["id"].clone();
        eventually_some("the standby has applied it", Duration::from_secs(60), || {
            let status = self.pair.west.status("shop");
            (status["appliedRestorePoint"] == point).then_some(status)
        })
    }

    #[track_caller]
    pub(crate) fn on_standby(&self, args: &[&str]) -> Value {
        self.standby.cluster().get(&[args, &["-n", "shop"]].concat())
    }
}

#[test]
fn a_namespace_and_its_volume_are_one_restore_point() {
    if !kube::can_run("plans::a_namespace_and_its_volume_are_one_restore_point") {
        return;
    }
    let mut rig = Rig::start();
    let volume = rig.app();
    rig.pair.east.apply(PLAN).ok();

    let status = rig.cycle();
    assert_eq!(status["objects"]["failed"], 0, "{status}");
    assert_eq!(status["objects"]["held"], 3, "the StatefulSet, the CronJob and the volume: {status}");
    assert_eq!(rig.on_standby(&["statefulset", "db"])["spec"]["replicas"], 0);
    assert_eq!(rig.on_standby(&["cronjob", "report"])["spec"]["suspend"], true);
    let replica = rig.pair.west.replica("shop", "shop-data");
    assert_same(&volume, &replica);
    let pv = rig.standby.cluster().get(&["pv", "pv-data"]);
    assert_eq!(Path::new(pv["spec"]["hostPath"]["path"].as_str().unwrap()), replica);
    eventually("the claim is bound to the replica", Duration::from_secs(60), || {
        rig.on_standby(&["pvc", "data"])["status"]["phase"] == "Bound"
    });

    // Data and configuration change together; nothing else is written.
    fs::write(volume.join("orders"), "1\n2\n").unwrap();
    let patch = r#"{"data":{"colour":"red"}}"#;
    rig.active.cluster().kubectl(["patch", "configmap", "settings", "-n", "shop", "-p", patch]).ok();
    let status = rig.cycle();
    assert_eq!((&status["objects"]["changed"], &status["objects"]["created"]), (&1.into(), &0.into()));
    assert_same(&volume, &replica);
    let version = || rig.on_standby(&["statefulset", "db"])["metadata"]["resourceVersion"].clone();
    let before = version();
    rig.cycle();
    assert_eq!(version(), before, "an unchanged cycle wrote an object");

    let points = rig.pair.west.restore_points("shop");
    assert_eq!(points.len(), 3);

    // What a promotion will do is told before, and done after.
    rig.pair.east.kill();
    let plan = rig.pair.west.promote("shop", &["--dry-run"]);
    let waves = plan["waves"].to_string();
    assert!(waves.contains("StatefulSet.apps shop/db"), "{plan}");
    assert_eq!(rig.on_standby(&["statefulset", "db"])["spec"]["replicas"], 0, "a dry run released");
    let report = rig.pair.take_over("shop");
    assert_eq!(rig.on_standby(&["statefulset", "db"])["spec"]["replicas"], 3, "{report}");
    assert_ne!(rig.on_standby(&["cronjob", "report"])["spec"]["suspend"], true);
    assert_eq!(rig.on_standby(&["configmap", "settings"])["data"]["colour"], "red");
    let log = rig.pair.west.log() + &rig.pair.east.log();
    assert!(!log.contains("correct-horse") && !log.contains("Y29ycmVjdC1ob3JzZQ"), "a secret in the log");
}

#[test]
fn an_object_that_fails_is_told_and_holds_up_neither_data_nor_the_rest() {
    if !kube::can_run("plans::an_object_that_fails_is_told_and_holds_up_neither_data_nor_the_rest") {
        return;
    }
    let mut rig = Rig::start();
    let volume = rig.app();
    let quota = "{apiVersion: v1, kind: ResourceQuota, metadata: {name: none, namespace: shop}, spec: {hard: {secrets: '0'}}}";
    rig.standby.cluster().apply_yaml("{apiVersion: v1, kind: Namespace, metadata: {name: shop}}");
    rig.standby.cluster().apply_yaml(quota);
    eventually("the quota is in force", Duration::from_secs(60), || {
        let probe = ["create", "secret", "generic", "probe", "-n", "shop", "--dry-run=server"];
        rig.standby.cluster().kubectl(probe).code != 0
    });
    rig.pair.east.apply(PLAN).ok();

    let status = rig.cycle();
    assert_eq!(status["objects"]["failed"], 1, "{status}");
    let failure = status["objects"]["firstFailures"][0].as_str().unwrap();
    assert!(failure.contains("shop/password"), "{failure}");
    assert_same(&volume, &rig.pair.west.replica("shop", "shop-data"));
    let shown = rig.pair.west.cli(["status", "shop"]).ok().stdout;
    assert!(shown.contains("1 failed") && shown.contains("shop/password"), "{shown}");

    // A takeover starts all it can, says what is missing, and goes on when asked again.
    rig.pair.east.kill();
    rig.pair.west.allow_errors("promotion stopped");
    rig.pair.west.cli(["promote", "shop"]).refused(&[7], &["shop/password"]);
    assert_eq!(rig.on_standby(&["statefulset", "db"])["spec"]["replicas"], 3);
    assert_eq!(rig.pair.west.status("shop")["role"], "promoting");
    rig.standby.cluster().kubectl(["delete", "resourcequota", "none", "-n", "shop"]).ok();
    rig.pair.west.promote("shop", &[]);
    assert_eq!(rig.pair.west.status("shop")["role"], "active");
    assert!(rig.standby.cluster().has(&["secret", "password", "-n", "shop"]));
}

/// A site brought back from a backup of before its takeover does not know of it: it neither holds what runs since, nor
/// writes its volumes.
#[test]
fn a_site_from_a_backup_touches_nothing_that_was_released_since() {
    if !kube::can_run("plans::a_site_from_a_backup_touches_nothing_that_was_released_since") {
        return;
    }
    let mut rig = Rig::start();
    let volume = rig.app();
    rig.pair.east.apply(PLAN).ok();
    rig.cycle();
    let backup = rig.pair.work("backup");
    let copy = |from: &Path, to: &Path| {
        let mut command = std::process::Command::new("rsync");
        command.args(["--archive", "--delete", "--exclude=/replicas"]).arg(from.join("")).arg(to);
        assert!(command.status().unwrap().success());
    };
    rig.pair.west.terminate();
    copy(rig.pair.west.dir(), &backup);
    rig.pair.west.serve();
    rig.pair.take_over("shop");
    let replica = rig.pair.west.replica("shop", "shop-data").join("orders");
    fs::write(&replica, "1\nof the new side\n").unwrap();

    rig.pair.west.terminate();
    copy(&backup, rig.pair.west.dir());
    rig.pair.west.allow_errors("replica not brought up to date");
    rig.pair.west.serve();
    rig.pair.east.serve();
    rig.pair.wait_connected();
    assert_eq!(rig.pair.west.status("shop")["epoch"], 1, "what it was before the takeover");
    fs::write(volume.join("orders"), "1\nof the old side\n").unwrap();
    rig.pair.east.sync("shop");
    let told = eventually_some("it says why nothing is applied", Duration::from_secs(60), || {
        let error = rig.pair.west.status("shop")["applyError"].clone();
        error.is_object().then_some(error)
    });
    assert_eq!(told["class"], "fenced", "{told}");
    rig.pair.west.allow_errors("promot");
    rig.pair.west.cli(["verify", "--repair"]).refused(&[4], &["epoch 2"]);
    rig.pair.east.kill();
    rig.pair.west.cli(["promote", "shop"]).refused(&[4], &["epoch 2", "--force"]);
    assert_eq!(rig.on_standby(&["statefulset", "db"])["spec"]["replicas"], 3);
    assert_eq!(fs::read_to_string(&replica).unwrap(), "1\nof the new side\n");
    let report = rig.pair.west.promote("shop", &["--force"]);
    assert_eq!(report["epoch"], 3, "above what the cluster knows: {report}");
}

#[test]
fn a_dead_api_server_costs_what_it_must() {
    if !kube::can_run("plans::a_dead_api_server_costs_what_it_must") {
        return;
    }
    let mut rig = Rig::start();
    let volume = rig.app();
    rig.pair.east.apply(PLAN).ok();
    rig.cycle();

    // Without the standby's server restore points go on: only its objects lag.
    rig.standby.kill_apiserver();
    rig.pair.west.allow_errors("replica not brought up to date");
    fs::write(volume.join("orders"), "1\n2\n3\n").unwrap();
    let point = rig.pair.east.sync("shop");
    let status = eventually_some("the failure is told", Duration::from_secs(60), || {
        let status = rig.pair.west.status("shop");
        status["applyError"].is_object().then_some(status)
    });
    assert_eq!(status["lastRestorePoint"], point["id"]);
    assert_same(&volume, &rig.pair.west.replica("shop", "shop-data"));
    rig.standby.restart_apiserver();
    let status = rig.cycle();
    assert!(status["applyError"].is_null(), "{status}");

    // Without the source's there is no restore point: it would lack the objects.
    rig.active.kill_apiserver();
    let before = rig.pair.west.restore_point_ids("shop");
    rig.pair.east.cli(["sync", "shop"]).refused(&[5], &["API server"]);
    assert_eq!(rig.pair.west.restore_point_ids("shop"), before);
    rig.active.restart_apiserver();
    rig.cycle();
}

#[test]
fn a_claim_that_cannot_be_read_makes_no_restore_point() {
    if !kube::can_run("plans::a_claim_that_cannot_be_read_makes_no_restore_point") {
        return;
    }
    let rig = Rig::start();
    rig.app();
    let active = rig.active.cluster();
    active.apply_yaml(
        "{apiVersion: v1, kind: PersistentVolume, metadata: {name: remote}, spec: {capacity: {storage: 1Gi}, \
         accessModes: [ReadWriteOnce], storageClassName: csi, csi: {driver: disk.example.org, volumeHandle: v1}}}",
    );
    active.apply_yaml(
        "{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: remote, namespace: shop}, spec: \
         {accessModes: [ReadWriteOnce], storageClassName: csi, resources: {requests: {storage: 1Gi}}}}",
    );
    eventually("the claim is bound", Duration::from_secs(60), || {
        active.get(&["pvc", "remote", "-n", "shop"])["status"]["phase"] == "Bound"
    });
    rig.pair.east.apply(PLAN).ok();
    rig.pair.east.cli(["sync", "shop"]).refused(&[2], &["shop/remote", "disk.example.org"]);
    assert!(rig.pair.west.restore_point_ids("shop").is_empty());

    active.kubectl(["label", "pvc", "remote", "-n", "shop", "backstay.dev/exclude=true"]).ok();
    rig.cycle();
    assert!(!rig.standby.cluster().has(&["pvc", "remote", "-n", "shop"]));
}
