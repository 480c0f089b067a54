//! Comparing replicas, and the objects in folders, with the point they show.
//!
//! Of a side that stands by, or is still being promoted, everything must be as in the point, and can be put right. Once
//! its applications were started, what they wrote, added or removed is theirs: what was not written since must still be as in
//! the point (test `verify_leaves_what_the_application_wrote`). What was withheld when the point was applied is nobody's
//! replica: it is neither compared nor written.
//!
//! A replica is repaired only where an apply may write: not beside workloads of a higher epoch, not where another plan has a
//! place, and not under somebody who has it open (test `a_replica_in_use_is_not_repaired`).

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use backstay_engine::promotion::StepName;
use backstay_kube::folder;
use backstay_types::frame::SiteRole;
use backstay_types::point::{PointVolume, RestorePoint};
use backstay_types::{Class, Classify, PlanName};
use backstay_volume::{Comparison, Look, Mark, Progress, Standing};

use super::Verifier;
use crate::DaemonError;
use crate::api_types::{Damage, NotCompared, VerifyOutcome};
use crate::apply::{held, whom};
use crate::open_files;
use crate::plans::{Applied, AppliedObjects, PlanRecord};

impl Verifier<'_> {
    /// Compares what a plan applied here with its point; with `repair`, makes it that point again.
    pub(super) fn verify_replicas(
        &self,
        plan: &PlanName,
        repair: bool,
        outcome: &mut VerifyOutcome,
    ) -> Result<(), DaemonError> {
        let runtime = self.runtimes.map(|runtimes| runtimes.of(plan));
        let _gate = runtime.as_ref().map(|runtime| runtime.apply.blocking_lock());
        // Only now, with the gate shut: what was promoted in the meantime belongs to its application.
        let Some(record) = self.plans.find(plan) else { return Ok(()) };
        let mut applied = self.plans.applied(plan)?;
        // While an apply is unfinished a replica shows no point; the apply itself mends it.
        let (Some(id), None) = (applied.point, applied.target) else { return Ok(()) };
        let lives = is_started(&record);
        let point = match self.store.point(plan, id) {
            // Of an active side the point may have expired.
            Err(error) if lives && error.class() == Class::NotFound => return Ok(()),
            point => point?,
        };
        let withheld = applied.withheld.clone();
        for volume in point.volumes.iter().filter(|volume| !withheld.volumes.contains(&volume.name)) {
            match self.verify_volume(&point, volume, &mut applied, lives, repair)? {
                Seen::Compared(damage) => {
                    outcome.replicas += 1;
                    outcome.damaged.extend(damage);
                }
                Seen::Missing(damage) => outcome.damaged.push(damage),
                Seen::InUse(why) => {
                    outcome.not_compared.push(NotCompared { name: format!("{plan}/{}", volume.name), why });
                }
            }
        }
        if !lives
            && !withheld.manifests
            && let Some(damage) = self.verify_objects(&record, &point, &mut applied, repair)?
        {
            outcome.damaged.push(damage);
        }
        Ok(())
    }

    fn verify_volume(
        &self,
        point: &RestorePoint,
        volume: &PointVolume,
        applied: &mut Applied,
        lives: bool,
        repair: bool,
    ) -> Result<Seen, DaemonError> {
        let (plan, id) = (&point.plan, point.id);
        let target = (self.replica)(plan, &volume.name);
        let damage = |detail: String, repaired| Damage {
            kind: "replica".into(),
            name: format!("{plan}/{}", volume.name),
            detail,
            restore_points: Vec::new(),
            repaired,
        };
        let mark = applied.marks.get(&volume.name);
        let standing = mark.map(|mark| mark.standing(&target, volume.kind)).transpose()?;
        if let Some(Standing::NotMounted { mount }) = standing {
            // Never filled: what is mounted there may come back.
            return Ok(Seen::Missing(damage(
                format!("not compared with {id}: {mount} is not mounted"),
                false,
            )));
        }
        let reader = self.store.reader(point.pair);
        let look = Look { mark, lives };
        let compare =
            |look| backstay_volume::verify_replica(&reader, &volume.root, volume.kind, &target, look);
        let mismatches = match compare(look) {
            // What the store lost is named already; the rest of the list is wanted all the same.
            Err(error) if error.class() == Class::Corrupt => {
                return Ok(Seen::Missing(damage(format!("not compared with {id}: {error}"), false)));
            }
            compared => match compared? {
                Comparison::Made(mismatches) => mismatches,
                Comparison::NotMade { why } => return Ok(Seen::InUse(why)),
            },
        };
        let Some(first) = mismatches.first() else { return Ok(Seen::Compared(None)) };
        let since = if lives { ", and was not written since" } else { "" };
        let detail = format!(
            "{} entries differ from {id}{since}; first: {}: {}",
            mismatches.len(),
            first.path,
            first.why
        );
        if !repair || lives {
            return Ok(Seen::Compared(Some(damage(detail, false))));
        }
        match (self.may_write)(plan, &target, applied) {
            // The rest of the list is wanted all the same.
            Err(error) if error.class() == Class::Busy => {
                return Ok(Seen::Compared(Some(damage(format!("{detail}; not repaired: {error}"), false))));
            }
            allowed => allowed?,
        }
        let progress = Progress::new();
        let report = backstay_volume::apply(&reader, None, &volume.root, volume.kind, &target, &progress)?;
        let left = compare(Look { mark: report.mark.as_ref(), lives })?;
        self.note_repaired(applied, plan, volume, report.mark)?;
        Ok(Seen::Compared(Some(damage(detail, left == Comparison::Made(Vec::new())))))
    }

    /// What was repaired was left anew: the next apply does not take it for somebody else's doing.
    fn note_repaired(
        &self,
        applied: &mut Applied,
        plan: &PlanName,
        volume: &PointVolume,
        mark: Option<Mark>,
    ) -> Result<(), DaemonError> {
        applied.volumes.insert(volume.name.clone(), volume.root);
        applied.marks.remove(&volume.name);
        applied.marks.extend(mark.map(|mark| (volume.name.clone(), mark)));
        self.plans.set_applied(plan, applied)
    }

    fn verify_objects(
        &self,
        record: &PlanRecord,
        point: &RestorePoint,
        applied: &mut Applied,
        repair: bool,
    ) -> Result<Option<Damage>, DaemonError> {
        let (plan, spec) = (&record.name, &record.spec);
        let wanted = point.bundle.as_ref().map(|bundle| AppliedObjects::new(bundle.root, spec));
        let Some(bundle) =
            point.bundle.as_ref().filter(|_| !spec.covers_cluster() && applied.objects == wanted)
        else {
            return Ok(None);
        };
        let dir = (self.manifests)(plan);
        let damage = |detail: String, repaired| Damage {
            kind: "objects".into(),
            name: format!("{plan}/objects"),
            detail,
            restore_points: Vec::new(),
            repaired,
        };
        let reader = self.store.reader(point.pair);
        let objects = match crate::apply::read_objects(&reader, bundle) {
            Err(error) if error.class() == Class::Corrupt => {
                return Ok(Some(damage(format!("not compared with {}: {error}", point.id), false)));
            }
            objects => objects?,
        };
        let options = held(plan, point, spec);
        let found = folder::check_held(&dir, &objects, &options)?;
        let differ = found.created + found.changed + found.removed + found.failures.count;
        if differ == 0 {
            return Ok(None);
        }
        let repaired = repair && {
            let failed = folder::apply_held(&dir, &objects, &options)?.failures.count;
            applied.object_files = folder::look(&dir)?;
            self.plans.set_applied(plan, applied)?;
            failed == 0
        };
        let named = found.failures.named.iter().map(|failure| failure.key.clone());
        let first = found.written.iter().cloned().chain(named).next().unwrap_or_default();
        let detail = format!("{differ} files in {} differ from {}; first: {first}", dir.display(), point.id);
        Ok(Some(damage(detail, repaired)))
    }
}

/// What was seen of a replica.
enum Seen {
    /// In what it differs from its point, if in anything.
    Compared(Option<Damage>),
    /// It, or what to compare it with, is not there.
    Missing(Damage),
    /// Its application has it, and why nothing of it is known.
    InUse(String),
}

/// Refuses to write a replica under somebody who has it open. Blocks.
pub(super) fn check_unused(plan: &PlanName, place: &Path, applied: &Applied) -> Result<(), DaemonError> {
    let users = open_files::users(&[place.to_owned()], whom(applied), &BTreeSet::new())
        .map_err(|source| DaemonError::io("look who uses", Path::new("/proc"), source))?;
    if users.is_empty() {
        return Ok(());
    }
    let users = users.iter().take(open_files::NAMED_MAX).map(ToString::to_string).collect();
    Err(DaemonError::InUse { plan: plan.clone(), users })
}

/// Whether the applications of a plan run here, or did.
fn is_started(record: &Arc<PlanRecord>) -> bool {
    match record.state.role() {
        SiteRole::Standby => false,
        SiteRole::Promoting => record.state.promotion().is_some_and(|promotion| {
            let release = promotion.steps().iter().find(|step| step.name == StepName::Release);
            release.is_some_and(|step| step.state != backstay_engine::promotion::StepState::Pending)
        }),
        SiteRole::Active | SiteRole::Demoting => true,
    }
}
