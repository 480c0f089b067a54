//! The side that is offered a plan, and what it answers.

use std::sync::Arc;

use backstay_engine::handover::{self, Offered, Target};
use backstay_engine::plan_state::Transition;
use backstay_engine::role::Refusal;
use backstay_net::Control;
use backstay_types::PairId;
use backstay_types::frame::{
    Done, Frame, HandOver, HandedOver, Refused, SiteRole, TakeBack, TakeOver, TakenOver,
};

use crate::DaemonError;
use crate::api_types::PromotionReport;
use crate::plans::PlanRecord;
use crate::site::Site;

impl Site {
    /// Takes over a plan that the peer holds. The answer comes when it runs here.
    pub(crate) async fn take_over(
        self: &Arc<Self>,
        pair: PairId,
        offer: TakeOver,
        control: &mut Control,
    ) -> Result<(), DaemonError> {
        let (plan, epoch) = (offer.plan.clone(), offer.epoch);
        let outcome = self.promote_as_offered(pair, offer).await;
        let audited = format!("offered epoch {epoch}");
        self.record(&self.actor_of(pair), "takeOver", Some(&plan), audited, outcome.as_ref().err());
        match outcome {
            Ok(report) => {
                let frame = TakenOver { plan, epoch: report.epoch, report: told(&report)? };
                control.send(&frame.into()).await?;
            }
            Err(error) => {
                // What has begun goes on by itself where time can mend it.
                self.finish_promotion_soon(plan.clone());
                // With the epoch known here, the peer can tell a takeover that stopped half-way from one that never was.
                let known = self.plan_of(pair, &plan).map(|record| record.state.epoch());
                control.send(&Refused::new(&error, known).into()).await?;
                control.finish()?;
                return Err(error);
            }
        }
        control.finish()?;
        Ok(())
    }

    /// Decides on an offer, with the plan's gate shut.
    pub(crate) fn admit_offer(&self, pair: PairId, offer: &TakeOver) -> Result<Offered, DaemonError> {
        let record = self.plan_of(pair, &offer.plan);
        let newest = self.store.newest(&offer.plan)?.map(|point| point.id);
        Ok(handover::admit_take_over(record.map(|record| record.state.local()), offer, newest)?)
    }

    /// The peer goes on itself: from now on its offer counts no more.
    pub(crate) async fn take_back(&self, pair: PairId, back: &TakeBack) -> Result<Frame, DaemonError> {
        let runtime = self.runtimes.of(&back.plan);
        let _fence = runtime.fence.lock().await;
        self.plan_of(pair, &back.plan).ok_or_else(|| Refusal::UnknownPlan { plan: back.plan.clone() })?;
        self.plans.decide(&back.plan, |record| {
            let grant = handover::admit_take_back(Some(record.state.local()), back)?;
            record.apply(Transition::Followed(grant.local.epoch))
        })?;
        Ok(Done {}.into())
    }

    /// The standby asks for a plan that is active here.
    pub(crate) async fn hand_over_as_asked(
        self: &Arc<Self>,
        pair: PairId,
        asked: &HandOver,
    ) -> Result<Frame, DaemonError> {
        let record = self.plan_of(pair, &asked.plan);
        let record = record.ok_or_else(|| self.plans.unknown(&asked.plan))?;
        if asked.epoch != record.state.epoch() || record.state.role() != SiteRole::Active {
            return Err(crate::plan_ops::wrong_role(&record, "handing the plan over"));
        }
        let outcome = self.hand_over(&asked.plan, other_side(&record)).await;
        self.record(
            &self.actor_of(pair),
            "handOver",
            Some(&asked.plan),
            "the peer asks".into(),
            outcome.as_ref().err(),
        );
        let report = outcome?;
        Ok(HandedOver { plan: asked.plan.clone(), report: told(&report)? }.into())
    }
}

/// The side that is not this one.
fn other_side(record: &PlanRecord) -> Target {
    if record.home { Target::Away } else { Target::Home }
}

fn told(report: &PromotionReport) -> Result<String, DaemonError> {
    serde_json::to_string(report).map_err(|error| DaemonError::Request { message: error.to_string() })
}
