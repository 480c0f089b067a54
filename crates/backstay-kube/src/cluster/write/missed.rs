//! What a CronJob missed while it was held ran on the other side, and is not to run again.
//!
//! Its controller counts missed moments from the last time that it started a job, or from the making of the copy here, and
//! starts the last of them at once when the CronJob is not suspended any more. So the time of the takeover is written as the
//! last one, before it is released (kube suite `handover`, `a_namespace_goes_there_and_comes_back`).

use http::Method;
use k8s_openapi::jiff::Timestamp;
use serde_json::json;

use super::{WriteError, Writer};
use crate::cluster::discovery::Resource;
use crate::cluster::live::Slot;
use crate::cluster::request::{Ask, METADATA};

impl Writer {
    /// Has a CronJob that is released now count from now on.
    pub(super) async fn nothing_missed(&self, slot: &Slot, resource: &Resource) -> Result<(), WriteError> {
        if !slot.kind.is("batch", "CronJob") {
            return Ok(());
        }
        let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or(Timestamp::UNIX_EPOCH);
        let path = resource.object_path(slot.namespace.as_deref(), &slot.name);
        let ask = Ask {
            method: Method::PATCH,
            path: format!("{path}/status"),
            accept: METADATA,
            content_type: Some("application/merge-patch+json"),
            body: json!({"status": {"lastScheduleTime": now.to_string()}}).to_string().into_bytes(),
        };
        match self.cluster.ask(&ask).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() => Ok(()),
            // It runs once too often then; that it does not run at all would be worse.
            Err(error) if error.status().is_some() => {
                let why = error.status().map(|status| status.message.clone()).unwrap_or_default();
                self.tally().warn(format!("{slot}: what it missed while it was held may run now: {why}"));
                Ok(())
            }
            Err(error) => Err(self.failed(slot, error)),
        }
    }
}
