//! What reading a volume gives.

use backstay_types::VolumeName;
use backstay_types::manifest::VolumeKind;
use backstay_types::point::PointVolume;

use super::Reading;
use crate::manifest_out::TreeOut;
use crate::scan::ScanTotals;
use crate::snapshot::Pass;
use crate::state::{Seal, pair_mark};
use crate::{PendingState, VolumeError};

/// A volume that was read to its end.
#[derive(Debug)]
pub struct VolumeRead {
    /// Its part of the restore point.
    pub volume: PointVolume,
    /// What was done.
    pub stats: VolumeStats,
    /// Something changed while it was read, and the plan allows that.
    pub fuzzy: bool,
    /// Something was written while it was cloned: no writer was held. Each clone is whole all the same.
    pub disturbed: bool,
    /// State to adopt after the acknowledgement; dropping it discards it.
    pub pending: PendingState,
    /// The snapshot could not be released; the content is not affected.
    pub warning: Option<VolumeError>,
    pub(crate) pass: Pass,
}

/// What reading a volume did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VolumeStats {
    /// Entries walked.
    pub files_scanned: u64,
    /// Length of the files walked, whether read or not.
    pub bytes_scanned: u64,
    /// Bytes read because something about them had changed.
    pub bytes_changed: u64,
}

/// What the end of a volume needs to know.
pub(crate) struct Finish<'a> {
    pub(crate) pass: Pass,
    pub(crate) name: &'a VolumeName,
    pub(crate) kind: VolumeKind,
    pub(crate) totals: ScanTotals,
    pub(crate) scan_start: i64,
    pub(crate) dev: u64,
}

/// Ends the manifest and the state.
pub(crate) fn finish_volume(reading: Reading<'_>, finish: Finish<'_>) -> Result<VolumeRead, VolumeError> {
    let Reading { manifest, mut state, sink, fuzzy, disturbed, bytes_changed, .. } = reading;
    let mut out = TreeOut { sink, state: Some(&mut state) };
    let written = manifest.finish(Some(finish.name.clone()), finish.kind, &mut out)?;
    let seal = Seal {
        root: written.root,
        scan_start: finish.scan_start,
        dev: finish.dev,
        pair_mark: pair_mark(&finish.pass.ctx.key, &finish.pass.ctx.params),
    };
    let volume = PointVolume {
        name: finish.name.clone(),
        kind: finish.kind,
        root: written.root,
        entries: written.entries,
        bytes: written.bytes,
    };
    let stats = VolumeStats {
        files_scanned: finish.totals.entries,
        bytes_scanned: finish.totals.bytes,
        bytes_changed,
    };
    let pending = state.finish(seal)?;
    Ok(VolumeRead { volume, stats, fuzzy, disturbed, pending, warning: None, pass: finish.pass })
}
