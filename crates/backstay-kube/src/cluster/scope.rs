//! Which objects of a cluster a plan covers.

use std::collections::BTreeSet;

use backstay_types::plan::{KindPattern, LabelSelector, PlanSpec, VolumePattern};
use serde_json::Value;

use super::Cluster;
use super::error::{ClusterError, RequestError};
use super::request::{Ask, JSON, escape};
use crate::GroupKind;

/// What to capture.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope {
    /// Namespaces by name.
    pub namespaces: Vec<String>,
    /// Further namespaces by their labels.
    pub namespace_selector: Option<LabelSelector>,
    /// Objects with these labels only.
    pub selector: Option<LabelSelector>,
    /// These kinds only.
    pub include: Vec<KindPattern>,
    /// All but these.
    pub exclude: Vec<KindPattern>,
    /// Whatever is left of it: a namespace that is not there has nothing in it. Never of what replaces a standby's objects.
    pub of_what_is_left: bool,
    /// Volumes of pods that may be left out.
    pub exclude_volumes: Vec<VolumePattern>,
    /// Take namespaces that are being deleted for what is left in them: to hold or to keep it, never as a restore point.
    pub takes_ending: bool,
}

impl Scope {
    /// The scope of a plan; none if it covers no cluster.
    pub fn of(spec: &PlanSpec) -> Option<Self> {
        spec.covers_cluster().then(|| Self {
            namespaces: spec.namespaces.clone(),
            namespace_selector: spec.namespace_selector.clone(),
            selector: spec.selector.clone(),
            include: spec.include_resources.clone(),
            exclude: spec.exclude_resources.clone(),
            of_what_is_left: false,
            exclude_volumes: spec.exclude_volumes.clone(),
            takes_ending: false,
        })
    }

    /// Whether objects of a namespaced kind are wanted.
    pub(super) fn wants(&self, kind: &GroupKind) -> bool {
        let any = |list: &[KindPattern]| list.iter().any(|pattern| pattern.matches(&kind.group, &kind.kind));
        (self.include.is_empty() || any(&self.include)) && !any(&self.exclude)
    }

    /// Whether all objects of a cluster-scoped kind are wanted: it is named, and not by a wildcard.
    pub(super) fn wants_whole(&self, kind: &GroupKind) -> bool {
        self.wants(kind)
            && self.include.iter().any(|one| one.is_exact() && one.matches(&kind.group, &kind.kind))
    }

    /// Whether a kind is left out by name.
    pub(super) fn excludes(&self, kind: &GroupKind) -> bool {
        self.exclude.iter().any(|pattern| pattern.matches(&kind.group, &kind.kind))
    }
}

/// The namespaces of a scope, as objects, and how many the cluster has in all.
pub(super) struct Namespaces {
    pub(super) objects: Vec<Value>,
    pub(super) names: BTreeSet<String>,
    pub(super) total: usize,
}

impl Namespaces {
    /// Refuses namespaces that are being deleted: what is left in them is not the application any more, and the
    /// objects of the standby would go the same way.
    pub(super) fn check_lasting(&self) -> Result<(), ClusterError> {
        let is_ending = |object: &&Value| {
            object.pointer("/metadata/deletionTimestamp").is_some_and(|time| !time.is_null())
        };
        match self.objects.iter().find(is_ending).and_then(name_of) {
            Some(name) => Err(ClusterError::NamespaceEnding { namespace: name.to_owned() }),
            None => Ok(()),
        }
    }
}

/// Beginning of the names of a cluster's own namespaces.
const OF_THE_CLUSTER: &str = "kube-";

/// Whether a selector may bring a namespace along: those of the cluster, and the one that Backstay runs in, have to be
/// named. Held in a switchover, the one has no name service any more, the other nobody who could end it.
fn is_selectable(namespace: &Value, home: Option<&str>) -> bool {
    let name = name_of(namespace).unwrap_or_default();
    !name.starts_with(OF_THE_CLUSTER) && Some(name) != home
}

/// Finds the namespaces of a scope. One that is named and not there is an error: an empty capture would take the
/// objects of the standby with it.
pub(super) async fn namespaces(cluster: &Cluster, scope: &Scope) -> Result<Namespaces, ClusterError> {
    let mut objects = Vec::new();
    let mut total = 0;
    if let Some(selector) = &scope.namespace_selector {
        let path = format!("/api/v1/namespaces?labelSelector={}", escape(&selector.to_query()));
        let list: Value = cluster
            .ask_for(&Ask::get(path, JSON))
            .await
            .map_err(|error| error.fatal("list the namespaces of the plan"))?;
        let listed = list.get("items").and_then(Value::as_array).into_iter().flatten();
        objects.extend(listed.filter(|one| is_selectable(one, cluster.home_namespace())).cloned());
        total = objects.len();
        if objects.is_empty() && scope.namespaces.is_empty() && !scope.of_what_is_left {
            return Err(ClusterError::NothingSelected);
        }
    }
    for name in &scope.namespaces {
        if objects.iter().any(|object| name_of(object) == Some(name)) {
            continue;
        }
        let path = format!("/api/v1/namespaces/{}", escape(name));
        match cluster.ask_for::<Value>(&Ask::get(path, JSON)).await {
            Ok(object) => objects.push(object),
            Err(error) if error.is_not_found() && scope.of_what_is_left => {}
            Err(error) if error.is_not_found() => {
                return Err(ClusterError::NoNamespace { namespace: name.clone() });
            }
            Err(error) => return Err(error.fatal(format!("read namespace {name}"))),
        }
    }
    for object in &mut objects {
        if let Some(fields) = object.as_object_mut() {
            fields.insert("apiVersion".to_owned(), "v1".into());
            fields.insert("kind".to_owned(), "Namespace".into());
        }
    }
    let names: BTreeSet<String> = objects.iter().filter_map(name_of).map(str::to_owned).collect();
    total = total.max(names.len()).max(count(cluster, "namespaces").await.unwrap_or(0));
    Ok(Namespaces { objects, names, total })
}

/// How many objects of a core kind there are: one page of one item says how many remain.
async fn count(cluster: &Cluster, plural: &str) -> Result<usize, RequestError> {
    let path = format!("/api/v1/{plural}?limit=1");
    let page: Value = cluster.ask_for(&Ask::get(path, super::request::METADATA_LIST)).await?;
    let remaining = page.pointer("/metadata/remainingItemCount").and_then(Value::as_u64).unwrap_or(0);
    Ok(usize::try_from(remaining).unwrap_or(usize::MAX).saturating_add(1))
}

impl Cluster {
    /// Whether the cluster has more than one node.
    pub async fn has_several_nodes(&self) -> Result<bool, ClusterError> {
        let path = "/api/v1/nodes?limit=2".to_owned();
        let page: Value = self
            .ask_for(&Ask::get(path, super::request::METADATA_LIST))
            .await
            .map_err(|error| error.fatal("list the nodes"))?;
        Ok(page.get("items").and_then(Value::as_array).is_some_and(|items| items.len() > 1))
    }
}

fn name_of(object: &Value) -> Option<&str> {
    object.pointer("/metadata/name")?.as_str()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn namespace(name: &str, deleted: Option<&str>) -> Value {
        json!({"metadata": {"name": name, "deletionTimestamp": deleted}})
    }

    #[test]
    fn a_selector_never_brings_the_clusters_own_namespaces() {
        for (name, home, expected) in [
            ("shop", None, true),
            ("default", None, true),
            ("kubernetes-dashboard", None, true),
            ("kube-system", None, false),
            ("kube-public", None, false),
            ("kube-node-lease", None, false),
            ("backstay-system", Some("backstay-system"), false),
            ("backstay-system", None, true),
        ] {
            assert_eq!(is_selectable(&namespace(name, None), home), expected, "{name} beside {home:?}");
        }
    }

    #[test]
    fn a_namespace_that_is_being_deleted_is_named() {
        let namespaces = |objects: Vec<Value>| Namespaces { objects, names: BTreeSet::new(), total: 0 };
        assert_eq!(namespaces(vec![namespace("shop", None)]).check_lasting(), Ok(()));
        let ending =
            namespaces(vec![namespace("shop", None), namespace("api", Some("2026-11-29T00:00:00Z"))]);
        let error = ending.check_lasting().unwrap_err();
        assert_eq!(error, ClusterError::NamespaceEnding { namespace: "api".to_owned() });
        assert_eq!(error.to_string(), "namespace api is being deleted");
    }
}
