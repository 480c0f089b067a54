//! The Kubernetes plane of Backstay: plans as YAML, custom resources, capture, hold and release.
//!
//! Two things can be on either side. A **cluster** ([`cluster`]) is captured from and applied to through its API
//! server. A **manifest folder** ([`folder`]) stands in for one: on the active side a folder of YAML is captured
//! into a bundle, on the standby it is written one file per object, held, and released at promotion.
//!
//! A third cluster can be the witness of automatic failovers ([`lease`]).
//!
//! With custom resources, [`control`] takes plans from a cluster and reports there.
//!
//! The rules behind both ([`normalise`], [`skip`], [`transform`], [`hold`], [`order`], [`wave`]) are functions on
//! JSON values. They block and do no IO; only [`cluster`] and [`control`] know about tokio.

pub mod canonical;
pub mod cluster;
pub mod control;
pub mod crds;
pub mod documents;
pub mod failure;
pub mod folder;
pub mod hold;
pub mod lease;
pub mod normalise;
pub mod object;
pub mod order;
pub mod pods;
pub mod skip;
mod touched;
pub mod transform;
pub mod wave;
pub mod workloads;
mod yaml;

pub use documents::{Document, DocumentError};
pub use hold::{HoldError, HoldTable};
pub use object::{GroupKind, ObjectError, ObjectId};
pub use touched::Touched;
