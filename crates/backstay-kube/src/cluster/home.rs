//! Home: a volume whose data was on this cluster before the cluster became a standby stays where it is.
//!
//! Where a volume is cannot be changed in its PersistentVolume, and need not: its data comes back to where it was.
//! Such a volume carries an annotation from the moment it stood still, and what is applied to it since says where it is
//! here: of a volume that Backstay once made, a place that is left out is one that is taken away, which no API server
//! allows.

use serde_json::Value;

use super::discovery::Resource;
use super::fault::Fault;
use super::items::Item;
use super::live::{LiveObject, Slot};
use super::prepare::marks;
use super::request::{Ask, JSON};
use super::write::{WriteError, Writer};
use crate::GroupKind;
use crate::normalise::HOME_ANNOTATION;

/// What a volume's `spec` has besides its place.
const ELSEWHERE: [&str; 8] = [
    "accessModes",
    "capacity",
    "claimRef",
    "mountOptions",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeAttributesClassName",
    "volumeMode",
];

impl Writer {
    /// Gives the volume that is to be applied the place it has here, and marks it again.
    pub(super) async fn stay(
        &self,
        slot: &Slot,
        resource: &Resource,
        body: &mut Value,
    ) -> Result<(), WriteError> {
        match self.volume(slot, resource).await? {
            Some(live) => stay_at(body, &live)?,
            // Somebody deleted it: it is made anew, where its data is.
            None => mark(body)?,
        }
        Ok(())
    }

    async fn volume(&self, slot: &Slot, resource: &Resource) -> Result<Option<Value>, WriteError> {
        match self.cluster.ask_for(&Ask::get(resource.object_path(None, &slot.name), JSON)).await {
            Ok(volume) => Ok(Some(volume)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(self.failed(slot, error)),
        }
    }

    /// A volume that is there without our marks, if it is the plan's all the same: it is where this side has the data of
    /// the volume of this name, and was for a claim of the plan, or for none. The plan ran here once, and its namespace was
    /// deleted before it could stand still.
    pub(super) async fn returned(
        &self,
        item: &Item,
        resource: &Resource,
    ) -> Result<Option<LiveObject>, WriteError> {
        let slot = &item.slot;
        let place = self.prepare.volume_place(&slot.name).filter(|_| slot.kind.is("", "PersistentVolume"));
        let (Some(place), Some(known)) = (place, self.live.objects.get(slot)) else { return Ok(None) };
        let Some(live) = self.volume(slot, resource).await? else { return Ok(None) };
        let is_ours = is_at(&live, &place.path.to_string_lossy())
            && claim_of(&live).is_none_or(|claim| self.slots.contains(&claim));
        Ok(is_ours.then(|| LiveObject { at_home: true, adopted: true, applied: None, ..known.clone() }))
    }
}

/// Whether a volume is this folder or device of a node.
fn is_at(volume: &Value, path: &str) -> bool {
    let places = ["/spec/hostPath/path", "/spec/local/path"];
    places.iter().any(|place| volume.pointer(place).and_then(Value::as_str) == Some(path))
}

/// The claim that a volume is, or was, for.
pub(super) fn claim_of(volume: &Value) -> Option<Slot> {
    let claim = volume.pointer("/spec/claimRef")?;
    let text = |field: &str| claim.get(field).and_then(Value::as_str).map(str::to_owned);
    let kind = GroupKind::new("", "PersistentVolumeClaim");
    Some(Slot { kind, namespace: text("namespace"), name: text("name")? })
}

/// Takes the place out of the volume that should be, and marks it.
pub(super) fn stay(body: &mut Value) -> Result<(), Fault> {
    if let Some(spec) = body.get_mut("spec").and_then(Value::as_object_mut) {
        spec.retain(|name, _| is_elsewhere(name));
    }
    mark(body)
}

/// The same, with the place that the volume has here.
fn stay_at(body: &mut Value, live: &Value) -> Result<(), Fault> {
    stay(body)?;
    let place = live.get("spec").and_then(Value::as_object).into_iter().flatten();
    let place =
        place.filter(|(name, _)| !is_elsewhere(name)).map(|(name, value)| (name.clone(), value.clone()));
    if let Some(spec) = body.get_mut("spec").and_then(Value::as_object_mut) {
        spec.extend(place);
    }
    Ok(())
}

fn is_elsewhere(field: &str) -> bool {
    ELSEWHERE.contains(&field)
}

/// Marks a volume that is at home here.
pub(super) fn mark(volume: &mut Value) -> Result<(), Fault> {
    marks(volume, "annotations")?.insert(HOME_ANNOTATION.to_owned(), "true".into());
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_applied_says_where_the_volume_is_here() {
        let mut body = json!({"spec": {"hostPath": {"path": "/there"}, "nodeAffinity": {}, "capacity": {"storage": "2Gi"}}});
        let live = json!({"spec": {"local": {"path": "/here"}, "capacity": {"storage": "1Gi"}, "claimRef": {"uid": "1"}}});
        stay_at(&mut body, &live).unwrap();
        assert_eq!(body["spec"], json!({"local": {"path": "/here"}, "capacity": {"storage": "2Gi"}}));
    }

    #[test]
    fn a_volume_tells_its_claim_and_its_place() {
        let volume = json!({"spec": {"hostPath": {"path": "/a"}, "claimRef": {"namespace": "shop", "name": "data", "uid": "1"}}});
        assert_eq!(claim_of(&volume).unwrap().to_string(), "PersistentVolumeClaim shop/data");
        assert!(is_at(&volume, "/a") && !is_at(&volume, "/b"));
        assert!(claim_of(&json!({"spec": {}})).is_none());
    }

    #[test]
    fn what_should_be_says_nothing_of_the_place() {
        let mut body = json!({"spec": {"hostPath": {"path": "/there"}, "nodeAffinity": {}, "capacity": {"storage": "1Gi"}}});
        stay(&mut body).unwrap();
        assert_eq!(
            body,
            json!({"spec": {"capacity": {"storage": "1Gi"}}, "metadata": {"annotations": {HOME_ANNOTATION: "true"}}})
        );
    }
}
