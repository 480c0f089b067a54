//! Withheld: what of a restore point this site keeps and does not apply, because its operator has not accepted it.
//!
//! 1. Where a plan was made, a volume is applied that the plan lists there, as what it is listed as; for a plan over
//!    namespaces, those of its claims as well.
//! 2. Of the objects of a plan over namespaces those are applied that are in its namespaces, as this side calls them: those it
//!    names, those that its selector finds in this cluster, and new ones that it would find.
//! 3. Elsewhere nothing is withheld: replicas are where that site's own configuration says.

use std::collections::{BTreeMap, BTreeSet};

use backstay_kube::Touched;
use backstay_kube::cluster::{ClusterError, Scope, volume_names, volumes_of};
use backstay_kube::folder::CapturedObject;
use backstay_types::VolumeName;
use backstay_types::manifest::VolumeKind;
use backstay_types::plan::{LabelSelector, PlanSpec};
use backstay_types::point::{PointVolume, RestorePoint};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::runtime::Handle;

use crate::DaemonError;
use crate::clusters::{at_home, own_names};
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
        if record.spec.covers_cluster() {
            self.withhold_namespaces(record, point, &mut withheld)?;
        } else {
            withheld.manifests = point.bundle.is_some() && record.spec.manifests.is_none();
        }
        Ok(withheld)
    }

    /// The objects of a restore point that may be applied here.
    pub(crate) fn accepted_objects(
        &self,
        record: &PlanRecord,
        point: &RestorePoint,
        objects: Vec<CapturedObject>,
    ) -> Result<Vec<CapturedObject>, DaemonError> {
        let withheld = self.withheld(record, point)?.namespaces;
        if withheld.is_empty() {
            return Ok(objects);
        }
        let touched = Touched::among(&objects);
        let names = HomeNames::of(&record.spec);
        let is_accepted = |object: &CapturedObject| {
            touched.namespace(object).is_none_or(|namespace| !withheld.contains(names.home(&namespace)))
        };
        Ok(objects.into_iter().filter(is_accepted).collect())
    }

    fn withhold_namespaces(
        &self,
        record: &PlanRecord,
        point: &RestorePoint,
        withheld: &mut Withheld,
    ) -> Result<(), DaemonError> {
        let objects = self.bundle(point)?;
        let touched = Touched::among(&objects);
        let names = HomeNames::of(&record.spec);
        let found: BTreeSet<String> = objects
            .iter()
            .filter_map(|object| touched.namespace(object))
            .map(|namespace| names.home(&namespace).to_owned())
            .collect();
        let unnamed: BTreeSet<String> =
            found.into_iter().filter(|namespace| !record.spec.namespaces.contains(namespace)).collect();
        if unnamed.is_empty() {
            return Ok(());
        }
        let selected = match &record.spec.namespace_selector {
            Some(selector) => self.selected(record, selector, &unnamed, &objects),
            None => BTreeSet::new(),
        };
        withheld.namespaces = unnamed.difference(&selected).cloned().collect();
        let claims = at_home(&record.spec, &volumes_of(&objects));
        let of_claims = volume_names(&claims, &own_names(&record.spec)).into_iter();
        let of_claims = of_claims.filter(|(_, claim)| withheld.namespaces.contains(&claim.namespace));
        withheld.volumes.extend(of_claims.map(|(name, _)| name));
        Ok(())
    }

    /// Those of `unnamed` that the selector of the plan means: by the labels they have in this cluster, which are its
    /// operator's; of one that is not here, by those it comes with. While the cluster does not answer, none. Blocks.
    fn selected(
        &self,
        record: &PlanRecord,
        selector: &LabelSelector,
        unnamed: &BTreeSet<String>,
        objects: &[CapturedObject],
    ) -> BTreeSet<String> {
        let names = HomeNames::of(&record.spec);
        let of_bundle = objects.iter().filter_map(|object| {
            let value: Value = serde_json::from_slice(&object.bytes).ok()?;
            let is_namespace = value.get("kind")?.as_str()? == "Namespace";
            let label = |label: &str| value.pointer("/metadata/labels")?.get(label)?.as_str();
            let name = value.pointer("/metadata/name")?.as_str()?;
            (is_namespace && selector.matches(label)).then(|| names.home(name).to_owned())
        });
        let new: BTreeSet<String> = of_bundle.collect();
        let ask = async {
            let cluster = self.cluster().await?;
            let mut selected = BTreeSet::new();
            for namespace in unnamed {
                let by_label = Scope { namespace_selector: Some(selector.clone()), ..Scope::default() };
                let by_name = Scope { namespaces: vec![namespace.clone()], ..Scope::default() };
                let is_here = match cluster.namespaces_of(&by_name).await {
                    Ok(_) => true,
                    Err(ClusterError::NoNamespace { .. }) => false,
                    Err(error) => return Err(DaemonError::from(error)),
                };
                let is_meant = match cluster.namespaces_of(&by_label).await {
                    Ok(found) => found.contains(namespace),
                    Err(ClusterError::NothingSelected) => false,
                    Err(error) => return Err(DaemonError::from(error)),
                };
                if is_meant || (!is_here && new.contains(namespace)) {
                    selected.insert(namespace.clone());
                }
            }
            Ok::<_, DaemonError>(selected)
        };
        Handle::current().block_on(ask).unwrap_or_else(|error| {
            tracing::warn!(plan = %record.name, "the cluster does not tell its namespaces: {error}");
            BTreeSet::new()
        })
    }
}

/// Namespaces by the names they have where the plan was made.
struct HomeNames<'a>(BTreeMap<&'a str, &'a str>);

impl<'a> HomeNames<'a> {
    fn of(spec: &'a PlanSpec) -> Self {
        Self(spec.namespace_mapping.iter().map(|(home, there)| (there.as_str(), home.as_str())).collect())
    }

    fn home<'n>(&self, name: &'n str) -> &'n str
    where
        'a: 'n,
    {
        self.0.get(name).copied().unwrap_or(name)
    }
}

/// Whether the operator of the site where the plan was made has named this volume, as what it is.
fn accepts(record: &PlanRecord, volume: &PointVolume) -> bool {
    match record.spec.volumes.iter().find(|listed| listed.name == volume.name) {
        Some(listed) => (volume.kind == VolumeKind::Block) == listed.device.is_some(),
        None => record.spec.covers_cluster(),
    }
}
