//! Point-in-time views of volumes, and the way from a view to a volume that was read:
//! [`snapshot`] → [`Snapshot`] → `scan` → [`Scanned`] → `read` → [`VolumeRead`].
//!
//! Each step takes the one before, so that nothing is read before all volumes of a plan are frozen and nothing is
//! frozen longer than needed. A snapshot is released whatever happens: when it was read, or when its step is dropped.
//! What is to be released is on disk before it is made ([`release_left_over`]), so what a killed daemon left is found and
//! removed at the next start and by the next cycle (test `leftover_snapshots_are_replaced`).

mod again;
mod btrfs;
mod command;
mod duty;
mod reflink;
mod scratch;
mod source;

use std::path::Path;

use backstay_types::manifest::Mtime;
use backstay_types::plan::VolumeSpec;
use backstay_types::point::Atomicity;

pub(crate) use again::Pass;
pub(crate) use duty::DutyFile;
pub use duty::release_left_over;
pub(crate) use reflink::{Cloner, Clones};
use source::{Source, Target, source_path};

use crate::block;
use crate::fs::FolderStack;
use crate::quiet::QuietMark;
use crate::read::{Finish, Reading, TreeReading, VolumeRead, finish_volume};
use crate::scan::{ScanPlan, ScanTotals, SpoolReader, SpoolWriter, scan_tree};
use crate::state::{Parent, StateWriter};
use crate::walk::SCRATCH_PREFIX;
use crate::{Cancel, ChunkSink, Progress, SentState, VolumeContext, VolumeError};

/// A frozen view of a volume.
pub struct Snapshot {
    job: Job,
    scanned: Option<Outcome>,
}

/// A volume whose changes are known.
pub struct Scanned {
    job: Job,
    outcome: Outcome,
}

/// What the sent state is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParentUse {
    /// Nothing: everything is read and offered.
    None,
    /// The receiver holds its restore point whole: what is unchanged is neither read nor offered.
    Held,
    /// The receiver may hold much of it, in another form: everything is read and offered, and what changed is described
    /// by it. A wrong guess costs a description that the receiver refuses.
    Guessed,
}

/// What both steps carry.
struct Job {
    spec: VolumeSpec,
    ctx: VolumeContext,
    parent: Option<Parent>,
    state: StateWriter,
    source: Source,
    /// Seconds, from before the first snapshot of the cycle was taken.
    scan_start: i64,
    /// Set before the snapshot was taken.
    mark: QuietMark,
    /// The mark of the pass that `parent` is of, if this is a further pass.
    since: Option<Mtime>,
    duty: DutyFile,
}

/// What a scan gives.
struct Outcome {
    totals: ScanTotals,
    /// Device of the live tree; 0 for a snapshot.
    dev: u64,
}

/// Takes a snapshot of a volume, of whose writes nothing was marked before. See [`snapshot_since`].
pub fn snapshot(
    spec: &VolumeSpec,
    ctx: &VolumeContext,
    sent: &SentState,
    parent: ParentUse,
) -> Result<Snapshot, VolumeError> {
    snapshot_since(spec, ctx, sent, parent, QuietMark::set(spec)?)
}

/// Takes a snapshot of a volume. With `reflink` this includes the scan, because only changed files are cloned.
pub fn snapshot_since(
    spec: &VolumeSpec,
    ctx: &VolumeContext,
    sent: &SentState,
    parent: ParentUse,
    mark: QuietMark,
) -> Result<Snapshot, VolumeError> {
    let scan_start = rustix::time::clock_gettime(rustix::time::ClockId::Realtime).tv_sec.min(mark.since.secs);
    let target = Target::of(spec)?;
    let parent = match parent {
        ParentUse::None => None,
        ParentUse::Held => Parent::open(sent, &ctx.key, &ctx.params),
        ParentUse::Guessed => Parent::open(sent, &ctx.key, &ctx.params).map(Parent::guessed),
    };
    let duty = DutyFile::of(sent);
    if duty.settle()? {
        tracing::info!(volume = %spec.name, "removed what an earlier cycle had left of its snapshot");
    }
    let state = StateWriter::create(sent)?;
    let source = Source::take(spec, ctx, target, duty.clone())?;
    let (spec, ctx) = (spec.clone(), ctx.clone());
    Job { spec, ctx, parent, state, source, scan_start, mark, since: None, duty }.begin()
}

/// The path of a volume's source, which is what its spec says.
pub(crate) fn checked_source(spec: &VolumeSpec) -> Result<&Path, VolumeError> {
    Target::of(spec).map(|_| source_path(spec))
}

impl Snapshot {
    /// Finds out what changed since the parent. Does nothing if the snapshot was a scan already.
    pub fn scan(mut self, cancel: &Cancel) -> Result<Scanned, VolumeError> {
        let outcome = match self.scanned.take() {
            Some(outcome) => outcome,
            None => self.job.scan(cancel)?,
        };
        Ok(Scanned { job: self.job, outcome })
    }

    /// What of the volume is of one instant.
    pub fn atomicity(&self) -> Atomicity {
        self.job.source.atomicity()
    }

    /// Why nothing can tell whether the source is written meanwhile, if so.
    pub fn untold(&self) -> Option<&str> {
        self.job.mark.untold()
    }

    /// Releases the snapshot without reading it. Dropping it does the same and logs a failure.
    pub fn release(mut self) -> Result<(), VolumeError> {
        self.job.source.release()
    }
}

impl Scanned {
    /// What was found.
    pub fn totals(&self) -> ScanTotals {
        self.outcome.totals
    }

    /// Releases the snapshot without reading it. Dropping it does the same and logs a failure.
    pub fn release(mut self) -> Result<(), VolumeError> {
        self.job.source.release()
    }

    /// Reads what changed, hands its chunks and those of the manifest to `sink`, and releases the snapshot.
    pub fn read(self, sink: &mut dyn ChunkSink, progress: &Progress) -> Result<VolumeRead, VolumeError> {
        let (root, shown) = (self.job.source.path(), source_path(&self.job.spec).to_owned());
        self.read_source(sink, progress).map_err(|error| error.shown_as(&root, &shown))
    }

    fn read_source(self, sink: &mut dyn ChunkSink, progress: &Progress) -> Result<VolumeRead, VolumeError> {
        let Self { job, outcome } = self;
        let Job { spec, ctx, parent, state, mut source, scan_start, mark, since, duty } = job;
        let spool_path = state.scratch_path("spool");
        let reading = Reading::new(&ctx, parent.clone(), state, sink, progress)?;
        let target = Target::of_kind(&spec);
        let reading = match target {
            Target::Tree => {
                let stack = FolderStack::open(&source.path())?;
                let mut tree = TreeReading::new(reading, stack, parent.as_ref(), source.clones())?;
                tree.run(&mut SpoolReader::open(spool_path.clone())?)?;
                std::fs::remove_file(&spool_path).map_err(|e| VolumeError::io("remove", &spool_path, e))?;
                tree.reading
            }
            Target::Block => {
                let mut reading = reading;
                block::read(&mut reading, &source.path(), parent.as_ref(), &block_view(&source, since))?;
                reading
            }
        };
        let name = spec.name.clone();
        let was_unchanged = outcome.totals.is_unchanged();
        let pass = Pass {
            ctx: ctx.clone(),
            spec,
            mark,
            scan_start,
            atomicity: source.atomicity(),
            was_unchanged,
            duty,
        };
        let finish = Finish {
            pass,
            name: &name,
            kind: target.kind(),
            totals: outcome.totals,
            scan_start,
            dev: outcome.dev,
        };
        let mut read = finish_volume(reading, finish)?;
        read.warning = source.release().err();
        Ok(read)
    }
}

fn block_view(source: &Source, since: Option<Mtime>) -> block::View {
    let original = source.clones().and_then(Clones::original);
    block::View { in_place: matches!(source, Source::InPlace(_)), original, since }
}

impl Job {
    fn begin(mut self) -> Result<Snapshot, VolumeError> {
        let clones_tree =
            matches!(self.source, Source::Clones(_)) && Target::of_kind(&self.spec) == Target::Tree;
        let scanned = if clones_tree { Some(self.scan(&Cancel::new())?) } else { None };
        Ok(Snapshot { job: self, scanned })
    }

    fn scan(&mut self, cancel: &Cancel) -> Result<Outcome, VolumeError> {
        let path = self.source.path();
        self.scan_source(&path, cancel).map_err(|error| error.shown_as(&path, source_path(&self.spec)))
    }

    fn scan_source(&mut self, path: &Path, cancel: &Cancel) -> Result<Outcome, VolumeError> {
        match Target::of_kind(&self.spec) {
            Target::Block => {
                let view = block_view(&self.source, self.since);
                let totals = block::scan(path, self.parent.as_ref(), &view, self.ctx.allow_empty)?;
                Ok(Outcome { totals, dev: 0 })
            }
            Target::Tree => {
                let is_snapshot = self.source.is_snapshot();
                let plan = ScanPlan {
                    root: path,
                    key: &self.ctx.key,
                    parent: self.parent.as_ref(),
                    allow_empty: self.ctx.allow_empty,
                    is_snapshot,
                    since: self.since,
                    ignores_root_ctime: false,
                };
                let spool = SpoolWriter::create(self.state.scratch_path("spool"))?;
                let scan = scan_tree(&plan, spool, self.source.cloner(), cancel)?;
                Ok(Outcome { totals: scan.totals, dev: if is_snapshot { 0 } else { scan.dev } })
            }
        }
    }
}

/// Name of the scratch folder or snapshot of a volume.
fn scratch_name(spec: &VolumeSpec, ctx: &VolumeContext) -> String {
    format!("{SCRATCH_PREFIX}{}-{}", ctx.plan, spec.name)
}
