//! Status of plans.

use backstay_daemon::api_types::{
    AutomaticStatus, CycleOutcome, CycleStatus, HoldStatus, LastCycle, LastDrill, ObjectsStatus, PlanStatus,
    ProposedStatus, StandbyStatus,
};

use backstay_types::frame::SiteRole;

use crate::output::{bytes, or_dash, pairs, rate, seconds, table, time, word};

pub(super) const NO_PLANS: &str = "No plans yet. Next, on the active site: backstay plan apply -f FILE";

pub(crate) fn statuses(statuses: &[PlanStatus], wide: bool) -> String {
    if !wide {
        return table(
            NO_PLANS,
            ["plan", "role", "peer", "connected", "lag", "target", "restore point", "now", "last cycle"],
            statuses.iter().map(|s| {
                [
                    s.plan.to_string(),
                    word(&s.role),
                    s.peer.clone(),
                    yes_no(s.connected),
                    lag(s),
                    or_dash(s.rpo_target_seconds, seconds),
                    or_dash(s.last_restore_point, |id| id.to_string()),
                    now(s),
                    or_dash(s.last_cycle.as_ref(), |last| word(&last.outcome)),
                ]
            }),
        );
    }
    table(
        NO_PLANS,
        [
            "plan",
            "role",
            "epoch",
            "peer",
            "connected",
            "lag",
            "target",
            "restore point",
            "applied",
            "now",
            "last cycle",
            "next run",
            "automatic failover",
        ],
        statuses.iter().map(|s| {
            [
                s.plan.to_string(),
                word(&s.role),
                s.epoch.to_string(),
                s.peer.clone(),
                yes_no(s.connected),
                lag(s),
                or_dash(s.rpo_target_seconds, seconds),
                or_dash(s.last_restore_point, |id| id.to_string()),
                or_dash(s.applied_restore_point, |id| id.to_string()),
                now(s),
                or_dash(s.last_cycle.as_ref(), last_cycle),
                next_run(s),
                failover(s),
            ]
        }),
    )
}

pub(crate) fn status(s: &PlanStatus) -> String {
    let mut rows = vec![
        ("Plan", s.plan.to_string()),
        ("Role", word(&s.role)),
        ("Epoch", s.epoch.to_string()),
        ("Peer", format!("{} ({})", s.peer, if s.connected { "connected" } else { "not connected" })),
        ("Lag", format!("{} (target {})", lag(s), or_dash(s.rpo_target_seconds, seconds))),
        ("Restore point", or_dash(s.last_restore_point, |id| id.to_string())),
        ("Applied", or_dash(s.applied_restore_point, |id| id.to_string())),
        ("Now", now(s)),
        ("Last cycle", or_dash(s.last_cycle.as_ref(), last_cycle)),
    ];
    if let Some(error) = s.last_cycle.as_ref().and_then(|last| last.error.as_ref()) {
        rows.push(("  error", error.message.clone()));
        rows.extend(error.hint.as_ref().map(|hint| ("  hint", hint.clone())));
    }
    rows.extend(s.last_cycle.as_ref().and_then(consistency).map(|told| ("Consistency", told)));
    if let Some(error) = &s.apply_error {
        let what = if s.role == SiteRole::Demoting { "not a standby yet" } else { "not brought up" };
        rows.push(("Replica", format!("{what}: {}", error.message)));
        rows.extend(error.hint.as_ref().map(|hint| ("  hint", hint.clone())));
    }
    if let Some(warning) = &s.replica_warning {
        rows.push(("Replica", format!("warning of {}, at {}", warning.time, warning.restore_point)));
        rows.extend(warning.messages.iter().map(|message| ("  note", message.clone())));
    }
    if let Some(standby) = &s.standby {
        rows.push(("Standby", standby_line(standby)));
    }
    if let Some(error) = &s.promotion_error {
        rows.push(("Takeover", format!("stopped: {}", error.message)));
        rows.extend(error.hint.as_ref().map(|hint| ("  hint", hint.clone())));
    }
    rows.extend(s.proposed.iter().flat_map(|it| proposed(it, format!("backstay plan diff {}", s.plan))));
    rows.extend(
        s.peer_proposed
            .iter()
            .flat_map(|it| proposed(it, format!("on {}: backstay plan accept {}", s.peer, s.plan))),
    );
    rows.extend(s.objects.iter().flat_map(objects));
    rows.extend(s.hold.as_ref().map(|hold| ("Hold", held(hold))));
    rows.extend(s.automatic_failover.iter().flat_map(automatic));
    rows.push(("Next run", next_run(s)));
    rows.extend(s.last_drill.map(|last| ("Last drill", last_drill(&last))));
    pairs(rows)
}

/// `shows e1-000003` or why it does not show the newest.
fn standby_line(standby: &StandbyStatus) -> String {
    let shows = or_dash(standby.applied_restore_point, |id| id.to_string());
    match &standby.apply_error {
        None => format!("shows {shows}"),
        Some(error) => {
            format!("shows {shows}, NOT {}: {} ({})", error.restore_point, error.message, error.class.label())
        }
    }
}

/// Changes that wait for an operator, and what is not applied for them.
fn proposed(it: &ProposedStatus, next: String) -> Vec<(&'static str, String)> {
    let mut rows = vec![("Not accepted", it.fields.join(", "))];
    if !it.withheld.is_empty() {
        rows.push(("  not applied", it.withheld.join(", ")));
    }
    rows.push(("  next", next));
    rows
}

/// The objects on the standby's cluster, and what is not as it should be, a line each.
fn objects(objects: &ObjectsStatus) -> Vec<(&'static str, String)> {
    let o = objects;
    let all = o.created + o.changed + o.recreated + o.unchanged + o.shared;
    let mut rows = vec![(
        "Objects",
        format!(
            "{all} on the cluster, {} held, {} wait for promotion; {} failed, {} drifted",
            o.held, o.deferred, o.failed, o.drifted
        ),
    )];
    rows.extend(o.first_failures.iter().map(|failure| ("  failed", failure.clone())));
    rows.extend(o.first_drifts.iter().map(|drift| ("  drifted", drift.clone())));
    rows.extend(o.warnings.iter().map(|warning| ("  note", warning.clone())));
    rows
}

/// What stops the application on this host, and whether it is stopped.
fn held(hold: &HoldStatus) -> String {
    if hold.nothing {
        return "nothing runs here, says the operator".to_owned();
    }
    let cgroups = hold.cgroups.iter().map(|folder| folder.display().to_string());
    let commands = hold.commands.then(|| "commands".to_owned());
    let what: Vec<_> = hold.units.iter().cloned().chain(cgroups).chain(commands).collect();
    format!("{}: {}", if hold.held { "HELD" } else { "not held" }, what.join(", "))
}

/// Who would take over by itself, and when.
fn automatic(a: &AutomaticStatus) -> Vec<(&'static str, String)> {
    let witness = match (&a.witness, a.reachable) {
        (None, _) => "no witness is set up".to_owned(),
        (Some(witness), true) => format!("witness {witness}"),
        (Some(witness), false) => format!("witness {witness} NOT REACHED"),
    };
    let holder = or_dash(a.holder.as_ref(), Clone::clone);
    let age = or_dash(a.lease_age_seconds, seconds);
    let mut rows = vec![
        ("Failover", format!("after {}, {witness}, lease of {holder}, {age} old", seconds(a.after_seconds))),
        ("  next", a.would_do.clone()),
    ];
    rows.extend(a.error.iter().map(|error| ("  error", error.clone())));
    rows.extend(a.warning.iter().map(|warning| ("  WARNING", warning.clone())));
    rows
}

/// In a few words, for a table.
fn failover(s: &PlanStatus) -> String {
    or_dash(s.automatic_failover.as_ref(), |a| a.would_do.clone())
}

/// The lag, marked where it is over its target.
fn lag(s: &PlanStatus) -> String {
    let over = s.lag_seconds.zip(s.rpo_target_seconds).is_some_and(|(lag, target)| lag > target);
    format!("{}{}", or_dash(s.lag_seconds, seconds), if over { " OVER" } else { "" })
}

fn now(s: &PlanStatus) -> String {
    match &s.cycle {
        Some(cycle) => progress(cycle),
        None if s.ended => "ended: the active side deleted the plan".to_owned(),
        None if s.suspended => "suspended".to_owned(),
        None => "idle".to_owned(),
    }
}

/// `transfer 45% 1.2 GiB of 2.6 GiB 110.0 MiB/s 12s left`.
pub(crate) fn progress(cycle: &CycleStatus) -> String {
    let mut parts = vec![cycle.phase.as_str().to_owned()];
    parts.extend(cycle.percent.map(|percent| format!("{percent:.0}%")));
    match cycle.bytes_total {
        Some(total) => parts.push(format!("{} of {}", bytes(cycle.bytes_done), bytes(total))),
        None if cycle.bytes_done > 0 => parts.push(bytes(cycle.bytes_done)),
        None => {}
    }
    if cycle.bytes_per_second >= 1.0 {
        parts.push(rate(cycle.bytes_per_second));
    }
    parts.extend(cycle.eta_seconds.map(|eta| format!("{} left", seconds(eta))));
    parts.join(" ")
}

fn last_cycle(last: &LastCycle) -> String {
    let how = match (last.outcome, &last.error) {
        (CycleOutcome::Failed, Some(error)) => format!("failed ({})", word(&error.class)),
        (outcome, _) => word(&outcome),
    };
    format!("{how} in {}, started {}", seconds(last.duration_seconds), time(last.started_time))
}

/// `fuzzy: volume data: it was written while it was read`.
fn consistency(last: &LastCycle) -> Option<String> {
    let promised = last.consistency.as_ref()?;
    Some(match &last.below_crash {
        Some(why) => format!("{promised}: {why}"),
        None => promised.to_string(),
    })
}

fn next_run(s: &PlanStatus) -> String {
    match (s.ended, s.suspended) {
        (true, _) => "ended".to_owned(),
        (false, true) => "suspended".to_owned(),
        (false, false) => or_dash(s.next_run, time),
    }
}

fn last_drill(last: &LastDrill) -> String {
    let how = match (last.passed, last.rto_seconds) {
        (true, Some(rto)) => format!("passed, RTO {}", seconds(rto)),
        (true, None) => "passed".to_owned(),
        (false, _) => "FAILED".to_owned(),
    };
    format!("{how}, of {} at {}", last.restore_point, time(last.time))
}

fn yes_no(value: bool) -> String {
    if value { "yes" } else { "no" }.to_owned()
}
