//! Writes: one request for each object that differs, none for one that does not.
//!
//! 1. What others made is never touched: what we did not find is created without force, so that an object that
//!    appeared meanwhile is a conflict and not an overwrite; what is replaced is named by its uid.
//! 2. Objects with data (claims, volumes, namespaces, definitions) are never deleted to be created anew.
//! 3. One object's failure does not stop the others; a server that is gone stops the run.

mod missed;
mod object;
mod parallel;
mod take_over;
mod tally;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

use super::Cluster;
use super::discovery::{Resource, Resources};
use super::drift::{Drift, Extent, drift};
use super::error::ClusterError;
use super::fault::Fault;
use super::home;
use super::items::Item;
use super::links::{OwnerLink, places};
use super::live::{Live, LiveObject, Slot};
use super::prepare::{Built, Owner, Prepare, Prepared};
use crate::folder::CapturedObject;

pub(super) use object::{APPLY_PATCH, Answer, CONFLICTS_MAX};
pub(super) use parallel::parallel;
pub(super) use tally::{Tally, Wrote};

/// Requests under way at once. One writes for some 2 ms; the API server is busy with eight, and the rest hides
/// the way there and back.
pub(super) const WRITES_MAX: usize = 16;

/// Writes the items of one run.
pub(super) struct Writer {
    pub(super) cluster: Cluster,
    /// What the standby serves, kinds that this run defines included.
    pub(super) served: Resources,
    /// Kinds that this run may have to wait for.
    pub(super) new_kinds: BTreeSet<crate::GroupKind>,
    pub(super) prepare: Prepare,
    pub(super) objects: Arc<Vec<CapturedObject>>,
    pub(super) live: Live,
    /// Everything the restore point has.
    pub(super) slots: BTreeSet<Slot>,
    pub(super) terminating: BTreeSet<String>,
    pub(super) uids: Mutex<Uids>,
    pub(super) tally: Mutex<Tally>,
}

/// What this run learnt of uids.
#[derive(Debug, Default)]
pub(super) struct Uids {
    now: BTreeMap<Slot, String>,
    /// Objects that this run created: their children have to be linked again.
    fresh: BTreeSet<Slot>,
}

/// Why an item was not written.
pub(super) enum WriteError {
    /// This one.
    Object(Fault),
    /// All that follow.
    Run(ClusterError),
}

impl From<Fault> for WriteError {
    fn from(fault: Fault) -> Self {
        WriteError::Object(fault)
    }
}

/// Whose an object is.
enum Claim<'l> {
    /// Nobody's: it is not there.
    New,
    Ours(&'l LiveObject),
    /// The standby's own, added to.
    Merged(&'l LiveObject),
    /// The standby's own, used as it is.
    Shared,
}

impl Writer {
    /// Writes a group of items, in no order.
    pub(super) async fn group(self: &Arc<Self>, items: Vec<Item>) -> Result<(), ClusterError> {
        let writer = self.clone();
        parallel(items, WRITES_MAX, move |item| {
            let writer = writer.clone();
            async move { writer.item(item).await }
        })
        .await
    }

    async fn item(&self, item: Item) -> Result<(), ClusterError> {
        let outcome = self.try_item(&item).await;
        let mut tally = self.tally();
        match outcome {
            Ok(wrote) => tally.count(wrote, item.held),
            Err(WriteError::Object(fault)) => tally.failures.add(item.slot.to_string(), &fault),
            Err(WriteError::Run(error)) => return Err(error),
        }
        Ok(())
    }

    async fn try_item(&self, item: &Item) -> Result<Wrote, WriteError> {
        let resource = self.place(item)?;
        let returned;
        let claim = match self.claim(&item.slot) {
            Err(Fault::Foreign) => {
                returned = self.returned(item, resource).await?.ok_or(Fault::Foreign)?;
                Claim::Ours(&returned)
            }
            claim => claim?,
        };
        let (Claim::Ours(live) | Claim::Merged(live)) = &claim else {
            if matches!(claim, Claim::Shared) {
                return Ok(Wrote::Shared);
            }
            self.write(item, resource, None, true).await?;
            return Ok(Wrote::Created);
        };
        if live.deleting {
            return Err(Fault::Deleting.into());
        }
        let same = live.applied.as_ref() == Some(&item.hash) && !self.has_fresh_owner(item);
        let built = if same && !self.may_have_drifted(item, live) { None } else { Some(self.build(item)?) };
        let Some(built) = built else { return Ok(Wrote::Unchanged) };
        let drift = self.drift(item, live, &built)?;
        let is_put_back = drift.as_ref().is_some_and(|drift| !drift.changed.is_empty());
        drift.into_iter().for_each(|drift| self.tally().drift(drift));
        if same && !is_put_back {
            return Ok(Wrote::Unchanged);
        }
        let is_labelled = matches!(claim, Claim::Ours(_));
        let is_anew = self.write(item, resource, Some(live), is_labelled).await?;
        Ok(if is_anew { Wrote::Recreated } else { Wrote::Changed })
    }

    /// Where an item can be written, if it can.
    pub(super) fn place(&self, item: &Item) -> Result<&Resource, Fault> {
        let slot = &item.slot;
        if let Some(namespace) = slot.namespace.as_ref().filter(|name| self.terminating.contains(*name)) {
            return Err(Fault::Terminating { namespace: namespace.clone() });
        }
        if let Some(why) = self.live.unreadable.get(&slot.kind) {
            return Err(Fault::Unreadable { kind: slot.kind.clone(), why: why.clone() });
        }
        self.resource(item)
    }

    fn resource(&self, item: &Item) -> Result<&Resource, Fault> {
        let kind = &item.slot.kind;
        let versions = self.served.versions(kind);
        if let Some(resource) = versions.iter().find(|resource| resource.version == item.version) {
            return Ok(resource);
        }
        if versions.is_empty() {
            return Err(Fault::NoKind { kind: kind.clone() });
        }
        let served = versions.iter().map(|resource| resource.version.as_str()).collect::<Vec<_>>().join(", ");
        Err(Fault::NoVersion { kind: kind.clone(), version: item.version.clone(), served })
    }

    fn claim(&self, slot: &Slot) -> Result<Claim<'_>, Fault> {
        let Some(live) = self.live.objects.get(slot) else { return Ok(Claim::New) };
        match &live.plan {
            Some(plan) if plan == self.prepare.plan().as_str() => Ok(Claim::Ours(live)),
            _ if is_shared(slot) || live.is_shared() => Ok(Claim::Shared),
            Some(plan) if live.ours => Err(Fault::OtherPlan { plan: plan.clone() }),
            // Every namespace gets its accounts from controllers, and tools add to them.
            _ if slot.kind.is("", "ServiceAccount") => Ok(Claim::Merged(live)),
            _ => Err(Fault::Foreign),
        }
    }

    pub(super) fn build(&self, item: &Item) -> Result<Box<Built>, Fault> {
        let object = self.objects.get(item.index).ok_or(Fault::Json)?;
        match self.prepare.build(object)? {
            Prepared::Object(built) => Ok(built),
            // It was one a moment ago, and preparing is a function.
            Prepared::Deferred(_) | Prepared::LeftOut => Err(Fault::Json),
        }
    }

    fn may_have_drifted(&self, item: &Item, live: &LiveObject) -> bool {
        live.managed.is_some() || (live.ours && !self.lost(item, live).is_empty())
    }

    /// Maps of which entries of ours are gone; those of an adopted object are not ours.
    fn lost(&self, item: &Item, live: &LiveObject) -> Vec<String> {
        if live.adopted { Vec::new() } else { live.sizes.lost(item.sizes) }
    }

    fn drift(&self, item: &Item, live: &LiveObject, built: &Built) -> Result<Option<Drift>, Fault> {
        if !live.ours || live.applied.as_ref() != Some(&item.hash) {
            // What the source changed is not told apart from what others did.
            return Ok(None);
        }
        let name = item.slot.to_string();
        let (mut desired, extent) = match live.adopted {
            true => (built.adopted_part()?, Extent::Part),
            false => (built.value().clone(), Extent::Whole),
        };
        if live.at_home {
            home::stay(&mut desired)?;
        }
        let managed = live.managed.as_ref();
        let mut found = managed.and_then(|managed| drift(name.clone(), &desired, extent, managed));
        if live.at_home {
            // Its place is its own, and was nobody's addition.
            found = found.map(|drift| Drift { added: Vec::new(), ..drift });
            found = found.filter(|drift| !drift.changed.is_empty());
        }
        // What a merged account lacks is the label of the plan, which it never had.
        let lost = self.lost(item, live);
        if !lost.is_empty() && live.plan.is_some() {
            let drift = found.get_or_insert_with(|| Drift {
                object: name,
                changed: Vec::new(),
                added: Vec::new(),
                managers: Vec::new(),
            });
            // Told once: an entry that another manager holds now is named in full.
            let named = |field: &String| drift.changed.iter().any(|known| known.starts_with(field.as_str()));
            let new: Vec<_> = lost.into_iter().filter(|field| !named(field)).collect();
            drift.changed.extend(new);
        }
        Ok(found)
    }

    /// The uid of an owner here.
    fn owner(&self, link: &OwnerLink) -> Owner {
        let candidates = places(&link.slot);
        let uids = self.uids();
        let here = candidates.iter().find_map(|slot| {
            uids.now.get(slot).or_else(|| self.live.objects.get(slot).map(|live| &live.uid)).cloned()
        });
        match here {
            _ if !candidates.iter().any(|slot| self.slots.contains(slot)) => Owner::Elsewhere,
            Some(uid) => Owner::Here(uid),
            None => Owner::Missing,
        }
    }

    fn has_fresh_owner(&self, item: &Item) -> bool {
        let uids = self.uids();
        item.owners.iter().flat_map(places).any(|slot| uids.fresh.contains(&slot))
    }

    /// Whether this run created an object.
    pub(super) fn is_fresh(&self, slot: &Slot) -> bool {
        self.uids().fresh.contains(slot)
    }

    pub(super) fn learn(&self, slot: &Slot, uid: String, fresh: bool) {
        let mut uids = self.uids();
        if fresh {
            uids.fresh.insert(slot.clone());
        }
        uids.now.insert(slot.clone(), uid);
    }

    fn body(&self, item: &Item, labelled: bool) -> Result<Value, Fault> {
        self.prepare.body(*self.build(item)?, labelled, |link| self.owner(link))
    }

    fn uids(&self) -> std::sync::MutexGuard<'_, Uids> {
        // Every change of it is one step: a panic elsewhere leaves it whole.
        self.uids.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn tally(&self) -> std::sync::MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Kinds that a cluster has its own of, and that many share: one that is there is used as it is.
pub(super) fn is_shared(slot: &Slot) -> bool {
    matches!(
        (slot.kind.group.as_str(), slot.kind.kind.as_str()),
        ("", "Namespace")
            | ("apiextensions.k8s.io", "CustomResourceDefinition")
            | ("storage.k8s.io", "StorageClass")
            | ("scheduling.k8s.io", "PriorityClass")
            | ("networking.k8s.io", "IngressClass")
            | ("node.k8s.io", "RuntimeClass")
            | ("rbac.authorization.k8s.io", "ClusterRole")
    )
}

/// Kinds that hold data, or everything else: never deleted to be created anew, and when they are gone at the
/// source, they stay here unless the plan says otherwise.
pub(super) fn is_kept(slot: &Slot) -> bool {
    matches!(
        (slot.kind.group.as_str(), slot.kind.kind.as_str()),
        ("", "Namespace" | "PersistentVolume" | "PersistentVolumeClaim")
            | ("apiextensions.k8s.io", "CustomResourceDefinition")
    )
}
