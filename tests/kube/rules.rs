//! Rules on real pods: two writers of one counter are frozen together, and go on whatever happens.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use backstay_kube::cluster::{Cluster, ClusterOptions, FreezeError, FreezeReport, FreezeRequest, Scope};
use backstay_tests::eventually;
use backstay_tests::kube::{self, Link, NodePair};
use backstay_types::plan::{PlanSpec, RuleSpec};
use backstay_types::{Class, Classify};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// Two pods write one counter to two volumes, one after the other: between the two writes they differ. A pod that
/// is paused does not write.
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

const POD: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: NAME, namespace: shop, labels: {app: counter}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: writer
    image: localhost/busybox:1
    imagePullPolicy: Never
    env: [{name: NAME, value: NAME}]
    command: [sh, /both/writer.sh]
    volumeMounts: [{name: one, mountPath: /one}, {name: two, mountPath: /two}, {name: both, mountPath: /both}]
  volumes:
  - {name: one, hostPath: {path: VOLUMES/one}}
  - {name: two, hostPath: {path: VOLUMES/two}}
  - {name: both, hostPath: {path: VOLUMES/both}}
---
";

const PAUSE: &str = "until mkdir /both/pause-$NAME 2>/dev/null; do usleep 1000; done; \
    ${WAIT_CMD}; rmdir /both/pause-$NAME";
const THAWED: &str = "echo thawed >>/both/thawed-$NAME";

/// What `hold_until_killed` freezes: a kubeconfig and a record.
const HOLD: &str = "BACKSTAY_TEST_HOLD";

struct Shop {
    volumes: PathBuf,
    runtime: Runtime,
    cluster: Cluster,
}

impl Shop {
    fn new(kubeconfig: &Path, volumes: &Path) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let options = ClusterOptions { kubeconfig: Some(kubeconfig.to_owned()), context: None };
        let cluster = runtime.block_on(Cluster::connect(&options)).unwrap();
        Self { volumes: volumes.to_owned(), runtime, cluster }
    }

    fn record(&self) -> PathBuf {
        self.volumes.join("freeze.json")
    }

    /// Freezes, does something, and thaws.
    fn freeze<T>(&self, pre: &RuleSpec, work: impl FnOnce() -> T) -> Result<(T, FreezeReport), FreezeError> {
        let spec: PlanSpec = serde_json::from_value(json!({"pair": "west", "namespaces": ["shop"]})).unwrap();
        let (scope, record, post) =
            (Scope::of(&spec).unwrap(), self.record(), rule(&json!({"value": THAWED})));
        let request = FreezeRequest { scope: &scope, pre: Some(pre), post: Some(&post), record: &record };
        let frozen = self.runtime.block_on(self.cluster.freeze(&request))?;
        let outcome = work();
        self.runtime.block_on(frozen.thaw()).map(|report| (outcome, report))
    }

    fn number(&self, volume: &str) -> Option<u64> {
        fs::read_to_string(self.volumes.join(volume).join("n")).unwrap().trim().parse().ok()
    }

    /// What both volumes show, read one after the other as storage without common snapshots would.
    fn numbers(&self) -> Option<(u64, u64)> {
        Some((self.number("one")?, self.number("two")?))
    }

    #[track_caller]
    fn goes_on(&self) {
        let before = self.number("two").unwrap_or_default();
        eventually("the writers go on", Duration::from_secs(30), || {
            self.number("two").is_some_and(|now| now > before + 5)
        });
    }

    /// How often each pod's post-action ran.
    fn thawed(&self) -> [usize; 2] {
        ["a", "b"].map(|name| {
            let path = self.volumes.join("both").join(format!("thawed-{name}"));
            fs::read_to_string(path).unwrap_or_default().lines().count()
        })
    }
}

fn rule(action: &Value) -> RuleSpec {
    let rules =
        json!({"stopsWrites": true, "rules": [{"podSelector": {"app": "counter"}, "actions": [action]}]});
    serde_json::from_value(rules).unwrap()
}

fn pause() -> RuleSpec {
    rule(&json!({"value": PAUSE, "background": true}))
}

#[test]
fn pods_are_frozen_together_and_go_on_whatever_happens() {
    if !kube::can_run_nodes("rules::pods_are_frozen_together_and_go_on_whatever_happens") {
        return;
    }
    let pair = NodePair::start(Link::Fast);
    let volumes = pair.volumes(&pair.ka);
    for folder in ["one", "two", "both"] {
        fs::create_dir(volumes.join(folder)).unwrap();
        fs::write(volumes.join(folder).join("n"), "0\n").unwrap();
    }
    fs::write(volumes.join("both/writer.sh"), WRITER).unwrap();
    pair.ka.kubectl(["create", "namespace", "shop"]).ok();
    let pod = |name: &str| {
        POD.replace("{name: NAME, namespace", &format!("{{name: {name}, namespace"))
            .replace("value: NAME", &format!("value: {name}"))
            .replace("VOLUMES", volumes.to_str().unwrap())
    };
    pair.ka.apply_yaml(&format!("{}{}", pod("a"), pod("b")));

    pair.ka.inside(|| {
        let shop = Shop::new(&pair.ka.kubeconfig(), &volumes);
        eventually("both pods write", Duration::from_secs(60), || {
            shop.number("two").is_some_and(|number| number > 5)
        });
        let both_run = || {
            let pods = pair.ka.get(&["pods", "--namespace=shop"]);
            pods["items"].as_array().unwrap().iter().all(|pod| pod["status"]["phase"] == "Running")
        };
        eventually("both pods run", Duration::from_secs(60), both_run);

        eventually("without a rule the volumes differ", Duration::from_secs(30), || {
            shop.numbers().is_some_and(|(one, two)| one != two)
        });
        frozen_volumes_are_equal(&shop);
        a_failure_thaws_both(&shop);
        a_timeout_ends_the_action(&shop, &pair);
        a_killed_freezer_leaves_nothing_frozen(&shop, &pair);

        // Nothing matches: said, and no more than crash-consistent.
        let mut none = pause();
        none.rules[0].pod_selector.insert("tier".to_owned(), "none".to_owned());
        let ((), report) = shop.freeze(&none, || ()).unwrap();
        assert!(!report.writers_stopped);
        assert_eq!(report.warnings, ["preExecRule.rules[0]: no running pod matches its podSelector"]);
    });
}

fn frozen_volumes_are_equal(shop: &Shop) {
    for round in 1..=5 {
        let look = || {
            let first = shop.numbers().unwrap();
            // Ten rounds of a writer.
            std::thread::sleep(Duration::from_millis(250));
            [first, shop.numbers().unwrap()]
        };
        let ([first, second], report) = shop.freeze(&pause(), look).unwrap();
        assert_eq!(first.0, first.1, "the volumes differ while their writers are frozen");
        assert_eq!(first, second, "a frozen writer wrote");
        assert_eq!((report.pods, report.writers_stopped), (2, true), "{report:?}");
        assert!(report.held.0 >= 250 && report.length >= report.held, "{report:?}");
        assert_eq!(shop.thawed(), [round; 2]);
        assert!(!shop.record().exists());
        eprintln!("frozen for {}, of which {} held", report.length, report.held);
        shop.goes_on();
    }
}

fn a_failure_thaws_both(shop: &Shop) {
    let before = shop.thawed();
    let mut fails = pause();
    let mut broken = rule(&json!({"value": "[ $NAME = a ] || { echo no such table >&2; exit 7; }"}));
    fails.rules[0].actions.append(&mut broken.rules[0].actions);
    let error = shop.freeze(&fails, || ()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "preExecRule.rules[0].actions[1] in pod shop/b: it ended with code 7: no such table"
    );
    assert_eq!(shop.thawed(), before.map(|count| count + 1));
    shop.goes_on();
}

fn a_timeout_ends_the_action(shop: &Shop, pair: &NodePair) {
    let before = shop.thawed();
    let slow = rule(&json!({"value": "sleep 4321", "timeout": "1s"}));
    let error = shop.freeze(&slow, || ()).unwrap_err();
    assert!(error.to_string().contains("it did not end in 1s"), "{error}");
    assert_eq!(error.class(), Class::Transient);
    assert_eq!(shop.thawed(), before.map(|count| count + 1));
    for name in ["a", "b"] {
        let processes = pair.ka.kubectl(["exec", "--namespace=shop", name, "--", "ps"]).ok().stdout;
        assert!(!processes.contains("4321"), "an action outlived its end: {processes}");
        assert!(!processes.contains("backstay"), "a keeper outlived its action: {processes}");
    }
    let missing = rule(&json!({"value": "no-such-program"}));
    let error = shop.freeze(&missing, || ()).unwrap_err();
    assert!(error.to_string().contains("it ended with code 127"), "{error}");
}

/// SIGKILL while both are frozen: the locks go with the streams, the rest waits for the next start.
fn a_killed_freezer_leaves_nothing_frozen(shop: &Shop, pair: &NodePair) {
    let before = shop.thawed();
    let mut command = pair.ka.command(std::env::current_exe().unwrap());
    let config = pair.ka.kubeconfig();
    let hold = format!("{}\n{}", config.to_str().unwrap(), shop.volumes.to_str().unwrap());
    command.args(["rules::hold_until_killed", "--exact", "--nocapture"]).env(HOLD, hold);
    let mut freezer = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(freezer.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("frozen for good")), "the freezer froze");
    let (one, two) = shop.numbers().unwrap();
    assert_eq!(one, two);
    freezer.kill().unwrap();
    freezer.wait().unwrap();
    shop.goes_on();
    assert!(shop.record().exists());
    assert_eq!(shop.thawed(), before, "the post-actions wait for the next start");

    assert_eq!(shop.runtime.block_on(shop.cluster.thaw_left_over(&shop.record())).unwrap(), 2);
    assert_eq!(shop.thawed(), before.map(|count| count + 1));
    assert!(!shop.record().exists());
    assert_eq!(shop.runtime.block_on(shop.cluster.thaw_left_over(&shop.record())).unwrap(), 0);
}

/// The process that `a_killed_freezer_leaves_nothing_frozen` kills; by itself, nothing.
#[test]
fn hold_until_killed() {
    let Ok(hold) = std::env::var(HOLD) else { return };
    let (config, volumes) = hold.split_once('\n').unwrap();
    let shop = Shop::new(Path::new(config), Path::new(volumes));
    let hold = || {
        println!("frozen for good");
        loop {
            std::thread::park();
        }
    };
    let ((), report) = shop.freeze(&pause(), hold).unwrap();
    panic!("it was thawed: {report:?}");
}
