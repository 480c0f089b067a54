//! Which plans start a cycle now, and when to ask again.
//!
//! 1. A plan never runs twice at once (test `a_running_plan_never_starts`).
//! 2. A failing plan tries again after its backoff and keeps its schedule (test
//!    `a_failing_plan_retries_and_keeps_its_schedule`).
//! 3. The answer's wake-up is never in the past, and a daemon that sleeps until it misses nothing (test
//!    `a_daemon_that_sleeps_until_the_wake_up_runs_every_plan`).

use backstay_types::frame::SiteRole;
use backstay_types::{PlanName, Span, Time};

use crate::schedule::Timetable;

/// What is known about one plan.
#[derive(Debug, Clone, Copy)]
pub struct PlanFacts<'a> {
    /// The plan.
    pub plan: &'a PlanName,
    /// What this side is for it.
    pub role: SiteRole,
    /// Whether the operator stopped its cycles.
    pub suspended: bool,
    /// Whether a cycle of it is running.
    pub running: bool,
    /// Whether the peer is connected.
    pub connected: bool,
    /// Its schedule; without one, only an operator starts cycles.
    pub timetable: Option<&'a Timetable>,
    /// When its last cycle started, whoever asked for it and however it ended.
    pub last_start: Option<Time>,
    /// When to try again, if the last cycle failed in a way that is tried again ([`crate::backoff::Backoff`]).
    pub retry_at: Option<Time>,
    /// Number of the plan that tells its jitter from others'; the same for as long as the plan lives.
    pub seed: u64,
}

/// When a plan's next cycle starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Due {
    /// Now; since when it has been due.
    Since(Time),
    /// Later.
    At(Time),
    /// Not before something else happens.
    Waits(Waits),
}

/// What a plan waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Waits {
    /// The other side sends.
    Standby,
    /// The operator resumes it.
    Suspended,
    /// Its cycle ends.
    Running,
    /// The peer connects. A run that falls due meanwhile starts then.
    Peer,
    /// An operator starts one: it has no schedule.
    Operator,
}

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Decision {
    /// Plans whose cycle starts, longest due first.
    pub start: Vec<PlanName>,
    /// When to decide again even if nothing happens; always after `now`.
    pub wake: Option<Time>,
}

impl PlanFacts<'_> {
    /// When the next cycle starts.
    pub fn due(&self, now: Time) -> Due {
        if self.role != SiteRole::Active {
            return Due::Waits(Waits::Standby);
        }
        if self.suspended {
            return Due::Waits(Waits::Suspended);
        }
        if self.running {
            return Due::Waits(Waits::Running);
        }
        let Some(at) = self.scheduled(now) else { return Due::Waits(Waits::Operator) };
        match (at > now, self.connected) {
            (true, _) => Due::At(at),
            (false, true) => Due::Since(at),
            (false, false) => Due::Waits(Waits::Peer),
        }
    }

    /// Next run in the eyes of the clock alone, for display: a suspended or standby plan has none.
    pub fn next_run(&self, now: Time) -> Option<Time> {
        match self.due(now) {
            Due::Since(at) | Due::At(at) => Some(at),
            Due::Waits(Waits::Running | Waits::Peer) => self.scheduled(now),
            Due::Waits(Waits::Standby | Waits::Suspended | Waits::Operator) => None,
        }
    }

    fn scheduled(&self, now: Time) -> Option<Time> {
        // While a plan fails its backoff alone decides: it is below any usual interval, and moments of the schedule
        // that pass meanwhile are made good by the retry that succeeds.
        match (self.retry_at, self.timetable) {
            (Some(retry), Some(timetable)) => {
                let clear = timetable.clear_of_blackout(retry.max(now))?;
                Some(if clear > now { clear } else { retry })
            }
            // Nobody scheduled what failed: trying again is the operator's choice.
            (_, None) => None,
            (None, Some(timetable)) => timetable.next_run(self.last_start, now, self.seed),
        }
    }
}

/// Decides for all plans. At most `room` cycles start: what the daemon can run beside those that run already.
pub fn decide<'a>(plans: impl IntoIterator<Item = PlanFacts<'a>>, now: Time, room: usize) -> Decision {
    let mut due: Vec<(Time, &PlanName)> = Vec::new();
    let mut wake: Option<Time> = None;
    for facts in plans {
        match facts.due(now) {
            Due::Since(since) => due.push((since, facts.plan)),
            Due::At(at) => wake = Some(wake.map_or(at, |wake| wake.min(at))),
            Due::Waits(_) => {}
        }
    }
    due.sort_unstable();
    // Those without room start when a cycle ends, which is an event.
    Decision { start: due.into_iter().take(room).map(|(_, plan)| plan.clone()).collect(), wake }
}

/// How far the standby is behind: now minus the snapshot time of the newest restore point.
pub fn lag(now: Time, newest_snapshot: Option<Time>) -> Option<Span> {
    newest_snapshot.map(|snapshot| now.since(snapshot))
}

#[cfg(test)]
mod tests;
