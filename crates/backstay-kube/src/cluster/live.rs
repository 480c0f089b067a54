//! What the standby has: names, uids and hashes of what was applied, by paged lists of metadata. Never a request
//! for a single object.
//!
//! Every kind is listed by the plan's label, which finds what is ours wherever it is. A kind of which something
//! is to be created is listed in full, in the namespaces concerned, to find what is not ours.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use backstay_types::Epoch;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, spawn_blocking};

use super::discovery::Resource;
use super::drift::{Managed, MapSizes};
use super::error::{ClusterError, RequestError, told};
use super::request::{METADATA_LIST, PageMeta, Pager, decode, is_expired};
use super::{Cluster, FIELD_MANAGER};
use crate::{GroupKind, ObjectId};

/// Lists read at once: pages of 4 MiB, of which a tenth is kept.
const LISTS_MAX: usize = 6;
/// How often a list begins again after the server forgot where it was.
const RESTARTS_MAX: u32 = 3;

/// In place of the hash of what was applied: the object serves others besides the plan, and nothing is applied.
pub(super) const SHARED: &str = "shared";

/// What tells the objects of a cluster apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Slot {
    pub(super) kind: GroupKind,
    pub(super) namespace: Option<String>,
    pub(super) name: String,
}

impl Slot {
    pub(super) fn of(id: &ObjectId) -> Self {
        Self { kind: id.kind.clone(), namespace: id.namespace.clone(), name: id.name.clone() }
    }
}

/// `Deployment.apps shop/web`.
impl std::fmt::Display for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ", self.kind)?;
        if let Some(namespace) = &self.namespace {
            write!(f, "{namespace}/")?;
        }
        f.write_str(&self.name)
    }
}

/// An object of the standby.
#[derive(Debug, Clone)]
pub(super) struct LiveObject {
    pub(super) uid: String,
    /// The plan it is labelled with.
    pub(super) plan: Option<String>,
    /// Hash of what was applied last.
    pub(super) applied: Option<String>,
    /// The epoch of that plan at which it was written last.
    pub(super) epoch: Option<Epoch>,
    /// Whether we wrote it: a label alone may be a controller's copy of it.
    pub(super) ours: bool,
    /// Whether we applied it as a whole.
    pub(super) made: bool,
    /// Whether we wrote into it what others had made, and did not apply it as a whole since.
    pub(super) adopted: bool,
    pub(super) held: bool,
    /// Whether it is a volume that keeps its place here.
    pub(super) at_home: bool,
    /// Whether it keeps what waits for a release.
    pub(super) waits: bool,
    pub(super) deleting: bool,
    /// How many labels, annotations and entries are ours.
    pub(super) sizes: MapSizes,
    /// Who wrote what, if anyone else did.
    pub(super) managed: Option<Box<[Managed]>>,
}

impl LiveObject {
    /// Whether it is used as it is, although its kind is not one that is shared.
    pub(super) fn is_shared(&self) -> bool {
        self.applied.as_deref() == Some(SHARED)
    }
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Live {
    pub(super) objects: BTreeMap<Slot, LiveObject>,
    /// Kinds that could not be listed, and why.
    pub(super) unreadable: BTreeMap<GroupKind, String>,
}

/// One list to read.
#[derive(Debug, Clone)]
pub(super) struct Look {
    pub(super) resource: Resource,
    pub(super) namespace: Option<String>,
    pub(super) selector: Option<String>,
}

impl Live {
    /// Reads lists, a few at a time.
    pub(super) async fn read(&mut self, cluster: &Cluster, looks: Vec<Look>) -> Result<(), ClusterError> {
        let room = Arc::new(Semaphore::new(LISTS_MAX));
        let mut tasks = JoinSet::new();
        for look in looks {
            let (cluster, room) = (cluster.clone(), room.clone());
            tasks.spawn(async move {
                let _place = room.acquire().await;
                let found = look.read(&cluster).await;
                (look, found)
            });
        }
        while let Some(outcome) = tasks.join_next().await {
            match outcome.map_err(|_| ClusterError::Worker { what: "a list" })? {
                (_, Ok(found)) => self.objects.extend(found),
                (look, Err(error)) => self.failed(look, error)?,
            }
        }
        Ok(())
    }

    fn failed(&mut self, look: Look, error: RequestError) -> Result<(), ClusterError> {
        let kind = look.resource.kind;
        match &error {
            // A kind that has just gone has no objects.
            RequestError::Status(status) if status.code == 404 => {}
            RequestError::Status(status)
                if status.code == 403 || !kind.is_built_in() && status.code != 401 =>
            {
                let why = told(&kind, status);
                self.unreadable.insert(kind, why);
            }
            _ => return Err(error.fatal(format!("list {} of the standby", look.resource.plural))),
        }
        Ok(())
    }

    /// Whether an object keeps what waits for a release.
    pub(super) fn waits(&self, slot: &Slot) -> bool {
        self.objects.get(slot).is_some_and(|live| live.waits)
    }

    /// Namespaces that are going away.
    pub(super) fn terminating(&self) -> BTreeSet<String> {
        let going = |(slot, live): (&Slot, &LiveObject)| {
            (slot.kind.is("", "Namespace") && live.deleting).then(|| slot.name.clone())
        };
        self.objects.iter().filter_map(going).collect()
    }
}

impl Look {
    async fn read(&self, cluster: &Cluster) -> Result<Vec<(Slot, LiveObject)>, RequestError> {
        let mut restarts = 0;
        loop {
            match self.pages(cluster).await {
                Err(error) if is_expired(&error) && restarts < RESTARTS_MAX => restarts += 1,
                other => return other,
            }
        }
    }

    async fn pages(&self, cluster: &Cluster) -> Result<Vec<(Slot, LiveObject)>, RequestError> {
        let path = self.resource.path(self.namespace.as_deref());
        let mut pager = Pager::new(path, self.selector.as_deref(), METADATA_LIST);
        let mut all = Vec::new();
        while let Some(page) = pager.next(cluster).await? {
            let bytes = page.len();
            let kind = self.resource.kind.clone();
            let parsed = spawn_blocking(move || read_page(&page, &kind)).await;
            let (meta, found) =
                parsed.map_err(|_| RequestError::Answer { why: "the page was not read".to_owned() })??;
            pager.seen(meta, found.len(), bytes);
            all.extend(found);
        }
        Ok(all)
    }
}

fn read_page(page: &[u8], kind: &GroupKind) -> Result<(PageMeta, Vec<(Slot, LiveObject)>), RequestError> {
    let page: Page = decode(page)?;
    let found = page.items.unwrap_or_default().into_iter().map(|item| item.metadata.found(kind));
    Ok((page.metadata, found.collect()))
}

#[derive(Deserialize)]
struct Page<'p> {
    #[serde(default)]
    metadata: PageMeta,
    #[serde(default, borrow)]
    items: Option<Vec<Item<'p>>>,
}

#[derive(Deserialize)]
struct Item<'p> {
    #[serde(borrow)]
    metadata: Metadata<'p>,
}

/// What is read of an object's metadata; the rest is not even kept.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata<'p> {
    name: String,
    #[serde(default)]
    namespace: Option<String>,
    uid: String,
    #[serde(default)]
    deletion_timestamp: Option<IgnoredAny>,
    #[serde(default)]
    labels: Option<Labels>,
    #[serde(default)]
    annotations: Option<Annotations>,
    #[serde(default, borrow)]
    managed_fields: Option<Vec<Entry<'p>>>,
}

#[derive(Deserialize, Default)]
struct Labels {
    #[serde(default, rename = "backstay.dev/plan")]
    plan: Option<String>,
    #[serde(default, rename = "backstay.dev/waiting")]
    waiting: Option<IgnoredAny>,
}

#[derive(Deserialize, Default)]
struct Annotations {
    #[serde(default, rename = "backstay.dev/applied")]
    applied: Option<String>,
    #[serde(default, rename = "backstay.dev/epoch")]
    epoch: Option<String>,
    #[serde(default, rename = "backstay.dev/held")]
    held: Option<IgnoredAny>,
    #[serde(default, rename = "backstay.dev/home")]
    home: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry<'p> {
    #[serde(default)]
    manager: String,
    #[serde(default)]
    operation: String,
    #[serde(default)]
    subresource: Option<String>,
    #[serde(default, borrow)]
    fields_v1: Option<&'p RawValue>,
}

impl Entry<'_> {
    fn is_ours(&self) -> bool {
        self.manager == FIELD_MANAGER
    }

    /// Ours, of an object applied as a whole.
    fn is_whole(&self) -> bool {
        self.is_ours() && self.operation == "Apply"
    }

    /// What happens in `status` is a controller's business.
    fn is_of_object(&self) -> bool {
        self.subresource.as_deref().is_none_or(|subresource| matches!(subresource, "" | "scale"))
    }
}

impl Metadata<'_> {
    fn found(self, kind: &GroupKind) -> (Slot, LiveObject) {
        let entries: Vec<_> =
            self.managed_fields.unwrap_or_default().into_iter().filter(Entry::is_of_object).collect();
        let whole = entries.iter().find(|entry| entry.is_whole());
        let sizes = whole.and_then(|entry| entry.fields_v1).and_then(MapSizes::of_fields).unwrap_or_default();
        let adopted = entries.iter().any(|entry| entry.is_ours() && !entry.is_whole());
        let ours = adopted || whole.is_some();
        let is_shared = ours && entries.len() > 1;
        let managed = is_shared.then(|| {
            let managed = entries.iter().map(|entry| Managed {
                manager: entry.manager.clone(),
                is_ours: entry.is_ours(),
                fields: entry.fields_v1.map(|raw| raw.get().to_owned()).unwrap_or_default(),
            });
            managed.collect()
        });
        let (labels, annotations) = (self.labels.unwrap_or_default(), self.annotations.unwrap_or_default());
        let live = LiveObject {
            uid: self.uid,
            plan: labels.plan,
            applied: annotations.applied,
            epoch: annotations.epoch.and_then(|text| text.parse().ok()).map(Epoch),
            ours,
            made: whole.is_some(),
            adopted,
            held: annotations.held.is_some(),
            at_home: annotations.home.is_some(),
            waits: labels.waiting.is_some(),
            deleting: self.deletion_timestamp.is_some(),
            sizes,
            managed,
        };
        (Slot { kind: kind.clone(), namespace: self.namespace, name: self.name }, live)
    }
}
