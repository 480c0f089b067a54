//! Definitions of custom resources: what follows waits until the API server has taken them in.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::cluster::error::{ClusterError, shorten};
use crate::cluster::fault::Fault;
use crate::cluster::live::Slot;
use crate::cluster::request::{Ask, JSON};
use crate::cluster::write::{WRITES_MAX, Writer, parallel};

/// How long one may take. Usually it is some 100 ms; names that clash are never established.
const ESTABLISHED_WITHIN: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(50);

impl Writer {
    /// Waits for those that this run created; one that was there is established.
    pub(super) async fn wait_established(self: &Arc<Self>, slots: Vec<Slot>) -> Result<(), ClusterError> {
        let created = slots.into_iter().filter(|slot| self.is_fresh(slot)).collect();
        let writer = self.clone();
        parallel(created, WRITES_MAX, move |slot| {
            let writer = writer.clone();
            async move { writer.wait_for(slot).await }
        })
        .await
    }

    async fn wait_for(&self, slot: Slot) -> Result<(), ClusterError> {
        let path = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{}", slot.name);
        let mut waited = Duration::ZERO;
        loop {
            let definition: Value = match self.cluster.ask_for(&Ask::get(path.clone(), JSON)).await {
                Ok(definition) => definition,
                Err(error) => return Err(error.fatal(format!("wait for {slot}"))),
            };
            let conditions = definition.pointer("/status/conditions").and_then(Value::as_array);
            let conditions: Vec<_> = conditions.into_iter().flatten().collect();
            let is = |kind: &str, status: &str| {
                let text = |condition: &Value, field| {
                    condition.get(field).and_then(Value::as_str).map(str::to_owned)
                };
                conditions.iter().any(|condition| {
                    text(condition, "type").as_deref() == Some(kind)
                        && text(condition, "status").as_deref() == Some(status)
                })
            };
            if is("Established", "True") {
                return Ok(());
            }
            if is("NamesAccepted", "False") || waited >= ESTABLISHED_WITHIN {
                let messages = conditions.iter().filter_map(|one| one.get("message")?.as_str());
                let why = shorten(&messages.collect::<Vec<_>>().join("; "));
                let fault = Fault::NotEstablished { seconds: waited.as_secs(), why };
                self.tally().failures.add(slot.to_string(), &fault);
                return Ok(());
            }
            tokio::time::sleep(LOOK_EVERY).await;
            waited += LOOK_EVERY;
        }
    }
}
