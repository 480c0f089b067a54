//! Rebuilding the catalog from packs and restore-point files, with the daemon stopped.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::catalog::{Catalog, Change};
use crate::disk::{self, Disk};
use crate::identity::Identity;
use crate::inner::lock;
use crate::layout::Layout;
use crate::open::{move_aside, open};
use crate::{StoreConfig, StoreError};

/// What a rebuild found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RebuildReport {
    /// Packs taken up.
    pub packs: u64,
    /// Chunks in them.
    pub chunks: u64,
    /// Restore points taken up.
    pub points: u64,
    /// Restore-point files that cannot be read.
    pub unreadable_points: Vec<String>,
    /// Packs whose structure is damaged.
    pub damaged_packs: Vec<String>,
    /// Patches whose base is gone; they will be asked for again.
    pub dangling_patches: u64,
    /// Values of the daemon's state carried over from the old catalog, which are nowhere else.
    pub state_kept: u64,
    /// Where the old catalog was moved, if there was one.
    pub old_catalog: Option<PathBuf>,
}

impl fmt::Display for RebuildReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "rebuilt from {} packs with {} chunks: {} restore points",
            self.packs, self.chunks, self.points
        )?;
        for (what, files) in [("unreadable", &self.unreadable_points), ("damaged", &self.damaged_packs)] {
            files.iter().try_for_each(|file| write!(f, "\n{what}: {file}"))?;
        }
        if self.dangling_patches > 0 {
            write!(f, "\n{} patches without their base will be asked for again", self.dangling_patches)?;
        }
        match &self.old_catalog {
            Some(path) => write!(f, "\nthe old catalog is kept at {}", path.display()),
            None => Ok(()),
        }
    }
}

/// Rebuilds the catalog and the index of a store that nobody has open.
pub(crate) fn rebuild(config: StoreConfig) -> Result<RebuildReport, StoreError> {
    let disk = Arc::new(Disk::default());
    Identity::look(&config)?;
    let layout = Layout::create(config.root(), &disk)?;
    let old_catalog = {
        let _lock = disk::lock(layout.root())?;
        let kept = keep_from_old(&config, &disk)?;
        let old_catalog = move_aside(&config.catalog(), "replaced", (config.clock)())?;
        for seq in layout.list_runs()? {
            disk::remove_file(&layout.run(seq))?;
        }
        Catalog::open(&config.catalog(), &disk)?.write(&kept)?;
        (old_catalog, kept.iter().filter(|change| matches!(change, Change::State(..))).count() as u64)
    };
    let (old_catalog, state_kept) = old_catalog;
    let inner = open(config)?;
    inner.tidy_index(1)?;
    let state = inner.index.read();
    Ok(RebuildReport {
        packs: state.packs().len() as u64,
        chunks: state.count(),
        points: inner.points.count(),
        unreadable_points: inner.points.unreadable().into_iter().map(|(_, _, why)| why).collect(),
        damaged_packs: lock(&inner.bad_packs).iter().map(|(pack, why)| format!("{pack}: {why}")).collect(),
        dangling_patches: state.bad().len() as u64,
        state_kept,
        old_catalog,
    })
}

/// What is nowhere but in the catalog: the daemon's state, and which restore points are known to be damaged.
fn keep_from_old(config: &StoreConfig, disk: &Arc<Disk>) -> Result<Vec<Change>, StoreError> {
    if !config.catalog().is_dir() {
        return Ok(Vec::new());
    }
    let contents = match Catalog::open(&config.catalog(), disk).and_then(|catalog| catalog.load()) {
        Ok(contents) => contents,
        Err(error) => {
            tracing::error!(%error, "nothing can be carried over from the old catalog");
            return Ok(Vec::new());
        }
    };
    let state = contents.state.into_iter().map(|(key, value)| Change::State(key, value));
    let damage = contents.damage.into_iter().map(|((plan, id), why)| Change::Damaged(plan, id, why));
    // Without this, a pack whose deletion was not finished would come back.
    let dead = contents.dead.into_iter().map(Change::Dead);
    Ok(state.chain(damage).chain(dead).collect())
}
