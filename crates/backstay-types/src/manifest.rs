//! The manifest: everything needed to rebuild one volume, in path order.
//!
//! A manifest is a stream of entries. It is cut into **segments** at content-defined places, each segment is
//! stored as a chunk, the segments' ids are listed in **nodes**, and the nodes' ids in the **root**:
//!
//! ```text
//! root ── node ── segment: entry, extents, entry, entry, extents …
//!    │       └─── segment
//!    └─── node …
//! ```
//!
//! 1. A segment decodes on its own: a file whose extents run past it is repeated as a continued entry in the
//!    next (test `a_long_file_continues_in_the_next_segment`).
//! 2. The same entries give the same segments whatever stands before them, so an unchanged part of a tree costs
//!    nothing to ship and nothing to compare (test `an_insertion_changes_few_segments`).
//! 3. Paths are relative, have no `.` or `..`, and strictly ascend (tests in `path`, `a_path_out_of_order_is_refused`).
//!
//! Left to others: where chunks live (a [`FetchChunk`]), and what entries mean on a file system.

mod cursor;
mod entry;
mod path;
mod segment;
mod tree;

pub use cursor::{Cursor, CursorError, FetchChunk, Item};
pub use entry::{Device, Entry, Extent, Mtime, NodeKind, Xattr};
pub use path::{InvalidPath, RelPath};
pub use segment::{SegmentError, SegmentItem, SegmentReader, SegmentWriter};
pub use tree::{ManifestRoot, SegmentRef, TreeBuilder, TreeChunk, TreeError, VolumeKind, decode_node};
