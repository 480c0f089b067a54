//! Files that change together: all written beside their places, synced once, then renamed into them.
//!
//! A crash before the renames leaves temporary files and nothing else changed; between two renames it leaves some
//! files new and the others old, each whole.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{FolderError, layout};

const TEMPORARY_PREFIX: &str = ".backstay-";
const TEMPORARY_SUFFIX: &str = ".tmp";

/// From here on one sync of the whole file system is cheaper than one for each file: a sync costs a few
/// milliseconds, so 64 of them a quarter of a second.
const SINGLE_SYNCS_MAX: usize = 64;

/// Changes to files of one folder, made at once.
pub(super) struct Batch<'d> {
    dir: &'d Path,
    is_dry: bool,
    staged: Vec<(PathBuf, PathBuf)>,
    removed: Vec<PathBuf>,
}

fn error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FolderError {
    let path = path.to_owned();
    move |source| FolderError::Io { doing, path, source }
}

impl<'d> Batch<'d> {
    /// Begins, sweeping what an interrupted run left.
    pub(super) fn begin(dir: &'d Path) -> Result<Self, FolderError> {
        make_folder(dir)?;
        for scope in layout::list(dir)?.into_iter().filter(|path| path.is_dir()) {
            // The deferred folder has one more level.
            for path in layout::list(&scope)? {
                if path.is_dir() {
                    layout::list(&path)?.iter().try_for_each(|path| sweep(path))?;
                } else {
                    sweep(&path)?;
                }
            }
        }
        Ok(Self { dir, is_dry: false, staged: Vec::new(), removed: Vec::new() })
    }

    /// One that changes nothing, to find out what would be changed.
    pub(super) fn dry(dir: &'d Path) -> Self {
        Self { dir, is_dry: true, staged: Vec::new(), removed: Vec::new() }
    }

    /// Writes what is to be at `target`, beside it.
    pub(super) fn stage(&mut self, target: PathBuf, text: &str) -> Result<(), FolderError> {
        if self.is_dry {
            return Ok(());
        }
        let folder = target.parent().unwrap_or(self.dir);
        make_folder(folder)?;
        let temporary = folder.join(format!("{TEMPORARY_PREFIX}{}{TEMPORARY_SUFFIX}", self.staged.len()));
        // Secrets are among the objects: nobody else reads them.
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(error("write", &temporary))?;
        file.write_all(text.as_bytes()).map_err(error("write", &temporary))?;
        self.staged.push((temporary, target));
        Ok(())
    }

    /// Notes a file to remove, after everything staged is in its place.
    pub(super) fn remove(&mut self, path: PathBuf) {
        self.removed.push(path);
    }

    /// Makes the changes, durably.
    pub(super) fn commit(self) -> Result<(), FolderError> {
        let mut folders = BTreeSet::new();
        let by_file = self.staged.len() <= SINGLE_SYNCS_MAX;
        if by_file {
            for (temporary, _) in &self.staged {
                let synced = File::open(temporary).and_then(|file| file.sync_all());
                synced.map_err(error("sync", temporary))?;
            }
        } else {
            sync_file_system(self.dir)?;
        }
        for (temporary, target) in &self.staged {
            fs::rename(temporary, target).map_err(error("rename", target))?;
            folders.extend(target.parent().map(Path::to_owned));
        }
        for path in &self.removed {
            match fs::remove_file(path) {
                Err(failed) if failed.kind() != io::ErrorKind::NotFound => {
                    return Err(error("remove", path)(failed));
                }
                _ => folders.extend(path.parent().map(Path::to_owned)),
            }
        }
        for folder in &folders {
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(error("sync", folder))?;
        }
        for folder in self.removed.iter().filter_map(|path| path.parent()).collect::<BTreeSet<_>>() {
            match fs::remove_dir(folder) {
                Err(failed)
                    if !matches!(
                        failed.kind(),
                        io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotFound
                    ) =>
                {
                    return Err(error("remove", folder)(failed));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn sync_file_system(dir: &Path) -> Result<(), FolderError> {
    let folder = File::open(dir).map_err(error("sync", dir))?;
    rustix::fs::syncfs(&folder).map_err(|errno| error("sync", dir)(errno.into()))
}

/// Makes a folder that only we read, and its parents; each new one is synced into its parent.
fn make_folder(path: &Path) -> Result<(), FolderError> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        make_folder(parent)?;
        match fs::DirBuilder::new().mode(0o700).create(path) {
            Err(failed) if failed.kind() != io::ErrorKind::AlreadyExists => {
                return Err(error("make", path)(failed));
            }
            _ => {}
        }
        File::open(parent).and_then(|parent| parent.sync_all()).map_err(error("sync", parent))?;
    }
    Ok(())
}

fn sweep(path: &Path) -> Result<(), FolderError> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if name.starts_with(TEMPORARY_PREFIX) && name.ends_with(TEMPORARY_SUFFIX) {
        fs::remove_file(path).map_err(error("remove", path))?;
    }
    Ok(())
}
