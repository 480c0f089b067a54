//! What the peer asks.

use backstay_engine::handover;
use backstay_engine::lease::Mono;
use backstay_engine::role::{self, News, Refusal};
use backstay_types::frame::{Begin, Promoted, SharePlan, SiteRole, TakeBack, TakeOver};
use backstay_types::{Class, Epoch, RestorePointId, SessionId};

use super::promote::Request;
use super::{Fault, Node};
use crate::net::{Question, Reply};
use crate::world::{Content, Point};

const TAKING_OVER: Reply = Reply::Refused { class: Class::Busy, epoch: None };

impl Node {
    pub async fn answer(&self, question: Question) -> Reply {
        let outcome = match question {
            Question::Share(share) => self.take_share(&share).await.map(|()| Reply::Done),
            Question::Query => return self.told_plan(),
            Question::Begin(begin) => self.begin(&begin).await,
            Question::Commit { session, id, sent, content } => self.commit(session, id, &sent, content).await,
            Question::Promoted(promoted) => self.take_promoted(&promoted).await.map(|()| Reply::Done),
            Question::TakeOver(offer) => return self.take_over(offer).await,
            Question::TakeBack(_) if !self.stands_by() => return TAKING_OVER,
            Question::TakeBack(back) => self.take_back(&back).await.map(|()| Reply::Done),
            Question::HandOver(epoch) => self.hand_over_as_asked(epoch).await.map(|()| Reply::Done),
        };
        outcome.unwrap_or_else(|fault| match fault {
            Fault::Refused { class, epoch } => Reply::Refused { class, epoch },
            Fault::Decision(class) => Reply::Refused { class, epoch: None },
            _ => Reply::Refused { class: Class::Transient, epoch: None },
        })
    }

    fn told_plan(&self) -> Reply {
        if self.stands_by() { Reply::State(self.plan_state()) } else { TAKING_OVER }
    }

    /// Whether this side takes nothing by itself for the plan's time from now on.
    fn stands_by(&self) -> bool {
        let volatile = self.volatile();
        let mut standing = volatile.standing.borrow_mut();
        standing.as_mut().is_none_or(|lease| lease.grant(Mono(self.mono())))
    }

    async fn refused(&self, refusal: Refusal) -> Fault {
        if let Some(epoch) = refusal.steps_down_for()
            && let Err(fault) = self.learn_epoch(epoch).await
        {
            return fault;
        }
        refusal.into()
    }

    async fn take_share(&self, share: &SharePlan) -> Result<(), Fault> {
        let local = self.record().local();
        let grant = match role::admit_share(Some(local), share) {
            Ok(grant) => grant,
            Err(refusal) => return Err(self.refused(refusal).await),
        };
        self.race().await;
        if grant.is_new { self.adopt(grant.local).await } else { Ok(()) }
    }

    async fn adopt(&self, local: role::Local) -> Result<(), Fault> {
        self.write("adopted", |disk| (disk.record.role, disk.record.epoch) = (local.role, local.epoch)).await
    }

    async fn begin(&self, begin: &Begin) -> Result<Reply, Fault> {
        self.volatile().session.set(Some(begin.session));
        let (local, newest) = {
            let disk = self.site().disk.borrow();
            (disk.record.local(), disk.points.last_key_value().map(|(id, _)| *id))
        };
        let grant = match role::admit_begin(Some(local), begin, newest) {
            Ok(grant) => grant,
            Err(refusal) => return Err(self.refused(refusal).await),
        };
        self.race().await;
        if grant.is_new {
            self.adopt(grant.local).await?;
        }
        let has_parent = begin.parent.is_some_and(|id| self.site().disk.borrow().points.contains_key(&id));
        Ok(Reply::Ready { has_parent })
    }

    async fn commit(
        &self,
        session: SessionId,
        id: RestorePointId,
        sent: &[u32],
        content: Content,
    ) -> Result<Reply, Fault> {
        if self.volatile().session.get() != Some(session) {
            return Err(Fault::Lost);
        }
        let is_whole = {
            let disk = self.site().disk.borrow();
            let held = |write: &u32| disk.points.values().any(|point| point.content.contains(write));
            content.iter().all(|write| sent.contains(write) || held(write))
        };
        if !is_whole {
            self.w.fail(format!("{id}: what the sender left out is not here"));
            return Err(Fault::Incomplete);
        }
        let volatile = self.volatile();
        let _fence = volatile.fence.clone().lock_owned().await;
        let now = self.record();
        if now.epoch > id.epoch || now.role != SiteRole::Standby {
            let epoch = Some(now.epoch.max(id.epoch.next()));
            return Err(Fault::Refused { class: Class::Fenced, epoch });
        }
        self.put_point(id, Point { content, origin: 1 - self.at, diverged: false, time: self.w.exec.now() })
            .await?;
        self.write("number", |disk| disk.record.number = disk.record.number.max(id.number)).await?;
        let node = self.clone();
        self.spawn(async move {
            node.apply_newest().await;
            if let Err(fault) = node.expire().await {
                node.w.tell(node.at, || format!("retention: {fault:?}"));
            }
        });
        Ok(Reply::Done)
    }

    /// Commits a restore point.
    pub async fn put_point(&self, id: RestorePointId, point: Point) -> Result<(), Fault> {
        self.check_commit(id, &point);
        self.write_large("restore point", |disk| drop(disk.points.insert(id, point))).await
    }

    async fn take_promoted(&self, promoted: &Promoted) -> Result<(), Fault> {
        let news = role::on_promoted(self.record().local(), promoted);
        self.race().await;
        self.on_news(news).await
    }

    pub async fn on_news(&self, news: News) -> Result<(), Fault> {
        match news {
            News::Nothing => Ok(()),
            News::Adopt { epoch } => self.write("epoch of the peer", |disk| disk.record.epoch = epoch).await,
            News::StepDown { epoch } => self.learn_epoch(epoch).await,
            News::Leap { epoch } => {
                self.w.fail(format!("epoch {epoch} is claimed, which no plan of this world reaches"));
                Ok(())
            }
            News::Conflict { epoch } => {
                self.w.fail(format!("both sides are active at epoch {epoch}"));
                self.write("conflict", |disk| disk.record.conflict = true).await
            }
        }
    }

    async fn take_over(&self, offer: TakeOver) -> Reply {
        match self.promote(Request::default(), Some(offer)).await {
            Ok(epoch) => Reply::TakenOver(epoch),
            Err(fault) => {
                self.w.tell(self.at, || format!("not taken over: {fault:?}"));
                let class = match fault {
                    Fault::Refused { class, .. } | Fault::Decision(class) => class,
                    _ => Class::Transient,
                };
                Reply::Refused { class, epoch: Some(self.record().epoch) }
            }
        }
    }

    async fn take_back(&self, back: &TakeBack) -> Result<(), Fault> {
        let volatile = self.volatile();
        let _fence = volatile.fence.clone().lock_owned().await;
        let grant = handover::admit_take_back(Some(self.record().local()), back)?;
        if grant.is_new { self.adopt(grant.local).await } else { Ok(()) }
    }

    async fn hand_over_as_asked(&self, epoch: Epoch) -> Result<(), Fault> {
        let record = self.record();
        if epoch != record.epoch || record.role != SiteRole::Active {
            return Err(Fault::Role);
        }
        let target = if record.home { handover::Target::Away } else { handover::Target::Home };
        self.hand_over(target).await
    }
}
