//! What can fail in a daemon. Its classes, and what to do about each, are in `classify`.

mod classify;

use std::io;
use std::path::{Path, PathBuf};

use backstay_engine::shrink::Shrunk;
use backstay_types::frame::{FrameError, Refused, SiteRole};
use backstay_types::plan::InvalidRule;
use backstay_types::{Class, Classify, Epoch, PlanName, RestorePointId, VolumeName};
use backstay_volume::VolumeError;

pub(crate) use classify::{io_class, io_hint};

/// A failure of the daemon.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// A plan that is changed through its resource.
    #[error("the plan {plan} is kept by the ReplicationPlan {resource}")]
    KeptByResource {
        /// The plan.
        plan: PlanName,
        /// Namespace and name of the resource.
        resource: String,
    },
    /// A file of the site's own state.
    #[error("{action} {path:?}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A state file that does not decode.
    #[error("state file {path:?} does not decode: {source}")]
    State {
        /// The file.
        path: PathBuf,
        /// Where it fails.
        source: serde_json::Error,
    },
    /// A site cannot be made here.
    #[error("make a site in {dir:?}: {source}")]
    NewSite {
        /// The folder.
        dir: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file of the admin API's token.
    #[error("read the token of `admin.tokenFile`, {path:?}: {source}")]
    TokenFile {
        /// The file.
        path: PathBuf,
        /// Why it cannot be read.
        source: io::Error,
    },
    /// The folder cannot become a site.
    #[error("{dir:?} is not empty")]
    NotEmpty {
        /// The folder.
        dir: PathBuf,
    },
    /// The folder is another site.
    #[error("{dir:?} is a site already: expected the name {expected}, found {found}")]
    OtherSite {
        /// The folder.
        dir: PathBuf,
        /// The name that was asked for.
        expected: String,
        /// The name its peers know it by.
        found: String,
    },
    /// The folder is not a site.
    #[error("{dir:?} is not a site: it has no site.toml")]
    NotASite {
        /// The folder.
        dir: PathBuf,
    },
    /// A path that would mix an operator's data with the site's own.
    #[error("{path:?} {how} {own:?}, which this site keeps for itself")]
    OwnFolder {
        /// The path given.
        path: PathBuf,
        /// The site's folder.
        own: PathBuf,
        /// `is`, `holds` or `lies in`.
        how: &'static str,
    },
    /// A place to restore to that cannot be used.
    #[error("restore to {path}: {source}")]
    Destination {
        /// The place.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// A name that cannot be used.
    #[error(transparent)]
    Name(#[from] backstay_types::InvalidName),
    /// The site's configuration.
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),
    /// Automatic failover and its witness.
    #[error(transparent)]
    Automatic(#[from] crate::automatic::AutomaticError),
    /// The keeper, and what it shares with the daemon.
    #[error(transparent)]
    Keeper(#[from] crate::keeper::KeeperError),
    /// The audit log.
    #[error(transparent)]
    Audit(#[from] crate::audit::AuditError),
    /// Connections and pairing.
    #[error(transparent)]
    Net(#[from] backstay_net::NetError),
    /// The store.
    #[error(transparent)]
    Store(#[from] backstay_store::StoreError),
    /// Pairing.
    #[error(transparent)]
    Pair(#[from] backstay_net::PairError),
    /// Keys and certificates.
    #[error(transparent)]
    Identity(#[from] backstay_net::IdentityError),
    /// The files of pairs.
    #[error(transparent)]
    Book(#[from] backstay_net::BookError),
    /// A batch that does not hold together.
    #[error(transparent)]
    BatchForm(#[from] backstay_types::frame::batch::BatchError),
    /// Sending a batch.
    #[error(transparent)]
    Batch(#[from] backstay_net::BatchSendError),
    /// Reading or writing volumes.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// Plans as YAML.
    #[error(transparent)]
    Document(#[from] backstay_kube::documents::DocumentError),
    /// Objects of the manifest folder on the active side.
    #[error(transparent)]
    Capture(#[from] backstay_kube::folder::CaptureError),
    /// The manifest folder of the standby.
    #[error(transparent)]
    Folder(#[from] backstay_kube::folder::FolderError),
    /// The cluster beside the site.
    #[error(transparent)]
    Cluster(#[from] backstay_kube::cluster::ClusterError),
    /// Rules of a plan.
    #[error(transparent)]
    Freeze(#[from] backstay_kube::cluster::FreezeError),
    /// A claim whose data this daemon cannot read: a restore point without it would have a hole.
    #[error("plan {plan}: the data of claim {claim} cannot be read here: {why}")]
    Claim {
        /// The plan.
        plan: PlanName,
        /// Namespace and name of the claim.
        claim: String,
        /// What is in the way.
        why: String,
    },
    /// Kinds that could not be captured.
    #[error("plan {plan}: the objects of {count} kinds could not be read; first: {first}")]
    Unseen {
        /// The plan.
        plan: PlanName,
        /// Class of the first.
        class: Class,
        /// How many.
        count: u64,
        /// The first of them.
        first: String,
    },
    /// Volumes of pods with data that no restore point would have.
    #[error("plan {plan}: {count} volumes of pods are not in the restore point; first: {first}")]
    Hole {
        /// The plan.
        plan: PlanName,
        /// How many.
        count: u64,
        /// The first of them.
        first: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// An API server too slow for the length of a freeze.
    #[error("plan {plan}: the objects could not be captured within {within}")]
    CaptureSlow {
        /// The plan.
        plan: PlanName,
        /// How long was waited.
        within: backstay_types::Span,
    },
    /// Claims came or went while the volumes were snapshotted.
    #[error("plan {plan}: claims changed while their volumes were snapshotted")]
    ClaimsChanged {
        /// The plan.
        plan: PlanName,
    },
    /// So much less than the last restore point that somebody should look first.
    #[error("plan {plan}: {first}, against restore point {before}")]
    Shrunk {
        /// The plan.
        plan: PlanName,
        /// The point it was compared with.
        before: RestorePointId,
        /// The first of what is less.
        first: Shrunk,
    },
    /// A point would promise less than the plan asks for.
    #[error("plan {plan}: the restore point would be {word}, and the plan asks for {minimum}: {why}")]
    BelowMinimum {
        /// The plan.
        plan: PlanName,
        /// What it would promise.
        word: backstay_types::point::Consistency,
        /// What it must.
        minimum: backstay_types::plan::MinimumConsistency,
        /// What keeps it below, with the volume.
        why: String,
        /// Whether another cycle may do better by itself.
        may_pass: bool,
    },
    /// A plan that contradicts itself.
    #[error("plan {plan}: {source}")]
    Plan {
        /// Its name.
        plan: PlanName,
        /// What is wrong.
        source: backstay_types::plan::InvalidPlan,
    },
    /// A schedule that cannot be kept.
    #[error("plan {plan}: {source}")]
    Schedule {
        /// The plan.
        plan: PlanName,
        /// What is wrong.
        source: backstay_engine::schedule::ScheduleError,
    },
    /// A source that is not what the plan says.
    #[error("plan {plan}: {path:?}: expected {expected}")]
    SourceKind {
        /// The plan.
        plan: PlanName,
        /// The path.
        path: PathBuf,
        /// What the plan says it is.
        expected: &'static str,
    },
    /// A source that is the site itself.
    #[error("plan {plan}: {path:?} {how} {own:?}, which this site keeps for itself")]
    SourceOwn {
        /// The plan.
        plan: PlanName,
        /// The path.
        path: PathBuf,
        /// The site's folder.
        own: PathBuf,
        /// `is`, `holds` or `lies in`.
        how: &'static str,
    },
    /// Two volumes that would hold the same files.
    #[error("plan {plan}: volume {path:?} {how} volume {other:?}")]
    VolumesMeet {
        /// The plan.
        plan: PlanName,
        /// One.
        path: PathBuf,
        /// The other.
        other: PathBuf,
        /// `is`, `holds` or `lies in`.
        how: &'static str,
    },
    /// Two plans of this site that would have the same files.
    #[error("plan {plan}: {path:?} {how} {other_path:?}, which plan {other} has on this site")]
    PlansMeet {
        /// The plan.
        plan: PlanName,
        /// A place of it.
        path: PathBuf,
        /// The other plan.
        other: PlanName,
        /// The place of that one.
        other_path: PathBuf,
        /// `is`, `holds` or `lies in`.
        how: &'static str,
    },
    /// The replica that a chain reads is between two restore points.
    #[error(
        "plan {plan}: what it reads is the replica of plan {other}, and an apply of that is not finished"
    )]
    HalfApplied {
        /// The plan.
        plan: PlanName,
        /// The plan whose replica it is.
        other: PlanName,
    },
    /// A policy's retention that keeps nothing.
    #[error("SchedulePolicy {policy}: {source}")]
    PolicyRetention {
        /// The policy.
        policy: String,
        /// What is wrong.
        source: backstay_types::plan::InvalidPlan,
    },
    /// A policy's schedule that cannot be kept.
    #[error("SchedulePolicy {policy}: {source}")]
    Policy {
        /// The policy.
        policy: String,
        /// What is wrong.
        source: backstay_engine::schedule::ScheduleError,
    },
    /// A path of a plan that is not there.
    #[error("plan {plan}: cannot use {path:?}: {source}")]
    Source {
        /// The plan.
        plan: PlanName,
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A request of the peer that role or epoch forbid.
    #[error(transparent)]
    Refusal(#[from] backstay_engine::role::Refusal),
    /// A promotion that is not allowed.
    #[error(transparent)]
    Promotion(#[from] backstay_engine::promotion::PromotionRefused),
    /// A control stream.
    #[error(transparent)]
    Stream(#[from] backstay_net::StreamError),
    /// A frame of a peer.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A plan nobody knows.
    #[error("there is no plan {plan}")]
    PlanNotFound {
        /// What was asked for.
        plan: String,
        /// What there is.
        known: Vec<String>,
    },
    /// A peer nobody knows.
    #[error("there is no peer {peer}")]
    PeerNotFound {
        /// What was asked for.
        peer: String,
        /// What there is.
        known: Vec<String>,
    },
    /// A peer that a plan goes on with, and that this site is not paired with any more.
    #[error("{}", removed_text(peer.as_deref()))]
    PeerRemoved {
        /// Its name, if that is known.
        peer: Option<String>,
    },
    /// An epoch of the peer that is not believed.
    #[error(
        "plan {plan}: the other side claims epoch {claimed}, and this one knows epoch {epoch}: no cycle runs until an \
         operator has decided"
    )]
    EpochLeap {
        /// The plan.
        plan: PlanName,
        /// The epoch known here.
        epoch: Epoch,
        /// What is claimed.
        claimed: Epoch,
    },
    /// A policy nobody knows.
    #[error("plan {plan}: there is no SchedulePolicy {policy}")]
    PolicyNotFound {
        /// The plan.
        plan: PlanName,
        /// What it names.
        policy: String,
    },
    /// A rule nobody knows.
    #[error("plan {plan}: there is no Rule {rule}")]
    RuleNotFound {
        /// The plan.
        plan: PlanName,
        /// What it names.
        rule: String,
    },
    /// A rule that does not fit its place in a plan.
    #[error("plan {plan}: rule {rule}: {source}")]
    Rule {
        /// The plan.
        plan: PlanName,
        /// The rule.
        rule: String,
        /// What is wrong.
        source: InvalidRule,
    },
    /// A volume that is not in the restore point.
    #[error("restore point {point} of plan {plan} has no volume {volume}")]
    VolumeNotFound {
        /// The plan.
        plan: PlanName,
        /// The point.
        point: RestorePointId,
        /// What was asked for.
        volume: String,
    },
    /// Two volumes, and no word which.
    #[error("plan {plan} has {count} volumes and none was named")]
    VolumeUnclear {
        /// The plan.
        plan: PlanName,
        /// How many.
        count: usize,
    },
    /// A plan already belongs to another pair.
    #[error("plan {plan} already exists with another peer")]
    OtherPair {
        /// The plan.
        plan: PlanName,
    },
    /// The wrong side was asked.
    #[error("plan {plan} is {role} here, at epoch {epoch}: {asked} needs the {needed} side")]
    WrongRole {
        /// The plan.
        plan: PlanName,
        /// Role here.
        role: &'static str,
        /// Epoch here.
        epoch: Epoch,
        /// What was asked.
        asked: &'static str,
        /// Role it needs.
        needed: &'static str,
    },
    /// Held, and something of it runs all the same.
    #[error("plan {plan}: {count} pods still run although everything is held; first: {first}")]
    StillRuns {
        /// The plan.
        plan: PlanName,
        /// How many.
        count: usize,
        /// One of them.
        first: String,
    },
    /// What runs on the host cannot be held, or does not run again.
    #[error(transparent)]
    Hold(#[from] crate::host_hold::HoldError),
    /// Somebody has a volume open that would be written.
    #[error("plan {plan}: a volume is in use and is not written: {}", .users.join("; "))]
    InUse {
        /// The plan.
        plan: PlanName,
        /// Who has what open.
        users: Vec<String>,
    },
    /// A plan that would be handed over while somebody may still write.
    #[error("plan {plan}: somebody may still write: {}", .users.join("; "))]
    StillWritten {
        /// The plan.
        plan: PlanName,
        /// Who has what open.
        users: Vec<String>,
    },
    /// A plan that would be handed over without what was written last.
    #[error("plan {plan}: written while nothing was to be written any more: {}", .what.join(", "))]
    WrittenMeanwhile {
        /// The plan.
        plan: PlanName,
        /// Which volumes, or which file.
        what: Vec<String>,
    },
    /// A folder whose objects cannot be held where they are.
    #[error(transparent)]
    Standstill(#[from] backstay_kube::folder::StandstillError),
    /// What one side shows, and the other does not learn.
    #[error(transparent)]
    Tell(#[from] crate::tell::TellError),
    /// A plan over namespaces that knows no way back.
    #[error(transparent)]
    Irreversible(#[from] backstay_types::plan::Irreversible),
    /// A planned takeover cannot be made.
    #[error(transparent)]
    Handover(#[from] backstay_engine::handover::HandoverRefused),
    /// A planned takeover that was undone.
    #[error("{command} of plan {plan} failed at the step `{step}` and was rolled back: {cause}")]
    RolledBack {
        /// What was asked for.
        command: &'static str,
        /// The plan.
        plan: PlanName,
        /// Where it failed.
        step: String,
        /// Why.
        cause: Box<DaemonError>,
    },
    /// The operator ended a handover.
    #[error("plan {plan}: the handover was ended by a promotion of this side")]
    Forced {
        /// The plan.
        plan: PlanName,
    },
    /// The other side took over, and did not get to the end of it.
    #[error("plan {plan}: the other side has taken over at epoch {epoch} and is not done: {message}")]
    TakenOverInPart {
        /// The plan.
        plan: PlanName,
        /// Its epoch.
        epoch: Epoch,
        /// What it says.
        message: String,
    },
    /// Paths of the other side, changed on this one.
    #[error(
        "plan {plan}: its volumes, its manifest folder and its hold are those of the site it was made on, and cannot be \
         changed here"
    )]
    PlacesOfHome {
        /// The plan.
        plan: PlanName,
    },
    /// A plan that its active side has deleted.
    #[error("plan {plan} is at its end: its active side deleted it, and its application may run on there")]
    Ended {
        /// The plan.
        plan: PlanName,
    },
    /// A plan that would begin where a standby was.
    #[error(
        "plan {plan}: {object} of this cluster is the held copy of a standby, written at epoch {epoch}: a plan begins \
         where its application runs"
    )]
    StandbyCopies {
        /// The plan.
        plan: PlanName,
        /// One of the objects.
        object: String,
        /// When it was written.
        epoch: Epoch,
    },
    /// A plan that would begin beside what an earlier one has left.
    #[error("plan {plan}: {object} of this cluster was written by a plan of this name at epoch {epoch}")]
    LeftBehind {
        /// The plan.
        plan: PlanName,
        /// One of the objects.
        object: String,
        /// When it was written.
        epoch: Epoch,
    },
    /// A resource that was told of another epoch than the plan would begin at.
    #[error(
        "plan {plan}: its resource was told that it is active here at epoch {told}, and it is at epoch {epoch} by now"
    )]
    ToldOtherwise {
        /// The plan.
        plan: PlanName,
        /// What the resource was told.
        told: Epoch,
        /// What it would begin at.
        epoch: Epoch,
    },
    /// What was to be accepted is not what is proposed now.
    #[error("plan {plan}: what the other side proposes has changed since it was shown")]
    ProposalChanged {
        /// The plan.
        plan: PlanName,
    },
    /// What was promoted is not to run here at the moment.
    #[error(
        "plan {plan}: nothing is started here: neither the witness nor the peer is heard, and the other side may run it"
    )]
    LeaseLost {
        /// The plan.
        plan: PlanName,
    },
    /// Two active sides of one epoch.
    #[error("plan {plan}: both sites are active at epoch {epoch}")]
    Conflict {
        /// The plan.
        plan: PlanName,
        /// The epoch.
        epoch: Epoch,
    },
    /// The peer said no.
    #[error("peer {peer} refused: {message}")]
    Refused {
        /// The peer's name.
        peer: String,
        /// Class of its refusal.
        class: Class,
        /// What it said.
        message: String,
        /// What it advised.
        hint: Option<String>,
        /// The epoch it knows, if that is why.
        epoch: Option<Epoch>,
    },
    /// The peer broke off or said something out of place.
    #[error("peer {peer}: {why}")]
    Peer {
        /// The peer's name.
        peer: String,
        /// Class.
        class: Class,
        /// What happened.
        why: String,
    },
    /// A decision of the engine.
    #[error("{message}")]
    Decision {
        /// Class.
        class: Class,
        /// What was refused and why.
        message: String,
        /// The way out.
        hint: Option<String>,
    },
    /// The restore points of a plan are at its standby.
    #[error("the restore points of plan {plan} are kept on its standby, site {peer}, not here")]
    PointsElsewhere {
        /// The plan.
        plan: PlanName,
        /// The site that has them.
        peer: String,
    },
    /// No restore point to use.
    #[error("plan {plan} has no restore point here")]
    NoRestorePoint {
        /// The plan.
        plan: PlanName,
    },
    /// Something was mounted where a replica is, and is not now.
    #[error(
        "use replica {place} of volume {volume} of plan {plan}: {mount} is not mounted, and was when the replica was applied last"
    )]
    NotMounted {
        /// The plan.
        plan: PlanName,
        /// The volume.
        volume: VolumeName,
        /// Where the replica is.
        place: PathBuf,
        /// What was mounted.
        mount: String,
    },
    /// The standby could not be brought to a restore point, so that it cannot take over.
    #[error("bring site {peer} to {point}: {message}")]
    StandbyBehind {
        /// The standby.
        peer: String,
        /// What it was to be brought to.
        point: RestorePointId,
        /// Class of what failed there.
        class: Class,
        /// What failed there.
        message: String,
    },
    /// Data that does not match.
    #[error("plan {plan}, restore point {point}: {why}")]
    Damaged {
        /// The plan.
        plan: PlanName,
        /// The point.
        point: RestorePointId,
        /// What was found.
        why: String,
    },
    /// Objects that could not be written.
    #[error("plan {plan}: {failed} objects failed; first: {first}")]
    Objects {
        /// The plan.
        plan: PlanName,
        /// How many.
        failed: u64,
        /// The first of them.
        first: String,
    },
    /// Epochs only grow.
    #[error("plan {plan}: epoch {asked} is over, this site has seen epoch {known}")]
    EpochShrinks {
        /// The plan.
        plan: PlanName,
        /// What the site knows.
        known: Epoch,
        /// What it was to become.
        asked: Epoch,
    },
    /// The daemon is stopping, or the operator stopped the work.
    #[error("{what} was interrupted: the daemon is stopping")]
    Stopping {
        /// What was under way.
        what: &'static str,
    },
    /// A chunk that cannot be compressed.
    #[error("encode a chunk: {source}")]
    Encode {
        /// Why.
        source: io::Error,
    },
    /// An address nobody can listen on.
    #[error("listen on {address}: {source}")]
    Listen {
        /// The address.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// A drill.
    #[error(transparent)]
    Drill(#[from] crate::drill::DrillError),
    /// A worker thread ended without an answer.
    #[error("{what} ended without an answer")]
    Worker {
        /// Which.
        what: &'static str,
    },
    /// The request cannot be understood.
    #[error("{message}")]
    Request {
        /// What is wrong with it.
        message: String,
    },
}

fn removed_text(peer: Option<&str>) -> String {
    match peer {
        Some(peer) => format!("this site is not paired with {peer} any more"),
        None => "this site is not paired with the peer of this plan any more".to_owned(),
    }
}

impl DaemonError {
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }

    pub(crate) fn plan_not_found<'a>(plan: &PlanName, known: impl Iterator<Item = &'a PlanName>) -> Self {
        Self::PlanNotFound { plan: plan.to_string(), known: known.map(ToString::to_string).collect() }
    }

    /// Whether a producer failed only because nobody took its chunks or it was stopped.
    pub(crate) fn is_consequence(&self) -> bool {
        matches!(self, Self::Volume(VolumeError::SinkClosed | VolumeError::Cancelled))
    }

    pub(crate) fn refused(peer: &str, refused: Refused) -> Self {
        Self::Refused {
            peer: peer.to_owned(),
            class: Class::from_wire_code(refused.class),
            message: refused.message,
            hint: refused.hint,
            epoch: refused.epoch,
        }
    }

    pub(crate) fn decision(error: &dyn Classify) -> Self {
        Self::Decision { class: error.class(), message: error.to_string(), hint: error.hint() }
    }
}

/// Name of a role for people.
pub(crate) const fn role_name(role: SiteRole) -> &'static str {
    match role {
        SiteRole::Active => "active",
        SiteRole::Standby => "standby",
        SiteRole::Demoting => "demoting",
        SiteRole::Promoting => "promoting",
    }
}
