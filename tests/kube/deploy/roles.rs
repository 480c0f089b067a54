//! The installed roles at their edges: what they do not allow, and what happens then.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use backstay_kube::cluster::{ApplyOptions, ApplyReport, Captured, Cluster, ClusterOptions, Scope};
use backstay_tests::kube::{self, ControlPlane, ControlPlaneOptions};
use backstay_types::plan::PlanSpec;
use backstay_types::{Class, Epoch, RestorePointId};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::{NAMESPACE, account, account_of, chart, install, overlay};

const SHOP: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: shop}
---
apiVersion: v1
kind: Secret
metadata: {name: key, namespace: shop}
stringData: {key: one}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: all, namespace: shop}
rules: [{apiGroups: [\"\"], resources: [configmaps], verbs: [watch]}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: \"localhost/web:1\"}]}
";

/// A cluster that is active and standby of one plan: what is in `shop` goes to `shop-dr`.
struct Mirror {
    plane: ControlPlane,
    runtime: Runtime,
}

impl Mirror {
    fn start() -> Self {
        let plane = ControlPlane::start("roles", ControlPlaneOptions::default());
        plane.cluster().apply_yaml(SHOP);
        install(&plane, &overlay("both"), &["CustomResourceDefinition"]);
        Self { plane, runtime: tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap() }
    }

    fn cluster(&self, kubeconfig: PathBuf) -> Cluster {
        let options = ClusterOptions { kubeconfig: Some(kubeconfig), context: None };
        self.runtime.block_on(Cluster::connect(&options)).unwrap()
    }

    fn spec(more: Value) -> PlanSpec {
        let mut fields =
            json!({"pair": "west", "namespaces": ["shop"], "namespaceMapping": {"shop": "shop-dr"}});
        fields.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(fields).unwrap()
    }

    fn capture(&self, kubeconfig: PathBuf, spec: &PlanSpec) -> Captured {
        let scope = Scope::of(spec).unwrap();
        self.runtime.block_on(self.cluster(kubeconfig).capture(&scope)).unwrap()
    }

    fn apply(&self, kubeconfig: PathBuf, spec: &PlanSpec, captured: &Captured) -> ApplyReport {
        let objects = Arc::new(captured.objects.clone());
        let plan = "shop".parse().unwrap();
        let restore_point = RestorePointId { epoch: Epoch(1), number: 1 };
        let options =
            ApplyOptions { plan: &plan, epoch: Epoch(1), restore_point, spec, volumes: &BTreeMap::new() };
        self.runtime.block_on(self.cluster(kubeconfig).apply(&objects, &options)).unwrap()
    }

    /// Whether the daemon's account may do something, in words of `kubectl auth can-i`.
    fn may(&self, words: &str) -> bool {
        let account = format!("--as=system:serviceaccount:{NAMESPACE}:backstay");
        let words = ["auth", "can-i", &account].into_iter().chain(words.split(' '));
        self.plane.cluster().kubectl(words).exits(&[0, 1]).stdout.trim() == "yes"
    }

    #[track_caller]
    fn check(&self, role: &str, allowed: &[&str], denied: &[&str]) {
        let wrong: Vec<_> = allowed.iter().filter(|words| !self.may(words)).collect();
        assert!(wrong.is_empty(), "a {role} may not {wrong:?}");
        let wrong: Vec<_> = denied.iter().filter(|words| self.may(words)).collect();
        assert!(wrong.is_empty(), "a {role} may {wrong:?}");
    }
}

fn count(captured: &Captured) -> u64 {
    captured.objects.len().try_into().unwrap()
}

/// Of every role: ours are all of its own kinds, its lease, and Events.
const ALWAYS: [&str; 6] = [
    "patch replicationplans.backstay.dev --subresource=status -n shop",
    "watch failovers.backstay.dev -A",
    "create restorepoints.backstay.dev -n shop",
    "create events -n shop",
    "create events.events.k8s.io -n shop",
    "update leases.coordination.k8s.io -n backstay-system",
];

/// Of no role.
const NEVER: [&str; 9] = [
    "impersonate users",
    "impersonate serviceaccounts -n shop",
    "watch secrets -A",
    "update leases.coordination.k8s.io -n kube-system",
    "update nodes",
    "deletecollection pods -n shop",
    "approve signers.certificates.k8s.io",
    "update pods --subresource=ephemeralcontainers -n shop",
    "get /logs",
];

#[test]
fn a_sender_reads_and_a_receiver_writes() {
    if !kube::can_run("deploy::roles::a_sender_reads_and_a_receiver_writes") {
        return;
    }
    let mirror = Mirror::start();
    let spec = Mirror::spec(json!({}));

    let sender = account_of(&mirror.plane, "sender");
    let denied = [
        "get secrets -n shop",
        "get nodes --subresource=proxy",
        "get pods --subresource=log -n shop",
        "create pods --subresource=attach -n shop",
        "create serviceaccounts --subresource=token -n shop",
        "create deployments.apps -n shop",
        "patch deployments.apps -n shop",
        "delete persistentvolumeclaims -n shop",
        "create namespaces",
        "create clusterrolebindings",
        "escalate clusterroles",
        "bind clusterroles",
    ];
    let allowed = [
        "list secrets -A",
        "list persistentvolumes",
        "get pods --subresource=exec -n shop",
        "create pods --subresource=exec -n shop",
    ];
    mirror.check("sender", &[&ALWAYS[..], &allowed].concat(), &[&NEVER[..], &denied].concat());
    let captured = mirror.capture(sender.clone(), &spec);
    assert!(captured.report.is_complete(), "{:?}", captured.report);
    let refused = mirror.apply(sender, &spec, &captured);
    assert_eq!(refused.failures.count, count(&captured), "{refused:?}");
    assert!(refused.failures.named.iter().all(|one| one.class == Class::Unauthorized), "{refused:?}");
    assert!(!mirror.plane.cluster().has(&["namespace", "shop-dr"]));

    mirror.plane.cluster().kubectl(["delete", "clusterrolebinding", "backstay-sender"]).ok();
    let receiver = account_of(&mirror.plane, "receiver");
    let allowed = ["create deployments.apps -n shop", "delete configmaps -n shop", "escalate clusterroles"];
    mirror.check("receiver", &[&ALWAYS[..], &allowed].concat(), &NEVER);
    let report = mirror.apply(receiver, &spec, &captured);
    assert_eq!(report.failures.named, []);
    assert_eq!(report.created, count(&captured), "{report:?}");
}

#[test]
fn without_escalate_the_rest_still_arrives() {
    if !kube::can_deploy("deploy::roles::without_escalate_the_rest_still_arrives") {
        return;
    }
    let mirror = Mirror::start();
    let spec = Mirror::spec(json!({}));
    let rendered = chart(&["site.name=\"west\"", "rbac={\"escalate\": false, \"exec\": false}"]);
    let daemon = account(&mirror.plane, &rendered);
    let denied = ["escalate clusterroles", "bind roles -n shop"];
    mirror.check("site without escalate", &ALWAYS, &[&NEVER[..], &denied].concat());
    let captured = mirror.capture(daemon.clone(), &spec);
    let report = mirror.apply(daemon, &spec, &captured);
    let failed: Vec<_> = report.failures.named.iter().map(|one| (one.key.as_str(), one.class)).collect();
    assert_eq!(failed, [("Role.rbac.authorization.k8s.io shop-dr/all", Class::Unauthorized)]);
    assert_eq!(report.created, count(&captured) - 1, "{report:?}");
}

#[test]
fn narrowed_roles_serve_plans_of_these_kinds() {
    if !kube::can_deploy("deploy::roles::narrowed_roles_serve_plans_of_these_kinds") {
        return;
    }
    let mirror = Mirror::start();
    let kinds = "rbac={\"exec\": false, \"escalate\": false, \"kinds\": [
        {\"apiGroups\": [\"\"], \"resources\": [\"namespaces\", \"configmaps\"]},
        {\"apiGroups\": [\"apps\"], \"resources\": [\"deployments\"]}]}";
    let daemon = account(&mirror.plane, &chart(&["site.name=\"west\"", kinds]));
    let denied = ["list secrets -A", "create secrets -n shop", "create pods --subresource=exec -n shop"];
    mirror.check("narrowed site", &ALWAYS, &[&NEVER[..], &denied].concat());

    let narrow = Mirror::spec(json!({"includeResources": ["ConfigMap", "apps/Deployment"]}));
    let captured = mirror.capture(daemon.clone(), &narrow);
    assert!(captured.report.is_complete(), "{:?}", captured.report);
    let report = mirror.apply(daemon.clone(), &narrow, &captured);
    assert_eq!(report.failures.named, []);
    assert_eq!(report.created, 3, "{report:?}");

    // A plan that wants more is told so, kind by kind, and never takes a part for the whole.
    let captured = mirror.capture(daemon, &Mirror::spec(json!({})));
    let missing: Vec<_> =
        captured.report.missing.iter().map(|one| (one.kind.as_deref().unwrap(), one.class)).collect();
    assert!(missing.contains(&("Secret", Class::Unauthorized)), "{missing:?}");
    assert!(missing.iter().all(|(kind, _)| *kind != "ConfigMap"), "{missing:?}");
}
