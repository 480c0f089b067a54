//! Further passes over a volume that was read while it may have been written.
//!
//! 1. A look compares the source with what the last pass has read; it reads no content.
//! 2. A further pass reads what changed since, against the last pass: what that one has handed over is held by the
//!    receiver, or on its way to it. Only the manifest of the last pass counts: entries of two passes stand beside
//!    each other only if the later one found the earlier ones unchanged (test `passes_never_mix`).
//! 3. Chunks of a pass that was overtaken are garbage at the receiver, and no damage.

use backstay_types::plan::VolumeSpec;
use backstay_types::point::Atomicity;

use super::source::{Source, Target, source_path};
use super::{DutyFile, Job, Snapshot};
use crate::quiet::{Proof, QuietLook, QuietMark, Written, look_at_device};
use crate::read::VolumeRead;
use crate::scan::{ScanPlan, SpoolWriter, scan_tree};
use crate::state::StateWriter;
use crate::{Cancel, ChunkSink, Progress, VolumeContext, VolumeError, block};

/// What a further look or pass needs to know of the last one.
#[derive(Debug)]
pub(crate) struct Pass {
    pub(crate) ctx: VolumeContext,
    pub(crate) spec: VolumeSpec,
    pub(crate) mark: QuietMark,
    pub(crate) scan_start: i64,
    pub(crate) atomicity: Atomicity,
    pub(crate) was_unchanged: bool,
    pub(crate) duty: DutyFile,
}

impl VolumeRead {
    /// What of it is of one instant.
    pub fn atomicity(&self) -> Atomicity {
        self.pass.atomicity
    }

    /// Whether the first walk found the source as the parent shows it, by means that tell: then the source was so when
    /// that walk began, and no second one is needed.
    pub fn was_unchanged(&self) -> bool {
        self.pass.was_unchanged && matches!(self.pass.mark.proof, Proof::Times)
    }

    /// Looks at the source again: whether anything was written since it was read.
    pub fn look_again(&self, cancel: &Cancel) -> Result<QuietLook, VolumeError> {
        let path = source_path(&self.pass.spec);
        let since = self.pass.mark.since;
        match &self.pass.mark.proof {
            Proof::Nothing(why) => return Ok(QuietLook::Untold(why.clone())),
            Proof::Counters(counters) => return look_at_device(path.to_owned(), counters),
            Proof::Times => {}
        }
        let parent = self.pending.parent(&self.pass.ctx)?;
        if Target::of_kind(&self.pass.spec) == Target::Block {
            return block::look_at_image(path, &parent, since);
        }
        let spool_path = self.pending.scratch_path("look");
        let plan = ScanPlan {
            root: path,
            key: &self.pass.ctx.key,
            parent: Some(&parent),
            allow_empty: true,
            is_snapshot: false,
            since: Some(since),
            ignores_root_ctime: self.pass.atomicity != Atomicity::None,
        };
        let scan = scan_tree(&plan, SpoolWriter::create(spool_path.clone())?, None, cancel)?;
        std::fs::remove_file(&spool_path).map_err(|e| VolumeError::io("remove", &spool_path, e))?;
        if scan.totals.is_unchanged() {
            return Ok(QuietLook::Quiet);
        }
        Ok(QuietLook::Written(Written {
            entries: scan.totals.read_entries + scan.totals.gone_entries,
            bytes: scan.totals.read_bytes,
            paths: scan.named,
        }))
    }

    /// Reads again what has changed since it was read. Its view and its state are those of this pass alone.
    pub fn read_again(self, sink: &mut dyn ChunkSink, progress: &Progress) -> Result<Self, VolumeError> {
        let Pass { ctx, spec, mark, scan_start, duty, .. } = self.pass;
        let again = QuietMark::set_again(&spec)?;
        let parent = self.pending.parent(&ctx)?;
        let state = StateWriter::beside(&self.pending)?;
        let source = Source::take(&spec, &ctx, Target::of(&spec)?, duty.clone())?;
        let since = Some(mark.since);
        let job =
            Job { spec, ctx, parent: Some(parent), state, source, scan_start, mark: again, since, duty };
        let snapshot: Snapshot = job.begin()?;
        let mut read = snapshot.scan(progress)?.read(sink, progress)?;
        read.stats.bytes_changed += self.stats.bytes_changed;
        read.warning = self.warning.or(read.warning);
        read.pass.was_unchanged = false;
        Ok(read)
    }
}
