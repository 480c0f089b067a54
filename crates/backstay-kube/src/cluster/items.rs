//! What a restore point asks of the standby: one small item for each object, by which it is decided what to write.
//! The objects themselves stay bytes until they are sent; parsed, 31 000 of them would be some 200 MiB.

use std::collections::{BTreeMap, BTreeSet};

use super::drift::MapSizes;
use super::fault::Fault;
use super::links::{Rank, ranks};
use super::live::Slot;
use super::prepare::{Built, Prepare, Prepared};
use crate::GroupKind;
use crate::failure::Failures;
use crate::folder::CapturedObject;
use crate::object::CLUSTER_SCOPE;
use crate::order::order;

/// One object to be there.
#[derive(Debug, Clone)]
pub(super) struct Item {
    /// Which of the captured objects.
    pub(super) index: usize,
    pub(super) slot: Slot,
    pub(super) version: String,
    pub(super) hash: String,
    pub(super) held: bool,
    pub(super) owners: Vec<Slot>,
    pub(super) sizes: MapSizes,
    release_wave: i32,
}

/// The items of a restore point.
#[derive(Debug, Default)]
pub(super) struct Items {
    pub(super) items: Vec<Item>,
    /// Objects that wait for promotion, and which of the captured objects each is.
    pub(super) deferred: BTreeMap<Slot, usize>,
    /// Objects that cannot be prepared. What there is of them stays.
    pub(super) failures: Failures,
    failed: BTreeSet<Slot>,
}

/// Which order items are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waves {
    /// Of an apply.
    Apply,
    /// Of a promotion.
    Release,
}

impl Items {
    /// Prepares every object once, and keeps what decides about it. Blocks for some 20 µs an object.
    pub(super) fn of(prepare: &Prepare, objects: &[CapturedObject]) -> Self {
        let mut all = Self::default();
        let mut slots = BTreeSet::new();
        for (index, object) in objects.iter().enumerate() {
            let outcome = prepare.build(object).and_then(|prepared| match prepared {
                Prepared::Object(built) if !slots.insert(Slot::of(&built.id)) => Err(Fault::Twice),
                prepared => Ok(prepared),
            });
            match outcome {
                Ok(Prepared::Object(built)) => all.items.push(Item::of(index, &built)),
                Ok(Prepared::Deferred(id)) => {
                    all.deferred.insert(Slot::of(&id), index);
                }
                Ok(Prepared::LeftOut) => {}
                Err(fault) => {
                    all.failures.add(object.key.to_string(), &fault);
                    all.failed.extend(slot_of_key(prepare, object));
                }
            }
        }
        all
    }

    /// Whether the restore point has an object, in whatever state.
    pub(super) fn has(&self, names: &BTreeSet<Slot>, slot: &Slot) -> bool {
        names.contains(slot) || self.deferred.contains_key(slot) || self.failed.contains(slot)
    }

    pub(super) fn slots(&self) -> BTreeSet<Slot> {
        self.items.iter().map(|item| item.slot.clone()).collect()
    }

    /// The items in the order they are written: each group once the one before is done.
    pub(super) fn groups(&self, by: Waves) -> BTreeMap<Rank, Vec<Item>> {
        let wave = |item: &Item| match by {
            Waves::Apply => i32::from(order(&item.slot.kind)),
            Waves::Release => item.release_wave,
        };
        let owned = self.items.iter().filter(|item| !item.owners.is_empty());
        let owners: BTreeMap<Slot, Vec<Slot>> =
            owned.map(|item| (item.slot.clone(), item.owners.clone())).collect();
        // Only a few have owners; the others' waves are looked at as those of owners.
        let waves = if owners.is_empty() {
            BTreeMap::new()
        } else {
            self.items.iter().map(|item| (item.slot.clone(), wave(item))).collect()
        };
        let ranks = ranks(&waves, &owners);
        let mut groups: BTreeMap<Rank, Vec<Item>> = BTreeMap::new();
        for item in &self.items {
            let rank = ranks.get(&item.slot).copied().unwrap_or((wave(item), 0));
            groups.entry(rank).or_default().push(item.clone());
        }
        groups
    }
}

impl Item {
    fn of(index: usize, built: &Built) -> Self {
        Self {
            index,
            slot: Slot::of(&built.id),
            version: built.id.version.clone(),
            hash: built.hash.clone(),
            held: built.held,
            owners: built.owners.iter().map(|owner| owner.slot.clone()).collect(),
            sizes: built.sizes(),
            release_wave: built.wave,
        }
    }
}

/// Where an object would be that cannot be prepared, as far as its key tells.
fn slot_of_key(prepare: &Prepare, object: &CapturedObject) -> Option<Slot> {
    let mut parts = object.key.components().map(String::from_utf8_lossy);
    let (scope, group_kind, name) = (parts.next()?, parts.next()?, parts.next()?);
    let (group, kind) = group_kind.split_once('_')?;
    let namespace = (scope != CLUSTER_SCOPE).then(|| prepare.transforms().namespace(&scope).to_owned());
    Some(Slot { kind: GroupKind::new(group, kind), namespace, name: name.into_owned() })
}
