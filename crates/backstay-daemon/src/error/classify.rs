//! The class of every failure of a daemon, and what to do about it.

use std::io;

use backstay_types::plan::MinimumConsistency;
use backstay_types::point::Consistency;
use backstay_types::{Class, Classify};

use super::DaemonError;

impl Classify for DaemonError {
    fn class(&self) -> Class {
        match self {
            Self::Destination { source, .. } | Self::NewSite { source, .. } => named_class(source),
            Self::Io { source, .. } | Self::TokenFile { source, .. } => io_class(source),
            Self::Listen { source, .. } => match source.kind() {
                io::ErrorKind::AddrInUse => Class::Busy,
                _ => named_class(source),
            },
            Self::Stopping { .. } => Class::Transient,
            Self::State { .. } | Self::Damaged { .. } => Class::Corrupt,
            Self::NotEmpty { .. }
            | Self::OtherSite { .. }
            | Self::OwnFolder { .. }
            | Self::Name(_)
            | Self::Plan { .. }
            | Self::Schedule { .. }
            | Self::Policy { .. }
            | Self::Source { .. }
            | Self::SourceKind { .. }
            | Self::SourceOwn { .. }
            | Self::VolumesMeet { .. }
            | Self::PlansMeet { .. }
            | Self::PolicyRetention { .. }
            | Self::PolicyNotFound { .. }
            | Self::RuleNotFound { .. }
            | Self::Rule { .. }
            | Self::VolumeUnclear { .. }
            | Self::OtherPair { .. }
            | Self::PlacesOfHome { .. }
            | Self::ProposalChanged { .. }
            | Self::KeptByResource { .. }
            | Self::Claim { .. }
            | Self::NotMounted { .. }
            | Self::Shrunk { .. }
            | Self::Hole { .. }
            | Self::Request { .. } => Class::Invalid,
            Self::NotASite { .. }
            | Self::PlanNotFound { .. }
            | Self::PeerNotFound { .. }
            | Self::PeerRemoved { .. }
            | Self::VolumeNotFound { .. }
            | Self::NoRestorePoint { .. } => Class::NotFound,
            Self::WrongRole { .. }
            | Self::PointsElsewhere { .. }
            | Self::Forced { .. }
            | Self::Conflict { .. }
            | Self::StillWritten { .. }
            | Self::WrittenMeanwhile { .. }
            | Self::EpochLeap { .. }
            | Self::Ended { .. }
            | Self::StandbyCopies { .. }
            | Self::LeftBehind { .. }
            | Self::ToldOtherwise { .. }
            | Self::EpochShrinks { .. } => Class::Fenced,
            Self::Objects { .. } | Self::StillRuns { .. } | Self::TakenOverInPart { .. } => Class::Incomplete,
            // Writers may stand still the next time; a file system that tells nothing never will.
            Self::BelowMinimum { may_pass: true, .. } => Class::Incomplete,
            Self::BelowMinimum { .. } => Class::Invalid,
            Self::RolledBack { cause, .. } => cause.class(),
            Self::Standstill(error) => error.class(),
            Self::Tell(error) => error.class(),
            Self::Handover(error) => error.class(),
            Self::Irreversible(error) => error.class(),
            Self::LeaseLost { .. } => Class::Transient,
            Self::ClaimsChanged { .. } | Self::InUse { .. } | Self::HalfApplied { .. } => Class::Busy,
            Self::Hold(error) => error.class(),
            Self::CaptureSlow { .. } => Class::Transient,
            Self::Worker { .. } | Self::Encode { .. } => Class::Bug,
            Self::Unseen { class, .. }
            | Self::Refused { class, .. }
            | Self::Peer { class, .. }
            | Self::StandbyBehind { class, .. }
            | Self::Decision { class, .. } => *class,
            Self::Config(error) => error.class(),
            Self::Automatic(error) => error.class(),
            Self::Keeper(error) => error.class(),
            Self::Audit(error) => error.class(),
            Self::Net(error) => error.class(),
            Self::Store(error) => error.class(),
            Self::Volume(error) => error.class(),
            Self::Document(error) => error.class(),
            Self::Folder(error) => error.class(),
            Self::Cluster(error) => error.class(),
            Self::Freeze(error) => error.class(),
            Self::Frame(error) => error.class(),
            Self::Refusal(error) => error.class(),
            Self::Pair(error) => error.class(),
            Self::Identity(error) => error.class(),
            Self::Book(error) => error.class(),
            Self::Batch(error) => error.class(),
            Self::BatchForm(error) => error.class(),
            Self::Capture(error) => error.class(),
            Self::Promotion(error) => error.class(),
            Self::Stream(error) => error.class(),
            Self::Drill(error) => error.class(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::NotEmpty { .. } => Some("name a folder that does not exist or is empty".into()),
            Self::OtherSite { found, .. } => Some(format!("name it {found}, or choose another folder: a site keeps its name")),
            Self::OwnFolder { .. } => Some("name a folder that has nothing to do with the site's own".into()),
            Self::Destination { source, .. } => Some(match named_class(source) {
                Class::Transient => "make room there, or name another folder".into(),
                _ => "name a folder of the daemon's machine, empty or new, that the daemon may write to".into(),
            }),
            Self::NotASite { dir } => Some(format!("make one with `backstay init --site {} --name NAME`", dir.display())),
            Self::PlanNotFound { known: names, .. } => known("plan", names),
            Self::PeerNotFound { known: names, .. } => known("peer", names)
                .map(|names| format!("{names}; pair with `backstay pair key` there and `backstay pair join KEY` here")),
            Self::PeerRemoved { peer } => {
                let name = peer.as_deref().unwrap_or("OLD");
                Some(format!(
                    "pair again (`backstay pair key` on one side, `backstay pair join KEY` on the other), and its plans \
                     go on as they were; or, if it is gone for good, let a new site take its place: `backstay pair key \
                     --replaces {name}`, or `backstay pair replace {name} NEW` with one that is paired already"
                ))
            }
            Self::EpochLeap { plan, .. } => Some(backstay_engine::role::leap_hint(plan)),
            Self::PolicyNotFound { policy, .. } => Some(format!("apply a SchedulePolicy named {policy} first, or in the same call")),
            Self::RuleNotFound { rule, .. } => Some(format!("apply a Rule named {rule} first, or in the same call; config/rules has some to begin with")),
            Self::Rule { source, .. } => source.hint(),
            Self::VolumeUnclear { .. } => Some("name one with --volume".into()),
            Self::OtherPair { plan } => Some(format!(
                "if the other peer is gone for good, `backstay pair replace OLD NEW` has all of its plans go on with the new \
                 one; if the plan is to move alone, choose another name for it, or delete {plan} first, restore points kept \
                 for the other peer with --purge"
            )),
            Self::WrongRole { role: "demoting", plan, .. } => Some(format!(
                "the other site was promoted; what was written here since is kept, and `backstay status {plan}` shows both epochs"
            )),
            Self::WrongRole { needed, .. } => Some(format!("run it on the site where the plan is {needed}")),
            Self::Source { .. } => Some("the path is one of the machine the daemon runs on; check it for typing errors and that it is mounted".into()),
            Self::SourceKind { .. } => Some("`path` is for a folder, `device` for a block device or an image file".into()),
            Self::SourceOwn { .. } => Some("protect the application's data, from a folder outside of the site's own".into()),
            Self::Claim { .. } => Some(
                "label the claim backstay.dev/exclude=true to protect the namespace without its data, or move it to a volume of this node".into(),
            ),
            Self::Shrunk { plan, .. } => Some(format!(
                "look whether everything is mounted and whole; if it was deleted on purpose, apply {plan} with `allowEmpty: true` for one cycle"
            )),
            Self::Unseen { .. } => Some("mend the API that does not answer, or name its kinds in `excludeResources`".into()),
            Self::CaptureSlow { .. } => Some("an API that hangs can be left out by `excludeResources`; the next cycle tries again".into()),
            Self::ClaimsChanged { .. } => Some("the next cycle begins with the claims as they are then".into()),
            Self::PlansMeet { other, .. } => Some(format!("give it a place of its own: another source, `[replicas]` of site.toml; or delete plan {other} first")),
            Self::HalfApplied { other, .. } => Some(format!("the next cycle tries again; see backstay status {other}")),
            Self::BelowMinimum { minimum: MinimumConsistency::Application, .. } => Some(
                "let `preExecRule` name a Rule with `stopsWrites: true`, and keep the volumes where they can be snapshotted (btrfs, reflink, a snapshot command)".into(),
            ),
            Self::BelowMinimum { word: Consistency::CrashPerVolume, .. } => Some(
                "take all volumes by one snapshot (one btrfs subvolume, or a command with `atomic: group`), stop the writers by a Rule with `stopsWrites: true`, or accept it with `minimumConsistency: crashPerVolume`".into(),
            ),
            Self::BelowMinimum { .. } => Some(
                "keep the volume where it can be snapshotted (a btrfs subvolume, a reflink image, LVM or ZFS by a command), stop its writers by a Rule with `stopsWrites: true`, replicate the application's own backup, or accept it with `minimumConsistency: fuzzy` (`allowFuzzy: true`)".into(),
            ),
            Self::VolumesMeet { .. } => Some("name the outer one alone, or folders that stand side by side".into()),
            Self::Plan { source, .. } | Self::PolicyRetention { source, .. } => source.hint(),
            Self::Schedule { source, .. } | Self::Policy { source, .. } => source.hint(),
            Self::Objects { .. } => Some("see to what they say, and give the command again; a promotion goes on without them with `--accept-partial`".into()),
            Self::StillRuns { .. } => Some("see what starts them: an operator of its own, a DaemonSet outside the plan, a finalizer".into()),
            Self::ProposalChanged { plan } => Some(format!("look at it again: backstay plan diff {plan}")),
            Self::PlacesOfHome { plan } => Some(format!("bring it home first: backstay failback {plan}; all else can be changed here")),
            Self::RolledBack { command, plan, cause, .. } => {
                let again = format!("it runs where it ran; give the command again: backstay {command} {plan}");
                Some(cause.hint().map_or(again.clone(), |hint| format!("{hint}; {again}")))
            }
            Self::TakenOverInPart { plan, .. } => Some(format!("go on there: backstay promote {plan}")),
            Self::InUse { .. } => Some("stop what has it open; it goes on by itself once nobody has".into()),
            Self::StillWritten { .. } | Self::WrittenMeanwhile { .. } => Some(
                "stop the application first, or say in the plan's `hold` (of the other side in `[hold.PLAN]` of its site.toml) what stops it".into(),
            ),
            Self::Hold(error) => error.hint(),
            Self::Standstill(error) => error.hint(),
            Self::Tell(error) => error.hint(),
            Self::Handover(error) => error.hint(),
            Self::Irreversible(error) => error.hint(),
            Self::Ended { plan } => Some(format!(
                "where that application is gone for good, take it over with `backstay promote {plan} --force`; else end it here too: backstay plan delete {plan}"
            )),
            Self::StandbyCopies { plan, .. } => Some(format!(
                "apply the plan on the other side; to run the application here, have it there first and `backstay switchover {plan}`; to begin anew, delete the held objects"
            )),
            Self::LeftBehind { epoch, .. } => Some(format!(
                "if they are the application that runs, and nobody else runs it, say so in the plan: metadata.annotations, backstay.dev/adopt: \"{epoch}\""
            )),
            Self::ToldOtherwise { .. } => Some(
                "see which side runs the application; where it is this one, delete the resource and create it again".into(),
            ),
            Self::LeaseLost { plan } => Some(format!("it goes on by itself once one of them is heard again; see backstay status {plan}")),
            Self::Conflict { plan, .. } => Some(format!("compare both sites' data, then delete plan {plan} on the site that is to give way")),
            Self::PointsElsewhere { plan, peer } => Some(format!(
                "run the same command on {peer}; `backstay restore-points {plan}` lists them from here, too"
            )),
            Self::NoRestorePoint { plan } => Some(format!("run `backstay sync {plan}` on the active side first")),
            Self::NotMounted { mount, .. } => Some(format!(
                "mount {mount} and try again; nothing was written below it. To keep the replica elsewhere, name another \
                 place in `[replicas]` of site.toml"
            )),
            Self::StandbyBehind { peer, .. } => {
                Some(format!("`backstay status` on site {peer} says what to do; nothing was stopped here"))
            }
            Self::Damaged { .. } => Some("`backstay verify --repair` fetches good copies where there are any".into()),
            Self::EpochShrinks { .. } => Some("another site was promoted in the meantime; it is the active one now".into()),
            Self::State { path, .. } => Some(format!("restore {} from a copy, or move it aside", path.display())),
            Self::Refused { hint, .. } | Self::Decision { hint, .. } | Self::Hole { hint, .. } => hint.clone(),
            Self::Io { source, .. } => io_hint(source),
            Self::NewSite { .. } => Some("name a folder that does not exist or is empty, where you may write".into()),
            Self::TokenFile { .. } => Some(
                "write a token of 16 characters or more there, readable by the daemon's user alone, or leave `admin.listen` out".into(),
            ),
            Self::Listen { source, .. } if source.kind() == io::ErrorKind::AddrInUse => {
                Some("another program listens there: stop it, or set another address".into())
            }
            Self::Listen { .. } => Some("name an address of this machine and a port this user may listen on".into()),
            Self::Config(error) => error.hint(),
            Self::Automatic(error) => error.hint(),
            Self::Keeper(error) => error.hint(),
            Self::Audit(error) => error.hint(),
            Self::Net(error) => error.hint(),
            Self::Store(error) => error.hint(),
            Self::Volume(error) => error.hint(),
            Self::Document(error) => error.hint(),
            Self::Folder(error) => error.hint(),
            Self::Cluster(error) => error.hint(),
            Self::Freeze(error) => error.hint(),
            Self::Refusal(error) => error.hint(),
            Self::Pair(error) => error.hint(),
            Self::Identity(error) => error.hint(),
            Self::Book(error) => error.hint(),
            Self::Batch(error) => error.hint(),
            Self::Capture(error) => error.hint(),
            Self::Promotion(error) => error.hint(),
            Self::Stream(error) => error.hint(),
            Self::Drill(error) => error.hint(),
            Self::KeptByResource { resource, .. } => Some(format!(
                "change the resource {resource} with kubectl: what is changed here would be undone"
            )),
            _ => None,
        }
    }
}

/// Class of a failed use of a file of the site.
pub(crate) fn io_class(source: &io::Error) -> Class {
    match source.kind() {
        io::ErrorKind::NotFound => Class::NotFound,
        io::ErrorKind::PermissionDenied => Class::Unauthorized,
        io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory | io::ErrorKind::ReadOnlyFilesystem => {
            Class::Invalid
        }
        _ => Class::Transient,
    }
}

/// What helps with a file of the site.
pub(crate) fn io_hint(source: &io::Error) -> Option<String> {
    Some(match (source.kind(), io_class(source)) {
        (io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded, _) => {
            "make room on the disk of the site's folder; what is scheduled goes on by itself, a command is to be given again".into()
        }
        (_, Class::NotFound) => "check that --site names the site's folder, and that it is mounted".into(),
        (_, Class::Unauthorized) => "run as the user the site's folder belongs to".into(),
        (_, Class::Invalid) => "check the path for typing errors, and how its file system is mounted".into(),
        _ => return None,
    })
}

/// Class of a failed use of a path that the operator named: what time mends is transient, all else is theirs to
/// correct.
pub(crate) fn named_class(source: &io::Error) -> Class {
    match source.kind() {
        io::ErrorKind::PermissionDenied => Class::Unauthorized,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::Interrupted => {
            Class::Transient
        }
        _ => Class::Invalid,
    }
}

fn known(kind: &str, names: &[String]) -> Option<String> {
    Some(if names.is_empty() {
        format!("there are no {kind}s yet")
    } else {
        format!("known {kind}s: {}", names.join(", "))
    })
}
