//! Pairs, plans and upkeep.

use backstay_daemon::api_types::{
    Applied, FieldChange, GcOutcome, NotCompared, Pair, PlanDetail, PlanSummary, RebuildOutcome, Replaced,
    Unpaired, VerifyOutcome,
};
use backstay_daemon::audit::AuditRecord;
use backstay_types::PlanName;
use backstay_types::frame::SiteRole;
use serde_json::Value;

use crate::output::{bytes, or_dash, seconds, table, time, word};

const NO_PAIRS: &str =
    "No pairs yet. Next: backstay pair key on one site, backstay pair join KEY on the other";
const NO_RECORDS: &str = "No records of that time.";

pub(crate) fn pairs(pairs: &[Pair], wide: bool) -> String {
    let connected = |pair: &Pair| if pair.connected { "yes" } else { "no" }.to_owned();
    let endpoints =
        |pair: &Pair| if pair.endpoints.is_empty() { "-".to_owned() } else { pair.endpoints.join(",") };
    let round_trip = |pair: &Pair| or_dash(pair.round_trip_millis, |millis| format!("{millis:.1}ms"));
    let seen = |pair: &Pair| or_dash(pair.last_seen, time);
    let fingerprint = |pair: &Pair, digits: Option<usize>| {
        or_dash(pair.fingerprint.as_deref(), |print| {
            digits.and_then(|digits| print.get(..digits)).unwrap_or(print).to_owned()
        })
    };
    if !wide {
        return table(
            NO_PAIRS,
            ["peer", "connected", "round trip", "endpoints", "last seen", "fingerprint"],
            pairs.iter().map(|p| {
                [p.name.clone(), connected(p), round_trip(p), endpoints(p), seen(p), fingerprint(p, Some(16))]
            }),
        );
    }
    let remote = |pair: &Pair| or_dash(pair.remote.as_ref(), |remote| remote.address.clone());
    table(
        NO_PAIRS,
        [
            "peer",
            "connected",
            "round trip",
            "endpoints",
            "last seen",
            "address",
            "site",
            "pair",
            "fingerprint",
        ],
        pairs.iter().map(|p| {
            [
                p.name.clone(),
                connected(p),
                round_trip(p),
                endpoints(p),
                seen(p),
                remote(p),
                p.site_id.to_string(),
                p.pair_id.to_string(),
                fingerprint(p, None),
            ]
        }),
    )
}

/// What became of the plans of a peer that was removed.
pub(crate) fn unpaired(peer: &str, done: &Unpaired) -> String {
    if !done.changed {
        return format!("There is no pair with {peer}; nothing to do.");
    }
    let mut text = format!("Pair with {peer} removed. Its restore points can be read as before.");
    for plan in &done.plans {
        let what = match plan.role {
            SiteRole::Active => "active here, is replicated no more: its cycles fail",
            _ => "standing by here, gets nothing more; it can be promoted",
        };
        text.push_str(&format!("\nPlan {}, {what}.", plan.plan));
    }
    if !done.plans.is_empty() {
        text.push_str(&format!(
            "\nThey go on when {peer} is paired again, or with a site that takes its place: backstay pair key --replaces {peer}"
        ));
    }
    text
}

/// The plans that go on with another peer.
pub(crate) fn replaced(old: &str, new: &str, done: &Replaced) -> String {
    if done.plans.is_empty() {
        return format!("{new} takes the place of {old}, which had no plans.");
    }
    let plans: Vec<_> = done.plans.iter().map(ToString::to_string).collect();
    format!(
        "{new} takes the place of {old}: {} go on with it, at their epochs; the next cycle sends everything.",
        plans.join(", ")
    )
}

pub(crate) fn plans(plans: &[PlanSummary]) -> String {
    table(
        super::status::NO_PLANS,
        ["plan", "role", "epoch", "peer", "schedule", "suspended"],
        plans.iter().map(|plan| {
            [
                plan.name.to_string(),
                word(&plan.role),
                plan.epoch.to_string(),
                plan.peer.clone(),
                plan.schedule.clone().unwrap_or_else(|| "by hand".to_owned()),
                match (plan.ended, plan.suspended) {
                    (true, _) => "ended",
                    (false, true) => "yes",
                    (false, false) => "no",
                }
                .to_owned(),
            ]
        }),
    )
}

pub(crate) fn plan(plan: &PlanDetail) -> String {
    let head = crate::output::pairs([
        ("Plan", plan.name.to_string()),
        ("Role", word(&plan.role)),
        ("Epoch", plan.epoch.to_string()),
        ("Peer", plan.peer.clone()),
    ]);
    // A spec that was read from YAML can be written as YAML.
    let spec = serde_saphyr::to_string(&plan.spec).unwrap_or_default();
    let spec: Vec<_> = spec.trim_end().lines().map(|line| format!("  {line}")).collect();
    let mut text = format!("{head}\nSpec:\n{}", spec.join("\n"));
    if !plan.proposed.is_empty() {
        text.push_str("\nProposed by the other side, not accepted here:\n");
        text.push_str(&changes(&plan.proposed));
    }
    text
}

/// What waits, as `plan diff` shows it.
pub(crate) fn proposed(name: &PlanName, items: &[FieldChange]) -> String {
    if items.is_empty() {
        return format!("The other side proposes nothing for plan {name}.");
    }
    format!("{}\nNext, to make this the plan of this site: backstay plan accept {name}", changes(items))
}

/// What was accepted.
pub(crate) fn accepted(name: &PlanName, items: &[FieldChange]) -> String {
    if items.is_empty() {
        return format!("The other side proposes nothing for plan {name}; nothing to do.");
    }
    format!("{}\nAccepted for plan {name}.", changes(items))
}

/// `-` what it is, `+` what it would be, each on a line.
fn changes(items: &[FieldChange]) -> String {
    let line = |sign: char, value: &Option<Value>| value.as_ref().map(|value| format!("  {sign} {value}"));
    let lines = items.iter().flat_map(|change| {
        let parts = [line('-', &change.own), line('+', &change.proposed)];
        [Some(change.field.clone())].into_iter().chain(parts).flatten()
    });
    lines.collect::<Vec<_>>().join("\n")
}

pub(crate) fn applied(applied: &[Applied]) -> String {
    let lines = applied.iter().map(|one| format!("{} {} {}", one.kind, one.name, word(&one.result)));
    lines.collect::<Vec<_>>().join("\n")
}

pub(crate) fn verified(outcome: &VerifyOutcome) -> String {
    let summary = format!(
        "Verified {} packs, {} chunks ({}), {} restore points and {} replicas in {}: {}.",
        outcome.packs,
        outcome.chunks,
        bytes(outcome.bytes),
        outcome.restore_points,
        outcome.replicas,
        seconds(outcome.duration_seconds),
        match (outcome.damaged.is_empty(), outcome.is_clean()) {
            (true, _) if !outcome.not_compared.is_empty() => "what was compared is well",
            (true, _) => "all is well",
            (false, true) => "all that was damaged is repaired",
            (false, false) => "DAMAGED",
        },
    );
    let not_compared = outcome.not_compared.iter().map(|NotCompared { name, why }| {
        format!("replica {name} is its application's, and is not compared: {why}\n")
    });
    let summary = not_compared.collect::<String>() + &summary;
    if outcome.damaged.is_empty() {
        return summary;
    }
    let rows = outcome.damaged.iter().map(|damage| {
        let affected = damage.restore_points.join(",");
        [
            damage.kind.clone(),
            damage.name.clone(),
            if damage.repaired { "yes" } else { "no" }.to_owned(),
            if affected.is_empty() { "-".to_owned() } else { affected },
            damage.detail.clone(),
        ]
    });
    format!("{}\n\n{summary}", table("", ["damaged", "name", "repaired", "restore points", "detail"], rows))
}

pub(crate) fn collected(outcome: &GcOutcome) -> String {
    let verb = if outcome.dry_run { "Would free" } else { "Freed" };
    let mut text = format!(
        "{verb} {} in {}: {} restore points let go, {} packs removed, {} rewritten; {} in use.",
        bytes(outcome.bytes_freed),
        seconds(outcome.duration_seconds),
        outcome.restore_points_removed,
        outcome.packs_removed,
        outcome.packs_rewritten,
        bytes(outcome.bytes_live),
    );
    if !outcome.skipped_restore_points.is_empty() {
        text.push_str(&format!(
            "\nThe hashing key of these is lost, nobody can read them, and they keep their space until they are given up with \
             `backstay plan delete PLAN --purge`: {}",
            outcome.skipped_restore_points.join(", ")
        ));
    }
    text
}

pub(crate) fn rebuilt(outcome: &RebuildOutcome) -> String {
    let plans: Vec<_> = outcome.plans.iter().map(ToString::to_string).collect();
    let mut lines = vec![format!(
        "Catalog rebuilt: {} packs, {} chunks, {} restore points of {} plans{}.",
        outcome.packs,
        outcome.chunks,
        outcome.restore_points,
        plans.len(),
        if plans.is_empty() { String::new() } else { format!(" ({})", plans.join(", ")) },
    )];
    lines.extend(outcome.warnings.iter().map(|warning| format!("warning: {warning}")));
    lines.join("\n")
}

pub(crate) fn audit(records: &[AuditRecord], wide: bool) -> String {
    let plan = |record: &AuditRecord| or_dash(record.plan.as_ref(), ToString::to_string);
    let detail = |record: &AuditRecord| {
        if record.detail.is_empty() { "-".to_owned() } else { record.detail.replace(['\n', '\r', '\t'], " ") }
    };
    if !wide {
        return table(
            NO_RECORDS,
            ["time", "actor", "action", "plan", "outcome", "detail"],
            records.iter().map(|record| {
                [
                    time(record.time),
                    record.actor.clone(),
                    record.action.clone(),
                    plan(record),
                    record.outcome.clone(),
                    detail(record),
                ]
            }),
        );
    }
    table(
        NO_RECORDS,
        ["number", "time", "actor", "action", "plan", "outcome", "detail", "hash"],
        records.iter().map(|record| {
            [
                record.seq.to_string(),
                record.time.to_string(),
                record.actor.clone(),
                record.action.clone(),
                plan(record),
                record.outcome.clone(),
                detail(record),
                record.hash.chars().take(16).collect(),
            ]
        }),
    )
}
