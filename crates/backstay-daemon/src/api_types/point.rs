//! Restore points: making, listing, comparing, taking files out.

use std::path::PathBuf;

use backstay_types::manifest::VolumeKind;
use backstay_types::point::{Consistency, RestorePoint};
use backstay_types::{Epoch, PlanName, RestorePointId, Span, Time, VolumeName};
use serde::{Deserialize, Serialize};

/// A restore point.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestorePointInfo {
    /// Which.
    pub id: RestorePointId,
    /// Of which plan.
    pub plan: PlanName,
    /// Epoch it was made in.
    pub epoch: Epoch,
    /// The point it was computed against.
    pub parent: Option<RestorePointId>,
    /// The moment its data shows.
    pub snapshot_time: Time,
    /// When it became durable.
    pub committed_time: Time,
    /// What it promises.
    pub consistency: Consistency,
    /// Whether everything of the plan is in it.
    pub complete: bool,
    /// Entries walked.
    pub files_scanned: u64,
    /// Length of what was walked.
    pub bytes_scanned: u64,
    /// Bytes of the chunks that are new against the same file of the parent: no more than that had to be shipped.
    pub bytes_changed: u64,
    /// Every byte this cycle put on or took from the network.
    pub wire_bytes: u64,
    /// From the start of the cycle to the commit.
    pub duration_seconds: f64,
    /// Its volumes.
    pub volumes: Vec<PointVolumeInfo>,
    /// Captured Kubernetes objects.
    pub objects: u64,
    /// Retention rules that keep it, such as `last` and `daily`; empty if the next collection frees it.
    pub held_by: Vec<String>,
    /// Whether `backstay verify` found damage that it could not repair.
    pub damaged: bool,
}

/// One volume of a restore point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PointVolumeInfo {
    /// Its name.
    pub name: VolumeName,
    /// What it is.
    pub kind: VolumeKind,
    /// Files, folders and everything else in it.
    pub entries: u64,
    /// Length of its files together.
    pub bytes: u64,
}

impl RestorePointInfo {
    /// Tells a committed point; only committed, complete ones have a file.
    pub fn new(point: &RestorePoint, held_by: Vec<String>, damaged: bool) -> Self {
        let volume = |v: &backstay_types::point::PointVolume| PointVolumeInfo {
            name: v.name.clone(),
            kind: v.kind,
            entries: v.entries,
            bytes: v.bytes,
        };
        Self {
            id: point.id,
            plan: point.plan.clone(),
            epoch: point.id.epoch,
            parent: point.parent,
            snapshot_time: point.snapshot_time,
            committed_time: point.committed_time,
            consistency: point.consistency,
            complete: true,
            files_scanned: point.stats.files_scanned,
            bytes_scanned: point.stats.bytes_scanned,
            bytes_changed: point.stats.bytes_changed,
            wire_bytes: point.stats.wire_bytes,
            duration_seconds: Span(point.stats.duration_millis).as_secs_f64(),
            volumes: point.volumes.iter().map(volume).collect(),
            objects: point.bundle.as_ref().map_or(0, |bundle| bundle.objects),
            held_by,
            damaged,
        }
    }
}

/// `POST /plans/{name}/sync`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SyncRequest {
    /// Answer when the cycle is over (the default), rather than when it has begun.
    #[serde(default = "yes")]
    pub wait: bool,
}

const fn yes() -> bool {
    true
}

/// Answer to [`SyncRequest`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum SyncOutcome {
    /// The restore point that was made.
    Done(Box<RestorePointInfo>),
    /// The cycle runs.
    Started {
        /// Always `true`.
        started: bool,
    },
}

/// `GET /plans/{name}/diff?a=&b=`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DiffList {
    /// What differs, by volume and path.
    pub items: Vec<DiffEntry>,
    /// Whether there is more than the answer may hold.
    pub truncated: bool,
}

/// One difference between two restore points.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DiffEntry {
    /// The volume; `objects` for the captured Kubernetes objects.
    pub volume: String,
    /// Path inside it, with control characters, backslashes and bytes that are not UTF-8 escaped; [`RestoreRequest`]
    /// takes it so.
    pub path: String,
    /// What happened to it.
    pub change: Change,
    /// Length in the newer point, or in the older one if it was removed.
    pub bytes: u64,
}

/// How an entry differs between two restore points.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Change {
    /// Only in the newer.
    Added,
    /// In both, with other content.
    Changed,
    /// In both, with other metadata only.
    Metadata,
    /// Only in the older.
    Removed,
}

/// `POST /plans/{name}/restore`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RestoreRequest {
    /// Which point; the newest without it.
    #[serde(default)]
    pub restore_point: Option<RestorePointId>,
    /// Which volume; all without it, each in a folder of its name.
    #[serde(default)]
    pub volume: Option<VolumeName>,
    /// Only this path inside the volume, and what is under it: in the form of [`DiffEntry::path`], or else as it is.
    #[serde(default)]
    pub path: Option<String>,
    /// Absolute path of an empty or new folder on the daemon's machine. One image becomes a file of this name, or in
    /// the folder if that exists.
    pub to: PathBuf,
}

/// Answer to [`RestoreRequest`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestoreOutcome {
    /// The point the files came from.
    pub restore_point: RestorePointId,
    /// Where they are now.
    pub to: PathBuf,
    /// Files, folders and everything else written.
    pub entries: u64,
    /// Length of what was written.
    pub bytes: u64,
    /// How long it took.
    pub duration_seconds: f64,
}
