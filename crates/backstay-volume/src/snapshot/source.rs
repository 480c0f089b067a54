//! What is read: the place itself, or a snapshot that must be released.

use std::path::{Path, PathBuf};

use backstay_types::manifest::VolumeKind;
use backstay_types::plan::{CommandAtomicity, SnapshotKind, VolumeSpec};
use backstay_types::point::Atomicity;
use rustix::fs::FileType;

use super::btrfs::{BtrfsSnapshot, is_subvolume};
use super::command::CommandSnapshot;
use super::duty::DutyFile;
use super::reflink::{Cloner, Clones, can_clone};
use super::scratch_name;
use crate::fs::safe;
use crate::{VolumeContext, VolumeError};

/// What a volume is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// A folder tree.
    Tree,
    /// A device or image.
    Block,
}

impl Target {
    /// Looks at the source of a volume.
    pub(super) fn of(spec: &VolumeSpec) -> Result<Self, VolumeError> {
        let path = source_path(spec);
        let stat = match rustix::fs::stat(path) {
            Ok(stat) => stat,
            Err(rustix::io::Errno::NOENT) => {
                return Err(VolumeError::SourceMissing { path: path.display().to_string() });
            }
            Err(source) => return Err(VolumeError::io("stat", path, source)),
        };
        let wrong = |expected| Err(VolumeError::WrongKind { path: path.display().to_string(), expected });
        match (Self::of_kind(spec), FileType::from_raw_mode(stat.st_mode)) {
            (Self::Tree, FileType::Directory) => Ok(Self::Tree),
            (Self::Block, FileType::BlockDevice | FileType::RegularFile) => Ok(Self::Block),
            (Self::Tree, _) => wrong("a folder"),
            (Self::Block, _) => wrong("a block device or an image file"),
        }
    }

    /// What the spec says.
    pub(super) fn of_kind(spec: &VolumeSpec) -> Self {
        if spec.device.is_some() { Self::Block } else { Self::Tree }
    }

    pub(super) fn kind(self) -> VolumeKind {
        match self {
            Self::Tree => VolumeKind::Directory,
            Self::Block => VolumeKind::Block,
        }
    }
}

/// Where the plan says that a volume is.
pub(super) fn source_path(spec: &VolumeSpec) -> &Path {
    spec.path.as_deref().or(spec.device.as_deref()).unwrap_or(Path::new(""))
}

/// Where a volume is read from.
pub(super) enum Source {
    InPlace(PathBuf),
    Clones(Clones),
    Btrfs(BtrfsSnapshot),
    Command(CommandSnapshot, CommandAtomicity),
}

impl Source {
    /// What is of one instant in what is read.
    pub(super) fn atomicity(&self) -> Atomicity {
        match self {
            Self::InPlace(_) => Atomicity::None,
            Self::Clones(clones) => clones.atomicity(),
            Self::Btrfs(_) | Self::Command(_, CommandAtomicity::Volume) => Atomicity::Volume,
            Self::Command(_, CommandAtomicity::Group) => Atomicity::Group,
        }
    }

    /// Takes the snapshot that the spec asks for.
    pub(super) fn take(
        spec: &VolumeSpec,
        ctx: &VolumeContext,
        target: Target,
        duty: DutyFile,
    ) -> Result<Self, VolumeError> {
        let path = source_path(spec);
        let name = scratch_name(spec, ctx);
        match (spec.snapshot.provider, target) {
            (SnapshotKind::None, _) => Ok(Self::InPlace(path.to_owned())),
            (SnapshotKind::Reflink, target) => Clones::create(path, &name, target, duty).map(Self::Clones),
            (SnapshotKind::Btrfs, Target::Tree) => BtrfsSnapshot::take(path, &name, duty).map(Self::Btrfs),
            (SnapshotKind::Btrfs, Target::Block) => Err(VolumeError::Snapshot {
                action: "take",
                provider: "btrfs",
                path: path.display().to_string(),
                why: "it is for folders; a device or image takes `reflink`, `command` or `none`".to_owned(),
            }),
            (SnapshotKind::Command, _) => {
                let atomic = spec.snapshot.atomic.unwrap_or_default();
                CommandSnapshot::take(spec, ctx, path, duty).map(|taken| Self::Command(taken, atomic))
            }
            (SnapshotKind::Auto, target) => Self::best(path, &name, target, &duty),
        }
    }

    /// `btrfs` for a subvolume, `reflink` where clones work, else in place.
    fn best(path: &Path, name: &str, target: Target, duty: &DutyFile) -> Result<Self, VolumeError> {
        if target == Target::Tree && is_subvolume(&safe::open_folder(path)?) {
            match BtrfsSnapshot::take(path, name, duty.clone()) {
                Ok(snapshot) => return Ok(Self::Btrfs(snapshot)),
                Err(error) => tracing::info!(%error, "no btrfs snapshot; trying clones"),
            }
        }
        // Where files cannot be cloned no folder for clones is tried either: it would show in the root of a volume.
        if !can_clone(path, target)? {
            return Ok(Self::InPlace(path.to_owned()));
        }
        match Clones::create(path, name, target, duty.clone()) {
            Ok(clones) => Ok(Self::Clones(clones)),
            Err(error) => {
                tracing::info!(%error, "no clones; the volume is read in place");
                Ok(Self::InPlace(path.to_owned()))
            }
        }
    }

    /// The root to walk, or the device to read.
    pub(super) fn path(&self) -> PathBuf {
        match self {
            Self::InPlace(path) => path.clone(),
            Self::Clones(clones) => clones.root().to_owned(),
            Self::Btrfs(snapshot) => snapshot.path(),
            Self::Command(snapshot, _) => snapshot.path().to_owned(),
        }
    }

    /// Whether the path is another one each time, whose device number means nothing.
    pub(super) fn is_snapshot(&self) -> bool {
        matches!(self, Self::Btrfs(_) | Self::Command(..))
    }

    pub(super) fn cloner(&mut self) -> Option<&mut Cloner> {
        match self {
            Self::Clones(clones) => clones.cloner(),
            _ => None,
        }
    }

    pub(super) fn clones(&self) -> Option<&Clones> {
        match self {
            Self::Clones(clones) => Some(clones),
            _ => None,
        }
    }

    pub(super) fn release(&mut self) -> Result<(), VolumeError> {
        match self {
            Self::InPlace(_) => Ok(()),
            Self::Clones(clones) => clones.release(),
            Self::Btrfs(snapshot) => snapshot.release(),
            Self::Command(snapshot, _) => snapshot.release(),
        }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        if let Err(error) = self.release() {
            tracing::warn!(%error, "a snapshot is left behind; the next cycle removes it");
        }
    }
}
