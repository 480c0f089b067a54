//! What an operator does with pairs; and the audit log's way in.

use std::sync::Arc;

use backstay_types::frame::SiteRole;
use backstay_types::{Classify, PlanName};

use crate::api_types::{Changed, Pair};
use crate::audit::{Actor, AuditEntry};
use crate::site::Site;
use crate::{DaemonError, clock};

impl Site {
    /// Pairs with the site that printed `key`.
    pub(crate) async fn join(self: &Arc<Self>, key: &str) -> Result<Pair, DaemonError> {
        let peer = self.net.join(key).await?;
        self.load_keys();
        self.limit_bandwidth();
        let pairs = self.pairs();
        pairs
            .into_iter()
            .find(|pair| pair.pair_id == peer.pair)
            .ok_or(DaemonError::Worker { what: "pairing" })
    }

    /// Replaces the certificate authorities of a pair on both sides.
    pub(crate) async fn rotate(&self, peer: &str) -> Result<Changed, DaemonError> {
        let peer = self.peer_named(peer)?;
        self.net.rotate(peer.pair).await?;
        Ok(Changed { changed: true })
    }

    /// Cuts a peer off at once. Its plans stay, and say that their peer is gone.
    pub(crate) async fn unpair(&self, peer: &str) -> Result<Changed, DaemonError> {
        let record = match self.peer_named(peer) {
            Ok(record) => record,
            Err(DaemonError::PeerNotFound { .. }) => return Ok(Changed { changed: false }),
            Err(error) => return Err(error),
        };
        self.net.remove(record.pair).await?;
        for plan in self.plans.list().iter().filter(|plan| plan.pair == record.pair) {
            let what = if plan.role == SiteRole::Active { "cycles fail" } else { "nothing arrives" };
            tracing::warn!(plan = %plan.name, "its peer {peer} was removed: {what} until it is paired again");
        }
        Ok(Changed { changed: true })
    }

    /// Writes one line of the audit log. What was done is done: a line that cannot be written is an error of its
    /// own, told in the log and counted.
    pub(crate) fn record(
        &self,
        actor: &Actor,
        action: &'static str,
        plan: Option<&PlanName>,
        detail: String,
        error: Option<&DaemonError>,
    ) {
        let mut entry = AuditEntry::new(clock::now(), actor, action).detail(detail);
        if let Some(plan) = plan {
            entry = entry.plan(plan.clone());
        }
        if let Some(error) = error {
            entry = entry.failed(error);
        }
        if let Err(error) = self.audit.append(entry) {
            self.metrics.count_error(error.class());
            tracing::error!(action, "audit line not written: {error}");
        }
    }
}
