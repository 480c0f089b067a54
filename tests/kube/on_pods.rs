//! Probes and hooks on real pods: a drill and a takeover ask the application itself.

use std::fs;
use std::time::Duration;

use backstay_tests::kube::{self, Cluster, Link, NodePair};
use backstay_tests::{Pair, assert_same, eventually};
use serde_json::Value;

/// Serves its volume.
const APP: &str = "\
apiVersion: v1
kind: PersistentVolume
metadata: {name: data}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteMany]
  storageClassName: local
  claimRef: {namespace: shop, name: data}
  hostPath: {path: VOLUME}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data, namespace: shop}
spec: {accessModes: [ReadWriteMany], storageClassName: local, resources: {requests: {storage: 1Gi}}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
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
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: localhost/busybox:1
        imagePullPolicy: Never
        command: [httpd, -f, -p, '8080', -h, /data]
        volumeMounts: [{name: data, mountPath: /data}]
      volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]
";

/// The drill has what passes and what does not; the takeover writes into the volume from inside, in every pod.
const PLAN: &str = "\
apiVersion: backstay.dev/v1alpha1
kind: ReplicationPlan
metadata: {name: shop}
spec:
  pair: west
  namespaces: [shop]
  drill:
    timeout: 90s
    probes:
    - {name: has-order, exec: {podSelector: {app: web}, command: [grep, -x, order-1, /data/orders]}, timeout: 30s}
    - {name: serves-order, http: {service: {name: web, port: 80, path: /orders}, status: 200}, timeout: 30s}
    - {name: has-other, exec: {podSelector: {app: web}, command: [cat, /data/other]}, timeout: 1s}
    - {name: serves-other, http: {service: {name: web, port: 80, path: /other}}, timeout: 1s}
  waitReady: 90s
  promoteHooks:
  - {name: mark, exec: {podSelector: {app: web}, command: [sh, -c, 'hostname >>/data/hooked']}, timeout: 60s}
  - {name: serves, http: {service: {name: web, port: 80, path: /hooked}, status: 200}, timeout: 30s}
";

#[test]
fn a_drill_and_a_takeover_ask_the_application() {
    if !kube::can_run_nodes("on_pods::a_drill_and_a_takeover_ask_the_application") {
        return;
    }
    let nodes = NodePair::start(Link::Fast);
    let mut standby = nodes.beside(&nodes.kb);
    for what in ["COMMANDS", "NETWORK"] {
        standby.env.push((format!("BACKSTAY_PROMOTE_{what}"), "true".to_owned()));
    }
    let mut pair = Pair::with(nodes.beside(&nodes.ka), standby);
    let volume = pair.source("volume");
    fs::write(volume.join("orders"), "order-1\n").unwrap();
    nodes.ka.kubectl(["create", "namespace", "shop"]).ok();
    nodes.ka.apply_yaml(&APP.replace("VOLUME", volume.to_str().unwrap()));
    wait_ready(&nodes.ka, "shop");
    pair.east.apply(PLAN).ok();
    let point = pair.east.sync("shop")["id"].clone();
    eventually("the standby has applied it", Duration::from_secs(60), || {
        pair.west.status("shop")["appliedRestorePoint"] == point
    });
    let replica = pair.west.replica("shop", "shop-data");
    assert_same(&volume, &replica);

    let report = pair.west.cli(["drill", "shop", "-o", "json"]).refused(&[1], &["has-other"]).json();
    let probe = |name: &str| {
        let probes = report["probes"].as_array().unwrap();
        probes.iter().find(|probe| probe["name"] == name).unwrap_or_else(|| panic!("{report}")).clone()
    };
    for (name, passed, said) in [
        ("has-order", true, "order-1"),
        ("serves-order", true, "status 200"),
        ("has-other", false, "No such file"),
        ("serves-other", false, "found 404"),
    ] {
        let probe = probe(name);
        assert_eq!(probe["passed"], passed, "{probe}");
        assert!(probe["message"].as_str().unwrap().contains(said), "{probe}");
    }
    assert_same(&volume, &replica);
    assert!(!nodes.kb.has(&["namespace", "shop-drill-1"]), "the drill is gone");

    let report = pair.take_over("shop");
    assert!(!report["warnings"].to_string().contains("hook"), "{report}");
    wait_ready(&nodes.kb, "shop");
    let mut hooked: Vec<String> =
        fs::read_to_string(replica.join("hooked")).unwrap().lines().map(str::to_owned).collect();
    hooked.sort();
    assert_eq!(hooked, pods(&nodes.kb, "shop"), "the hook ran once in each pod");
}

/// The names of the pods of a namespace, sorted.
fn pods(cluster: &Cluster, namespace: &str) -> Vec<String> {
    let found = cluster.get(&["pods", "-n", namespace]);
    let names = found["items"].as_array().unwrap().iter();
    let mut names: Vec<_> = names.map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

#[track_caller]
fn wait_ready(cluster: &Cluster, namespace: &str) {
    eventually("both pods are ready", Duration::from_secs(120), || {
        let web: Value = cluster.get(&["deployment", "web", "-n", namespace]);
        web["status"]["readyReplicas"] == 2
    });
}
