//! The schedule clock: starts the cycles that are due, one at a time for each plan.

use std::sync::Arc;

use backstay_engine::cycle::{self, Due, PlanFacts, Waits};
use backstay_engine::schedule::Timetable;
use backstay_types::plan::{PlanSpec, Schedule};
use backstay_types::{PlanName, Span, Time};

use crate::plans::PlanRecord;
use crate::site::{CYCLES_MAX, Site};
use crate::{DaemonError, clock};

/// The clock looks again at least this often, so that a wall clock that was set is noticed.
const LOOK_AGAIN: Span = Span(30_000);

/// While a due plan waits for its peer, the clock looks for the connection this often.
const LOOK_FOR_PEER: Span = Span(500);

impl Site {
    /// Runs until the daemon stops.
    pub(crate) async fn run_schedule(self: Arc<Self>) {
        while !self.stop.is_cancelled() {
            let pause = self.look(clock::now());
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = self.wake.notified() => {}
                () = tokio::time::sleep(pause.to_duration()) => {}
            }
        }
    }

    /// Starts the cycles that are due; says when to look again.
    fn look(self: &Arc<Self>, now: Time) -> Span {
        let plans = self.plans.list();
        let timetables: Vec<_> = plans.iter().map(|plan| self.timetable(plan)).collect();
        let facts: Vec<_> = plans
            .iter()
            .zip(&timetables)
            .map(|(plan, timetable)| self.facts(plan, timetable.as_ref()))
            .collect();
        let running = facts.iter().filter(|facts| facts.running).count();
        let decision = cycle::decide(facts.iter().copied(), now, CYCLES_MAX.saturating_sub(running));
        for facts in &facts {
            self.runtimes.of(facts.plan).set_next_run(facts.next_run(now));
        }
        for plan in decision.start {
            self.note_start(&plan, now);
            let site = self.clone();
            self.tasks.spawn(async move {
                // Its outcome is logged, counted and kept for status by the cycle itself.
                drop(site.sync(&plan).await);
            });
        }
        let waits_for_peer = facts.iter().any(|facts| facts.due(now) == Due::Waits(Waits::Peer));
        let longest = if waits_for_peer { LOOK_FOR_PEER } else { LOOK_AGAIN };
        decision.wake.map_or(longest, |wake| wake.since(now).min(longest)).max(Span(1))
    }

    fn facts<'a>(&self, plan: &'a PlanRecord, timetable: Option<&'a Timetable>) -> PlanFacts<'a> {
        let runtime = self.runtimes.of(&plan.name);
        PlanFacts {
            plan: &plan.name,
            role: plan.state.role(),
            suspended: plan.spec.suspend
                || plan.state.conflict()
                || plan.state.leap().is_some()
                || plan.state.standing()
                || plan.state.handover().is_some(),
            running: runtime.is_cycle_running(),
            connected: self.net.connection(plan.pair).is_some(),
            timetable,
            last_start: self.last_start(&plan.name),
            retry_at: runtime.retry_at(),
            seed: seed_of(&plan.name),
        }
    }

    fn timetable(&self, plan: &PlanRecord) -> Option<Timetable> {
        let parsed = self.schedule_of(&plan.name, &plan.spec).and_then(|schedule| {
            let parse = |schedule: Schedule| Timetable::parse(&schedule);
            schedule
                .map(parse)
                .transpose()
                .map_err(|source| DaemonError::Schedule { plan: plan.name.clone(), source })
        });
        parsed.unwrap_or_else(|error| {
            // Checked when the plan was applied; only a policy that went missing since gets here.
            tracing::warn!(plan = %plan.name, "no schedule: {error}");
            None
        })
    }

    /// The schedule of a plan: its own or that of its policy.
    pub(crate) fn schedule_of(
        &self,
        plan: &PlanName,
        spec: &PlanSpec,
    ) -> Result<Option<Schedule>, DaemonError> {
        match (&spec.schedule, &spec.schedule_policy) {
            (Some(schedule), _) => Ok(Some(schedule.clone())),
            (None, Some(policy)) => match self.plans.policies().get(policy) {
                Some(found) => Ok(Some(found.schedule)),
                None => Err(DaemonError::PolicyNotFound { plan: plan.clone(), policy: policy.clone() }),
            },
            (None, None) => Ok(None),
        }
    }

    fn last_start(&self, plan: &PlanName) -> Option<Time> {
        let runtime = self.runtimes.of(plan);
        if let Some(time) = runtime.last_start() {
            return Some(time);
        }
        let kept = self.store.state_get(&start_key(plan)).unwrap_or_else(|error| {
            tracing::warn!(%plan, "start of the last cycle not read: {error}");
            None
        });
        let time =
            kept.and_then(|bytes| bytes.first_chunk::<8>().map(|bytes| Time(i64::from_le_bytes(*bytes))));
        runtime.set_last_start(time);
        time
    }

    /// Notes the start of a cycle, so that the schedule counts from it, also after a restart.
    pub(crate) fn note_start(&self, plan: &PlanName, now: Time) {
        self.runtimes.of(plan).set_last_start(Some(now));
        if let Err(error) = self.store.state_put(&start_key(plan), &now.0.to_le_bytes()) {
            // The cost of losing it is one cycle too many after a restart.
            tracing::warn!(%plan, "start of the cycle not recorded: {error}");
        }
    }

    /// A plan that is gone has no last cycle.
    pub(crate) fn forget_start(&self, plan: &PlanName) -> Result<(), DaemonError> {
        // The catalog's state has no removal; a value that is no time is none.
        Ok(self.store.state_put(&start_key(plan), &[])?)
    }
}

fn start_key(plan: &PlanName) -> String {
    format!("schedule/{plan}/last-start")
}

/// Spreads plans with jitter, the same way on every run.
pub(crate) fn seed_of(plan: &PlanName) -> u64 {
    let digest = blake3::hash(plan.as_str().as_bytes());
    digest.as_bytes().first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}
