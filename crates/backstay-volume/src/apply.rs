//! Bringing a replica from one restore point to another.
//!
//! Two manifests, both in path order, are merged; only what differs is touched. The caller has recorded durably that
//! it goes from `from` to `to` before the first call, and calls again with the same two after a crash.
//!
//! 1. Running again with the same `from` and `to`, after a stop at any place, ends in exactly `to`: every step depends
//!    on the two manifests alone, and doing it twice does no harm
//!    (test `apply_reruns_after_a_stop_anywhere`).
//! 2. A replica that is not what `from` says is found out where it matters, and compared in full instead
//!    (test `a_drifted_replica_is_made_whole`).
//! 3. Nothing outside the target is touched: every folder is opened by name, without following links, below one that
//!    is open already, and a manifest whose entry stands below anything but a folder of its own is refused
//!    (tests in `hostile`).
//! 4. Content before owner before mode before attributes before times: writing and changing owners drop setuid bits
//!    and capabilities, so those come after (test `fidelity_round_trip`).
//!
//! Memory: one segment of each manifest, one chunk, what is read ahead ([`ahead`]), and the first path of each group of hard links (about 100 bytes
//! for each group).

mod ahead;
mod block;
mod clone;
mod content;
mod create;
mod left;
mod metadata;
mod remove;
mod right;
mod tree;

use std::path::Path;

use backstay_types::manifest::{FetchChunk, RelPath, VolumeKind};
use backstay_types::{ChunkId, Classify};

use ahead::Ahead;
pub(crate) use block::single_size;
pub(crate) use clone::clone_image;
pub use clone::{clones_work, remove_tree};
pub(crate) use content::{is_zero, read_at, read_exact_or_short};
pub(crate) use right::Right;
pub(crate) use tree::TreeApply;

use crate::{Progress, VolumeError};

/// What an apply did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ApplyReport {
    /// Entries of the restore point.
    pub entries: u64,
    /// Entries made, changed or removed.
    pub changed: u64,
    /// Bytes of content written.
    pub bytes_written: u64,
    /// The target was compared with the restore point in full.
    pub compared_in_full: bool,
}

/// Brings `target` to restore point `to`.
///
/// With `from`, the target is taken to be at that restore point, or on the way from it to `to`. Without, it is
/// compared in full and made exactly `to`; anything else in it is removed.
pub fn apply<F>(
    reader: &F,
    from: Option<&ChunkId>,
    to: &ChunkId,
    kind: VolumeKind,
    target: &Path,
    progress: &Progress,
) -> Result<ApplyReport, VolumeError>
where
    F: FetchChunk + Sync,
    F::Error: Classify + Send + Sync + 'static,
{
    let once = |from: Option<&ChunkId>| match kind {
        VolumeKind::Block => block::apply_block(reader, from, to, target, progress),
        VolumeKind::Directory | VolumeKind::Bundle => {
            let right = Right::open(reader, to, RelPath::root(), kind)?;
            match from {
                Some(_) => TreeApply::open(reader, reader, right, from, target, progress)?.run(),
                None => std::thread::scope(|scope| {
                    let ahead = Ahead::start(reader, *to, scope);
                    TreeApply::open(reader, &ahead, right, None, target, progress)?.run()
                }),
            }
        }
    };
    match once(from) {
        Err(VolumeError::Drifted { path, why }) if from.is_some() => {
            tracing::warn!(%path, why, "the replica is not what was applied last; it is compared in full");
            once(None)
        }
        other => other,
    }
}
