//! The custom resources at work: daemons that take plans and actions from their clusters and report there.

use std::time::Duration;

use backstay_tests::kube::{self, Cluster, ControlPlane, ControlPlaneOptions};
use backstay_tests::{Output, Pair, Site, SiteOptions, eventually, eventually_some};
use serde_json::Value;

/// A Lease that is not given back runs out after 15 s.
const PATIENCE: Duration = Duration::from_secs(90);

/// Where daemons outside of their cluster are at home.
pub(crate) const HOME: &str = "backstay-system";

pub(crate) struct Rig {
    pub(crate) active: ControlPlane,
    pub(crate) standby: ControlPlane,
    pub(crate) pair: Pair,
}

impl Rig {
    pub(crate) fn start() -> Rig {
        let [active, standby] = std::thread::scope(|scope| {
            ["active", "standby"]
                .map(|name| scope.spawn(move || plane(name)))
                .map(|thread| thread.join().unwrap())
        });
        let pair = Pair::with(beside(&active), beside(&standby));
        active.cluster().apply_yaml("{apiVersion: v1, kind: Namespace, metadata: {name: backstay-system}}");
        Rig { active, standby, pair }
    }

    /// A plan `shop` over a folder and a namespace, from a resource in the namespace of the daemon.
    fn shop(&self, more: &str) {
        let volume = self.pair.source("volume");
        std::fs::write(volume.join("orders"), "1\n").unwrap();
        self.active.cluster().apply_yaml(
            "{apiVersion: v1, kind: Namespace, metadata: {name: shop}}\n---\n\
             {apiVersion: v1, kind: ConfigMap, metadata: {name: settings, namespace: shop}, data: {colour: blue}}",
        );
        let volume = format!("{{name: data, path: {}}}", volume.display());
        self.active.cluster().apply_yaml(&plan(
            HOME,
            "shop",
            &format!("pair: west, namespaces: [shop], volumes: [{volume}], {more}"),
        ));
    }
}

/// A control plane that knows the custom resources.
fn plane(name: &str) -> ControlPlane {
    let plane = ControlPlane::start(name, ControlPlaneOptions { controllers: true, ..Default::default() });
    plane.cluster().apply_yaml(&backstay_kube::crds::all_yaml());
    plane.cluster().kubectl(["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"]).ok();
    plane
}

/// A daemon with its controllers on.
fn beside(plane: &ControlPlane) -> SiteOptions {
    let mut options = plane.cluster().beside();
    options.env.push(("BACKSTAY_KUBERNETES_CONTROLLERS".to_owned(), "true".to_owned()));
    options
}

pub(crate) fn plan(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: backstay.dev/v1alpha1, kind: ReplicationPlan, metadata: {{name: {name}, namespace: {namespace}}}, \
         spec: {{{spec}}}}}"
    )
}

fn failover(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: backstay.dev/v1alpha1, kind: Failover, metadata: {{name: {name}, namespace: {namespace}}}, \
         spec: {{{spec}}}}}"
    )
}

/// Tries to apply; the caller judges.
fn try_apply(cluster: &Cluster, yaml: &str) -> Output {
    let file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
    std::fs::write(file.path(), yaml).unwrap();
    cluster.kubectl(["apply", "-f", file.path().to_str().unwrap()])
}

pub(crate) fn condition<'v>(object: &'v Value, kind: &str) -> &'v Value {
    let conditions = object["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    conditions.iter().find(|condition| condition["type"] == kind).unwrap_or(&Value::Null)
}

/// Waits until a condition of an object has this status and reason; gives the object.
#[track_caller]
pub(crate) fn await_condition(
    cluster: &Cluster,
    args: &[&str],
    kind: &str,
    status: &str,
    reason: &str,
) -> Value {
    let mut last = Value::Null;
    let what = format!("{args:?} is {kind}={status} for {reason}");
    eventually_some(&what, PATIENCE, || {
        if !cluster.has(args) {
            return None;
        }
        let object = cluster.get(args);
        let found = condition(&object, kind);
        if *found != last {
            eprintln!("{args:?}: {found}");
            last = found.clone();
        }
        (found["status"] == status && found["reason"] == reason).then_some(object)
    })
}

/// Reasons of the Events about objects of a name.
fn events(cluster: &Cluster, namespace: &str, name: &str) -> Vec<String> {
    let events = cluster.get(&["events.events.k8s.io", "-n", namespace]);
    let mut reasons: Vec<_> = events["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|event| event["regarding"]["name"] == name)
        .map(|event| event["reason"].as_str().unwrap().to_owned())
        .collect();
    reasons.sort();
    reasons
}

/// Ids of the restore points that a cluster shows, sorted.
fn shown_points(cluster: &Cluster) -> Vec<String> {
    let points = cluster.get(&["bsrp", "-A"]);
    let ids = points["items"].as_array().unwrap().iter();
    let mut ids: Vec<_> = ids.map(|point| point["spec"]["id"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    ids
}

fn lease_holder(cluster: &Cluster) -> String {
    let lease = ["lease", "backstay-controllers", "-n", HOME];
    if !cluster.has(&lease) {
        return String::new();
    }
    cluster.get(&lease)["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn plans_and_policies_come_from_resources_and_are_reported_there() {
    if !kube::can_run("controllers::plans_and_policies_come_from_resources_and_are_reported_there") {
        return;
    }
    let rig = Rig::start();
    let (active, standby) = (rig.active.cluster(), rig.standby.cluster());
    active.apply_yaml(
        "{apiVersion: backstay.dev/v1alpha1, kind: SchedulePolicy, metadata: {name: often}, spec: {interval: 2s}}",
    );
    active.apply_yaml("{apiVersion: v1, kind: Namespace, metadata: {name: backstay-system}}");
    active.apply_yaml(
        "{apiVersion: backstay.dev/v1alpha1, kind: Rule, metadata: {name: flush, namespace: backstay-system}, \
         spec: {rules: [{podSelector: {app: none}, actions: [{value: sync}]}]}}",
    );
    rig.shop("schedulePolicy: often, retention: {last: 3}, preExecRule: flush");
    let plan = ["bsplan", "shop", "-n", HOME];

    // It runs on its schedule, and says so.
    let object = await_condition(active, &plan, "Synced", "True", "Committed");
    assert_eq!(condition(&object, "Ready")["reason"], "Accepted");
    assert_eq!(condition(&object, "Degraded")["status"], "False", "{object}");
    for kind in ["Ready", "Synced", "Degraded"] {
        assert_eq!(condition(&object, kind)["observedGeneration"], object["metadata"]["generation"]);
    }
    let status = &object["status"];
    assert_eq!((&status["role"], &status["epoch"]), (&"active".into(), &1.into()), "{status}");
    for field in ["lag", "lastRestorePoint", "lastSuccess", "phase", "nextRun"] {
        assert!(status[field].is_string(), "{field}: {status}");
    }
    assert_eq!(object["metadata"]["finalizers"], serde_json::json!(["backstay.dev/plan"]));
    let policy = await_condition(active, &["bssched", "often"], "Ready", "True", "Accepted");
    eventually("the policy counts its plans", PATIENCE, || {
        active.get(&["bssched", "often"])["status"]["plans"] == 1
    });
    assert!(policy["metadata"]["finalizers"].is_array());
    let rule = ["bsrule", "flush", "-n", HOME];
    await_condition(active, &rule, "Ready", "True", "Accepted");
    eventually("the rule tells who uses it, and how it went", PATIENCE, || {
        let status = active.get(&rule)["status"].clone();
        status["plans"] == 1 && status["lastFreeze"].is_string()
    });

    // The standby shows it too, with its restore points.
    let mirror = await_condition(standby, &["bsplan", "shop", "-n", HOME], "Ready", "True", "Standby");
    assert_eq!(mirror["spec"]["pair"], "east");
    assert_eq!(mirror["metadata"]["labels"]["backstay.dev/mirror"], "true");
    eventually("the mirror shows the apply", PATIENCE, || {
        let mirror = standby.get(&["bsplan", "shop", "-n", HOME]);
        mirror["status"]["role"] == "standby" && mirror["status"]["failedObjects"] == 0
    });
    eventually("old points go, and the others are shown", PATIENCE, || {
        let ids = rig.pair.west.restore_point_ids("shop");
        ids.last().is_some_and(|id| id.as_str() > "e1-000004")
            && ids.len() == 3
            && shown_points(standby) == ids
    });
    for (cluster, peer) in [(active, "west"), (standby, "east")] {
        let pair = await_condition(cluster, &["bspair", peer], "Connected", "True", "Connected");
        assert_eq!(condition(&pair, "Fenced")["status"], "False", "{pair}");
        eventually("the pair tells both epochs", PATIENCE, || {
            let status = cluster.get(&["bspair", peer])["status"].clone();
            status["localEpoch"] == 1 && status["peerEpoch"] == 1
        });
    }

    // Only through the resource from now on.
    rig.pair.east.cli(["plan", "suspend", "shop"]).refused(&[2], &["backstay-system/shop", "kubectl"]);
    rig.pair.east.cli(["plan", "delete", "shop"]).refused(&[2], &["backstay-system/shop"]);
    active
        .kubectl([
            "patch",
            "bsplan",
            "shop",
            "-n",
            HOME,
            "--type=merge",
            "-p",
            r#"{"spec":{"suspend":true}}"#,
        ])
        .ok();
    eventually("it is suspended", PATIENCE, || rig.pair.east.status("shop")["suspended"] == true);

    // A plan that replicates is no news.
    assert_eq!(events(active, HOME, "shop"), ["Accepted", "RestorePointCommitted"]);

    // A restore point's object is made anew; the point stays.
    let ids = rig.pair.west.restore_point_ids("shop");
    let name = format!("shop-{}", ids[0]);
    let uid = standby.get(&["bsrp", &name, "-n", HOME])["metadata"]["uid"].clone();
    standby.kubectl(["delete", "bsrp", &name, "-n", HOME]).ok();
    eventually("it is made anew", PATIENCE, || {
        standby.has(&["bsrp", &name, "-n", HOME])
            && standby.get(&["bsrp", &name, "-n", HOME])["metadata"]["uid"] != uid
    });
    assert_eq!(rig.pair.west.restore_point_ids("shop"), ids);

    // The policy stays for as long as the plan names it; the plan goes with its resource, its points stay.
    active.kubectl(["delete", "bssched", "often", "--wait=false"]).ok();
    await_condition(active, &["bssched", "often"], "Ready", "False", "InUse");
    active.kubectl(["delete", "bsrule", "flush", "-n", HOME, "--wait=false"]).ok();
    await_condition(active, &rule, "Ready", "False", "InUse");
    active.kubectl(["delete", "bsplan", "shop", "-n", HOME, "--timeout=60s"]).ok();
    assert!(rig.pair.east.cli(["plan", "list", "-o", "json"]).ok().items().is_empty());
    // The standby keeps the plan, suspended, until it is deleted there too; its mirror goes with it.
    eventually("the mirror is suspended", PATIENCE, || {
        standby.get(&["bsplan", "shop", "-n", HOME])["spec"]["suspend"] == true
    });
    rig.pair.west.cli(["plan", "delete", "shop"]).ok();
    eventually("the mirror is gone", PATIENCE, || !standby.has(&["bsplan", "shop", "-n", HOME]));
    eventually("the policy is gone", PATIENCE, || !active.has(&["bssched", "often"]));
    eventually("the rule is gone", PATIENCE, || !active.has(&rule));
    assert_eq!(shown_points(standby), ids);
}

#[test]
fn a_wrong_resource_is_told_so_and_holds_up_no_other() {
    if !kube::can_run("controllers::a_wrong_resource_is_told_so_and_holds_up_no_other") {
        return;
    }
    let rig = Rig::start();
    let active = rig.active.cluster();
    let folder = rig.pair.source("folder");
    // Each plan has a folder of its own: two of one folder are refused for that.
    let of_folder =
        |name: &str| format!("volumes: [{{name: data, path: {}}}]", rig.pair.source(name).display());
    let volumes = of_folder("good");

    // What can be told from the text alone is refused at admission.
    for (spec, told) in [
        ("pair: west".to_owned(), "names no volumes"),
        (
            format!("pair: west, {volumes}, schedulePolicy: a, schedule: {{interval: 1h}}"),
            "at most one of `schedule`",
        ),
        ("pair: west, namespaces: [shop], manifests: {path: /k8s}".to_owned(), "at most one of `manifests`"),
        (format!("pair: west, {volumes}, rpoTarget: soon"), "rpoTarget"),
    ] {
        let refused = try_apply(active, &plan(HOME, "wrong", &spec));
        assert!(refused.code != 0 && refused.stderr.contains(told), "{told}: {}", refused.stderr);
    }

    // The rest by a condition, which says what to do.
    active.apply_yaml(&plan(HOME, "lost", &format!("pair: nobody, {}", of_folder("lost"))));
    active.apply_yaml(&plan(
        HOME,
        "named",
        &format!("pair: west, volumes: [{{name: Not_A_Name, path: {}}}]", folder.display()),
    ));
    active.apply_yaml(&plan(
        HOME,
        "timed",
        &format!("pair: west, {}, schedulePolicy: later", of_folder("timed")),
    ));
    active.apply_yaml(&plan(HOME, "good", &format!("pair: west, {volumes}")));
    let lost = await_condition(active, &["bsplan", "lost", "-n", HOME], "Ready", "False", "NotFound");
    let message = condition(&lost, "Ready")["message"].as_str().unwrap();
    assert!(message.contains("nobody") && message.contains("known peers: west"), "{message}");
    let named = await_condition(active, &["bsplan", "named", "-n", HOME], "Ready", "False", "Invalid");
    let message = condition(&named, "Ready")["message"].as_str().unwrap();
    assert!(message.contains("Not_A_Name"), "{message}");
    await_condition(active, &["bsplan", "timed", "-n", HOME], "Ready", "False", "Invalid");
    await_condition(active, &["bsplan", "good", "-n", HOME], "Ready", "True", "Accepted");
    assert_eq!(events(active, HOME, "lost"), ["Refused"]);

    // One name is one plan.
    active.apply_yaml(&plan("default", "good", &format!("pair: west, {volumes}")));
    let other = await_condition(active, &["bsplan", "good", "-n", "default"], "Ready", "False", "NameTaken");
    assert!(condition(&other, "Ready")["message"].as_str().unwrap().contains("namespace backstay-system"));
    active.kubectl(["delete", "bsplan", "good", "-n", "default", "--timeout=60s"]).ok();
    rig.pair.east.sync("good");

    // Whoever writes in another namespace gets that namespace replicated, and none of the daemon's rights.
    active.apply_yaml(&plan(
        "default",
        "reach",
        &format!("pair: west, namespaces: [default], {}", of_folder("reach")),
    ));
    let reach =
        await_condition(active, &["bsplan", "reach", "-n", "default"], "Ready", "False", "OtherNamespace");
    assert!(condition(&reach, "Ready")["message"].as_str().unwrap().starts_with("volumes reaches beyond"));
    active.apply_yaml(&plan("default", "modest", "pair: west, namespaces: [default]"));
    await_condition(active, &["bsplan", "modest", "-n", "default"], "Ready", "True", "Accepted");
    active.apply_yaml(
        "{apiVersion: backstay.dev/v1alpha1, kind: Rule, metadata: {name: theirs, namespace: default}, \
         spec: {rules: [{podSelector: {app: none}, actions: [{value: sync}]}]}}",
    );
    await_condition(active, &["bsrule", "theirs", "-n", "default"], "Ready", "False", "OtherNamespace");
    active.kubectl(["delete", "bsrule", "theirs", "-n", "default", "--timeout=60s"]).ok();

    // Mended in the resource, or by what it lacked.
    active
        .kubectl(["patch", "bsplan", "lost", "-n", HOME, "--type=merge", "-p", r#"{"spec":{"pair":"west"}}"#])
        .ok();
    await_condition(active, &["bsplan", "lost", "-n", HOME], "Ready", "True", "Accepted");
    active.apply_yaml(
        "{apiVersion: backstay.dev/v1alpha1, kind: SchedulePolicy, metadata: {name: later}, spec: {cron: '0 4 * * *'}}",
    );
    await_condition(active, &["bsplan", "timed", "-n", HOME], "Ready", "True", "Accepted");
    active.apply_yaml(
        "{apiVersion: backstay.dev/v1alpha1, kind: SchedulePolicy, metadata: {name: never}, spec: {cron: nonsense}}",
    );
    await_condition(active, &["bssched", "never"], "Ready", "False", "Invalid");
}

#[test]
fn an_api_server_that_was_away_finds_everything_as_it_is() {
    if !kube::can_run("controllers::an_api_server_that_was_away_finds_everything_as_it_is") {
        return;
    }
    let mut rig = Rig::start();
    let folder = rig.pair.source("folder");
    let spec = format!("pair: west, volumes: [{{name: data, path: {}}}]", folder.display());
    rig.active.cluster().apply_yaml(&plan(HOME, "files", &spec));
    let plan = ["bsplan", "files", "-n", HOME];
    await_condition(rig.active.cluster(), &plan, "Ready", "True", "Accepted");

    rig.active.kill_apiserver();
    rig.standby.kill_apiserver();
    let point = rig.pair.east.sync("files")["id"].clone();
    eventually("without its resource the plan is the command line's", PATIENCE, || {
        rig.pair.east.cli(["plan", "suspend", "files"]).code == 0
    });
    rig.active.restart_apiserver();
    rig.standby.restart_apiserver();

    // What was done meanwhile is shown, and the resource is what counts again.
    eventually("the restore point is shown", PATIENCE, || {
        rig.active.cluster().get(&plan)["status"]["lastRestorePoint"] == point
            && shown_points(rig.standby.cluster()).contains(&point.as_str().unwrap().to_owned())
    });
    eventually("it is not suspended", PATIENCE, || rig.pair.east.status("files")["suspended"] == false);
    let patch = r#"{"spec":{"rpoTarget":"20m"}}"#;
    rig.active.cluster().kubectl(["patch", "bsplan", "files", "-n", HOME, "--type=merge", "-p", patch]).ok();
    eventually("watches go on", PATIENCE, || rig.pair.east.status("files")["rpoTargetSeconds"] == 1200);
}

#[test]
fn a_failover_promotes_once() {
    if !kube::can_run("controllers::a_failover_promotes_once") {
        return;
    }
    let mut rig = Rig::start();
    rig.shop("schedule: {interval: 2s}");
    let standby = rig.standby.cluster().clone();
    eventually("the standby shows a restore point", PATIENCE, || !shown_points(&standby).is_empty());

    // What cannot be is told and not done.
    standby.apply_yaml(&failover(HOME, "home", "action: Failback, plan: shop"));
    await_condition(&standby, &["bsfo", "home", "-n", HOME], "Complete", "True", "HandedOver");
    standby.apply_yaml(&failover(HOME, "nothing", "action: Promote, plan: nothing"));
    await_condition(&standby, &["bsfo", "nothing", "-n", HOME], "Failed", "True", "NotFound");
    standby.apply_yaml(&failover("default", "foreign", "action: Promote, plan: shop"));
    await_condition(&standby, &["bsfo", "foreign", "-n", "default"], "Failed", "True", "OtherNamespace");
    standby.apply_yaml(&failover(HOME, "early", "action: Promote, plan: shop"));
    await_condition(&standby, &["bsfo", "early", "-n", HOME], "Failed", "True", "Fenced");
    assert_eq!(rig.pair.west.status("shop")["role"], "standby");

    rig.pair.east.kill();
    standby.apply_yaml(&failover(HOME, "try", "action: Promote, plan: shop, dryRun: true"));
    let tried = await_condition(&standby, &["bsfo", "try", "-n", HOME], "Complete", "True", "DryRun");
    assert!(
        tried["status"]["steps"].as_array().unwrap().iter().all(|step| step["state"] == "pending"),
        "{tried}"
    );
    assert_eq!(rig.pair.west.status("shop")["role"], "standby");

    standby.apply_yaml(&failover(HOME, "now", "action: Promote, plan: shop"));
    let now = ["bsfo", "now", "-n", HOME];
    let done = await_condition(&standby, &now, "Complete", "True", "Promoted");
    let status = &done["status"];
    assert!(status["steps"].as_array().unwrap().iter().all(|step| step["state"] == "done"), "{status}");
    assert!(status["rpo"].is_string() && status["rto"].is_string(), "{status}");
    assert_eq!(status["epoch"], 2);
    assert_eq!(rig.pair.west.status("shop")["role"], "active");
    assert_eq!(events(&standby, HOME, "now"), ["Completed", "Started"]);

    // The mirror is the plan's own resource now.
    eventually("the resource is handed over", PATIENCE, || {
        let plan = standby.get(&["bsplan", "shop", "-n", HOME]);
        plan["metadata"]["labels"]["backstay.dev/mirror"].is_null()
            && plan["metadata"]["finalizers"] == serde_json::json!(["backstay.dev/plan"])
            && plan["status"]["role"] == "active"
    });
    assert!(events(&standby, HOME, "shop").contains(&"Promoted".to_owned()));
    let pair = await_condition(&standby, &["bspair", "east"], "Fenced", "True", "Peer");
    assert_ne!(condition(&pair, "Connected")["status"], "True", "{pair}");

    // Another daemon of the site reads it and leaves it; its text cannot change.
    let before = standby.get(&now)["metadata"]["resourceVersion"].clone();
    let holder = lease_holder(&standby);
    rig.pair.west.restart();
    eventually("the new daemon acts", PATIENCE, || {
        let next = lease_holder(&standby);
        next != holder && next.starts_with("west-")
    });
    standby.apply_yaml(&failover(HOME, "again", "action: Promote, plan: shop"));
    await_condition(&standby, &["bsfo", "again", "-n", HOME], "Complete", "True", "ActiveAlready");
    assert_eq!(standby.get(&now)["metadata"]["resourceVersion"], before);
    assert_eq!(rig.pair.west.status("shop")["epoch"], 2);
    let changed = try_apply(&standby, &failover(HOME, "now", "action: Promote, plan: other"));
    assert!(changed.code != 0 && changed.stderr.contains("never changes"), "{}", changed.stderr);
}

#[test]
fn a_failover_goes_on_with_the_next_daemon() {
    if !kube::can_run("controllers::a_failover_goes_on_with_the_next_daemon") {
        return;
    }
    let mut rig = Rig::start();
    rig.shop("schedule: {interval: 2s}");
    let standby = rig.standby.cluster().clone();
    // What the promotion has to release is refused, so that it stops past its point of no return.
    standby.apply_yaml("{apiVersion: v1, kind: Namespace, metadata: {name: shop}}");
    let quota = "{apiVersion: v1, kind: ResourceQuota, metadata: {name: none, namespace: shop}, spec: {hard: {secrets: '0'}}}";
    standby.apply_yaml(quota);
    eventually("the quota is in force", PATIENCE, || {
        standby.kubectl(["create", "secret", "generic", "probe", "-n", "shop", "--dry-run=server"]).code != 0
    });
    let active = rig.active.cluster();
    active
        .kubectl(["create", "secret", "generic", "password", "-n", "shop", "--from-literal=a=correct-horse"])
        .ok();
    let mirror = ["bsplan", "shop", "-n", HOME];
    let object = await_condition(&standby, &mirror, "Degraded", "True", "ObjectsFailed");
    assert_eq!(object["status"]["failedObjects"], 1, "{object}");
    assert!(object["status"]["firstFailures"][0].as_str().unwrap().contains("shop/password"), "{object}");
    eventually("it is an Event", PATIENCE, || {
        events(&standby, HOME, "shop").contains(&"ObjectsFailed".to_owned())
    });

    rig.pair.east.kill();
    rig.pair.west.allow_errors("promotion stopped");
    standby.apply_yaml(&failover(HOME, "now", "action: Promote, plan: shop"));
    let now = ["bsfo", "now", "-n", HOME];
    let stopped = await_condition(&standby, &now, "Complete", "False", "Retrying");
    assert!(
        condition(&stopped, "Complete")["message"].as_str().unwrap().contains("shop/password"),
        "{stopped}"
    );
    rig.pair.west.restart();
    standby.kubectl(["delete", "resourcequota", "none", "-n", "shop"]).ok();
    let done = await_condition(&standby, &now, "Complete", "True", "Promoted");
    assert_eq!(done["status"]["epoch"], 2, "{done}");
    assert!(standby.has(&["secret", "password", "-n", "shop"]));
    let everything = standby.get(&["bsplan,bsfo,bsrp,bspair,events.events.k8s.io", "-A"]).to_string();
    assert!(!everything.contains("correct-horse") && !everything.contains("Y29ycmVjdC1ob3JzZQ"));
    assert!(!rig.pair.west.log().contains("correct-horse"));
}

#[test]
fn one_daemon_acts_at_a_time() {
    if !kube::can_run("controllers::one_daemon_acts_at_a_time") {
        return;
    }
    let plane = plane("one");
    let cluster = plane.cluster();
    let mut first = Site::init("first", beside(&plane));
    first.serve();
    eventually("the first has the Lease", PATIENCE, || lease_holder(cluster).starts_with("first-"));
    let mut second = Site::init("second", beside(&plane));
    second.serve();
    cluster.apply_yaml(&plan(HOME, "files", "pair: nobody, volumes: [{name: data, path: /tmp}]"));
    await_condition(cluster, &["bsplan", "files", "-n", HOME], "Ready", "False", "NotFound");
    let renewed = || cluster.get(&["lease", "backstay-controllers", "-n", HOME])["spec"]["renewTime"].clone();
    let before = renewed();
    eventually("the Lease is renewed", PATIENCE, || renewed() != before);
    let acts = |site: &Site| site.log().contains("acts on the custom resources");
    assert!(acts(&first) && !acts(&second));

    // A stop gives the Lease back: the second begins well before it would have run out.
    first.terminate();
    eventually("the second has the Lease", Duration::from_secs(10), || {
        lease_holder(cluster).starts_with("second-")
    });
    cluster.apply_yaml(&plan(HOME, "more", "pair: nobody, volumes: [{name: data, path: /tmp}]"));
    await_condition(cluster, &["bsplan", "more", "-n", HOME], "Ready", "False", "NotFound");
    let events = cluster.get(&["events.events.k8s.io", "-n", HOME]);
    let of_more =
        events["items"].as_array().unwrap().iter().find(|event| event["regarding"]["name"] == "more");
    assert!(of_more.unwrap()["reportingInstance"].as_str().unwrap().starts_with("second-"), "{events}");

    // One that finds another's name in the Lease stops at once; the other never renews, and it begins again.
    let thief = r#"{"spec":{"holderIdentity":"thief"}}"#;
    cluster.kubectl(["patch", "lease", "backstay-controllers", "-n", HOME, "--type=merge", "-p", thief]).ok();
    eventually("the second has stopped", Duration::from_secs(10), || second.log().contains("Lease is lost"));
    assert_eq!(lease_holder(cluster), "thief");
    eventually("the second has it again", PATIENCE, || lease_holder(cluster).starts_with("second-"));
}
