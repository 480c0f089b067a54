//! A third cluster as the witness of automatic failovers: a Lease that a real API server keeps and compares.

use std::time::Duration;

use backstay_tests::kube::{self, ControlPlane, ControlPlaneOptions};
use backstay_tests::{Pair, Plan, Site, SiteOptions, assert_same, eventually, seed, tree};
use serde_json::Value;

const NAMESPACE: &str = "\
{apiVersion: v1, kind: Namespace, metadata: {name: witness}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: sites, namespace: witness}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: sites, namespace: witness}
rules: [{apiGroups: [coordination.k8s.io], resources: [leases], verbs: [get, create, update]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: sites, namespace: witness}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: sites}
subjects: [{kind: ServiceAccount, name: sites, namespace: witness}]
";

const SOON: Duration = Duration::from_secs(30);

fn automatic(site: &Site) -> Value {
    site.status("shop")["automaticFailover"].clone()
}

fn would(site: &Site, text: &str) -> bool {
    automatic(site)["wouldDo"].as_str().is_some_and(|would| would.contains(text))
}

/// With no more rights than the documentation asks for: renewed, made anew when somebody deletes it, of no harm while the
/// API server is away, and taken when the active site is dead.
#[test]
fn a_lease_in_a_third_cluster_decides() {
    if !kube::can_run("witness::a_lease_in_a_third_cluster_decides") {
        return;
    }
    let mut plane =
        ControlPlane::start("witness", ControlPlaneOptions { controllers: true, ..Default::default() });
    plane.cluster().apply_yaml(NAMESPACE);
    let kubeconfig = plane.cluster().kubeconfig_of("witness", "sites");
    let options = || SiteOptions {
        env: vec![
            ("BACKSTAY_WITNESS_URL".to_owned(), "kubernetes:witness".to_owned()),
            ("BACKSTAY_WITNESS_KUBECONFIG".to_owned(), kubeconfig.to_str().unwrap().to_owned()),
        ],
        ..SiteOptions::default()
    };
    let mut pair = Pair::with(options(), options());
    let source = pair.source("source");
    tree::small_files(&source, 50, &mut seed("kube witness"));
    let plan = Plan::new("shop").volume("data", &source);
    pair.keep();
    let plan = plan.field("hold: {commands: {hold: ['true'], release: ['true']}}");
    pair.east.apply(&plan.field("automaticFailover: {after: 6s, witness: lease}").yaml()).ok();
    pair.east.sync("shop");
    eventually("the standby watches the lease", SOON, || would(&pair.west, "this side promotes in"));

    let leases =
        || plane.cluster().get(&["leases", "--namespace=witness"])["items"].as_array().unwrap().clone();
    let [lease] = leases().try_into().unwrap();
    let beats = |lease: &Value| {
        let text = lease["metadata"]["annotations"]["backstay.dev/lease"].as_str().unwrap().to_owned();
        serde_json::from_str::<Value>(&text).unwrap()["beats"].as_u64().unwrap()
    };
    let before = beats(&lease);
    eventually("the lease is renewed", SOON, || beats(&leases()[0]) > before);
    plane.cluster().kubectl(["delete", "leases", "--all", "--namespace=witness"]).ok();
    eventually("the lease is made anew", SOON, || !leases().is_empty());
    assert_eq!(pair.west.status("shop")["role"], "standby");

    plane.kill_apiserver();
    for site in [&pair.east, &pair.west] {
        eventually("status says that the witness is away", SOON, || automatic(site)["reachable"] == false);
    }
    std::thread::sleep(Duration::from_secs(8));
    assert_eq!(pair.east.status("shop")["role"], "active");
    assert!(would(&pair.east, "this side holds in"), "{}", automatic(&pair.east));
    plane.restart_apiserver();
    eventually("the witness is of use again", SOON, || would(&pair.west, "this side promotes in"));

    pair.east.kill_machine();
    eventually("the standby takes over", SOON, || pair.west.status("shop")["role"] == "active");
    assert_same(&source, &pair.west.replica("shop", "data"));
}
