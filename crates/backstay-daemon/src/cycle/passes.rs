//! Proving that nobody wrote to a plan's volumes while they were read, and reading again what was written.
//!
//! 1. All volumes are read before the first is looked at again: if none has changed, the moment between the two is the
//!    one that the point shows.
//! 2. A volume whose first walk found nothing changed needs no second look if that is so of all: they were as their
//!    parents show them when the first walk began.
//! 3. What was written is read again, and looked at again, as long as that is worth it: at most [`PASSES_MAX`] times, and
//!    not when a pass has nearly as much to read as the one before.
//! 4. Views that were cut while writers stood still, or by one call for all, need no proof; but what was written while it was
//!    cloned proves that writers did not stand still (test `a_write_beside_clones_proves_that_writers_ran`).

use std::time::Duration;

use backstay_engine::consistency::{Quiet, Unquiet, VolumeView, Writers};
use backstay_types::plan::MinimumConsistency;
use backstay_types::point::Atomicity;
use backstay_volume::{ChunkSink, Progress, QuietLook, QuietMark, Snapshot, VolumeRead, Written};

use crate::DaemonError;

/// Passes over what was written, the first one counted.
const PASSES_MAX: usize = 5;

/// Passes where a point that shows no instant will do: what a busy application keeps writing is not read for ever.
const PASSES_FUZZY: usize = 2;

/// Waited before each further pass: the first is more than the margin that a time stamp needs to lie before the next mark,
/// and all together more than the two seconds that a file system may round its time stamps to.
const PAUSES: [Duration; PASSES_MAX - 1] = [
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_millis(1500),
];

/// What is read again however much the pass before had to read.
const SMALL_BYTES: u64 = 64 << 20;

/// How the volumes of a plan are to be judged.
pub(super) struct Judging {
    pub(super) writers: Writers,
    pub(super) minimum: MinimumConsistency,
    /// One call of one command took every group.
    pub(super) one_group: bool,
}

/// What was seen of the volumes as they are committed.
pub(super) struct Proven {
    pub(super) reads: Vec<VolumeRead>,
    pub(super) views: Vec<VolumeView>,
    /// What the writers did, by what was seen.
    pub(super) writers: Writers,
    /// Whether anything is known to have been written while it was read.
    pub(super) disturbed: bool,
}

impl Judging {
    /// The views as far as they are known when nothing was read yet.
    pub(super) fn begun(
        &self,
        names: &[backstay_types::VolumeName],
        snapshots: &[Snapshot],
    ) -> Vec<VolumeView> {
        let view = |(name, snapshot): (&backstay_types::VolumeName, &Snapshot)| VolumeView {
            name: name.clone(),
            atomicity: self.atomicity(snapshot.atomicity()),
            quiet: match snapshot.untold() {
                Some(why) => untold(why),
                None => unquiet("it was not looked at again".to_owned(), Vec::new()),
            },
        };
        names.iter().zip(snapshots).map(view).collect()
    }

    /// Looks at the volumes again until nothing has changed since they were read, or it is no use.
    pub(super) fn prove(
        &self,
        mut reads: Vec<VolumeRead>,
        sink: &mut dyn ChunkSink,
        progress: &Progress,
    ) -> Result<Proven, DaemonError> {
        let ran = reads.iter().any(|read| read.disturbed);
        let writers = if ran { Writers::Running } else { self.writers.clone() };
        let wanted = self.wanted(&reads, &writers);
        let mut looks: Vec<Option<QuietLook>> = vec![None; reads.len()];
        if !reads.is_empty() && reads.iter().all(VolumeRead::was_unchanged) {
            looks.fill(Some(QuietLook::Quiet));
        } else if wanted.contains(&true) {
            let most = if self.minimum == MinimumConsistency::Fuzzy { PASSES_FUZZY } else { PASSES_MAX };
            let mut last_bytes = u64::MAX;
            for pass in 1.. {
                for ((look, read), wanted) in looks.iter_mut().zip(&reads).zip(&wanted) {
                    *look = if *wanted { Some(read.look_again(progress)?) } else { None };
                }
                let bytes = written(&looks).map(|written| written.bytes).sum::<u64>();
                let is_over = written(&looks).next().is_none()
                    || !self.can_be_mended(&reads, &looks)
                    || pass >= most
                    || (bytes > SMALL_BYTES && bytes > last_bytes / 2);
                if is_over {
                    break;
                }
                last_bytes = bytes;
                std::thread::sleep(PAUSES.get(pass - 1).copied().unwrap_or_default());
                reads = again(reads, &looks, sink, progress)?;
            }
        }
        let disturbed =
            reads.iter().any(|read| read.fuzzy || read.disturbed) || written(&looks).next().is_some();
        let views = reads.iter().zip(&looks).map(|(read, look)| self.view(read, look.as_ref())).collect();
        Ok(Proven { reads, views, writers, disturbed })
    }

    /// A group is one only if one command takes all of it.
    fn atomicity(&self, atomicity: Atomicity) -> Atomicity {
        if atomicity == Atomicity::Group && !self.one_group { Atomicity::Volume } else { atomicity }
    }

    /// Which volumes are to be looked at again: those that are not of one instant by themselves; and snapshots that were
    /// taken one after the other, where the plan asks for more than that.
    fn wanted(&self, reads: &[VolumeRead], writers: &Writers) -> Vec<bool> {
        let of = |read: &VolumeRead| self.atomicity(read.atomicity());
        let are_held = *writers == Writers::Stopped && reads.iter().all(|read| of(read) > Atomicity::None);
        let are_one = reads.iter().all(|read| of(read) == Atomicity::Group)
            || (reads.len() == 1 && reads.iter().all(|read| of(read) >= Atomicity::Volume));
        let all = self.minimum > MinimumConsistency::CrashPerVolume;
        let wants = |read: &VolumeRead| !are_held && !are_one && (all || of(read) < Atomicity::Volume);
        reads.iter().map(wants).collect()
    }

    /// Whether a further pass can make the point better: a snapshot is not taken again, and where nothing tells, no
    /// look will.
    fn can_be_mended(&self, reads: &[VolumeRead], looks: &[Option<QuietLook>]) -> bool {
        reads.iter().zip(looks).all(|(read, look)| match look {
            None | Some(QuietLook::Quiet) => true,
            Some(QuietLook::Written(_)) => self.atomicity(read.atomicity()) < Atomicity::Volume,
            Some(QuietLook::Untold(_)) => false,
        })
    }

    fn view(&self, read: &VolumeRead, look: Option<&QuietLook>) -> VolumeView {
        let quiet = match look {
            Some(QuietLook::Quiet) if !read.fuzzy => Quiet::Proven,
            Some(QuietLook::Quiet) => unquiet("a file changed while it was read".to_owned(), Vec::new()),
            Some(QuietLook::Untold(why)) => untold(why),
            Some(QuietLook::Written(Written { entries, bytes, paths })) => {
                let why = match entries {
                    1 => format!("it was written while it was read (1 entry, {bytes} bytes)"),
                    some => format!("it was written while it was read ({some} entries, {bytes} bytes)"),
                };
                unquiet(why, paths.clone())
            }
            None => unquiet("it was snapshotted before or after the others".to_owned(), Vec::new()),
        };
        VolumeView { name: read.volume.name.clone(), atomicity: self.atomicity(read.atomicity()), quiet }
    }
}

fn unquiet(why: String, paths: Vec<String>) -> Quiet {
    Quiet::NotProven(Unquiet { why, paths, may_pass: true })
}

fn untold(why: &str) -> Quiet {
    Quiet::NotProven(Unquiet { why: why.to_owned(), paths: Vec::new(), may_pass: false })
}

fn written(looks: &[Option<QuietLook>]) -> impl Iterator<Item = &Written> {
    looks.iter().filter_map(|look| match look {
        Some(QuietLook::Written(written)) => Some(written),
        _ => None,
    })
}

fn again(
    reads: Vec<VolumeRead>,
    looks: &[Option<QuietLook>],
    sink: &mut dyn ChunkSink,
    progress: &Progress,
) -> Result<Vec<VolumeRead>, DaemonError> {
    let mut all = Vec::with_capacity(reads.len());
    for (read, look) in reads.into_iter().zip(looks) {
        all.push(match look {
            Some(QuietLook::Written(_)) => read.read_again(sink, progress)?,
            _ => read,
        });
    }
    Ok(all)
}

/// Marks every volume, before anything is held or taken.
pub(super) fn mark(volumes: &[backstay_types::plan::VolumeSpec]) -> Result<Vec<QuietMark>, DaemonError> {
    volumes.iter().map(|volume| Ok(QuietMark::set(volume)?)).collect()
}

#[cfg(test)]
mod tests {
    use backstay_types::plan::{SnapshotKind, SnapshotSpec, VolumeSpec};
    use backstay_types::{ChunkId, ChunkParams, HashKey};
    use backstay_volume::{ParentUse, PatchBase, SentState, SinkClosed, VolumeContext, snapshot};

    use super::*;

    struct Nowhere;

    impl ChunkSink for Nowhere {
        fn chunk(&mut self, _: ChunkId, _: Vec<u8>, _: Option<PatchBase>) -> Result<(), SinkClosed> {
            Ok(())
        }
    }

    #[test]
    fn a_write_beside_clones_proves_that_writers_ran() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        std::fs::create_dir(&source).unwrap();
        let spec = VolumeSpec {
            name: "data".parse().unwrap(),
            path: Some(source),
            device: None,
            snapshot: SnapshotSpec { provider: SnapshotKind::None, ..SnapshotSpec::default() },
        };
        let context = VolumeContext {
            plan: "shop".parse().unwrap(),
            key: HashKey([7; 32]),
            params: ChunkParams::with_seed(42),
            allow_fuzzy: false,
            allow_empty: true,
        };
        let sent = SentState::open(&dir.path().join("sent")).unwrap();
        let (writers, minimum) = (Writers::Stopped, MinimumConsistency::Fuzzy);
        let judging = Judging { writers, minimum, one_group: false };
        let progress = Progress::new();
        for (disturbed, expected) in [(false, Writers::Stopped), (true, Writers::Running)] {
            let taken = snapshot(&spec, &context, &sent, ParentUse::None).unwrap();
            let mut read = taken.scan(&progress).unwrap().read(&mut Nowhere, &progress).unwrap();
            read.disturbed = disturbed;
            let proven = judging.prove(vec![read], &mut Nowhere, &progress).unwrap();
            assert_eq!(proven.writers, expected);
        }
    }
}
