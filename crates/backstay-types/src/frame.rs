//! What two sites say to each other.
//!
//! A control stream carries frames: kind (1 byte), body length (4, little-endian), body in postcard. The first
//! frame of every stream says what the stream is for. Bulk bytes travel apart, each batch as a one-way stream:
//! see [`batch`]. Golden bytes of every frame are pinned in `tests/golden.rs`.

pub mod batch;
pub mod patch;
mod tell;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::point::{Consistency, CycleStats, PointVolume, RestorePoint};
use crate::{ChunkId, Class, Classify, Epoch, PlanName, RestorePointId, SessionId, SiteId, Time, limits};

pub use tell::{QuerySectors, QueryTree, SectorRun, ToldSectors, ToldTree};

/// Versions of the frames, newest first. A site speaks every version from `OLDEST` to `NEWEST`; two sites use
/// the newest that both speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WireVersion(pub u16);

impl WireVersion {
    /// A side says what of a plan it has not accepted, why its replicas do not follow and where it is reached; points have the
    /// words `crashPerVolume` and `unknown`. Answers of version 1 end before these fields, so it is not spoken any more.
    pub const V2: WireVersion = WireVersion(2);
    /// Newest that this program speaks.
    pub const NEWEST: WireVersion = Self::V2;
    /// Oldest that this program speaks.
    pub const OLDEST: WireVersion = Self::V2;
}

macro_rules! frames {
    ($($(#[$doc:meta])* $name:ident = $kind:literal,)*) => {
        /// One message of a control stream.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum Frame { $($(#[$doc])* $name($name),)* }

        impl Frame {
            /// The byte that names the kind; never reused.
            pub const fn kind(&self) -> u8 {
                match self { $(Frame::$name(_) => $kind,)* }
            }

            /// The kind as text, for errors and logs.
            pub const fn name(&self) -> &'static str {
                match self { $(Frame::$name(_) => stringify!($name),)* }
            }

            fn body(&self, out: Vec<u8>) -> Vec<u8> {
                // Extending a vector cannot fail; postcard's error type covers other sinks.
                match self { $(Frame::$name(body) => postcard::to_extend(body, out).expect("a vector grows"),)* }
            }

            /// Reads a frame of this kind from its body.
            pub fn decode(kind: u8, body: &[u8]) -> Result<Self, FrameError> {
                match kind {
                    $($kind => decode_body(kind, body).map(Frame::$name),)*
                    _ => Err(FrameError::UnknownKind { kind }),
                }
            }
        }

        $(impl From<$name> for Frame {
            fn from(body: $name) -> Frame { Frame::$name(body) }
        })*
    };
}

frames! {
    /// First on every connection, both ways.
    Hello = 1,
    /// The request cannot be served; the stream ends.
    Refused = 2,
    /// Done; nothing more to say.
    Done = 3,
    /// The active side tells the standby about a plan.
    SharePlan = 4,
    /// The active side takes a plan back.
    DropPlan = 5,
    /// Asks what the peer knows about a plan.
    QueryPlan = 6,
    /// Answer to `QueryPlan`.
    PlanState = 7,
    /// A site was promoted: the sender of this frame is active at this epoch.
    Promoted = 8,
    /// Asks for the restore points the peer holds of a plan.
    ListPoints = 9,
    /// Answer to `ListPoints`.
    Points = 10,
    /// The active side, which holds its workloads, asks the standby to take over.
    TakeOver = 11,
    /// Answer to `TakeOver`: the sender of this frame runs the workloads.
    TakenOver = 12,
    /// A side that had offered to hand over goes on itself, at a higher epoch.
    TakeBack = 13,
    /// The standby asks the active side to hand over.
    HandOver = 14,
    /// Answer to `HandOver`: it is done.
    HandedOver = 15,
    /// A sender opens a session.
    Begin = 16,
    /// The receiver is ready for it.
    Ready = 17,
    /// Chunks the sender has.
    Offer = 18,
    /// Which of an offer the receiver lacks.
    Missing = 19,
    /// A batch was stored (it is durable only with the commit).
    Stored = 20,
    /// All is sent: commit it.
    Commit = 21,
    /// The restore point is durable.
    Committed = 22,
    /// The active side asks its standby for chunks of the manifest of the restore point that the standby shows.
    QueryTree = 23,
    /// Answer to `QueryTree`.
    ToldTree = 24,
    /// The active side asks its standby what the sectors of such chunks are like.
    QuerySectors = 25,
    /// Answer to `QuerySectors`.
    ToldSectors = 26,
    /// Where the sender of this frame is reached; the answer is `Done`.
    Whereabouts = 34,
    /// A site announces a new certificate authority.
    Rotate = 32,
    /// Answer to `Rotate`.
    Rotated = 33,
}

/// Length of a frame header.
pub const HEADER_BYTES: usize = 5;

/// Why a frame cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Longer than the limit.
    #[error("frame of kind {kind} has {bytes} bytes: at most {max} allowed", max = limits::FRAME_BYTES_MAX)]
    TooLong {
        /// Its kind.
        kind: u8,
        /// Its length.
        bytes: u64,
    },
    /// Not one of ours.
    #[error("frame kind {kind} is not known")]
    UnknownKind {
        /// What was found.
        kind: u8,
    },
    /// Not decodable.
    #[error("frame of kind {kind} does not decode: {why}")]
    Damaged {
        /// Its kind.
        kind: u8,
        /// What is wrong.
        why: &'static str,
    },
}

impl Classify for FrameError {
    fn class(&self) -> Class {
        match self {
            FrameError::TooLong { .. } => Class::LimitExceeded,
            FrameError::UnknownKind { .. } => Class::Incompatible,
            FrameError::Damaged { .. } => Class::Corrupt,
        }
    }
}

fn decode_body<T: DeserializeOwned + Check>(kind: u8, body: &[u8]) -> Result<T, FrameError> {
    match postcard::take_from_bytes::<T>(body) {
        Ok((value, [])) => match value.check() {
            Ok(()) => Ok(value),
            Err(why) => Err(FrameError::Damaged { kind, why }),
        },
        Ok(_) => Err(FrameError::Damaged { kind, why: "bytes are left over" }),
        Err(_) => Err(FrameError::Damaged { kind, why: "the fields do not decode" }),
    }
}

/// Bounds that a decoded body must keep.
trait Check {
    fn check(&self) -> Result<(), &'static str> {
        Ok(())
    }
}

fn within(len: usize, max: usize, why: &'static str) -> Result<(), &'static str> {
    if len <= max { Ok(()) } else { Err(why) }
}

impl Frame {
    /// Header and body.
    pub fn encode(&self) -> Result<Vec<u8>, FrameError> {
        let mut bytes = self.body(vec![self.kind(), 0, 0, 0, 0]);
        let len = bytes.len() - HEADER_BYTES;
        let too_long = FrameError::TooLong { kind: self.kind(), bytes: len as u64 };
        if len > limits::FRAME_BYTES_MAX {
            return Err(too_long);
        }
        let len = u32::try_from(len).map_err(|_| too_long)?;
        if let Some(field) = bytes.get_mut(1..HEADER_BYTES) {
            field.copy_from_slice(&len.to_le_bytes());
        }
        Ok(bytes)
    }

    /// Reads a header: kind and length of the body. To be checked before the body is read.
    pub fn decode_header(header: [u8; HEADER_BYTES]) -> Result<(u8, usize), FrameError> {
        let [kind, a, b, c, d] = header;
        let len = u32::from_le_bytes([a, b, c, d]) as usize;
        if len > limits::FRAME_BYTES_MAX {
            return Err(FrameError::TooLong { kind, bytes: len as u64 });
        }
        Ok((kind, len))
    }
}

/// See [`Frame::Hello`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Newest version the site speaks.
    pub newest: WireVersion,
    /// Oldest version the site speaks.
    pub oldest: WireVersion,
    /// The site.
    pub site: SiteId,
    /// Its name.
    pub name: String,
    /// Version of the program, for people.
    pub program: String,
}

impl Check for Hello {
    fn check(&self) -> Result<(), &'static str> {
        within(self.name.len(), limits::NAME_BYTES_MAX, "the name is too long")?;
        within(self.program.len(), limits::NAME_BYTES_MAX, "the program version is too long")
    }
}

/// See [`Frame::Whereabouts`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Whereabouts {
    /// Where its operator says that it is reached, `HOST:PORT`, best first; if nowhere, at the address that it is seen at
    /// and this port.
    pub endpoints: Vec<String>,
    /// The UDP port that it listens at.
    pub port: u16,
}

impl Check for Whereabouts {
    fn check(&self) -> Result<(), &'static str> {
        within(self.endpoints.len(), limits::ENDPOINTS_MAX, "there are too many endpoints")?;
        let longest = self.endpoints.iter().map(String::len).max().unwrap_or_default();
        within(longest, limits::ENDPOINT_BYTES_MAX, "an endpoint is too long")
    }
}

/// See [`Frame::Refused`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// [`Class::wire_code`].
    pub class: u8,
    /// What failed and why.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// For `Fenced`: the epoch the refusing site knows.
    pub epoch: Option<Epoch>,
}

impl Refused {
    /// A refusal from an error, cut to the limit.
    pub fn new(error: &dyn Classify, epoch: Option<Epoch>) -> Self {
        Self {
            class: error.class().wire_code(),
            message: cut(error.to_string()),
            hint: error.hint().map(cut),
            epoch,
        }
    }
}

fn cut(mut text: String) -> String {
    if text.len() > limits::MESSAGE_BYTES_MAX {
        text.truncate(text.floor_char_boundary(limits::MESSAGE_BYTES_MAX));
    }
    text
}

impl Check for Refused {
    fn check(&self) -> Result<(), &'static str> {
        let hint = self.hint.as_ref().map_or(0, String::len);
        within(self.message.len().max(hint), limits::MESSAGE_BYTES_MAX, "the message is too long")
    }
}

/// See [`Frame::Done`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {}
impl Check for Done {}

/// See [`Frame::SharePlan`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharePlan {
    /// The plan.
    pub plan: PlanName,
    /// The active side's epoch of it.
    pub epoch: Epoch,
    /// `PlanSpec` as JSON, with the schedule policy already resolved.
    pub spec: String,
    /// The rules it names, as a JSON object from names to `RuleSpec`s.
    pub rules: String,
}

impl Check for SharePlan {
    fn check(&self) -> Result<(), &'static str> {
        within(self.spec.len().max(self.rules.len()), limits::PLAN_BYTES_MAX, "the plan is too long")
    }
}

/// See [`Frame::DropPlan`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropPlan {
    /// The plan.
    pub plan: PlanName,
    /// The active side's epoch of it.
    pub epoch: Epoch,
}
impl Check for DropPlan {}

/// See [`Frame::QueryPlan`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueryPlan {
    /// The plan.
    pub plan: PlanName,
}
impl Check for QueryPlan {}

/// Which side's workloads run, for one plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SiteRole {
    /// Workloads run here; this site sends.
    Active,
    /// This site receives, with everything held.
    Standby,
    /// On the way from active to standby.
    Demoting,
    /// On the way from standby to active.
    Promoting,
}

/// See [`Frame::PlanState`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanState {
    /// The plan.
    pub plan: PlanName,
    /// What the answering site is for it; `None` if it does not know the plan.
    pub role: Option<SiteRole>,
    /// The highest epoch it knows.
    pub epoch: Epoch,
    /// Its newest committed restore point.
    pub newest: Option<RestorePointId>,
    /// Snapshot time of that point.
    pub newest_snapshot_time: Option<Time>,
    /// The restore point its replicas show.
    pub applied: Option<RestorePointId>,
    /// Why they do not show another one, if that was tried last and failed.
    pub apply_failure: Option<ApplyFailure>,
    /// What the asking site has changed and the operator of this one has not accepted.
    pub proposals: Proposals,
}

impl Check for PlanState {
    fn check(&self) -> Result<(), &'static str> {
        self.proposals.check()?;
        let message = self.apply_failure.as_ref().map_or(0, |failure| failure.message.len());
        within(message, limits::MESSAGE_BYTES_MAX, "the message is too long")
    }
}

/// Replicas that could not be brought to a restore point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplyFailure {
    /// The restore point.
    pub point: RestorePointId,
    /// [`Class::wire_code`].
    pub class: u8,
    /// What failed and why.
    pub message: String,
}

impl ApplyFailure {
    /// A failure, its message cut to the limit.
    pub fn new(point: RestorePointId, class: Class, message: &str) -> Self {
        Self { point, class: class.wire_code(), message: cut(message.to_owned()) }
    }
}

/// Changes of a plan that wait for the operator of the side that was told of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposals {
    /// Fields of the plan.
    pub fields: Vec<String>,
    /// Volumes and namespaces that are kept in restore points and not applied.
    pub withheld: Vec<String>,
}

impl Check for Proposals {
    fn check(&self) -> Result<(), &'static str> {
        let lists = [&self.fields, &self.withheld];
        let longest = lists.iter().map(|list| list.len()).max().unwrap_or(0);
        within(longest, limits::PROPOSED_NAMES_MAX, "too many proposed changes")?;
        let text = lists.into_iter().flatten().map(String::len).max().unwrap_or(0);
        within(text, limits::PROPOSED_NAME_BYTES_MAX, "the name of a proposed change is too long")
    }
}

/// See [`Frame::Promoted`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promoted {
    /// The plan.
    pub plan: PlanName,
    /// The epoch of the promotion.
    pub epoch: Epoch,
}
impl Check for Promoted {}

/// See [`Frame::TakeOver`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakeOver {
    /// The plan.
    pub plan: PlanName,
    /// The epoch to take over at.
    pub epoch: Epoch,
    /// The restore point to take over with: the last the active side made, with its workloads held.
    pub restore_point: RestorePointId,
    /// When the workloads were held.
    pub held_time: Time,
}
impl Check for TakeOver {}

/// See [`Frame::TakenOver`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakenOver {
    /// The plan.
    pub plan: PlanName,
    /// Its epoch.
    pub epoch: Epoch,
    /// What was done, as JSON.
    pub report: String,
}

impl Check for TakenOver {
    fn check(&self) -> Result<(), &'static str> {
        within(self.report.len(), limits::PLAN_BYTES_MAX, "the report is too long")
    }
}

/// See [`Frame::TakeBack`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakeBack {
    /// The plan.
    pub plan: PlanName,
    /// The epoch the sender goes on at: above the one it had offered.
    pub epoch: Epoch,
}
impl Check for TakeBack {}

/// See [`Frame::HandOver`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandOver {
    /// The plan.
    pub plan: PlanName,
    /// The epoch the standby knows: an order that is over is not carried out again.
    pub epoch: Epoch,
}
impl Check for HandOver {}

/// See [`Frame::HandedOver`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandedOver {
    /// The plan.
    pub plan: PlanName,
    /// What was done, as JSON.
    pub report: String,
}

impl Check for HandedOver {
    fn check(&self) -> Result<(), &'static str> {
        within(self.report.len(), limits::PLAN_BYTES_MAX, "the report is too long")
    }
}

/// See [`Frame::ListPoints`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListPoints {
    /// The plan.
    pub plan: PlanName,
}
impl Check for ListPoints {}

/// See [`Frame::Points`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Points {
    /// The newest restore points, oldest first.
    pub points: Vec<RestorePoint>,
}

impl Check for Points {
    fn check(&self) -> Result<(), &'static str> {
        within(self.points.len(), limits::LISTED_POINTS_MAX, "too many restore points")
    }
}

/// See [`Frame::Begin`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begin {
    /// Names this transfer; batches carry it.
    pub session: SessionId,
    /// The plan.
    pub plan: PlanName,
    /// The restore point being made; its epoch is the sender's.
    pub id: RestorePointId,
    /// The point whose manifests the sender works against.
    pub parent: Option<RestorePointId>,
}
impl Check for Begin {}

/// See [`Frame::Ready`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// Whether the receiver holds the parent whole. If not, the sender works against none.
    pub has_parent: bool,
    /// The newest restore point the receiver holds of the plan. The new one must have a higher number.
    pub newest: Option<RestorePointId>,
}
impl Check for Ready {}

/// See [`Frame::Offer`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Number within the session, from 0.
    pub seq: u32,
    /// Chunks, in the order they will be sent.
    pub ids: Vec<ChunkId>,
}

impl Check for Offer {
    fn check(&self) -> Result<(), &'static str> {
        within(self.ids.len(), limits::OFFER_IDS_MAX, "too many ids are offered")
    }
}

/// See [`Frame::Missing`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// Of the offer.
    pub seq: u32,
    /// One bit per id, first id in the lowest bit of the first byte; set if it must be sent.
    pub bits: Vec<u8>,
}

impl Missing {
    /// Whether the id at `index` must be sent.
    pub fn contains(&self, index: usize) -> bool {
        self.bits.get(index / 8).is_some_and(|byte| byte & (1 << (index % 8)) != 0)
    }
}

impl Check for Missing {
    fn check(&self) -> Result<(), &'static str> {
        within(self.bits.len(), limits::OFFER_IDS_MAX.div_ceil(8), "too many bits")
    }
}

/// See [`Frame::Stored`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// Batch number within the session.
    pub seq: u32,
    /// Positions in the batch of patches that did not rebuild: to be sent whole.
    pub rejected: Vec<u32>,
}

impl Check for Stored {
    fn check(&self) -> Result<(), &'static str> {
        within(self.rejected.len(), limits::BATCH_RECORDS_MAX, "too many rejections")
    }
}

/// See [`Frame::Commit`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// Batches sent; the receiver waits until it stored them all.
    pub batches: u32,
    /// When the snapshot was taken.
    pub snapshot_time: Time,
    /// What the point promises.
    pub consistency: Consistency,
    /// Volumes with their manifest roots.
    pub volumes: Vec<PointVolume>,
    /// Bundle, if the plan has objects.
    pub bundle: Option<crate::point::Bundle>,
    /// What the sender counted so far.
    pub stats: CycleStats,
}

impl Check for Commit {
    fn check(&self) -> Result<(), &'static str> {
        within(self.volumes.len(), limits::PLAN_VOLUMES_MAX, "too many volumes")
    }
}

/// See [`Frame::Committed`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed {
    /// The restore point.
    pub id: RestorePointId,
    /// When it became durable.
    pub committed_time: Time,
}
impl Check for Committed {}

/// See [`Frame::Rotate`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotate {
    /// The new certificate authority, in DER.
    pub ca_der: Vec<u8>,
}

impl Check for Rotate {
    fn check(&self) -> Result<(), &'static str> {
        within(self.ca_der.len(), 16 << 10, "the certificate is too long")
    }
}

/// See [`Frame::Rotated`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotated {
    /// The answering site's new certificate authority, in DER.
    pub ca_der: Vec<u8>,
}

impl Check for Rotated {
    fn check(&self) -> Result<(), &'static str> {
        within(self.ca_der.len(), 16 << 10, "the certificate is too long")
    }
}
