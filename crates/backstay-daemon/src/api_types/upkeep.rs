//! Upkeep of a site's store: verification, collection, catalog.

use backstay_types::PlanName;
use serde::{Deserialize, Serialize};

/// `POST /verify`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VerifyRequest {
    /// Only what this plan needs; everything without it.
    #[serde(default)]
    pub plan: Option<PlanName>,
    /// Repair what another copy allows to.
    #[serde(default)]
    pub repair: bool,
}

/// Answer to [`VerifyRequest`].
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VerifyOutcome {
    /// Packs read.
    pub packs: u64,
    /// Chunks hashed again.
    pub chunks: u64,
    /// Bytes hashed.
    pub bytes: u64,
    /// Restore points walked from root to every chunk.
    pub restore_points: u64,
    /// Replica volumes compared with the point they show.
    pub replicas: u64,
    /// Replica volumes that their application has in use, of which nothing is known to be still as in a point.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_compared: Vec<NotCompared>,
    /// What is wrong.
    pub damaged: Vec<Damage>,
    /// How long it took.
    pub duration_seconds: f64,
}

impl VerifyOutcome {
    /// Whether nothing is wrong, or all that was is repaired.
    pub fn is_clean(&self) -> bool {
        self.damaged.iter().all(|damage| damage.repaired)
    }
}

/// A replica volume that was not compared with the point it showed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NotCompared {
    /// Which one, as `PLAN/VOLUME`.
    pub name: String,
    /// Why.
    pub why: String,
}

/// One damaged thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Damage {
    /// `pack`, `restorePoint`, `replica` or `catalog`.
    pub kind: String,
    /// Which one.
    pub name: String,
    /// What is wrong with it.
    pub detail: String,
    /// Restore points that lack data because of it, as `PLAN/ID`.
    pub restore_points: Vec<String>,
    /// Whether it was repaired.
    pub repaired: bool,
}

/// `POST /gc`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GcRequest {
    /// Report and change nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// Answer to [`GcRequest`].
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GcOutcome {
    /// Restore points that retention let go.
    pub restore_points_removed: u64,
    /// Packs removed whole.
    pub packs_removed: u64,
    /// Packs rewritten because less than half of them was in use.
    pub packs_rewritten: u64,
    /// Bytes given back to the file system.
    pub bytes_freed: u64,
    /// Bytes in use.
    pub bytes_live: u64,
    /// Restore points that nobody can read because the hashing key of their pair is lost, as `PLAN/ID`: what they need
    /// cannot be told, so their space is kept.
    #[serde(default)]
    pub skipped_restore_points: Vec<String>,
    /// Whether nothing was changed.
    pub dry_run: bool,
    /// How long it took.
    pub duration_seconds: f64,
}

/// What `backstay catalog rebuild` found.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RebuildOutcome {
    /// Packs indexed.
    pub packs: u64,
    /// Chunks in them.
    pub chunks: u64,
    /// Restore points read.
    pub restore_points: u64,
    /// Plans they belong to.
    pub plans: Vec<PlanName>,
    /// What could not be recovered, in words.
    pub warnings: Vec<String>,
}
