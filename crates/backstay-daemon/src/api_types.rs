//! The admin API in types: what the daemon answers and the command line reads.
//!
//! 1. Names are camelCase; sizes in bytes, lengths of time in seconds, times RFC 3339 UTC (test
//!    `fields_are_named_as_the_contract_says`).
//! 2. A field that can be absent is written as `null`, never left out, so that a script may rely on it.
//! 3. Reading accepts fields it does not know: a newer daemon answers an older command line.
//!
//! Left to others: routing and status codes (the daemon), tables (the command line).

mod drill;
mod pair;
mod plan;
mod point;
mod promotion;
mod status;
mod upkeep;

pub use drill::{CopyKind, DrillReport, DrillRequest, DrillVolume, LastDrill, ProbeReport};
pub use pair::{
    JoinRequest, OrphanedPlan, Pair, PairKey, PairKeyRequest, PairReplaceRequest, PairSetRequest, RemoteSite,
    Replaced, SiteInfo, Unpaired,
};
pub use plan::{
    AcceptRequest, Accepted, Applied, ApplyRequest, ApplyResult, Changed, FieldChange, PlanDetail,
    PlanSummary,
};
pub use point::{
    Change, DiffEntry, DiffList, PointVolumeInfo, RestoreOutcome, RestorePointInfo, RestoreRequest,
    SyncOutcome, SyncRequest,
};
pub use promotion::{PromoteRequest, PromotionReport, PromotionStep, StepState};
pub use status::{
    AutomaticStatus, CycleOutcome, CyclePhase, CycleStatus, HoldStatus, LastCycle, ObjectsStatus, PlanStatus,
    ProposedStatus, ReplicaWarning, StandbyError, StandbyStatus,
};
pub use upkeep::{Damage, GcOutcome, GcRequest, NotCompared, RebuildOutcome, VerifyOutcome, VerifyRequest};

use backstay_types::{Class, Classify};
use serde::{Deserialize, Serialize};

/// Path prefix of every route but `/metrics`, `/healthz` and `/readyz`.
pub const API_PREFIX: &str = "/api/v1";

/// Name of the daemon's socket inside the site folder.
pub const SOCKET_NAME: &str = "api.sock";

/// Any list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct List<T> {
    /// What it lists.
    pub items: Vec<T>,
}

impl<T> From<Vec<T>> for List<T> {
    fn from(items: Vec<T>) -> Self {
        Self { items }
    }
}

/// Body of every answer that is not 2xx.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ErrorInfo,
}

/// A failure, as told to an operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ErrorInfo {
    /// Its class, which decides the exit code.
    pub class: Class,
    /// What failed.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl ErrorInfo {
    /// Tells `error` with its hint.
    pub fn new(error: &dyn Classify) -> Self {
        Self { class: error.class(), message: error.to_string(), hint: error.hint() }
    }

    /// Status code of the answer that carries a failure of this class.
    pub const fn http_status(&self) -> u16 {
        match self.class {
            Class::Invalid => 400,
            Class::Unauthorized => 403,
            Class::NotFound => 404,
            Class::Busy | Class::Fenced => 409,
            Class::LimitExceeded => 413,
            Class::Incomplete | Class::Corrupt => 422,
            Class::Bug => 500,
            Class::Incompatible => 501,
            Class::Transient => 503,
        }
    }
}

/// An answer with nothing in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Empty {}

#[cfg(test)]
mod tests;
