//! What a capture could not see, as a record in its bundle.
//!
//! The standby deletes what is gone at the source; what could not be listed there is not gone. The record is one
//! more object of the bundle, of a kind that no cluster serves, and is there only if something is missing.

use serde_json::{Value, json};

use super::Missing;
use crate::crds::API_VERSION;
use crate::folder::CapturedObject;
use crate::{GroupKind, ObjectId};

/// Key of the record in a bundle.
pub const CAPTURE_RECORD_KEY: &str = "_cluster/backstay.dev_CaptureRecord/capture";

pub(super) fn record(missing: &[Missing]) -> Option<Value> {
    if missing.is_empty() {
        return None;
    }
    let one = |missing: &Missing| json!({"group": missing.group, "version": missing.version, "kind": missing.kind, "why": missing.why});
    Some(json!({
        "apiVersion": API_VERSION,
        "kind": "CaptureRecord",
        "metadata": {"name": "capture"},
        "missing": missing.iter().map(one).collect::<Vec<_>>(),
    }))
}

/// Whether an object of a bundle is the record.
pub(in crate::cluster) fn is_record(id: &ObjectId) -> bool {
    id.kind.is(crate::crds::GROUP, "CaptureRecord")
}

/// Kinds whose absence from a bundle says nothing.
#[derive(Debug, Clone, Default)]
pub(in crate::cluster) struct MissingKinds(Vec<(String, Option<String>)>);

impl MissingKinds {
    /// Those of a bundle. A record that cannot be read is the caller's to name: it fails as an object does.
    pub(in crate::cluster) fn of(objects: &[CapturedObject]) -> Self {
        let record = objects.iter().find(|object| object.key.as_bytes() == CAPTURE_RECORD_KEY.as_bytes());
        let record = record.and_then(|object| serde_json::from_slice::<Value>(&object.bytes).ok());
        let list = record.as_ref().and_then(|record| record.get("missing")).and_then(Value::as_array);
        let text = |one: &Value, field| one.get(field).and_then(Value::as_str).map(str::to_owned);
        let kinds = list.into_iter().flatten();
        Self(kinds.map(|one| (text(one, "group").unwrap_or_default(), text(one, "kind"))).collect())
    }

    pub(in crate::cluster) fn has(&self, kind: &GroupKind) -> bool {
        self.0
            .iter()
            .any(|(group, only)| *group == kind.group && only.as_ref().is_none_or(|only| *only == kind.kind))
    }
}

#[cfg(test)]
mod tests {
    use backstay_types::Class;
    use backstay_types::manifest::RelPath;

    use super::*;
    use crate::canonical;
    use crate::object::Scopes;

    #[test]
    fn what_is_missing_is_found_again() {
        let missing = |group: &str, kind: Option<&str>| Missing {
            group: group.to_owned(),
            version: "v1".to_owned(),
            kind: kind.map(str::to_owned),
            class: Class::Transient,
            why: "down".to_owned(),
        };
        assert_eq!(record(&[]), None);
        let record = record(&[missing("a.io", None), missing("b.io", Some("Database"))]).unwrap();
        let id = ObjectId::of(&record).unwrap();
        assert!(is_record(&id));
        assert_eq!(id.key(&Scopes::default()).unwrap().to_string(), CAPTURE_RECORD_KEY);
        let key = RelPath::parse(CAPTURE_RECORD_KEY.as_bytes()).unwrap();
        let kinds = MissingKinds::of(&[CapturedObject { key, bytes: canonical::to_bytes(&record) }]);
        assert!(kinds.has(&GroupKind::new("a.io", "Any")) && kinds.has(&GroupKind::new("b.io", "Database")));
        assert!(!kinds.has(&GroupKind::new("b.io", "Other")) && !kinds.has(&GroupKind::new("", "Secret")));
    }
}
