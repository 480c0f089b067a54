//! Purge: objects of ours that are gone at the source.

use std::sync::Arc;

use backstay_types::plan::PlanSpec;

use crate::cluster::capture::MissingKinds;
use crate::cluster::error::ClusterError;
use crate::cluster::items::Items;
use crate::cluster::live::{LiveObject, Slot};
use crate::cluster::write::{WRITES_MAX, WriteError, Writer, is_kept, parallel};
use crate::order::{LAST, order};

impl Writer {
    /// Deletes what is gone, last wave first. Answers how many objects stay although they are gone.
    pub(super) async fn purge(
        self: &Arc<Self>,
        items: &Items,
        spec: &PlanSpec,
        missing: &MissingKinds,
    ) -> Result<u64, ClusterError> {
        let is_gone = |slot: &Slot, live: &LiveObject| {
            // The label alone does not tell: controllers copy it to what they make of an object.
            live.ours
                && live.plan.as_deref() == Some(self.prepare.plan().as_str())
                && !live.deleting
                && !items.has(&self.slots, slot)
                && !missing.has(&slot.kind)
        };
        let gone = self.live.objects.iter().filter(|(slot, live)| is_gone(slot, live));
        let (mut kept, mut waves) = (0, vec![Vec::new(); usize::from(LAST) + 1]);
        for (slot, live) in gone {
            // What waited on a cluster that stood still is in the restore point, or gone at the source.
            let goes = live.waits || spec.purges_deleted() && (spec.purge_deleted_data || !is_kept(slot));
            match waves.get_mut(usize::from(order(&slot.kind))) {
                Some(wave) if goes => wave.push((slot.clone(), live.uid.clone())),
                _ => kept += 1,
            }
        }
        for wave in waves.into_iter().rev() {
            let writer = self.clone();
            parallel(wave, WRITES_MAX, move |(slot, uid)| {
                let writer = writer.clone();
                async move { writer.remove(slot, uid).await }
            })
            .await?;
        }
        Ok(kept)
    }

    pub(in crate::cluster) async fn remove(&self, slot: Slot, uid: String) -> Result<(), ClusterError> {
        // It was listed a moment ago, so its kind is served.
        let Some(resource) = self.served.versions(&slot.kind).first() else { return Ok(()) };
        let outcome = self.delete(&slot, resource, &uid).await;
        let mut tally = self.tally();
        match outcome {
            Ok(()) => tally.removed += u64::from(!self.live.waits(&slot)),
            Err(WriteError::Object(fault)) => tally.failures.add(slot.to_string(), &fault),
            Err(WriteError::Run(error)) => return Err(error),
        }
        Ok(())
    }
}
