//! Rebinding: a claim of the plan that was deleted on the standby, and made anew, gets its volume back.
//!
//! The controller that bound a volume wrote the uid of the claim into it. A claim of the same name that is made later is
//! another one to it: the volume stays `Released`, and the claim `Pending` for good (kube suite `lifecycle`,
//! `a_claim_made_anew_on_the_standby_binds`). With the uid taken away the volume waits for the claim of that name.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;

use super::super::error::ClusterError;
use super::super::fault::Fault;
use super::super::home::claim_of;
use super::super::live::Slot;
use super::super::request::{JSON, Pager};
use super::super::write::{WriteError, Writer};
use crate::GroupKind;
use crate::normalise::PLAN_LABEL;

impl Writer {
    /// Has the volumes of the plan wait again for claims of the plan. Gives the claims.
    pub(in crate::cluster) async fn rebind(self: &Arc<Self>) -> Result<BTreeSet<Slot>, ClusterError> {
        let mut rebound = BTreeSet::new();
        let kind = GroupKind::new("", "PersistentVolume");
        if !self.slots.iter().any(|slot| slot.kind == kind) {
            return Ok(rebound);
        }
        let Some(resource) = self.served.versions(&kind).first() else { return Ok(rebound) };
        for volume in self.of_plan(&kind).await? {
            let Some(claim) = claim_of(&volume).filter(|claim| self.slots.contains(claim)) else { continue };
            if text(&volume, "/status/phase") != "Released" || !has_uid(&volume) {
                continue;
            }
            let slot = Slot {
                kind: kind.clone(),
                namespace: None,
                name: text(&volume, "/metadata/name").to_owned(),
            };
            let outcome = self.edit(&slot, resource, |volume| {
                // Of what was read just now: it may have been bound meanwhile.
                if text(volume, "/status/phase") == "Released" {
                    forget_claim(volume);
                }
                Ok(())
            });
            match outcome.await {
                Ok(_) => drop(rebound.insert(claim)),
                Err(WriteError::Object(fault)) => self.tally().failures.add(slot.to_string(), &fault),
                Err(WriteError::Run(error)) => return Err(error),
            }
        }
        Ok(rebound)
    }

    /// Counts claims that no time will bind: what they name is another's.
    pub(in crate::cluster) async fn tell_of_stuck_claims(
        &self,
        rebound: &BTreeSet<Slot>,
    ) -> Result<(), ClusterError> {
        let kind = GroupKind::new("", "PersistentVolumeClaim");
        if !self.slots.iter().any(|slot| slot.kind == kind) {
            return Ok(());
        }
        let volumes = self.of_plan(&GroupKind::new("", "PersistentVolume")).await?;
        for claim in self.of_plan(&kind).await? {
            let slot = Slot {
                kind: kind.clone(),
                namespace: Some(text(&claim, "/metadata/namespace").to_owned()),
                name: text(&claim, "/metadata/name").to_owned(),
            };
            if rebound.contains(&slot) {
                continue;
            }
            if let Some(fault) = volumes.iter().find_map(|volume| stuck(&claim, volume)) {
                self.tally().failures.add(slot.to_string(), &fault);
            }
        }
        Ok(())
    }

    async fn of_plan(&self, kind: &GroupKind) -> Result<Vec<Value>, ClusterError> {
        let Some(resource) = self.served.versions(kind).first() else { return Ok(Vec::new()) };
        let selector = format!("{PLAN_LABEL}={}", self.prepare.plan());
        let pager = Pager::new(resource.path(None), Some(&selector), JSON);
        let listed = self.cluster.list(pager).await;
        listed.map_err(|error| error.fatal(format!("list {} of the plan", resource.plural)))
    }
}

fn text<'v>(object: &'v Value, pointer: &str) -> &'v str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn has_uid(volume: &Value) -> bool {
    !text(volume, "/spec/claimRef/uid").is_empty()
}

fn forget_claim(volume: &mut Value) {
    if let Some(claim) = volume.pointer_mut("/spec/claimRef").and_then(Value::as_object_mut) {
        claim.remove("uid");
        claim.remove("resourceVersion");
    }
}

/// Why a claim can never be bound to the volume it names.
fn stuck(claim: &Value, volume: &Value) -> Option<Fault> {
    let phase = text(volume, "/status/phase");
    let is_its_own = text(claim, "/spec/volumeName") == text(volume, "/metadata/name");
    let is_anothers = has_uid(volume)
        && matches!(phase, "Bound" | "Released" | "Failed")
        && text(volume, "/spec/claimRef/uid") != text(claim, "/metadata/uid");
    let is_stuck = is_its_own && is_anothers && text(claim, "/status/phase") == "Pending";
    is_stuck.then(|| Fault::Unbound {
        volume: text(volume, "/metadata/name").to_owned(),
        phase: phase.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_claim_is_stuck_where_its_volume_is_anothers() {
        let claim = |phase: &str| json!({"metadata": {"uid": "new"}, "spec": {"volumeName": "pv"}, "status": {"phase": phase}});
        let volume = |name: &str, uid: &str, phase: &str| json!({"metadata": {"name": name}, "spec": {"claimRef": {"uid": uid}}, "status": {"phase": phase}});
        assert!(stuck(&claim("Pending"), &volume("pv", "old", "Released")).is_some());
        assert!(stuck(&claim("Bound"), &volume("pv", "old", "Released")).is_none());
        assert!(stuck(&claim("Pending"), &volume("other", "old", "Released")).is_none());
        // It is being bound, or nobody binds here.
        assert!(stuck(&claim("Pending"), &volume("pv", "new", "Bound")).is_none());
        assert!(stuck(&claim("Pending"), &volume("pv", "", "Available")).is_none());
    }

    #[test]
    fn a_volume_forgets_the_uid_of_its_claim_alone() {
        let mut volume = json!({"spec": {"claimRef": {"name": "data", "namespace": "shop", "uid": "1", "resourceVersion": "2"}}});
        forget_claim(&mut volume);
        assert_eq!(volume["spec"]["claimRef"], json!({"name": "data", "namespace": "shop"}));
    }
}
