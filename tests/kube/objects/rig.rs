//! Two control planes and the library between them, with the rights that an installation has: it captures as a
//! sender and applies as a receiver.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;

use backstay_kube::cluster::{
    ApplyOptions, ApplyReport, Captured, Cluster, ClusterError, ClusterOptions, ReleaseReport, Scope,
};
use backstay_kube::folder::CapturedObject;
use backstay_tests::kube::{ControlPlane, ControlPlaneOptions};
use backstay_types::plan::PlanSpec;
use backstay_types::{Epoch, PlanName, RestorePointId};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::deploy::account_of;

/// An active and a standby control plane, and a plan between them.
pub(super) struct Rig {
    pub(super) active: ControlPlane,
    pub(super) standby: ControlPlane,
    pub(super) spec: PlanSpec,
    plan: PlanName,
    sender: PathBuf,
    receiver: PathBuf,
    runtime: Runtime,
}

impl Rig {
    /// With controllers on both sides, or none.
    pub(super) fn start(controllers: bool, spec: Value) -> Self {
        let [active, standby] = std::thread::scope(|scope| {
            ["active", "standby"]
                .map(|name| {
                    let options = ControlPlaneOptions { controllers, ..Default::default() };
                    scope.spawn(move || ControlPlane::start(name, options))
                })
                .map(|thread| thread.join().unwrap())
        });
        let (sender, receiver) = (account_of(&active, "sender"), account_of(&standby, "receiver"));
        let mut fields = json!({"pair": "west"});
        fields.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        Self {
            active,
            standby,
            spec: serde_json::from_value(fields).unwrap(),
            plan: "shop".parse().unwrap(),
            sender,
            receiver,
            runtime: tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap(),
        }
    }

    fn connect(&self, plane: &ControlPlane) -> Cluster {
        let kubeconfig = if std::ptr::eq(plane, &self.active) { &self.sender } else { &self.receiver };
        let options = ClusterOptions { kubeconfig: Some(kubeconfig.clone()), context: None };
        self.runtime.block_on(Cluster::connect(&options)).unwrap()
    }

    pub(super) fn try_capture(&self, plane: &ControlPlane) -> Result<Captured, ClusterError> {
        let scope = Scope::of(&self.spec).unwrap();
        let cluster = self.connect(plane);
        self.runtime.block_on(cluster.capture(&scope))
    }

    pub(super) fn capture(&self) -> Captured {
        self.try_capture(&self.active).unwrap()
    }

    pub(super) fn try_apply(&self, captured: &Captured) -> Result<ApplyReport, ClusterError> {
        let objects = Arc::new(captured.objects.clone());
        let cluster = self.connect(&self.standby);
        self.runtime.block_on(cluster.apply(&objects, &self.options()))
    }

    pub(super) fn apply(&self, captured: &Captured) -> ApplyReport {
        self.try_apply(captured).unwrap()
    }

    /// Captures and applies; both must go through without a failure.
    #[track_caller]
    pub(super) fn cycle(&self) -> ApplyReport {
        let captured = self.capture();
        assert!(captured.report.is_complete(), "{:?}", captured.report);
        let report = self.apply(&captured);
        assert_eq!(report.failures.named, []);
        report
    }

    pub(super) fn release(&self, captured: &Captured) -> ReleaseReport {
        let objects = Arc::new(captured.objects.clone());
        let cluster = self.connect(&self.standby);
        self.runtime.block_on(cluster.release(&objects, &self.options())).unwrap()
    }

    /// Runs the apply on a thread of its own while `meanwhile` does its part.
    pub(super) fn apply_while(
        &mut self,
        captured: &Captured,
        meanwhile: impl FnOnce(&mut ControlPlane),
    ) -> Result<ApplyReport, ClusterError> {
        let objects = Arc::new(captured.objects.clone());
        let cluster = self.connect(&self.standby);
        let (spec, plan) = (self.spec.clone(), self.plan.clone());
        let task = self.runtime.spawn(async move {
            let options = ApplyOptions {
                plan: &plan,
                epoch: Epoch(1),
                restore_point: POINT,
                spec: &spec,
                volumes: &BTreeMap::new(),
            };
            cluster.apply(&objects, &options).await
        });
        meanwhile(&mut self.standby);
        self.runtime.block_on(task).unwrap()
    }

    fn options(&self) -> ApplyOptions<'_> {
        static NO_VOLUMES: BTreeMap<String, backstay_kube::cluster::VolumePlace> = BTreeMap::new();
        ApplyOptions {
            plan: &self.plan,
            epoch: Epoch(1),
            restore_point: POINT,
            spec: &self.spec,
            volumes: &NO_VOLUMES,
        }
    }
}

const POINT: RestorePointId = RestorePointId { epoch: Epoch(1), number: 7 };

/// One object of the standby.
#[track_caller]
pub(super) fn get(plane: &ControlPlane, args: &[&str]) -> Value {
    plane.cluster().get(args)
}

/// Every object of every kind of some namespaces: its resource version, by name.
pub(super) fn versions(plane: &ControlPlane, namespace: &str) -> BTreeMap<String, String> {
    let kinds =
        plane.cluster().kubectl(["api-resources", "--verbs=list,create", "--namespaced", "-o", "name"]).ok();
    let skipped = ["events", "leases", "endpointslices", "endpoints.", "events."];
    let kinds: Vec<&str> =
        kinds.stdout.lines().filter(|kind| !skipped.iter().any(|skip| kind.starts_with(skip))).collect();
    let all = get(plane, &[&kinds.join(","), "--namespace", namespace]);
    let of = |object: &Value| {
        let text = |pointer| object.pointer(pointer).and_then(Value::as_str).unwrap().to_owned();
        (format!("{} {}", text("/kind"), text("/metadata/name")), text("/metadata/resourceVersion"))
    };
    all["items"].as_array().unwrap().iter().map(of).collect()
}

/// The object of a capture with this key.
#[track_caller]
pub(super) fn captured(all: &Captured, key: &str) -> Value {
    let object = all.objects.iter().find(|object| object.key.to_string() == key);
    serde_json::from_slice(&object.unwrap_or_else(|| panic!("no {key} was captured")).bytes).unwrap()
}

/// Keys and contents, for comparisons that name what differs.
pub(super) fn contents(all: &Captured) -> BTreeMap<String, Value> {
    let of =
        |object: &CapturedObject| (object.key.to_string(), serde_json::from_slice(&object.bytes).unwrap());
    all.objects.iter().map(of).collect()
}

/// A watch of a cluster's pods, from before the first to the end of the test. Sees a pod that came and went.
pub(super) struct PodWatch {
    child: Child,
    dir: TempDir,
}

impl PodWatch {
    pub(super) fn start(plane: &ControlPlane) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let kubectl = Path::new(&std::env::var_os("KUBEBUILDER_ASSETS").unwrap()).join("kubectl");
        let mut command = plane.cluster().command(kubectl);
        command.arg("--kubeconfig").arg(plane.cluster().kubeconfig());
        command.args(["get", "pods", "--all-namespaces", "--watch", "--output-watch-events", "--no-headers"]);
        let file = |name| Stdio::from(File::create(dir.path().join(name)).unwrap());
        let child = command.stdout(file("events")).stderr(file("errors")).spawn().unwrap();
        Self { child, dir }
    }

    /// What was seen so far.
    pub(super) fn events(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("events")).unwrap()
    }
}

impl Drop for PodWatch {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
