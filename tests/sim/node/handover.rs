//! Planned takeover.

use backstay_engine::handover::{self, Answer, Handover, HandoverFacts, Next, Planned, Stage, Target};
use backstay_types::Epoch;
use backstay_types::frame::{SiteRole, TakeBack};

use super::{Fault, Node};
use crate::net::{Question, Reply};

/// A question about an offer is waited for as long as its connection stands.
const CONNECTION_STANDS: u64 = 40_000;

/// What a handover came to.
enum Outcome {
    TakenOver(Epoch),
    TakenBack,
}

impl Node {
    pub async fn hand_over(&self, target: Target) -> Result<(), Fault> {
        let (line, answer) = tokio::sync::oneshot::channel();
        let node = self.clone();
        self.spawn(async move {
            let outcome = node.hand_over_one(target).await;
            node.w.tell(node.at, || format!("handover: {outcome:?}"));
            drop(line.send(outcome));
        });
        answer.await.map_err(|_| Fault::Lost)?
    }

    async fn hand_over_one(&self, target: Target) -> Result<(), Fault> {
        if self.record().role != SiteRole::Active {
            return match self.decide(target).await? {
                Planned::Already => Ok(()),
                Planned::AskPeer | Planned::HandOver(_) => self.ask_peer().await,
            };
        }
        let volatile = self.volatile();
        let gate = volatile.cycle.clone().lock_owned().await;
        match self.decide(target).await? {
            Planned::Already => Ok(()),
            Planned::AskPeer => self.ask_peer().await,
            Planned::HandOver(mut handover) => {
                self.w.count("handovers");
                let outcome = match self.prepare_to_give(&mut handover).await {
                    Ok(()) => self.until_known(handover).await,
                    Err(fault) => {
                        self.w.tell(self.at, || format!("rolls back: {fault:?}"));
                        self.roll_back_for_sure().await;
                        return Err(fault);
                    }
                };
                drop(gate);
                self.end_handover(outcome).await
            }
        }
    }

    async fn ask_peer(&self) -> Result<(), Fault> {
        let epoch = self.record().epoch;
        self.ask(Question::HandOver(epoch), CONNECTION_STANDS).await.map(drop)
    }

    async fn decide(&self, target: Target) -> Result<Planned, Fault> {
        let record = self.record();
        let peer = self.peer_facts().await;
        let facts = HandoverFacts {
            plan: &self.w.plan,
            role: record.role,
            epoch: record.epoch,
            is_home: record.home,
            target,
            peer: &peer,
        };
        handover::plan(&facts, self.time()).map_err(|refused| Fault::decided(&refused))
    }

    async fn prepare_to_give(&self, handover: &mut Handover) -> Result<(), Fault> {
        self.cycle().await?;
        let kept = handover.clone();
        self.write("handover begins", |disk| {
            if disk.record.role == SiteRole::Active {
                disk.record.handover = Some(kept);
            }
        })
        .await?;
        if self.record().role != SiteRole::Active {
            return Err(Fault::Role);
        }
        let held_time = self.time();
        self.stand_still().await?;
        self.wait_gone().await;
        let restore_point = self.cycle().await?;
        handover.stage = Stage::Offered { restore_point, held_time };
        let kept = handover.clone();
        let volatile = self.volatile();
        let _fence = volatile.fence.clone().lock_owned().await;
        if self.record().role != SiteRole::Active {
            return Err(Fault::Role);
        }
        self.write("offered", |disk| {
            (disk.record.role, disk.record.handover) = (SiteRole::Demoting, Some(kept));
        })
        .await
    }

    async fn until_known(&self, mut handover: Handover) -> Outcome {
        let mut next = handover.resume();
        loop {
            let asked = match next {
                Next::StepDown { epoch } => return Outcome::TakenOver(epoch),
                Next::RunAt { epoch } => match self.go_on_at(epoch).await {
                    Ok(()) => return Outcome::TakenBack,
                    Err(fault) => Err(fault),
                },
                Next::RollBack => Err(Fault::Role),
                Next::Offer => {
                    let offer = handover.offer().expect("it is offered");
                    self.ask(Question::TakeOver(offer), CONNECTION_STANDS).await
                }
                Next::TakeBack { epoch } => {
                    handover.stage = Stage::TakingBack { epoch };
                    let kept = handover.clone();
                    let stored = self.write("taking back", |disk| {
                        let record = &mut disk.record;
                        record.handover = record.handover.is_some().then_some(kept);
                    });
                    match stored.await {
                        Ok(()) => {
                            let back = TakeBack { plan: self.w.plan.clone(), epoch };
                            self.ask(Question::TakeBack(back), CONNECTION_STANDS).await
                        }
                        Err(fault) => Err(fault),
                    }
                }
            };
            let record = self.record();
            if record.handover.is_none() {
                return match record.role {
                    SiteRole::Active => Outcome::TakenBack,
                    _ => Outcome::TakenOver(record.epoch),
                };
            }
            let answer = match asked {
                Ok(Reply::TakenOver(epoch)) => return Outcome::TakenOver(epoch),
                Ok(_) => Answer::Done,
                Err(Fault::Refused { epoch, .. }) => Answer::Refused(epoch),
                Err(_) => Answer::Lost,
            };
            next = handover.on_answer(answer);
            if answer == Answer::Lost {
                self.pause(1_000).await;
            }
        }
    }

    async fn go_on_at(&self, epoch: Epoch) -> Result<(), Fault> {
        self.write("goes on", |disk| {
            let record = &mut disk.record;
            if record.handover.is_some() {
                record.epoch = record.epoch.max(epoch);
                record.role = SiteRole::Active;
            }
        })
        .await?;
        self.roll_back().await
    }

    async fn roll_back(&self) -> Result<(), Fault> {
        // One that has learnt a higher epoch meanwhile steps down, and stays held.
        if self.record().role != SiteRole::Active {
            return Ok(());
        }
        if !self.record().cut_off {
            self.let_go().await?;
        }
        self.write("handover over", |disk| disk.record.handover = None).await?;
        // Also if the lease was lost only now. It lets go itself when it is good again.
        if self.record().cut_off { self.stand_still().await } else { Ok(()) }
    }

    /// A full disk delays it: nobody else would let go.
    async fn roll_back_for_sure(&self) {
        while let Err(fault) = self.roll_back().await {
            self.w.tell(self.at, || format!("not rolled back yet: {fault:?}"));
            self.pause(1_000).await;
        }
    }

    async fn end_handover(&self, outcome: Outcome) -> Result<(), Fault> {
        let Outcome::TakenOver(epoch) = outcome else { return Err(Fault::Busy) };
        // Nobody else would: the offer is over, and this side has to know it.
        while let Err(fault) = self.learn_epoch(epoch).await {
            self.w.tell(self.at, || format!("the outcome is not recorded yet: {fault:?}"));
            self.pause(1_000).await;
        }
        self.step_down().await
    }

    pub async fn resume_handover(&self) -> Result<(), Fault> {
        let volatile = self.volatile();
        let gate = volatile.cycle.clone().lock_owned().await;
        let record = self.record();
        let Some(handover) = record.handover else { return Ok(()) };
        if record.role == SiteRole::Active {
            self.roll_back_for_sure().await;
            return Ok(());
        }
        let outcome = self.until_known(handover).await;
        drop(gate);
        self.end_handover(outcome).await
    }

    /// The operator ends the wait.
    pub async fn force_back(&self, handover: &Handover) -> Result<Epoch, Fault> {
        let epoch = handover.epoch.next();
        self.w.count("forced back");
        self.go_on_at(epoch).await?;
        Ok(epoch)
    }
}
