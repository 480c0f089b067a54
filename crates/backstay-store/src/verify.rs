//! Verification: every byte of the packs read and re-hashed, every restore point walked, every derived file checked.
//!
//! 1. What is damaged is named: the chunk, the pack by its file name, the restore points that need it (tests in
//!    `tests/damage.rs`).
//! 2. Restore points found damaged are marked durably, and unmarked when they are found whole again.
//! 3. A damaged chunk counts as missing from then on, so a sender that offers it sends it again.
//! 4. What can be derived is mended at once: runs from packs, a restore-point file from what is in memory.
//!
//! It may run beside sessions. Memory: one pack's list of entries, a cache of 16 MiB, one bit for each chunk.

mod pack;
mod point;
mod report;
mod run;

pub use report::{DamagedChunk, DamagedFile, DamagedPack, DamagedPoint, VerifyProgress, VerifyReport};

use std::collections::BTreeSet;

use backstay_types::{PackId, PlanName};

use crate::StoreError;
use crate::catalog::Change;
use crate::index::PackStage;
use crate::inner::{Inner, lock};
use crate::points::Held;
use pack::PackCheck;

/// Damaged chunks that are listed one by one; the rest is counted.
const LISTED_CHUNKS_MAX: usize = 10_000;

/// Checks the store, or what one plan needs of it.
pub(crate) fn verify(
    inner: &Inner,
    plan: Option<&PlanName>,
    progress: &mut dyn FnMut(VerifyProgress),
) -> Result<VerifyReport, StoreError> {
    let _exclusive = inner.maintain()?;
    match inner.seal_orphans() {
        // Then they are not checked, because nothing committed stands on an unsealed pack alone.
        Err(StoreError::NoSpace { .. }) | Ok(()) => {}
        Err(error) => return Err(error),
    }
    let mut report = VerifyReport::default();
    run::check_runs(inner, &mut report)?;
    point::check_files(inner, plan, &mut report)?;
    let points = plan.map_or_else(|| inner.points.all(), |plan| inner.points.of_plan(plan));
    let packs = match plan {
        Some(_) => point::packs_needed(inner, &points)?,
        None => None,
    };
    check_packs(inner, packs.as_ref(), &mut report, progress)?;
    check_points(inner, &points, &mut report, progress)?;
    Ok(report)
}

/// Checks sealed packs, all or those needed, and notes what is damaged.
fn check_packs(
    inner: &Inner,
    needed: Option<&BTreeSet<PackId>>,
    report: &mut VerifyReport,
    progress: &mut dyn FnMut(VerifyProgress),
) -> Result<(), StoreError> {
    let packs: Vec<(PackId, u64)> = {
        let state = inner.index.read();
        let sealed = state.packs().iter().filter(|(_, pack)| pack.stage != PackStage::Open);
        let wanted = sealed.filter(|(pack, _)| needed.is_none_or(|needed| needed.contains(pack)));
        wanted.map(|(pack, state)| (*pack, state.bytes)).collect()
    };
    let mut now = VerifyProgress {
        packs_total: packs.len() as u64,
        bytes_total: packs.iter().map(|(_, bytes)| bytes).sum(),
        ..VerifyProgress::default()
    };
    for (pack, bytes) in packs {
        progress(now);
        let check = PackCheck::run(inner, pack)?;
        note(inner, pack, &check)?;
        report.packs_checked += 1;
        report.chunks_checked += check.chunks;
        report.bytes_checked += bytes;
        if let Some(why) = check.damage {
            let file =
                inner.layout.pack(pack).strip_prefix(inner.layout.root()).map(|p| p.display().to_string());
            report.damaged_packs.push(DamagedPack {
                pack,
                file: file.unwrap_or_else(|_| pack.to_string()),
                why,
            });
        }
        report.damaged_chunks_total += check.bad.len() as u64;
        let room = LISTED_CHUNKS_MAX.saturating_sub(report.damaged_chunks.len());
        report.damaged_chunks.extend(check.bad.into_iter().take(room));
        now.packs_done += 1;
        now.bytes_done += bytes;
    }
    progress(now);
    Ok(())
}

/// Makes the outcome of one pack's check what the store knows about it, durably.
fn note(inner: &Inner, pack: PackId, check: &PackCheck) -> Result<(), StoreError> {
    let mut changes = Vec::new();
    {
        let mut bad_packs = lock(&inner.bad_packs);
        match &check.damage {
            Some(why) if bad_packs.get(&pack) != Some(why) => {
                bad_packs.insert(pack, why.clone());
                changes.push(Change::BadPack(pack, why.clone()));
            }
            None if bad_packs.remove(&pack).is_some() => changes.push(Change::UnbadPack(pack)),
            _ => {}
        }
    }
    {
        let mut state = inner.index.write();
        let bad = state.bad_mut();
        let mended: Vec<_> = bad.iter().filter(|(_, at)| **at == pack).map(|(id, _)| *id).collect();
        for id in mended {
            if check.bad.iter().all(|chunk| chunk.id != id) {
                bad.remove(&id);
                changes.push(Change::Unbad(id));
            }
        }
        for chunk in &check.bad {
            if bad.insert(chunk.id, pack) != Some(pack) {
                changes.push(Change::Bad(chunk.id, pack));
            }
        }
    }
    if changes.is_empty() { Ok(()) } else { inner.catalog.write(&changes) }
}

/// Walks the restore points, and marks or unmarks them.
fn check_points(
    inner: &Inner,
    points: &[Held],
    report: &mut VerifyReport,
    progress: &mut dyn FnMut(VerifyProgress),
) -> Result<(), StoreError> {
    let damage = point::damage_of(inner, points)?;
    let mut changes = Vec::new();
    for (held, why) in points.iter().zip(damage) {
        let (plan, id) = (held.point.plan.clone(), held.point.id);
        if inner.points.set_damage(&plan, id, why.clone()) {
            changes.push(match &why {
                Some(why) => Change::Damaged(plan.clone(), id, why.clone()),
                None => Change::Undamaged(plan.clone(), id),
            });
        }
        report.points_checked += 1;
        report.damaged_points.extend(why.map(|why| DamagedPoint { plan, id, why }));
    }
    progress(VerifyProgress {
        packs_done: report.packs_checked,
        packs_total: report.packs_checked,
        bytes_done: report.bytes_checked,
        bytes_total: report.bytes_checked,
        points_done: report.points_checked,
    });
    if changes.is_empty() { Ok(()) } else { inner.catalog.write(&changes) }
}
