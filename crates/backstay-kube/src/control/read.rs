//! Reads a resource as the document that `backstay plan apply` takes, by the same checks.

use std::collections::BTreeMap;

use backstay_types::{Class, Classify};
use kube::ResourceExt;
use kube::api::DynamicObject;
use serde_json::{Value, json};

use super::condition::Told;
use super::host::HostError;
use crate::crds::API_VERSION;
use crate::documents::ADOPT_ANNOTATION;
use crate::{Document, documents};

/// The document that a resource is.
pub(super) fn document(kind: &str, object: &DynamicObject) -> Result<Document, HostError> {
    let adopt = object.annotations().get_key_value(ADOPT_ANNOTATION);
    let annotations: BTreeMap<_, _> = adopt.into_iter().collect();
    let text = json!({
        "apiVersion": API_VERSION,
        "kind": kind,
        "metadata": {"name": object.name_any(), "annotations": annotations},
        "spec": object.data.get("spec").unwrap_or(&Value::Null),
    });
    let documents = documents::parse("the resource", &text.to_string()).map_err(|error| HostError {
        class: error.class(),
        // Without the place: the resource is not a file.
        message: error.problem.to_string(),
        hint: error.hint(),
    })?;
    documents.into_iter().next().ok_or_else(|| HostError {
        class: Class::Bug,
        message: "the resource holds no document".to_owned(),
        hint: None,
    })
}

/// What [`document`] never leads to.
pub(super) fn not_of_kind() -> Told {
    Told::new("Ready", false, Class::Bug.reason(), "the resource was read as one of another kind")
}
