//! Standing still: on the cluster the objects were captured from, which becomes a standby, what could run is held
//! where it is.
//!
//! 1. Every object is *adopted*: it gets the marks of the plan, and an apply of a later restore point treats it as
//!    ours. Nothing else of it is written: what is there, and who wrote it, stays (`edit.rs`).
//! 2. The originals that are saved in a held object are those of the moment it was held. A capture gives them back,
//!    also while standing still, and also of half of it (test suite `kube`, `objects::there_and_back`).
//! 3. What cannot be held is kept in a record before it is deleted (`waiting.rs`), and captured from there.
//!
//! The order is that of a release turned round: first what would stand in the way or undo it, then what drives, then
//! what runs. At a crash the rest runs on; a second run changes only what is not as it should be, and a run that
//! changes nothing says that a capture of before and one of now are the same.

mod children;

use std::future::Future;
use std::sync::Arc;

use serde_json::Value;

use super::Cluster;
use super::apply::{ApplyOptions, ApplyReport};
use super::edit::Edited;
use super::error::ClusterError;
use super::fault::Fault;
use super::home;
use super::items::{Item, Waves};
use super::live::{SHARED, Slot};
use super::prepare::{Prepare, Purpose, marks};
use super::write::{WRITES_MAX, WriteError, Writer, Wrote, is_shared, parallel};
use crate::folder::CapturedObject;
use crate::normalise::{APPLIED_ANNOTATION, PLAN_LABEL};
use crate::order::{LAST, order};

impl Cluster {
    /// Holds the objects of a capture of this cluster where they are. Names, places and values are those they have
    /// here: no mapping or transform of the plan applies. Where the plan starts applications on a standby, the
    /// objects are adopted and run on.
    ///
    /// What changed between the capture and this call is not overwritten, and what was added meanwhile is not seen:
    /// capture and call again until nothing is [`changed`](ApplyReport::changed) or
    /// [`removed`](ApplyReport::removed).
    pub async fn stand_still(
        &self,
        objects: &Arc<Vec<CapturedObject>>,
        options: &ApplyOptions<'_>,
    ) -> Result<ApplyReport, ClusterError> {
        let (writer, items) = self.prepared(objects, Prepare::in_place(options, Purpose::Hold)?).await?;
        let waiting = items.deferred.iter().map(|(slot, index)| (slot.clone(), *index));
        let (hooks, others): (Vec<_>, Vec<_>) = waiting.partition(|(slot, _)| order(&slot.kind) == LAST);
        // A hook whose backend stops would refuse all that follows.
        writer.withdraw(hooks).await?;
        for (_, group) in items.groups(Waves::Release).into_iter().rev() {
            writer.each(group, |writer, item| async move { writer.stand(&item).await }).await?;
        }
        if writer.prepare.purpose() == Purpose::Hold {
            writer.stand_children().await?;
        }
        writer.withdraw(others).await?;
        let deferred = u64::try_from(items.deferred.len()).unwrap_or(u64::MAX);
        let tally = std::mem::take(&mut *writer.tally());
        Ok(ApplyReport { deferred, ..ApplyReport::of(tally) })
    }
}

impl Writer {
    /// Does something to every item of a group, and counts what it did; nothing is counted for what is not there.
    pub(super) async fn each<F>(
        self: &Arc<Self>,
        items: Vec<Item>,
        work: impl Fn(Arc<Self>, Item) -> F + Clone + Send + 'static,
    ) -> Result<(), ClusterError>
    where
        F: Future<Output = Result<Option<Wrote>, WriteError>> + Send,
    {
        let writer = self.clone();
        parallel(items, WRITES_MAX, move |item: Item| {
            let (writer, work) = (writer.clone(), work.clone());
            async move {
                let (slot, held) = (item.slot.clone(), item.held);
                let outcome = work(writer.clone(), item).await;
                let mut tally = writer.tally();
                match outcome {
                    Ok(wrote) => wrote.into_iter().for_each(|wrote| tally.count(wrote, held)),
                    Err(WriteError::Object(fault)) => tally.failures.add(slot.to_string(), &fault),
                    Err(WriteError::Run(error)) => return Err(error),
                }
                Ok(())
            }
        })
        .await
    }

    async fn stand(&self, item: &Item) -> Result<Option<Wrote>, WriteError> {
        let (slot, resource) = (&item.slot, self.place(item)?);
        let Some(live) = self.live.objects.get(slot).filter(|live| !live.deleting) else { return Ok(None) };
        let plan = self.prepare.plan().as_str();
        let is_ours = live.plan.as_deref() == Some(plan);
        match &live.plan {
            // Also one that another plan brought here: it runs nothing, and goes on serving both.
            _ if !is_ours && (is_shared(slot) || is_default_account(slot)) => return Ok(Some(Wrote::Shared)),
            Some(other) if !is_ours && live.ours => {
                return Err(Fault::OtherPlan { plan: other.clone() }.into());
            }
            _ => {}
        }
        if item.held || is_data(slot) || is_binding(slot) {
            let edited = self.edit(slot, resource, |object| self.hold_in_place(item, object)).await?;
            return Ok(match edited {
                Edited::Changed => Some(Wrote::Changed),
                Edited::Same => Some(Wrote::Unchanged),
                Edited::Gone => None,
            });
        }
        if is_ours && live.applied.as_ref() == Some(&item.hash) {
            return Ok(Some(Wrote::Unchanged));
        }
        let stamps = self.prepare.stamps();
        let stamps = stamps.iter().map(|(name, value)| (*name, Some(value.as_str())));
        let annotations: Vec<_> = stamps.chain([(APPLIED_ANNOTATION, Some(item.hash.as_str()))]).collect();
        self.mark(slot, resource, &live.uid, &[(PLAN_LABEL, Some(plan))], &annotations).await?;
        Ok(Some(Wrote::Changed))
    }

    /// What becomes of an object as it is here.
    fn hold_in_place(&self, item: &Item, object: &mut Value) -> Result<(), Fault> {
        let before = object.clone();
        if is_binding(&item.slot) && serves_others(object, self.build(item)?.value()) {
            marks(object, "annotations")?.insert(APPLIED_ANNOTATION.to_owned(), SHARED.into());
            return Ok(());
        }
        if self.prepare.purpose() == Purpose::Hold {
            self.prepare.table().hold_in_place(object)?;
        }
        if item.slot.kind.is("", "PersistentVolume") {
            home::mark(object)?;
        }
        marks(object, "labels")?.insert(PLAN_LABEL.to_owned(), self.prepare.plan().as_str().into());
        marks(object, "annotations")?.insert(APPLIED_ANNOTATION.to_owned(), item.hash.as_str().into());
        if *object != before {
            self.prepare.stamp(marks(object, "annotations")?);
        }
        Ok(())
    }

    /// Deletes objects that cannot be held, each once it is kept.
    async fn withdraw(self: &Arc<Self>, waiting: Vec<(Slot, usize)>) -> Result<(), ClusterError> {
        let writer = self.clone();
        parallel(waiting, WRITES_MAX, move |(slot, index)| {
            let writer = writer.clone();
            async move {
                let outcome = writer.withdraw_one(&slot, index).await;
                let mut tally = writer.tally();
                match outcome {
                    Ok(was_there) => tally.removed += u64::from(was_there),
                    Err(WriteError::Object(fault)) => tally.failures.add(slot.to_string(), &fault),
                    Err(WriteError::Run(error)) => return Err(error),
                }
                Ok(())
            }
        })
        .await
    }

    async fn withdraw_one(&self, slot: &Slot, index: usize) -> Result<bool, WriteError> {
        if let Some(why) = self.live.unreadable.get(&slot.kind) {
            return Err(Fault::Unreadable { kind: slot.kind.clone(), why: why.clone() }.into());
        }
        let live = self.live.objects.get(slot).filter(|live| !live.deleting);
        let (Some(live), Some(resource)) = (live, self.served.versions(&slot.kind).first()) else {
            return Ok(false);
        };
        self.keep_waiting(slot, index).await?;
        self.delete(slot, resource, &live.uid).await?;
        Ok(true)
    }
}

/// Kinds that are looked at whether they are held or not: nothing may take them away.
fn is_data(slot: &Slot) -> bool {
    slot.kind.is("", "PersistentVolume") || slot.kind.is("", "PersistentVolumeClaim")
}

fn is_binding(slot: &Slot) -> bool {
    slot.kind.group == "rbac.authorization.k8s.io" && slot.kind.kind.ends_with("Binding")
}

/// The account that every namespace has.
fn is_default_account(slot: &Slot) -> bool {
    slot.kind.is("", "ServiceAccount") && slot.name == "default"
}

/// Whether a binding is also for subjects that the plan does not cover, and a capture leaves out.
fn serves_others(binding: &Value, captured: &Value) -> bool {
    let subjects =
        |object: &Value| object.get("subjects").and_then(Value::as_array).cloned().unwrap_or_default();
    let covered = subjects(captured);
    subjects(binding).iter().any(|subject| !covered.contains(subject))
}
