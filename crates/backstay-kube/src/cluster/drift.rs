//! Drift: what somebody else changed on the standby in an object of ours, field by field.
//!
//! The API server keeps who set which field. A field that we apply and do not own any more was changed; one that
//! another manager owns and we do not apply was added. Nothing needs to be remembered or compared by value, so no
//! value can end up in a report.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use serde_json::value::RawValue;

/// Fields of one object that a report names.
const FIELDS_NAMED_MAX: usize = 20;

/// An object of ours that somebody else changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drift {
    /// The object.
    pub object: String,
    /// Fields that were changed or removed; the apply that found them put them back.
    pub changed: Vec<String>,
    /// Fields that were added; they stay.
    pub added: Vec<String>,
    /// Field managers that did it, as the API server names them.
    pub managers: Vec<String>,
}

/// Who wrote what.
#[derive(Debug, Clone)]
pub(super) struct Managed {
    pub(super) manager: String,
    pub(super) is_ours: bool,
    /// `fieldsV1` as text.
    pub(super) fields: String,
}

/// How many entries of an object's open maps are ours. One that somebody removed belongs to nobody, and only the
/// number tells.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct MapSizes {
    labels: usize,
    annotations: usize,
    data: usize,
    binary_data: usize,
}

type Keys = BTreeMap<String, IgnoredAny>;

#[derive(Deserialize, Default)]
struct OwnFields {
    #[serde(default, rename = "f:metadata")]
    metadata: OwnMetadata,
    #[serde(default, rename = "f:data")]
    data: Keys,
    #[serde(default, rename = "f:binaryData")]
    binary_data: Keys,
}

#[derive(Deserialize, Default)]
struct OwnMetadata {
    #[serde(default, rename = "f:labels")]
    labels: Keys,
    #[serde(default, rename = "f:annotations")]
    annotations: Keys,
}

impl MapSizes {
    /// What is ours of an object, by its managed fields.
    pub(super) fn of_fields(fields: &RawValue) -> Option<Self> {
        let own: OwnFields = serde_json::from_str(fields.get()).ok()?;
        let count = |keys: &Keys| keys.keys().filter(|key| *key != ".").count();
        Some(Self {
            labels: count(&own.metadata.labels),
            annotations: count(&own.metadata.annotations),
            data: count(&own.data),
            binary_data: count(&own.binary_data),
        })
    }

    /// What we apply.
    pub(super) fn of_object(object: &Value) -> Self {
        let count =
            |pointer| object.pointer(pointer).and_then(Value::as_object).map_or(0, serde_json::Map::len);
        Self {
            labels: count("/metadata/labels"),
            annotations: count("/metadata/annotations"),
            data: count("/data"),
            binary_data: count("/binaryData"),
        }
    }

    /// Fields of which entries are gone, `self` being what is ours of what should be.
    pub(super) fn lost(self, should: Self) -> Vec<String> {
        let maps = [
            ("metadata.labels", self.labels, should.labels),
            ("metadata.annotations", self.annotations, should.annotations),
            ("data", self.data, should.data),
            ("binaryData", self.binary_data, should.binary_data),
        ];
        maps.iter().filter(|(_, has, should)| has < should).map(|(name, ..)| (*name).to_owned()).collect()
    }
}

/// How much of an object is ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// All of it: what others add is told.
    Whole,
    /// What is desired, in an object that others made.
    Part,
}

/// What others did to an object that should be `desired`; none if nothing.
pub(super) fn drift(object: String, desired: &Value, extent: Extent, managed: &[Managed]) -> Option<Drift> {
    let parse = |text: &str| serde_json::from_str::<Value>(text).unwrap_or(Value::Null);
    let ours = managed.iter().filter(|entry| entry.is_ours).map(|entry| parse(&entry.fields));
    let ours = ours.reduce(united)?;
    let mut drift = Drift { object, changed: Vec::new(), added: Vec::new(), managers: Vec::new() };
    for other in managed.iter().filter(|entry| !entry.is_ours) {
        let before = (drift.changed.len(), drift.added.len());
        let is_tolerant = extent == Extent::Part || is_component(&other.manager);
        let mut walk = Walk { drift: &mut drift, is_tolerant };
        walk.fields(&parse(&other.fields), Some(desired), Some(&ours), "");
        if before != (drift.changed.len(), drift.added.len()) {
            drift.managers.push(other.manager.clone());
        }
    }
    (!drift.managers.is_empty()).then_some(drift)
}

/// The fields of two sets of managed fields.
pub(super) fn united(mut first: Value, second: Value) -> Value {
    match (first.as_object_mut(), second) {
        (Some(fields), Value::Object(more)) => {
            for (name, inner) in more {
                let all = match fields.remove(&name) {
                    Some(own) => united(own, inner),
                    None => inner,
                };
                fields.insert(name, all);
            }
            first
        }
        _ => first,
    }
}

/// Controllers of Kubernetes itself add to objects as a matter of course.
pub(super) fn is_component(manager: &str) -> bool {
    manager.starts_with("kube-") || manager == "kubelet"
}

struct Walk<'d> {
    drift: &'d mut Drift,
    /// Additions are not told.
    is_tolerant: bool,
}

impl Walk<'_> {
    fn fields(&mut self, theirs: &Value, desired: Option<&Value>, ours: Option<&Value>, path: &str) {
        let Some(map) = theirs.as_object() else { return };
        for (key, inner) in map.iter().filter(|(key, _)| *key != ".") {
            let (name, value) = step(key, desired);
            let own = ours.and_then(|ours| ours.get(key));
            let path = if path.is_empty() || name.starts_with('[') {
                format!("{path}{name}")
            } else {
                format!("{path}.{name}")
            };
            let is_leaf = inner.as_object().is_none_or(|inner| inner.keys().all(|key| key == "."));
            if !is_leaf {
                self.fields(inner, value, own, &path);
            } else if value.is_some() && own.is_none() {
                push(&mut self.drift.changed, path);
            } else if value.is_none() && !self.is_tolerant && !is_bookkeeping(&path) {
                push(&mut self.drift.added, path);
            }
        }
    }
}

fn push(fields: &mut Vec<String>, path: String) {
    if fields.len() < FIELDS_NAMED_MAX && !fields.contains(&path) {
        fields.push(path);
    }
}

/// Where controllers of any kind leave their notes.
fn is_bookkeeping(path: &str) -> bool {
    path.starts_with("metadata.") || path.starts_with("status")
}

/// One key of managed fields: the name of the field for a report, and its value.
fn step<'v>(key: &str, value: Option<&'v Value>) -> (String, Option<&'v Value>) {
    match key.split_at_checked(2) {
        Some(("f:", name)) => (name.to_owned(), value.and_then(|value| value.get(name))),
        Some(("k:", fields)) => {
            let fields: Value = serde_json::from_str(fields).unwrap_or(Value::Null);
            let is_meant = |item: &&Value| {
                let wanted = fields.as_object().into_iter().flatten();
                // What an item does not say is what the API server takes for granted, such as TCP.
                wanted.into_iter().all(|(name, wanted)| item.get(name).is_none_or(|has| has == wanted))
            };
            let found = value.and_then(Value::as_array).and_then(|items| items.iter().find(is_meant));
            (format!("[{}]", names(&fields)), found)
        }
        Some(("v:", text)) => {
            let wanted: Value = serde_json::from_str(text).unwrap_or(Value::Null);
            let found =
                value.and_then(Value::as_array).and_then(|items| items.iter().find(|item| **item == wanted));
            ("[]".to_owned(), found)
        }
        _ => (format!("[{key}]"), None),
    }
}

/// The identity of an item of a list: names and numbers.
fn names(fields: &Value) -> String {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let fields =
        fields.as_object().into_iter().flatten().map(|(name, value)| format!("{name}={}", text(value)));
    fields.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn managed(manager: &str, is_ours: bool, fields: Value) -> Managed {
        Managed { manager: manager.to_owned(), is_ours, fields: fields.to_string() }
    }

    fn desired() -> Value {
        json!({"metadata": {"labels": {"app": "web"}}, "spec": {"replicas": 0,
            "containers": [{"name": "a", "image": "x"}], "ports": [{"port": 80, "name": "http"}]}})
    }

    fn ours(with_replicas: bool) -> Managed {
        let mut fields = json!({"f:metadata": {"f:labels": {"f:app": {}}}, "f:spec": {"f:replicas": {},
            "f:containers": {"k:{\"name\":\"a\"}": {".": {}, "f:name": {}, "f:image": {}}},
            "f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}, "f:name": {}}}}});
        if !with_replicas {
            fields["f:spec"].as_object_mut().unwrap().remove("f:replicas");
        }
        managed("backstay", true, fields)
    }

    #[test]
    fn a_field_of_ours_that_is_another_s_now_was_changed() {
        let theirs = managed("kubectl-scale", false, json!({"f:spec": {"f:replicas": {}}}));
        let found = drift("web".to_owned(), &desired(), Extent::Whole, &[ours(false), theirs]).unwrap();
        assert_eq!(found.changed, ["spec.replicas"]);
        assert_eq!((found.added, found.managers), (vec![], vec!["kubectl-scale".to_owned()]));
    }

    #[test]
    fn of_an_adopted_object_only_what_is_ours_is_looked_at() {
        let part = json!({"spec": {"replicas": 0}});
        let fields = json!({"f:spec": {"f:replicas": {}, "f:paused": {}}});
        let made = |with_replicas: bool| {
            let own =
                if with_replicas { json!({"f:spec": {"f:replicas": {}}}) } else { json!({"f:spec": {}}) };
            [managed("backstay", true, own), managed("helm", false, fields.clone())]
        };
        assert_eq!(drift("web".to_owned(), &part, Extent::Part, &made(true)), None);
        let found = drift("web".to_owned(), &part, Extent::Part, &made(false)).unwrap();
        assert_eq!((found.changed, found.added), (vec!["spec.replicas".to_owned()], vec![]));
    }

    #[test]
    fn agreeing_is_no_drift_and_additions_are_told() {
        let agrees = managed(
            "kubectl",
            false,
            json!({"f:spec": {"f:replicas": {}}, "f:metadata": {"f:annotations": {"f:note": {}}}}),
        );
        assert_eq!(drift("web".to_owned(), &desired(), Extent::Whole, &[ours(true), agrees]), None);
        let adds = json!({"f:spec": {"f:paused": {}, "f:containers": {"k:{\"name\":\"b\"}": {".": {}, "f:image": {}}},
            "f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {"f:nodePort": {}}}}});
        let found = drift(
            "web".to_owned(),
            &desired(),
            Extent::Whole,
            &[ours(true), managed("me", false, adds.clone())],
        )
        .unwrap();
        assert_eq!(
            found.added,
            ["spec.containers[name=b].image", "spec.paused", "spec.ports[port=80,protocol=TCP].nodePort"]
        );
        assert_eq!(found.changed, [""; 0]);
        assert_eq!(
            drift(
                "web".to_owned(),
                &desired(),
                Extent::Whole,
                &[ours(true), managed("kube-controller-manager", false, adds)]
            ),
            None
        );
    }

    #[test]
    fn an_entry_that_is_gone_is_noticed_by_number() {
        let fields = json!({"f:metadata": {"f:labels": {".": {}, "f:app": {}}}, "f:data": {"f:a": {}}});
        let raw: Box<RawValue> = serde_json::from_str(&fields.to_string()).unwrap();
        let has = MapSizes::of_fields(&raw).unwrap();
        let should =
            |data: Value| MapSizes::of_object(&json!({"metadata": {"labels": {"app": "web"}}, "data": data}));
        assert_eq!(has.lost(should(json!({"a": ""}))), [""; 0]);
        assert_eq!(has.lost(should(json!({"a": "", "b": ""}))), ["data"]);
    }
}
