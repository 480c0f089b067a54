//! Events: what changed from one status to the next. A state that stays is told once, so that a cycle that fails all
//! night is one Event, and a plan that replicates is none.

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::condition::{find, is_true};
use crate::crds::{FailoverStatus, PlanStatus};

/// Longest text of an Event: the API allows 1 KiB.
const NOTE_BYTES_MAX: usize = 1000;

/// An Event to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Notice {
    pub(super) is_warning: bool,
    pub(super) reason: &'static str,
    pub(super) action: &'static str,
    pub(super) note: String,
}

impl Notice {
    fn new(is_warning: bool, reason: &'static str, action: &'static str, note: impl fmt::Display) -> Self {
        let mut note = note.to_string();
        note.truncate(note.floor_char_boundary(NOTE_BYTES_MAX));
        Self { is_warning, reason, action, note }
    }
}

/// What to tell of a plan.
pub(super) fn of_plan(old: &PlanStatus, new: &PlanStatus) -> Vec<Notice> {
    let parts = [accepted(old, new), role(old, new), cycle(old, new), applied(old, new), objects(old, new)];
    parts.into_iter().flatten().collect()
}

fn accepted(old: &PlanStatus, new: &PlanStatus) -> Option<Notice> {
    let ready = find(&new.conditions, "Ready")?;
    let before = find(&old.conditions, "Ready");
    let same = |before: &Condition| before.status == ready.status;
    if ready.status == "True" {
        return (!before.is_some_and(same)).then(|| Notice::new(false, "Accepted", "Accept", &ready.message));
    }
    let told = before.is_some_and(|before| same(before) && before.message == ready.message);
    if ready.reason == "Ended" {
        return (!told).then(|| Notice::new(true, "Ended", "Replicate", &ready.message));
    }
    (!told).then(|| Notice::new(true, "Refused", "Accept", &ready.message))
}

fn role(old: &PlanStatus, new: &PlanStatus) -> Option<Notice> {
    let (before, now) = (old.role.as_deref()?, new.role.as_deref()?);
    let epoch = new.epoch.unwrap_or_default();
    match (before, now) {
        ("standby" | "promoting", "active") => {
            Some(Notice::new(false, "Promoted", "Promote", format!("active here since epoch {epoch}")))
        }
        ("active", "demoting" | "standby") => Some(Notice::new(
            true,
            "Fenced",
            "Demote",
            format!("the other site was promoted to epoch {epoch}: this site is not active any more"),
        )),
        _ => None,
    }
}

/// The first restore point, the first after a failure, and the failure.
fn cycle(old: &PlanStatus, new: &PlanStatus) -> Option<Notice> {
    let synced = find(&new.conditions, "Synced")?;
    let before = find(&old.conditions, "Synced");
    if synced.reason == "CycleFailed" {
        let told =
            before.is_some_and(|before| before.reason == synced.reason && before.message == synced.message);
        return (!told).then(|| Notice::new(true, "CycleFailed", "Replicate", &synced.message));
    }
    let point = new.last_restore_point.as_ref()?;
    let is_new = old.last_restore_point.as_ref() != Some(point);
    let was_synced = is_true(&old.conditions, "Synced");
    (is_new && !was_synced && synced.status == "True").then(|| {
        Notice::new(
            false,
            "RestorePointCommitted",
            "Replicate",
            format!("restore point {point} is committed"),
        )
    })
}

fn applied(old: &PlanStatus, new: &PlanStatus) -> Option<Notice> {
    let synced = find(&new.conditions, "Synced")?;
    let before = find(&old.conditions, "Synced");
    let told =
        before.is_some_and(|before| before.reason == "ApplyFailed" && before.message == synced.message);
    (synced.reason == "ApplyFailed" && !told)
        .then(|| Notice::new(true, "ApplyFailed", "Apply", &synced.message))
}

fn objects(old: &PlanStatus, new: &PlanStatus) -> Option<Notice> {
    let (before, now) = (old.failed_objects.unwrap_or(0), new.failed_objects?);
    if now == 0 {
        return (before > 0)
            .then(|| Notice::new(false, "ObjectsApplied", "Apply", "all objects are applied again"));
    }
    if before == now && old.first_failures == new.first_failures {
        return None;
    }
    let first = new.first_failures.first().map(String::as_str).unwrap_or_default();
    Some(Notice::new(
        true,
        "ObjectsFailed",
        "Apply",
        format!("{now} objects could not be applied; first: {first}"),
    ))
}

/// What to tell of a failover.
pub(super) fn of_failover(old: &FailoverStatus, new: &FailoverStatus) -> Vec<Notice> {
    let became = |kind: &str| is_true(&new.conditions, kind) && !is_true(&old.conditions, kind);
    let message = |kind: &str| find(&new.conditions, kind).map(|c| c.message.clone()).unwrap_or_default();
    let rows = [("Accepted", false, "Started"), ("Complete", false, "Completed"), ("Failed", true, "Failed")];
    let became = rows.into_iter().filter(|(kind, ..)| became(kind));
    became
        .map(|(kind, is_warning, reason)| Notice::new(is_warning, reason, "Failover", message(kind)))
        .collect()
}

#[cfg(test)]
mod tests {
    use backstay_types::Time;

    use super::super::condition::{Told, conditions};
    use super::*;

    fn status(ready: (bool, &str), synced: (bool, &'static str), point: Option<&str>) -> PlanStatus {
        let told = [
            Told::new("Ready", ready.0, "Reason", ready.1),
            Told::new("Synced", synced.0, synced.1, "the peer is away"),
        ];
        PlanStatus {
            conditions: conditions(&[], told, Some(1), Time(0)),
            last_restore_point: point.map(str::to_owned),
            ..PlanStatus::default()
        }
    }

    fn reasons(old: &PlanStatus, new: &PlanStatus) -> Vec<&'static str> {
        of_plan(old, new).into_iter().map(|notice| notice.reason).collect()
    }

    #[test]
    fn a_plan_that_replicates_is_quiet() {
        let none = PlanStatus::default();
        let fresh = status((true, "ok"), (false, "NoRestorePoint"), None);
        let first = status((true, "ok"), (true, "Committed"), Some("e1-000001"));
        let second = status((true, "ok"), (true, "Committed"), Some("e1-000002"));
        assert_eq!(reasons(&none, &fresh), ["Accepted"]);
        assert_eq!(reasons(&fresh, &first), ["RestorePointCommitted"]);
        assert!(reasons(&first, &second).is_empty());
    }

    #[test]
    fn a_failure_is_told_once_and_so_is_its_end() {
        let good = status((true, "ok"), (true, "Committed"), Some("e1-000001"));
        let bad = status((true, "ok"), (false, "CycleFailed"), Some("e1-000001"));
        let healed = status((true, "ok"), (true, "Committed"), Some("e1-000002"));
        assert_eq!(reasons(&good, &bad), ["CycleFailed"]);
        assert!(reasons(&bad, &bad).is_empty());
        assert_eq!(reasons(&bad, &healed), ["RestorePointCommitted"]);
        assert!(reasons(&bad, &good).is_empty(), "a daemon that forgot the failure has committed nothing");
        let refused = status((false, "no such peer"), (true, "Committed"), Some("e1-000001"));
        assert_eq!(reasons(&good, &refused), ["Refused"]);
        assert_eq!(reasons(&refused, &good), ["Accepted"]);
    }

    #[test]
    fn roles_and_objects_are_told() {
        let with = |role: &str, failed| PlanStatus {
            role: Some(role.to_owned()),
            failed_objects: Some(failed),
            first_failures: if failed > 0 { vec!["Secret shop/a: no".to_owned()] } else { vec![] },
            ..PlanStatus::default()
        };
        assert_eq!(reasons(&with("standby", 0), &with("active", 0)), ["Promoted"]);
        assert_eq!(reasons(&with("active", 0), &with("demoting", 0)), ["Fenced"]);
        assert_eq!(reasons(&with("standby", 0), &with("standby", 1)), ["ObjectsFailed"]);
        assert!(reasons(&with("standby", 1), &with("standby", 1)).is_empty());
        assert_eq!(reasons(&with("standby", 1), &with("standby", 0)), ["ObjectsApplied"]);
    }
}
