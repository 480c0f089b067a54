//! Bringing a replica from one restore point to another.
//!
//! Three streams in path order are merged: what is at the target, the manifest applied last, and the manifest to apply. Every
//! entry of the target is looked at; what is as the manifest applied last says, and was not changed since, is known, and
//! only what differs between the two manifests is read and written.
//!
//! 1. Running again, after a stop at any place or a failure, also to another restore point, ends in exactly `to`: what
//!    was begun was changed since the last apply that was finished, and is compared
//!    (tests `apply_reruns_after_a_stop_anywhere`, `a_failed_apply_blocks_no_other`).
//! 2. What somebody else changed at the target is found, put right and named
//!    (tests `a_drifted_replica_is_made_whole`, `an_edit_with_its_time_put_back_is_found`). A target that is not the one that was left
//!    is compared in full.
//! 3. Nothing outside the target is touched: every folder is opened by name, without following links, below one that
//!    is open already, and a manifest whose entry stands below anything but a folder of its own is refused
//!    (tests in `hostile`).
//! 4. Content before owner before mode before attributes before times: writing and changing owners drop setuid bits
//!    and capabilities, so those come after (test `fidelity_round_trip`).
//! 5. Where there is no room, what is not wanted goes before what is wanted comes (test `room_is_made_before_it_is_used`).
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
mod room;
mod tree;

use std::path::Path;

use backstay_types::manifest::{FetchChunk, RelPath, VolumeKind};
use backstay_types::{ChunkId, Classify};

use ahead::Ahead;
pub(crate) use block::{fill_image, single_size};
pub(crate) use clone::clone_image;
pub use clone::{clones_work, remove_tree};
pub(crate) use content::{is_zero, read_at, read_exact_or_short};
pub(crate) use left::Left;
pub use left::{Shown, Touched};
pub(crate) use right::Right;
pub(crate) use tree::TreeApply;

use crate::fs::TimesHeld;
use crate::{Mark, Progress, Standing, VolumeError};

/// What an apply did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ApplyReport {
    /// Entries of the restore point.
    pub entries: u64,
    /// Entries made, changed or removed.
    pub changed: u64,
    /// Bytes of content written.
    pub bytes_written: u64,
    /// The target was compared with the restore point in full.
    pub compared_in_full: bool,
    /// What somebody else had changed since the last apply; it is as the restore point says now. After a stop what that
    /// apply had done already is among it.
    pub touched: Touched,
    /// The first entry whose modification time the file system cannot hold.
    pub not_held: Option<String>,
    times: TimesHeld,
    /// What the target is now.
    pub mark: Option<Mark>,
}

/// Brings `target` to restore point `to`.
///
/// With `shown`, what was left alone since the apply that brought the target there is not read. Without, it is
/// compared in full and made exactly `to`; anything else in it is removed.
pub fn apply<F>(
    reader: &F,
    shown: Option<Shown<'_>>,
    to: &ChunkId,
    kind: VolumeKind,
    target: &Path,
    progress: &Progress,
) -> Result<ApplyReport, VolumeError>
where
    F: FetchChunk + Sync,
    F::Error: Classify + Send + Sync + 'static,
{
    let once = |shown: Option<Shown<'_>>| match kind {
        VolumeKind::Block => block::apply_block(reader, shown.map(|shown| shown.root), to, target, progress),
        VolumeKind::Directory | VolumeKind::Bundle => {
            let right = Right::open(reader, to, RelPath::root(), kind)?;
            match shown {
                Some(_) => TreeApply::open(reader, reader, right, shown, target, progress)?.run(),
                None => std::thread::scope(|scope| {
                    let ahead = Ahead::start(reader, *to, scope);
                    TreeApply::open(reader, &ahead, right, None, target, progress)?.run()
                }),
            }
        }
    };
    let shown = match shown {
        Some(shown) if shown.mark.standing(target, kind)? != Standing::Same => None,
        shown => shown,
    };
    let mut report = match once(shown) {
        Err(VolumeError::Drifted { path, why }) if shown.is_some() => {
            tracing::warn!(%path, why, "the replica was changed while it was written; it is compared in full");
            once(None)
        }
        Err(error) if error.is_full() && kind == VolumeKind::Directory => {
            tracing::warn!("{error}: what the restore point does not have is removed first");
            room::make(reader, to, target)?;
            once(shown)
        }
        other => other,
    }?;
    report.mark = Some(Mark::read(target, report.times)?);
    Ok(report)
}
