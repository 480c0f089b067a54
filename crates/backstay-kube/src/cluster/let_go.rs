//! Letting go: takes a stand-still back, on the cluster that stood still, which stays the active one.
//!
//! The opposite of a stand-still and nothing more: every object gets its own originals back and loses our marks, and
//! what was deleted is created again. Nothing is taken from the capture but what was deleted; what changed since
//! stays changed. An object that was ours before, since this cluster was a standby once, stays ours.
//!
//! Repeating it, or going on with one that was cut off, does what is left to do.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::Cluster;
use super::apply::ApplyOptions;
use super::discovery::Resource;
use super::edit::Edited;
use super::error::ClusterError;
use super::fault::Fault;
use super::items::{Item, Waves};
use super::live::{LiveObject, Slot};
use super::prepare::{Prepare, Purpose, marks};
use super::release::ReleaseReport;
use super::write::{WRITES_MAX, WriteError, Writer, Wrote, parallel};
use crate::folder::CapturedObject;
use crate::hold;
use crate::normalise::{
    APPLIED_ANNOTATION, EPOCH_ANNOTATION, HOME_ANNOTATION, PLAN_LABEL, RESTORE_POINT_ANNOTATION, unmark,
    unmark_home,
};

/// How long an object that was deleted may take to go before it is created again: the grace of a pod, and some.
const GONE_WITHIN: Duration = Duration::from_secs(45);

impl Cluster {
    /// Takes a [`stand_still`](Cluster::stand_still) of these objects back.
    pub async fn let_go(
        &self,
        objects: &Arc<Vec<CapturedObject>>,
        options: &ApplyOptions<'_>,
    ) -> Result<ReleaseReport, ClusterError> {
        let (writer, items) = self.prepared(objects, Prepare::in_place(options, Purpose::Run)?).await?;
        let mut waves = Vec::new();
        for ((wave, _), group) in items.groups(Waves::Release) {
            writer.each(group, |writer, item| async move { writer.let_go(&item).await.map(Some) }).await?;
            if waves.last() != Some(&wave) {
                waves.push(wave);
            }
        }
        writer.let_go_of_others(&items.slots()).await?;
        writer.forget_waiting().await?;
        let tally = std::mem::take(&mut *writer.tally());
        Ok(ReleaseReport::of(tally, waves))
    }
}

impl Writer {
    async fn let_go(&self, item: &Item) -> Result<Wrote, WriteError> {
        let (slot, resource) = (&item.slot, self.place(item)?);
        let defers = self.prepare.table().defers(&slot.kind);
        match self.live.objects.get(slot) {
            Some(live) if !live.deleting => self.let_go_of(slot, resource, live, Some(&item.hash)).await,
            Some(_) if defers && self.left_after(slot, resource, GONE_WITHIN).await?.is_some() => {
                Err(Fault::Deleting.into())
            }
            _ if defers => self.create_unmarked(item, resource).await,
            // Somebody deleted it, and meant it.
            _ => Ok(Wrote::Unchanged),
        }
    }

    /// Objects of the plan that the capture does not have: they stood still with another.
    async fn let_go_of_others(self: &Arc<Self>, known: &BTreeSet<Slot>) -> Result<(), ClusterError> {
        let plan = self.prepare.plan().as_str();
        let is_other = |(slot, live): &(&Slot, &LiveObject)| {
            live.adopted
                && !live.waits
                && !live.deleting
                && live.plan.as_deref() == Some(plan)
                && !known.contains(*slot)
        };
        let others = self.live.objects.iter().filter(is_other).map(|(slot, _)| slot.clone()).collect();
        let writer = self.clone();
        parallel(others, WRITES_MAX, move |slot: Slot| {
            let writer = writer.clone();
            async move {
                let found = (writer.live.objects.get(&slot), writer.served.versions(&slot.kind).first());
                let (Some(live), Some(resource)) = found else { return Ok(()) };
                let outcome = writer.let_go_of(&slot, resource, live, None).await;
                let mut tally = writer.tally();
                match outcome {
                    Ok(wrote) => tally.count(wrote, false),
                    Err(WriteError::Object(fault)) => tally.failures.add(slot.to_string(), &fault),
                    Err(WriteError::Run(error)) => return Err(error),
                }
                Ok(())
            }
        })
        .await
    }

    /// Gives an object its originals back, and takes the marks off one that only stood still. `hash` is that of the
    /// object as it runs.
    async fn let_go_of(
        &self,
        slot: &Slot,
        resource: &Resource,
        live: &LiveObject,
        hash: Option<&str>,
    ) -> Result<Wrote, WriteError> {
        let is_ours = live.ours && live.plan.as_deref() == Some(self.prepare.plan().as_str());
        let is_as_it_was = live.made && !live.held && !live.at_home;
        if !live.is_shared() && (!is_ours || is_as_it_was) {
            return Ok(Wrote::Unchanged);
        }
        if !live.held && !live.made {
            let annotations =
                [APPLIED_ANNOTATION, HOME_ANNOTATION, RESTORE_POINT_ANNOTATION, EPOCH_ANNOTATION]
                    .map(|name| (name, None));
            let labels = [(PLAN_LABEL, None)];
            let labels = if is_ours { &labels[..] } else { &[] };
            self.mark(slot, resource, &live.uid, labels, &annotations).await?;
            return Ok(Wrote::Changed);
        }
        let edited = self.edit(slot, resource, |object| {
            hold::release(object)?;
            if !live.made {
                unmark(object);
                return Ok(());
            }
            unmark_home(object);
            self.prepare.stamp(marks(object, "annotations")?);
            if let Some(hash) = hash {
                marks(object, "annotations")?.insert(APPLIED_ANNOTATION.to_owned(), hash.into());
            }
            Ok(())
        });
        Ok(if edited.await? == Edited::Changed { Wrote::Changed } else { Wrote::Unchanged })
    }
}
