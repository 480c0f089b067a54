//! Statuses: written when they differ from what is there, and at most once a pass.

use std::collections::{BTreeMap, BTreeSet};

use kube::ResourceExt;
use kube::api::DynamicObject;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::write::{Kind, WriteError};

/// What was written and the watch has not shown yet. An entry goes with its object, or when the watch moves on.
#[derive(Default)]
pub(super) struct Statuses(BTreeMap<String, Written>);

struct Written {
    /// Version of the object that the watch showed then.
    version: Option<String>,
    status: Value,
}

impl Statuses {
    /// The status of an object as far as known; empty if there is none or it does not fit.
    pub(super) fn observed<S: DeserializeOwned + Default>(&self, object: &DynamicObject) -> S {
        serde_json::from_value(self.current(object).clone()).unwrap_or_default()
    }

    fn current<'a>(&'a self, object: &'a DynamicObject) -> &'a Value {
        let written = object.metadata.uid.as_ref().and_then(|uid| self.0.get(uid));
        match written.filter(|written| written.version == object.metadata.resource_version) {
            Some(written) => &written.status,
            None => object.data.get("status").unwrap_or(&Value::Null),
        }
    }

    /// Writes a status if it is another than the one that is there; tells whether it was.
    pub(super) async fn put(
        &mut self,
        kind: &Kind,
        object: &DynamicObject,
        status: &impl Serialize,
    ) -> Result<bool, WriteError> {
        let status = serde_json::to_value(status).unwrap_or(Value::Null);
        if *self.current(object) == status {
            return Ok(false);
        }
        kind.apply_status(object, &status).await?;
        if let Some(uid) = object.uid() {
            self.0.insert(uid, Written { version: object.resource_version(), status });
        }
        Ok(true)
    }

    /// Forgets all other objects.
    pub(super) fn keep(&mut self, uids: &BTreeSet<String>) {
        self.0.retain(|uid, _| uids.contains(uid));
    }
}
