//! Touched: which namespace an object of a bundle would be written to.
//!
//! 1. What the API server goes by counts, not what the key says: an object of a namespaced kind that names none is written
//!    to `default` (test `an_object_cannot_hide_its_namespace`).
//! 2. A bundle's own definitions decide only about objects that name no namespace
//!    (test `a_definition_cannot_hide_a_namespace`).

use serde_json::Value;

use crate::folder::CapturedObject;
use crate::object::{CLUSTER_SCOPE, DEFAULT_NAMESPACE, ObjectId, Scopes};

/// Names the namespaces of objects.
#[derive(Debug, Default)]
pub struct Touched(Scopes);

impl Touched {
    /// Learns the custom resources that are defined among the objects.
    pub fn among(objects: &[CapturedObject]) -> Self {
        let mut scopes = Scopes::default();
        let parsed = objects.iter().filter_map(|object| serde_json::from_slice::<Value>(&object.bytes).ok());
        parsed.for_each(|object| scopes.learn(&object));
        Self(scopes)
    }

    /// The namespace that an object is in, or is; `None` for one of the whole cluster, and for what is no object.
    pub fn namespace(&self, object: &CapturedObject) -> Option<String> {
        let value: Value = serde_json::from_slice(&object.bytes).ok()?;
        let id = ObjectId::of(&value).ok()?;
        if id.kind.is("", "Namespace") {
            return Some(id.name);
        }
        match (self.0.is_cluster(&id.kind), id.namespace) {
            // What a bundle defines is the word of whoever made the bundle: the kind may be known otherwise here.
            (Some(true), Some(_)) if id.kind.is_built_in() => None,
            (_, Some(namespace)) => Some(namespace),
            (Some(true), None) => None,
            (Some(false), None) => Some(DEFAULT_NAMESPACE.to_owned()),
            (None, None) => {
                let scope = object.key.components().next().map(String::from_utf8_lossy);
                scope.filter(|scope| scope != CLUSTER_SCOPE).map(|scope| scope.into_owned())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use backstay_types::manifest::RelPath;

    use super::*;

    /// A definition that says that a kind is of the whole cluster, where the server knows better.
    #[test]
    fn a_definition_cannot_hide_a_namespace() {
        let object = |key: &str, text: &str| CapturedObject {
            key: RelPath::parse(key.as_bytes()).expect("a key"),
            bytes: text.as_bytes().to_vec(),
        };
        let definition = object(
            "_cluster/apiextensions.k8s.io_CustomResourceDefinition/things.a.io",
            r#"{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"things.a.io"},
                "spec":{"group":"a.io","names":{"kind":"Thing"},"scope":"Cluster"}}"#,
        );
        let thing = object(
            "_cluster/a.io_Thing/t",
            r#"{"apiVersion":"a.io/v1","kind":"Thing","metadata":{"name":"t","namespace":"kube-system"}}"#,
        );
        let touched = Touched::among(&[definition]);
        assert_eq!(touched.namespace(&thing).as_deref(), Some("kube-system"));
        let of_cluster = object(
            "_cluster/a.io_Thing/t",
            r#"{"apiVersion":"a.io/v1","kind":"Thing","metadata":{"name":"t"}}"#,
        );
        assert_eq!(touched.namespace(&of_cluster), None);
    }

    #[test]
    fn an_object_cannot_hide_its_namespace() {
        for (key, object, namespace) in [
            (
                "shop/_Secret/s",
                r#"{"apiVersion":"v1","kind":"Secret","metadata":{"name":"s","namespace":"shop"}}"#,
                Some("shop"),
            ),
            (
                "_cluster/_Secret/s",
                r#"{"apiVersion":"v1","kind":"Secret","metadata":{"name":"s","namespace":"kube-system"}}"#,
                Some("kube-system"),
            ),
            (
                "_cluster/_Secret/s",
                r#"{"apiVersion":"v1","kind":"Secret","metadata":{"name":"s"}}"#,
                Some("default"),
            ),
            (
                "_cluster/_Namespace/n",
                r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"n"}}"#,
                Some("n"),
            ),
            (
                "_cluster/_PersistentVolume/p",
                r#"{"apiVersion":"v1","kind":"PersistentVolume","metadata":{"name":"p"}}"#,
                None,
            ),
            (
                "_cluster/_PersistentVolume/p",
                r#"{"apiVersion":"v1","kind":"PersistentVolume","metadata":{"name":"p","namespace":"shop"}}"#,
                None,
            ),
            (
                "shop/a.io_Thing/t",
                r#"{"apiVersion":"a.io/v1","kind":"Thing","metadata":{"name":"t"}}"#,
                Some("shop"),
            ),
        ] {
            let key = RelPath::parse(key.as_bytes()).expect("a key");
            let object = CapturedObject { key, bytes: object.as_bytes().to_vec() };
            let found = Touched::default().namespace(&object);
            assert_eq!(found.as_deref(), namespace, "{object:?}");
        }
    }
}
