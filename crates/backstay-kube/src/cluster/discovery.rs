//! Discovery: which kinds the server serves, at which versions, and which aggregated APIs do not answer.
//!
//! Two requests, whatever the number of groups: the aggregated form of Kubernetes 1.30 and newer. A group whose
//! server is down is listed there as stale instead of failing the whole.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::Cluster;
use super::error::{ClusterError, RequestError};
use super::request::{Ask, escape};
use crate::GroupKind;

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";

/// Groups that answer with measurements and store nothing.
const COMPUTED: [&str; 3] = ["custom.metrics.k8s.io", "external.metrics.k8s.io", "metrics.k8s.io"];

/// One kind at one version, and where it is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Resource {
    pub(super) kind: GroupKind,
    pub(super) version: String,
    pub(super) plural: String,
    pub(super) namespaced: bool,
}

impl Resource {
    /// `apps/v1`, `v1`.
    pub(super) fn api_version(&self) -> String {
        if self.kind.group.is_empty() {
            self.version.clone()
        } else {
            format!("{}/{}", self.kind.group, self.version)
        }
    }

    /// Path of its objects, of one namespace or of all.
    pub(super) fn path(&self, namespace: Option<&str>) -> String {
        let root = if self.kind.group.is_empty() { "/api" } else { "/apis" };
        let base = format!("{root}/{}", self.api_version());
        match namespace.filter(|_| self.namespaced) {
            Some(namespace) => format!("{base}/namespaces/{}/{}", escape(namespace), self.plural),
            None => format!("{base}/{}", self.plural),
        }
    }

    /// Path of one object.
    pub(super) fn object_path(&self, namespace: Option<&str>, name: &str) -> String {
        format!("{}/{}", self.path(namespace), escape(name))
    }
}

/// What a server serves.
#[derive(Debug, Clone, Default)]
pub(super) struct Resources {
    /// Versions of each kind, the preferred one first.
    kinds: BTreeMap<GroupKind, Vec<Resource>>,
    /// Aggregated APIs that do not answer: group and version.
    pub(super) stale: BTreeSet<(String, String)>,
}

impl Resources {
    /// Every kind whose objects are stored, at its preferred version.
    pub(super) fn preferred(&self) -> impl Iterator<Item = &Resource> {
        self.kinds.values().filter_map(|versions| versions.first())
    }

    /// Versions of a kind.
    pub(super) fn versions(&self, kind: &GroupKind) -> &[Resource] {
        self.kinds.get(kind).map_or(&[], Vec::as_slice)
    }

    /// Takes note of a kind that is served by now.
    pub(super) fn add(&mut self, resource: Resource) {
        let versions = self.kinds.entry(resource.kind.clone()).or_default();
        if !versions.iter().any(|known| known.version == resource.version) {
            versions.push(resource);
        }
    }

    /// Makes a version of a kind the one that is used.
    pub(super) fn prefer(&mut self, kind: &GroupKind, version: &str) {
        if let Some(versions) = self.kinds.get_mut(kind) {
            versions.sort_by_key(|resource| resource.version != version);
        }
    }

    fn learn(&mut self, list: List) {
        for group in list.items {
            let name = group.metadata.name;
            if COMPUTED.contains(&name.as_str()) {
                continue;
            }
            for version in group.versions {
                if version.freshness.as_deref() == Some("Stale") {
                    self.stale.insert((name.clone(), version.version));
                    continue;
                }
                for found in version.resources.into_iter().filter(Found::is_stored) {
                    let Some(kind) = found.response_kind.filter(|kind| !kind.kind.is_empty()) else {
                        continue;
                    };
                    self.add(Resource {
                        kind: GroupKind { group: name.clone(), kind: kind.kind },
                        version: version.version.clone(),
                        plural: found.resource,
                        namespaced: found.scope == "Namespaced",
                    });
                }
            }
        }
    }
}

impl Cluster {
    /// Asks what is served.
    pub(super) async fn discover(&self) -> Result<Resources, ClusterError> {
        let mut resources = Resources::default();
        for path in ["/api", "/apis"] {
            let doing = || "discover the kinds of the cluster";
            let list: List = self
                .ask_for(&Ask::get(path.to_owned(), AGGREGATED))
                .await
                .map_err(|error: RequestError| error.fatal(doing()))?;
            if list.kind != "APIGroupDiscoveryList" {
                let why = format!("expected APIGroupDiscoveryList, found {}", list.kind);
                return Err(RequestError::Answer { why }.fatal(doing()));
            }
            resources.learn(list);
        }
        Ok(resources)
    }
}

#[derive(Deserialize)]
struct List {
    kind: String,
    #[serde(default)]
    items: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    #[serde(default)]
    metadata: Name,
    #[serde(default)]
    versions: Vec<Version>,
}

#[derive(Deserialize, Default)]
struct Name {
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
struct Version {
    version: String,
    #[serde(default)]
    freshness: Option<String>,
    #[serde(default)]
    resources: Vec<Found>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Found {
    resource: String,
    #[serde(default)]
    response_kind: Option<Kind>,
    scope: String,
    #[serde(default)]
    verbs: Vec<String>,
}

#[derive(Deserialize)]
struct Kind {
    #[serde(default)]
    kind: String,
}

impl Found {
    /// Objects that can be listed here and made elsewhere; the rest is computed or acted on.
    fn is_stored(&self) -> bool {
        ["list", "create", "patch", "delete"].iter().all(|verb| self.verbs.iter().any(|has| has == verb))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn learnt() -> Resources {
        let all = ["create", "delete", "get", "list", "patch"];
        let resource = |plural: &str, kind: &str, verbs: &[&str]| json!({"resource": plural, "scope": "Namespaced", "responseKind": {"kind": kind}, "verbs": verbs});
        let list = json!({"kind": "APIGroupDiscoveryList", "items": [
            {"metadata": {"name": "autoscaling"}, "versions": [
                {"version": "v2", "freshness": "Current", "resources": [resource("horizontalpodautoscalers", "HorizontalPodAutoscaler", &all)]},
                {"version": "v1", "resources": [resource("horizontalpodautoscalers", "HorizontalPodAutoscaler", &all)]}]},
            {"metadata": {"name": "down.io"}, "versions": [{"version": "v1", "freshness": "Stale", "resources": []}]},
            {"metadata": {"name": "metrics.k8s.io"}, "versions": [{"version": "v1beta1", "freshness": "Stale"}]},
            {"metadata": {"name": "packages.io"}, "versions": [{"version": "v1", "resources": [resource("packages", "Package", &["get", "list"])]}]},
        ]});
        let mut resources = Resources::default();
        resources.learn(serde_json::from_value(list).unwrap());
        resources
    }

    #[test]
    fn the_preferred_version_is_used_and_what_is_not_stored_left_out() {
        let mut resources = learnt();
        let kind = GroupKind::new("autoscaling", "HorizontalPodAutoscaler");
        let names: Vec<_> =
            resources.preferred().map(|one| (one.plural.clone(), one.version.clone())).collect();
        assert_eq!(names, [("horizontalpodautoscalers".to_owned(), "v2".to_owned())]);
        resources.prefer(&kind, "v1");
        assert_eq!(resources.preferred().next().unwrap().version, "v1");
        assert_eq!(
            resources.versions(&kind)[0].object_path(Some("shop"), "web"),
            "/apis/autoscaling/v1/namespaces/shop/horizontalpodautoscalers/web"
        );
    }

    #[test]
    fn an_aggregated_api_that_is_down_is_told_and_measurements_are_not() {
        assert_eq!(learnt().stale.into_iter().collect::<Vec<_>>(), [("down.io".to_owned(), "v1".to_owned())]);
    }
}
