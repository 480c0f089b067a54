//! Short questions to a peer: one frame there, one back.

use std::time::Duration;

use backstay_net::StreamError;
use backstay_types::frame::{Frame, ListPoints, PlanState, Proposals, QueryPlan};
use backstay_types::point::RestorePoint;
use backstay_types::{Class, Classify, PairId, PlanName};

use crate::DaemonError;
use crate::site::Site;

/// A question that finds no connection waits this long for one.
pub(crate) const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// A peer that is there answers a question well within this.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

impl Site {
    /// Sends one frame and returns the answer; a refusal becomes an error.
    ///
    /// A peer that restarted is found out by the first question on the dead connection: it is asked again, once, on
    /// a new one. Every question may come twice.
    pub(crate) async fn ask(&self, pair: PairId, question: Frame) -> Result<Frame, DaemonError> {
        match self.ask_once(pair, question.clone()).await {
            Err(DaemonError::Stream(StreamError::Lost { reason })) if reason.class().retries() => {
                tracing::debug!(%reason, question = question.name(), "asking again");
                self.ask_once(pair, question).await
            }
            outcome => outcome,
        }
    }

    async fn ask_once(&self, pair: PairId, question: Frame) -> Result<Frame, DaemonError> {
        let name = self.peer(pair)?.name.clone();
        let connection = self.net.wait_connection(pair, CONNECT_WITHIN).await?;
        let exchange = async {
            let mut control = connection.open(question).await?;
            Ok::<_, DaemonError>(control.recv().await?)
        };
        match tokio::time::timeout(ANSWER_WITHIN, exchange).await {
            Ok(Ok(Some(Frame::Refused(refused)))) => Err(DaemonError::refused(&name, refused)),
            Ok(Ok(Some(answer))) => Ok(answer),
            Ok(Ok(None)) => Err(peer_error(name, "it closed the stream without an answer")),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(peer_error(name, "it did not answer in 30 s")),
        }
    }

    /// Sends one frame and waits for the answer as long as the connection stands: the peer has much to do first.
    pub(crate) async fn ask_for_long(&self, pair: PairId, question: Frame) -> Result<Frame, DaemonError> {
        let name = self.peer(pair)?.name.clone();
        let connection = self.net.wait_connection(pair, CONNECT_WITHIN).await?;
        let mut control = connection.open(question).await?;
        match control.recv().await? {
            Some(Frame::Refused(refused)) => Err(DaemonError::refused(&name, refused)),
            Some(answer) => Ok(answer),
            None => Err(peer_error(name, "it closed the stream without an answer")),
        }
    }

    /// What the peer knows of a plan.
    pub(crate) async fn ask_plan(&self, pair: PairId, plan: &PlanName) -> Result<PlanState, DaemonError> {
        match self.ask(pair, QueryPlan { plan: plan.clone() }.into()).await? {
            Frame::PlanState(state) => {
                let runtime = self.runtimes.of(plan);
                runtime.set_peer_epoch(state.epoch);
                runtime.set_standby(&state);
                if runtime.set_peer_proposals(&state.proposals) {
                    let Proposals { fields, withheld } = &state.proposals;
                    tracing::warn!(
                        %plan,
                        fields = fields.join(", "),
                        withheld = withheld.join(", "),
                        "the other side has not accepted these changes of the plan: backstay plan accept {plan}, there"
                    );
                }
                Ok(state)
            }
            other => Err(self.unexpected(pair, &other)),
        }
    }

    /// The restore points the peer holds of a plan.
    pub(crate) async fn ask_points(
        &self,
        pair: PairId,
        plan: &PlanName,
    ) -> Result<Vec<RestorePoint>, DaemonError> {
        match self.ask(pair, ListPoints { plan: plan.clone() }.into()).await? {
            Frame::Points(points) => Ok(points.points),
            other => Err(self.unexpected(pair, &other)),
        }
    }

    /// An answer that is none to the question.
    pub(crate) fn unexpected(&self, pair: PairId, frame: &Frame) -> DaemonError {
        let peer = self.net.book().name_of(pair).unwrap_or_else(|| "unknown".to_owned());
        DaemonError::Peer {
            peer,
            class: Class::Incompatible,
            why: format!("frame {} is out of place", frame.name()),
        }
    }
}

fn peer_error(peer: String, why: &str) -> DaemonError {
    DaemonError::Peer { peer, class: Class::Transient, why: why.to_owned() }
}
