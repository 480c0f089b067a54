//! Figures of the Kubernetes plane: two real control planes, a site with its daemon beside each; many Secrets of one
//! namespace, and mixed objects in ten. Time from `backstay sync` to the commit, and to the end of the apply on the
//! standby; objects written there; peak memory of either daemon.
//!
//! `BACKSTAY_BIN=$PWD/target/release/backstay KUBEBUILDER_ASSETS=$(scripts/kube-assets.sh | tail -n1) \
//!     cargo bench -p backstay-benches --bench kube [secrets|mixed]`

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a program that measures by the real clock, and fails by panicking"
)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use backstay_kube::cluster::{ApplyOptions, Cluster, ClusterOptions};
use backstay_tests::kube::{self, ControlPlane, ControlPlaneOptions};
use backstay_tests::{Pair, SiteOptions, eventually_some};
use backstay_types::plan::PlanSpec;
use backstay_types::{Epoch, PlanName, RestorePointId};
use serde_json::{Value, json};

/// Of one namespace.
const SECRETS: usize = 31_000;
/// Of ten namespaces together.
const MIXED: usize = 5_000;
const NAMESPACES: usize = 10;

fn main() {
    if !kube::can_run("the figures of the Kubernetes plane") {
        return;
    }
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    for (name, objects) in [("mixed", mixed as fn() -> Vec<Value>), ("secrets", secrets)] {
        if wanted.is_empty() || wanted.iter().any(|one| one == name) {
            runtime.block_on(measure(name, objects()));
        }
    }
}

/// Two sites beside two clusters. Cycles: the first, one after nothing changed, one after one object changed.
async fn measure(name: &str, objects: Vec<Value>) {
    let active = ControlPlane::start("active", ControlPlaneOptions::default());
    let standby = ControlPlane::start("standby", ControlPlaneOptions::default());
    let spec = spec(&objects);
    let count = objects.len();
    let changing = objects.first().unwrap().clone();
    create(&active, &connect(&active).await, &spec, objects).await;
    let beside = |plane: &ControlPlane| SiteOptions {
        env: vec![(
            "BACKSTAY_KUBERNETES_KUBECONFIG".to_owned(),
            plane.cluster().kubeconfig().to_str().unwrap().to_owned(),
        )],
        ..SiteOptions::default()
    };
    let mut pair = Pair::with(beside(&active), beside(&standby));
    let document = json!({"apiVersion": "backstay.dev/v1alpha1", "kind": "ReplicationPlan",
        "metadata": {"name": "bench"}, "spec": spec});
    pair.east.apply(&document.to_string()).ok();
    for cycle in ["first", "unchanged", "one changed"] {
        if cycle == "one changed" {
            let text = |pointer: &str| changing.pointer(pointer).unwrap().as_str().unwrap().to_owned();
            let (kind, name) = (text("/kind"), text("/metadata/name"));
            let namespace = format!("--namespace={}", text("/metadata/namespace"));
            active.cluster().kubectl(["label", &kind, &name, &namespace, "changed=yes"]).ok();
        }
        let started = Instant::now();
        let point = pair.east.sync("bench");
        let committed = started.elapsed().as_secs_f64();
        let status = eventually_some("the standby has applied it", Duration::from_secs(600), || {
            let status = pair.west.status("bench");
            (status["appliedRestorePoint"] == point["id"]).then_some(status)
        });
        let total = started.elapsed().as_secs_f64();
        let of = |what: &str| status["objects"][what].as_u64().unwrap();
        assert_eq!(of("failed"), 0, "{status}");
        println!(
            "{name:8} {cycle:12} {count:6} objects   committed {committed:6.2} s   applied {total:6.2} s   \
             {:6} writes   {:8} bytes on the wire   peak {}/{} MiB",
            of("created") + of("changed") + of("recreated") + of("removed"),
            point["wireBytes"],
            pair.east.peak_memory_mib(),
            pair.west.peak_memory_mib(),
        );
    }
}

fn plan() -> &'static PlanName {
    static PLAN: std::sync::LazyLock<PlanName> = std::sync::LazyLock::new(|| "fill".parse().unwrap());
    &PLAN
}

fn options(spec: &PlanSpec) -> ApplyOptions<'_> {
    static NO_VOLUMES: BTreeMap<String, backstay_kube::cluster::VolumePlace> = BTreeMap::new();
    let restore_point = RestorePointId { epoch: Epoch(1), number: 1 };
    ApplyOptions { plan: plan(), epoch: Epoch(1), restore_point, spec, volumes: &NO_VOLUMES }
}

async fn connect(plane: &ControlPlane) -> Cluster {
    let options = ClusterOptions { kubeconfig: Some(plane.cluster().kubeconfig()), context: None };
    Cluster::connect(&options).await.unwrap()
}

fn spec(objects: &[Value]) -> PlanSpec {
    let mut namespaces: Vec<&str> =
        objects.iter().filter_map(|object| object.pointer("/metadata/namespace")?.as_str()).collect();
    namespaces.dedup();
    serde_json::from_value(json!({"pair": "west", "namespaces": namespaces})).unwrap()
}

/// Fills the active side, by the product's own apply: nothing else is as quick.
async fn create(active: &ControlPlane, cluster: &Cluster, spec: &PlanSpec, objects: Vec<Value>) {
    for namespace in &spec.namespaces {
        active.cluster().kubectl(["create", "namespace", namespace]).ok();
    }
    let key = |object: &Value| {
        let id = backstay_kube::ObjectId::of(object).unwrap();
        id.key(&backstay_kube::object::Scopes::default()).unwrap()
    };
    let captured = |object: Value| backstay_kube::folder::CapturedObject {
        key: key(&object),
        bytes: backstay_kube::canonical::to_bytes(&object),
    };
    let objects = Arc::new(objects.into_iter().map(captured).collect::<Vec<_>>());
    // As they are, not held.
    let spec = PlanSpec { start_applications: true, ..spec.clone() };
    let report = cluster.apply(&objects, &options(&spec)).await.unwrap();
    assert_eq!(report.failures.named, []);
}

fn secrets() -> Vec<Value> {
    let secret = |n: usize| {
        let text = format!("{:=<680}", base64_like(n));
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": format!("secret-{n}"), "namespace": "many",
            "labels": {"app": "bench"}}, "type": "Opaque", "data": {"password": text}})
    };
    (0..SECRETS).map(secret).collect()
}

/// Some base64 that differs: 680 bytes once padded to a whole number of groups.
fn base64_like(n: usize) -> String {
    let alphabet: Vec<char> = ('A'..='Z').chain('a'..='z').chain('0'..='9').collect();
    let mut state = n as u64 + 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *alphabet.get(usize::try_from(state >> 33).unwrap() % alphabet.len()).unwrap()
    };
    (0..680).map(|_| next()).collect()
}

fn mixed() -> Vec<Value> {
    let one = |n: usize| {
        let metadata = json!({"name": format!("object-{n}"), "namespace": format!("ns-{}", n * NAMESPACES / MIXED), "labels": {"app": "bench"}});
        let pod = json!({"metadata": {"labels": {"app": format!("app-{n}")}}, "spec": {"containers": [{"name": "main", "image": "localhost/web:1",
            "env": (0..10).map(|e| json!({"name": format!("KEY_{e}"), "value": format!("value-{n}-{e}")})).collect::<Vec<_>>()}]}});
        let selector = json!({"matchLabels": {"app": format!("app-{n}")}});
        let data: BTreeMap<String, String> =
            (0..8).map(|k| (format!("key-{k}"), format!("{:.<120}", format!("{n}-{k}")))).collect();
        match n % 10 {
            0..=3 => json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}),
            4 | 5 => {
                json!({"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": metadata, "data": {"key": base64_like(n)}})
            }
            6 => {
                json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": {"replicas": 2, "selector": selector, "template": pod}})
            }
            7 => {
                json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"selector": {"app": format!("app-{n}")}, "ports": [{"port": 80}]}})
            }
            8 => json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}),
            _ => json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": metadata,
                "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list"]}]}),
        }
    };
    (0..MIXED).map(one).collect()
}
