//! Prepare: from the bytes of a bundle to what is sent to the standby. Pure; nothing is asked of a server.
//!
//! 1. What is sent is already held (or will not be sent before promotion): there is no moment at which an object
//!    exists and may run.
//! 2. Where an object goes is decided by what is in it, checked against its key: the bundle came over the wire.

use std::collections::BTreeMap;
use std::path::PathBuf;

use backstay_types::{Epoch, PlanName, RestorePointId};
use serde_json::{Map, Value, json};

use super::apply::ApplyOptions;
use super::capture::is_record;
use super::drift::MapSizes;
use super::error::ClusterError;
use super::fault::Fault;
use super::links::{self, OwnerLink};
use crate::folder::CapturedObject;
use crate::hold::{HoldTable, held_fields};
use crate::normalise::{APPLIED_ANNOTATION, EPOCH_ANNOTATION, PLAN_LABEL, RESTORE_POINT_ANNOTATION};
use crate::transform::{Transformed, Transforms};
use crate::wave::wave;
use crate::{ObjectId, canonical};

/// Bytes of the hash that tells a changed object from an unchanged one; 128 bits.
const HASH_BYTES: usize = 16;

/// Where a volume's data is on the standby.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumePlace {
    /// The replica.
    pub path: PathBuf,
    /// The node it is on, for volumes that are tied to one.
    pub node: Option<String>,
}

/// What objects are prepared for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To wait on the standby.
    Hold,
    /// To run.
    Run,
}

/// Turns captured objects into those of the standby.
pub(super) struct Prepare {
    plan: PlanName,
    epoch: Epoch,
    point: RestorePointId,
    purpose: Purpose,
    is_in_place: bool,
    transforms: Transforms,
    table: HoldTable,
    volumes: BTreeMap<String, VolumePlace>,
}

/// What becomes of a captured object.
pub(super) enum Prepared {
    /// It is sent.
    Object(Box<Built>),
    /// It waits for promotion.
    Deferred(ObjectId),
    /// It is not for the standby.
    LeftOut,
}

/// An object to send, but for what depends on the standby: the uids of its owners.
pub(super) struct Built {
    pub(super) id: ObjectId,
    pub(super) owners: Vec<OwnerLink>,
    pub(super) held: bool,
    /// The wave it is released in.
    pub(super) wave: i32,
    pub(super) hash: String,
    value: Value,
}

impl Prepare {
    /// For another cluster than the one the objects were captured from.
    pub(super) fn new(options: &ApplyOptions<'_>, purpose: Purpose) -> Result<Self, ClusterError> {
        let transforms = Transforms::new(options.spec)?;
        let volumes = options.volumes.clone();
        Ok(Self { transforms, volumes, is_in_place: false, ..Self::in_place(options, purpose)? })
    }

    /// For the cluster the objects were captured from: nothing is mapped, patched or placed.
    pub(super) fn in_place(options: &ApplyOptions<'_>, purpose: Purpose) -> Result<Self, ClusterError> {
        let ApplyOptions { plan, epoch, restore_point, spec, .. } = options;
        Ok(Self {
            plan: (*plan).clone(),
            epoch: *epoch,
            point: *restore_point,
            purpose: if spec.start_applications { Purpose::Run } else { purpose },
            is_in_place: true,
            transforms: Transforms::default(),
            table: HoldTable::new(&spec.holds)?,
            volumes: BTreeMap::new(),
        })
    }

    /// Takes note of the definitions of custom resources among the objects.
    pub(super) fn learn(&mut self, objects: &[CapturedObject]) {
        for definition in definitions(objects) {
            self.table.learn(&definition);
        }
    }

    pub(super) fn build(&self, object: &CapturedObject) -> Result<Prepared, Fault> {
        let mut value: Value = serde_json::from_slice(&object.bytes).map_err(|_| Fault::Json)?;
        let source = ObjectId::of(&value)?;
        if !source.has_key(&object.key) {
            return Err(Fault::Key { id: source.to_string() });
        }
        if is_record(&source) || self.transforms.apply(&mut value)? == Transformed::LeftOut {
            return Ok(Prepared::LeftOut);
        }
        let id = ObjectId::of(&value)?;
        self.place_volume(&source, &mut value);
        let mut owners = links::take(&id, &mut value);
        let wave = self.wave(&id, &value)?;
        let mut held = false;
        if self.purpose == Purpose::Hold {
            if self.table.defers(&id.kind) {
                return Ok(Prepared::Deferred(id));
            }
            // A claim that an owner takes with it would take the replica with it.
            if id.kind.is("", "PersistentVolumeClaim") || id.kind.is("", "PersistentVolume") {
                owners.clear();
            }
            held = self.table.hold(&mut value)?;
        }
        marks(&mut value, "labels")?.insert(PLAN_LABEL.to_owned(), self.plan.as_str().into());
        let hash = hash(&value, &owners);
        Ok(Prepared::Object(Box::new(Built { id, owners, held, wave, hash, value })))
    }

    /// The wave of release is that of the held form: it tells an operator's resource from one that runs nothing.
    fn wave(&self, id: &ObjectId, value: &Value) -> Result<i32, Fault> {
        if id.kind.is_built_in() {
            return Ok(wave(id, value));
        }
        let mut held = value.clone();
        self.table.hold(&mut held)?;
        Ok(wave(id, &held))
    }

    /// Points a volume of a node at its replica.
    fn place_volume(&self, source: &ObjectId, value: &mut Value) {
        let Some(place) = self.volumes.get(&source.name).filter(|_| source.kind.is("", "PersistentVolume"))
        else {
            return;
        };
        for pointer in ["/spec/hostPath/path", "/spec/local/path"] {
            if let Some(path) = value.pointer_mut(pointer) {
                *path = place.path.to_string_lossy().into();
            }
        }
        if let (Some(node), Some(spec)) = (&place.node, value.get_mut("spec").and_then(Value::as_object_mut))
        {
            let on_node = json!({"key": "kubernetes.io/hostname", "operator": "In", "values": [node]});
            let affinity = json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [on_node]}]}});
            spec.insert("nodeAffinity".to_owned(), affinity);
        }
    }

    /// Where the data of a volume is here.
    pub(super) fn volume_place(&self, name: &str) -> Option<&VolumePlace> {
        self.volumes.get(name)
    }

    /// The body of the request: marked, and linked to those owners whose uid is known. An object that is not
    /// linked in full says so by carrying no hash: the next run writes it again.
    pub(super) fn body(
        &self,
        mut built: Built,
        labelled: bool,
        uid: impl Fn(&OwnerLink) -> Owner,
    ) -> Result<Value, Fault> {
        let mut links = Vec::new();
        let mut is_whole = true;
        for owner in &built.owners {
            match uid(owner) {
                Owner::Here(uid) => links.push(owner.linked(&uid)),
                Owner::Missing => is_whole = false,
                Owner::Elsewhere => {}
            }
        }
        if !labelled
            && let Some(labels) = built.value.pointer_mut("/metadata/labels").and_then(Value::as_object_mut)
        {
            labels.remove(PLAN_LABEL);
        }
        if let (false, Some(metadata)) =
            (links.is_empty(), built.value.get_mut("metadata").and_then(Value::as_object_mut))
        {
            metadata.insert("ownerReferences".to_owned(), Value::Array(links));
        }
        let annotations = marks(&mut built.value, "annotations")?;
        self.stamp(annotations);
        if is_whole {
            annotations.insert(APPLIED_ANNOTATION.to_owned(), built.hash.into());
        }
        Ok(built.value)
    }

    /// Says in the annotations of an object when it was written.
    pub(super) fn stamp(&self, annotations: &mut Map<String, Value>) {
        for (name, value) in self.stamps() {
            annotations.insert(name.to_owned(), value.into());
        }
    }

    /// The annotations that say when an object was written.
    pub(super) fn stamps(&self) -> [(&'static str, String); 2] {
        [(RESTORE_POINT_ANNOTATION, self.point.to_string()), (EPOCH_ANNOTATION, self.epoch.0.to_string())]
    }

    pub(super) fn plan(&self) -> &PlanName {
        &self.plan
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.epoch
    }

    pub(super) fn purpose(&self) -> Purpose {
        self.purpose
    }

    pub(super) fn is_in_place(&self) -> bool {
        self.is_in_place
    }

    pub(super) fn table(&self) -> &HoldTable {
        &self.table
    }

    /// Where a namespace of the source is here.
    pub(super) fn transforms(&self) -> &Transforms {
        &self.transforms
    }
}

/// What is known of an owner.
pub(super) enum Owner {
    /// It is here, with this uid.
    Here(String),
    /// It is of the restore point and not here yet.
    Missing,
    /// It is not of the restore point.
    Elsewhere,
}

impl Built {
    /// How many entries the maps of the object have, marks included.
    pub(super) fn sizes(&self) -> MapSizes {
        let mut marked = json!({"metadata": {"labels": self.value.pointer("/metadata/labels"),
            "annotations": self.value.pointer("/metadata/annotations").filter(|value| value.is_object()).cloned().unwrap_or_else(|| json!({}))},
            "data": self.value.get("data"), "binaryData": self.value.get("binaryData")});
        if let Some(annotations) = marked.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut)
        {
            annotations.insert(RESTORE_POINT_ANNOTATION.to_owned(), Value::Null);
            annotations.insert(EPOCH_ANNOTATION.to_owned(), Value::Null);
            annotations.insert(APPLIED_ANNOTATION.to_owned(), Value::Null);
        }
        MapSizes::of_object(&marked)
    }

    pub(super) fn value(&self) -> &Value {
        &self.value
    }

    /// The part of it that is ours of an object that stood still: the label of the plan and what is held.
    pub(super) fn adopted_part(&self) -> Result<Value, Fault> {
        let mut part = held_fields(&self.value)?;
        if let Some(plan) = self.value.pointer("/metadata/labels").and_then(|labels| labels.get(PLAN_LABEL)) {
            marks(&mut part, "labels")?.insert(PLAN_LABEL.to_owned(), plan.clone());
        }
        Ok(part)
    }
}

/// The definitions of custom resources among captured objects; one that does not parse fails in its own turn.
pub(super) fn definitions(objects: &[CapturedObject]) -> impl Iterator<Item = Value> {
    const KEY: &[u8] = b"apiextensions.k8s.io_CustomResourceDefinition";
    let of_kind = |object: &&CapturedObject| object.key.components().nth(1) == Some(KEY);
    objects.iter().filter(of_kind).filter_map(|object| serde_json::from_slice(&object.bytes).ok())
}

/// The labels or annotations of an object.
pub(super) fn marks<'v>(
    value: &'v mut Value,
    field: &'static str,
) -> Result<&'v mut Map<String, Value>, Fault> {
    let metadata = value.as_object_mut().map(|fields| fields.entry("metadata").or_insert_with(|| json!({})));
    let metadata = metadata.and_then(Value::as_object_mut);
    let marks = metadata.map(|metadata| metadata.entry(field).or_insert_with(|| Value::Object(Map::new())));
    marks.and_then(Value::as_object_mut).ok_or(Fault::Mark { field })
}

fn hash(value: &Value, owners: &[OwnerLink]) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&canonical::to_bytes(value));
    for owner in owners {
        hasher.update(&[0]);
        hasher.update(owner.slot.to_string().as_bytes());
    }
    hasher.finalize().to_hex().chars().take(HASH_BYTES * 2).collect()
}
