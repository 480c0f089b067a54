//! The daemon of a site, as far as a plan's fate goes: the same decisions of the engine, and the same durable writes in
//! the same order, as the real one.

mod apply;
mod cycle;
mod demote;
mod handover;
mod incoming;
mod lease;
pub mod promote;

use std::rc::Rc;

use backstay_engine::promotion::PeerFacts;
use backstay_engine::role::Refusal;
use backstay_types::frame::{PlanState, Proposals, SiteRole};
use backstay_types::{Class, Classify, Epoch, Time};

use crate::exec::Owner;
use crate::world::{Disk, Record, Site, Volatile, World};

/// Why something was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// A durable write failed.
    Disk,
    /// No answer.
    Lost,
    Refused {
        class: Class,
        epoch: Option<Epoch>,
    },
    /// Not what this side is.
    Role,
    Busy,
    /// A higher epoch began.
    EpochShrinks,
    /// Chunks are missing or the point is not here.
    Incomplete,
    Decision(Class),
}

impl Fault {
    pub fn decided(error: &impl Classify) -> Self {
        Fault::Decision(error.class())
    }
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        Fault::Refused { class: refusal.class(), epoch: refusal.epoch() }
    }
}

/// A moment on somebody's clock.
fn time(millis: u64) -> Time {
    Time(i64::try_from(millis).expect("a moment of a run"))
}

/// A daemon that runs.
#[derive(Clone)]
pub struct Node {
    pub w: Rc<World>,
    pub at: usize,
}

impl Node {
    pub fn new(world: &Rc<World>, at: usize) -> Self {
        Self { w: world.clone(), at }
    }

    pub fn site(&self) -> &Site {
        &self.w.sites[self.at]
    }

    pub fn volatile(&self) -> Rc<Volatile> {
        self.site().volatile.borrow().clone()
    }

    pub fn record(&self) -> Record {
        self.site().disk.borrow().record.clone()
    }

    /// This side's clock.
    pub fn mono(&self) -> u64 {
        self.site().offset.get() + self.w.exec.now() * self.site().rate / 1000
    }

    pub fn time(&self) -> Time {
        time(1_800_000_000_000 + self.w.exec.now())
    }

    /// Waits by this side's clock.
    pub async fn pause(&self, millis: u64) {
        self.w.exec.sleep(millis * 1000 / self.site().rate + 1).await;
    }

    /// Work that takes up to `millis`.
    pub async fn work(&self, millis: u64) {
        self.w.exec.sleep(1 + self.w.exec.draw(millis)).await;
    }

    /// Threads: others may run between a look and the deed.
    pub async fn race(&self) {
        if self.w.chance(300) {
            self.w.exec.sleep(self.w.exec.draw(3)).await;
        }
    }

    pub fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        self.w.exec.spawn(Owner::Site(self.at), future);
    }

    /// A moment at which the daemon may die, and never goes on.
    pub async fn danger(&self, moment: &str) {
        if self.w.chance(self.w.danger.get()) {
            let with_machine = self.w.chance(200);
            let most = if self.w.mode == crate::world::Mode::Lease { 1_200 } else { 30_000 };
            if self.w.crash(self.at, with_machine, 100 + self.w.exec.draw(most)) {
                self.w.tell(self.at, || format!("died at: {moment}"));
                std::future::pending::<()>().await;
            }
        }
    }

    /// Writes a state file: on a full disk as long as the reserve lasts.
    pub async fn write(&self, what: &'static str, change: impl FnOnce(&mut Disk)) -> Result<(), Fault> {
        self.danger(what).await;
        let reserve = &self.site().reserve;
        if self.is_full_for(what) {
            let left = reserve.get().checked_sub(1).ok_or(Fault::Disk)?;
            reserve.set(left);
        }
        self.change(what, change).await
    }

    /// Writes what may be large, for which nothing is reserved.
    pub async fn write_large(&self, what: &'static str, change: impl FnOnce(&mut Disk)) -> Result<(), Fault> {
        self.danger(what).await;
        if self.is_full_for(what) {
            return Err(Fault::Disk);
        }
        self.change(what, change).await
    }

    fn is_full_for(&self, what: &str) -> bool {
        let is_full = self.site().is_full.get() && self.w.chance(600);
        if is_full {
            self.w.tell(self.at, || format!("disk full: {what}"));
        }
        is_full
    }

    /// A durable write: before it, after it, or not at all.
    async fn change(&self, what: &'static str, change: impl FnOnce(&mut Disk)) -> Result<(), Fault> {
        let (before, after) = {
            let mut disk = self.site().disk.borrow_mut();
            let before = disk.record.clone();
            let mut changed = disk.clone();
            change(&mut changed);
            if changed.record.epoch < before.epoch {
                return Err(Fault::EpochShrinks);
            }
            *disk = changed;
            (before, disk.record.clone())
        };
        self.w.tell(self.at, || {
            let (role, epoch) = (after.role, after.epoch);
            let stage = after.handover.as_ref().map(|handover| handover.stage);
            format!("writes {what}: {role:?} {epoch} {stage:?} until {:?}", after.active_until)
        });
        if before.role != after.role {
            self.w.count("roles taken");
        }
        self.danger(what).await;
        Ok(())
    }

    /// The daemon starts and goes on with what was cut off.
    pub fn boot(&self) {
        let site = self.site();
        site.is_up.set(true);
        self.w.connection.set(self.w.connection.get() + 1);
        self.w.tell(self.at, || "starts".to_owned());
        let record = self.record();
        let node = self.clone();
        if record.promotion.is_some() {
            self.spawn(
                async move { drop(node.promote(crate::node::promote::Request::default(), None).await) },
            );
        } else if record.active_until.is_some() {
            self.step_down_soon();
        } else if record.handover.is_some() {
            self.spawn(async move { drop(node.resume_handover().await) });
        } else if record.role == SiteRole::Standby {
            self.spawn(async move { node.apply_newest().await });
        }
        let node = self.clone();
        self.spawn(async move { node.run_greeting().await });
        let node = self.clone();
        self.spawn(async move { node.run_schedule().await });
        if self.w.mode == crate::world::Mode::Lease {
            let node = self.clone();
            self.spawn(async move { node.run_lease().await });
        }
    }

    pub fn plan_state(&self) -> PlanState {
        let disk = self.site().disk.borrow();
        let newest = disk.points.last_key_value();
        PlanState {
            plan: self.w.plan.clone(),
            role: Some(disk.record.role),
            epoch: disk.record.epoch,
            newest: newest.map(|(id, _)| *id),
            newest_snapshot_time: newest.map(|(_, point)| time(point.time)),
            applied: disk.applied,
            apply_failure: None,
            proposals: Proposals::default(),
        }
    }

    /// What the peer says, or that it is not there.
    pub async fn peer_facts(&self) -> PeerFacts {
        for _ in 0..2 {
            match self.ask_plan(5_000).await {
                Ok(state) => return PeerFacts { reachable: true, state: Some(state) },
                Err(Fault::Refused { .. }) => return PeerFacts { reachable: true, state: None },
                Err(_) => {}
            }
        }
        PeerFacts::default()
    }
}
