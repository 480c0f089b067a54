//! Edits: an object that others made is changed in the few fields that are meant, and in no other.
//!
//! It is read, changed, and the difference sent as a merge patch that names the version it was read at: what is saved
//! as an original was there at that moment, and nobody else's change is undone. A whole object is never sent: it might
//! hold what a server-side apply refuses (names that occur twice in a list), or lack what was added meanwhile.

use http::Method;
use serde_json::{Map, Value, json};

use super::FIELD_MANAGER;
use super::discovery::Resource;
use super::error::RequestError;
use super::fault::Fault;
use super::live::Slot;
use super::request::{Ask, JSON, METADATA};
use super::write::{Answer, CONFLICTS_MAX, WriteError, Writer};

const MERGE_PATCH: &str = "application/merge-patch+json";

/// What became of an edit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Edited {
    Changed,
    /// It was as it should be.
    Same,
    /// It is not there, or on its way out.
    Gone,
}

impl Writer {
    /// Reads an object, changes it by `change`, and writes the difference.
    pub(super) async fn edit(
        &self,
        slot: &Slot,
        resource: &Resource,
        change: impl Fn(&mut Value) -> Result<(), Fault>,
    ) -> Result<Edited, WriteError> {
        let path = resource.object_path(slot.namespace.as_deref(), &slot.name);
        let mut conflicts = 0;
        loop {
            let before: Value = match self.cluster.ask_for(&Ask::get(path.clone(), JSON)).await {
                Ok(object) => object,
                Err(error) if error.is_not_found() => return Ok(Edited::Gone),
                Err(error) => return Err(self.failed(slot, error)),
            };
            if before.pointer("/metadata/deletionTimestamp").is_some_and(|time| !time.is_null()) {
                return Ok(Edited::Gone);
            }
            let mut after = before.clone();
            change(&mut after)?;
            let mut patch = difference(&before, &after);
            if patch.as_object().is_none_or(Map::is_empty) {
                return Ok(Edited::Same);
            }
            let version = before.pointer("/metadata/resourceVersion").cloned();
            let metadata =
                patch.as_object_mut().map(|patch| patch.entry("metadata").or_insert_with(|| json!({})));
            if let (Some(metadata), Some(version)) = (metadata.and_then(Value::as_object_mut), version) {
                metadata.insert("resourceVersion".to_owned(), version);
            }
            match self.patch(slot, resource, &patch).await {
                Ok(()) => return Ok(Edited::Changed),
                Err(error) if error.is_conflict() && conflicts < CONFLICTS_MAX => conflicts += 1,
                Err(error) => return Err(self.failed(slot, error)),
            }
        }
    }

    /// Writes labels and annotations of the one object with this uid; none of a name takes it off.
    pub(super) async fn mark(
        &self,
        slot: &Slot,
        resource: &Resource,
        uid: &str,
        labels: &[(&str, Option<&str>)],
        annotations: &[(&str, Option<&str>)],
    ) -> Result<(), WriteError> {
        let map = |marks: &[(&str, Option<&str>)]| {
            marks.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect::<Map<_, _>>()
        };
        let patch = json!({"metadata": {"uid": uid, "labels": map(labels), "annotations": map(annotations)}});
        self.patch(slot, resource, &patch).await.map_err(|error| self.failed(slot, error))
    }

    async fn patch(&self, slot: &Slot, resource: &Resource, patch: &Value) -> Result<(), RequestError> {
        let path = resource.object_path(slot.namespace.as_deref(), &slot.name);
        let ask = Ask {
            method: Method::PATCH,
            path: format!("{path}?fieldManager={FIELD_MANAGER}"),
            accept: METADATA,
            content_type: Some(MERGE_PATCH),
            body: patch.to_string().into_bytes(),
        };
        let answer = self.cluster.ask_for::<Answer>(&ask).await?;
        self.learn(slot, answer.metadata.uid, false);
        Ok(())
    }
}

/// The merge patch (RFC 7396) that makes `after` of `before`. A list is one value.
pub(crate) fn difference(before: &Value, after: &Value) -> Value {
    let (Value::Object(old), Value::Object(new)) = (before, after) else { return after.clone() };
    let gone = old.keys().filter(|name| !new.contains_key(*name)).map(|name| (name.clone(), Value::Null));
    let changed = new.iter().filter(|(name, value)| old.get(*name) != Some(*value)).map(|(name, value)| {
        let change = old.get(name).map_or_else(|| value.clone(), |old| difference(old, value));
        (name.clone(), change)
    });
    Value::Object(gone.chain(changed).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_difference_says_what_changed_and_nothing_else() {
        let before =
            json!({"spec": {"replicas": 3, "same": [1], "gone": {"a": 1}}, "metadata": {"name": "web"}});
        let after =
            json!({"spec": {"replicas": 0, "same": [1], "new": {"b": [2]}}, "metadata": {"name": "web"}});
        let patch = difference(&before, &after);
        assert_eq!(patch, json!({"spec": {"replicas": 0, "gone": null, "new": {"b": [2]}}}));
        assert_eq!(difference(&after, &after), json!({}));
    }

    fn tree() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![any::<u8>().prop_map(Value::from), Just(json!([1, 2]))];
        leaf.prop_recursive(3, 16, 4, |inner| {
            proptest::collection::btree_map("[a-d]", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect()))
        })
    }

    proptest! {
        #[test]
        fn the_difference_makes_the_one_of_the_other(before in tree(), after in tree()) {
            let mut patched = json!({ "object": before });
            let to = json!({ "object": after });
            let patch = difference(&patched, &to);
            json_patch::merge(&mut patched, &patch);
            prop_assert_eq!(patched, to);
        }
    }
}
