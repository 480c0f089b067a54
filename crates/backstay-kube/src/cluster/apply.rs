//! Apply: the objects of a restore point on the standby, held, and nothing of ours beside them.
//!
//! 1. Objects are created held, in one request each; an unchanged one costs none.
//! 2. What is gone at the source is deleted only if we applied it, and data only where the plan says so; what the
//!    capture could not see is not gone.
//! 3. Where an object was written at a higher epoch of the plan, nothing is: another daemon has gone on since.
//! 4. Repeating an apply, or going on with one that was cut off, changes only what is not as it should be.

mod established;
mod purge;
mod rebind;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use backstay_types::plan::PlanSpec;
use backstay_types::{Epoch, PlanName, RestorePointId};
use serde_json::Value;
use tokio::task::spawn_blocking;

use super::Cluster;
use super::capture::MissingKinds;
use super::discovery::{Resource, Resources};
use super::drift::Drift;
use super::error::ClusterError;
use super::items::{Items, Waves};
use super::live::{Live, Look, Slot};
use super::prepare::{Prepare, Purpose, VolumePlace, definitions};
use super::write::{Tally, Writer};
use crate::failure::Failures;
use crate::folder::CapturedObject;
use crate::normalise::PLAN_LABEL;
use crate::order::CRDS;
use crate::skip::whole_kind;
use crate::{GroupKind, ObjectId};

/// What is applied or released, and how.
#[derive(Debug, Clone)]
pub struct ApplyOptions<'a> {
    /// The plan that owns the objects.
    pub plan: &'a PlanName,
    /// The epoch of the plan, which objects of a higher one refuse.
    pub epoch: Epoch,
    /// The restore point they come from.
    pub restore_point: RestorePointId,
    /// Holds, mappings, transforms, and what is deleted.
    pub spec: &'a PlanSpec,
    /// Where the data of volumes is on the standby, by the volume's name at the source.
    pub volumes: &'a BTreeMap<String, VolumePlace>,
}

/// What an apply did. Every object of the restore point is created, changed, recreated, unchanged, shared,
/// deferred, left out or failed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ApplyReport {
    /// Objects that were not there.
    pub created: u64,
    /// Objects written because the source, or somebody here, had changed them.
    pub changed: u64,
    /// Objects deleted and created anew, because a field changed that cannot be.
    pub recreated: u64,
    /// Objects that cost no request.
    pub unchanged: u64,
    /// Objects that the standby has its own of, used as they are: namespaces, classes, definitions.
    pub shared: u64,
    /// Objects of ours deleted because they are gone at the source; of a stand-still, those deleted because nothing
    /// holds them.
    pub removed: u64,
    /// Objects of ours that stay although they are gone at the source: namespaces, claims, volumes, definitions.
    pub kept: u64,
    /// Objects that are held, among the above.
    pub held: u64,
    /// Objects that wait for promotion.
    pub deferred: u64,
    /// Objects that somebody else changed here.
    pub drifted: u64,
    /// The first of them.
    pub drifts: Vec<Drift>,
    /// What an operator should know and nothing failed for.
    pub warnings: Vec<String>,
    /// Objects that could not be written.
    pub failures: Failures,
}

/// An object that a plan wrote, or stood still.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOfPlan {
    /// The object.
    pub object: String,
    /// The epoch of the plan when it was written.
    pub epoch: Epoch,
    /// Whether it is held: the cluster was the standby.
    pub is_held: bool,
}

impl Cluster {
    /// Applies the objects of a restore point, held.
    pub async fn apply(
        &self,
        objects: &Arc<Vec<CapturedObject>>,
        options: &ApplyOptions<'_>,
    ) -> Result<ApplyReport, ClusterError> {
        let (writer, items) = self.prepared(objects, Prepare::new(options, Purpose::Hold)?).await?;
        for ((wave, _), group) in items.groups(Waves::Apply) {
            let definitions: Vec<Slot> = match wave == i32::from(CRDS) {
                true => group.iter().map(|item| item.slot.clone()).collect(),
                false => Vec::new(),
            };
            writer.group(group).await?;
            writer.wait_established(definitions).await?;
        }
        let rebound = writer.rebind().await?;
        writer.tell_of_stuck_claims(&rebound).await?;
        let missing = MissingKinds::of(objects);
        let kept = writer.purge(&items, options.spec, &missing).await?;
        let deferred = u64::try_from(items.deferred.len()).unwrap_or(u64::MAX);
        let tally = std::mem::take(&mut *writer.tally());
        Ok(ApplyReport { kept, deferred, ..ApplyReport::of(tally) })
    }

    /// Refuses where a workload of the plan was written at a higher epoch: what runs here is not to be written under.
    pub async fn check_epoch(&self, plan: &PlanName, epoch: Epoch) -> Result<(), ClusterError> {
        let resources = self.discover().await?;
        let workloads = resources.preferred().filter(|resource| is_workload(&resource.kind));
        let mut live = Live::default();
        live.read(self, workloads.map(|resource| of_plan(resource.clone(), plan)).collect()).await?;
        for (kind, why) in &live.unreadable {
            tracing::warn!(%plan, "whether {kind} is of a higher epoch is not known: {why}");
        }
        refuse_superseded(&live, plan, epoch)
    }

    /// What earlier plans of this name left on the cluster, if anything: the object of the highest epoch, one that is held
    /// before all others.
    pub async fn left_of(&self, plan: &PlanName) -> Result<Option<LeftOfPlan>, ClusterError> {
        let resources = self.discover().await?;
        let kinds = resources.preferred().filter(|resource| whole_kind(&resource.kind).is_none());
        let mut live = Live::default();
        live.read(self, kinds.map(|resource| of_plan(resource.clone(), plan)).collect()).await?;
        let of_plan = live.objects.iter().filter(|(_, live)| live.ours);
        let left = of_plan.filter_map(|(slot, live)| Some((live.held, live.epoch?, slot))).max();
        Ok(left.map(|(is_held, epoch, slot)| LeftOfPlan { object: slot.to_string(), epoch, is_held }))
    }

    /// Everything up to the first write: what there should be, and what there is.
    pub(super) async fn prepared(
        &self,
        objects: &Arc<Vec<CapturedObject>>,
        mut prepare: Prepare,
    ) -> Result<(Arc<Writer>, Items), ClusterError> {
        let discovered = self.discover().await?;
        let shared = objects.clone();
        let parsed = spawn_blocking(move || {
            prepare.learn(&shared);
            let items = Items::of(&prepare, &shared);
            let defined: Vec<Resource> = definitions(&shared).flat_map(|crd| defined(&crd)).collect();
            (prepare, items, defined)
        });
        let (prepare, items, defined) =
            parsed.await.map_err(|_| ClusterError::Worker { what: "preparing the objects" })?;
        let live = self.look(&discovered, &items, &prepare).await?;
        refuse_superseded(&live, prepare.plan(), prepare.epoch())?;
        let new_kinds = defined.iter().map(|resource| resource.kind.clone());
        let new_kinds = new_kinds.filter(|kind| discovered.versions(kind).is_empty()).collect();
        let mut served = discovered;
        defined.into_iter().for_each(|resource| served.add(resource));
        let mut tally = Tally::default();
        tally.failures.extend(items.failures.clone());
        let writer = Writer {
            cluster: self.clone(),
            served,
            new_kinds,
            prepare,
            objects: objects.clone(),
            slots: items.slots(),
            terminating: live.terminating(),
            live,
            uids: std::sync::Mutex::default(),
            tally: std::sync::Mutex::new(tally),
        };
        Ok((Arc::new(writer), items))
    }

    /// What the standby has of the plan, and of others under the same names.
    async fn look(
        &self,
        resources: &Resources,
        items: &Items,
        prepare: &Prepare,
    ) -> Result<Live, ClusterError> {
        let mut versions: BTreeMap<&GroupKind, &str> = BTreeMap::new();
        for item in &items.items {
            versions.insert(&item.slot.kind, &item.version);
        }
        // At the version of the bundle: another might have to be converted by a webhook that is not up.
        let at_version = |resource: &Resource| {
            let all = resources.versions(&resource.kind);
            let wanted = versions.get(&resource.kind);
            let found = wanted.and_then(|wanted| all.iter().find(|one| one.version == *wanted));
            found.unwrap_or(resource).clone()
        };
        let mut live = Live::default();
        let kinds = resources.preferred().filter(|resource| whole_kind(&resource.kind).is_none());
        live.read(self, kinds.map(|resource| of_plan(at_version(resource), prepare.plan())).collect())
            .await?;

        let mut places: BTreeMap<&GroupKind, BTreeSet<Option<String>>> = BTreeMap::new();
        // Where they come from, objects that wait are still to be put away.
        let waiting = items.deferred.keys().filter(|_| prepare.is_in_place());
        let slots = items.items.iter().map(|item| &item.slot).chain(waiting);
        for slot in slots.filter(|slot| !live.objects.contains_key(slot)) {
            places.entry(&slot.kind).or_default().insert(slot.namespace.clone());
        }
        let mut looks = Vec::new();
        for (kind, namespaces) in places {
            let Some(resource) = resources.versions(kind).first().map(at_version) else { continue };
            looks.extend(namespaces.into_iter().map(|namespace| Look {
                resource: resource.clone(),
                namespace,
                selector: None,
            }));
        }
        live.read(self, looks).await?;
        Ok(live)
    }
}

impl ApplyReport {
    pub(super) fn of(tally: Tally) -> Self {
        Self {
            created: tally.created,
            changed: tally.changed,
            recreated: tally.recreated,
            unchanged: tally.unchanged,
            shared: tally.shared,
            removed: tally.removed,
            kept: 0,
            held: tally.held,
            deferred: 0,
            drifted: tally.drifted,
            drifts: tally.drifts,
            warnings: tally.warnings,
            failures: tally.failures,
        }
    }
}

/// A daemon that stood still for a while, and does not know of a promotion, must not hold what that released.
fn refuse_superseded(live: &Live, plan: &PlanName, epoch: Epoch) -> Result<(), ClusterError> {
    let of_plan =
        live.objects.iter().filter(|(_, live)| live.ours && live.plan.as_deref() == Some(plan.as_str()));
    match of_plan.filter_map(|(slot, live)| Some((live.epoch?, slot))).max() {
        Some((found, slot)) if found > epoch => {
            Err(ClusterError::Superseded { plan: plan.clone(), object: slot.to_string(), found, ours: epoch })
        }
        _ => Ok(()),
    }
}

/// All objects of a kind that a plan owns.
fn of_plan(resource: Resource, plan: &PlanName) -> Look {
    Look { resource, namespace: None, selector: Some(format!("{PLAN_LABEL}={plan}")) }
}

/// What runs pods, but for operators' own kinds.
fn is_workload(kind: &GroupKind) -> bool {
    matches!(kind.group.as_str(), "apps" | "batch") && whole_kind(kind).is_none()
}

/// What a definition of custom resources has served.
fn defined(definition: &Value) -> Vec<Resource> {
    let text =
        |value: &Value, pointer: &str| value.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    let names = (
        text(definition, "/spec/group"),
        text(definition, "/spec/names/kind"),
        text(definition, "/spec/names/plural"),
    );
    let (Some(group), Some(kind), Some(plural)) = names else { return Vec::new() };
    if ObjectId::of(definition).is_err() {
        return Vec::new();
    }
    let namespaced = text(definition, "/spec/scope").as_deref() != Some("Cluster");
    let versions = definition.pointer("/spec/versions").and_then(Value::as_array).into_iter().flatten();
    let served = versions.filter(|version| version.get("served").and_then(Value::as_bool) == Some(true));
    let resource = |version: String| Resource {
        kind: GroupKind::new(&group, &kind),
        version,
        plural: plural.clone(),
        namespaced,
    };
    served.filter_map(|version| text(version, "/name")).map(resource).collect()
}
