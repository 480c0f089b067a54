//! The harness: whole clusters with pods that run, volumes that are folders of this machine, and a link to cut.

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use backstay_tests::kube::{self, Cluster, Link, NodePair};
use backstay_tests::{eventually, eventually_some};

/// Counts in a file of its volume, one number a line.
const WRITER: &str = "\
apiVersion: v1
kind: PersistentVolume
metadata: {name: data}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  storageClassName: local
  hostPath: {path: VOLUME}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {accessModes: [ReadWriteOnce], storageClassName: local, resources: {requests: {storage: 1Gi}}}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: writer}
spec:
  serviceName: writer
  selector: {matchLabels: {app: writer}}
  template:
    metadata: {labels: {app: writer}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: writer
        image: localhost/busybox:1
        imagePullPolicy: Never
        command: [sh, -c, \"i=0; while :; do i=$((i + 1)); echo $i >>/data/log; sleep 0.1; done\"]
        volumeMounts: [{name: data, mountPath: /data}]
      volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]
";

#[test]
fn pods_run_and_outlive_a_power_cut() {
    if !kube::can_run_nodes("nodes::pods_run_and_outlive_a_power_cut") {
        return;
    }
    let pair = NodePair::start(Link::Wan { delay_ms: 25, loss: 0.0, mbit: 100 });

    let volume = pair.volumes(&pair.ka).join("data");
    fs::create_dir(&volume).unwrap();
    pair.ka.apply_yaml(&WRITER.replace("VOLUME", volume.to_str().unwrap()));
    let lines = || fs::read_to_string(volume.join("log")).unwrap_or_default().lines().count();
    eventually("the pod writes into its volume", Duration::from_secs(60), || lines() > 3);
    let seen = exec(&pair.ka, "tail -n 1 /data/log");
    assert!(
        seen.trim().parse::<usize>().unwrap() <= lines(),
        "exec sees {seen:?}, the volume has {}",
        lines()
    );

    // The sites reach each other over the link, and not when it is cut.
    let round_trip = eventually_some("the other site is reached", Duration::from_secs(10), || reach(&pair));
    assert!(round_trip >= Duration::from_millis(50), "the link of 25 ms each way took {round_trip:?}");
    pair.set_link(Link::Down);
    assert_eq!(reach(&pair), None, "a cut link carries packets");
    pair.set_link(Link::Fast);
    eventually("the mended link carries packets", Duration::from_secs(10), || reach(&pair).is_some());

    pair.crash(&pair.ka);
    assert!(!pair.ka.has(&["nodes"]), "a crashed control plane answers");
    let dead = lines();
    pair.bring_back(&pair.ka);
    eventually("the pod writes again", Duration::from_secs(120), || lines() > dead);
    eventually("exec works again", Duration::from_secs(60), || {
        pair.ka.kubectl(["exec", "writer-0", "--", "true"]).code == 0
    });
}

fn exec(cluster: &Cluster, script: &str) -> String {
    cluster.kubectl(["exec", "writer-0", "--", "sh", "-c", script]).ok().stdout
}

/// How long a TCP connection from one site to the other's API server took to open.
fn reach(pair: &NodePair) -> Option<Duration> {
    let start = Instant::now();
    let mut command = pair.ka.command("timeout");
    command.args(["2", "bash", "-c", "exec 3<>/dev/tcp/10.231.2.1/6443"]).stderr(Stdio::null());
    let status = command.status().unwrap();
    status.success().then(|| start.elapsed())
}
