//! What controllers have made and would not stop with them: runs of a suspended CronJob, pods of an operator that
//! pauses. A capture has none of it, since its controller makes it again; so it is held as ours, and goes with the
//! first restore point from the other side, or runs on when it is let go.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;

use crate::GroupKind;
use crate::cluster::discovery::Resource;
use crate::cluster::edit::Edited;
use crate::cluster::error::ClusterError;
use crate::cluster::fault::Fault;
use crate::cluster::live::Slot;
use crate::cluster::prepare::marks;
use crate::cluster::request::{METADATA_LIST, Pager};
use crate::cluster::running::controller;
use crate::cluster::write::{WRITES_MAX, WriteError, Writer, Wrote, parallel};
use crate::normalise::PLAN_LABEL;
use crate::skip::is_finished_job;

/// An object of a list, its uid, and who controls it.
struct Child {
    slot: Slot,
    uid: String,
    controller: Slot,
}

impl Writer {
    /// Holds what captured controllers have made, once those are held.
    pub(super) async fn stand_children(self: &Arc<Self>) -> Result<(), ClusterError> {
        let of_slots = |child: &Child, known: &BTreeSet<Slot>| {
            known.contains(&child.controller) && !known.contains(&child.slot)
        };
        let jobs = self.children(&GroupKind::new("batch", "Job")).await?;
        let sets = self.children(&GroupKind::new("core.strimzi.io", "StrimziPodSet")).await?;
        let held = jobs.into_iter().chain(sets).filter(|child| of_slots(child, &self.slots));
        let held: Vec<Slot> = held.map(|child| child.slot).collect();
        let paused: BTreeSet<Slot> =
            held.iter().filter(|slot| slot.kind.group == "core.strimzi.io").cloned().collect();
        let writer = self.clone();
        parallel(held, WRITES_MAX, move |slot| {
            let writer = writer.clone();
            async move { writer.stand_child(slot).await }
        })
        .await?;
        // A pause stops the operator, and not its pods; the other way round they would come back.
        if paused.is_empty() {
            return Ok(());
        }
        let pods = self.children(&GroupKind::new("", "Pod")).await?;
        let pods = pods.into_iter().filter(|pod| paused.contains(&pod.controller));
        let writer = self.clone();
        parallel(pods.map(|pod| (pod.slot, pod.uid)).collect(), WRITES_MAX, move |(slot, uid)| {
            let writer = writer.clone();
            async move { writer.remove(slot, uid).await }
        })
        .await
    }

    /// Objects of a kind with a controller, in the namespaces of the capture, but for those on their way out.
    async fn children(&self, kind: &GroupKind) -> Result<Vec<Child>, ClusterError> {
        let Some(resource) = self.served.versions(kind).first() else { return Ok(Vec::new()) };
        let namespaces: BTreeSet<&String> =
            self.slots.iter().filter_map(|slot| slot.namespace.as_ref()).collect();
        let mut found = Vec::new();
        for namespace in namespaces {
            let pager = Pager::new(resource.path(Some(namespace)), None, METADATA_LIST);
            let error = |error: crate::cluster::error::RequestError| {
                error.fatal(format!("list {} of the cluster", resource.plural))
            };
            let objects = self.cluster.list(pager).await.map_err(error)?;
            found.extend(objects.iter().filter_map(|object| child(resource, namespace, object)));
        }
        Ok(found)
    }

    async fn stand_child(&self, slot: Slot) -> Result<(), ClusterError> {
        let Some(resource) = self.served.versions(&slot.kind).first() else { return Ok(()) };
        let outcome = self.edit(&slot, resource, |object| self.hold_child(object)).await;
        let mut tally = self.tally();
        match outcome {
            Ok(Edited::Changed) => tally.count(Wrote::Changed, true),
            Ok(Edited::Same | Edited::Gone) => {}
            Err(WriteError::Object(fault)) => tally.failures.add(slot.to_string(), &fault),
            Err(WriteError::Run(error)) => return Err(error),
        }
        Ok(())
    }

    fn hold_child(&self, object: &mut Value) -> Result<(), Fault> {
        if is_finished_job(object) {
            return Ok(());
        }
        let before = object.clone();
        self.prepare.table().hold_in_place(object)?;
        marks(object, "labels")?.insert(PLAN_LABEL.to_owned(), self.prepare.plan().as_str().into());
        if *object != before {
            self.prepare.stamp(marks(object, "annotations")?);
        }
        Ok(())
    }
}

fn child(resource: &Resource, namespace: &str, object: &Value) -> Option<Child> {
    let text = |pointer| object.pointer(pointer).and_then(Value::as_str);
    if text("/metadata/deletionTimestamp").is_some() {
        return None;
    }
    let slot = Slot {
        kind: resource.kind.clone(),
        namespace: Some(namespace.to_owned()),
        name: text("/metadata/name")?.to_owned(),
    };
    let controller = controller(object, Some(namespace))?;
    Some(Child { slot, uid: text("/metadata/uid")?.to_owned(), controller })
}
