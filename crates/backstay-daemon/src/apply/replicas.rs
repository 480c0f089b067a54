//! The replicas themselves, rather than the note of what was applied to them.
//!
//! 1. A replica is looked at before it is written, promoted, handed over or copied: another root than the one that was
//!    left is compared in full, and what somebody changed in it is put right and told (tests in `replicas`).
//! 2. A replica whose mount is missing is neither written nor promoted (test `an_unmounted_replica_is_neither_filled_nor_promoted`).

use backstay_types::point::{PointVolume, RestorePoint};
use backstay_types::{Class, Classify, PlanName};
use backstay_volume::{ApplyReport, Mark, Standing, Touched};

use crate::DaemonError;
use crate::api_types::ReplicaWarning;
use crate::plans::Applied;
use crate::private;
use crate::runtime::Activity;
use crate::site::Site;

/// Chunks of a volume that a promotion compares: some 4 MiB.
const SAMPLED_CHUNKS: u64 = 64;
/// What a chunk of a file holds on average.
const CHUNK_BYTES: u64 = 64 << 10;

impl Site {
    /// Refuses where something was mounted at a replica when it was applied last, and is not now.
    pub(crate) fn check_mounted(
        &self,
        plan: &PlanName,
        applied: &Applied,
        point: &RestorePoint,
    ) -> Result<(), DaemonError> {
        for volume in &point.volumes {
            let place = self.place(plan, &volume.name);
            let standing = applied.marks.get(&volume.name).map(|mark| mark.standing(&place, volume.kind));
            if let Some(Standing::NotMounted { mount }) = standing.transpose()? {
                let (plan, volume) = (plan.clone(), volume.name.clone());
                return Err(DaemonError::NotMounted { plan, volume, place, mount });
            }
        }
        Ok(())
    }

    /// Whether a replica is the one that was left, showing `volume`. Its content may have been changed.
    pub(crate) fn stands(
        &self,
        plan: &PlanName,
        applied: &Applied,
        volume: &PointVolume,
    ) -> Result<bool, DaemonError> {
        let Some(shown) = applied.shown(&volume.name).filter(|shown| *shown.root == volume.root) else {
            return Ok(false);
        };
        Ok(shown.mark.standing(&self.place(plan, &volume.name), volume.kind)? == Standing::Same)
    }

    /// Whether the root of a replica is the one that was left, whatever it shows.
    pub(crate) fn stands_at_all(
        &self,
        plan: &PlanName,
        applied: &Applied,
        volume: &PointVolume,
    ) -> Result<bool, DaemonError> {
        let place = self.place(plan, &volume.name);
        let standing = applied.marks.get(&volume.name).map(|mark| mark.standing(&place, volume.kind));
        Ok(standing.transpose()? == Some(Standing::Same))
    }

    /// What was changed in a replica that shows `volume`; `None` if it is not the one that was left, or shows another
    /// manifest.
    pub(crate) fn touched(
        &self,
        plan: &PlanName,
        applied: &Applied,
        point: &RestorePoint,
        volume: &PointVolume,
    ) -> Result<Option<Touched>, DaemonError> {
        let Some(shown) = applied.shown(&volume.name).filter(|shown| *shown.root == volume.root) else {
            return Ok(None);
        };
        let reader = self.store.reader(point.pair);
        Ok(backstay_volume::inspect(&reader, shown, volume.kind, &self.place(plan, &volume.name))?)
    }

    /// Whether every replica shows `point` and was left alone. Where the store has lost the manifest to tell that by, the
    /// replica may be the only copy there is: it is taken for untouched.
    pub(super) fn is_untouched(
        &self,
        plan: &PlanName,
        applied: &Applied,
        point: &RestorePoint,
    ) -> Result<bool, DaemonError> {
        if applied.point != Some(point.id) || applied.target.is_some() {
            return Ok(false);
        }
        for volume in &point.volumes {
            match self.touched(plan, applied, point, volume) {
                Ok(Some(Touched { count: 0, unsure: 0, .. })) => {}
                Ok(_) => return Ok(false),
                Err(error) if error.class() == Class::Corrupt && self.stands(plan, applied, volume)? => {
                    tracing::warn!(%plan, volume = %volume.name, "the replica is not looked through: {error}");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Brings one replica to its volume of `point`. Gives what was found that nobody had applied; nothing, if what is
    /// found may be this side's own doing.
    pub(super) fn apply_volume(
        &self,
        plan: &PlanName,
        applied: &mut Applied,
        point: &RestorePoint,
        volume: &PointVolume,
        is_ours: bool,
        activity: &Activity,
    ) -> Result<Vec<String>, DaemonError> {
        let clean = |touched: &Touched| touched.count == 0 && touched.unsure == 0;
        if self.touched(plan, applied, point, volume)?.as_ref().is_some_and(clean) {
            return Ok(Vec::new());
        }
        let place = self.place(plan, &volume.name);
        let shown = applied.shown(&volume.name);
        let standing = shown.map(|shown| shown.mark.standing(&place, volume.kind)).transpose()?;
        let was_applied = applied.volumes.contains_key(&volume.name);
        if shown.is_some_and(|shown| *shown.root == volume.root) {
            // What shows another manifest was looked at before the first of them was written.
            self.check_may_write(plan, std::slice::from_ref(&place), applied)?;
            self.begin_apply(plan, applied, point)?;
        }
        let shown = applied.shown(&volume.name);
        self.check_alone(&*self.plans.get(plan)?, &place)?;
        private::make_way(&self.dir, &place)?;
        let reader = self.store.reader(point.pair);
        let progress = &activity.progress;
        let report = backstay_volume::apply(&reader, shown, &volume.root, volume.kind, &place, progress)?;
        let mut told = Vec::new();
        if was_applied && !is_ours {
            told.extend(found(volume, &standing, &report));
        }
        let times = |mark: Option<&Mark>| mark.map(Mark::times).unwrap_or_default();
        if let Some(path) = &report.not_held
            && times(applied.marks.get(&volume.name)) != times(report.mark.as_ref())
        {
            told.push(format!(
                "volume {}: the file system of {} cannot hold every modification time, first that of {path}: the nearest \
                 that it can hold is kept",
                volume.name,
                place.display()
            ));
        }
        for message in &told {
            tracing::warn!(%plan, "{message}");
        }
        applied.volumes.insert(volume.name.clone(), volume.root);
        match report.mark {
            Some(mark) => applied.marks.insert(volume.name.clone(), mark),
            None => applied.marks.remove(&volume.name),
        };
        Ok(told)
    }

    /// Compares a sample of the content of every replica with `point`; gives the volumes that failed, and why.
    pub(crate) fn sampled(
        &self,
        plan: &PlanName,
        point: &RestorePoint,
        seed: u32,
    ) -> Result<Vec<(PointVolume, String)>, DaemonError> {
        let reader = self.store.reader(point.pair);
        let mut failed = Vec::new();
        for volume in &point.volumes {
            let one_in = u32::try_from(volume.bytes / CHUNK_BYTES / SAMPLED_CHUNKS).unwrap_or(u32::MAX);
            let place = self.place(plan, &volume.name);
            match backstay_volume::sample(&reader, &volume.root, &place, one_in, seed) {
                Ok(None) => {}
                Ok(Some(first)) => failed.push((volume.clone(), format!("{}: {}", first.path, first.why))),
                // The store lost the manifest, and the replica is what there is.
                Err(error) if error.class() == Class::Corrupt => {
                    tracing::warn!(%plan, volume = %volume.name, "content not sampled: {error}");
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(failed)
    }
}

impl Applied {
    /// Notes what was found while the replicas were brought to `point`.
    pub(super) fn warn(&mut self, point: &RestorePoint, messages: Vec<String>) {
        if !messages.is_empty() {
            let (time, restore_point) = (crate::clock::now(), point.id);
            self.warning = Some(ReplicaWarning { time, restore_point, messages });
        }
    }
}

/// What an apply found and put right.
fn found(volume: &PointVolume, standing: &Option<Standing>, report: &ApplyReport) -> Option<String> {
    let name = &volume.name;
    if report.compared_in_full {
        let why = match standing {
            Some(Standing::Other { why }) => *why,
            // It was written by a program that left no marks: once, and nothing to tell unless something was wrong.
            None if report.changed == 0 => return None,
            None => "what it was when it was left is not known",
            Some(_) => "it was changed while it was written",
        };
        return Some(format!(
            "volume {name}: the replica is not as it was left ({why}): it was compared in full, and {} entries were \
             put right",
            report.changed
        ));
    }
    let touched = &report.touched;
    let first: Vec<_> = touched.first.iter().map(|(path, why)| format!("{path} ({why})")).collect();
    let more = if touched.count > first.len() as u64 { ", …" } else { "" };
    (touched.count > 0).then(|| {
        format!(
            "volume {name}: {} entries of the replica were changed here and are as in the restore point again: {}{more}",
            touched.count,
            first.join(", ")
        )
    })
}
