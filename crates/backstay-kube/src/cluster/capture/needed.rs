//! The cluster-scoped objects that those of a scope need: noted while they are captured, then looked for.

use std::collections::{BTreeMap, BTreeSet};

use backstay_types::plan::LabelSelector;
use serde_json::Value;

use crate::pods::{PodNeeds, needs};
use crate::{GroupKind, ObjectId};

/// Kinds that are looked for, in rounds: what is found in one may need something of the next. A role that is
/// made of others names them by labels, so roles come twice.
pub(super) const ROUNDS: [&[(&str, &str)]; 3] = [
    &[
        ("", "PersistentVolume"),
        ("rbac.authorization.k8s.io", "ClusterRoleBinding"),
        ("admissionregistration.k8s.io", "MutatingWebhookConfiguration"),
        ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration"),
        ("apiregistration.k8s.io", "APIService"),
    ],
    &[
        ("storage.k8s.io", "StorageClass"),
        ("scheduling.k8s.io", "PriorityClass"),
        ("networking.k8s.io", "IngressClass"),
        ("node.k8s.io", "RuntimeClass"),
        ("rbac.authorization.k8s.io", "ClusterRole"),
    ],
    &[("rbac.authorization.k8s.io", "ClusterRole")],
];

/// What is needed.
#[derive(Debug, Clone, Default)]
pub(super) struct Needed {
    namespaces: BTreeSet<String>,
    /// Claims, and the volume each is bound to.
    claims: BTreeMap<(String, String), Option<String>>,
    /// Names of classes and roles, by kind.
    names: BTreeSet<(&'static str, String)>,
    /// Labels of roles that a captured role is made of.
    aggregated: Vec<LabelSelector>,
    custom: BTreeSet<GroupKind>,
    /// What selected pods need, by kind, namespace and name.
    followed: BTreeSet<(&'static str, String, String)>,
    /// Labels of selected pods, by namespace.
    pods: BTreeSet<(String, BTreeMap<String, String>)>,
    /// Beginnings of the names of claims that are made for selected pods, by namespace.
    claims_made: BTreeSet<(String, String)>,
}

/// What selected pods need, in rounds: an account names Secrets.
pub(super) const FOLLOWED: [&[&str]; 2] =
    [&["ServiceAccount", "Service", "PersistentVolumeClaim", "ConfigMap"], &["Secret"]];

/// Fields that name a class, wherever they are, and the kind they name.
const CLASS_FIELDS: [(&str, &str); 5] = [
    ("storageClassName", "StorageClass"),
    ("storageClass", "StorageClass"),
    ("priorityClassName", "PriorityClass"),
    ("ingressClassName", "IngressClass"),
    ("runtimeClassName", "RuntimeClass"),
];

impl Needed {
    pub(super) fn new(namespaces: &BTreeSet<String>) -> Self {
        Self { namespaces: namespaces.clone(), ..Self::default() }
    }

    pub(super) fn extend(&mut self, other: Self) {
        self.namespaces.extend(other.namespaces);
        self.claims.extend(other.claims);
        self.names.extend(other.names);
        self.aggregated.extend(other.aggregated);
        self.custom.extend(other.custom);
        self.followed.extend(other.followed);
        self.pods.extend(other.pods);
        self.claims_made.extend(other.claims_made);
    }

    /// Takes note of what a selected object needs beside itself.
    pub(super) fn note_followed(&mut self, id: &ObjectId, object: &Value) {
        let Some(namespace) = &id.namespace else { return };
        if id.kind.is("", "ServiceAccount") {
            for field in ["imagePullSecrets", "secrets"] {
                let list = object.get(field).and_then(Value::as_array).into_iter().flatten();
                let names = list.filter_map(|secret| secret.get("name")?.as_str());
                self.followed.extend(names.map(|name| ("Secret", namespace.clone(), name.to_owned())));
            }
            return;
        }
        let Some(PodNeeds { objects, labels, claims }) = needs(id, object) else { return };
        self.followed.extend(objects.into_iter().map(|(kind, name)| (kind, namespace.clone(), name)));
        self.pods.insert((namespace.clone(), labels));
        self.claims_made.extend(claims.into_iter().map(|begin| (namespace.clone(), begin)));
    }

    /// Whether a selected pod needs an object.
    pub(super) fn follows(&self, id: &ObjectId, object: &Value) -> bool {
        let namespace = id.namespace.as_deref().unwrap_or_default();
        let kind = id.kind.kind.as_str();
        if kind == "Service" {
            let selector = object.pointer("/spec/selector").and_then(Value::as_object);
            return selector.filter(|selector| !selector.is_empty()).is_some_and(|selector| {
                self.pods.iter().any(|(of, labels)| {
                    let has = |(key, value): (&String, &Value)| {
                        labels.get(key).map(String::as_str) == value.as_str()
                    };
                    of == namespace && selector.iter().all(has)
                })
            });
        }
        let is_made = |(of, begin): &(String, String)| {
            let number = id.name.strip_prefix(begin.as_str());
            of == namespace
                && number
                    .is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
        };
        let is_named = |(of, space, name): &(&str, String, String)| {
            *of == kind && space == namespace && *name == id.name
        };
        self.followed.iter().any(is_named)
            || (kind == "PersistentVolumeClaim" && self.claims_made.iter().any(is_made))
    }

    /// Kinds of custom resources that were captured.
    pub(super) fn custom_kinds(&self) -> BTreeSet<GroupKind> {
        self.custom.clone()
    }

    /// Takes note of what an object needs.
    pub(super) fn note(&mut self, id: &ObjectId, object: &Value) {
        if !id.kind.is_built_in() {
            self.custom.insert(id.kind.clone());
        }
        let text = |pointer| object.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        match (id.kind.group.as_str(), id.kind.kind.as_str()) {
            ("", "Secret" | "ConfigMap") => return,
            ("", "PersistentVolumeClaim") => {
                let key = (id.namespace.clone().unwrap_or_default(), id.name.clone());
                self.claims.insert(key, text("/spec/volumeName"));
            }
            ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding")
                if text("/roleRef/kind").as_deref() == Some("ClusterRole") =>
            {
                self.names.extend(text("/roleRef/name").map(|name| ("ClusterRole", name)));
            }
            ("rbac.authorization.k8s.io", "ClusterRole") => {
                let selectors = object.pointer("/aggregationRule/clusterRoleSelectors");
                let selectors = selectors.and_then(Value::as_array).into_iter().flatten();
                // One that does not parse selects nothing in the API server either.
                self.aggregated.extend(selectors.filter_map(|one| serde_json::from_value(one.clone()).ok()));
            }
            _ => {}
        }
        self.note_classes(object);
    }

    fn note_classes(&mut self, value: &Value) {
        match value {
            Value::Object(fields) => {
                for (name, field) in fields {
                    let named = CLASS_FIELDS.iter().find(|(of, _)| of == name);
                    if let (Some((_, kind)), Some(class)) = (named, field.as_str()) {
                        self.names.insert((kind, class.to_owned()));
                    }
                    self.note_classes(field);
                }
            }
            Value::Array(items) => items.iter().for_each(|item| self.note_classes(item)),
            _ => {}
        }
    }

    /// Whether any object of a kind can be needed, so that a list is worth a request.
    pub(super) fn asks_for(&self, kind: &GroupKind) -> bool {
        match kind.kind.as_str() {
            "PersistentVolume" => !self.claims.is_empty(),
            "ClusterRole" if !self.aggregated.is_empty() => true,
            "ClusterRole" | "StorageClass" | "PriorityClass" | "IngressClass" | "RuntimeClass" => {
                self.names.iter().any(|(of, _)| *of == kind.kind)
            }
            _ => true,
        }
    }

    /// Whether an object is needed.
    pub(super) fn wants(&self, id: &ObjectId, object: &Value) -> bool {
        let in_scope = |namespace: Option<&Value>| {
            namespace.and_then(Value::as_str).is_some_and(|name| self.namespaces.contains(name))
        };
        let list = |field: &str| object.get(field).and_then(Value::as_array).into_iter().flatten();
        match id.kind.kind.as_str() {
            "PersistentVolume" => {
                let text = |pointer| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
                let claim =
                    (text("/spec/claimRef/namespace").to_owned(), text("/spec/claimRef/name").to_owned());
                // One that an earlier claim of the same name left behind is not meant.
                let bound = self.claims.get(&claim);
                bound.is_some_and(|volume| volume.as_ref().is_none_or(|volume| *volume == id.name))
            }
            "ClusterRoleBinding" => list("subjects").any(|subject| self.is_subject(subject)),
            "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration" => {
                list("webhooks").any(|hook| in_scope(hook.pointer("/clientConfig/service/namespace")))
            }
            "APIService" => in_scope(object.pointer("/spec/service/namespace")),
            "ClusterRole" => {
                let label = |key: &str| object.pointer("/metadata/labels")?.get(key)?.as_str();
                self.has("ClusterRole", &id.name)
                    || self.aggregated.iter().any(|selector| selector.matches(label))
            }
            // `system-node-critical` and its like are in every cluster.
            "PriorityClass" => self.has("PriorityClass", &id.name) && !id.name.starts_with("system-"),
            kind => self.has(kind, &id.name),
        }
    }

    fn has(&self, kind: &str, name: &str) -> bool {
        self.names.iter().any(|(of, known)| *of == kind && known == name)
    }

    /// A service account of a namespace in scope, or all of them.
    fn is_subject(&self, subject: &Value) -> bool {
        let text = |field| subject.get(field).and_then(Value::as_str).unwrap_or_default();
        let name = text("name");
        let namespace = match text("kind") {
            "ServiceAccount" => text("namespace"),
            "Group" => name.strip_prefix("system:serviceaccounts:").unwrap_or_default(),
            "User" => {
                let account = name.strip_prefix("system:serviceaccount:").unwrap_or_default();
                account.split(':').next().unwrap_or_default()
            }
            _ => "",
        };
        self.namespaces.contains(namespace)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn id(object: &Value) -> ObjectId {
        ObjectId::of(object).unwrap()
    }

    fn note(needed: &mut Needed, object: Value) {
        needed.note(&id(&object), &object);
    }

    fn wants(needed: &Needed, object: &Value) -> bool {
        needed.wants(&id(object), object)
    }

    #[test]
    fn a_volume_is_needed_by_the_claim_it_is_bound_to() {
        let mut needed = Needed::default();
        note(
            &mut needed,
            json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "c", "namespace": "shop"},
            "spec": {"volumeName": "new", "storageClassName": "fast"}}),
        );
        let volume = |name: &str, claim: &str| {
            json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
                "spec": {"claimRef": {"namespace": "shop", "name": claim}}})
        };
        assert!(wants(&needed, &volume("new", "c")));
        assert!(!wants(&needed, &volume("old", "c")), "left behind by an earlier claim");
        assert!(!wants(&needed, &volume("other", "d")));
        let class = |name: &str| json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name}});
        assert!(wants(&needed, &class("fast")) && !wants(&needed, &class("slow")));
    }

    #[test]
    fn bindings_webhooks_and_apis_are_needed_for_what_they_point_at() {
        let needed = Needed::new(&["shop".to_owned()].into());
        let binding = |subject: Value| json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "b"}, "subjects": [subject]});
        for (subject, expected) in [
            (json!({"kind": "ServiceAccount", "name": "x", "namespace": "shop"}), true),
            (json!({"kind": "ServiceAccount", "name": "x", "namespace": "bank"}), false),
            (json!({"kind": "Group", "name": "system:serviceaccounts:shop"}), true),
            (json!({"kind": "User", "name": "system:serviceaccount:shop:x"}), true),
            (json!({"kind": "User", "name": "shop"}), false),
        ] {
            assert_eq!(wants(&needed, &binding(subject.clone())), expected, "{subject}");
        }
        let hook = |namespace: &str| {
            json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration", "metadata": {"name": "w"},
                "webhooks": [{"clientConfig": {"service": {"namespace": namespace, "name": "s"}}}]})
        };
        assert!(wants(&needed, &hook("shop")) && !wants(&needed, &hook("bank")));
    }

    #[test]
    fn what_a_selected_pod_needs_is_followed() {
        let mut needed = Needed::default();
        let mut follow = |object: Value| needed.note_followed(&id(&object), &object);
        follow(
            json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db", "namespace": "shop"},
            "spec": {"volumeClaimTemplates": [{"metadata": {"name": "data"}}], "template": {
                "metadata": {"labels": {"app": "db", "tier": "back"}},
                "spec": {"serviceAccountName": "runner", "containers": [{"envFrom": [{"secretRef": {"name": "password"}}]}]}}}}),
        );
        follow(
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "runner", "namespace": "shop"},
            "imagePullSecrets": [{"name": "registry"}]}),
        );
        let object = |kind: &str, namespace: &str, name: &str, selector: Value| {
            json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": namespace},
                "spec": {"selector": selector}})
        };
        for (kind, namespace, name, selector, expected) in [
            ("ServiceAccount", "shop", "runner", json!(null), true),
            ("ServiceAccount", "shop", "other", json!(null), false),
            ("Secret", "shop", "password", json!(null), true),
            ("Secret", "shop", "registry", json!(null), true),
            ("Secret", "bank", "password", json!(null), false),
            ("ConfigMap", "shop", "password", json!(null), false),
            ("PersistentVolumeClaim", "shop", "data-db-0", json!(null), true),
            ("PersistentVolumeClaim", "shop", "data-db-x", json!(null), false),
            ("Service", "shop", "db", json!({"app": "db"}), true),
            ("Service", "shop", "db", json!({"app": "web"}), false),
            ("Service", "shop", "db", json!({}), false),
            ("Service", "bank", "db", json!({"app": "db"}), false),
        ] {
            let object = object(kind, namespace, name, selector);
            assert_eq!(needed.follows(&id(&object), &object), expected, "{object}");
        }
    }

    #[test]
    fn a_role_that_is_made_of_others_brings_them() {
        let mut needed = Needed::default();
        note(
            &mut needed,
            json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "b", "namespace": "shop"},
            "roleRef": {"kind": "ClusterRole", "name": "all"}}),
        );
        let role = |name: &str, label: Option<&str>| {
            json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
                "metadata": {"name": name, "labels": label.map(|value| json!({"part": value}))},
                "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"part": "of-all"}}]}})
        };
        assert!(wants(&needed, &role("all", None)));
        assert!(!wants(&needed, &role("one", Some("of-all"))));
        note(&mut needed, role("all", None));
        assert!(wants(&needed, &role("one", Some("of-all"))));
        assert!(!wants(&needed, &role("two", Some("of-none"))));
    }
}
