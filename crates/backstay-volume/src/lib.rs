//! Volumes: what an application keeps, read on the active side and rebuilt on the standby side.
//!
//! ```text
//! active    QuietMark::set → snapshot_since → Snapshot::scan → Scanned::read → VolumeRead ─ after the ack ─ PendingState::adopt
//!           what changed, without reading    chunks and patches to a ChunkSink      ⟲ look_again, read_again
//! standby   apply(shown, to)    verify_replica     restore, restore_cloned     salvage
//! ```
//!
//! 1. What is rebuilt equals what was read, in content and metadata (`fidelity_round_trip`).
//! 2. Nothing is skipped silently: what cannot be read fails the volume with its path
//!    (`an_unreadable_or_foreign_entry_fails_the_scan`).
//! 3. Memory depends on neither the number of files nor their sizes, with two exceptions named where they are: the
//!    names of one folder, and groups of hard links.
//! 4. No symbolic link is ever followed below a root, when reading or when writing (`hostile`).
//!
//! All calls block. Left to others: where chunks go and come from ([`ChunkSink`], `FetchChunk`), what was
//! acknowledged, and the durable intent to apply.

mod apply;
mod block;
mod bundle;
mod content;
mod context;
mod error;
mod extents;
mod fs;
mod manifest_in;
mod manifest_out;
mod mark;
mod progress;
mod quiet;
mod read;
mod restore;
mod scan;
mod sink;
mod snapshot;
mod state;
#[cfg(test)]
mod tests;
mod verify;
mod walk;

pub use apply::{ApplyReport, Shown, Touched, apply, clones_work, remove_tree};
pub use bundle::{BundleObjects, OBJECT_BYTES_MAX, read_bundle, write_bundle};
pub use context::VolumeContext;
pub use error::VolumeError;
pub use fs::TimesHeld;
pub use mark::{Mark, Standing};
pub use progress::{Cancel, Progress};
pub use quiet::{QuietLook, QuietMark, Written};
pub use read::{VolumeRead, VolumeStats};
pub use restore::{RestoreReport, restore, restore_cloned};
pub use scan::ScanTotals;
pub use sink::{ChunkSink, PatchBase, SinkClosed};
pub use snapshot::{ParentUse, Scanned, Snapshot, release_left_over, snapshot, snapshot_since};
pub use state::{Elsewhere, PendingState, SentState, fingerprint_run, sent_of_point};
pub use verify::{Comparison, Look, MISMATCHES_MAX, Mismatch, inspect, salvage, sample, verify_replica};
