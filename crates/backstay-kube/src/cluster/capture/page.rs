//! One page of a list: which of its objects are captured, and as what.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use backstay_types::manifest::RelPath;
use serde::Deserialize;
use serde_json::Value;

use super::needed::Needed;
use crate::cluster::discovery::Resource;
use crate::cluster::error::RequestError;
use crate::cluster::request::{PageMeta, decode};
use crate::cluster::scope::Scope;
use crate::cluster::waiting;
use crate::failure::Failures;
use crate::folder::{CapturedObject, OBJECT_BYTES_MAX};
use crate::hold::HoldError;
use crate::normalise::{NormaliseOptions, limit_subjects, normalise};
use crate::object::{GroupKind, Scopes};
use crate::pods::{inline_volumes, scratch_volumes};
use crate::skip::{Owners, SkipReason, skip};
use crate::{ObjectId, canonical};

/// Which objects of a list are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pick {
    /// Those of the namespaces in scope.
    Namespaces,
    /// Those that others need.
    Needed,
    /// All.
    Whole,
    /// Those that selected pods need, whatever their own labels.
    Followed,
    /// Those that records keep, wherever they are of the scope.
    Waiting,
}

/// What decides about an object.
pub(super) struct Context {
    pub(super) pick: Pick,
    pub(super) scope: Arc<Scope>,
    pub(super) names: Arc<BTreeSet<String>>,
    pub(super) owners: Arc<Owners>,
    pub(super) needed: Arc<Needed>,
}

/// What was taken out of pages.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) objects: Vec<CapturedObject>,
    /// Everything that was in scope, captured or not: it may own what comes later.
    pub(super) ids: Vec<ObjectId>,
    pub(super) skipped: BTreeMap<SkipReason, u64>,
    pub(super) needed: Needed,
    pub(super) failures: Failures,
    /// Volumes of pods that are in no restore point.
    pub(super) holes: Failures,
    /// Volumes of pods that are empty wherever the pod begins.
    pub(super) scratch: u64,
    bytes: usize,
}

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    metadata: PageMeta,
    #[serde(default)]
    items: Option<Vec<Value>>,
}

/// Why an object cannot be captured.
#[derive(Debug, thiserror::Error)]
enum PageError {
    #[error(transparent)]
    Held(#[from] HoldError),
    #[error("what it keeps cannot be read")]
    Record,
    #[error("{bytes} bytes: at most {OBJECT_BYTES_MAX} allowed")]
    TooLong { bytes: usize },
}

impl backstay_types::Classify for PageError {
    fn class(&self) -> backstay_types::Class {
        match self {
            PageError::Held(error) => error.class(),
            PageError::Record => backstay_types::Class::Corrupt,
            PageError::TooLong { .. } => backstay_types::Class::LimitExceeded,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            PageError::Held(error) => error.hint(),
            PageError::Record => {
                Some("create what it kept by hand, then delete it with `kubectl delete secret`".to_owned())
            }
            PageError::TooLong { .. } => {
                Some("label the object backstay.dev/exclude, or split it".to_owned())
            }
        }
    }
}

impl Batch {
    /// Parses a page. Blocks for some 40 ms on a page of 4 MiB.
    pub(super) fn read(
        page: &[u8],
        resource: &Resource,
        context: &Context,
    ) -> Result<(PageMeta, usize, Self), RequestError> {
        let page: Page = decode(page)?;
        let mut batch = Self::default();
        let items = page.items.unwrap_or_default();
        let count = items.len();
        items.into_iter().for_each(|object| batch.take(object, resource, context));
        Ok((page.metadata, count, batch))
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn extend(&mut self, other: Self) {
        self.objects.extend(other.objects);
        self.ids.extend(other.ids);
        for (reason, count) in other.skipped {
            *self.skipped.entry(reason).or_default() += count;
        }
        self.needed.extend(other.needed);
        self.failures.extend(other.failures);
        self.holes.extend(other.holes);
        self.scratch += other.scratch;
        self.bytes += other.bytes;
    }

    /// Takes one object, or leaves it.
    pub(super) fn take(&mut self, mut object: Value, resource: &Resource, context: &Context) {
        // Items of a list do not repeat what the list says.
        if let Some(fields) = object.as_object_mut() {
            fields.insert("apiVersion".to_owned(), resource.api_version().into());
            fields.insert("kind".to_owned(), resource.kind.kind.clone().into());
        }
        if context.pick == Pick::Waiting {
            return match waiting::kept(&object) {
                Some(object) => self.take_whole(object, resource, context),
                None => self.failures.add(record_name(&object), &PageError::Record),
            };
        }
        self.take_whole(object, resource, context);
    }

    fn take_whole(&mut self, mut object: Value, resource: &Resource, context: &Context) {
        let id = match ObjectId::of(&object) {
            Ok(id) => id,
            Err(error) => return self.failures.add(resource.path(None), &error),
        };
        let in_scope = match context.pick {
            Pick::Namespaces => id.namespace.as_ref().is_some_and(|name| context.names.contains(name)),
            Pick::Needed => context.needed.wants(&id, &object),
            Pick::Followed => {
                id.namespace.as_ref().is_some_and(|name| context.names.contains(name))
                    && context.needed.follows(&id, &object)
            }
            Pick::Whole => true,
            Pick::Waiting => is_in_scope(&id, &object, context),
        };
        if !in_scope {
            return;
        }
        let reason = skip(&id, &object, &context.owners).or_else(|| no_subject(&id, &mut object, context));
        self.ids.push(id.clone());
        if let Some(reason) = reason {
            *self.skipped.entry(reason).or_default() += 1;
            if reason == SkipReason::Owned {
                self.note_owned(&id, &object, context);
            }
            return;
        }
        self.needed.note(&id, &object);
        self.note_followed(&id, &object, context);
        self.note_volumes(&id, &object, context);
        match captured(&id, &mut object) {
            Ok((key, bytes)) => {
                self.bytes += bytes.len();
                self.objects.push(CapturedObject { key, bytes });
            }
            Err(error) => self.failures.add(id.to_string(), &error),
        }
    }

    /// Takes note of what an object shows that its controller, which is captured, does not: by labels that are in no
    /// template a Service means one pod of a StatefulSet, and what a custom resource makes has no template at all.
    fn note_owned(&mut self, id: &ObjectId, object: &Value, context: &Context) {
        let is_of_custom = is_of_custom_resource(object);
        if is_of_custom || id.kind.is("", "Pod") {
            self.note_followed(id, object, context);
        }
        // What a webhook puts into the pods of a template it puts into them on the other side as well.
        if is_of_custom {
            self.note_volumes(id, object, context);
        }
        // A pod that is just being made anew is in its set alone.
        if id.kind.is("core.strimzi.io", "StrimziPodSet") {
            let of_pod = ObjectId { kind: GroupKind::new("", "Pod"), ..id.clone() };
            let pods = object.pointer("/spec/pods").and_then(Value::as_array).into_iter().flatten();
            pods.for_each(|pod| self.note_followed(&of_pod, pod, context));
        }
    }

    /// Takes note of what the pod of an object needs, where a plan selects objects.
    fn note_followed(&mut self, id: &ObjectId, object: &Value, context: &Context) {
        if context.scope.selector.is_some() {
            self.needed.note_followed(id, object);
        }
    }

    /// Takes note of the volumes of the pod of an object that are in no restore point, and of those that need not be.
    fn note_volumes(&mut self, id: &ObjectId, object: &Value, context: &Context) {
        let inline = inline_volumes(id, object);
        let holes = inline.iter().filter(|volume| !volume.is_excluded(&context.scope.exclude_volumes));
        holes.for_each(|hole| self.holes.add(id.to_string(), hole));
        self.scratch += scratch_volumes(id, object);
    }
}

/// Whether what made an object, and makes it again, is a custom resource.
fn is_of_custom_resource(object: &Value) -> bool {
    let owners = object.pointer("/metadata/ownerReferences").and_then(Value::as_array).into_iter().flatten();
    owners.filter(|owner| owner["controller"] == true).any(|owner| {
        // The API server takes no owner without both.
        let (Some(version), Some(kind)) = (owner["apiVersion"].as_str(), owner["kind"].as_str()) else {
            return false;
        };
        let group = version.split_once('/').map_or("", |(group, _)| group);
        !GroupKind::new(group, kind).is_built_in()
    })
}

/// Whether the plan covers an object that waits.
fn is_in_scope(id: &ObjectId, object: &Value, context: &Context) -> bool {
    let Context { scope, names, needed, .. } = context;
    let Some(namespace) = &id.namespace else {
        return scope.wants_whole(&id.kind) || (!scope.excludes(&id.kind) && needed.wants(id, object));
    };
    let label = |key: &str| object.pointer("/metadata/labels")?.get(key)?.as_str();
    names.contains(namespace)
        && scope.wants(&id.kind)
        && scope.selector.as_ref().is_none_or(|selector| selector.matches(label))
}

fn record_name(record: &Value) -> String {
    let text = |pointer| record.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    format!("Secret {}/{}", text("/metadata/namespace"), text("/metadata/name"))
}

fn captured(id: &ObjectId, object: &mut Value) -> Result<(RelPath, Vec<u8>), PageError> {
    normalise(object, NormaliseOptions::default())?;
    // A live object says itself whether it is in a namespace.
    let key = id.key(&Scopes::default()).map_err(HoldError::from)?;
    let bytes = canonical::to_bytes(object);
    if bytes.len() > OBJECT_BYTES_MAX {
        return Err(PageError::TooLong { bytes: bytes.len() });
    }
    Ok((key, bytes))
}

/// Leaves in a binding the subjects of the scope only.
fn no_subject(id: &ObjectId, object: &mut Value, context: &Context) -> Option<SkipReason> {
    let is_binding = id.kind.group == "rbac.authorization.k8s.io" && id.kind.kind.ends_with("Binding");
    let has_subjects = object.get("subjects").and_then(Value::as_array).is_some_and(|list| !list.is_empty());
    if !is_binding || !has_subjects {
        return None;
    }
    let is_left = limit_subjects(object, |namespace| context.names.contains(namespace));
    (!is_left).then_some(SkipReason::NoSubject)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What a page of a selected scope makes of an object of which `controller`, by group and kind, is captured.
    fn taken(mut object: Value, kind: GroupKind, controller: (&str, &str)) -> Batch {
        let (version, of) = controller;
        let metadata = |name: &str| json!({"name": name, "namespace": "shop"});
        let owner = json!({"apiVersion": version, "kind": of, "metadata": metadata("db")});
        let mut owners = Owners::default();
        owners.add(&ObjectId::of(&owner).unwrap());
        object["metadata"]["ownerReferences"] =
            json!([{"apiVersion": version, "kind": of, "name": "db", "controller": true, "uid": "u"}]);
        let selector = serde_json::from_value(json!({"matchLabels": {"app": "shop"}})).unwrap();
        let context = Context {
            pick: Pick::Namespaces,
            scope: Arc::new(Scope { selector: Some(selector), ..Scope::default() }),
            names: Arc::new(["shop".to_owned()].into()),
            owners: Arc::new(owners),
            needed: Arc::default(),
        };
        let resource =
            Resource { kind, version: "v1".to_owned(), plural: "objects".to_owned(), namespaced: true };
        let mut batch = Batch::default();
        batch.take(object, &resource, &context);
        assert_eq!(batch.skipped.get(&SkipReason::Owned), Some(&1));
        batch
    }

    fn pod() -> Value {
        json!({
            "metadata": {"name": "db-1", "namespace": "shop", "labels": {"pod": "db-1"}},
            "spec": {"containers": [], "volumes": [
                {"name": "data", "persistentVolumeClaim": {"claimName": "db-1"}},
                {"name": "share", "nfs": {"server": "s", "path": "/"}},
                {"name": "run", "emptyDir": {}},
            ]},
        })
    }

    /// Whether the claim of the pod, and the Service that means it alone, are followed.
    fn follows(batch: &Batch) -> [bool; 2] {
        let metadata = json!({"name": "db-1", "namespace": "shop"});
        let object = |kind: &str, spec: Value| json!({"apiVersion": "v1", "kind": kind, "metadata": metadata, "spec": spec});
        let claim = object("PersistentVolumeClaim", json!({}));
        let service = object("Service", json!({"selector": {"pod": "db-1"}}));
        [claim, service].map(|object| batch.needed.follows(&ObjectId::of(&object).unwrap(), &object))
    }

    /// A database operator has no template that says what its pods have: they do.
    #[test]
    fn a_pod_of_a_custom_resource_says_what_it_needs() {
        let kind = || GroupKind::new("", "Pod");
        let of_operator = taken(pod(), kind(), ("postgresql.cnpg.io/v1", "Cluster"));
        assert_eq!(follows(&of_operator), [true, true]);
        assert_eq!((of_operator.holes.count, of_operator.scratch), (1, 1));
        // The volumes of a template were looked at there; the label of one pod is in none.
        let of_template = taken(pod(), kind(), ("apps/v1", "StatefulSet"));
        assert_eq!(follows(&of_template), [true, true]);
        assert_eq!((of_template.holes.count, of_template.scratch), (0, 0));
    }

    /// Of a Kafka broker that is just being restarted there is no pod.
    #[test]
    fn a_set_of_pods_says_what_they_need() {
        let set = json!({"metadata": {"name": "db-kafka", "namespace": "shop"}, "spec": {"pods": [pod()]}});
        let kind = GroupKind::new("core.strimzi.io", "StrimziPodSet");
        let batch = taken(set, kind, ("kafka.strimzi.io/v1beta2", "Kafka"));
        assert_eq!(follows(&batch), [true, true]);
    }
}
