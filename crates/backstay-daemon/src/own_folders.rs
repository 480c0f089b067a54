//! The folders a site keeps for itself, and whether a path given by an operator meets one of them.
//!
//! Paths are compared with links resolved: a link into the site's folder is the site's folder. A path that changes
//! between this check and its use is the operator's own doing; nothing here guards against somebody hostile, who would
//! need to be the daemon's user.

use std::collections::BTreeMap;
use std::io;
use std::path::{Component, Path, PathBuf};

use crate::DaemonError;
use crate::site::{Site, layout};
use crate::spot::Mounts;

impl Site {
    /// Refuses a path that is, holds or lies in a folder of the site itself: its state, its store, replicas and held
    /// objects.
    pub(crate) fn refuse_own(&self, path: &Path) -> Result<(), DaemonError> {
        let fail = |source| DaemonError::io("resolve", path, source);
        let mounts = Mounts::read().map_err(fail)?;
        let asked = mounts.spot(path).map_err(fail)?;
        let config = self.config.load();
        let mapped = config.replicas.values().flat_map(|volumes| volumes.values());
        let folders = [&self.dir].into_iter().chain(&config.store_path).chain(mapped);
        for own in folders.chain(config.manifests.values()) {
            let own_spot = mounts.spot(own).map_err(|source| DaemonError::io("resolve", own, source))?;
            if let Some(how) = asked.meets(&own_spot) {
                return Err(DaemonError::OwnFolder { path: path.to_owned(), own: own.clone(), how });
            }
        }
        Ok(())
    }

    /// Whether a path lies in a replica of this site, which another plan may read: as the live data that this site was
    /// promoted with, or as the next link of a chain.
    pub(crate) fn is_replica(&self, path: &Path) -> Result<bool, DaemonError> {
        let asked = resolve(path).map_err(|source| DaemonError::io("resolve", path, source))?;
        let config = self.config.load();
        for record in self.plans.list().iter().filter(|record| !record.home) {
            let mapped = config.replicas.get(&record.name).into_iter().flat_map(BTreeMap::values).cloned();
            let own = self.dir.join(layout::REPLICAS).join(record.name.as_str());
            for replicas in mapped.chain([own]) {
                let resolved =
                    resolve(&replicas).map_err(|source| DaemonError::io("resolve", &replicas, source))?;
                if asked.starts_with(resolved) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}

/// How a path meets a folder, to complete "PATH … FOLDER"; `None` if they have nothing in common.
pub(crate) fn meets(path: &Path, folder: &Path) -> Option<&'static str> {
    if path == folder {
        Some("is")
    } else if path.starts_with(folder) {
        Some("lies in")
    } else if folder.starts_with(path) {
        Some("holds")
    } else {
        None
    }
}

/// An absolute path without links, `.` and `..`. What of it does not exist yet is taken as it is written.
pub(crate) fn resolve(path: &Path) -> io::Result<PathBuf> {
    let mut resolved = PathBuf::new();
    let mut exists = true;
    for component in path.components() {
        match component {
            // All before it is resolved or does not exist: the folder above is the one that is meant.
            Component::ParentDir => {
                resolved.pop();
                exists = true;
            }
            Component::CurDir => {}
            other => resolved.push(other),
        }
        if exists {
            match resolved.canonicalize() {
                Ok(real) => resolved = real,
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
                {
                    exists = false;
                }
                Err(error) => return Err(error),
            }
        }
    }
    Ok(resolved)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_and_dots_are_seen_through() {
        let work = tempfile::tempdir().expect("a folder");
        let root = work.path().canonicalize().expect("it exists");
        std::fs::create_dir_all(root.join("site/store")).expect("made");
        std::os::unix::fs::symlink(root.join("site"), root.join("link")).expect("linked");
        for (path, real) in [
            ("site/store", "site/store"),
            ("link/store/new/deep", "site/store/new/deep"),
            ("site/../link/./new", "site/new"),
            ("new/../link/store", "site/store"),
            ("new/inside", "new/inside"),
        ] {
            assert_eq!(resolve(&root.join(path)).expect(path), root.join(real), "{path}");
        }
    }

    #[test]
    fn names_that_only_begin_alike_do_not_meet() {
        let how = |path: &str| meets(Path::new(path), Path::new("/a/site"));
        assert_eq!(how("/a/site"), Some("is"));
        assert_eq!(how("/a/site/store"), Some("lies in"));
        assert_eq!(how("/a"), Some("holds"));
        assert_eq!(how("/"), Some("holds"));
        assert_eq!(how("/a/site2"), None);
        assert_eq!(how("/a/other"), None);
    }
}
