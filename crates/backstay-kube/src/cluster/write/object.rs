//! One object: the request, and what an API server may have against it.

use std::time::Duration;

use http::Method;
use kube::core::response::Status;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{WriteError, Writer, Wrote, is_kept};
use crate::cluster::FIELD_MANAGER;
use crate::cluster::discovery::Resource;
use crate::cluster::error::{RequestError, TIMED_OUT, told};
use crate::cluster::fault::Fault;
use crate::cluster::items::Item;
use crate::cluster::live::{LiveObject, Slot};
use crate::cluster::prepare::Purpose;
use crate::cluster::request::{Ask, METADATA};
use crate::normalise::unmark;

/// JSON is YAML.
pub(in crate::cluster) const APPLY_PATCH: &str = "application/apply-patch+yaml";
/// Ports of one service that may be taken, one after the other.
const PORTS_MAX: usize = 64;
/// How long an object may take to go that is created anew.
const GONE_WITHIN: Duration = Duration::from_secs(5);
/// How long a kind may take to be served once it is defined.
const SERVED_WITHIN: Duration = Duration::from_secs(10);
/// Between two looks, where there is nothing to wait for but time.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Tries after a conflict with a write that got in between.
pub(in crate::cluster) const CONFLICTS_MAX: u32 = 3;

/// What is read of an answer.
#[derive(Deserialize)]
pub(in crate::cluster) struct Answer {
    pub(in crate::cluster) metadata: AnswerMetadata,
}

#[derive(Deserialize)]
pub(in crate::cluster) struct AnswerMetadata {
    pub(in crate::cluster) uid: String,
    #[serde(default)]
    finalizers: Vec<String>,
}

/// What the API server has against an object, where something can be done about it.
enum Objection {
    /// A node port is taken: which of the service's ports.
    Port(usize),
    /// A field cannot be changed.
    Immutable,
    /// Somebody made it meanwhile.
    Foreign,
    /// Somebody wrote it meanwhile.
    Conflict,
    /// The kind is not served yet.
    NotServed,
    /// Nothing can be done.
    Final,
}

impl Writer {
    /// Writes one item. Answers whether it was deleted and created anew.
    pub(super) async fn write(
        &self,
        item: &Item,
        resource: &Resource,
        live: Option<&LiveObject>,
        labelled: bool,
    ) -> Result<bool, WriteError> {
        let mut body = self.body(item, labelled)?;
        if let Some(live) = live {
            if live.at_home {
                self.stay(&item.slot, resource, &mut body).await?;
            }
            if live.held && self.prepare.purpose() == Purpose::Run {
                self.nothing_missed(&item.slot, resource).await?;
            }
            if live.adopted {
                self.take_over(&item.slot, resource).await?;
            }
        }
        let (mut live, mut is_anew) = (live, false);
        let (mut ports, mut conflicts, mut waited) = (0, 0, Duration::ZERO);
        loop {
            let status = match self.put(item, resource, &body, live.is_some()).await {
                Ok(uid) => {
                    self.learn(&item.slot, uid, live.is_none());
                    return Ok(is_anew);
                }
                // A server that takes a minute for one object would take hours for thousands.
                Err(RequestError::Status(status)) if status.code == TIMED_OUT => {
                    return Err(self.failed(&item.slot, RequestError::Lost { why: status.message }));
                }
                Err(RequestError::Status(status)) => status,
                Err(error) => return Err(self.failed(&item.slot, error)),
            };
            match self.objection(item, &status, live.is_some()) {
                Objection::Port(index) if ports < PORTS_MAX => {
                    ports += 1;
                    self.give_up_port(&item.slot, &mut body, index)?;
                }
                Objection::Immutable if is_kept(&item.slot) => {
                    return Err(Fault::Immutable { message: told(&item.slot.kind, &status) }.into());
                }
                Objection::Immutable => {
                    let Some(old) = live.take() else { return Err(self.refused(&item.slot, &status)) };
                    self.remove_to_replace(&item.slot, resource, old).await?;
                    is_anew = true;
                }
                Objection::Foreign => return Err(Fault::Foreign.into()),
                Objection::Conflict if conflicts < CONFLICTS_MAX => conflicts += 1,
                Objection::NotServed if waited < SERVED_WITHIN => {
                    tokio::time::sleep(LOOK_EVERY).await;
                    waited += LOOK_EVERY;
                }
                _ => return Err(self.refused(&item.slot, &status)),
            }
        }
    }

    async fn put(
        &self,
        item: &Item,
        resource: &Resource,
        body: &Value,
        force: bool,
    ) -> Result<String, RequestError> {
        let path = resource.object_path(item.slot.namespace.as_deref(), &item.slot.name);
        let ask = Ask {
            method: Method::PATCH,
            path: format!("{path}?fieldManager={FIELD_MANAGER}&force={force}"),
            accept: METADATA,
            content_type: Some(APPLY_PATCH),
            body: serde_json::to_vec(body)
                .map_err(|error| RequestError::Answer { why: error.to_string() })?,
        };
        Ok(self.cluster.ask_for::<Answer>(&ask).await?.metadata.uid)
    }

    fn objection(&self, item: &Item, status: &Status, exists: bool) -> Objection {
        match status.code {
            404 if self.new_kinds.contains(&item.slot.kind) => Objection::NotServed,
            409 if !exists => Objection::Foreign,
            409 => Objection::Conflict,
            422 => match taken_port(status) {
                Some(index) => Objection::Port(index),
                None if exists && is_immutable(status) => Objection::Immutable,
                None => Objection::Final,
            },
            // Some kinds say it this way: `updates to parameters are forbidden`.
            403 if exists && is_immutable(status) => Objection::Immutable,
            _ => Objection::Final,
        }
    }

    /// Leaves the choice of a node port to the standby.
    fn give_up_port(&self, slot: &Slot, body: &mut Value, index: usize) -> Result<(), Fault> {
        let port = body.pointer_mut(&format!("/spec/ports/{index}")).and_then(Value::as_object_mut);
        match port.and_then(|port| port.remove("nodePort")) {
            Some(number) => {
                self.tally()
                    .warn(format!("{slot}: node port {number} is taken on the standby: it gets another"));
                Ok(())
            }
            None => Err(Fault::Answer { why: "a node port is taken that was not asked for".to_owned() }),
        }
    }

    /// Deletes an object of ours and waits until it is gone.
    async fn remove_to_replace(
        &self,
        slot: &Slot,
        resource: &Resource,
        live: &LiveObject,
    ) -> Result<(), WriteError> {
        self.delete(slot, resource, &live.uid).await?;
        match self.left_after(slot, resource, GONE_WITHIN).await? {
            Some(left) => Err(Fault::Stuck { finalizers: left.finalizers.join(", ") }.into()),
            None => Ok(()),
        }
    }

    /// Waits until an object is gone. Answers with what is left of it if it is not in time.
    pub(in crate::cluster) async fn left_after(
        &self,
        slot: &Slot,
        resource: &Resource,
        within: Duration,
    ) -> Result<Option<AnswerMetadata>, WriteError> {
        let path = resource.object_path(slot.namespace.as_deref(), &slot.name);
        let mut waited = Duration::ZERO;
        loop {
            match self.cluster.ask_for::<Answer>(&Ask::get(path.clone(), METADATA)).await {
                Err(error) if error.is_not_found() => return Ok(None),
                Err(error) => return Err(self.failed(slot, error)),
                Ok(answer) if waited >= within => return Ok(Some(answer.metadata)),
                Ok(_) => {}
            }
            tokio::time::sleep(LOOK_EVERY).await;
            waited += LOOK_EVERY;
        }
    }

    /// Creates an object again that was deleted, as it was: without our marks.
    pub(in crate::cluster) async fn create_unmarked(
        &self,
        item: &Item,
        resource: &Resource,
    ) -> Result<Wrote, WriteError> {
        let mut body = self.body(item, false)?;
        unmark(&mut body);
        match self.put(item, resource, &body, false).await {
            Ok(_) => Ok(Wrote::Created),
            // Somebody was faster.
            Err(error) if error.is_conflict() => Ok(Wrote::Unchanged),
            Err(error) => Err(self.failed(&item.slot, error)),
        }
    }

    /// Deletes an object of ours, if it is still the one we saw.
    pub(in crate::cluster) async fn delete(
        &self,
        slot: &Slot,
        resource: &Resource,
        uid: &str,
    ) -> Result<(), WriteError> {
        // The claims of a stateful set, and what else it owns, outlive it: it comes back.
        let propagation = if slot.kind.is("apps", "StatefulSet") { "Orphan" } else { "Background" };
        let options = json!({"apiVersion": "v1", "kind": "DeleteOptions",
            "propagationPolicy": propagation, "preconditions": {"uid": uid}});
        let ask = Ask {
            method: Method::DELETE,
            path: resource.object_path(slot.namespace.as_deref(), &slot.name),
            accept: METADATA,
            content_type: Some("application/json"),
            body: options.to_string().into_bytes(),
        };
        match self.cluster.ask(&ask).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(self.failed(slot, error)),
        }
    }

    pub(in crate::cluster) fn refused(&self, slot: &Slot, status: &Status) -> WriteError {
        Fault::refused(&slot.kind, slot.namespace.as_deref(), status).into()
    }

    pub(in crate::cluster) fn failed(&self, slot: &Slot, error: RequestError) -> WriteError {
        match error {
            RequestError::Status(status) => self.refused(slot, &status),
            RequestError::Answer { why } => Fault::Answer { why }.into(),
            RequestError::TooLong => Fault::TooLong.into(),
            lost @ RequestError::Lost { .. } => WriteError::Run(lost.fatal(format!("write {slot}"))),
        }
    }
}

/// Which port of a service has a node port that is taken.
fn taken_port(status: &Status) -> Option<usize> {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    causes.into_iter().find_map(|cause| {
        let index = cause.field.strip_prefix("spec.ports[")?.strip_suffix("].nodePort")?;
        cause.message.contains("already allocated").then(|| index.parse().ok()).flatten()
    })
}

/// Whether an object is refused because a field of it cannot be changed once it is there. There is no code for it:
/// these are the words of the validations of the API server's kinds, and of rules of custom resources.
fn is_immutable(status: &Status) -> bool {
    const WORDS: [&str; 7] = [
        "immutable",
        "cannot change roleRef",
        "updates to ",
        "may not be changed",
        "may not change",
        "cannot be changed",
        "may not be updated",
    ];
    WORDS.iter().any(|words| status.message.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(message: &str, causes: Value) -> Status {
        serde_json::from_value(json!({"code": 422, "message": message, "details": {"causes": causes}}))
            .unwrap()
    }

    #[test]
    fn the_port_that_is_taken_is_found() {
        let cause = |field: &str, message: &str| json!([{"reason": "FieldValueInvalid", "field": field, "message": message}]);
        let message = "Invalid value: 30080: provided port is already allocated";
        assert_eq!(taken_port(&status("", cause("spec.ports[1].nodePort", message))), Some(1));
        assert_eq!(taken_port(&status("", cause("spec.ports[1].nodePort", "not in range"))), None);
        assert_eq!(taken_port(&status("", cause("spec.ports[1].port", message))), None);
    }

    #[test]
    fn what_cannot_be_changed_is_told_from_what_is_wrong() {
        for message in [
            "spec.selector: Invalid value: …: field is immutable",
            "cannot change roleRef",
            "updates to statefulset spec for fields other than 'replicas' are forbidden",
            "updates to parameters are forbidden.",
        ] {
            assert!(is_immutable(&status(message, json!([]))), "{message}");
        }
        assert!(!is_immutable(&status("spec.replicas: must be greater than 0", json!([]))));
    }
}
