//! `ReplicationPlan`: resource and book are brought together.
//!
//! A plan's name is its resource's name, whatever the namespace: the book of a site has one plan of a name. Of several
//! resources of one name, the one with our finalizer, else the oldest, stands for the plan; the others are refused.
//!
//! 1. Where the site is active for a plan, its resource says what the plan is, and the book follows. A resource that
//!    appears for a plan of the command line takes it over.
//! 2. Where it is not, the plan is what the peer says. A site without a resource for it gets a *mirror* in the
//!    daemon's namespace, labelled [`MIRROR_LABEL`], which shows spec and status; a resource that somebody else wrote
//!    there is told so and left alone. A promotion makes the mirror the plan's own resource.
//! 3. A plan ends with its resource: the finalizer holds the resource until the book has let the plan go. A mirror is a
//!    view: deleted, it is made anew until the plan is deleted here (`backstay plan delete`).
//!
//! At a crash: every step is taken again from what is there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use backstay_types::frame::SiteRole;
use backstay_types::plan::{DrillSpec, PlanSpec, ProbeSpec};
use backstay_types::{Classify, PlanName};
use kube::ResourceExt;
use kube::api::DynamicObject;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::condition::Told;
use super::host::{Host, HostError, Picture, PlanReport};
use super::plan_status::plan_status;
use super::read;
use super::write::WriteError;
use super::{Controller, MANAGED_LABEL, MANAGER, notice};
use crate::Document;
use crate::crds::PlanStatus;

/// Holds a resource until its plan is gone.
const FINALIZER: &str = "backstay.dev/plan";
/// A resource that shows what the peer says.
const MIRROR_LABEL: &str = "backstay.dev/mirror";
/// What was refused may be right later, without a change of the resource: a pair is made, a folder mounted.
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// A resource that the site refused.
pub(super) struct Refused {
    generation: Option<i64>,
    since: Instant,
    error: HostError,
}

/// Which resource stands for each plan.
pub(super) struct Standing<'a> {
    /// Every resource, and whether it stands for the plan of its name.
    resources: Vec<(&'a Arc<DynamicObject>, bool)>,
    names: BTreeMap<String, &'a Arc<DynamicObject>>,
}

impl<'a> Standing<'a> {
    pub(super) fn new(objects: &'a [Arc<DynamicObject>]) -> Self {
        let mut names: BTreeMap<String, &'a Arc<DynamicObject>> = BTreeMap::new();
        for object in objects {
            let name = object.name_any();
            match names.get(&name) {
                Some(other) if rank(other) <= rank(object) => {}
                _ => drop(names.insert(name, object)),
            }
        }
        let stands = |object: &Arc<DynamicObject>| {
            names.get(&object.name_any()).is_some_and(|standing| standing.uid() == object.uid())
        };
        let resources = objects.iter().map(|object| (object, stands(object))).collect();
        Self { resources, names }
    }

    /// The resource that stands for a plan.
    pub(super) fn of(&self, plan: &PlanName) -> Option<&'a Arc<DynamicObject>> {
        self.names.get(plan.as_str()).copied()
    }
}

/// Smaller stands before greater.
fn rank(object: &DynamicObject) -> impl Ord + use<> {
    let created = object.creation_timestamp().map(|time| time.0);
    (!has_finalizer(object), created, object.namespace())
}

fn has_finalizer(object: &DynamicObject) -> bool {
    object.finalizers().iter().any(|finalizer| finalizer == FINALIZER)
}

fn is_mirror(object: &DynamicObject) -> bool {
    object.labels().contains_key(MIRROR_LABEL)
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
            let taken = (!stands).then(|| taken(standing, &name));
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
        let ready = match (taken, is_mirror(object), report) {
            (Some(taken), ..) => Some(taken),
            (None, true, None) => return self.cache.plans.kind.delete(object).await,
            (None, true, Some(report)) => self.mirror(object, report).await?,
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
            None | Some(SiteRole::Active) => {}
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
        let (name, spec) = match document {
            Ok(Document::Plan { name, spec }) => (name, *spec),
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
            return Ok(Told::new("Ready", true, "Accepted", "the plan is accepted"));
        }
        Ok(self.put_plan(object, name, spec).await)
    }

    async fn put_plan(&mut self, object: &DynamicObject, name: PlanName, spec: PlanSpec) -> Told {
        let (uid, generation) = (uid(object), object.metadata.generation);
        let known = self.refused.get(&uid);
        let known = known.filter(|known| known.generation == generation && known.since.elapsed() < ASK_AGAIN);
        if let Some(known) = known {
            return refusal(&known.error);
        }
        match self.host.put_plan(name, spec).await {
            Ok(()) => {
                self.refused.remove(&uid);
                Told::new("Ready", true, "Accepted", "the plan is accepted")
            }
            Err(error) => {
                let told = refusal(&error);
                self.refused.insert(uid, Refused { generation, since: Instant::now(), error });
                told
            }
        }
    }

    /// A resource of ours, for a plan that the peer sent.
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
        if !is_right {
            let namespace = object.namespace().unwrap_or_default();
            self.write_mirror(&namespace, &object.name_any(), report).await?;
        }
        let (reason, message) = match report.role {
            SiteRole::Promoting => ("Promoting", "this site is taking over"),
            _ => ("Standby", "this site is the standby; the plan is what the active side says"),
        };
        Ok(Some(Told::new("Ready", true, reason, message)))
    }

    async fn write_mirror(&self, namespace: &str, name: &str, report: &PlanReport) -> Result<(), WriteError> {
        let spec = serde_json::to_value(&report.spec).unwrap_or(Value::Null);
        let labels = json!({MANAGED_LABEL: MANAGER, MIRROR_LABEL: "true"});
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

fn taken(standing: &Standing<'_>, name: &str) -> Told {
    let other = standing.names.get(name).and_then(|other| other.namespace()).unwrap_or_default();
    let message = format!("the plan {name} is that of namespace {other}; give this one another name");
    Told::new("Ready", false, "NameTaken", message)
}

/// Why a spec is not taken.
pub(super) fn refusal(error: &HostError) -> Told {
    Told::new("Ready", false, error.class().reason(), error.told())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(namespace: &str, created: &str, finalizers: &[&str]) -> Arc<DynamicObject> {
        let object = json!({
            "apiVersion": "backstay.dev/v1alpha1", "kind": "ReplicationPlan", "spec": {},
            "metadata": {"name": "shop", "namespace": namespace, "uid": namespace, "creationTimestamp": created,
                "finalizers": finalizers},
        });
        Arc::new(serde_json::from_value(object).unwrap())
    }

    #[test]
    fn of_one_name_the_accepted_one_stands_then_the_oldest() {
        let stands = |objects: &[Arc<DynamicObject>]| {
            let standing = Standing::new(objects);
            let name = "shop".parse::<PlanName>().unwrap();
            let count = standing.resources.iter().filter(|(_, stands)| *stands).count();
            assert_eq!(count, 1);
            standing.of(&name).unwrap().namespace().unwrap()
        };
        let (old, new) = ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z");
        assert_eq!(stands(&[resource("a", new, &[]), resource("b", old, &[])]), "b");
        assert_eq!(stands(&[resource("b", old, &[]), resource("a", new, &[FINALIZER])]), "a");
        assert_eq!(stands(&[resource("b", old, &[]), resource("a", old, &[])]), "a");
    }
}
