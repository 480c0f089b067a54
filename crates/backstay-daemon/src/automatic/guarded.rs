//! Who would hold if this daemon died, and the orders that it is given beforehand.
//!
//! 1. The witness is told that somebody would (`guarded`) only while a keeper and its guard live, and what to hold is on
//!    disk (test `what_nobody_guards_is_not_taken`).
//! 2. A plan for which nobody would hold is not given automatic failover; one that had it before goes on, says so, and is
//!    not taken over by itself.
//!
//! At a crash the seats are empty, and the keeper goes on by the orders.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use backstay_types::frame::SiteRole;
use backstay_types::plan::{HostHold, PlanSpec};
use backstay_types::{Classify as _, PlanName};

use super::AutomaticError;
use crate::DaemonError;
use crate::keeper::{KeeperError, Locks, Note, Orders, Seat, Taken, Watcher, WitnessOrders};
use crate::plans::PlanRecord;
use crate::site::Site;

/// What the tasks of plans know of the keeper.
#[derive(Debug, Default)]
pub(super) struct Guarded {
    lease: AtomicBool,
    keeper: AtomicBool,
}

impl Guarded {
    /// Looks who is there.
    pub(super) fn see(&self, seats: &mut Seats) {
        let seen = seats.look();
        match &seen {
            Ok(_) => seats.told = None,
            Err(error) if seats.told.is_none() => {
                tracing::error!("nobody knows who keeps the leases: {error}");
                seats.told = Some(error.to_string());
            }
            Err(_) => {}
        }
        let keeper = seen.unwrap_or(false);
        if self.keeper.swap(keeper, Ordering::Relaxed) && !keeper {
            tracing::warn!("the keeper is gone: nothing fails over by itself until it is back");
        }
        self.lease.store(seats.lease.is_some(), Ordering::Relaxed);
    }

    /// Whether this daemon is the one that renews.
    pub(super) fn has_lease(&self) -> bool {
        self.lease.load(Ordering::Relaxed)
    }

    /// Whether a keeper and its guard live.
    pub(super) fn is_kept(&self) -> bool {
        self.keeper.load(Ordering::Relaxed)
    }
}

/// The seats that this daemon has, for as long as it lives.
pub(super) struct Seats {
    dir: PathBuf,
    locks: Option<Locks>,
    daemon: Option<Taken>,
    lease: Option<Taken>,
    watcher: Watcher,
    told: Option<String>,
}

impl Seats {
    pub(super) fn new(dir: &Path) -> Self {
        let watcher = Watcher::new(dir, "the daemon");
        Self { dir: dir.to_owned(), locks: None, daemon: None, lease: None, watcher, told: None }
    }

    /// Takes what is this daemon's, and tells whether keeper and guard live.
    fn look(&mut self) -> Result<bool, KeeperError> {
        let locks = match &self.locks {
            Some(locks) => locks,
            None => self.locks.insert(Locks::open(&self.dir)?),
        };
        if self.daemon.is_none() {
            self.daemon = locks.take(Seat::Daemon)?;
        }
        if self.daemon.is_some() && self.lease.is_none() {
            self.lease = locks.take(Seat::Lease)?;
        }
        Ok(locks.is_taken(Seat::Keeper)? && locks.is_taken(Seat::Guard)?)
    }

    /// While the keeper has the leases: it may be stuck.
    pub(super) async fn watch(&mut self) {
        self.watcher.look(false).await;
    }
}

impl Site {
    /// Refuses automatic failover for what nobody would hold. A plan that has had it is changed as it is.
    pub(crate) fn check_guarded(&self, name: &PlanName, spec: &PlanSpec) -> Result<(), DaemonError> {
        if spec.automatic_failover.is_none() {
            return Ok(());
        }
        let plan = || name.clone();
        let old = self.plans.find(name);
        let had = |like: &dyn Fn(&PlanRecord) -> bool| {
            old.as_ref().is_some_and(|old| old.spec.automatic_failover.is_some() && like(old))
        };
        if spec.covers_cluster() {
            return if had(&|old| old.spec.covers_cluster()) {
                Ok(())
            } else {
                Err(AutomaticError::NoKeeperOnClusters { plan: plan() }.into())
            };
        }
        let holds = match &old {
            Some(old) if !old.home => self.holds_here(old),
            _ => spec.hold.clone().or_else(|| self.config.load().holds.get(name).cloned()),
        };
        if !holds.is_some_and(|hold| hold.holds_something()) && !had(&|old| self.holds_here(old).is_none()) {
            return Err(AutomaticError::NothingToHold { plan: plan() }.into());
        }
        let locks = Locks::open(&self.dir)?;
        let is_kept = locks.is_taken(Seat::Keeper)? && locks.is_taken(Seat::Guard)?;
        if !is_kept && !had(&|_| true) {
            return Err(AutomaticError::NoKeeper { plan: plan(), dir: self.dir.clone() }.into());
        }
        Ok(())
    }

    /// What stops the application of a plan on this host, if this site says so.
    fn holds_here(&self, record: &PlanRecord) -> Option<HostHold> {
        self.host_hold(record).filter(HostHold::holds_something)
    }

    /// Whether somebody would hold in this daemon's place.
    pub(super) fn is_guarded(&self, given: Option<&Orders>) -> bool {
        given.is_some() && self.leases.guarded.is_kept()
    }

    /// What an operator has to know of a plan whose lease nobody guards; `None` if all is well.
    pub(super) fn unguarded(&self, record: &PlanRecord) -> Option<String> {
        record.spec.automatic_failover.as_ref()?;
        let is_active = record.state.role() != SiteRole::Standby;
        let what = if record.spec.covers_cluster() {
            "there is no keeper for clusters yet".to_owned()
        } else if self.holds_here(record).is_none() && is_active {
            "the plan does not say what to hold (`hold`)".to_owned()
        } else if !self.leases.guarded.is_kept() {
            format!("no keeper runs: start `backstay keeper --site {}`", self.dir.display())
        } else {
            return None;
        };
        Some(if is_active {
            format!(
                "{what}; what runs here would outlive this daemon, so the other side does not take over by itself"
            )
        } else {
            format!("{what}; once this side is active, the other one does not take over from it by itself")
        })
    }

    /// Writes down what a keeper needs to act in this daemon's place, unless it is `given` already; nothing where there is
    /// nothing to hold. Called before the lease may be taken, and at each change.
    pub(crate) fn give_orders(
        &self,
        record: &PlanRecord,
        given: &mut Option<Orders>,
    ) -> Result<(), DaemonError> {
        let folder = self.plans.plan_folder(&record.name);
        let orders = self.orders_of(record);
        if orders != *given || orders.is_none() {
            match &orders {
                Some(orders) if Orders::load(&folder)?.as_ref() == Some(orders) => {}
                Some(orders) => orders.store(&folder)?,
                None => Orders::forget(&folder)?,
            }
            *given = orders;
        }
        Ok(())
    }

    fn orders_of(&self, record: &PlanRecord) -> Option<Orders> {
        let hold = self.holds_here(record)?;
        let wanted = record.spec.automatic_failover.as_ref();
        let config = self.config.load();
        let kind = wanted.and_then(|wanted| wanted.witness);
        let witness = config.witness.as_ref();
        let witness = witness.filter(|witness| kind.is_none_or(|kind| kind == witness.url.kind()));
        let fenced = record.state.role() == SiteRole::Demoting;
        Some(Orders {
            plan: record.name.clone(),
            pair: record.pair,
            site: self.id,
            epoch: record.state.epoch(),
            after: wanted.map(|wanted| wanted.after),
            wanted: wanted.is_some(),
            hold,
            witness: witness.map(WitnessOrders::of),
            fenced,
            may_let_go: record.state.role() == SiteRole::Active && record.state.handover().is_none(),
        })
    }

    /// Orders of a plan that has no lease any more would hold what runs here for nothing.
    pub(super) fn forget_left_over(&self, record: &PlanRecord) {
        let steps_down = record.state.role() == SiteRole::Demoting;
        if steps_down
            || self.wants_lease(record)
            || !Orders::path(&self.plans.plan_folder(&record.name)).exists()
        {
            return;
        }
        if let Err(error) = self.forget_orders(&record.name) {
            tracing::error!(plan = %record.name, class = error.class().label(), "orders not withdrawn: {error}");
        }
    }

    /// What is held and let go here is the daemon's alone from now on.
    pub(super) fn forget_orders(&self, plan: &PlanName) -> Result<(), DaemonError> {
        let folder = self.plans.plan_folder(plan);
        Orders::forget(&folder)?;
        self.forget_note(plan)
    }

    /// Whether a watcher has held what runs here.
    pub(super) fn is_noted(&self, plan: &PlanName) -> bool {
        Note::path(&self.plans.plan_folder(plan)).exists()
    }

    pub(crate) fn forget_note(&self, plan: &PlanName) -> Result<(), DaemonError> {
        crate::files::remove(&Note::path(&self.plans.plan_folder(plan)))
    }
}
