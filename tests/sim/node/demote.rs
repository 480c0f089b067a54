//! Stepping down, and keeping what is here.

use backstay_engine::role::{self, News};
use backstay_types::frame::SiteRole;
use backstay_types::{Epoch, RestorePointId};

use super::{Fault, Node};
use crate::world::{Point, Record};

impl Node {
    pub async fn learn_epoch(&self, epoch: Epoch) -> Result<(), Fault> {
        let record = self.record();
        if epoch <= record.epoch {
            return Ok(());
        }
        let was_active = record.role != SiteRole::Standby && record.active_until.is_none();
        self.race().await;
        self.write("higher epoch", |disk| {
            let record = &mut disk.record;
            if was_active {
                record.active_until = Some(record.epoch);
                record.role = SiteRole::Demoting;
                record.handover = None;
                record.promotion = None;
            }
            record.epoch = record.epoch.max(epoch);
        })
        .await?;
        if was_active {
            self.w.count("step-downs");
            self.step_down_soon();
        }
        Ok(())
    }

    pub fn step_down_soon(&self) {
        let node = self.clone();
        self.spawn(async move {
            let mut pause = 2_000;
            while let Err(fault) = node.step_down().await {
                node.w.tell(node.at, || format!("not stepped down yet: {fault:?}"));
                node.pause(pause).await;
                pause = (pause * 2).min(60_000);
            }
        });
    }

    pub async fn step_down(&self) -> Result<(), Fault> {
        if self.record().active_until.is_some() {
            // At once: a cycle under way may wait long for a peer that is not there, and this side's lease is over.
            self.stand_still().await?;
        }
        let volatile = self.volatile();
        let _cycle = volatile.cycle.clone().lock_owned().await;
        let _apply = volatile.apply.clone().lock_owned().await;
        let record = self.record();
        if record.active_until.is_none() {
            return Ok(());
        }
        self.stand_still().await?;
        self.wait_gone().await;
        self.keep(&self.record()).await?;
        self.write("stepped down", |disk| {
            disk.record.role = SiteRole::Standby;
            disk.record.active_until = None;
            disk.record.handover = None;
            disk.record.standing = false;
            disk.record.cut_off = false;
        })
        .await?;
        self.check_kept();
        Ok(())
    }

    async fn keep(&self, record: &Record) -> Result<(), Fault> {
        let id = match self.kept_before(record) {
            Some(id) => id,
            None => self.keep_now(record).await?,
        };
        self.write("applied is what is kept", |disk| (disk.applied, disk.applying) = (Some(id), None)).await
    }

    /// What the other side acknowledged last, of this side's time.
    fn last_of_this_time(&self, record: &Record) -> Option<(RestorePointId, crate::world::Content)> {
        let last = self.site().disk.borrow().last_success.clone();
        last.filter(|(id, _)| id.epoch == active_epoch(record))
    }

    fn kept_before(&self, record: &Record) -> Option<RestorePointId> {
        let last = self.last_of_this_time(record).map(|(id, _)| id);
        let epoch = active_epoch(record);
        let disk = self.site().disk.borrow();
        let is_kept = |(id, point): &(&RestorePointId, &Point)| {
            point.origin == self.at && id.epoch == epoch && (point.diverged || Some(**id) == last)
        };
        disk.points.iter().filter(is_kept).map(|(id, _)| *id).next_back()
    }

    fn diverged_id(&self, record: &Record) -> RestorePointId {
        let held = self.site().disk.borrow().points.keys().next_back().map_or(0, |held| held.number);
        RestorePointId { epoch: active_epoch(record), number: record.number.max(held) + 1 }
    }

    async fn keep_now(&self, record: &Record) -> Result<RestorePointId, Fault> {
        self.work(800).await;
        let content = self.site().disk.borrow().data.clone();
        let last = self.last_of_this_time(record).filter(|(_, shown)| *shown == content);
        let (id, diverged) = match last {
            Some((id, _)) => (id, false),
            None => (self.diverged_id(record), true),
        };
        self.w.count(if diverged { "diverged points" } else { "nothing to keep" });
        self.put_point(id, Point { content, origin: self.at, diverged, time: self.w.exec.now() }).await?;
        self.write("number", |disk| disk.record.number = disk.record.number.max(id.number)).await?;
        Ok(id)
    }

    /// Asks the peer, whenever it connects, what it knows.
    pub async fn run_greeting(&self) {
        let mut greeted = 0;
        loop {
            let now = self.w.connection.get();
            if now != greeted && self.record().role == SiteRole::Active {
                let node = self.clone();
                self.spawn(async move {
                    let Ok(state) = node.ask_plan(30_000).await else { return };
                    match role::on_peer_state(node.record().local(), &state) {
                        News::Adopt { .. } => {}
                        news => drop(node.on_news(news).await),
                    }
                });
            }
            greeted = now;
            self.pause(1_000).await;
        }
    }
}

fn active_epoch(record: &Record) -> Epoch {
    record.active_until.unwrap_or(record.epoch)
}
