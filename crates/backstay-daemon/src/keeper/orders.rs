//! What the daemon writes down for whoever has to act in its place: `PLAN/keeper.json`, and what a watcher tells back:
//! `PLAN/keeper-held.json`. Both are 0600 and replaced whole.
//!
//! Orders are there before the lease can be taken by anybody, for as long as this side may run the plan. They are apart
//! from `lease.json`, so that what to hold is known even where that cannot be read, and apart from `plan.json`, so that a
//! keeper reads them whatever the version of the daemon.

use std::path::{Path, PathBuf};

use backstay_engine::lease::{Kept, Party, Terms};
use backstay_types::plan::{AutomaticFailover, HostHold};
use backstay_types::{Epoch, PairId, PlanName, SiteId, Span};
use serde::{Deserialize, Serialize};

use super::plan_folder;
use crate::config::{WitnessConfig, WitnessUrl};
use crate::site::layout;
use crate::{DaemonError, files};

/// Name of the file in the plan's folder.
const FILE: &str = "keeper.json";

/// How a plan that is active here is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Orders {
    pub(crate) plan: PlanName,
    pub(crate) pair: PairId,
    pub(crate) site: SiteId,
    pub(crate) epoch: Epoch,
    /// Of the plan; of the lease that is to be given back, if it wants none any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) after: Option<Span>,
    /// Whether automatic failover is wanted, or the lease is to be given back.
    pub(crate) wanted: bool,
    /// What to hold, as this site says.
    pub(crate) hold: HostHold,
    /// Who is asked; nobody if none is set up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) witness: Option<WitnessOrders>,
    /// A higher epoch is known, or the plan is given away: it is held at once, and stays held.
    #[serde(default)]
    pub(crate) fenced: bool,
    /// Whether what the lease had held may be let go without the daemon.
    #[serde(default)]
    pub(crate) may_let_go: bool,
}

/// `[witness]` of `site.toml`, as it was when the orders were given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WitnessOrders {
    url: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token_file: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kubeconfig: Option<PathBuf>,
}

impl WitnessOrders {
    pub(crate) fn of(config: &WitnessConfig) -> Self {
        Self {
            url: config.url.to_string(),
            token_file: config.token_file.clone(),
            kubeconfig: config.kubeconfig.clone(),
        }
    }

    /// The settings again.
    pub(crate) fn config(&self) -> Option<WitnessConfig> {
        let url: WitnessUrl = self.url.parse().ok()?;
        let (token_file, kubeconfig) = (self.token_file.clone(), self.kubeconfig.clone());
        Some(WitnessConfig { url, token_file, kubeconfig })
    }
}

impl Orders {
    /// Those of a plan, if there are any.
    pub(crate) fn load(folder: &Path) -> Result<Option<Self>, DaemonError> {
        files::read_json(&Self::path(folder))
    }

    pub(crate) fn path(folder: &Path) -> PathBuf {
        folder.join(FILE)
    }

    pub(crate) fn store(&self, folder: &Path) -> Result<(), DaemonError> {
        files::write_json(&Self::path(folder), self)
    }

    pub(crate) fn forget(folder: &Path) -> Result<(), DaemonError> {
        files::remove(&Self::path(folder))
    }

    /// The times of the plan, with what binds this side.
    pub(super) fn terms(&self, kept: &Kept) -> Terms {
        Terms::new(self.after.or(kept.bound).unwrap_or(AutomaticFailover::AFTER_MIN))
    }

    /// Who this side is to its lease.
    pub(super) fn party(&self, kept: &Kept) -> Party {
        Party { plan: self.plan.clone(), site: self.site, epoch: self.epoch, terms: self.terms(kept) }
    }
}

/// The orders of every plan that has some, and why others cannot be read.
pub(super) fn all(dir: &Path) -> (Vec<Orders>, Vec<DaemonError>) {
    let folder = dir.join(layout::PLANS);
    let (mut found, mut failures) = (Vec::new(), Vec::new());
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        // A site that never had a plan.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return (found, failures),
        Err(source) => return (found, vec![DaemonError::io("list", &folder, source)]),
    };
    for entry in entries {
        let loaded = entry
            .map_err(|source| DaemonError::io("list", &folder, source))
            .and_then(|entry| if entry.path().is_dir() { Orders::load(&entry.path()) } else { Ok(None) });
        match loaded {
            Ok(orders) => found.extend(orders),
            Err(error) => failures.push(error),
        }
    }
    (found, failures)
}

/// That what runs here was held by somebody who does not let go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Note {
    /// Who held.
    pub(crate) by: String,
    /// Why.
    pub(crate) why: String,
}

impl Note {
    pub(crate) fn path(folder: &Path) -> PathBuf {
        folder.join("keeper-held.json")
    }

    pub(super) fn of(dir: &Path, plan: &PlanName) -> PathBuf {
        Self::path(&plan_folder(dir, plan))
    }
}
