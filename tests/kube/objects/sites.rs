//! Two control planes that take turns: each is captured from and applied to, with the rights of an installed site
//! that is both.

use std::collections::BTreeMap;
use std::sync::Arc;

use backstay_kube::cluster::{
    ApplyOptions, ApplyReport, Captured, Cluster, ClusterError, ClusterOptions, ReleaseReport, Scope,
    VolumePlace,
};
use backstay_tests::kube::{ControlPlane, ControlPlaneOptions};
use backstay_types::plan::PlanSpec;
use backstay_types::{Epoch, PlanName, RestorePointId};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::rig::contents;
use crate::deploy::account_of;

/// One of them, with the plan as it is when this side sends.
pub(super) struct Side {
    pub(super) plane: ControlPlane,
    pub(super) spec: PlanSpec,
    /// Where the data of volumes is here.
    pub(super) places: BTreeMap<String, VolumePlace>,
    pub(super) runtime: Arc<Runtime>,
    pub(super) cluster: Cluster,
}

/// Both of them, with controllers: the plan as the first side sends it.
pub(super) fn two(spec: Value) -> [Side; 2] {
    let spec = spec_of(spec);
    let back = spec.reversed().unwrap();
    std::thread::scope(|scope| {
        [("home", spec), ("away", back)]
            .map(|(name, spec)| scope.spawn(move || Side::start(name, spec)))
            .map(|thread| thread.join().unwrap())
    })
}

pub(super) fn spec_of(fields: Value) -> PlanSpec {
    let mut all = json!({"pair": "west"});
    all.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    serde_json::from_value(all).unwrap()
}

impl Side {
    pub(super) fn start(name: &str, spec: PlanSpec) -> Self {
        let options = ControlPlaneOptions { controllers: true, ..Default::default() };
        let plane = ControlPlane::start(name, options);
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let options = ClusterOptions { kubeconfig: Some(account_of(&plane, "both")), context: None };
        let cluster = runtime.block_on(Cluster::connect(&options)).unwrap();
        Self { plane, spec, places: BTreeMap::new(), runtime: Arc::new(runtime), cluster }
    }

    pub(super) fn place(&mut self, volume: &str, path: &str, node: Option<&str>) {
        let place = VolumePlace { path: path.into(), node: node.map(str::to_owned) };
        self.places.insert(volume.to_owned(), place);
    }

    #[track_caller]
    pub(super) fn capture(&self) -> Captured {
        let scope = Scope::of(&self.spec).unwrap();
        let captured = self.runtime.block_on(self.cluster.capture(&scope)).unwrap();
        assert!(captured.report.is_complete(), "{:?}", captured.report);
        captured
    }

    pub(super) fn contents(&self) -> BTreeMap<String, Value> {
        contents(&self.capture())
    }

    #[track_caller]
    pub(super) fn stand_still(&self, captured: &Captured) -> ApplyReport {
        let report = self.try_stand_still(captured).unwrap();
        assert_eq!(report.failures.named, []);
        report
    }

    pub(super) fn try_stand_still(&self, captured: &Captured) -> Result<ApplyReport, ClusterError> {
        let objects = Arc::new(captured.objects.clone());
        self.runtime.block_on(self.cluster.stand_still(&objects, &self.options(&self.spec)))
    }

    #[track_caller]
    pub(super) fn let_go(&self, captured: &Captured) -> ReleaseReport {
        let objects = Arc::new(captured.objects.clone());
        let report = self.runtime.block_on(self.cluster.let_go(&objects, &self.options(&self.spec))).unwrap();
        assert_eq!(report.failures.named, []);
        report
    }

    /// Applies what `from` captured.
    #[track_caller]
    pub(super) fn apply(&self, captured: &Captured, from: &Side) -> ApplyReport {
        let objects = Arc::new(captured.objects.clone());
        let report = self.runtime.block_on(self.cluster.apply(&objects, &self.options(&from.spec))).unwrap();
        assert_eq!(report.failures.named, []);
        report
    }

    #[track_caller]
    pub(super) fn release(&self, captured: &Captured, from: &Side) -> ReleaseReport {
        let objects = Arc::new(captured.objects.clone());
        let report =
            self.runtime.block_on(self.cluster.release(&objects, &self.options(&from.spec))).unwrap();
        assert_eq!(report.failures.named, []);
        report
    }

    pub(super) fn not_ready(&self, captured: &Captured, from: &Side) -> Vec<String> {
        let objects = Arc::new(captured.objects.clone());
        self.runtime.block_on(self.cluster.not_ready(&objects, &self.options(&from.spec))).unwrap()
    }

    pub(super) fn running_pods(&self) -> Vec<String> {
        let scope = Scope::of(&self.spec).unwrap();
        self.runtime.block_on(self.cluster.running_pods(&scope)).unwrap()
    }

    fn options<'a>(&'a self, spec: &'a PlanSpec) -> ApplyOptions<'a> {
        static PLAN: std::sync::LazyLock<PlanName> = std::sync::LazyLock::new(|| "shop".parse().unwrap());
        let restore_point = RestorePointId { epoch: Epoch(1), number: 7 };
        ApplyOptions { plan: &PLAN, epoch: Epoch(1), restore_point, spec, volumes: &self.places }
    }
}
