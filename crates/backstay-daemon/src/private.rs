//! Private: nobody but the daemon's user may enter the state of a site, whatever its folder was before.
//!
//! 1. At every start the site's folder and those in it are 0700, and the small files of its state 0600; what was wider
//!    is tightened and told (test `state_is_private_whatever_the_folder_was`).
//! 2. What is made later is as narrow: the daemon's umask is 077. A place that site.toml names outside the site's folder is
//!    for others to reach, so the apply makes what leads to it as `mkdir -p` would.
//!
//! What is inside replicas, drills and volumes has the modes of its source.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::Mode;

use crate::site::layout;
use crate::{DaemonError, files};

/// Folders whose contents are state. Those of the others are data, and their modes are the source's.
const STATE: [&str; 6] =
    [layout::IDENTITY, layout::PAIRS, layout::PLANS, layout::SENT, layout::MANIFESTS, "catalog"];

/// `sent/PLAN/VOLUME/current/…` is the deepest.
const DEPTH_MAX: usize = 6;

/// Makes what the daemon creates from now on its own.
pub(crate) fn set_umask() {
    rustix::process::umask(Mode::from_raw_mode(0o077));
}

/// Tightens the modes of a site's state.
pub(crate) fn tighten(dir: &Path) -> Result<(), DaemonError> {
    narrow(dir, 0o700)?;
    for (path, is_folder) in entries(dir)? {
        narrow(&path, if is_folder { 0o700 } else { 0o600 })?;
        let is_state = path.file_name().is_some_and(|name| STATE.iter().any(|state| name == *state));
        if is_folder && is_state {
            tighten_below(&path, DEPTH_MAX)?;
        }
    }
    Ok(())
}

fn tighten_below(folder: &Path, depth: usize) -> Result<(), DaemonError> {
    for (path, is_folder) in entries(folder)? {
        narrow(&path, if is_folder { 0o700 } else { 0o600 })?;
        if is_folder && depth > 0 {
            tighten_below(&path, depth - 1)?;
        }
    }
    Ok(())
}

/// Files and folders; a link has no mode of its own, and a socket is bound anew.
fn entries(folder: &Path) -> Result<Vec<(PathBuf, bool)>, DaemonError> {
    let fail = |source| DaemonError::io("list", folder, source);
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let kind = entry.file_type().map_err(fail)?;
        if kind.is_dir() || kind.is_file() {
            found.push((entry.path(), kind.is_dir()));
        }
    }
    Ok(found)
}

/// Takes away what is wider than `mode`.
fn narrow(path: &Path, mode: u32) -> Result<(), DaemonError> {
    let fail = |source| DaemonError::io("make private", path, source);
    let meta = match fs::symlink_metadata(path) {
        Ok(meta) => meta,
        // The catalog's own files come and go.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(fail(error)),
    };
    let found = meta.permissions().mode() & 0o7777;
    if found & !mode == 0 {
        return Ok(());
    }
    match fs::set_permissions(path, Permissions::from_mode(found & mode)) {
        Ok(()) => {
            tracing::warn!(
                "{} was open to others ({found:04o}): it is {:04o} now",
                path.display(),
                found & mode
            );
            Ok(())
        }
        // A folder that somebody else owns, given to the daemon's group: a standby that does not start helps nobody.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            tracing::error!(
                "{} is open to others ({found:04o}), and not ours to close: {error}",
                path.display()
            );
            Ok(())
        }
        Err(error) => Err(fail(error)),
    }
}

/// Makes what leads to a place of a replica in the site's own folder. Elsewhere an apply makes it, as others expect it.
pub(crate) fn make_way(site: &Path, place: &Path) -> Result<(), DaemonError> {
    match place.parent().filter(|_| place.starts_with(site)) {
        Some(parent) => files::make_folder(parent),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_is_private_whatever_the_folder_was() {
        let work = tempfile::tempdir().expect("a folder");
        let path = |name: &str| work.path().join(name);
        let mode = |name: &str| fs::metadata(path(name)).expect("there").permissions().mode() & 0o7777;
        fs::create_dir_all(path("sent/shop/data")).expect("made");
        fs::create_dir_all(path("replicas/shop/data")).expect("made");
        for name in ["site.toml", "sent/shop/data/current", "replicas/shop/data/app"] {
            fs::write(path(name), "x").expect("written");
        }
        for name in ["", "sent", "sent/shop", "replicas", "replicas/shop/data"] {
            fs::set_permissions(path(name), Permissions::from_mode(0o755)).expect("set");
        }
        for name in ["site.toml", "sent/shop/data/current", "replicas/shop/data/app"] {
            fs::set_permissions(path(name), Permissions::from_mode(0o644)).expect("set");
        }
        tighten(work.path()).expect("tightened");
        for name in ["", "sent", "sent/shop", "replicas"] {
            assert_eq!(mode(name), 0o700, "{name}");
        }
        assert_eq!((mode("site.toml"), mode("sent/shop/data/current")), (0o600, 0o600));
        // A replica is as its source is.
        assert_eq!((mode("replicas/shop/data"), mode("replicas/shop/data/app")), (0o755, 0o644));
    }

    #[test]
    fn the_way_to_a_place_inside_is_private() {
        let work = tempfile::tempdir().expect("a folder");
        let site = work.path().join("site");
        make_way(&site, &work.path().join("srv/shop/data")).expect("nothing to do");
        make_way(&site, &site.join("replicas/shop/data")).expect("made");
        let mode =
            |path: &str| fs::metadata(work.path().join(path)).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode("site/replicas"), mode("site/replicas/shop")), (0o700, 0o700));
        assert!(!work.path().join("srv").exists() && !site.join("replicas/shop/data").exists());
    }
}
