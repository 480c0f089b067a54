//! Owners: a reference names its owner by uid, and the standby gives uids of its own.
//!
//! 1. A reference to an object that is not of the same restore point is dropped: a stale one would have the
//!    garbage collector delete the child.
//! 2. An owner is written before its children, whatever their kinds.

use std::collections::BTreeMap;

use serde_json::Value;

use super::live::Slot;
use crate::{GroupKind, ObjectId};

/// Owners of owners that are followed; a ring of references ends here.
const DEPTH_MAX: u8 = 8;

/// A reference as it was captured, and what it names.
#[derive(Debug, Clone)]
pub(super) struct OwnerLink {
    pub(super) slot: Slot,
    reference: Value,
}

impl OwnerLink {
    /// The reference, with the uid of its owner here.
    pub(super) fn linked(&self, uid: &str) -> Value {
        let mut reference = self.reference.clone();
        if let Some(fields) = reference.as_object_mut() {
            fields.insert("uid".to_owned(), uid.into());
        }
        reference
    }
}

/// Takes the references out of an object. An owner is in the namespace of its child; one that is cluster-scoped
/// is tried under that as well.
pub(super) fn take(id: &ObjectId, object: &mut Value) -> Vec<OwnerLink> {
    let metadata = object.get_mut("metadata").and_then(Value::as_object_mut);
    let Some(Value::Array(references)) = metadata.and_then(|metadata| metadata.remove("ownerReferences"))
    else {
        return Vec::new();
    };
    let link = |reference: Value| {
        let text = |field| reference.get(field).and_then(Value::as_str).unwrap_or_default();
        let group = text("apiVersion").split_once('/').map_or("", |(group, _)| group);
        let kind = GroupKind::new(group, text("kind"));
        let slot = Slot { kind, namespace: id.namespace.clone(), name: text("name").to_owned() };
        OwnerLink { slot, reference }
    };
    references.into_iter().map(link).collect()
}

/// The two places an owner can be at.
pub(super) fn places(slot: &Slot) -> [Slot; 2] {
    [slot.clone(), Slot { namespace: None, ..slot.clone() }]
}

/// When an object is written: its wave, and its depth below its owners within the wave.
pub(super) type Rank = (i32, u8);

/// The ranks of objects, by their waves and owners.
pub(super) fn ranks(waves: &BTreeMap<Slot, i32>, owners: &BTreeMap<Slot, Vec<Slot>>) -> BTreeMap<Slot, Rank> {
    owners.keys().map(|slot| (slot.clone(), rank(slot, waves, owners, DEPTH_MAX))).collect()
}

fn rank(slot: &Slot, waves: &BTreeMap<Slot, i32>, owners: &BTreeMap<Slot, Vec<Slot>>, left: u8) -> Rank {
    let own = (waves.get(slot).copied().unwrap_or(0), 0);
    let Some(left) = left.checked_sub(1) else { return own };
    let above =
        owners.get(slot).into_iter().flatten().flat_map(places).filter(|owner| waves.contains_key(owner));
    above
        .map(|owner| rank(&owner, waves, owners, left))
        .fold(own, |rank, (wave, depth)| rank.max((wave, depth + 1)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn slot(kind: &str, name: &str) -> Slot {
        Slot { kind: GroupKind::new("", kind), namespace: Some("shop".to_owned()), name: name.to_owned() }
    }

    #[test]
    fn children_come_after_their_owners() {
        let (app, child, grandchild) = (slot("App", "a"), slot("ConfigMap", "b"), slot("Secret", "c"));
        let waves = BTreeMap::from([(app.clone(), 9), (child.clone(), 6), (grandchild.clone(), 6)]);
        let owners = BTreeMap::from([
            (child.clone(), vec![app.clone()]),
            (grandchild.clone(), vec![child.clone(), slot("Gone", "g")]),
        ]);
        let ranks = ranks(&waves, &owners);
        assert_eq!(ranks.get(&child), Some(&(9, 1)));
        assert_eq!(ranks.get(&grandchild), Some(&(9, 2)));
    }

    #[test]
    fn a_ring_of_owners_ends() {
        let (a, b) = (slot("A", "a"), slot("B", "b"));
        let waves = BTreeMap::from([(a.clone(), 1), (b.clone(), 1)]);
        let owners = BTreeMap::from([(a.clone(), vec![b.clone()]), (b, vec![a.clone()])]);
        assert!(ranks(&waves, &owners)[&a].1 <= DEPTH_MAX);
    }

    #[test]
    fn references_get_the_uid_of_the_owner_here() {
        let mut object = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "shop",
            "ownerReferences": [{"apiVersion": "a.io/v1", "kind": "App", "name": "x", "controller": true}]}});
        let links = take(&ObjectId::of(&object).unwrap(), &mut object);
        assert_eq!(object["metadata"].get("ownerReferences"), None);
        assert_eq!(links[0].slot.kind, GroupKind::new("a.io", "App"));
        assert_eq!(
            links[0].linked("u1"),
            json!({"apiVersion": "a.io/v1", "kind": "App", "name": "x", "controller": true, "uid": "u1"})
        );
    }
}
