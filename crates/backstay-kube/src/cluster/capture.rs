//! Capture: every object of a scope, normalised, keyed and in order, and the cluster-scoped objects they need.
//!
//! 1. Nothing is left out in silence: a kind that cannot be listed is in [`CaptureReport::missing`] and, as a
//!    record of its own, in the bundle, so that the standby does not take its objects for deleted.
//! 2. A server that is gone fails the capture; what one aggregated API or one object does not give is named, and
//!    the rest is captured.
//! 3. Memory: [`BUNDLE_BYTES_MAX`] of objects, and [`LISTS_MAX`] pages with what is parsed of them.
//!
//! Namespaced kinds are listed in three stages, so that what a controller makes again is known by then to have a
//! controller that is captured ([`crate::skip::owner_stage`]).

mod list;
mod needed;
mod page;
mod record;
mod volumes;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use backstay_types::Class;
use backstay_types::manifest::RelPath;
use backstay_types::plan::KindPattern;
use serde_json::Value;

use super::Cluster;
use super::discovery::{Resource, Resources};
use super::error::ClusterError;
use super::request::{Ask, JSON};
use super::scope::{Namespaces, Scope, namespaces};
use crate::failure::Failures;
use crate::folder::CapturedObject;
use crate::skip::{Owners, SkipReason, owner_stage, whole_kind};
use crate::{GroupKind, canonical};
use needed::Needed;
use page::{Batch, Pick};

pub use record::CAPTURE_RECORD_KEY;
pub(super) use record::{MissingKinds, is_record};
pub use volumes::{FoundVolume, VolumeSource, volume_names, volumes_of};

/// All objects of one capture together, as JSON; they are in memory at once. 31 000 Secrets of 2 KiB.
pub(super) const BUNDLE_BYTES_MAX: usize = 96 << 20;
/// Objects of one capture.
const OBJECTS_MAX: usize = 200_000;
/// Lists read at once: each holds a page of 4 MiB and some 25 MiB parsed from it; 4 × 29 MiB.
const LISTS_MAX: usize = 4;
/// Up to so many namespaces are listed one by one …
const NAMESPACES_SINGLE: usize = 2;
/// … and more if they are less than one in so many of the cluster's; else one list covers all.
const NAMESPACES_SHARE: usize = 4;

/// What was captured.
#[derive(Debug, Clone, Default)]
pub struct Captured {
    /// In order of key.
    pub objects: Vec<CapturedObject>,
    /// Volumes behind the claims that were captured.
    pub volumes: Vec<FoundVolume>,
    /// What was left out, and why.
    pub report: CaptureReport,
}

/// What a capture left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CaptureReport {
    /// The namespaces of the scope, in order.
    pub namespaces: Vec<String>,
    /// Objects left out by rule.
    pub skipped: BTreeMap<SkipReason, u64>,
    /// Kinds that could not be listed: with any of these, the restore point is not complete.
    pub missing: Vec<Missing>,
    /// Objects that could not be captured: with any of these, it is not complete either.
    pub failures: Failures,
    /// Volumes of pods with data that no restore point has: nor with any of these.
    pub holes: Failures,
    /// `emptyDir` volumes of pods, which are empty on the other side: no holes, since a pod that begins anew here has them
    /// empty as well. Those of a template count once.
    pub scratch: u64,
}

/// A kind, or a whole group and version, that could not be listed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Missing {
    /// API group.
    pub group: String,
    /// Version.
    pub version: String,
    /// Kind; all of the group and version without it.
    pub kind: Option<String>,
    /// What kind of failure.
    pub class: Class,
    /// What happened.
    pub why: String,
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Missing { group, version, why, .. } = self;
        match &self.kind {
            Some(kind) => write!(f, "{kind} of {group}/{version}: {why}"),
            None => write!(f, "{group}/{version}: {why}"),
        }
    }
}

impl CaptureReport {
    /// Whether everything in scope was captured.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty() && self.failures.count == 0 && self.holes.count == 0
    }
}

impl Cluster {
    /// The volumes behind the claims that a capture of `scope` would hold.
    pub async fn claims(&self, scope: &Scope) -> Result<Vec<FoundVolume>, ClusterError> {
        let claim = GroupKind::new("", "PersistentVolumeClaim");
        if !scope.wants(&claim) {
            return Ok(Vec::new());
        }
        // Those that a selected pod needs are known once it is.
        if scope.selector.is_some() {
            return Ok(self.capture(scope).await?.volumes);
        }
        let claims: KindPattern = "PersistentVolumeClaim".parse().expect("a kind by its name");
        let include = vec![claims];
        Ok(self.capture(&Scope { include, ..scope.clone() }).await?.volumes)
    }

    /// Captures a scope.
    pub async fn capture(&self, scope: &Scope) -> Result<Captured, ClusterError> {
        let mut resources = self.discover().await?;
        let namespaces = namespaces(self, scope).await?;
        if !scope.takes_ending {
            namespaces.check_lasting()?;
        }
        let mut run = Run::new(self, scope, &namespaces);
        run.stale(&resources);
        run.prefer_stored(&mut resources).await?;
        run.namespaces(&namespaces.objects);
        for stage in 0..=2 {
            run.stage(&resources, stage).await?;
        }
        run.followed(&resources).await?;
        run.waiting(&resources).await?;
        run.cluster_scoped(&resources).await?;
        run.finish()
    }
}

/// One capture under way.
struct Run<'a> {
    cluster: &'a Cluster,
    scope: &'a Scope,
    names: Arc<BTreeSet<String>>,
    by_namespace: bool,
    owners: Arc<Owners>,
    needed: Arc<Needed>,
    bytes: Arc<AtomicUsize>,
    objects: Vec<CapturedObject>,
    /// What waits for a release, here where it ran: an object that is there counts before it.
    waiting: Vec<CapturedObject>,
    report: CaptureReport,
}

impl<'a> Run<'a> {
    fn new(cluster: &'a Cluster, scope: &'a Scope, namespaces: &Namespaces) -> Self {
        let names = namespaces.names.clone();
        let few = names.len() <= NAMESPACES_SINGLE
            || names.len().saturating_mul(NAMESPACES_SHARE) < namespaces.total;
        let report =
            CaptureReport { namespaces: names.iter().cloned().collect(), ..CaptureReport::default() };
        Self {
            cluster,
            scope,
            needed: Arc::new(Needed::new(&names)),
            names: Arc::new(names),
            by_namespace: few,
            owners: Arc::default(),
            bytes: Arc::default(),
            objects: Vec::new(),
            waiting: Vec::new(),
            report,
        }
    }

    /// Aggregated APIs that discovery could not ask.
    fn stale(&mut self, resources: &Resources) {
        for (group, version) in &resources.stale {
            let any = GroupKind::new(group, "*");
            if self.scope.excludes(&any) {
                continue;
            }
            self.report.missing.push(Missing {
                group: group.clone(),
                version: version.clone(),
                kind: None,
                class: Class::Transient,
                why: "its server does not answer".to_owned(),
            });
        }
    }

    /// Reads custom resources at the version they are stored at, where another would have to be converted by a
    /// webhook: on the standby, nobody answers it.
    async fn prefer_stored(&self, resources: &mut Resources) -> Result<(), ClusterError> {
        let several = |resource: &&Resource| {
            !resource.kind.is_built_in() && resources.versions(&resource.kind).len() > 1
        };
        let kinds: Vec<Resource> = resources.preferred().filter(several).cloned().collect();
        for resource in kinds.into_iter().filter(|resource| self.scope.wants(&resource.kind)) {
            let Some(definition) = self.definition(&resource).await? else { continue };
            if definition.pointer("/spec/conversion/strategy").and_then(Value::as_str) != Some("Webhook") {
                continue;
            }
            let versions = definition.pointer("/spec/versions").and_then(Value::as_array);
            let stored = versions.into_iter().flatten().find(|version| {
                version.get("storage").and_then(Value::as_bool) == Some(true)
                    && version.get("served").and_then(Value::as_bool) == Some(true)
            });
            if let Some(name) = stored.and_then(|version| version.get("name")).and_then(Value::as_str) {
                resources.prefer(&resource.kind, name);
            }
        }
        Ok(())
    }

    /// The definition of a custom resource; none if it is of an aggregated API.
    async fn definition(&self, resource: &Resource) -> Result<Option<Value>, ClusterError> {
        let name = format!("{}.{}", resource.plural, resource.kind.group);
        let path = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}");
        match self.cluster.ask_for::<Value>(&Ask::get(path, JSON)).await {
            Ok(definition) => Ok(Some(definition)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.fatal(format!("read the definition {name}"))),
        }
    }

    fn namespaces(&mut self, objects: &[Value]) {
        if self.scope.excludes(&GroupKind::new("", "Namespace")) {
            return;
        }
        let resource = Resource {
            kind: GroupKind::new("", "Namespace"),
            version: "v1".to_owned(),
            plural: "namespaces".to_owned(),
            namespaced: false,
        };
        let context = self.context(Pick::Whole);
        let mut batch = Batch::default();
        objects.iter().for_each(|object| batch.take(object.clone(), &resource, &context));
        self.merge(batch);
    }

    /// Lists the namespaced kinds of a stage, and with the first also cluster-scoped kinds that are wanted whole.
    async fn stage(&mut self, resources: &Resources, stage: u8) -> Result<(), ClusterError> {
        let (scope, names) = (self.scope, self.names.clone());
        let mut lists = Vec::new();
        for resource in resources.preferred() {
            if whole_kind(&resource.kind).is_some() || owner_stage(&resource.kind) != stage {
                continue;
            }
            if !resource.namespaced {
                if scope.wants_whole(&resource.kind) {
                    lists.push((resource.clone(), None, Pick::Whole));
                }
            } else if !scope.wants(&resource.kind) {
            } else if self.by_namespace {
                let one = |name: &String| (resource.clone(), Some(name.clone()), Pick::Namespaces);
                lists.extend(names.iter().map(one));
            } else {
                lists.push((resource.clone(), None, Pick::Namespaces));
            }
        }
        self.lists(lists).await
    }

    /// What the pods of a selection need, whatever labels it has itself.
    async fn followed(&mut self, resources: &Resources) -> Result<(), ClusterError> {
        if self.scope.selector.is_none() {
            return Ok(());
        }
        for round in needed::FOLLOWED {
            let kinds = round.iter().map(|kind| GroupKind::new("", kind));
            let kinds = kinds.filter(|kind| self.scope.wants(kind));
            let mut lists = Vec::new();
            for resource in kinds.filter_map(|kind| resources.versions(&kind).first().cloned()) {
                let one = |name: &String| (resource.clone(), Some(name.clone()), Pick::Followed);
                match self.by_namespace {
                    true => lists.extend(self.names.iter().map(one)),
                    false => lists.push((resource.clone(), None, Pick::Followed)),
                }
            }
            self.lists(lists).await?;
        }
        Ok(())
    }

    /// Takes what waits for a release out of its records.
    async fn waiting(&mut self, resources: &Resources) -> Result<(), ClusterError> {
        let Some(secrets) = resources.versions(&GroupKind::new("", "Secret")).first() else { return Ok(()) };
        let (objects, missing) = (self.objects.len(), self.report.missing.len());
        let one = |name: &String| (secrets.clone(), Some(name.clone()), Pick::Waiting);
        let lists = match self.by_namespace {
            true => self.names.iter().map(one).collect(),
            false => vec![(secrets.clone(), None, Pick::Waiting)],
        };
        self.lists(lists).await?;
        self.waiting = self.objects.split_off(objects);
        // Who may not list Secrets did not write one either.
        self.report.missing.truncate(missing);
        Ok(())
    }

    /// The cluster-scoped objects that those of the namespaces need. In two rounds: what needs a class or a role
    /// comes before the classes and roles.
    async fn cluster_scoped(&mut self, resources: &Resources) -> Result<(), ClusterError> {
        for round in needed::ROUNDS {
            let kinds = round.iter().map(|(group, kind)| GroupKind::new(group, kind));
            let wanted = kinds
                .filter(|kind| !self.scope.excludes(kind) && !self.scope.wants_whole(kind))
                .filter(|kind| self.needed.asks_for(kind));
            let lists = wanted.filter_map(|kind| resources.versions(&kind).first().cloned());
            let lists = lists.map(|resource| (resource, None, Pick::Needed)).collect();
            self.lists(lists).await?;
        }
        let kinds = self.needed.custom_kinds();
        let definitions = GroupKind::new("apiextensions.k8s.io", "CustomResourceDefinition");
        let Some(resource) = resources.versions(&definitions).first() else { return Ok(()) };
        if self.scope.excludes(&definitions) || self.scope.wants_whole(&definitions) {
            return Ok(());
        }
        for kind in kinds {
            let Some(of) = resources.versions(&kind).first() else { continue };
            if let Some(definition) = self.definition(of).await? {
                let context = self.context(Pick::Whole);
                let mut batch = Batch::default();
                batch.take(definition, resource, &context);
                self.merge(batch);
            }
        }
        Ok(())
    }

    fn context(&self, pick: Pick) -> page::Context {
        page::Context {
            pick,
            scope: Arc::new(self.scope.clone()),
            names: self.names.clone(),
            owners: self.owners.clone(),
            needed: self.needed.clone(),
        }
    }

    fn merge(&mut self, batch: Batch) {
        let Batch { objects, ids, skipped, needed, failures, holes, scratch, .. } = batch;
        self.objects.extend(objects);
        let owners = Arc::make_mut(&mut self.owners);
        ids.iter().for_each(|id| owners.add(id));
        for (reason, count) in skipped {
            *self.report.skipped.entry(reason).or_default() += count;
        }
        Arc::make_mut(&mut self.needed).extend(needed);
        self.report.failures.extend(failures);
        self.report.holes.extend(holes);
        self.report.scratch += scratch;
    }

    fn finish(mut self) -> Result<Captured, ClusterError> {
        if self.objects.len() > OBJECTS_MAX {
            return Err(ClusterError::TooMuch { what: "objects of one capture", max: OBJECTS_MAX });
        }
        self.report.missing.sort_unstable();
        self.report.missing.dedup();
        if let Some(record) = record::record(&self.report.missing) {
            let key = RelPath::parse(CAPTURE_RECORD_KEY.as_bytes()).expect("the key of the record is a path");
            self.objects.push(CapturedObject { key, bytes: canonical::to_bytes(&record) });
        }
        self.objects.append(&mut self.waiting);
        self.objects.sort_by(|a, b| a.key.cmp(&b.key));
        // A page may repeat what moved while the list was read.
        self.objects.dedup_by(|a, b| a.key == b.key);
        let volumes = volumes_of(&self.objects);
        Ok(Captured { objects: self.objects, volumes, report: self.report })
    }
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};
    use kube::Client;
    use kube::client::Body;
    use serde_json::json;
    use tower::{BoxError, service_fn};

    use super::*;

    /// A server with one namespace, and no kinds.
    fn cluster(namespace: Value) -> Cluster {
        let answer = move |request: Request<Body>| {
            let answer = match request.uri().path() {
                "/api" | "/apis" => json!({"kind": "APIGroupDiscoveryList"}),
                "/api/v1/namespaces" => json!({"items": [namespace]}),
                _ => namespace.clone(),
            };
            async move { Ok::<_, BoxError>(Response::new(Body::from(canonical::to_bytes(&answer)))) }
        };
        Cluster { client: Client::new(service_fn(answer), "default"), is_pod: false }
    }

    /// An empty restore point would take the objects of the standby with it.
    #[tokio::test]
    async fn a_namespace_that_is_being_deleted_is_no_restore_point() {
        let ending = json!({"metadata": {"name": "shop", "deletionTimestamp": "2026-11-29T00:00:00Z"}});
        let cluster = cluster(ending);
        let cycle = Scope { namespaces: vec!["shop".to_owned()], ..Scope::default() };
        let expected = ClusterError::NamespaceEnding { namespace: "shop".to_owned() };
        assert_eq!(cluster.capture(&cycle).await.unwrap_err(), expected);
        assert_eq!(cluster.claims(&cycle).await.unwrap_err(), expected);
        // To hold or to keep it, what is left of it counts.
        let kept = cluster.capture(&Scope { takes_ending: true, ..cycle }).await.unwrap();
        assert_eq!(kept.report.namespaces, ["shop"]);
    }
}
