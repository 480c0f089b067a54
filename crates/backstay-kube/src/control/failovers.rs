//! `Failover`: an action that is carried out once.
//!
//! 1. It is accepted, with the plan printed into its status, before it is begun; one that is complete or failed is
//!    never begun again, and its spec cannot change.
//! 2. A promotion that fails before its epoch is durable has failed, and nothing happened. After that the only way is
//!    on: it is tried again until it is done.
//! 3. Only the daemon's namespace and that of the plan's own resource may order a failover: whoever may write in
//!    another has no say over this plan.
//!
//! At a crash: an accepted one goes on. If the plan was promoted past it meanwhile it fails as superseded.

use std::collections::BTreeMap;
use std::time::Duration;

use backstay_types::frame::SiteRole;
use backstay_types::{Class, Classify, PlanName, Span};
use kube::ResourceExt;
use kube::api::DynamicObject;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::condition::{Told, conditions, count, find, is_true};
use super::host::{FailoverOrder, Host, HostError, Picture, PlanReport, PromotionDone, StepReport};
use super::plans::uid;
use super::standing::Standing;
use super::write::WriteError;
use super::{Controller, notice};
use crate::crds::{FailoverAction, FailoverSpec, FailoverStatus, FailoverStep};

/// A promotion past its point of no return that stopped is tried again after this.
const RETRY: Duration = Duration::from_secs(15);
/// Lines of waves in a status: the whole of them is what `backstay promote --dry-run` prints.
const WAVES_MAX: usize = 40;
/// The longest such line.
const WAVE_CHARS_MAX: usize = 500;

/// Promotions under way. One at most for each `Failover`.
#[derive(Default)]
pub(super) struct Promotions {
    tasks: JoinSet<(String, Result<PromotionDone, HostError>)>,
    known: BTreeMap<String, Run>,
}

enum Run {
    Running,
    /// Over, and not yet written.
    Over(Result<PromotionDone, HostError>),
    /// Stopped half-way.
    Waiting(Instant, HostError),
}

impl Promotions {
    /// Takes note of those that ended. Call before looking at the site: what it shows then is from after their end.
    pub(super) fn settle(&mut self) {
        while let Some(ended) = self.tasks.try_join_next() {
            if let Ok((uid, outcome)) = ended {
                self.known.insert(uid, Run::Over(outcome));
            }
        }
    }
}

impl<H: Host> Controller<H> {
    pub(super) async fn failovers(
        &mut self,
        standing: &Standing<'_>,
        picture: &Picture,
    ) -> Result<(), WriteError> {
        for object in self.cache.failovers.objects() {
            let observed: FailoverStatus = self.statuses.observed(&object);
            let is_over =
                is_true(&observed.conditions, "Complete") || is_true(&observed.conditions, "Failed");
            if is_over || object.metadata.deletion_timestamp.is_some() {
                self.promotions.known.remove(&uid(&object));
                continue;
            }
            let status = match self.order(&object, standing) {
                Ok(order) => self.step(&object, &observed, order, picture).await,
                Err((reason, message)) => {
                    self.told(&object, &observed, Told::new("Failed", true, reason, message))
                }
            };
            let written = self.show_failover(&object, &observed, &status).await;
            self.tolerate("Failover", &object, written)?;
        }
        Ok(())
    }

    async fn show_failover(
        &mut self,
        object: &DynamicObject,
        observed: &FailoverStatus,
        status: &FailoverStatus,
    ) -> Result<(), WriteError> {
        if self.statuses.put(&self.cache.failovers.kind, object, status).await? {
            self.publish(&self.cache.failovers.kind, object, notice::of_failover(observed, status)).await;
        }
        // Only now: what was not accepted in writing is not begun.
        let begins = is_true(&status.conditions, "Accepted")
            && !is_true(&status.conditions, "Complete")
            && !is_true(&status.conditions, "Failed");
        if begins
            && !self.promotions.known.contains_key(&uid(object))
            && let Ok(order) = read_order(object)
        {
            self.begin(uid(object), order);
        }
        Ok(())
    }

    fn begin(&mut self, uid: String, order: FailoverOrder) {
        self.promotions.known.insert(uid.clone(), Run::Running);
        let promotion = self.host.fail_over(order);
        self.promotions.tasks.spawn(async move { (uid, promotion.await) });
    }

    /// What is asked for, if it may be.
    fn order(
        &self,
        object: &DynamicObject,
        standing: &Standing<'_>,
    ) -> Result<FailoverOrder, (&'static str, String)> {
        let order = read_order(object)?;
        let namespace = object.namespace().unwrap_or_default();
        let plan_namespace = standing.of(&order.plan).and_then(|plan| plan.namespace());
        if namespace != self.namespace && plan_namespace.as_ref() != Some(&namespace) {
            let own = &self.namespace;
            let places = plan_namespace.filter(|place| place != own).map(|place| format!(" or {place}"));
            let places = format!("{own}{}", places.unwrap_or_default());
            return Err(("OtherNamespace", format!("create it in namespace {places}, where the plan is")));
        }
        Ok(order)
    }

    /// The status after one look.
    async fn step(
        &mut self,
        object: &DynamicObject,
        observed: &FailoverStatus,
        order: FailoverOrder,
        picture: &Picture,
    ) -> FailoverStatus {
        let report = picture.plans.get(&order.plan);
        match self.promotions.known.remove(&uid(object)) {
            Some(Run::Over(Ok(done))) => self.done(object, observed, &done, done_reason(order.action)),
            Some(Run::Over(Err(error))) => {
                if report.is_some_and(|report| report.role == SiteRole::Promoting) {
                    let status = self.waits(object, observed, report, &error);
                    self.promotions.known.insert(uid(object), Run::Waiting(Instant::now(), error));
                    return status;
                }
                self.failed(object, observed, &error)
            }
            Some(Run::Waiting(since, error)) if since.elapsed() < RETRY => {
                let status = self.waits(object, observed, report, &error);
                self.promotions.known.insert(uid(object), Run::Waiting(since, error));
                status
            }
            Some(Run::Waiting(..)) => {
                self.begin(uid(object), order);
                self.runs(object, observed, report)
            }
            Some(Run::Running) => {
                self.promotions.known.insert(uid(object), Run::Running);
                self.runs(object, observed, report)
            }
            None if is_true(&observed.conditions, "Accepted") => {
                self.resumed(object, observed, order.action, report)
            }
            None => self.accept(object, observed, order, report).await,
        }
    }

    /// Looks at it for the first time.
    async fn accept(
        &mut self,
        object: &DynamicObject,
        observed: &FailoverStatus,
        order: FailoverOrder,
        report: Option<&PlanReport>,
    ) -> FailoverStatus {
        if let Some(report) = report.filter(|report| report.role == SiteRole::Promoting) {
            return self.runs(object, observed, Some(report));
        }
        let is_active = report.is_some_and(|report| report.role == SiteRole::Active);
        let is_over = is_active && order.action == FailoverAction::Promote;
        let wants_dry_run = order.dry_run;
        match self.host.fail_over(FailoverOrder { dry_run: true, ..order }).await {
            Err(error) => self.failed(object, observed, &error),
            Ok(planned) if is_over => self.done(object, observed, &planned, "ActiveAlready"),
            Ok(planned) if wants_dry_run => self.done(object, observed, &planned, "DryRun"),
            Ok(planned) => {
                let accepted = Told::new("Accepted", true, "Planned", sentence(&planned));
                FailoverStatus { rpo: None, ..self.shown(object, observed, &planned, [accepted]) }
            }
        }
    }

    /// Accepted by a daemon that is gone.
    fn resumed(
        &self,
        object: &DynamicObject,
        observed: &FailoverStatus,
        action: FailoverAction,
        report: Option<&PlanReport>,
    ) -> FailoverStatus {
        // The others name the side that is to be active, or change nothing: they are given again.
        let is_past = |report: &&PlanReport| {
            action == FailoverAction::Promote
                && matches!(report.role, SiteRole::Standby | SiteRole::Demoting)
                && observed.epoch.is_some_and(|epoch| count(report.epoch.0) >= epoch)
        };
        if let Some(report) = report.filter(is_past) {
            let message = format!("the plan is at epoch {} by now, and not by this failover", report.epoch);
            return self.told(object, observed, Told::new("Failed", true, "Superseded", message));
        }
        self.runs(object, observed, report)
    }

    fn runs(
        &self,
        object: &DynamicObject,
        observed: &FailoverStatus,
        report: Option<&PlanReport>,
    ) -> FailoverStatus {
        let steps = report.map(|report| report.promotion.as_slice()).unwrap_or_default();
        let accepted = find(&observed.conditions, "Accepted").map(|accepted| accepted.message.clone());
        let accepted = accepted.unwrap_or_else(|| "it goes on with the promotion under way".to_owned());
        let mut status = self.told(object, observed, Told::new("Accepted", true, "Planned", accepted));
        if !steps.is_empty() {
            status.steps = shown_steps(steps);
            status.step = steps.iter().find(|step| step.state != "done").map(|step| step.name.clone());
        }
        status
    }

    fn waits(
        &self,
        object: &DynamicObject,
        observed: &FailoverStatus,
        report: Option<&PlanReport>,
        error: &HostError,
    ) -> FailoverStatus {
        let mut status = self.runs(object, observed, report);
        let told = Told::new("Complete", false, "Retrying", error.told());
        let generation = object.metadata.generation;
        status.conditions.extend(conditions(&observed.conditions, [told], generation, self.host.now()));
        status
    }

    fn done(
        &self,
        object: &DynamicObject,
        observed: &FailoverStatus,
        done: &PromotionDone,
        reason: &'static str,
    ) -> FailoverStatus {
        let told = [
            Told::new("Accepted", true, "Planned", sentence(done)),
            Told::new("Complete", true, reason, sentence(done)),
        ];
        let mut status = self.shown(object, observed, done, told);
        if status.waves.is_empty() {
            status.waves.clone_from(&observed.waves);
        }
        status
    }

    fn failed(&self, object: &DynamicObject, observed: &FailoverStatus, error: &HostError) -> FailoverStatus {
        self.told(object, observed, Told::new("Failed", true, error.class().reason(), error.told()))
    }

    /// What is there, with other conditions.
    fn told(&self, object: &DynamicObject, observed: &FailoverStatus, told: Told) -> FailoverStatus {
        let now = self.host.now();
        let conditions = conditions(&observed.conditions, [told], object.metadata.generation, now);
        FailoverStatus { conditions, step: None, ..observed.clone() }
    }

    fn shown<const N: usize>(
        &self,
        object: &DynamicObject,
        observed: &FailoverStatus,
        done: &PromotionDone,
        told: [Told; N],
    ) -> FailoverStatus {
        let short = |line: &String| line.chars().take(WAVE_CHARS_MAX).collect();
        let now = self.host.now();
        FailoverStatus {
            conditions: conditions(&observed.conditions, told, object.metadata.generation, now),
            steps: shown_steps(&done.steps),
            step: None,
            epoch: Some(count(done.epoch.0)),
            rpo: Some(done.rpo.to_string()),
            rto: done.rto.map(|length| length.to_string()),
            waves: done.waves.iter().take(WAVES_MAX).map(short).collect(),
            restore_point: Some(done.restore_point.to_string()),
            warnings: done.warnings.clone(),
        }
    }
}

/// The reason of its `Complete` condition.
const fn done_reason(action: FailoverAction) -> &'static str {
    match action {
        FailoverAction::Promote => "Promoted",
        FailoverAction::Switchover | FailoverAction::Failback => "HandedOver",
        FailoverAction::Drill => "Rehearsed",
    }
}

fn sentence(done: &PromotionDone) -> String {
    format!("epoch {}, restore point {}", done.epoch, done.restore_point)
}

fn shown_steps(steps: &[StepReport]) -> Vec<FailoverStep> {
    let shown = |step: &StepReport| FailoverStep {
        name: step.name.clone(),
        state: step.state.to_owned(),
        duration: step.duration.map(|length: Span| length.to_string()),
    };
    steps.iter().map(shown).collect()
}

fn read_order(object: &DynamicObject) -> Result<FailoverOrder, (&'static str, String)> {
    let invalid = |message: String| (Class::Invalid.reason(), message);
    let spec = object.data.get("spec").cloned().unwrap_or_default();
    let spec: FailoverSpec = serde_json::from_value(spec).map_err(|error| invalid(error.to_string()))?;
    let plan: PlanName =
        spec.plan.parse().map_err(|error: backstay_types::InvalidName| invalid(error.to_string()))?;
    let point = spec.restore_point.map(|point| point.parse()).transpose();
    let point = point.map_err(|error: backstay_types::InvalidName| invalid(error.to_string()))?;
    Ok(FailoverOrder {
        action: spec.action,
        plan,
        restore_point: point,
        force: spec.force,
        accept_partial: spec.accept_partial,
        dry_run: spec.dry_run,
        keep: spec.keep,
    })
}
