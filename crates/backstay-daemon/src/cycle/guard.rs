//! Refuses a cycle that found so much less than the last restore point that somebody should look first.
//!
//! 1. It is judged after everything was found and before any of it is read: a refused cycle sends nothing
//!    (test `guard::a_nearly_emptied_volume_is_refused`).
//! 2. `allowEmpty` lets everything pass. A plan that says itself that it covers something else is asked only whether
//!    anything is left (test `guard::an_emptied_folder_of_manifests_is_refused`).

use std::collections::BTreeSet;

use backstay_engine::shrink::{self, Extent, ObjectCount, Shrunk};
use backstay_kube::folder::CapturedObject;
use backstay_kube::workloads::count_workloads;
use backstay_types::VolumeName;
use backstay_types::plan::PlanSpec;
use backstay_types::point::RestorePoint;
use backstay_volume::Scanned;

use super::produce::Job;
use crate::DaemonError;
use crate::plans::{PlanRecord, Seen};
use crate::site::Site;

impl Job {
    /// Compares what was found with the last restore point; what the next cycle compares with beside its own.
    pub(super) fn guard(
        &self,
        site: &Site,
        scanned: &[Scanned],
        objects: Option<&[CapturedObject]>,
    ) -> Result<Seen, DaemonError> {
        let seen = Seen {
            workloads: objects.map(count_workloads),
            claims: self.sources.claims.clone(),
            scope: scope_digest(&self.record.spec),
        };
        if self.record.spec.allow_empty {
            return Ok(seen);
        }
        let Some((before, seen_before)) = site.last_shown(&self.record)? else { return Ok(seen) };
        let first = self.shrunk_volume(&before, scanned).or_else(|| {
            let is_same_scope = seen_before.scope == seen.scope;
            let gone = || {
                let now: BTreeSet<VolumeName> =
                    self.sources.volumes.iter().map(|volume| volume.name.clone()).collect();
                shrink::claims(&before, &seen_before.claims, &now).next()
            };
            let gone = is_same_scope.then(gone).flatten();
            gone.or_else(|| shrunk_objects(&before, &seen_before, objects, &seen, is_same_scope))
        });
        match first {
            Some(first) => {
                Err(DaemonError::Shrunk { plan: self.record.name.clone(), before: before.id, first })
            }
            None => Ok(seen),
        }
    }

    fn shrunk_volume(&self, before: &RestorePoint, scanned: &[Scanned]) -> Option<Shrunk> {
        let found = self.sources.volumes.iter().zip(scanned);
        found.into_iter().find_map(|(volume, scanned)| {
            let old = before.volume(&volume.name)?;
            let totals = scanned.totals();
            let was = Extent { entries: old.entries, bytes: old.bytes };
            let now = Extent { entries: totals.entries, bytes: totals.bytes };
            shrink::volume(&volume.name, was, now, totals.is_bare, totals.has_moved)
        })
    }
}

fn shrunk_objects(
    before: &RestorePoint,
    seen_before: &Seen,
    objects: Option<&[CapturedObject]>,
    seen: &Seen,
    is_same_scope: bool,
) -> Option<Shrunk> {
    // A plan without objects lost none.
    let (old, objects) = (before.bundle.as_ref()?, objects?);
    let was = ObjectCount { objects: old.objects, workloads: seen_before.workloads };
    let now = ObjectCount { objects: objects.len() as u64, workloads: seen.workloads };
    shrink::objects(was, now).filter(|_| is_same_scope || now.objects == 0)
}

impl Site {
    /// The restore point that the next one follows: the last that was acknowledged in this epoch, else the one that
    /// the plan was promoted at.
    fn last_shown(&self, record: &PlanRecord) -> Result<Option<(RestorePoint, Seen)>, DaemonError> {
        let last = self.plans.last_success(&record.name)?;
        if let Some(last) = last.filter(|last| last.point.id.epoch == record.state.epoch()) {
            return Ok(Some((last.point, last.seen)));
        }
        let Some(shown) = self.plans.applied(&record.name)?.point else { return Ok(None) };
        let mut points = self.store.points(&record.name)?.into_iter();
        let seen = Seen { scope: scope_digest(&record.spec), ..Seen::default() };
        Ok(points.find(|point| point.id == shown).map(|point| (point, seen)))
    }
}

/// What a plan says it covers, in short: to see that it was changed.
fn scope_digest(spec: &PlanSpec) -> String {
    let said = serde_json::json!([
        spec.manifests,
        spec.namespaces,
        spec.namespace_selector,
        spec.selector,
        spec.include_resources,
        spec.exclude_resources,
        spec.exclude_volumes,
    ]);
    blake3::hash(said.to_string().as_bytes()).to_hex().to_string()
}
