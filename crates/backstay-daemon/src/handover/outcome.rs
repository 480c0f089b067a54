//! From the offer to the day that it is known who runs the plan.

use std::sync::Arc;
use std::time::Duration;

use backstay_engine::handover::{Answer, Handover, HandoverStep, Next, Stage};
use backstay_engine::plan_state::Transition;
use backstay_types::frame::{Frame, SiteRole, TakeBack};
use backstay_types::{Epoch, PlanName};

use super::report::StepClock;
use crate::DaemonError;
use crate::api_types::PromotionReport;
use crate::ask::CONNECT_WITHIN;
use crate::site::Site;

/// Between two tries to reach the peer about an offer.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// What a handover that is over comes to.
pub(super) enum Outcome {
    /// The peer took over, and this is what it said.
    TakenOver { report: Option<PromotionReport>, failure: Option<String>, epoch: Epoch },
    /// This side goes on, at this epoch.
    TakenBack { cause: DaemonError },
}

/// An offer whose outcome is not known.
struct Open {
    site: Arc<Site>,
    name: PlanName,
    handover: Handover,
    clock: StepClock,
    /// What the peer refused last.
    refusal: Option<DaemonError>,
}

impl Site {
    /// Asks until the outcome is known, or the daemon stops.
    pub(super) async fn until_known(
        self: &Arc<Self>,
        name: &PlanName,
        handover: Handover,
    ) -> (Handover, Outcome) {
        let (site, clock) = (self.clone(), StepClock::start());
        let mut open = Open { site, name: name.clone(), handover, clock, refusal: None };
        let outcome = open.until_known().await;
        (open.handover, outcome)
    }

    async fn ask_about(self: &Arc<Self>, name: &PlanName, frame: Frame) -> Result<Frame, DaemonError> {
        let pair = self.plans.get(name)?.pair;
        self.net.wait_connection(pair, CONNECT_WITHIN).await?;
        let record = self.plans.get(name)?;
        if record.state.handover().is_none() || record.state.role() != SiteRole::Demoting {
            // The operator did not wait for the peer: what it is asked now it would do beside this side.
            return Err(DaemonError::Forced { plan: name.clone() });
        }
        // As long as the connection stands: the peer may have much to start.
        self.ask_for_long(pair, frame).await
    }
}

impl Open {
    async fn until_known(&mut self) -> Outcome {
        let mut next = self.handover.resume();
        loop {
            let asked = match next {
                Next::StepDown { epoch } => {
                    let failure = self.refusal.as_ref().map(ToString::to_string);
                    return self.taken_over(None, failure, epoch);
                }
                Next::RunAt { epoch } => match self.site.go_on_at(&self.name, epoch).await {
                    Ok(()) => {
                        return Outcome::TakenBack { cause: self.refusal.take().unwrap_or_else(stopping) };
                    }
                    Err(error) => {
                        tracing::warn!("this side does not go on yet: {error}");
                        if self.is_stopping_soon().await {
                            return Outcome::TakenBack { cause: stopping() };
                        }
                        continue;
                    }
                },
                Next::RollBack => Err(stopping()),
                Next::Offer => match self.handover.offer() {
                    Some(offer) => self.site.ask_about(&self.name, offer.into()).await,
                    None => Err(stopping()),
                },
                Next::TakeBack { epoch } => self.take_back(epoch).await,
            };
            match self.ended_otherwise() {
                Some((SiteRole::Active, _)) => {
                    return Outcome::TakenBack { cause: DaemonError::Forced { plan: self.name.clone() } };
                }
                // Its word that it was promoted came on another way, and before its answer.
                Some((_, epoch)) => {
                    let failure = match &asked {
                        Ok(_) => None,
                        Err(error @ DaemonError::Refused { .. }) => Some(error.to_string()),
                        Err(_) => self.still_at_it().await,
                    };
                    return self.taken_over(asked.ok().and_then(report_of), failure, epoch);
                }
                None => {}
            }
            let answer = match self.judge(asked) {
                Ok(outcome) => return outcome,
                Err(answer) => answer,
            };
            // A refusal of what is taken back changes nothing either.
            let asked_before = matches!(self.handover.stage, Stage::TakingBack { .. });
            next = self.handover.on_answer(answer);
            let is_open = answer == Answer::Lost || (asked_before && matches!(next, Next::TakeBack { .. }));
            if is_open && self.is_stopping_soon().await {
                return Outcome::TakenBack { cause: stopping() };
            }
        }
    }

    /// Of a peer whose answer was lost: that it is not done with the takeover, if it says so.
    async fn still_at_it(&self) -> Option<String> {
        let record = self.site.plans.find(&self.name)?;
        let state = self.site.ask_plan(record.pair, &self.name).await.ok()?;
        (state.role == Some(SiteRole::Promoting)).then(|| "it is still taking over".to_owned())
    }

    /// Asks the peer to let this side go on. That it was asked is on disk first.
    async fn take_back(&mut self, epoch: Epoch) -> Result<Frame, DaemonError> {
        self.handover.stage = Stage::TakingBack { epoch };
        let kept = self.handover.clone();
        self.site.plans.decide(&self.name, |record| match record.state.handover().is_some() {
            true => record.apply(Transition::HandoverTakenBack(kept)),
            false => Ok(()),
        })?;
        self.site.ask_about(&self.name, TakeBack { plan: self.name.clone(), epoch }.into()).await
    }

    /// Whatever the peer says: a higher epoch that was learnt on another way ends it, and so does the operator. What this
    /// side is then.
    fn ended_otherwise(&self) -> Option<(SiteRole, Epoch)> {
        let record = self.site.plans.find(&self.name)?;
        let is_over = record.state.handover().is_none() || record.state.role() == SiteRole::Active;
        is_over.then_some((record.state.role(), record.state.epoch()))
    }

    /// The outcome, if the peer told it; else what its answer means.
    fn judge(&mut self, asked: Result<Frame, DaemonError>) -> Result<Outcome, Answer> {
        match asked {
            Ok(frame) => match report_of(frame) {
                Some(report) => {
                    // It takes over at exactly the epoch that it was offered.
                    let epoch = self.handover.epoch;
                    Ok(self.taken_over(Some(report), None, epoch))
                }
                None => Err(Answer::Done),
            },
            Err(DaemonError::Refused { peer, class, message, hint, epoch }) => {
                tracing::warn!(class = class.label(), "{peer} does not take over: {message}");
                self.refusal = Some(DaemonError::Refused { peer, class, message, hint, epoch });
                Err(Answer::Refused(epoch))
            }
            Err(error) => {
                tracing::warn!("the outcome of the handover is not known yet: {error}");
                Err(Answer::Lost)
            }
        }
    }

    fn taken_over(
        &mut self,
        report: Option<PromotionReport>,
        failure: Option<String>,
        epoch: Epoch,
    ) -> Outcome {
        self.handover.steps.push(self.clock.lap(HandoverStep::TakeOver));
        Outcome::TakenOver { report, failure, epoch }
    }

    /// Waits a moment; says whether the daemon is stopping.
    async fn is_stopping_soon(&self) -> bool {
        tokio::time::timeout(ASK_AGAIN, self.site.stop.cancelled()).await.is_ok()
    }
}

const fn stopping() -> DaemonError {
    DaemonError::Stopping { what: "the handover" }
}

fn report_of(frame: Frame) -> Option<PromotionReport> {
    match frame {
        Frame::TakenOver(taken) => serde_json::from_str(&taken.report).ok(),
        _ => None,
    }
}
