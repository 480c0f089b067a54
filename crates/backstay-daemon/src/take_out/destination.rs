//! Where a restore writes to: a folder of the operator's that is empty or does not exist.

use std::fs;
use std::io;
use std::path::Path;

use backstay_volume::VolumeError;

use crate::DaemonError;

/// Whether there is an empty folder at `to` already; an error if there is anything else.
pub(super) fn check(to: &Path) -> Result<bool, DaemonError> {
    let fail = |source| DaemonError::Destination { path: to.display().to_string(), source };
    match fs::metadata(to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(fail(source)),
        Ok(meta) if !meta.is_dir() => Err(fail(io::ErrorKind::NotADirectory.into())),
        Ok(_) => match fs::read_dir(to).map_err(fail)?.next() {
            None => Ok(true),
            Some(_) => Err(VolumeError::NotEmpty { path: to.display().to_string() }.into()),
        },
    }
}

/// A restore reads from the store only: what a system call refused it was where it writes to.
pub(super) fn blamed(error: VolumeError) -> DaemonError {
    match error {
        VolumeError::Io { path, source, .. } => DaemonError::Destination { path, source },
        other => other.into(),
    }
}
