//! What can go wrong with a volume, and what the operator can do about it.

use std::io;
use std::path::Path;

use backstay_types::manifest::{CursorError, InvalidPath, RelPath, SegmentError, TreeError};
use backstay_types::{Class, Classify};
use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags};
use rustix::io::Errno;

/// Why a volume cannot be read, applied, verified or restored.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// A system call on a path failed.
    #[error("{action} {path}: {source}")]
    Io {
        /// What was tried, such as `open`.
        action: &'static str,
        /// On what.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// The source of a volume does not exist.
    #[error("read volume: {path} does not exist")]
    SourceMissing {
        /// The path of the plan.
        path: String,
    },
    /// The source or target of a volume is something else than its plan says.
    #[error("use {path}: expected {expected}")]
    WrongKind {
        /// The path.
        path: String,
        /// What it should be.
        expected: &'static str,
    },
    /// The source is empty although its last restore point was not.
    #[error("read volume: {path} is empty, its last restore point has {entries} entries")]
    EmptySource {
        /// The path of the plan.
        path: String,
        /// Entries of the last restore point.
        entries: u64,
    },
    /// Another file system is mounted inside the volume.
    #[error("read volume: {path} is on another file system than the volume")]
    MountPoint {
        /// Where it is mounted.
        path: String,
    },
    /// Something changed again and again while it was read.
    #[error("read {path}: it keeps changing while it is read")]
    Unsettled {
        /// The file.
        path: String,
    },
    /// A path that a manifest cannot hold.
    #[error("read volume: {source}")]
    Path {
        /// Why not.
        source: InvalidPath,
    },
    /// An entry that a manifest cannot hold, or too many of them.
    #[error("write manifest: {why}")]
    Unwritable {
        /// Why not.
        why: String,
    },
    /// A snapshot could not be taken or released.
    #[error("{action} {provider} snapshot of {path}: {why}")]
    Snapshot {
        /// `take` or `release`.
        action: &'static str,
        /// The provider.
        provider: &'static str,
        /// The volume's source.
        path: String,
        /// What happened, with the command's own words where there are any.
        why: String,
    },
    /// Whoever takes the chunks is gone.
    #[error("hand over chunks: the transfer ended")]
    SinkClosed,
    /// Stopped on request.
    #[error("finish: cancelled")]
    Cancelled,
    /// The local record of what was sent is damaged; it was dropped and the next cycle reads everything.
    #[error("read sent state {path}: {why}")]
    State {
        /// Its folder.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// A manifest or one of its chunks cannot be had.
    #[error("read the restore point: {source}")]
    Manifest {
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
        /// Class of the cause.
        class: Class,
        /// Hint of the cause.
        hint: Option<String>,
    },
    /// Another side, which holds a restore point, did not tell of it.
    #[error("ask the other side for its restore point: {source}")]
    Untold {
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
        /// Class of the cause.
        class: Class,
    },
    /// What another side told, or asked, cannot be.
    #[error("use what the other side tells of its restore point: {why}")]
    Told {
        /// What is wrong.
        why: &'static str,
    },
    /// A manifest that no honest sender writes.
    #[error("use manifest: entry {path}: {why}")]
    Refused {
        /// The entry.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Somebody else could send root anywhere by it.
    #[error("open {path}: {link:?} on the way is a symbolic link of user {uid}")]
    ForeignLink {
        /// The path as the operator gave it.
        path: String,
        /// The link's name.
        link: String,
        /// Whose it is.
        uid: u32,
    },
    /// The target is not what was applied last.
    #[error("apply to {path}: {why}")]
    Drifted {
        /// Where.
        path: String,
        /// How.
        why: &'static str,
    },
    /// A block target of another size.
    #[error("apply to {path}: expected a device of at least {expected} bytes, found {found}")]
    DeviceSize {
        /// The device.
        path: String,
        /// Bytes needed.
        expected: u64,
        /// Bytes there.
        found: u64,
    },
    /// A restore must not overwrite anything.
    #[error("restore to {path}: it is not empty")]
    NotEmpty {
        /// The destination.
        path: String,
    },
    /// The path asked for is not in the restore point.
    #[error("restore {path}: the restore point has no such path")]
    NotInManifest {
        /// The path.
        path: String,
    },
}

impl Classify for VolumeError {
    fn class(&self) -> Class {
        match self {
            VolumeError::Io { source, .. } => io_class(source),
            VolumeError::SourceMissing { .. } | VolumeError::NotInManifest { .. } => Class::NotFound,
            VolumeError::WrongKind { .. }
            | VolumeError::EmptySource { .. }
            | VolumeError::MountPoint { .. }
            | VolumeError::ForeignLink { .. }
            | VolumeError::DeviceSize { .. }
            | VolumeError::NotEmpty { .. } => Class::Invalid,
            VolumeError::Unsettled { .. } => Class::Incomplete,
            VolumeError::Path { .. } | VolumeError::Unwritable { .. } => Class::LimitExceeded,
            VolumeError::Snapshot { .. } | VolumeError::SinkClosed | VolumeError::Cancelled => {
                Class::Transient
            }
            VolumeError::State { .. } => Class::Incomplete,
            VolumeError::Manifest { class, .. } | VolumeError::Untold { class, .. } => *class,
            VolumeError::Told { .. } | VolumeError::Refused { .. } | VolumeError::Drifted { .. } => {
                Class::Corrupt
            }
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            VolumeError::Io { source, path, .. } => return io_hint(source, Path::new(path)),
            VolumeError::SourceMissing { path } => {
                format!("check the volume's path in the plan, or mount {path}")
            }
            VolumeError::EmptySource { path, .. } => format!(
                "check that {path} is mounted; if it is meant to be empty, set `allowEmpty: true` in the plan"
            ),
            VolumeError::MountPoint { .. } => {
                "make the mounted file system a volume of its own, or unmount it".to_owned()
            }
            VolumeError::ForeignLink { .. } => {
                "name the place that the link leads to, or let root own the link (`chown -h root`)".to_owned()
            }
            VolumeError::Unsettled { .. } => {
                "use a snapshot provider (btrfs, reflink, command), or accept such files with `minimumConsistency: fuzzy` (`allowFuzzy: true`)"
                    .to_owned()
            }
            VolumeError::Snapshot { .. } => {
                "check the provider's requirements, or set `snapshot.provider` to `none`".to_owned()
            }
            VolumeError::State { .. } => "nothing to do: the next cycle reads the whole volume again".to_owned(),
            VolumeError::Manifest { hint, .. } => return hint.clone(),
            VolumeError::Untold { .. } | VolumeError::Told { .. } => {
                "nothing to do: everything is offered, and whole chunks travel".to_owned()
            }
            VolumeError::Refused { .. } => "run `backstay verify` on this restore point".to_owned(),
            VolumeError::DeviceSize { .. } => "give the replica a device at least as large as the source".to_owned(),
            VolumeError::NotEmpty { .. } => "give an empty or a new folder".to_owned(),
            VolumeError::NotInManifest { .. } => {
                "paths are relative to the volume's root; `backstay diff` lists some".to_owned()
            }
            _ => return None,
        };
        Some(hint)
    }
}

fn io_class(source: &io::Error) -> Class {
    match Errno::from_io_error(source) {
        Some(Errno::PERM | Errno::ACCESS) => Class::Unauthorized,
        Some(Errno::NOENT) => Class::NotFound,
        Some(Errno::OPNOTSUPP | Errno::NOSYS) => Class::Incompatible,
        _ => Class::Transient,
    }
}

fn io_hint(source: &io::Error, path: &Path) -> Option<String> {
    let hint = match Errno::from_io_error(source)? {
        Errno::PERM if is_protected(path) || path.parent().is_some_and(is_protected) => {
            "it is immutable or append-only, also for root: `lsattr` shows that, and `chattr -i -a` takes it away"
        }
        Errno::PERM | Errno::ACCESS => {
            "run the daemon as root, or give it the capabilities to read and own every file of the volume"
        }
        Errno::NOSPC | Errno::DQUOT => "free some space there; the next cycle goes on by itself",
        Errno::ROFS => "the file system is mounted read-only",
        Errno::OPNOTSUPP => "the file system cannot store this; use one of the same kind as the source",
        Errno::MFILE | Errno::NFILE => "raise the limit of open files (`ulimit -n`)",
        _ => return None,
    };
    Some(hint.to_owned())
}

/// Whether somebody has forbidden every change, with `chattr +i` or `+a`.
fn is_protected(path: &Path) -> bool {
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    let stat = rustix::fs::statx(CWD, path, flags, StatxFlags::BASIC_STATS);
    let protects = StatxAttributes::IMMUTABLE | StatxAttributes::APPEND;
    stat.is_ok_and(|stat| stat.stx_attributes.intersects(protects))
}

impl VolumeError {
    /// A failed system call on a path.
    pub(crate) fn io(action: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        VolumeError::Io { action, path: path.display().to_string(), source: source.into() }
    }

    /// A failed system call on a path inside a volume.
    pub(crate) fn at(
        action: &'static str,
        root: &Path,
        path: &RelPath,
        source: impl Into<io::Error>,
    ) -> Self {
        VolumeError::Io { action, path: shown(root, path), source: source.into() }
    }

    /// The same of a path that was reached by another, which says nothing to people.
    pub(crate) fn shown_as(mut self, reached_by: &Path, shown: &Path) -> Self {
        if let VolumeError::Io { path, .. }
        | VolumeError::NotEmpty { path }
        | VolumeError::MountPoint { path }
        | VolumeError::Unsettled { path }
        | VolumeError::Drifted { path, .. }
        | VolumeError::WrongKind { path, .. } = &mut self
            && let Ok(below) = Path::new(path.as_str()).strip_prefix(reached_by)
        {
            let whole = if below.as_os_str().is_empty() { shown.to_owned() } else { shown.join(below) };
            *path = whole.display().to_string();
        }
        self
    }

    /// Whether the cause is that there is no room.
    pub(crate) fn is_full(&self) -> bool {
        let is = |e: &io::Error| matches!(Errno::from_io_error(e), Some(Errno::NOSPC | Errno::DQUOT));
        matches!(self, VolumeError::Io { source, .. } if is(source))
    }

    /// Whether the cause is that something does not exist.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, VolumeError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// Whether the cause is that a name is not what it was when its folder was listed: gone, a link, or of another kind.
    pub(crate) fn is_replaced(&self) -> bool {
        match self {
            VolumeError::Io { action, source, .. } => match Errno::from_io_error(source) {
                Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO | Errno::NODEV) => true,
                // What a link was read of is none any more.
                Some(Errno::INVAL) => *action == "read link",
                _ => false,
            },
            VolumeError::Unsettled { .. } => true,
            _ => false,
        }
    }

    /// Whether the cause is that something on the way is not a folder.
    pub(crate) fn is_not_a_folder(&self) -> bool {
        let is = |e: &io::Error| matches!(Errno::from_io_error(e), Some(Errno::NOTDIR | Errno::LOOP));
        matches!(self, VolumeError::Io { source, .. } if is(source))
    }

    /// A manifest that could not be read from where its chunks are.
    pub(crate) fn manifest<E: Classify + Send + Sync + 'static>(source: CursorError<E>) -> Self {
        match source {
            CursorError::Fetch(source) => Self::fetch(source),
            other => {
                VolumeError::Manifest { class: Class::Corrupt, hint: None, source: other.to_string().into() }
            }
        }
    }

    /// A chunk that could not be had.
    pub(crate) fn fetch<E: Classify + Send + Sync + 'static>(source: E) -> Self {
        VolumeError::Manifest { class: source.class(), hint: source.hint(), source: Box::new(source) }
    }
}

impl From<SegmentError> for VolumeError {
    fn from(source: SegmentError) -> Self {
        VolumeError::Unwritable { why: source.to_string() }
    }
}

impl From<TreeError> for VolumeError {
    fn from(source: TreeError) -> Self {
        VolumeError::Unwritable { why: source.to_string() }
    }
}

impl From<InvalidPath> for VolumeError {
    fn from(source: InvalidPath) -> Self {
        VolumeError::Path { source }
    }
}

/// A path inside a volume, for people: escaped where it is not text.
pub(crate) fn shown(root: &Path, path: &RelPath) -> String {
    if path.is_root() { root.display().to_string() } else { format!("{}/{path}", root.display()) }
}
