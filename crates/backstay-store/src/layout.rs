//! Names of the files of a store.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use backstay_types::{PackId, PlanName, RestorePointId};

use crate::StoreError;
use crate::disk::{self, Disk, TEMP_SUFFIX};

/// Paths below the store's folder.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    root: PathBuf,
}

/// What a folder of packs holds.
#[derive(Debug, Default)]
pub(crate) struct PacksFound {
    pub(crate) sealed: Vec<(PackId, u64)>,
    pub(crate) open: Vec<PackId>,
}

impl Layout {
    /// Makes the folders.
    pub(crate) fn create(root: PathBuf, disk: &Disk) -> Result<Self, StoreError> {
        for name in ["packs", "runs", "points"] {
            disk.make_dir(&root.join(name))?;
        }
        Ok(Self { root })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// A sealed pack.
    pub(crate) fn pack(&self, pack: PackId) -> PathBuf {
        self.pack_file(pack, "pack")
    }

    /// A pack being written.
    pub(crate) fn open_pack(&self, pack: PackId) -> PathBuf {
        self.pack_file(pack, "open")
    }

    fn pack_file(&self, pack: PackId, suffix: &str) -> PathBuf {
        let folder = format!("{:02x}", pack.0 & 0xff);
        self.root.join("packs").join(folder).join(format!("{pack}.{suffix}"))
    }

    pub(crate) fn runs(&self) -> PathBuf {
        self.root.join("runs")
    }

    pub(crate) fn run(&self, seq: u64) -> PathBuf {
        self.runs().join(format!("{seq:08}.run"))
    }

    pub(crate) fn plan(&self, plan: &PlanName) -> PathBuf {
        self.root.join("points").join(plan.as_str())
    }

    pub(crate) fn point(&self, plan: &PlanName, id: RestorePointId) -> PathBuf {
        self.plan(plan).join(format!("{id}.rp"))
    }

    /// Every pack file. Files with other names are named in the log and left alone.
    pub(crate) fn list_packs(&self) -> Result<PacksFound, StoreError> {
        let mut found = PacksFound::default();
        for folder in disk::list(&self.root.join("packs"))? {
            for path in disk::list(&folder)? {
                let number =
                    stem(&path).filter(|s| s.len() == 8).and_then(|s| u32::from_str_radix(s, 16).ok());
                match (number.map(PackId), path.extension().and_then(OsStr::to_str)) {
                    (Some(pack), Some("pack")) if self.pack(pack) == path => {
                        let meta = path.metadata().map_err(|e| StoreError::io("look at", &path, e))?;
                        found.sealed.push((pack, meta.len()));
                    }
                    (Some(pack), Some("open")) if self.open_pack(pack) == path => found.open.push(pack),
                    _ => tracing::warn!(path = %path.display(), "a file that is not a pack is left alone"),
                }
            }
        }
        found.sealed.sort_unstable();
        found.open.sort_unstable();
        Ok(found)
    }

    /// Every restore-point file by plan and id. Temporary files are removed.
    pub(crate) fn list_points(&self) -> Result<Vec<(PlanName, RestorePointId)>, StoreError> {
        let mut found = Vec::new();
        for folder in disk::list(&self.root.join("points"))? {
            let Some(plan) =
                folder.file_name().and_then(OsStr::to_str).and_then(|n| n.parse::<PlanName>().ok())
            else {
                tracing::warn!(path = %folder.display(), "a folder that is not a plan's is left alone");
                continue;
            };
            for path in disk::list(&folder)? {
                let id = stem(&path).and_then(|s| s.parse::<RestorePointId>().ok());
                match (id, path.extension().and_then(OsStr::to_str)) {
                    (Some(id), Some("rp")) => found.push((plan.clone(), id)),
                    (_, Some(TEMP_SUFFIX)) => disk::remove_file(&path)?,
                    _ => {
                        tracing::warn!(path = %path.display(), "a file that is not a restore point is left alone")
                    }
                }
            }
        }
        Ok(found)
    }

    /// Every run by number. Temporary files are removed.
    pub(crate) fn list_runs(&self) -> Result<Vec<u64>, StoreError> {
        let mut found = Vec::new();
        for path in disk::list(&self.runs())? {
            let seq = stem(&path).and_then(|s| s.parse::<u64>().ok());
            match (seq, path.extension().and_then(OsStr::to_str)) {
                (Some(seq), Some("run")) if self.run(seq) == path => found.push(seq),
                (_, Some(TEMP_SUFFIX)) => disk::remove_file(&path)?,
                _ => tracing::warn!(path = %path.display(), "a file that is not an index run is left alone"),
            }
        }
        found.sort_unstable();
        Ok(found)
    }
}

fn stem(path: &Path) -> Option<&str> {
    path.file_stem().and_then(OsStr::to_str)
}
