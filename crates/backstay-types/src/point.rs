//! The restore point: what one committed cycle left, as one small immutable file.
//!
//! File form: magic `BSRP`, format version, length, the fields in postcard, CRC-32C of all before.
//!
//! 1. A file of version 1 says `crash` of whatever was read without a file changing under the reader, whether or not
//!    that was one instant. Its word is read as `unknown` (test `points_of_version_1_promise_nothing`).

use serde::{Deserialize, Serialize};

pub use crate::consistency::{Atomicity, Consistency};
use crate::manifest::VolumeKind;
use crate::{
    ChunkId, Class, Classify, Epoch, PairId, PlanName, RestorePointId, SiteId, Time, VolumeName, limits,
};

const MAGIC: &[u8; 4] = b"BSRP";
const VERSION: u8 = 2;
/// As it was before the word of a point was derived.
const VERSION_ASSUMED: u8 = 1;
/// Magic, version, length.
const HEADER_BYTES: usize = 4 + 1 + 4;

/// One volume of a restore point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointVolume {
    /// Its name.
    pub name: VolumeName,
    /// What it is.
    pub kind: VolumeKind,
    /// Chunk of its manifest root.
    pub root: ChunkId,
    /// Entries of its manifest.
    pub entries: u64,
    /// Length of its files together.
    pub bytes: u64,
}

/// The captured Kubernetes objects of a restore point: a manifest whose files are the objects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bundle {
    /// Chunk of its manifest root.
    pub root: ChunkId,
    /// How many objects.
    pub objects: u64,
    /// Length of all objects together.
    pub bytes: u64,
}

/// What a cycle did, as its sender counted it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CycleStats {
    /// Entries walked.
    pub files_scanned: u64,
    /// Length of the files walked, whether read or not.
    pub bytes_scanned: u64,
    /// Bytes of the chunks that are new against the same file of the parent: no more than that has to be shipped.
    pub bytes_changed: u64,
    /// Bytes put on or taken from the network by the sender up to the commit.
    pub wire_bytes: u64,
    /// From the start of the cycle to the commit.
    pub duration_millis: u64,
}

/// A complete, verified, durable state of all of a plan's volumes and its bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestorePoint {
    /// Which.
    pub id: RestorePointId,
    /// The pair it came over; its hashing key made the chunk ids.
    pub pair: PairId,
    /// The plan.
    pub plan: PlanName,
    /// The site whose data it is.
    pub origin: SiteId,
    /// The point it was computed against, if there was one.
    pub parent: Option<RestorePointId>,
    /// When the snapshot was taken.
    pub snapshot_time: Time,
    /// When it was committed here.
    pub committed_time: Time,
    /// What it promises.
    pub consistency: Consistency,
    /// Its volumes.
    pub volumes: Vec<PointVolume>,
    /// Its objects, if the plan has any.
    pub bundle: Option<Bundle>,
    /// What the cycle did.
    pub stats: CycleStats,
}

/// Why a restore-point file cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PointError {
    /// Not such a file, or cut short.
    #[error("restore-point file is damaged: {why}")]
    Damaged {
        /// What is wrong.
        why: &'static str,
    },
    /// Another version of the format.
    #[error("restore-point file version: expected {VERSION}, found {found}")]
    Version {
        /// What was found.
        found: u8,
    },
}

impl Classify for PointError {
    fn class(&self) -> Class {
        match self {
            PointError::Damaged { .. } => Class::Corrupt,
            PointError::Version { .. } => Class::Incompatible,
        }
    }
}

impl RestorePoint {
    /// Roots of every manifest, bundle included.
    pub fn roots(&self) -> impl Iterator<Item = ChunkId> + '_ {
        self.volumes.iter().map(|volume| volume.root).chain(self.bundle.iter().map(|bundle| bundle.root))
    }

    /// A volume by name.
    pub fn volume(&self, name: &VolumeName) -> Option<&PointVolume> {
        self.volumes.iter().find(|volume| volume.name == *name)
    }

    /// The epoch it was made in.
    pub fn epoch(&self) -> Epoch {
        self.id.epoch
    }

    /// The bytes of its file.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(512);
        bytes.extend_from_slice(MAGIC);
        bytes.push(VERSION);
        bytes.extend_from_slice(&[0; 4]);
        let mut bytes = postcard::to_extend(self, bytes).expect("a vector grows");
        let body = u32::try_from(bytes.len() - HEADER_BYTES).expect("a point of at most 256 volumes fits");
        if let Some(len) = bytes.get_mut(5..HEADER_BYTES) {
            len.copy_from_slice(&body.to_le_bytes());
        }
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a file back.
    pub fn decode(bytes: &[u8]) -> Result<Self, PointError> {
        let damaged = |why| PointError::Damaged { why };
        let (content, crc) = bytes.split_last_chunk::<4>().ok_or(damaged("it is too short"))?;
        let header = content.first_chunk::<HEADER_BYTES>().ok_or(damaged("it is too short"))?;
        let [m0, m1, m2, m3, version, l0, l1, l2, l3] = *header;
        if [m0, m1, m2, m3] != *MAGIC {
            return Err(damaged("the magic does not match"));
        }
        if ![VERSION, VERSION_ASSUMED].contains(&version) {
            return Err(PointError::Version { found: version });
        }
        if crc32c::crc32c(content) != u32::from_le_bytes(*crc) {
            return Err(damaged("the checksum does not match"));
        }
        let body = content.get(HEADER_BYTES..).unwrap_or_default();
        if u32::from_le_bytes([l0, l1, l2, l3]) as usize != body.len() {
            return Err(damaged("the length does not match"));
        }
        match postcard::take_from_bytes::<Self>(body) {
            Ok((mut point, [])) if point.volumes.len() <= limits::PLAN_VOLUMES_MAX => {
                if version == VERSION_ASSUMED {
                    point.consistency = point.consistency.unless_assumed();
                }
                Ok(point)
            }
            _ => Err(damaged("the fields do not decode")),
        }
    }
}
