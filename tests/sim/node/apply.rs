//! Replicas, workloads and retention.

use backstay_engine::retention::{self, Rule};
use backstay_types::RestorePointId;
use backstay_types::frame::SiteRole;
use backstay_types::plan::Retention;

use super::{Fault, Node, time};
use crate::exec::Owner;

const KEEPS: Retention = Retention { last: 6, hourly: 0, daily: 0, weekly: 0, monthly: 0 };

impl Node {
    pub async fn apply_newest(&self) {
        let done = self.try_apply_newest().await;
        if let Err(fault) = done {
            self.w.tell(self.at, || format!("not applied: {fault:?}"));
        }
    }

    async fn try_apply_newest(&self) -> Result<(), Fault> {
        let volatile = self.volatile();
        let _gate = volatile.apply.clone().lock_owned().await;
        if self.record().role != SiteRole::Standby {
            return Ok(());
        }
        let newest = self.site().disk.borrow().points.last_key_value().map(|(id, _)| *id);
        match newest {
            Some(newest) => self.bring_to(newest).await,
            None => Ok(()),
        }
    }

    /// Brings the volumes to a point. The caller holds the apply gate.
    pub async fn bring_to(&self, id: RestorePointId) -> Result<(), Fault> {
        let unfinished = self.site().disk.borrow().applying.filter(|applying| *applying != id);
        if let Some(unfinished) = unfinished {
            match self.apply_point(unfinished).await {
                // Then the whole is compared.
                Err(Fault::Incomplete) => {}
                done => done?,
            }
        }
        let is_there = {
            let disk = self.site().disk.borrow();
            disk.applied == Some(id) && disk.applying.is_none()
        };
        if is_there { Ok(()) } else { self.apply_point(id).await }
    }

    async fn apply_point(&self, id: RestorePointId) -> Result<(), Fault> {
        let content = self.site().disk.borrow().points.get(&id).map(|point| point.content.clone());
        let content = content.ok_or(Fault::Incomplete)?;
        self.write("apply target", |disk| disk.applying = Some(id)).await?;
        self.check_overwrite(id);
        self.site().disk.borrow_mut().is_torn = true;
        self.work(500).await;
        self.danger("while applying").await;
        if self.site().is_full.get() && self.w.chance(200) {
            return Err(Fault::Disk);
        }
        {
            let mut disk = self.site().disk.borrow_mut();
            (disk.data, disk.is_torn) = (content, false);
        }
        self.write("applied", |disk| (disk.applied, disk.applying) = (Some(id), None)).await
    }

    /// Takes expired points away, and checks nothing else.
    pub async fn expire(&self) -> Result<(), Fault> {
        let volatile = self.volatile();
        let Ok(_gate) = volatile.apply.clone().try_lock_owned() else { return Ok(()) };
        let expired = {
            let disk = self.site().disk.borrow();
            if disk.record.role != SiteRole::Standby {
                return Ok(());
            }
            let times: Vec<_> = disk.points.iter().map(|(id, point)| (*id, time(point.time))).collect();
            let in_use = disk.applied.into_iter().chain(disk.applying).map(|id| (id, Rule::InUse));
            let diverged = disk.points.iter().filter(|(_, point)| point.diverged);
            let diverged = diverged.map(|(id, _)| (*id, Rule::Diverged));
            let protected: Vec<_> = in_use.chain(diverged).collect();
            retention::expired(&times, &KEEPS, &protected)
        };
        for id in expired {
            self.w.expired.borrow_mut().push((self.at, id));
            self.write("expired", |disk| drop(disk.points.remove(&id))).await?;
        }
        Ok(())
    }

    /// The cluster is told to run the workloads.
    pub fn order(&self) {
        let site = self.site();
        self.w.tell(self.at, || "workloads are let go".to_owned());
        site.is_ordered.set(true);
        site.runs.set(site.is_powered.get());
    }

    /// The cluster is told to hold them; they end a little later, whatever becomes of the daemon.
    pub fn hold(&self) {
        self.w.tell(self.at, || "workloads are held".to_owned());
        self.site().is_ordered.set(false);
        let (w, at) = (self.w.clone(), self.at);
        self.w.exec.spawn(Owner::World, async move {
            w.exec.sleep(w.exec.draw(400)).await;
            if !w.sites[at].is_ordered.get() {
                w.sites[at].runs.set(false);
            }
        });
    }

    pub async fn stand_still(&self) -> Result<(), Fault> {
        if !self.record().standing {
            self.write("originals of what is held", |_| ()).await?;
            self.write("standing", |disk| disk.record.standing = true).await?;
        }
        self.danger("before holding").await;
        self.hold();
        self.danger("after holding").await;
        Ok(())
    }

    pub async fn let_go(&self) -> Result<(), Fault> {
        if !self.record().standing {
            return Ok(());
        }
        self.danger("before letting go").await;
        self.order();
        self.write("not standing", |disk| disk.record.standing = false).await
    }

    pub async fn wait_gone(&self) {
        while self.site().runs.get() {
            self.pause(100).await;
        }
    }
}
