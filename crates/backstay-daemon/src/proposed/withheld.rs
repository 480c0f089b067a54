//! Withheld: what of a restore point this site keeps and does not apply, because its operator has not accepted it.
//!
//! 1. Where a plan was made, a volume is applied that the plan lists there, as what it is listed as; for a plan over
//!    namespaces, those of its claims as well.
//! 2. Elsewhere nothing is withheld: replicas are where that site's own configuration says.

use std::collections::BTreeSet;

use backstay_types::VolumeName;
use backstay_types::manifest::VolumeKind;
use backstay_types::point::{PointVolume, RestorePoint};
use serde::{Deserialize, Serialize};

use crate::DaemonError;
use crate::plans::PlanRecord;
use crate::site::Site;

/// What is kept and not applied.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Withheld {
    /// Volumes.
    pub(crate) volumes: BTreeSet<VolumeName>,
    /// Namespaces of the cluster beside this site, by the names they have there.
    pub(crate) namespaces: BTreeSet<String>,
    /// The objects of a folder, where the plan has none.
    pub(crate) manifests: bool,
}

impl Withheld {
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// `volume data`, `namespace shop`, `manifests`.
    pub(crate) fn names(&self) -> Vec<String> {
        let volumes = self.volumes.iter().map(|name| format!("volume {name}"));
        let namespaces = self.namespaces.iter().map(|name| format!("namespace {name}"));
        let manifests = self.manifests.then(|| "manifests".to_owned());
        volumes.chain(namespaces).chain(manifests).collect()
    }
}

impl Site {
    /// What of a restore point is not applied here.
    pub(crate) fn withheld(
        &self,
        record: &PlanRecord,
        point: &RestorePoint,
    ) -> Result<Withheld, DaemonError> {
        let mut withheld = Withheld::default();
        if !record.home {
            return Ok(withheld);
        }
        let volumes = point.volumes.iter().filter(|volume| !accepts(record, volume));
        withheld.volumes.extend(volumes.map(|volume| volume.name.clone()));
        withheld.manifests =
            point.bundle.is_some() && record.spec.manifests.is_none() && !record.spec.covers_cluster();
        Ok(withheld)
    }
}

/// Whether the operator of the site where the plan was made has named this volume, as what it is.
fn accepts(record: &PlanRecord, volume: &PointVolume) -> bool {
    match record.spec.volumes.iter().find(|listed| listed.name == volume.name) {
        Some(listed) => (volume.kind == VolumeKind::Block) == listed.device.is_some(),
        None => record.spec.covers_cluster(),
    }
}
