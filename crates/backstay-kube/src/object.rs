//! What an object is: group, version, kind, namespace and name, and the key it has in a bundle.
//!
//! 1. A key is a safe relative path and names one object of a cluster (tests `keys_tell_objects_apart`,
//!    `hostile_names_are_refused`).
//! 2. The version is not part of a key: `apps/v1` and `apps/v1beta1` name the same Deployment.

use std::collections::BTreeMap;
use std::fmt;

use backstay_types::manifest::{InvalidPath, RelPath};
use backstay_types::{Class, Classify};
use serde_json::Value;

/// Folder of a key for objects without a namespace; no namespace can be named so.
pub const CLUSTER_SCOPE: &str = "_cluster";

/// Namespace of a namespaced object that names none, as `kubectl apply` has it.
pub(crate) const DEFAULT_NAMESPACE: &str = "default";

/// A DNS subdomain: names, groups.
const SUBDOMAIN_BYTES_MAX: usize = 253;
/// A DNS label: namespaces, kinds.
const LABEL_BYTES_MAX: usize = 63;

/// API group and kind; the group is empty for the core group.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupKind {
    /// API group without version.
    pub group: String,
    /// Kind.
    pub kind: String,
}

impl GroupKind {
    /// From its parts.
    pub fn new(group: &str, kind: &str) -> Self {
        Self { group: group.to_owned(), kind: kind.to_owned() }
    }

    /// Whether this is `kind` of `group`.
    pub fn is(&self, group: &str, kind: &str) -> bool {
        self.group == group && self.kind == kind
    }

    /// Whether the API server itself serves this group, rather than a custom resource or an aggregated API.
    pub fn is_built_in(&self) -> bool {
        self.group.is_empty() || BUILT_IN_GROUPS.contains(&self.group.as_str())
    }
}

impl fmt::Display for GroupKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.kind)?;
        if self.group.is_empty() { Ok(()) } else { write!(f, ".{}", self.group) }
    }
}

/// Groups of the API server. Listed, because a suffix does not tell: `snapshot.storage.k8s.io` is a custom resource.
const BUILT_IN_GROUPS: [&str; 21] = [
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "apiregistration.k8s.io",
    "apps",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "coordination.k8s.io",
    "discovery.k8s.io",
    "events.k8s.io",
    "extensions",
    "flowcontrol.apiserver.k8s.io",
    "networking.k8s.io",
    "node.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "resource.k8s.io",
    "scheduling.k8s.io",
    "storage.k8s.io",
];

/// Built-in groups that hold kinds of both scopes or of cluster scope, with their cluster-scoped kinds.
const CLUSTER_KINDS: [(&str, &[&str]); 12] = [
    ("", &["ComponentStatus", "Namespace", "Node", "PersistentVolume"]),
    (
        "admissionregistration.k8s.io",
        &[
            "MutatingAdmissionPolicy",
            "MutatingAdmissionPolicyBinding",
            "MutatingWebhookConfiguration",
            "ValidatingAdmissionPolicy",
            "ValidatingAdmissionPolicyBinding",
            "ValidatingWebhookConfiguration",
        ],
    ),
    ("apiextensions.k8s.io", &["CustomResourceDefinition"]),
    ("apiregistration.k8s.io", &["APIService"]),
    ("certificates.k8s.io", &["CertificateSigningRequest", "ClusterTrustBundle"]),
    ("flowcontrol.apiserver.k8s.io", &["FlowSchema", "PriorityLevelConfiguration"]),
    ("networking.k8s.io", &["IPAddress", "IngressClass", "ServiceCIDR"]),
    ("node.k8s.io", &["RuntimeClass"]),
    ("rbac.authorization.k8s.io", &["ClusterRole", "ClusterRoleBinding"]),
    ("resource.k8s.io", &["DeviceClass", "ResourceSlice"]),
    ("scheduling.k8s.io", &["PriorityClass"]),
    (
        "storage.k8s.io",
        &["CSIDriver", "CSINode", "StorageClass", "VolumeAttachment", "VolumeAttributesClass"],
    ),
];

/// Which custom resources are cluster-scoped, learnt from their definitions.
#[derive(Debug, Clone, Default)]
pub struct Scopes(BTreeMap<GroupKind, bool>);

impl Scopes {
    /// Takes note of a CustomResourceDefinition; anything else is ignored.
    pub fn learn(&mut self, object: &Value) {
        let text = |pointer| object.pointer(pointer).and_then(Value::as_str);
        let is_crd = text("/kind") == Some("CustomResourceDefinition");
        if let (true, Some(group), Some(kind)) = (is_crd, text("/spec/group"), text("/spec/names/kind")) {
            self.0.insert(GroupKind::new(group, kind), text("/spec/scope") == Some("Cluster"));
        }
    }

    /// Whether a kind is cluster-scoped; `None` for a custom resource whose definition was not seen.
    pub fn is_cluster(&self, kind: &GroupKind) -> Option<bool> {
        let listed =
            |(group, kinds): &(&str, &[&str])| *group == kind.group && kinds.contains(&kind.kind.as_str());
        if CLUSTER_KINDS.iter().any(listed) {
            return Some(true);
        }
        if kind.is_built_in() {
            return Some(false);
        }
        self.0.get(kind).copied()
    }
}

/// What names an object.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectId {
    /// Group and kind.
    pub kind: GroupKind,
    /// API version, without the group.
    pub version: String,
    /// Namespace, if the object names one.
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
}

/// A value that is not an object Backstay can key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ObjectError {
    /// Not a mapping.
    #[error("expected a Kubernetes object, found {found}")]
    NotAMapping {
        /// What it is.
        found: &'static str,
    },
    /// A field every object has.
    #[error("expected a Kubernetes object: `{field}` is missing or not a string")]
    Missing {
        /// The field.
        field: &'static str,
    },
    /// The API server would draw a name; two captures would be two objects.
    #[error("{kind} has `generateName: {prefix}` but no name")]
    GeneratedName {
        /// Kind.
        kind: String,
        /// The prefix.
        prefix: String,
    },
    /// A field that cannot be of an object.
    #[error("`{field}` is {value:?}, which no Kubernetes object can have")]
    Unusable {
        /// The field.
        field: &'static str,
        /// What it says.
        value: String,
    },
    /// The parts are fine but too long together.
    #[error("key of {kind} {name}: {source}")]
    Key {
        /// Kind.
        kind: String,
        /// Name.
        name: String,
        /// Why.
        source: InvalidPath,
    },
}

impl Classify for ObjectError {
    fn class(&self) -> Class {
        Class::Invalid
    }

    fn hint(&self) -> Option<String> {
        match self {
            ObjectError::GeneratedName { .. } => Some("give the object a fixed `metadata.name`".to_owned()),
            ObjectError::NotAMapping { .. } | ObjectError::Missing { .. } => Some(
                "a manifest folder holds Kubernetes objects only; move other YAML elsewhere or into a folder whose name begins with a dot"
                    .to_owned(),
            ),
            ObjectError::Unusable { .. } | ObjectError::Key { .. } => None,
        }
    }
}

/// What a value is, in an operator's words.
pub(crate) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}

impl ObjectId {
    /// Reads and checks what names an object.
    pub fn of(object: &Value) -> Result<Self, ObjectError> {
        if !object.is_object() {
            return Err(ObjectError::NotAMapping { found: type_name(object) });
        }
        let text = |pointer| object.pointer(pointer).and_then(Value::as_str);
        let api_version = text("/apiVersion").ok_or(ObjectError::Missing { field: "apiVersion" })?;
        let kind = text("/kind").ok_or(ObjectError::Missing { field: "kind" })?;
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let name = match (text("/metadata/name"), text("/metadata/generateName")) {
            (Some(name), _) if !name.is_empty() => name,
            (_, Some(prefix)) => {
                return Err(ObjectError::GeneratedName { kind: kind.to_owned(), prefix: prefix.to_owned() });
            }
            _ => return Err(ObjectError::Missing { field: "metadata.name" }),
        };
        let namespace = text("/metadata/namespace").filter(|namespace| !namespace.is_empty());
        check("apiVersion", group, |group| group.is_empty() || is_subdomain(group))?;
        check("apiVersion", version, is_label)?;
        check("kind", kind, is_kind)?;
        check("metadata.name", name, is_path_segment)?;
        check("metadata.namespace", namespace.unwrap_or(DEFAULT_NAMESPACE), is_label)?;
        Ok(Self {
            kind: GroupKind::new(group, kind),
            version: version.to_owned(),
            namespace: namespace.map(str::to_owned),
            name: name.to_owned(),
        })
    }

    /// The namespace this object is in, in the form keys have it.
    pub fn scope(&self, scopes: &Scopes) -> &str {
        match (scopes.is_cluster(&self.kind), &self.namespace) {
            (Some(true), _) | (None, None) => CLUSTER_SCOPE,
            (Some(false), None) => DEFAULT_NAMESPACE,
            (_, Some(namespace)) => namespace,
        }
    }

    /// The key in a bundle: `<namespace or _cluster>/<group>_<kind>/<name>`.
    pub fn key(&self, scopes: &Scopes) -> Result<RelPath, ObjectError> {
        let error =
            |source| ObjectError::Key { kind: self.kind.to_string(), name: self.name.clone(), source };
        let group_kind = format!("{}_{}", self.kind.group, self.kind.kind);
        [self.scope(scopes), &group_kind, &self.name]
            .iter()
            .try_fold(RelPath::root(), |path, part| path.join(part.as_bytes()))
            .map_err(error)
    }

    /// Whether `key` is a key this object can have. The scope of a custom resource is not known without its
    /// definition, so a key of either scope is accepted for an object that names no namespace.
    pub fn has_key(&self, key: &RelPath) -> bool {
        let group_kind = format!("{}_{}", self.kind.group, self.kind.kind);
        let mut parts = key.components();
        let scope = parts.next();
        let scope_fits = scope == Some(CLUSTER_SCOPE.as_bytes())
            || scope == Some(self.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE).as_bytes());
        scope_fits
            && parts.next() == Some(group_kind.as_bytes())
            && parts.next() == Some(self.name.as_bytes())
            && parts.next().is_none()
    }
}

/// Display form for messages: `Deployment.apps shop/web`.
impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.kind)?;
        if let Some(namespace) = &self.namespace {
            write!(f, "{namespace}/")?;
        }
        f.write_str(&self.name)
    }
}

fn check(field: &'static str, value: &str, is_ok: impl Fn(&str) -> bool) -> Result<(), ObjectError> {
    if is_ok(value) { Ok(()) } else { Err(ObjectError::Unusable { field, value: value.to_owned() }) }
}

fn is_label(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= LABEL_BYTES_MAX
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

fn is_subdomain(text: &str) -> bool {
    text.len() <= SUBDOMAIN_BYTES_MAX && text.split('.').all(is_label)
}

fn is_kind(text: &str) -> bool {
    text.len() <= LABEL_BYTES_MAX
        && text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// The API server's own rule for names of any kind; most kinds are stricter.
fn is_path_segment(text: &str) -> bool {
    text.len() <= SUBDOMAIN_BYTES_MAX
        && text != "."
        && text != ".."
        && !text.chars().any(|c| c == '/' || c == '%' || c.is_control())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn key(object: Value) -> String {
        ObjectId::of(&object).unwrap().key(&Scopes::default()).unwrap().to_string()
    }

    #[test]
    fn keys_tell_objects_apart() {
        let object = |api: &str, kind: &str, namespace: Option<&str>| {
            let mut object = json!({"apiVersion": api, "kind": kind, "metadata": {"name": "web"}});
            if let Some(namespace) = namespace {
                object["metadata"]["namespace"] = json!(namespace);
            }
            object
        };
        assert_eq!(key(object("apps/v1", "Deployment", Some("shop"))), "shop/apps_Deployment/web");
        assert_eq!(key(object("v1", "Service", None)), "default/_Service/web");
        assert_eq!(key(object("v1", "Namespace", None)), "_cluster/_Namespace/web");
        assert_eq!(key(object("a.io/v1", "Database", Some("shop"))), "shop/a.io_Database/web");
        assert_eq!(key(object("b.io/v1", "Database", Some("shop"))), "shop/b.io_Database/web");
        assert_eq!(
            key(object("storage.k8s.io/v1", "StorageClass", None)),
            "_cluster/storage.k8s.io_StorageClass/web"
        );
        let id = ObjectId::of(&object("apps/v1", "Deployment", Some("shop"))).unwrap();
        assert!(id.has_key(&RelPath::parse(b"shop/apps_Deployment/web").unwrap()));
        for other in ["bank/apps_Deployment/web", "shop/apps_Deployment/api", "shop/apps_Deployment/web/x"] {
            assert!(!id.has_key(&RelPath::parse(other.as_bytes()).unwrap()), "{other}");
        }
    }

    #[test]
    fn the_scope_of_a_custom_resource_comes_from_its_definition() {
        let mut scopes = Scopes::default();
        let crd = json!({"kind": "CustomResourceDefinition",
            "spec": {"group": "a.io", "names": {"kind": "Database"}, "scope": "Namespaced"}});
        scopes.learn(&crd);
        let object = json!({"apiVersion": "a.io/v1", "kind": "Database", "metadata": {"name": "x"}});
        assert_eq!(
            ObjectId::of(&object).unwrap().key(&scopes).unwrap().to_string(),
            "default/a.io_Database/x"
        );
        assert_eq!(key(object), "_cluster/a.io_Database/x");
    }

    #[test]
    fn hostile_names_are_refused() {
        let object = |field: &str, value: &str| {
            let mut object =
                json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a", "namespace": "b"}});
            *object.pointer_mut(field).unwrap() = json!(value);
            object
        };
        assert!(ObjectId::of(&object("/metadata/name", "system:node")).is_ok());
        let long = "a".repeat(SUBDOMAIN_BYTES_MAX + 1);
        for (field, value) in [
            ("/metadata/name", ".."),
            ("/metadata/name", "a/b"),
            ("/metadata/name", "a\nb"),
            ("/metadata/name", long.as_str()),
            ("/metadata/namespace", ".."),
            ("/metadata/namespace", "_cluster"),
            ("/metadata/namespace", "a/b"),
            ("/kind", "a/b"),
            ("/kind", "../x"),
            ("/apiVersion", "../v1"),
            ("/apiVersion", "a/b/c"),
        ] {
            assert!(ObjectId::of(&object(field, value)).is_err(), "{field} {value}");
        }
    }

    #[test]
    fn a_generated_name_is_no_name() {
        let object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "run-"}});
        let error = ObjectId::of(&object).unwrap_err();
        assert_eq!(error.to_string(), "Pod has `generateName: run-` but no name");
        assert!(error.hint().is_some());
    }
}
