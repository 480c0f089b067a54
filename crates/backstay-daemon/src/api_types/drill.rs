//! Drills: what is asked and what is reported.

use std::path::PathBuf;

use backstay_types::point::Consistency;
use backstay_types::{Epoch, PlanName, RestorePointId, Time, VolumeName};
use serde::{Deserialize, Serialize};

use super::{ErrorInfo, PromotionStep};

/// `POST /plans/{name}/drill`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DrillRequest {
    /// An older point than the newest whole one.
    #[serde(default)]
    pub restore_point: Option<RestorePointId>,
    /// Leave in place what the drill made, until the next one or until it is cleaned.
    #[serde(default)]
    pub keep: bool,
}

/// Answer to [`DrillRequest`], also of a drill that failed; `GET /plans/{name}/drills` lists them, oldest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DrillReport {
    /// Name of the plan.
    pub plan: PlanName,
    /// Number of the drill, from 1.
    pub number: u64,
    /// When it was asked for.
    pub time: Time,
    /// Whether every step was carried out and every probe passed.
    pub passed: bool,
    /// The epoch of the plan, which a drill does not change.
    pub epoch: Epoch,
    /// The point that was rehearsed.
    pub restore_point: RestorePointId,
    /// What that point promises; `null` where it is not known here.
    #[serde(default)]
    pub consistency: Option<Consistency>,
    /// Data that a takeover would have lost: from the snapshot to the request, in seconds.
    pub rpo_seconds: f64,
    /// From the request until the last probe had passed, in seconds; `null` if the application was never there.
    pub rto_seconds: Option<f64>,
    /// What was done, in order.
    pub steps: Vec<PromotionStep>,
    /// How each probe went.
    pub probes: Vec<ProbeReport>,
    /// The copies of the volumes.
    pub volumes: Vec<DrillVolume>,
    /// Where they are, or were.
    pub folder: PathBuf,
    /// Namespaces that were made for it.
    #[serde(default)]
    pub namespaces: Vec<String>,
    /// Whether what it made was left in place.
    pub kept: bool,
    /// What the operator should look at.
    pub warnings: Vec<String>,
    /// The first failure.
    pub error: Option<ErrorInfo>,
}

/// How a probe of a drill went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProbeReport {
    /// Its name in the plan.
    pub name: VolumeName,
    /// Whether it passed before its time was up.
    pub passed: bool,
    /// How often it was tried.
    pub tries: u32,
    /// How long that took.
    pub duration_seconds: f64,
    /// Why it did not pass, or the beginning of what its command said.
    pub message: String,
}

/// A copy of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DrillVolume {
    /// Its name in the plan.
    pub name: VolumeName,
    /// How it was made.
    pub made: CopyKind,
    /// Where it is, or was.
    pub path: PathBuf,
}

/// How a copy of a volume was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CopyKind {
    /// Of the blocks of the replica.
    Cloned,
    /// From the store.
    Restored,
}

/// The last drill of a plan, as its status has it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastDrill {
    /// When it was asked for.
    pub time: Time,
    /// Whether it passed.
    pub passed: bool,
    /// The point that was rehearsed.
    pub restore_point: RestorePointId,
    /// From the request until the last probe had passed, in seconds.
    pub rto_seconds: Option<f64>,
}

impl From<&DrillReport> for LastDrill {
    fn from(report: &DrillReport) -> Self {
        let DrillReport { time, passed, restore_point, rto_seconds, .. } = *report;
        Self { time, passed, restore_point, rto_seconds }
    }
}
