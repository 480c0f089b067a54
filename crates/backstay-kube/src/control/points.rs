//! `RestorePoint`: one for each restore point that this site holds, in the namespace of its plan's resource, or in the
//! daemon's. One that is deleted is made anew; it goes when its point does, and stays as it is while that cannot be told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use backstay_types::{PlanName, RestorePointId};
use kube::ResourceExt;
use kube::api::DynamicObject;
use serde_json::{Value, json};

use super::condition::{Told, conditions, count};
use super::host::{Host, Picture, PointReport};
use super::standing::Standing;
use super::write::WriteError;
use super::{Controller, MANAGED_LABEL, MANAGER, is_managed};
use crate::crds::{RestorePointSpec, RestorePointStatus};

/// The plan of a restore point, for `kubectl get -l`.
const PLAN_LABEL: &str = "backstay.dev/plan-name";

/// Objects made in one pass: after an upgrade there may be hundreds, and other resources wait meanwhile.
const MADE_MAX: usize = 50;

type Key = (PlanName, RestorePointId);

/// Plans that restore points are known of: some may have no plan any more.
pub(super) fn plans_of(objects: &[Arc<DynamicObject>]) -> BTreeSet<PlanName> {
    objects.iter().filter(|object| is_managed(object)).filter_map(|object| Some(key(object)?.0)).collect()
}

fn key(object: &DynamicObject) -> Option<Key> {
    let spec = object.data.get("spec")?;
    let text = |field: &str| spec.get(field).and_then(Value::as_str);
    Some((text("plan")?.parse().ok()?, text("id")?.parse().ok()?))
}

impl<H: Host> Controller<H> {
    pub(super) async fn points(
        &mut self,
        standing: &Standing<'_>,
        picture: &Picture,
    ) -> Result<(), WriteError> {
        let objects = self.cache.points.objects();
        let held: BTreeMap<Key, &PointReport> =
            picture.points.values().flatten().map(|point| ((point.plan.clone(), point.id), point)).collect();
        let is_unknown = |key: &Key| !picture.points.contains_key(&key.0);
        let mut shown = BTreeSet::new();
        for object in objects.iter().filter(|object| is_managed(object)) {
            let key = key(object);
            let outcome = match key.as_ref().and_then(|key| held.get(key)) {
                Some(point) => self.show_point(object, point, picture).await,
                None if key.as_ref().is_some_and(is_unknown) => continue,
                None => self.cache.points.kind.delete(object).await,
            };
            self.tolerate(&self.cache.points.kind.resource.kind.clone(), object, outcome)?;
            shown.extend(key.filter(|_| object.metadata.deletion_timestamp.is_none()));
        }
        let missing = held.iter().filter(|(key, _)| !shown.contains(key));
        for (_, point) in missing.take(MADE_MAX) {
            let namespace = standing.of(&point.plan).and_then(|object| object.namespace());
            let namespace = namespace.unwrap_or_else(|| self.namespace.clone());
            let name = format!("{}-{}", point.plan, point.id);
            let labels = json!({MANAGED_LABEL: MANAGER, PLAN_LABEL: point.plan});
            let made = self.cache.points.kind.apply(Some(&namespace), &name, &labels, &spec(point)).await;
            self.tolerate_named(format!("RestorePoint {namespace}/{name}"), made)?;
        }
        Ok(())
    }

    async fn show_point(
        &mut self,
        object: &DynamicObject,
        point: &PointReport,
        picture: &Picture,
    ) -> Result<(), WriteError> {
        let observed: RestorePointStatus = self.statuses.observed(object);
        let is_applied =
            picture.plans.get(&point.plan).is_some_and(|plan| plan.applied_point == Some(point.id));
        let applied = match is_applied {
            true => Told::new("Applied", true, "Applied", "the replicas show it"),
            false => Told::new("Applied", false, "NotShown", "the replicas show another restore point"),
        };
        let damage = match point.is_damaged {
            true => Told::new(
                "Damaged",
                true,
                "Damaged",
                "`backstay verify` found damage that it could not repair",
            ),
            false => Told::new("Damaged", false, "NoneFound", "no damage was found"),
        };
        let now = self.host.now();
        let status = RestorePointStatus {
            conditions: conditions(&observed.conditions, [applied, damage], object.metadata.generation, now),
            held_by: point.held_by.clone(),
        };
        self.statuses.put(&self.cache.points.kind, object, &status).await.map(drop)
    }
}

fn spec(point: &PointReport) -> Value {
    json!(RestorePointSpec {
        plan: point.plan.to_string(),
        id: point.id.to_string(),
        epoch: count(point.id.epoch.0),
        snapshot_time: point.snapshot_time.to_string(),
        committed_time: point.committed_time.to_string(),
        consistency: point.consistency,
        bytes: count(point.bytes),
        bytes_changed: count(point.bytes_changed),
        wire_bytes: count(point.wire_bytes),
        objects: point.objects.map(count),
        // Only complete points are ever committed.
        complete: true,
    })
}
