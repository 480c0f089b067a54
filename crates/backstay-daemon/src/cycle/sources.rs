//! What a cycle reads: the volumes that the plan lists, and those behind the claims of its namespaces.
//!
//! 1. A claim whose data cannot be read here fails the cycle: a restore point has no hole.
//! 2. The claims are found before anything is snapshotted, and looked at again with the objects: volumes and objects
//!    of one restore point belong together.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use backstay_kube::cluster::{
    Cluster, FoundVolume, FreezeRequest, Frozen, Scope, VolumeSource, volume_names,
};
use backstay_kube::folder::CapturedObject;
use backstay_types::plan::{ManifestFolder, RuleSpec, SnapshotSpec, VolumeSpec};
use backstay_types::{PlanName, VolumeName};

use crate::DaemonError;
use crate::clusters::{at_home, own_names};
use crate::plans::PlanRecord;
use crate::site::Site;

/// What one cycle reads.
pub(super) struct Sources {
    pub(super) volumes: Vec<VolumeSpec>,
    pub(super) manifests: Option<ManifestFolder>,
    /// The objects of a folder as they were before this side held them, if it does: a held folder is not captured.
    pub(super) held: Option<Vec<CapturedObject>>,
    pub(super) cluster: Option<ClusterSource>,
    /// Names of the volumes that stand for claims which nothing else owns.
    pub(super) claims: BTreeSet<VolumeName>,
}

/// The objects that one cycle reads from a cluster.
pub(super) struct ClusterSource {
    pub(super) cluster: Cluster,
    pub(super) scope: Scope,
    /// The claims that [`Sources::volumes`] stands for.
    pub(super) claims: Vec<FoundVolume>,
    rules: Rules,
    purpose: Purpose,
    /// Whether all of it is held: then nothing runs that could be frozen. What is captured is as it was before.
    stands: bool,
}

/// What quiets the application while volumes and objects are taken.
struct Rules {
    pre: Option<RuleSpec>,
    post: Option<RuleSpec>,
    record: PathBuf,
}

/// What is read is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A restore point, which has no hole.
    Cycle,
    /// To be held, or kept: whatever is there, in whatever state.
    Keep,
}

impl Site {
    pub(super) async fn sources(
        &self,
        record: &PlanRecord,
        purpose: Purpose,
    ) -> Result<Sources, DaemonError> {
        let mut volumes = self.listed_volumes(record);
        let manifests = self.listed_manifests(record);
        let Some(mut scope) = own_scope(record)? else {
            let held = self.standing(&record.name)?;
            return Ok(Sources { volumes, manifests, held, cluster: None, claims: BTreeSet::new() });
        };
        scope.takes_ending = purpose == Purpose::Keep;
        let cluster = self.cluster().await?;
        let claims = cluster.claims(&scope).await?;
        let here = self.config.load().kubernetes.node.clone();
        let several = !claims.is_empty() && cluster.has_several_nodes().await?;
        check_readable(&record.name, &claims, here.as_deref(), several)?;
        let (mut places, mut lasting) = (BTreeMap::new(), BTreeSet::new());
        let named = if record.home { claims.clone() } else { at_home(&record.spec, &claims) };
        for (name, claim) in volume_names(&named, &own_names(&record.spec)) {
            let VolumeSource::Node { path, .. } = &claim.source else { continue };
            places.insert(name.clone(), path.clone());
            if !claim.is_owned {
                lasting.insert(name.clone());
            }
            let path = self.on_host(path);
            self.check_place(&record.name, &path)?;
            let (path, device) = if claim.is_block { (None, Some(path)) } else { (Some(path), None) };
            volumes.push(VolumeSpec { name, path, device, snapshot: SnapshotSpec::default() });
        }
        if record.state.active_until().is_some() {
            self.add_left_volumes(record, &mut places, &mut volumes)?;
        }
        if record.claims != places {
            self.plans.update(&record.name, |record| record.claims = places)?;
        }
        let rules = self.rules(record)?;
        let cluster =
            Some(ClusterSource { cluster, scope, claims, rules, purpose, stands: record.state.standing() });
        Ok(Sources { volumes, manifests, held: None, cluster, claims: lasting })
    }

    /// Volumes whose claims are gone, and whose data is still where it was: what steps down keeps it, for it is overwritten
    /// next.
    fn add_left_volumes(
        &self,
        record: &PlanRecord,
        places: &mut BTreeMap<VolumeName, PathBuf>,
        volumes: &mut Vec<VolumeSpec>,
    ) -> Result<(), DaemonError> {
        for (name, path) in &record.claims {
            if places.contains_key(name) {
                continue;
            }
            places.insert(name.clone(), path.clone());
            let path = self.on_host(path);
            self.check_place(&record.name, &path)?;
            let (path, device) = if path.is_dir() { (Some(path), None) } else { (None, Some(path)) };
            volumes.push(VolumeSpec { name: name.clone(), path, device, snapshot: SnapshotSpec::default() });
        }
        Ok(())
    }

    /// The objects of a plan over namespaces as they are on the cluster beside this site.
    pub(crate) async fn capture_own(&self, record: &PlanRecord) -> Result<Vec<CapturedObject>, DaemonError> {
        match self.sources(record, Purpose::Keep).await?.cluster {
            Some(source) => source.capture(&record.name).await,
            None => Ok(Vec::new()),
        }
    }

    fn rules(&self, record: &PlanRecord) -> Result<Rules, DaemonError> {
        let find = |rule: &Option<String>| {
            let Some(rule) = rule else { return Ok(None) };
            match self.rule_to_run(record, rule) {
                Some(found) => Ok(Some(found)),
                // The plan goes on without it: its restore points say that nothing was frozen.
                None if !record.home && record.rules.contains_key(rule) => {
                    tracing::warn!(
                        rule,
                        "not run, since nobody here has accepted it: backstay plan accept {}",
                        record.name
                    );
                    Ok(None)
                }
                None => Err(DaemonError::RuleNotFound { plan: record.name.clone(), rule: rule.clone() }),
            }
        };
        Ok(Rules {
            pre: find(&record.spec.pre_exec_rule)?,
            post: find(&record.spec.post_exec_rule)?,
            record: self.plans.freeze_record(&record.name),
        })
    }
}

/// What a plan covers on the cluster beside the side that runs it; none for a plan without a cluster. Of a side that steps
/// down whatever is left: a namespace that is gone has nothing that runs, and must not keep it from stepping down.
pub(crate) fn own_scope(record: &PlanRecord) -> Result<Option<Scope>, DaemonError> {
    let scope = Scope::of(&*record.sends_by()?);
    Ok(scope.map(|scope| Scope { of_what_is_left: record.state.active_until().is_some(), ..scope }))
}

/// Claims without a volume have no data yet; all others must be of this node. In a cluster of several nodes that has to be
/// said by both sides: a folder of the same path here would be taken for the volume.
fn check_readable(
    plan: &PlanName,
    claims: &[FoundVolume],
    here: Option<&str>,
    several: bool,
) -> Result<(), DaemonError> {
    for claim in claims {
        let name = &claim.name;
        let why = match (&claim.source, here) {
            (VolumeSource::Unbound, _) => continue,
            (VolumeSource::Node { node: Some(node), .. }, Some(here)) if node == here => continue,
            (VolumeSource::Node { node: Some(node), .. }, Some(here)) => {
                format!("its volume {name} is on node {node}, and this daemon on {here}")
            }
            (VolumeSource::Node { .. }, None) if several => {
                format!(
                    "the cluster has several nodes: set `kubernetes.node` to the one that has volume {name} and this daemon"
                )
            }
            (VolumeSource::Node { node: None, .. }, Some(_)) if several => {
                format!(
                    "the cluster has several nodes, and volume {name} does not name one by kubernetes.io/hostname"
                )
            }
            (VolumeSource::Node { .. }, _) => continue,
            (VolumeSource::LeftOut, _) => {
                format!("its volume {name} could not be read, or the plan leaves PersistentVolumes out")
            }
            (VolumeSource::Driver { driver }, _) => {
                format!("its volume {name} is behind {driver}, which cannot be read in place")
            }
        };
        let claim = format!("{}/{}", claim.namespace, claim.claim);
        return Err(DaemonError::Claim { plan: plan.clone(), claim, why });
    }
    Ok(())
}

impl ClusterSource {
    /// Freezes the application, if the plan says how.
    pub(super) async fn freeze(&self) -> Result<Option<Frozen>, DaemonError> {
        let Rules { pre, post, record } = &self.rules;
        if self.stands || (pre.is_none() && post.is_none()) {
            return Ok(None);
        }
        let request = FreezeRequest { scope: &self.scope, pre: pre.as_ref(), post: post.as_ref(), record };
        Ok(Some(self.cluster.freeze(&request).await?))
    }

    /// Captures the objects, all of them or none.
    pub(super) async fn capture(
        &self,
        plan: &PlanName,
    ) -> Result<Vec<backstay_kube::folder::CapturedObject>, DaemonError> {
        let captured = self.cluster.capture(&self.scope).await?;
        let report = &captured.report;
        let missing = report.missing.iter().map(|missing| (missing.class, missing.to_string()));
        let failed = report.failures.named.iter();
        let failed = failed.map(|failure| (failure.class, format!("{}: {}", failure.key, failure.message)));
        if let Some((class, first)) = missing.chain(failed).next() {
            let count = report.missing.len() as u64 + report.failures.count;
            return Err(DaemonError::Unseen { plan: plan.clone(), class, count, first });
        }
        if let Some(hole) = report.holes.named.first().filter(|_| self.purpose == Purpose::Cycle) {
            let first = format!("{}: {}", hole.key, hole.message);
            let (count, hint) = (report.holes.count, hole.hint.clone());
            return Err(DaemonError::Hole { plan: plan.clone(), count, first, hint });
        }
        if captured.volumes != self.claims {
            return Err(DaemonError::ClaimsChanged { plan: plan.clone() });
        }
        if report.scratch > 0 && self.purpose == Purpose::Cycle {
            tracing::info!(
                volumes = report.scratch,
                "emptyDir volumes of pods start empty on the other side"
            );
        }
        Ok(captured.objects)
    }
}
