//! The status of a plan, from what the site reports.

use backstay_types::Time;
use backstay_types::frame::SiteRole;
use backstay_types::plan::MinimumConsistency;
use backstay_types::point::Consistency;

use super::condition::{Told, coarse, conditions, count};
use super::host::{CycleReport, PlanReport};
use crate::crds::{CycleProgress, PlanStatus};

/// The reason of `Ready` where the site took the plan from the resource.
pub(super) const ACCEPTED: &str = "Accepted";

/// Failures that are named; all are counted.
const NAMED_MAX: usize = 5;

/// The status of a resource of this `generation`, of a plan that is, or is not, in the site's book.
pub(super) fn plan_status(
    observed: &PlanStatus,
    ready: Told,
    report: Option<&PlanReport>,
    has_damage: bool,
    generation: Option<i64>,
    now: Time,
) -> PlanStatus {
    let Some(report) = report else {
        let conditions = conditions(&observed.conditions, [ready], generation, now);
        // What it was told stays: see `plans.rs`, 4.
        return PlanStatus {
            conditions,
            role: observed.role.clone(),
            epoch: observed.epoch,
            accepted: observed.accepted,
            ..PlanStatus::default()
        };
    };
    let accepted = if ready.reason() == ACCEPTED { Some(true) } else { observed.accepted };
    let told = [ready, synced(report), degraded(report, has_damage)];
    let told = told.into_iter().chain(consistent(report));
    PlanStatus {
        conditions: conditions(&observed.conditions, told, generation, now),
        role: Some(role_name(report.role).to_owned()),
        accepted,
        epoch: Some(count(report.epoch.0)),
        phase: Some(report.cycle.as_ref().map_or_else(|| "Idle".to_owned(), |cycle| capital(cycle.phase))),
        cycle: report.cycle.as_ref().map(progress),
        lag: report.lag.map(coarse),
        last_restore_point: report.last_point.map(|point| point.to_string()),
        last_success: report.last_success.map(|time| time.to_string()),
        next_run: report.next_run.map(|time| time.to_string()),
        failed_objects: report.failed_objects.map(count),
        first_failures: report.first_failures.iter().take(NAMED_MAX).cloned().collect(),
    }
}

/// What an operator calls a role.
pub(super) const fn role_name(role: SiteRole) -> &'static str {
    match role {
        SiteRole::Active => "active",
        SiteRole::Standby => "standby",
        SiteRole::Demoting => "demoting",
        SiteRole::Promoting => "promoting",
    }
}

fn capital(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(chars).collect()
}

fn progress(cycle: &CycleReport) -> CycleProgress {
    CycleProgress {
        percent: i32::from(cycle.percent.min(100)),
        bytes_per_second: count(cycle.bytes_per_second),
        eta_seconds: cycle.eta_seconds.map(count),
        bytes_done: count(cycle.bytes_done),
        bytes_total: cycle.bytes_total.map(count),
    }
}

/// Whether the standby holds what the last cycle made.
fn synced(report: &PlanReport) -> Told {
    let no = |reason, message: String| Told::new("Synced", false, reason, message);
    let fixed = |reason, message: &str| Told::new("Synced", false, reason, message);
    if report.ended {
        return fixed("Ended", "the active side deleted the plan: nothing comes any more");
    }
    match (report.role, &report.cycle_error, &report.apply_error) {
        (SiteRole::Promoting, ..) => fixed("Promoting", "this site is taking over"),
        (SiteRole::Demoting, ..) => fixed("Fenced", "the other site was promoted"),
        (SiteRole::Active, ..) if report.promoted => {
            fixed("NoStandby", "this site was promoted, and its peer has not come back as standby")
        }
        (SiteRole::Active, Some(error), _) => no("CycleFailed", error.told()),
        (SiteRole::Standby, _, Some(error)) => no("ApplyFailed", error.told()),
        _ if report.last_point.is_none() => fixed("NoRestorePoint", "no cycle has committed yet"),
        _ => Told::new("Synced", true, "Committed", "the standby holds the newest restore point"),
    }
}

/// Whether the last restore point shows one instant; nothing is told before there was one.
fn consistent(report: &PlanReport) -> Option<Told> {
    let word = report.consistency.filter(|_| report.role == SiteRole::Active)?;
    let reason = match word {
        Consistency::Application => "Application",
        Consistency::Crash => "Crash",
        Consistency::CrashPerVolume => "CrashPerVolume",
        Consistency::Fuzzy => "Fuzzy",
        Consistency::Diverged | Consistency::Unknown => return None,
    };
    let message = match &report.below_crash {
        Some(why) => format!("the restore point is {word} only: {why}"),
        None => format!("the restore point is {word}"),
    };
    Some(Told::new("Consistent", word.reaches(MinimumConsistency::Crash), reason, message))
}

/// Whether an operator should look.
fn degraded(report: &PlanReport, has_damage: bool) -> Told {
    let yes = |reason, message: String| Told::new("Degraded", true, reason, message);
    if let Some(error) = report.cycle_error.as_ref().filter(|_| report.is_ours()) {
        return yes("CycleFailed", error.told());
    }
    if let Some(error) = &report.promotion_error {
        return yes("PromotionStopped", error.told());
    }
    if let Some(error) = &report.apply_error {
        return yes("ApplyFailed", error.told());
    }
    if let Some(failed) = report.failed_objects.filter(|failed| *failed > 0) {
        let first = report.first_failures.first().map(String::as_str).unwrap_or_default();
        return yes("ObjectsFailed", format!("{failed} objects could not be applied; first: {first}"));
    }
    if has_damage {
        let message =
            "a restore point is damaged; `backstay verify --repair` fetches good copies where there are any";
        return yes("RestorePointDamaged", message.to_owned());
    }
    if let (Some(lag), Some(target)) = (report.lag, report.spec.rpo_target)
        && lag > target
        && !report.promoted
        && !report.ended
    {
        return yes("LagAboveTarget", format!("the newest restore point is older than {target}"));
    }
    Told::new("Degraded", false, "AsExpected", "nothing needs attention")
}
