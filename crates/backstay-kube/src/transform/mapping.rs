//! Namespaces and storage classes that have another name on the standby.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{is_opaque, walk};
use crate::ObjectId;

/// Label that every namespace has with its own name.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";
/// How a storage class was asked for before there was a field.
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

/// New names by old ones.
#[derive(Debug, Clone, Default)]
pub(super) struct Mapping {
    namespaces: BTreeMap<String, String>,
    classes: BTreeMap<String, String>,
}

impl Mapping {
    pub(super) fn new(namespaces: &BTreeMap<String, String>, classes: &BTreeMap<String, String>) -> Self {
        Self { namespaces: namespaces.clone(), classes: classes.clone() }
    }

    pub(super) fn namespace<'n>(&'n self, source: &'n str) -> &'n str {
        self.namespaces.get(source).map_or(source, String::as_str)
    }

    /// Whether the standby has something of its own in place of this object.
    pub(super) fn replaces(&self, id: &ObjectId) -> bool {
        id.kind.is("storage.k8s.io", "StorageClass")
            && self.classes.get(&id.name).is_some_and(|to| *to != id.name)
    }

    pub(super) fn apply(&self, id: &ObjectId, object: &mut Value) {
        if self.namespaces.is_empty() && self.classes.is_empty() {
            return;
        }
        let own = if id.kind.is("", "Namespace") { "/metadata/name" } else { "/metadata/namespace" };
        if let Some(name) = object.pointer_mut(own) {
            rename(name, &self.namespaces);
        }
        if let Some(annotations) = object.pointer_mut("/metadata/annotations")
            && let Some(class) = annotations.get_mut(CLASS_ANNOTATION)
        {
            rename(class, &self.classes);
        }
        let Some(fields) = object.as_object_mut().filter(|_| !is_opaque(id)) else { return };
        for (name, field) in fields.iter_mut().filter(|(name, _)| *name != "metadata") {
            // A field of the object itself is looked at like one further in.
            self.edit(name, field);
            walk(field, &mut |key, value| self.edit(key, value));
        }
    }

    /// References are recognised by the name of the field, which Kubernetes and its operators agree on.
    fn edit(&self, key: &str, value: &mut Value) {
        match key {
            "namespace" => rename(value, &self.namespaces),
            "namespaces" | "matchNames" => each(value, |name| rename(name, &self.namespaces)),
            "storageClassName" | "storageClass" => rename(value, &self.classes),
            "matchLabels" => {
                value.get_mut(NAME_LABEL).into_iter().for_each(|name| rename(name, &self.namespaces));
            }
            "matchExpressions" => each(value, |expression| {
                if expression.get("key").and_then(Value::as_str) == Some(NAME_LABEL)
                    && let Some(values) = expression.get_mut("values")
                {
                    each(values, |name| rename(name, &self.namespaces));
                }
            }),
            "subjects" => each(value, |subject| self.account(subject)),
            _ => {}
        }
    }

    /// Users and groups that stand for service accounts have the namespace in their name.
    fn account(&self, subject: &mut Value) {
        let Some(Value::String(name)) = subject.get_mut("name") else { return };
        if let Some((namespace, account)) =
            name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'))
        {
            *name = format!("system:serviceaccount:{}:{account}", self.namespace(namespace));
        } else if let Some(namespace) = name.strip_prefix("system:serviceaccounts:") {
            *name = format!("system:serviceaccounts:{}", self.namespace(namespace));
        }
    }
}

fn rename(value: &mut Value, names: &BTreeMap<String, String>) {
    if let Some(to) = value.as_str().and_then(|name| names.get(name)) {
        *value = Value::String(to.clone());
    }
}

fn each(value: &mut Value, edit: impl FnMut(&mut Value)) {
    value.as_array_mut().into_iter().flatten().for_each(edit);
}
