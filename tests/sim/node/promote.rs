//! Takeover.

use backstay_engine::handover::{self, Handover, Offered};
use backstay_engine::promotion::{
    self, PeerFacts, Planned, PointFacts, PromotionFacts, PromotionPlan, StepName,
};
use backstay_types::frame::{PlanState, Promoted, Proposals, SiteRole, TakeOver};
use backstay_types::{Epoch, RestorePointId};

use super::{Fault, Node, time};
use crate::net::Question;

/// What was asked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Request {
    pub restore_point: Option<RestorePointId>,
    pub force: bool,
    pub lease: Option<Epoch>,
}

impl Node {
    /// Promotes the plan here, in a task of its own: whoever asked may be gone.
    pub async fn promote(&self, request: Request, offer: Option<TakeOver>) -> Result<Epoch, Fault> {
        let (line, answer) = tokio::sync::oneshot::channel();
        let node = self.clone();
        self.spawn(async move {
            let outcome = node.promote_one(request, offer).await;
            node.w.tell(node.at, || format!("promotion: {outcome:?}"));
            drop(line.send(outcome));
        });
        answer.await.map_err(|_| Fault::Lost)?
    }

    async fn promote_one(&self, mut request: Request, offer: Option<TakeOver>) -> Result<Epoch, Fault> {
        let waiting = self.record().handover.filter(Handover::is_offered);
        if let Some(handover) = waiting.filter(|_| request.force) {
            return self.force_back(&handover).await;
        }
        let volatile = self.volatile();
        let _gate = volatile.cycle.clone().lock_owned().await;
        let record = self.record();
        if let Some(stored) = record.promotion {
            return self.carry_out(stored).await;
        }
        let peer = match &offer {
            Some(offer) => {
                let newest = self.site().disk.borrow().points.last_key_value().map(|(id, _)| *id);
                let admitted = handover::admit_take_over(Some(record.local()), offer, newest)?;
                request.restore_point = (admitted == Offered::Promote).then_some(offer.restore_point);
                that_offers(offer)
            }
            None => self.peer_facts().await,
        };
        let (points, applied, applying) = {
            let disk = self.site().disk.borrow();
            let points = disk.points.iter().map(|(id, point)| PointFacts {
                id: *id,
                snapshot_time: time(point.time),
                damaged: false,
                complete: true,
                diverged: point.diverged,
            });
            (points.collect::<Vec<_>>(), disk.applied, disk.applying)
        };
        let facts = PromotionFacts {
            plan: &self.w.plan,
            role: record.role,
            epoch: record.epoch,
            points: &points,
            applied,
            applying,
            peer: &peer,
            last_sign: None,
            wanted: request.restore_point,
            force: request.force,
            lease: request.lease,
            accept_partial: false,
        };
        match promotion::plan(&facts, self.time()).map_err(|refused| Fault::decided(&refused))? {
            Planned::Already { epoch } => Ok(epoch),
            Planned::Promote(plan) => self.carry_out(plan).await,
        }
    }

    async fn carry_out(&self, mut plan: PromotionPlan) -> Result<Epoch, Fault> {
        self.volatile().session.set(None);
        let volatile = self.volatile();
        let _gate = volatile.apply.clone().lock_owned().await;
        while let Some(step) = plan.next_step() {
            plan.start(step, self.time()).expect("in order");
            self.carry_out_step(&plan, step).await?;
            plan.complete(step, self.time()).expect("in order");
            if plan.is_past_return() && plan.next_step().is_some() {
                self.still_promoting(&plan)?;
                self.race().await;
                let stored = plan.clone();
                self.write("promotion step", |disk| disk.record.promotion = Some(stored)).await?;
            }
        }
        self.write("last promotion", |_| ()).await?;
        self.still_promoting(&plan)?;
        self.race().await;
        self.write("promoted", |disk| {
            (disk.record.role, disk.record.promotion) = (SiteRole::Active, None);
        })
        .await?;
        self.w.count("promotions");
        Ok(plan.epoch)
    }

    fn still_promoting(&self, plan: &PromotionPlan) -> Result<(), Fault> {
        let record = self.record();
        let is_so = record.epoch == plan.epoch && record.role == SiteRole::Promoting;
        if is_so { Ok(()) } else { Err(Fault::EpochShrinks) }
    }

    async fn carry_out_step(&self, plan: &PromotionPlan, step: StepName) -> Result<(), Fault> {
        match step {
            StepName::CheckRestorePoint => {
                self.work(100).await;
                let is_here = self.site().disk.borrow().points.contains_key(&plan.restore_point);
                if is_here { Ok(()) } else { Err(Fault::Incomplete) }
            }
            StepName::Epoch => {
                let volatile = self.volatile();
                let _fence = volatile.fence.clone().lock_owned().await;
                let stored = plan.clone();
                self.write("promoting", |disk| {
                    disk.record.role = SiteRole::Promoting;
                    disk.record.epoch = stored.epoch;
                    disk.record.promotion = Some(stored);
                })
                .await
            }
            StepName::Fence => {
                let promoted = Promoted { plan: plan.plan.clone(), epoch: plan.epoch };
                // One that does not hear it now hears it when it sends.
                drop(self.ask(Question::Promoted(promoted), 5_000).await);
                Ok(())
            }
            StepName::Apply => self.bring_to(plan.restore_point).await,
            StepName::Verify => {
                let shows = self.site().disk.borrow().applied == Some(plan.restore_point);
                if shows { Ok(()) } else { Err(Fault::Incomplete) }
            }
            StepName::Release => {
                self.danger("before releasing").await;
                self.check_release(plan.restore_point, plan.epoch);
                self.order();
                self.danger("after releasing").await;
                Ok(())
            }
            StepName::WaitReady | StepName::Hooks | StepName::Report => Ok(()),
        }
    }
}

/// A peer that holds its workloads and offers the plan.
fn that_offers(offer: &TakeOver) -> PeerFacts {
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
