//! Running: the pods of a plan that are not gone yet.
//!
//! A pod is the plan's if what makes it is: the chain of its controllers is followed, so that a pod that a Deployment
//! outside of the plan keeps is not waited for, and one whose own labels a selector does not match is.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Cluster;
use super::discovery::{Resource, Resources};
use super::error::{ClusterError, RequestError};
use super::live::Slot;
use super::request::{Ask, METADATA, METADATA_LIST, Pager};
use super::scope::{Scope, namespaces};
use crate::GroupKind;
use crate::skip::{EXCLUDE_LABEL, owner_stage, whole_kind};

/// Pods that still hold what they hold: one that is over does not.
const NOT_OVER: &str = "status.phase!=Succeeded,status.phase!=Failed";

/// Controllers of controllers that are followed: pod, ReplicaSet, Deployment, and two operators' own.
const DEPTH_MAX: usize = 5;

/// One of a chain, from a pod up.
#[derive(Debug, Clone)]
struct Link {
    kind: GroupKind,
    namespace: Option<String>,
    object: Value,
}

impl Cluster {
    /// The pods of a scope that are neither gone nor over, as `namespace/name` in order; those on their way out are
    /// among them.
    pub async fn running_pods(&self, scope: &Scope) -> Result<Vec<String>, ClusterError> {
        let names = namespaces(self, scope).await?.names;
        let mut pods = Vec::new();
        for namespace in names.iter() {
            pods.extend(
                self.pods_not_over(namespace)
                    .await
                    .map_err(|error| error.fatal("list the pods of the plan"))?,
            );
        }
        if pods.is_empty() {
            return Ok(Vec::new());
        }
        let mut chains = Chains { cluster: self, served: self.discover().await?, known: BTreeMap::new() };
        let mut running = Vec::new();
        for pod in pods {
            let name = format!("{}/{}", pod.text("/metadata/namespace"), pod.text("/metadata/name"));
            if chains.of(pod).await?.iter().any(|link| link.is_covered(scope)) {
                running.push(name);
            }
        }
        running.sort_unstable();
        Ok(running)
    }

    async fn pods_not_over(&self, namespace: &str) -> Result<Vec<Link>, RequestError> {
        let pods = Resource {
            kind: GroupKind::new("", "Pod"),
            version: "v1".to_owned(),
            plural: "pods".to_owned(),
            namespaced: true,
        };
        let pager = Pager::new(pods.path(Some(namespace)), None, METADATA_LIST).of_fields(NOT_OVER);
        let link = |object| Link { kind: pods.kind.clone(), namespace: Some(namespace.to_owned()), object };
        Ok(self.list(pager).await?.into_iter().map(link).collect())
    }
}

/// Controllers, each asked for once.
struct Chains<'a> {
    cluster: &'a Cluster,
    served: Resources,
    known: BTreeMap<Slot, Option<Link>>,
}

impl Chains<'_> {
    /// A pod and its controllers that are to be judged: what a controller makes again is as its controller is.
    async fn of(&mut self, pod: Link) -> Result<Vec<Link>, ClusterError> {
        let mut chain = vec![pod];
        while chain.len() < DEPTH_MAX {
            let Some(last) = chain.last() else { break };
            let Some(owner) = controller(&last.object, last.namespace.as_deref()) else { break };
            let Some(link) = self.read(owner).await? else { break };
            chain.push(link);
        }
        let top = chain.len().saturating_sub(1);
        let judged = chain.into_iter().enumerate();
        let judged = judged.filter(|(at, link)| *at == top || owner_stage(&link.kind) == 0);
        Ok(judged.map(|(_, link)| link).collect())
    }

    /// A controller; none that is gone, or that we may not read.
    async fn read(&mut self, slot: Slot) -> Result<Option<Link>, ClusterError> {
        if let Some(known) = self.known.get(&slot) {
            return Ok(known.clone());
        }
        let Some(resource) = self.served.versions(&slot.kind).first() else { return Ok(None) };
        let path = resource.object_path(slot.namespace.as_deref(), &slot.name);
        let link = match self.cluster.ask_for(&Ask::get(path, METADATA)).await {
            Ok(object) => Some(Link { kind: slot.kind.clone(), namespace: slot.namespace.clone(), object }),
            Err(RequestError::Status(_)) => None,
            Err(error) => return Err(error.fatal(format!("read {slot}"))),
        };
        self.known.insert(slot, link.clone());
        Ok(link)
    }
}

impl Link {
    fn text(&self, pointer: &str) -> &str {
        self.object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    /// Whether the plan holds it.
    fn is_covered(&self, scope: &Scope) -> bool {
        let label = |key: &str| self.object.pointer("/metadata/labels")?.get(key)?.as_str();
        whole_kind(&self.kind).is_none()
            && scope.wants(&self.kind)
            && label(EXCLUDE_LABEL).is_none_or(|value| value == "false")
            && scope.selector.as_ref().is_none_or(|selector| selector.matches(label))
    }
}

/// The controller of an object, which is in its namespace.
pub(super) fn controller(object: &Value, namespace: Option<&str>) -> Option<Slot> {
    let owners = object.pointer("/metadata/ownerReferences").and_then(Value::as_array);
    let controls = |owner: &&Value| owner.get("controller").and_then(Value::as_bool) == Some(true);
    let owner = owners.into_iter().flatten().find(controls)?;
    let text = |field| owner.get(field).and_then(Value::as_str).unwrap_or_default();
    let group = text("apiVersion").split_once('/').map_or("", |(group, _)| group);
    let kind = GroupKind::new(group, text("kind"));
    Some(Slot { kind, namespace: namespace.map(str::to_owned), name: text("name").to_owned() })
}
