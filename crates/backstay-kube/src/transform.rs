//! Transforms: what an object of the source must become to be at home on the standby.
//!
//! Pure functions on one object, of any kind, in this order: namespaces, storage classes, image registries, the
//! plan's own patches.
//!
//! 1. An object keeps its group, kind and name, whatever the patches say; only a namespace may change, and a
//!    namespace's own name by the mapping (test `a_patch_does_not_make_another_object`).
//! 2. A patch that does not apply is an error naming object and path, unless it is optional, and then the object
//!    is as it was before it (tests `a_patch_that_does_not_apply_is_named`, `an_optional_patch_may_miss`).
//! 3. The content of a Secret or ConfigMap is opaque to the mappings (test `mappings_leave_content_alone`).

mod image;
mod mapping;
mod rule;

use backstay_types::plan::PlanSpec;
use backstay_types::{Class, Classify};
use serde_json::Value;

use crate::{ObjectError, ObjectId};
use image::Registries;
use mapping::Mapping;
use rule::Rule;
pub(crate) use rule::glob;

/// Everything a plan changes about its objects.
#[derive(Debug, Clone, Default)]
pub struct Transforms {
    mapping: Mapping,
    registries: Registries,
    rules: Vec<Rule>,
}

/// What became of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transformed {
    /// It goes to the standby.
    Kept,
    /// The standby has its own: a storage class whose name is mapped to another.
    LeftOut,
}

/// A transform of a plan that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("transforms[{index}].{field}: {why}")]
pub struct TransformSpecError {
    /// Which, from 0.
    pub index: usize,
    /// Which field.
    pub field: &'static str,
    /// What is wrong.
    pub why: String,
}

impl Classify for TransformSpecError {
    fn class(&self) -> Class {
        Class::Invalid
    }

    fn hint(&self) -> Option<String> {
        Some(match self.field {
            "jsonPatch" => "a list such as [{op: replace, path: /spec/type, value: ClusterIP}]".to_owned(),
            _ => "a mapping such as {spec: {type: ClusterIP}}".to_owned(),
        })
    }
}

/// A transform that cannot be carried out on one object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransformError {
    /// It is not an object, or no longer.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// A patch does not fit.
    #[error("transforms[{index}] on {object}: {path}: {why}")]
    Patch {
        /// Which, from 0.
        index: usize,
        /// The object.
        object: String,
        /// Where in it.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// A patch would make another object.
    #[error("transforms[{index}] on {object}: it would become {found}")]
    Identity {
        /// Which, from 0.
        index: usize,
        /// The object.
        object: String,
        /// What it would be.
        found: String,
    },
}

impl Classify for TransformError {
    fn class(&self) -> Class {
        Class::Invalid
    }

    fn hint(&self) -> Option<String> {
        match self {
            TransformError::Object(error) => error.hint(),
            TransformError::Patch { .. } => {
                Some("correct the patch, or set `optional: true` on it".to_owned())
            }
            TransformError::Identity { .. } => Some("a patch may change the namespace only".to_owned()),
        }
    }
}

impl Transforms {
    /// The transforms of a plan.
    pub fn new(spec: &PlanSpec) -> Result<Self, TransformSpecError> {
        let rules = spec.transforms.iter().enumerate().map(|(index, rule)| Rule::parse(index, rule));
        Ok(Self {
            mapping: Mapping::new(&spec.namespace_mapping, &spec.storage_class_mapping),
            registries: Registries::new(&spec.image_registry_mapping),
            rules: rules.collect::<Result<_, _>>()?,
        })
    }

    /// Transforms an object in place. After an error it is not to be used.
    pub fn apply(&self, object: &mut Value) -> Result<Transformed, TransformError> {
        let id = ObjectId::of(object)?;
        if self.mapping.replaces(&id) {
            return Ok(Transformed::LeftOut);
        }
        self.mapping.apply(&id, object);
        self.registries.apply(&id, object);
        for rule in &self.rules {
            rule.apply(object)?;
        }
        Ok(Transformed::Kept)
    }

    /// The name of a namespace on the standby.
    pub fn namespace<'n>(&'n self, source: &'n str) -> &'n str {
        self.mapping.namespace(source)
    }
}

/// Calls `edit` with every field of a mapping, at any depth, but for those of maps that have names for keys:
/// labels, annotations, selectors.
fn walk(value: &mut Value, edit: &mut impl FnMut(&str, &mut Value)) {
    const NAMED: [&str; 5] = ["annotations", "labels", "matchLabels", "nodeSelector", "selector"];
    match value {
        Value::Object(map) => {
            for (key, inner) in map.iter_mut() {
                edit(key, inner);
                if !NAMED.contains(&key.as_str()) {
                    walk(inner, edit);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| walk(item, edit)),
        _ => {}
    }
}

/// Whether the fields of a kind mean nothing to the API: they are some program's own.
fn is_opaque(id: &ObjectId) -> bool {
    id.kind.is("", "ConfigMap") || id.kind.is("", "Secret")
}

#[cfg(test)]
mod tests;
