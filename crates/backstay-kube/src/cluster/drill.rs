//! Drills: the objects of a restore point started in namespaces of their own, which reach nothing outside.
//!
//! 1. Namespaces and a NetworkPolicy that closes egress stand in each before anything else is made in it; where they
//!    cannot be made, nothing is (test suite `kube`, `a_drill_has_namespaces_of_its_own`).
//! 2. Nothing of the standby is touched: what would have its name is left out, and told ([`isolate`]).
//! 3. Everything cluster-scoped that is made carries [`DRILL_LABEL`]; [`Cluster::end_drill`] deletes by it alone, and may be
//!    repeated.
//!
//! Whether egress is closed is up to the network plugin: one that knows no NetworkPolicies leaves it open.

mod fence;
mod isolate;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use backstay_types::plan::PlanSpec;
use backstay_types::{Class, PlanName, RestorePointId};
use http::Method;
use serde_json::Value;

use super::Cluster;
use super::apply::ApplyOptions;
use super::error::ClusterError;
use super::prepare::VolumePlace;
use super::request::{Ask, METADATA, METADATA_LIST, Pager};
use crate::failure::Failures;
use crate::folder::CapturedObject;

pub use isolate::isolate;

/// Label on everything that a drill makes, with the name of the drill.
pub const DRILL_LABEL: &str = "backstay.dev/drill";

/// Between two looks at what goes away.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// The objects of a drill.
#[derive(Debug, Clone)]
pub struct Isolated {
    /// Name of the drill, which stands for the plan's where objects are marked.
    pub name: PlanName,
    /// Its namespaces, in order.
    pub namespaces: Vec<String>,
    /// What an operator should know: above all, what is left out.
    pub warnings: Vec<String>,
    /// Namespaces and what closes them; these come first.
    fence: Arc<Vec<CapturedObject>>,
    /// Everything, those included.
    objects: Arc<Vec<CapturedObject>>,
    spec: PlanSpec,
    volumes: BTreeMap<String, VolumePlace>,
}

/// Name of a drill of a plan: `shop-drill-3`.
pub fn drill_name(plan: &PlanName, number: u64) -> PlanName {
    let name = joined(plan.as_str(), &format!("-drill-{number}"), backstay_types::limits::NAME_BYTES_MAX);
    name.parse().expect("a label, shortened, with a suffix is a label")
}

/// A name with a suffix; one that would be too long is shortened and told apart by a hash.
fn joined(name: &str, suffix: &str, bytes_max: usize) -> String {
    const HASH_CHARS: usize = 8;
    if name.len() + suffix.len() <= bytes_max {
        return format!("{name}{suffix}");
    }
    let hash: String = blake3::hash(name.as_bytes()).to_hex().chars().take(HASH_CHARS).collect();
    let begin: String = name.chars().take(bytes_max - suffix.len() - HASH_CHARS - 1).collect();
    format!("{}-{hash}{suffix}", begin.trim_end_matches(['-', '.']))
}

impl Isolated {
    /// A drill begins and ends within one epoch: its objects are nobody else's.
    fn options(&self, restore_point: RestorePointId) -> ApplyOptions<'_> {
        ApplyOptions {
            plan: &self.name,
            epoch: restore_point.epoch,
            restore_point,
            spec: &self.spec,
            volumes: &self.volumes,
        }
    }

    /// The drill's names of the namespaces of the source.
    pub fn names(&self) -> &BTreeMap<String, String> {
        &self.spec.namespace_mapping
    }
}

impl Cluster {
    /// Makes the namespaces of a drill, closes them, and starts its objects in them as a promotion would. Objects that
    /// cannot be written or released are told, not an error; with the first step that has any it ends.
    pub async fn start_drill(
        &self,
        drill: &Isolated,
        restore_point: RestorePointId,
    ) -> Result<Failures, ClusterError> {
        for namespace in &drill.namespaces {
            self.refuse_existing(namespace).await?;
        }
        let options = drill.options(restore_point);
        let fenced = self.apply(&drill.fence, &options).await?;
        if fenced.failures.count > 0 {
            return Ok(fenced.failures);
        }
        let applied = self.apply(&drill.objects, &options).await?;
        if applied.failures.count > 0 {
            return Ok(applied.failures);
        }
        Ok(self.release(&drill.objects, &options).await?.failures)
    }

    /// What was started and does not serve yet.
    pub async fn drill_not_ready(
        &self,
        drill: &Isolated,
        restore_point: RestorePointId,
    ) -> Result<Vec<String>, ClusterError> {
        self.not_ready(&drill.objects, &drill.options(restore_point)).await
    }

    /// Deletes the namespaces and volumes of a drill, and waits until they are gone.
    pub async fn end_drill(&self, name: &PlanName, within: Duration) -> Result<(), ClusterError> {
        let mut left = Vec::new();
        let gone = async {
            loop {
                left = self.delete_drill(name).await?;
                if left.is_empty() {
                    return Ok(());
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        match tokio::time::timeout(within, gone).await {
            Ok(outcome) => outcome,
            Err(_) => Err(ClusterError::Refused {
                doing: format!("remove drill {name}"),
                class: Class::Busy,
                message: format!("still there: {}", left.join(", ")),
            }),
        }
    }

    /// Asks for the deletion of what is there; tells what was.
    async fn delete_drill(&self, name: &PlanName) -> Result<Vec<String>, ClusterError> {
        let selector = format!("{DRILL_LABEL}={name}");
        let mut left = Vec::new();
        for (kind, path) in
            [("Namespace", "/api/v1/namespaces"), ("PersistentVolume", "/api/v1/persistentvolumes")]
        {
            let pager = Pager::new(path.to_owned(), Some(&selector), METADATA_LIST);
            let found = self.list(pager).await.map_err(|error| error.fatal(format!("list {path}")))?;
            for object in found {
                let text = |pointer| object.pointer(pointer).and_then(Value::as_str);
                let Some(name) = text("/metadata/name") else { continue };
                left.push(format!("{kind} {name}"));
                if text("/metadata/deletionTimestamp").is_none() {
                    self.delete_object(&format!("{path}/{name}")).await?;
                }
            }
        }
        Ok(left)
    }

    async fn delete_object(&self, path: &str) -> Result<(), ClusterError> {
        let ask = Ask {
            method: Method::DELETE,
            path: path.to_owned(),
            accept: METADATA,
            content_type: None,
            body: Vec::new(),
        };
        match self.ask(&ask).await {
            Err(error) if !error.is_not_found() && !error.is_conflict() => {
                Err(error.fatal(format!("delete {path}")))
            }
            _ => Ok(()),
        }
    }

    /// A namespace that somebody else made is not a drill's.
    async fn refuse_existing(&self, namespace: &str) -> Result<(), ClusterError> {
        let doing = || format!("make namespace {namespace}");
        match self.ask(&Ask::get(format!("/api/v1/namespaces/{namespace}"), METADATA)).await {
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error.fatal(doing())),
            Ok(_) => Err(ClusterError::Refused {
                doing: doing(),
                class: Class::Busy,
                message: "there is one of that name".to_owned(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_drills_are_labels() {
        let plan = |name: &str| name.parse::<PlanName>().unwrap();
        assert_eq!(drill_name(&plan("shop"), 3).as_str(), "shop-drill-3");
        let long = format!("{}-{}", "a".repeat(45), "b".repeat(17));
        let other = format!("{}-{}", "a".repeat(45), "c".repeat(17));
        let (one, two) = (drill_name(&plan(&long), 12_345), drill_name(&plan(&other), 12_345));
        assert!(one.as_str().len() <= 63 && one.as_str().ends_with("-drill-12345"), "{one}");
        assert_ne!(one, two);
        assert_eq!(joined("pv.a", "-drill-1", 253), "pv.a-drill-1");
    }
}
