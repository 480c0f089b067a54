//! The peer of a plan that is promoted: whether it is there and active, and telling it.
//!
//! A takeover does not wait for a dead peer. One that is there acknowledges packets within a round trip, whatever it is
//! doing; one that is not heard at all for [`SILENCE`], and does not connect anew, is gone.

use std::time::Duration;

use backstay_engine::promotion::{PeerFacts, PromotionPlan};
use backstay_net::Connection;
use backstay_types::frame::{Frame, PlanState, Promoted, Proposals, SiteRole, TakeOver};
use backstay_types::{Epoch, PairId};

use crate::DaemonError;
use crate::plans::PlanRecord;
use crate::site::Site;

/// How long a peer that is heard may take to answer.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// Not one packet for so long, or for [`SILENT_ROUND_TRIPS`] if that is longer: several acknowledgements would have to
/// be lost in a row.
const SILENCE: Duration = Duration::from_millis(1500);
const SILENT_ROUND_TRIPS: u32 = 8;

/// A peer that was only cut off for a moment is back within this.
const RETURNS_WITHIN: Duration = Duration::from_millis(1500);

/// A peer that holds its workloads and offers the plan.
pub(super) fn that_offers(offer: &TakeOver) -> PeerFacts {
    let state = PlanState {
        plan: offer.plan.clone(),
        role: Some(SiteRole::Demoting),
        epoch: Epoch(offer.epoch.0.saturating_sub(1)),
        newest: None,
        newest_snapshot_time: None,
        applied: None,
        apply_failure: None,
        proposals: Proposals::default(),
    };
    PeerFacts { reachable: true, state: Some(state) }
}

impl Site {
    pub(crate) async fn peer_facts(&self, record: &PlanRecord) -> PeerFacts {
        let ask = || self.while_heard(record.pair, self.ask_plan(record.pair, &record.name));
        let mut answer = ask().await;
        // A way that was lost for a moment: one that is there connects anew, and is asked again.
        if answer.is_none() && self.net.wait_connection(record.pair, RETURNS_WITHIN).await.is_ok() {
            answer = ask().await;
        }
        match answer {
            None => PeerFacts::default(),
            Some(Ok(state)) => PeerFacts { reachable: true, state: Some(state) },
            // It is there, and may be active.
            Some(Err(error @ DaemonError::Refused { .. })) => {
                tracing::warn!("the peer does not tell its role: {error}");
                PeerFacts { reachable: true, state: None }
            }
            Some(Err(error)) => {
                tracing::warn!("the peer does not answer: {error}");
                PeerFacts::default()
            }
        }
    }

    /// Tells the peer, if it is connected. One that does not hear it now hears it when it sends.
    pub(super) async fn fence_peer(&self, plan: &mut PromotionPlan) {
        let Ok(record) = self.plans.get(&plan.plan) else { return };
        let frame = Promoted { plan: plan.plan.clone(), epoch: plan.epoch }.into();
        match self.while_heard(record.pair, self.ask(record.pair, frame)).await {
            Some(Ok(Frame::Done(_))) => {}
            Some(Ok(other)) => {
                plan.warnings.push(format!("the peer answered with a frame {}", other.name()));
            }
            Some(Err(error)) => plan.warnings.push(format!("the peer was not told: {error}")),
            None => plan.warnings.push("the peer was not told: it is not there".to_owned()),
        }
    }

    /// The answer to a question, unless the peer is not connected, falls silent, or takes too long.
    async fn while_heard<T>(&self, pair: PairId, question: impl Future<Output = T>) -> Option<T> {
        let connection = self.net.connection(pair)?;
        tokio::select! {
            answer = tokio::time::timeout(ANSWERS_WITHIN, question) => answer.ok(),
            () = silence(&connection) => {
                tracing::warn!(peer = %connection.peer().name, "the peer has fallen silent");
                connection.give_up();
                None
            }
        }
    }
}

/// Returns when nothing has arrived for a while.
async fn silence(connection: &Connection) {
    let mut before = connection.wire_stats();
    loop {
        tokio::time::sleep(SILENCE.max(before.rtt * SILENT_ROUND_TRIPS)).await;
        let now = connection.wire_stats();
        if now.rx_bytes == before.rx_bytes {
            return;
        }
        before = now;
    }
}
