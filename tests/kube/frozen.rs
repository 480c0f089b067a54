//! Rules in whole cycles: two pods write one counter to two volumes, and every restore point shows it equal.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use backstay_tests::kube::{self, Cluster, Link, NodePair};
use backstay_tests::{FileSystem, LoopFs, Pair, eventually, skip};
use serde_json::Value;

/// First into the one volume, a little later into the other. A pod that is paused does not write.
const WRITER: &str = "\
while :; do
    until mkdir /both/pause-$NAME 2>/dev/null; do usleep 2000; done
    until mkdir /both/turn 2>/dev/null; do usleep 1000; done
    i=$(cat /one/n)
    i=$((i + 1))
    echo $i >/one/n
    usleep 10000
    echo $i >/two/n
    rmdir /both/turn /both/pause-$NAME
    usleep 2000
done
";

const VOLUME: &str = "\
apiVersion: v1
kind: PersistentVolume
metadata: {name: NAME}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteMany]
  storageClassName: local
  claimRef: {namespace: shop, name: NAME}
  hostPath: {path: PATH/NAME}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: NAME, namespace: shop}
spec: {accessModes: [ReadWriteMany], storageClassName: local, resources: {requests: {storage: 1Gi}}}
---
";

const WRITERS: &str = "\
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: writer, namespace: shop}
spec:
  serviceName: writer
  replicas: 2
  podManagementPolicy: Parallel
  selector: {matchLabels: {app: counter}}
  template:
    metadata: {labels: {app: counter}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: writer
        image: localhost/busybox:1
        imagePullPolicy: Never
        env: [{name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
        command: [sh, /both/writer.sh]
        volumeMounts: [{name: one, mountPath: /one}, {name: two, mountPath: /two}, {name: both, mountPath: /both}]
      volumes:
      - {name: one, persistentVolumeClaim: {claimName: one}}
      - {name: two, persistentVolumeClaim: {claimName: two}}
      - {name: both, hostPath: {path: PATH/both}}
";

const PLAN: &str = "\
apiVersion: backstay.dev/v1alpha1
kind: ReplicationPlan
metadata: {name: shop}
spec: {pair: west, namespaces: [shop], retention: {last: 100}, excludeVolumes: [{kind: hostPath, name: both}]RULES}
";

const RULE: &str = "\
apiVersion: backstay.dev/v1alpha1
kind: Rule
metadata: {name: pause}
spec:
  stopsWrites: true
  rules:
  - podSelector: {app: counter}
    actions:
    - background: true
      value: 'until mkdir /both/pause-$NAME 2>/dev/null; do usleep 1000; done; ${WAIT_CMD}; rmdir /both/pause-$NAME'
---
";

#[test]
fn every_restore_point_of_a_frozen_application_is_of_one_instant() {
    const TEST: &str = "frozen::every_restore_point_of_a_frozen_application_is_of_one_instant";
    if !kube::can_run_nodes(TEST) {
        return;
    }
    let disk = match LoopFs::mount(FileSystem::Xfs, 320) {
        Ok(disk) => disk,
        Err(reason) => return skip(TEST, &reason),
    };
    let nodes = NodePair::start(Link::Fast);
    start_writers(&nodes.ka, disk.path());
    let mut pair = Pair::with(nodes.beside(&nodes.ka), nodes.beside(&nodes.kb));

    // Without a rule, the files of two volumes are cloned one after the other: `crash` only if nobody wrote meanwhile.
    pair.east.apply(&PLAN.replace("RULES", ", minimumConsistency: fuzzy")).ok();
    eventually("a restore point shows no instant, and says so", Duration::from_secs(120), || {
        let point = pair.east.sync("shop");
        let (one, two) = numbers(&pair, &point);
        // As the writers leave it: equal, or the second still to come; 0 is a file that was just emptied.
        let is_an_instant = one == two || one == two + 1 || one == 0 || two == 0;
        match point["consistency"].as_str().unwrap() {
            "fuzzy" => true,
            "crash" => {
                assert!(is_an_instant, "restore point {} shows {one} and {two}", point["id"]);
                false
            }
            other => panic!("{other} without a rule"),
        }
    });

    pair.east
        .apply(&PLAN.replace("RULES", ", minimumConsistency: application, preExecRule: pause"))
        .refused(&[2], &["pause"]);
    pair.east
        .apply(&format!(
            "{RULE}{}",
            PLAN.replace("RULES", ", minimumConsistency: application, preExecRule: pause")
        ))
        .ok();
    for _ in 0..8 {
        let before = number(&disk.path().join("two/n"));
        let point = pair.east.sync("shop");
        assert_eq!(point["consistency"], "application", "{}", pair.east.log());
        let (one, two) = numbers(&pair, &point);
        assert_eq!(one, two, "restore point {} shows two instants", point["id"]);
        let freeze = pair.east.status("shop")["lastCycle"]["freezeSeconds"].as_f64().unwrap();
        assert!(freeze > 0.0 && freeze < 30.0, "{freeze}");
        eventually("the writers go on", Duration::from_secs(30), || {
            number(&disk.path().join("two/n")) > before.max(two)
        });
    }

    // A daemon that dies in a freeze: the writers go on, and the next one cleans up.
    let east = pair.east.command(["sync", "shop"]).spawn();
    let record = pair.east.dir().join("plans/shop/freeze.json");
    eventually("a freeze is under way", Duration::from_secs(30), || record.exists());
    pair.east.kill();
    east.unwrap().wait().unwrap();
    let before = number(&disk.path().join("two/n"));
    eventually("the writers go on", Duration::from_secs(60), || {
        number(&disk.path().join("two/n")) > before + 5
    });
    pair.east.serve();
    eventually("what was left is undone", Duration::from_secs(60), || !record.exists());
    pair.wait_connected();
    let (one, two) = numbers(&pair, &pair.east.sync("shop"));
    assert_eq!(one, two);
}

fn start_writers(cluster: &Cluster, disk: &Path) {
    for folder in ["one", "two", "both"] {
        fs::create_dir(disk.join(folder)).unwrap();
        fs::write(disk.join(folder).join("n"), "0\n").unwrap();
    }
    fs::write(disk.join("both/writer.sh"), WRITER).unwrap();
    cluster.kubectl(["create", "namespace", "shop"]).ok();
    let at = |yaml: &str, name: &str| yaml.replace("PATH", disk.to_str().unwrap()).replace("NAME", name);
    cluster.apply_yaml(&at(VOLUME, "one"));
    cluster.apply_yaml(&at(VOLUME, "two"));
    cluster.apply_yaml(&WRITERS.replace("PATH", disk.to_str().unwrap()));
    eventually("both pods run and write", Duration::from_secs(120), || {
        let pods = cluster.get(&["pods", "--namespace=shop"]);
        let items = pods["items"].as_array().unwrap();
        items.len() == 2
            && items.iter().all(|pod| pod["status"]["phase"] == "Running")
            && number(&disk.join("two/n")) > 5
    });
}

/// A writer replaces the file in two steps: none while it does.
fn number(path: &Path) -> u64 {
    backstay_tests::eventually_some("a number", Duration::from_secs(10), || {
        fs::read_to_string(path).unwrap().trim().parse().ok()
    })
}

/// The counter of either volume in a restore point. An unfrozen one may show a file that was just emptied: 0.
fn numbers(pair: &Pair, point: &Value) -> (u64, u64) {
    let id = point["id"].as_str().unwrap();
    let of = |volume: &str| {
        let to: PathBuf = pair.work(&format!("{id}-{volume}"));
        let to = to.to_str().unwrap().to_owned();
        pair.west.cli(["restore", "shop", "--restore-point", id, "--volume", volume, "--to", &to]).ok();
        fs::read_to_string(Path::new(&to).join("n")).unwrap().trim().parse().unwrap_or(0)
    };
    (of("shop-one"), of("shop-two"))
}
