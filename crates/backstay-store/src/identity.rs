//! Which store a site's restore points are in: a place that is not mounted is no empty store.
//!
//! ```text
//! STORE/store-id      the store's own name, made with it
//! DIR/store-id        the store that holds, or held, restore points of this site
//! STORE/begin-anew    made by hand: whatever was before, this store is the site's from now on
//! ```
//! 1. A site that has had restore points opens no store of another name, nor one without a name
//!    (test `a_store_that_is_not_mounted_is_refused`).
//! 2. Nothing is made in a folder that is refused, so that what is mounted over it hides nothing.
//! 3. A site from before these files is taken by what its catalog knows: restore points of which no file is there are
//!    not mounted; else the store gets its name (test `a_store_of_before_gets_its_name`).
//!
//! At a crash between the two files the store has its name and the site none: the next open, or commit, writes it.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::disk::Disk;
use crate::inner::Inner;
use crate::{StoreConfig, StoreError};

const FILE: &str = "store-id";
/// Made by hand in a store that is to be the site's from now on.
pub(crate) const BEGIN_ANEW: &str = "begin-anew";
/// A name is 32 characters and an end of line; a file that goes on is not one.
const FILE_BYTES_MAX: u64 = 64;

/// What the two files say.
#[derive(Debug)]
pub(crate) struct Identity {
    /// The store's name.
    own: Option<String>,
    /// The name that the site remembers.
    remembered: Option<String>,
    begins_anew: bool,
}

/// Whether the site remembers its store.
#[derive(Debug, Default)]
pub(crate) struct Remembered(AtomicBool);

impl Identity {
    /// Looks at a store before anything is made in it.
    pub(crate) fn look(config: &StoreConfig) -> Result<Self, StoreError> {
        let root = config.root();
        let begins_anew = root.join(BEGIN_ANEW).exists();
        let identity = Self { own: read(&root.join(FILE))?, remembered: read(&mark(config))?, begins_anew };
        match &identity.remembered {
            Some(remembered) if !begins_anew && identity.own.as_ref() != Some(remembered) => {
                Err(StoreError::OtherStore { path: root, expected: remembered.clone(), found: identity.own })
            }
            _ => Ok(identity),
        }
    }

    /// The same by what the catalog knows, for a site that remembers nothing yet.
    pub(crate) fn check_catalog(
        &self,
        config: &StoreConfig,
        points_known: usize,
        points_there: usize,
    ) -> Result<(), StoreError> {
        let is_unknown = self.own.is_none() && self.remembered.is_none() && !self.begins_anew;
        if is_unknown && points_known > 0 && points_there == 0 {
            return Err(StoreError::StoreGone { path: config.root(), points: points_known });
        }
        Ok(())
    }

    /// Gives the store its name, and has the site remember it if it holds restore points.
    pub(crate) fn settle(self, inner: &Inner, has_points: bool) -> Result<(), StoreError> {
        let root = inner.layout.root();
        if self.own.is_none() {
            let name: [u8; 16] = rand::random();
            let name = format!("{:032x}\n", u128::from_be_bytes(name));
            inner.disk.publish(&root.join(FILE), name.as_bytes())?;
        }
        let is_remembered = self.remembered.is_some() && !self.begins_anew;
        inner.remembered.0.store(is_remembered, Ordering::Relaxed);
        if has_points || self.begins_anew {
            remember(inner)?;
        }
        if self.begins_anew {
            tracing::warn!(path = %root.display(), "the store begins anew, as was asked for; what an earlier one held is elsewhere");
            inner.disk.remove(&root.join(BEGIN_ANEW))?;
        }
        Ok(())
    }
}

/// Has the site remember its store, before its first restore point is made there.
pub(crate) fn remember(inner: &Inner) -> Result<(), StoreError> {
    if inner.remembered.0.load(Ordering::Relaxed) {
        return Ok(());
    }
    let Some(name) = read(&inner.layout.root().join(FILE))? else { return Ok(()) };
    let is_written = write_mark(&inner.disk, &mark(&inner.config), &name)?;
    inner.remembered.0.store(is_written, Ordering::Relaxed);
    Ok(())
}

/// Whether it is written now.
fn write_mark(disk: &Disk, path: &Path, name: &str) -> Result<bool, StoreError> {
    match disk.publish(path, format!("{name}\n").as_bytes()) {
        Ok(()) => Ok(true),
        // The catalog knows the points as well; it is tried again at the next commit.
        Err(error @ StoreError::NoSpace { .. }) => {
            tracing::warn!(%error, "the site does not remember its store yet");
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

fn mark(config: &StoreConfig) -> PathBuf {
    config.dir.join(FILE)
}

fn read(path: &Path) -> Result<Option<String>, StoreError> {
    let mut text = String::new();
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(source) => return Err(StoreError::io("read", path, source)),
    };
    file.take(FILE_BYTES_MAX)
        .read_to_string(&mut text)
        .map_err(|source| StoreError::io("read", path, source))?;
    Ok(Some(text.trim().to_owned()))
}
