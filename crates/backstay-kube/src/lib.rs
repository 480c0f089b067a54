//! The Kubernetes plane of Backstay: plans as YAML, custom resources, capture, hold and release.
//!
//! What is here needs no API server. A **manifest folder** stands in for a cluster: on the active side a folder
//! of YAML is captured into a bundle, on the standby it is written one file per object, held, and released at
//! promotion. The rules behind it ([`normalise`], [`skip`], [`hold`], [`wave`]) are functions on JSON values, so
//! that a cluster is served by the same ones.
//!
//! Everything blocks; nothing here knows about tokio.

pub mod canonical;
pub mod crds;
pub mod documents;
pub mod folder;
pub mod hold;
pub mod normalise;
pub mod object;
pub mod skip;
pub mod wave;
mod yaml;

pub use documents::{Document, DocumentError};
pub use hold::{HoldError, HoldTable};
pub use object::{GroupKind, ObjectError, ObjectId};
