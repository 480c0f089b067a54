//! What an operator does with pairs; and the audit log's way in.

mod follow;

use std::sync::Arc;

use backstay_net::PeerRecord;
use backstay_types::frame::SiteRole;
use backstay_types::{Class, Classify, PlanName};

use crate::api_types::{Changed, OrphanedPlan, Pair, Replaced, Unpaired};
use crate::audit::{Actor, AuditEntry};
use crate::site::Site;
use crate::{DaemonError, clock};

impl Site {
    /// Pairs with the site that printed `key`; with `replaces`, that site takes the place of the peer of this name.
    pub(crate) async fn join(
        self: &Arc<Self>,
        key: &str,
        replaces: Option<&str>,
    ) -> Result<Pair, DaemonError> {
        let peer = self.net.join(key, replaces).await?;
        self.limit_bandwidth();
        self.follow_peers()?;
        self.wake.notify_one();
        self.shown(&peer)
    }

    fn shown(&self, peer: &PeerRecord) -> Result<Pair, DaemonError> {
        let pairs = self.pairs();
        pairs
            .into_iter()
            .find(|pair| pair.pair_id == peer.pair)
            .ok_or(DaemonError::PeerRemoved { peer: Some(peer.name.clone()) })
    }

    /// Has a peer be reached elsewhere. Who it is does not change with where it is.
    pub(crate) async fn set_endpoints(
        &self,
        peer: &str,
        endpoints: Vec<String>,
    ) -> Result<Pair, DaemonError> {
        let peer = self.peer_named(peer)?;
        if endpoints.is_empty() {
            let message = format!("set peer {}: no endpoint was named", peer.name);
            let hint = Some(format!("backstay pair set {} --endpoint HOST:PORT", peer.name));
            return Err(DaemonError::Decision { class: Class::Invalid, message, hint });
        }
        let record = self.net.set_endpoints(peer.pair, endpoints).await?;
        self.shown(&record)
    }

    /// Has the plans of a peer that is gone for good go on with another one.
    pub(crate) async fn replace_peer(self: &Arc<Self>, old: &str, by: &str) -> Result<Replaced, DaemonError> {
        let new = self.peer_named(by)?;
        if old == by {
            let message = format!("replace peer {old}: it is the one that should take its place");
            let hint =
                format!("for a peer that was made anew under its name: backstay pair key --replaces {old}");
            return Err(DaemonError::Decision { class: Class::Invalid, message, hint: Some(hint) });
        }
        if let Ok(old) = self.peer_named(old)
            && self.net.connection(old.pair).is_some()
        {
            let message = format!("replace peer {}: it is connected, so it is not gone", old.name);
            let hint = format!("if it is to go, cut it off first: backstay pair remove {}", old.name);
            return Err(DaemonError::Decision { class: Class::Invalid, message, hint: Some(hint) });
        }
        Ok(Replaced { plans: self.replace(old, &new).await? })
    }

    /// Replaces the certificate authorities of a pair on both sides.
    pub(crate) async fn rotate(&self, peer: &str) -> Result<Changed, DaemonError> {
        let peer = self.peer_named(peer)?;
        self.net.rotate(peer.pair).await?;
        Ok(Changed { changed: true })
    }

    /// Cuts a peer off at once. Its plans stay, and say that their peer is gone.
    pub(crate) async fn unpair(&self, peer: &str) -> Result<Unpaired, DaemonError> {
        let record = match self.peer_named(peer) {
            Ok(record) => record,
            // It is cut off already; a disk that was full then may still say that it is trusted.
            Err(DaemonError::PeerNotFound { .. }) => {
                let changed = self.net.finish_removals().await?.iter().any(|name| name == peer);
                return Ok(Unpaired { changed, plans: Vec::new() });
            }
            Err(error) => return Err(error),
        };
        self.net.remove(record.pair).await?;
        let mut plans = Vec::new();
        for plan in self.plans.list().iter().filter(|plan| plan.pair == record.pair) {
            let what = if plan.state.role() == SiteRole::Active { "cycles fail" } else { "nothing arrives" };
            tracing::warn!(plan = %plan.name, "its peer {peer} was removed: {what} until it is paired again");
            plans.push(OrphanedPlan { plan: plan.name.clone(), role: plan.state.role() });
        }
        Ok(Unpaired { changed: true, plans })
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
