//! Where the volumes and objects of a plan are on this site.
//!
//! Where the plan was made, they are where the plan says; on the other side they are replicas of this site's own. A
//! side keeps its places whatever its role: what was the source is what the next restore point is applied to, and what
//! was the replica is what the next cycle reads.

use std::path::{Path, PathBuf};

use backstay_types::plan::{ManifestFolder, SnapshotKind, SnapshotSpec, VolumeSpec};
use backstay_types::{PlanName, VolumeName};

use crate::config::SiteConfig;
use crate::plans::PlanRecord;
use crate::site::{Site, layout};

/// Finds the places of one site.
pub(crate) struct Places<'a> {
    pub(crate) dir: &'a Path,
    pub(crate) config: &'a SiteConfig,
}

impl Places<'_> {
    /// Where a volume of a plan is.
    pub(crate) fn volume(
        &self,
        record: Option<&PlanRecord>,
        plan: &PlanName,
        volume: &VolumeName,
    ) -> PathBuf {
        let listed = record.filter(|record| record.home).and_then(|record| {
            let listed = record.spec.volumes.iter().find(|listed| listed.name == *volume)?;
            listed.path.clone().or_else(|| listed.device.clone())
        });
        let claimed = || record?.claims.get(volume).map(|path| self.config.on_host(path));
        let mapped = || self.config.replica(plan, volume).map(Path::to_owned);
        listed
            .or_else(claimed)
            .or_else(mapped)
            .unwrap_or_else(|| self.dir.join(layout::REPLICAS).join(plan.as_str()).join(volume.as_str()))
    }

    /// Where the objects of a plan are.
    pub(crate) fn manifests(&self, record: Option<&PlanRecord>, plan: &PlanName) -> PathBuf {
        let own = record.filter(|record| record.home).and_then(|record| record.spec.manifests.as_ref());
        let mapped = || self.config.manifest_folder(plan).map(Path::to_owned);
        own.map(|folder| folder.path.clone())
            .or_else(mapped)
            .unwrap_or_else(|| self.dir.join(layout::MANIFESTS).join(plan.as_str()))
    }
}

impl Site {
    /// Where a volume of a plan is on this site.
    pub(crate) fn place(&self, plan: &PlanName, volume: &VolumeName) -> PathBuf {
        let config = self.config.load();
        Places { dir: &self.dir, config: &config }.volume(self.plans.find(plan).as_deref(), plan, volume)
    }

    /// Where the objects of a plan are on this site.
    pub(crate) fn manifests(&self, plan: &PlanName) -> PathBuf {
        let config = self.config.load();
        Places { dir: &self.dir, config: &config }.manifests(self.plans.find(plan).as_deref(), plan)
    }

    /// The volumes that a plan lists, as a cycle of this site reads them.
    pub(crate) fn listed_volumes(&self, record: &PlanRecord) -> Vec<VolumeSpec> {
        let here = |listed: &VolumeSpec| {
            if record.home {
                return listed.clone();
            }
            let place = self.place(&record.name, &listed.name);
            let (path, device) =
                if listed.device.is_some() { (None, Some(place)) } else { (Some(place), None) };
            // How the home takes its snapshots is nothing to a replica: neither its commands nor its subvolumes are here.
            let provider = match listed.snapshot.provider {
                SnapshotKind::None => SnapshotKind::None,
                _ => SnapshotKind::Auto,
            };
            let snapshot = SnapshotSpec { provider, ..SnapshotSpec::default() };
            VolumeSpec { name: listed.name.clone(), path, device, snapshot }
        };
        record.spec.volumes.iter().map(here).collect()
    }

    /// Where all volumes of a plan are on this site: those that it lists, and those behind its claims.
    pub(crate) fn own_places(&self, record: &PlanRecord) -> Vec<PathBuf> {
        let listed = record.spec.volumes.iter().map(|listed| self.place(&record.name, &listed.name));
        let claims = record.claims.keys().map(|name| self.place(&record.name, name));
        listed.chain(claims).collect()
    }

    /// The manifest folder that a cycle of this site captures.
    pub(crate) fn listed_manifests(&self, record: &PlanRecord) -> Option<ManifestFolder> {
        record.spec.manifests.as_ref().map(|_| ManifestFolder { path: self.manifests(&record.name) })
    }
}
