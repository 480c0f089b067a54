//! What an operator does with plans: apply, delete, suspend.

mod begin;
mod end;
mod sources;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use backstay_engine::handover::HandoverRefused;
use backstay_engine::schedule::Timetable;
use backstay_kube::documents::{self, Begins, Document};
use backstay_types::PlanName;
use backstay_types::frame::{Frame, SharePlan, SiteRole};
use backstay_types::plan::{InvalidPlan, PlanSpec, Retention, RuleSpec, SchedulePolicySpec};

use crate::DaemonError;
use crate::api_types::{Applied, ApplyResult};
use crate::error::role_name;
use crate::neighbours::check_apart;
use crate::plans::PlanRecord;
use crate::site::Site;

impl Site {
    /// Applies every document, or none: all are checked before the first is stored.
    pub(crate) async fn apply_documents(self: &Arc<Self>, yaml: &str) -> Result<Vec<Applied>, DaemonError> {
        let documents = documents::parse("the plan", yaml)?;
        for document in &documents {
            if let Document::Plan { name, .. } = document {
                self.keepers.check(name)?;
            }
        }
        self.apply_checked(documents).await
    }

    /// The same of documents that were read.
    pub(crate) async fn apply_checked(
        self: &Arc<Self>,
        documents: Vec<Document>,
    ) -> Result<Vec<Applied>, DaemonError> {
        let new = NewSpecs::of(&documents);
        for document in &documents {
            match document {
                Document::SchedulePolicy { name, spec } => check_policy(name, spec)?,
                Document::Rule { name, spec } => self.check_rule_users(name, spec)?,
                Document::Plan { name, spec, .. } => self.check_plan(name, spec, &new)?,
            }
        }
        self.check_documents_apart(&documents)?;
        let covers_cluster =
            |document: &Document| matches!(document, Document::Plan { spec, .. } if spec.covers_cluster());
        if documents.iter().any(covers_cluster) {
            // A cluster nobody configured is told now, one that does not answer by the cycle.
            self.cluster().await?;
        }
        let mut applied = Vec::new();
        // Plans last: one of the same call may name what comes with it.
        let (plans, others): (Vec<_>, Vec<_>) =
            documents.into_iter().partition(|document| matches!(document, Document::Plan { .. }));
        for document in others.into_iter().chain(plans) {
            let kind = document.kind();
            let (name, (changed, existed)) = match document {
                Document::SchedulePolicy { name, spec } => {
                    let outcome = self.plans.policies().put(&name, *spec)?;
                    (name, outcome)
                }
                Document::Rule { name, spec } => {
                    let outcome = self.plans.rules().put(&name, *spec)?;
                    (name, outcome)
                }
                Document::Plan { name, spec, begins } => {
                    let outcome = self.apply_plan(&name, *spec, begins).await?;
                    (name.to_string(), outcome)
                }
            };
            applied.push(Applied { kind: kind.into(), name, result: result(existed, changed) });
        }
        self.wake.notify_one();
        Ok(applied)
    }

    fn check_documents_apart(&self, documents: &[Document]) -> Result<(), DaemonError> {
        let plans = documents.iter().filter_map(|document| match document {
            Document::Plan { name, spec, .. } => Some((name, &**spec)),
            _ => None,
        });
        // Paths of a plan that was made on the other side are paths there.
        check_apart(plans.filter(|(name, _)| self.plans.find(name).is_none_or(|record| record.home)))
    }

    fn check_plan(&self, name: &PlanName, spec: &PlanSpec, new: &NewSpecs<'_>) -> Result<(), DaemonError> {
        // One that is applied again as it is goes on, whatever is without effect in it.
        let is_known = self.plans.find(name).is_some_and(|record| record.spec == *spec);
        let checked = if is_known { spec.validate() } else { spec.validate_applied() };
        checked.map_err(|source| DaemonError::Plan { plan: name.clone(), source })?;
        let peer = self.peer_named(&spec.pair)?;
        if let Some(record) = self.plans.find(name) {
            if record.state.role() != SiteRole::Active {
                return Err(wrong_role(&record, "changing the plan"));
            }
            if record.pair != peer.pair {
                return Err(DaemonError::OtherPair { plan: name.clone() });
            }
            let moves = |old: &PlanSpec| {
                old.volumes != spec.volumes || old.manifests != spec.manifests || old.hold != spec.hold
            };
            if !record.home && moves(&record.spec) {
                return Err(DaemonError::PlacesOfHome { plan: name.clone() });
            }
        }
        if let Some(policy) = &spec.schedule_policy
            && self.plans.policies().get(policy).is_none()
            && !new.policies.contains(policy.as_str())
        {
            return Err(DaemonError::PolicyNotFound { plan: name.clone(), policy: policy.clone() });
        }
        for rule in spec.rules() {
            let not_found = || DaemonError::RuleNotFound { plan: name.clone(), rule: rule.to_owned() };
            let known = new.rules.get(rule).map(|spec| (*spec).clone());
            let known = known.or_else(|| self.plans.rules().get(rule)).ok_or_else(not_found)?;
            check_rule_use(name, spec, rule, &known)?;
        }
        if let Some(schedule) = &spec.schedule {
            Timetable::parse(schedule)
                .map_err(|source| DaemonError::Schedule { plan: name.clone(), source })?;
        }
        self.check_guarded(name, spec)?;
        match self.plans.find(name) {
            // Its paths are those of the other side.
            Some(record) if !record.home => Ok(()),
            _ => self.check_sources(name, spec),
        }
    }

    /// Whether a plan changed, and whether it was there.
    async fn apply_plan(
        self: &Arc<Self>,
        name: &PlanName,
        spec: PlanSpec,
        begins: Begins,
    ) -> Result<(bool, bool), DaemonError> {
        let old = self.plans.find(name);
        let changed = old.as_ref().is_none_or(|old| old.spec != spec);
        if old.as_ref().is_some_and(|old| changed || old.proposed.is_some()) {
            let chained = match &old {
                Some(old) if old.home => self.chained_to(name, &spec)?,
                _ => BTreeSet::new(),
            };
            self.plans.update(name, |record| {
                record.spec = spec;
                record.chained = chained;
                // The operator has spoken.
                record.proposed = None;
            })?;
        } else if changed {
            let peer = self.peer_named(&spec.pair)?;
            let chained = self.chained_to(name, &spec)?;
            let mut record = self.new_plan(name, peer.pair, spec, begins).await?;
            record.chained = chained;
            self.plans.add(record)?;
            self.plans.ended().remove(name.as_str())?;
        }
        Ok((changed, old.is_some()))
    }

    /// A rule that changes must fit the plans that name it.
    fn check_rule_users(&self, name: &str, spec: &RuleSpec) -> Result<(), DaemonError> {
        self.plans.list().iter().try_for_each(|plan| check_rule_use(&plan.name, &plan.spec, name, spec))
    }

    /// Tells the peer about a plan this site is active for.
    pub(crate) async fn share(&self, record: &PlanRecord) -> Result<(), DaemonError> {
        let spec = self.resolved(record)?;
        let spec = serde_json::to_string(&spec)
            .map_err(|error| DaemonError::Request { message: error.to_string() })?;
        let rules: BTreeMap<_, _> =
            record.spec.rules().filter_map(|rule| Some((rule, self.rule_of(record, rule)?))).collect();
        let rules = serde_json::to_string(&rules)
            .map_err(|error| DaemonError::Request { message: error.to_string() })?;
        let frame = SharePlan { plan: record.name.clone(), epoch: record.state.epoch(), spec, rules };
        match self.ask(record.pair, frame.into()).await? {
            Frame::Done(_) => Ok(()),
            other => Err(self.unexpected(record.pair, &other)),
        }
    }

    /// What a plan says, with its policy resolved.
    pub(crate) fn resolved(&self, record: &PlanRecord) -> Result<PlanSpec, DaemonError> {
        let mut spec = record.spec.clone();
        // The other side does not know the policies of this site: it gets what they say.
        spec.schedule = self.schedule_of(&record.name, &record.spec)?;
        // Nor what a plan of this side was made with.
        spec.minimum_consistency = Some(record.minimum());
        spec.allow_fuzzy = false;
        let policy = spec.schedule_policy.take().and_then(|policy| self.plans.policies().get(&policy));
        if let Some(retain) = policy.and_then(|policy| policy.retain)
            && spec.retention == Retention::default()
        {
            spec.retention = retain;
        }
        Ok(spec)
    }

    /// A rule by name: this site's own, or the one that came with the plan, which is for the other side to know.
    fn rule_of(&self, record: &PlanRecord, rule: &str) -> Option<RuleSpec> {
        self.plans.rules().get(rule).or_else(|| record.rules.get(rule).cloned())
    }

    /// A rule that may run here: this site's own, or the one that came with the plan and was accepted as it is.
    pub(crate) fn rule_to_run(&self, record: &PlanRecord, rule: &str) -> Option<RuleSpec> {
        self.plans.rules().get(rule).or_else(|| record.accepted_rule(rule).cloned())
    }

    /// Stops or starts the schedule of a plan.
    pub(crate) fn suspend_plan(&self, name: &PlanName, suspend: bool) -> Result<bool, DaemonError> {
        self.keepers.check(name)?;
        let record = self.plans.get(name)?;
        if record.state.role() != SiteRole::Active {
            return Err(wrong_role(&record, if suspend { "suspending" } else { "resuming" }));
        }
        let changed = record.spec.suspend != suspend;
        if changed {
            self.plans.update(name, |record| record.spec.suspend = suspend)?;
            self.wake.notify_one();
        }
        Ok(changed)
    }
}

/// What a call brings with it that its plans may name.
struct NewSpecs<'d> {
    policies: BTreeSet<&'d str>,
    rules: BTreeMap<&'d str, &'d RuleSpec>,
}

impl<'d> NewSpecs<'d> {
    fn of(documents: &'d [Document]) -> Self {
        let mut new = Self { policies: BTreeSet::new(), rules: BTreeMap::new() };
        for document in documents {
            match document {
                Document::SchedulePolicy { name, .. } => {
                    new.policies.insert(name);
                }
                Document::Rule { name, spec } => {
                    new.rules.insert(name, spec);
                }
                Document::Plan { .. } => {}
            }
        }
        new
    }
}

/// Whether `rule` can do what `plan` uses it for, if it uses it.
fn check_rule_use(plan: &PlanName, spec: &PlanSpec, rule: &str, known: &RuleSpec) -> Result<(), DaemonError> {
    if spec.post_exec_rule.as_deref() != Some(rule) {
        return Ok(());
    }
    let error = |source| DaemonError::Rule { plan: plan.clone(), rule: rule.to_owned(), source };
    known.validate_after().map_err(error)
}

/// Refuses what would wait for the peer's word on an offer, which may never come.
pub(crate) fn check_not_offered(record: &PlanRecord) -> Result<(), DaemonError> {
    match record.state.handover() {
        Some(handover) if handover.is_offered() => {
            Err(HandoverRefused::Offered { plan: record.name.clone() }.into())
        }
        _ => Ok(()),
    }
}

/// The refusal of a plan that is not active here.
pub(crate) fn wrong_role(record: &PlanRecord, asked: &'static str) -> DaemonError {
    if let Err(offered) = check_not_offered(record) {
        return offered;
    }
    DaemonError::WrongRole {
        plan: record.name.clone(),
        role: role_name(record.state.role()),
        epoch: record.state.epoch(),
        asked,
        needed: role_name(SiteRole::Active),
    }
}

const fn result(existed: bool, changed: bool) -> ApplyResult {
    match (existed, changed) {
        (false, _) => ApplyResult::Created,
        (true, true) => ApplyResult::Configured,
        (true, false) => ApplyResult::Unchanged,
    }
}

fn check_policy(name: &str, spec: &SchedulePolicySpec) -> Result<(), DaemonError> {
    if spec.retain.is_some_and(|retain| retain.keeps_nothing()) {
        let source = InvalidPlan::Retention;
        return Err(DaemonError::PolicyRetention { policy: name.to_owned(), source });
    }
    match Timetable::parse(&spec.schedule) {
        Ok(_) => Ok(()),
        Err(source) => Err(DaemonError::Policy { policy: name.to_owned(), source }),
    }
}
