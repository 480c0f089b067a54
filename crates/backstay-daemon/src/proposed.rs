//! Proposed: what the other side says of a plan that only this site's operator may change.
//!
//! 1. Where a plan was made its places, commands and namespaces are the operator's. What the active side shares of them is
//!    kept here, shown, and acts only once it is accepted (test `nothing_outside_the_places_of_home_is_touched`).
//! 2. Cycles go on meanwhile: restore points are kept whole, and what of them was not accepted is not applied.
//! 3. On the other side nothing but the rules of a plan could run there: a rule that came over the wire runs in no pod until
//!    it was accepted in these very words.
//! 4. What is accepted is what the operator was shown: a proposal that changed in between is refused.
//!
//! Which field is whose: `backstay_types::plan::OWNERS`. At a crash the plan's file has either the proposal or the plan
//! that was made of it.

mod withheld;

use std::collections::BTreeMap;
use std::sync::Arc;

use backstay_types::plan::{PlanSpec, RuleSpec};
use backstay_types::{Epoch, PlanName, Time, limits};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::api_types::{AcceptRequest, Accepted, FieldChange, ProposedStatus};
use crate::plans::PlanRecord;
use crate::site::Site;
use crate::{DaemonError, clock};

pub(crate) use withheld::Withheld;

/// What the active side has said of a plan that was made here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Proposed {
    /// The epoch it was said at.
    pub(crate) epoch: Epoch,
    /// When it was first said so.
    pub(crate) time: Time,
    /// The plan as it was shared.
    pub(crate) spec: PlanSpec,
}

impl PlanRecord {
    /// Takes over what a peer may change, and keeps the rest as proposed; whether that is news.
    pub(crate) fn take_shared(&mut self, shared: PlanSpec, epoch: Epoch) -> bool {
        self.spec = self.spec.with_shared(&shared);
        let old = self.proposed.take();
        if self.spec.proposed_by(&shared).is_empty() {
            return false;
        }
        let is_known = old.as_ref().is_some_and(|old| old.spec.proposed_by(&shared).is_empty());
        let time = old.filter(|_| is_known).map_or_else(clock::now, |old| old.time);
        self.proposed = Some(Proposed { epoch, time, spec: shared });
        !is_known
    }

    /// A rule that came with a plan of the other side, if it was accepted here as it is now.
    pub(crate) fn accepted_rule(&self, rule: &str) -> Option<&RuleSpec> {
        let shared = self.rules.get(rule).filter(|_| !self.home)?;
        (self.accepted_rules.get(rule) == Some(shared)).then_some(shared)
    }

    /// The rules that the other side shared and nobody here has accepted.
    fn rules_not_accepted<'a>(&'a self, site: &'a Site) -> impl Iterator<Item = (&'a String, &'a RuleSpec)> {
        self.rules.iter().filter(move |(name, _)| {
            !self.home
                && site.plans.rules().get(name).is_none()
                && self.accepted_rule(name).is_none()
                && self.spec.rules().any(|used| used == name.as_str())
        })
    }
}

impl Site {
    /// What waits for the operator of this site, field by field.
    pub(crate) fn proposed_changes(&self, name: &PlanName) -> Result<Vec<FieldChange>, DaemonError> {
        let record = self.plans.get(name)?;
        let mut changes = match &record.proposed {
            Some(proposed) => changes(&record.spec, &proposed.spec)?,
            None => Vec::new(),
        };
        for (rule, spec) in record.rules_not_accepted(self) {
            let own = record.accepted_rules.get(rule).map(value_of).transpose()?;
            changes.push(FieldChange {
                field: format!("rules.{rule}"),
                own,
                proposed: Some(value_of(spec)?),
            });
        }
        Ok(changes)
    }

    /// The same in short, for a status; `None` where nothing waits.
    pub(crate) fn proposed_status(&self, record: &PlanRecord) -> Result<Option<ProposedStatus>, DaemonError> {
        let withheld =
            if record.home { self.plans.applied(&record.name)?.withheld } else { Withheld::default() };
        let mut fields: Vec<String> = Vec::new();
        if let Some(proposed) = &record.proposed {
            fields.extend(record.spec.proposed_by(&proposed.spec).into_iter().map(str::to_owned));
        }
        fields.extend(record.rules_not_accepted(self).map(|(rule, _)| format!("rules.{rule}")));
        if fields.is_empty() && withheld.is_empty() {
            return Ok(None);
        }
        Ok(Some(ProposedStatus {
            fields,
            since: record.proposed.as_ref().map(|proposed| proposed.time),
            epoch: record.proposed.as_ref().map(|proposed| proposed.epoch),
            withheld: withheld.names(),
        }))
    }

    /// What a peer that asks is told of it: as much as fits.
    pub(crate) fn told_proposals(
        &self,
        record: &PlanRecord,
    ) -> Result<backstay_types::frame::Proposals, DaemonError> {
        let Some(status) = self.proposed_status(record)? else { return Ok(Default::default()) };
        let fits = |names: Vec<String>| {
            let names = names.into_iter().filter(|name| name.len() <= limits::PROPOSED_NAME_BYTES_MAX);
            names.take(limits::PROPOSED_NAMES_MAX).collect()
        };
        Ok(backstay_types::frame::Proposals { fields: fits(status.fields), withheld: fits(status.withheld) })
    }

    /// Makes the plan of this site what the other side proposes.
    pub(crate) fn accept_plan(
        self: &Arc<Self>,
        name: &PlanName,
        request: &AcceptRequest,
    ) -> Result<Accepted, DaemonError> {
        self.keepers.check(name)?;
        let shown = self.proposed_changes(name)?;
        if request.changes.as_ref().is_some_and(|seen| *seen != shown) {
            return Err(DaemonError::ProposalChanged { plan: name.clone() });
        }
        let record = self.plans.get(name)?;
        let mut chained = record.chained.clone();
        if let Some(proposed) = &record.proposed {
            let spec = record.spec.with_accepted(&proposed.spec);
            self.check_accepted(name, &spec)?;
            chained = self.chained_to(name, &spec)?;
        }
        let rules: BTreeMap<_, _> =
            record.rules_not_accepted(self).map(|(rule, spec)| (rule.clone(), spec.clone())).collect();
        let seen = record.proposed.clone();
        self.plans.decide(name, |record| {
            if record.proposed != seen {
                return Err(DaemonError::ProposalChanged { plan: name.clone() });
            }
            if let Some(proposed) = record.proposed.take() {
                record.spec = record.spec.with_accepted(&proposed.spec);
            }
            record.accepted_rules.extend(rules);
            record.chained = chained;
            Ok(())
        })?;
        self.wake.notify_one();
        // What was withheld of the newest restore point is applied now.
        self.apply_newest_soon(name.clone());
        Ok(Accepted { accepted: shown })
    }

    fn check_accepted(&self, name: &PlanName, spec: &PlanSpec) -> Result<(), DaemonError> {
        spec.validate().map_err(|source| DaemonError::Plan { plan: name.clone(), source })?;
        for rule in spec.rules() {
            if self.plans.rules().get(rule).is_none() {
                return Err(DaemonError::RuleNotFound { plan: name.clone(), rule: rule.to_owned() });
            }
        }
        self.check_sources(name, spec)
    }
}

/// Field by field, in the order of the table.
fn changes(own: &PlanSpec, proposed: &PlanSpec) -> Result<Vec<FieldChange>, DaemonError> {
    let (ours, theirs) = (value_of(own)?, value_of(proposed)?);
    let change = |field: &'static str| FieldChange {
        field: field.to_owned(),
        own: ours.get(field).cloned(),
        proposed: theirs.get(field).cloned(),
    };
    Ok(own.proposed_by(proposed).into_iter().map(change).collect())
}

fn value_of<T: Serialize>(value: &T) -> Result<Value, DaemonError> {
    serde_json::to_value(value).map_err(|error| DaemonError::Request { message: error.to_string() })
}

#[cfg(test)]
mod tests {
    use backstay_engine::role::Local;
    use backstay_types::PairId;
    use backstay_types::frame::SiteRole;

    use super::*;

    fn record(home: bool) -> PlanRecord {
        let spec =
            serde_json::from_str(r#"{"pair": "west", "namespaces": ["shop"], "preExecRule": "pause"}"#);
        let local = Local { role: SiteRole::Standby, epoch: Epoch(2) };
        PlanRecord::new("shop".parse().expect("a name"), PairId([1; 16]), local, spec.expect("a plan"), home)
    }

    #[test]
    fn a_rule_runs_as_it_was_accepted_or_not_at_all() {
        let rule = |command: &str| -> RuleSpec {
            let text = format!(
                r#"{{"rules": [{{"podSelector": {{"app": "db"}}, "actions": [{{"value": "{command}"}}]}}]}}"#
            );
            serde_json::from_str(&text).expect("a rule")
        };
        let mut plan = record(false);
        plan.rules.insert("pause".to_owned(), rule("sync"));
        assert_eq!(plan.accepted_rule("pause"), None, "it came over the wire");
        plan.accepted_rules.insert("pause".to_owned(), rule("sync"));
        assert_eq!(plan.accepted_rule("pause"), Some(&rule("sync")));
        plan.rules.insert("pause".to_owned(), rule("rm -rf /"));
        assert_eq!(plan.accepted_rule("pause"), None, "it is another one now");
        // Where the plan was made there are only its own.
        let home = PlanRecord { home: true, rules: plan.accepted_rules.clone(), ..plan };
        assert_eq!(home.accepted_rule("pause"), None);
    }

    #[test]
    fn a_proposal_is_news_once() {
        let mut plan = record(true);
        let mut shared = plan.spec.clone();
        assert!(!plan.take_shared(shared.clone(), Epoch(2)) && plan.proposed.is_none());
        shared.namespaces.push("vault".to_owned());
        shared.suspend = true;
        assert!(plan.take_shared(shared.clone(), Epoch(2)));
        let first = plan.proposed.clone();
        assert!(first.is_some() && plan.spec.suspend && plan.spec.namespaces == ["shop"]);
        // Each cycle says it again.
        assert!(!plan.take_shared(shared.clone(), Epoch(2)));
        assert_eq!(plan.proposed, first);
        shared.namespaces.push("bank".to_owned());
        assert!(plan.take_shared(shared.clone(), Epoch(2)));
        shared.namespaces.truncate(1);
        assert!(!plan.take_shared(shared, Epoch(3)) && plan.proposed.is_none());
    }
}
