//! `ReplicationPlan`: resource and book are brought together.
//!
//! Which resource stands for a plan is decided in `standing.rs`; the others are refused.
//!
//! 1. Where the site is active for a plan, its resource says what the plan is, and the book follows. A resource that
//!    appears in the daemon's namespace for a plan of the command line takes it over.
//! 2. Where it is not, the plan is what the peer says. A site without a resource for it gets a *mirror* in the
//!    daemon's namespace, labelled [`MIRROR_LABEL`], which shows spec and status; a resource that somebody else wrote
//!    there is told so and left alone. A promotion makes the mirror the plan's own resource, and stepping down makes the
//!    plan's own resource a mirror.
//! 3. A plan ends with its resource: the finalizer holds the resource until the book has let the plan go. A mirror is a
//!    view: deleted, it is made anew until the plan is deleted here (`backstay plan delete`), and goes with the plan.
//! 4. A resource that was told of a role and an epoch, and whose plan the book does not have, makes no plan of another:
//!    what it was told stays in its status (test `nothing_begins_by_a_resource_that_was_told_otherwise`).
//!
//! At a crash: every step is taken again from what is there.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use backstay_types::frame::SiteRole;
use backstay_types::plan::{DrillSpec, PlanSpec, ProbeSpec};
use backstay_types::{Classify, Epoch, PlanName};
use kube::ResourceExt;
use kube::api::DynamicObject;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::condition::Told;
use super::host::{Host, HostError, Picture, PlanReport};
use super::plan_status::{ACCEPTED, plan_status, role_name};
use super::read;
use super::standing::{Standing, has_finalizer, is_accepted, is_mirror};
use super::write::WriteError;
use super::{Controller, MANAGED_LABEL, MANAGER, notice};
use crate::Document;
use crate::crds::PlanStatus;
use crate::documents::Begins;

/// Holds a resource until its plan is gone.
pub(super) const FINALIZER: &str = "backstay.dev/plan";
/// A resource that shows what the peer says.
pub(super) const MIRROR_LABEL: &str = "backstay.dev/mirror";
/// What was refused may be right later, without a change of the resource: a pair is made, a folder mounted.
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// A resource that the site refused.
pub(super) struct Refused {
    generation: Option<i64>,
    since: Instant,
    error: HostError,
}

impl<H: Host> Controller<H> {
    /// Brings resources and book together. `picture` is from before: what changes now is seen by the next pass.
    pub(super) async fn plans(
        &mut self,
        standing: &Standing<'_>,
        picture: &Picture,
    ) -> Result<(), WriteError> {
        self.tell_who_is_kept(standing, picture);
        let damaged: BTreeSet<_> = picture
            .points
            .values()
            .flatten()
            .filter(|point| point.is_damaged)
            .map(|point| &point.plan)
            .collect();
        for (object, stands) in &standing.resources {
            let name = object.name_any();
            let found = picture.plans.iter().find(|(plan, _)| plan.as_str() == name).filter(|_| *stands);
            let has_damage = found.is_some_and(|(plan, _)| damaged.contains(plan));
            let taken = (!stands).then(|| standing.taken(&name, &self.namespace));
            let done = self.plan(object, taken, found.map(|(_, report)| report), has_damage).await;
            self.tolerate("ReplicationPlan", object, done)?;
        }
        for (name, report) in &picture.plans {
            if !report.is_ours() && standing.of(name).is_none() {
                let namespace = self.namespace.clone();
                let made = self.write_mirror(&namespace, name.as_str(), report).await;
                self.tolerate_named(format!("ReplicationPlan {namespace}/{name}"), made)?;
            }
        }
        Ok(())
    }

    /// One resource; `taken` is why it does not stand for the plan of its name.
    async fn plan(
        &mut self,
        object: &DynamicObject,
        taken: Option<Told>,
        report: Option<&PlanReport>,
        has_damage: bool,
    ) -> Result<(), WriteError> {
        if object.metadata.deletion_timestamp.is_some() {
            return self.plan_goes(object, report).await;
        }
        let observed: PlanStatus = self.statuses.observed(object);
        let was_ours = has_finalizer(object) || is_accepted(&observed);
        let ready = match (taken, is_mirror(object), report) {
            (Some(taken), ..) => Some(taken),
            (None, true, None) => return self.cache.plans.kind.delete(object).await,
            (None, true, Some(report)) => self.mirror(object, report).await?,
            (None, false, Some(report)) if was_ours && report.role == SiteRole::Standby => {
                self.mirror(object, report).await?
            }
            (None, false, report) => Some(self.own(object, report).await?),
        };
        match ready {
            Some(ready) => self.show_plan(object, ready, report, has_damage).await,
            None => Ok(()),
        }
    }

    fn tell_who_is_kept(&self, standing: &Standing<'_>, picture: &Picture) {
        let is_kept = |object: &&&Arc<DynamicObject>| !is_mirror(object) && has_finalizer(object);
        let kept = picture.plans.iter().filter(|(_, report)| report.is_ours()).filter_map(|(name, _)| {
            let object = standing.names.get(name.as_str()).filter(|object| is_kept(object))?;
            Some((name.clone(), format!("{}/{name}", object.namespace().unwrap_or_default())))
        });
        self.host.kept_by(kept.collect());
    }

    /// A resource of an operator.
    async fn own(&mut self, object: &DynamicObject, report: Option<&PlanReport>) -> Result<Told, WriteError> {
        match report.map(|report| report.role) {
            None => {
                if let Some(other) = told_otherwise(&self.statuses.observed(object)) {
                    return Ok(other);
                }
            }
            Some(SiteRole::Active) => {}
            Some(SiteRole::Promoting) => {
                return Ok(Told::new("Ready", true, "Promoting", "this site is taking over"));
            }
            Some(SiteRole::Demoting) => {
                let message = "the other site was promoted: the plan is what that site says";
                return Ok(Told::new("Ready", false, "Fenced", message));
            }
            Some(SiteRole::Standby) => {
                let message =
                    "this site is the standby: the plan is what the active side says, not this spec";
                return Ok(Told::new("Ready", true, "Standby", message));
            }
        }
        let document = read::document(&self.cache.plans.kind.resource.kind, object);
        let (name, spec, mut begins) = match document {
            Ok(Document::Plan { name, spec, begins }) => (name, *spec, begins),
            Ok(Document::SchedulePolicy { .. } | Document::Rule { .. }) => return Ok(read::not_of_kind()),
            Err(error) => return Ok(refusal(&error)),
        };
        let namespace = object.namespace().unwrap_or_default();
        if namespace != self.namespace
            && let Some(field) = beyond(&namespace, &spec)
        {
            let message = format!(
                "{field} reaches beyond namespace {namespace}: create the plan in {}, where the daemon is",
                self.namespace
            );
            return Ok(Told::new("Ready", false, "OtherNamespace", message));
        }
        if !has_finalizer(object) {
            // First: a plan in the book whose resource can go without a word would never end.
            self.cache.plans.kind.set_finalizer(object, FINALIZER, true).await?;
        }
        if report.is_some_and(|report| report.spec == spec) {
            self.refused.remove(&uid(object));
            return Ok(Told::new("Ready", true, ACCEPTED, "the plan is accepted"));
        }
        let observed: PlanStatus = self.statuses.observed(object);
        begins.resource = Some(uid(object));
        begins.told = observed.epoch.and_then(|epoch| u64::try_from(epoch).ok()).map(Epoch);
        Ok(self.put_plan(object, name, spec, begins).await)
    }

    async fn put_plan(
        &mut self,
        object: &DynamicObject,
        name: PlanName,
        spec: PlanSpec,
        begins: Begins,
    ) -> Told {
        let (uid, generation) = (uid(object), object.metadata.generation);
        let known = self.refused.get(&uid);
        let known = known.filter(|known| known.generation == generation && known.since.elapsed() < ASK_AGAIN);
        if let Some(known) = known {
            return refusal(&known.error);
        }
        match self.host.put_plan(name, spec, begins).await {
            Ok(()) => {
                self.refused.remove(&uid);
                Told::new("Ready", true, ACCEPTED, "the plan is accepted")
            }
            Err(error) => {
                let told = refusal(&error);
                self.refused.insert(uid, Refused { generation, since: Instant::now(), error });
                told
            }
        }
    }

    /// A resource of ours, for a plan that is what the peer says.
    async fn mirror(
        &mut self,
        object: &DynamicObject,
        report: &PlanReport,
    ) -> Result<Option<Told>, WriteError> {
        if report.is_ours() {
            // The site was promoted: from now on the resource is what an operator makes of it.
            self.cache.plans.kind.set_finalizer(object, FINALIZER, true).await?;
            self.cache.plans.kind.unlabel(object, MIRROR_LABEL).await?;
            return Ok(None);
        }
        let shown = read::document(&self.cache.plans.kind.resource.kind, object);
        let is_right = matches!(&shown, Ok(Document::Plan { spec, .. }) if **spec == report.spec);
        if !is_right || !is_mirror(object) {
            let (labels, spec) = mirrored(report);
            // What says the same in other words stays as its author wrote it.
            let same = object.data.get("spec").filter(|_| is_right);
            self.cache.plans.kind.replace(object, &labels, same.unwrap_or(&spec)).await?;
        }
        if has_finalizer(object) {
            // Of the time when this site was active: a view goes without a word.
            self.cache.plans.kind.set_finalizer(object, FINALIZER, false).await?;
        }
        let name = object.name_any();
        let (is_well, reason, message) = match report.role {
            SiteRole::Promoting => (true, "Promoting", "this site is taking over".to_owned()),
            _ if report.ended => (false, "Ended", ended(&name)),
            _ => {
                let message = "this site is the standby; the plan is what the active side says";
                (true, "Standby", message.to_owned())
            }
        };
        Ok(Some(Told::new("Ready", is_well, reason, message)))
    }

    async fn write_mirror(&self, namespace: &str, name: &str, report: &PlanReport) -> Result<(), WriteError> {
        let (labels, spec) = mirrored(report);
        self.cache.plans.kind.apply(Some(namespace), name, &labels, &spec).await
    }

    /// A resource that is being deleted.
    async fn plan_goes(
        &mut self,
        object: &DynamicObject,
        report: Option<&PlanReport>,
    ) -> Result<(), WriteError> {
        if !has_finalizer(object) {
            return Ok(());
        }
        if report.is_some_and(PlanReport::is_ours)
            && let Ok(name) = object.name_any().parse::<PlanName>()
            && let Err(error) = self.host.delete_plan(name.clone()).await
        {
            tracing::warn!(plan = %name, class = error.class().label(), "plan not deleted with its resource: {error}");
            return Ok(());
        }
        self.cache.plans.kind.set_finalizer(object, FINALIZER, false).await
    }

    async fn show_plan(
        &mut self,
        object: &DynamicObject,
        ready: Told,
        report: Option<&PlanReport>,
        has_damage: bool,
    ) -> Result<(), WriteError> {
        let observed: PlanStatus = self.statuses.observed(object);
        let now = self.host.now();
        let status = plan_status(&observed, ready, report, has_damage, object.metadata.generation, now);
        if self.statuses.put(&self.cache.plans.kind, object, &status).await? {
            self.publish(&self.cache.plans.kind, object, notice::of_plan(&observed, &status)).await;
        }
        Ok(())
    }
}

pub(super) fn uid(object: &DynamicObject) -> String {
    object.uid().unwrap_or_default()
}

/// The field by which a plan in `namespace` would reach more than its author may: the daemon reads and writes what the
/// author cannot. Such plans belong into the daemon's namespace.
fn beyond(namespace: &str, spec: &PlanSpec) -> Option<&'static str> {
    let is_own = |names: &[String]| matches!(names, [only] if only == namespace);
    let fields = [
        ("namespaces", !is_own(&spec.namespaces)),
        ("namespaceSelector", spec.namespace_selector.is_some()),
        ("namespaceMapping", !spec.namespace_mapping.is_empty()),
        ("volumes", !spec.volumes.is_empty()),
        ("manifests", spec.manifests.is_some()),
        ("includeResources", !spec.include_resources.is_empty()),
        ("transforms", !spec.transforms.is_empty()),
        ("holds", !spec.holds.is_empty()),
        ("promoteHooks", spec.promote_hooks.iter().any(ProbeSpec::leaves_the_cluster)),
        ("drill.probes", spec.drill.as_ref().is_some_and(DrillSpec::leaves_the_drill)),
    ];
    fields.into_iter().find(|(_, reaches)| *reaches).map(|(field, _)| field)
}

/// Labels and spec of a mirror.
fn mirrored(report: &PlanReport) -> (Value, Value) {
    let spec = serde_json::to_value(&report.spec).unwrap_or(Value::Null);
    (json!({MANAGED_LABEL: MANAGER, MIRROR_LABEL: "true"}), spec)
}

fn ended(plan: &str) -> String {
    format!(
        "the active side deleted the plan, and nothing comes any more; its restore points stay here until \
         `backstay plan delete {plan}` on this site"
    )
}

/// Why a resource whose plan the book does not have makes no new one: it was told that the plan is not active here.
fn told_otherwise(observed: &PlanStatus) -> Option<Told> {
    let role = observed.role.as_deref().filter(|role| *role != role_name(SiteRole::Active))?;
    let epoch = observed.epoch.unwrap_or_default();
    let message = format!(
        "this site was {role} for the plan at epoch {epoch}, and does not know it any more: it begins none that is active by \
         this resource; where the application runs here, delete the resource and create it again"
    );
    Some(Told::new("Ready", false, "ToldOtherwise", message))
}

/// Why a spec is not taken.
pub(super) fn refusal(error: &HostError) -> Told {
    Told::new("Ready", false, error.class().reason(), error.told())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_begins_by_a_resource_that_was_told_otherwise() {
        let status = |role: Option<&str>| PlanStatus {
            role: role.map(str::to_owned),
            epoch: Some(3),
            ..PlanStatus::default()
        };
        assert_eq!(told_otherwise(&status(None)), None);
        assert_eq!(told_otherwise(&status(Some("active"))), None);
        for role in ["standby", "promoting", "demoting"] {
            assert_eq!(told_otherwise(&status(Some(role))).unwrap().reason(), "ToldOtherwise");
        }
    }
}
