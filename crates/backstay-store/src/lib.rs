//! The store of a receiving site: chunks in packs, an index over them, restore points, and a small catalog.
//!
//! ```text
//! DIR/store/packs/<2 hex>/<pack>.pack   chunks, append-only, sealed with a sorted trailer and a digest
//! DIR/store/runs/<seq>.run              sorted index entries merged from trailers
//! DIR/store/points/<plan>/<id>.rp       restore points, immutable
//! DIR/store/store-id  DIR/store-id      which store is this site's
//! DIR/catalog/                          sled: which runs count, what is damaged, small state of the daemon
//! ```
//!
//! Everything blocks; callers run it on threads of their own. One store holds the chunks of every pair: ids are
//! keyed hashes, so those of two pairs cannot meet.
//!
//! 1. A restore point exists if and only if its file does, and it gets its name after everything it needs is
//!    durable ([`Ingest::commit`] is the only maker of [`Durable`]).
//! 2. A chunk is visible only after its bytes matched its id, and is checked again whenever it is read.
//! 3. Nothing a restore point or a session in flight needs is ever freed.
//! 4. The catalog and the runs are derived: packs and restore-point files alone rebuild both.
//! 5. A failed sync stops the store; a full disk stops a session, nothing else.
//!
//! Left to others: what to keep for how long, when to collect and verify, and where good copies come from.

mod cache;
mod catalog;
mod commit;
mod config;
mod decode;
mod diff;
mod disk;
mod error;
mod gc;
mod identity;
mod index;
mod ingest;
mod inner;
mod layout;
mod open;
mod pack;
mod points;
mod reader;
mod rebuild;
mod repair;
mod session;
mod store;
mod verify;
mod walk;

pub use commit::Durable;
pub use config::{CommitStep, StepHook, StoreConfig};
pub use diff::{Change, ChangeKind, diff};
pub use error::StoreError;
pub use gc::{GcPack, GcPlan, GcReason, GcReport, KeylessPoint};
pub use ingest::Ingest;
pub use reader::ChunkReader;
pub use rebuild::RebuildReport;
pub use store::{Store, StoreUsage};
pub use verify::{DamagedChunk, DamagedFile, DamagedPack, DamagedPoint, VerifyProgress, VerifyReport};
