//! Hold and release: an object kept from running on the standby, with its original values saved in it.
//!
//! 1. Releasing a held object gives the original, byte for byte in canonical form (test
//!    `release_gives_the_original_back`).
//! 2. Holding a held object changes nothing, and originals are saved once: a field that somebody set back while
//!    it was held is held again, and its first original stays (tests `holding_twice_is_holding_once`,
//!    `a_hold_that_was_undone_is_renewed`).
//! 3. An object that needs holding and cannot be held is an error and stays as it was; it is never applied
//!    unheld (test `what_cannot_be_held_is_an_error`).
//! 4. A record that claims an object is held is not believed: the fields are looked at (test
//!    `a_forged_record_does_not_let_an_object_run`).
//!
//! Left to others: writing objects anywhere, and the order in which they are released ([`crate::wave`]).

mod pointer;
mod record;
mod table;

use std::collections::BTreeMap;

use backstay_types::plan::HoldSpec;
use backstay_types::{Class, Classify};
use serde_json::Value;

use crate::{GroupKind, ObjectError, ObjectId};
use pointer::Pattern;
use record::Record;

/// Annotation with the original values of a held object.
pub const HELD_ANNOTATION: &str = "backstay.dev/held";

/// Which objects are held, and how: the built-in table, the scale subresources of custom resources, the plan's
/// own `holds`.
#[derive(Debug, Clone, Default)]
pub struct HoldTable {
    plan: BTreeMap<GroupKind, Vec<(Pattern, Value)>>,
    /// Replicas of custom resources, by kind and version.
    scales: BTreeMap<(GroupKind, String), Pattern>,
}

/// A `holds` entry of a plan that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HoldSpecError {
    /// No kind.
    #[error("holds: `kind` is empty")]
    NoKind,
    /// Not a path into the object.
    #[error("holds for {kind}: `path` {path:?}: expected a JSON pointer such as /spec/replicas")]
    Path {
        /// Kind.
        kind: String,
        /// What it says.
        path: String,
    },
    /// A path that would change what object it is.
    #[error(
        "holds for {kind}: `path` {path:?}: expected a path below /spec, /metadata/annotations or /metadata/labels"
    )]
    Identity {
        /// Kind.
        kind: String,
        /// What it says.
        path: String,
    },
    /// Not JSON.
    #[error("holds for {kind}: `heldValue` {text:?}: expected JSON text such as 0, true or \"Halted\"")]
    Value {
        /// Kind.
        kind: String,
        /// What it says.
        text: String,
    },
}

impl Classify for HoldSpecError {
    fn class(&self) -> Class {
        Class::Invalid
    }

    fn hint(&self) -> Option<String> {
        match self {
            HoldSpecError::Value { text, .. } => {
                Some(format!("text needs quotes inside the YAML string: heldValue: '\"{text}\"'"))
            }
            HoldSpecError::Path { .. } => {
                Some("`*` stands for every item of a list: /spec/nodeSets/*/count".to_owned())
            }
            HoldSpecError::NoKind | HoldSpecError::Identity { .. } => None,
        }
    }
}

/// Why an object cannot be held or released.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HoldError {
    /// It is not an object.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// A field on the way to the one to hold is not a mapping.
    #[error("hold {path}: {at} is not a mapping")]
    Shape {
        /// The field to hold.
        path: String,
        /// What is in the way.
        at: String,
    },
    /// The record of the originals cannot be read.
    #[error("annotation {annotation}: {why}")]
    Record {
        /// The annotation.
        annotation: &'static str,
        /// What is wrong.
        why: String,
    },
}

impl Classify for HoldError {
    fn class(&self) -> Class {
        match self {
            HoldError::Object(_) | HoldError::Shape { .. } => Class::Invalid,
            HoldError::Record { .. } => Class::Corrupt,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            HoldError::Object(error) => error.hint(),
            HoldError::Shape { .. } => Some("correct the object at its source".to_owned()),
            HoldError::Record { .. } => {
                Some("the next cycle writes the object anew, with its originals".to_owned())
            }
        }
    }
}

impl HoldTable {
    /// The built-in table and a plan's own holds.
    pub fn new(holds: &[HoldSpec]) -> Result<Self, HoldSpecError> {
        let mut table = Self::default();
        for hold in holds {
            let kind = hold.kind.clone();
            if kind.is_empty() {
                return Err(HoldSpecError::NoKind);
            }
            let Some(pattern) = Pattern::parse(&hold.path) else {
                return Err(HoldSpecError::Path { kind, path: hold.path.clone() });
            };
            let in_metadata = ["/metadata/annotations/", "/metadata/labels/"];
            let identity = ["apiVersion", "kind", "metadata"].contains(&pattern.root());
            if identity && !in_metadata.iter().any(|prefix| hold.path.starts_with(prefix)) {
                return Err(HoldSpecError::Identity { kind, path: hold.path.clone() });
            }
            let Ok(value) = serde_json::from_str(&hold.held_value) else {
                return Err(HoldSpecError::Value { kind, text: hold.held_value.clone() });
            };
            let kind = GroupKind { group: hold.group.clone(), kind };
            table.plan.entry(kind).or_default().push((pattern, value));
        }
        Ok(table)
    }

    /// Takes note of the scale subresources of a CustomResourceDefinition; anything else is ignored.
    pub fn learn(&mut self, object: &Value) {
        let text = |value: &Value, pointer| value.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        if text(object, "/kind").as_deref() != Some("CustomResourceDefinition") {
            return;
        }
        let (Some(group), Some(kind)) = (text(object, "/spec/group"), text(object, "/spec/names/kind"))
        else {
            return;
        };
        let versions = object.pointer("/spec/versions").and_then(Value::as_array);
        for version in versions.into_iter().flatten() {
            let path = text(version, "/subresources/scale/specReplicasPath");
            let pattern = path.as_deref().and_then(Pattern::from_json_path);
            if let (Some(name), Some(pattern)) = (text(version, "/name"), pattern) {
                self.scales.insert((GroupKind::new(&group, &kind), name), pattern);
            }
        }
    }

    /// Whether an object of this kind is not created before promotion.
    pub fn defers(&self, kind: &GroupKind) -> bool {
        matches!(table::rule(kind), Some(table::Rule::Defer))
    }

    /// Whether the built-in table says something of a kind.
    pub(crate) fn has_rule(kind: &GroupKind) -> bool {
        table::rule(kind).is_some()
    }

    /// Holds an object. Answers whether it is one that is held at all.
    pub fn hold(&self, object: &mut Value) -> Result<bool, HoldError> {
        let places = self.places(object)?;
        hold_at(object, &places)
    }

    /// Holds an object where it runs. Besides, a claim or a volume lets go of its owners: one that is deleted or
    /// made anew later would take it with it.
    pub fn hold_in_place(&self, object: &mut Value) -> Result<bool, HoldError> {
        const OWNERS: &str = "/metadata/ownerReferences";
        let mut places = self.places(object)?;
        let kind = ObjectId::of(object)?.kind;
        let has_owners =
            object.pointer(OWNERS).and_then(Value::as_array).is_some_and(|list| !list.is_empty());
        if has_owners && (kind.is("", "PersistentVolumeClaim") || kind.is("", "PersistentVolume")) {
            places.insert(OWNERS.to_owned(), Value::Array(Vec::new()));
        }
        hold_at(object, &places)
    }

    fn places(&self, object: &Value) -> Result<BTreeMap<String, Value>, HoldError> {
        let id = ObjectId::of(object)?;
        let mut places = BTreeMap::new();
        let mut add = |pattern: &Pattern, value: &Value| {
            places.extend(pattern.expand(object).into_iter().map(|path| (path, value.clone())));
        };
        match table::rule(&id.kind) {
            Some(rule) => rule.places(object).iter().for_each(|(pattern, value)| add(pattern, value)),
            // An operator's own way goes first: CloudNativePG has a scale subresource and refuses zero instances.
            None => {
                if let Some(pattern) = self.scales.get(&(id.kind.clone(), id.version)) {
                    add(pattern, &Value::from(0));
                }
            }
        }
        let own = self.plan.get(&id.kind);
        own.into_iter().flatten().for_each(|(pattern, value)| add(pattern, value));
        Ok(places)
    }
}

/// Sets every place to its value and notes in the object what was there.
fn hold_at(object: &mut Value, places: &BTreeMap<String, Value>) -> Result<bool, HoldError> {
    let record = Record::read(object)?;
    if places.is_empty() {
        // An autoscaler whose minimum was raised needs nothing more, and is held.
        return Ok(record.is_some());
    }
    let mut record = record.unwrap_or_else(Record::new);
    // On a copy, so that an object that cannot be held in full stays as it was.
    let mut held = object.clone();
    for (path, value) in places {
        record.set(&mut held, path, value)?;
    }
    record.write(&mut held)?;
    *object = held;
    Ok(true)
}

/// The held fields of an object, as an object of nothing else: a list that has one of them is there as a whole.
pub(crate) fn held_fields(object: &Value) -> Result<Value, HoldError> {
    let mut fields = Value::Object(serde_json::Map::new());
    if let Some(record) = Record::read(object)? {
        record.paths().for_each(|path| pointer::copy(object, path, &mut fields));
    }
    Ok(fields)
}

/// Whether an object carries a record of originals.
pub fn is_held(object: &Value) -> bool {
    object.pointer("/metadata/annotations").and_then(|annotations| annotations.get(HELD_ANNOTATION)).is_some()
}

/// Gives a held object its original values back. Answers whether it was held.
pub fn release(object: &mut Value) -> Result<bool, HoldError> {
    let Some(record) = Record::read(object)? else { return Ok(false) };
    let mut released = object.clone();
    record.undo(&mut released)?;
    *object = released;
    Ok(true)
}

#[cfg(test)]
mod tests;
