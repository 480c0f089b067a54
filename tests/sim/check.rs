//! What must never happen, looked for after every event; and what must come true once everything is whole again.

use backstay_types::frame::SiteRole;
use backstay_types::{Epoch, RestorePointId};

use crate::node::Node;
use crate::world::{Disk, Mode, Point, World};

/// A side that starts anew has a grace before it holds; see docs/automatic-failover.md.
const GRACE: u64 = 6_000;

impl World {
    /// Everything that two looks at the disks can tell.
    pub fn check(&self) {
        for at in 0..2 {
            self.check_site(at);
        }
        let disks = [self.sites[0].disk.borrow(), self.sites[1].disk.borrow()];
        let [east, west] = [&disks[0].record, &disks[1].record];
        let holds = |role| matches!(role, SiteRole::Active | SiteRole::Promoting);
        if holds(east.role) && holds(west.role) && east.epoch == west.epoch {
            self.fail(format!("two sides are active at epoch {}", east.epoch));
        }
        if !(self.sites[0].runs.get() && self.sites[1].runs.get()) {
            return;
        }
        if self.mode != Mode::Operator {
            let since = |at: usize| self.exec.now() - self.sites[at].booted.get();
            let is_new = |at: usize| self.sites[at].booted.get() > 0 && since(at) < GRACE;
            if self.mode == Mode::Planned || !(is_new(0) || is_new(1)) {
                self.fail("both sides run, and no operator took the risk".to_owned());
            }
            return;
        }
        // By an operator's order alone: until the old side has heard, and then until it has held.
        let (old, new) = if east.epoch <= west.epoch { (east, west) } else { (west, east) };
        let has_heard = old.epoch == new.epoch;
        if has_heard && old.active_until.is_none() && new.active_until.is_none() {
            self.fail(format!("both sides run at epoch {}, and none is stepping down", old.epoch));
        }
    }

    fn check_site(&self, at: usize) {
        let site = &self.sites[at];
        let disk = site.disk.borrow();
        let record = &disk.record;
        let place = ["east", "west"][at];
        let may_run = site.is_ordered.get() || site.runs.get();
        if may_run && record.role == SiteRole::Standby {
            self.fail(format!("{place} is a standby and its held objects run"));
        }
        let is_offered = record.handover.as_ref().is_some_and(|handover| handover.is_offered());
        if may_run && is_offered && record.role == SiteRole::Demoting {
            self.fail(format!("{place} has offered the plan and runs it"));
        }
        if site.runs.get() && disk.is_torn {
            self.fail(format!("{place} serves a mix of two restore points"));
        }
        if record.role == SiteRole::Active && record.promotion.is_some() {
            self.fail(format!("{place} is active and still being promoted"));
        }
    }

    /// A point whose commit was acknowledged is there, unless retention took it.
    pub fn check_acked(&self) {
        for (at, id, content) in self.acked.borrow().iter() {
            let disk = self.sites[*at].disk.borrow();
            match disk.points.get(id) {
                Some(point) if point.content == *content => {}
                Some(_) => self.fail(format!("restore point {id} was acknowledged and shows something else")),
                None if self.expired.borrow().contains(&(*at, *id)) => {}
                None => self.fail(format!("restore point {id} was acknowledged and is gone")),
            }
        }
    }

    /// What is not yet as it has to be in the end; nothing if all is.
    pub fn unsettled(&self, mark: u32) -> Option<String> {
        let disks = [self.sites[0].disk.borrow(), self.sites[1].disk.borrow()];
        let of = |role| disks.iter().position(|disk| disk.record.role == role);
        let (Some(active), Some(standby)) = (of(SiteRole::Active), of(SiteRole::Standby)) else {
            return Some(format!("roles are {:?} and {:?}", disks[0].record.role, disks[1].record.role));
        };
        for disk in &disks {
            let record = &disk.record;
            if record.handover.is_some() || record.promotion.is_some() || record.active_until.is_some() {
                return Some(format!("something is under way: {record:?}"));
            }
        }
        if !self.sites[active].runs.get() || self.sites[standby].runs.get() {
            return Some("not the active side alone runs".to_owned());
        }
        let (active, standby) = (&disks[active], &disks[standby]);
        if active.record.epoch != standby.record.epoch {
            return Some("the epochs differ".to_owned());
        }
        let newest = standby.points.last_key_value();
        let shows = newest.is_some_and(|(_, point)| point.content == standby.data && !standby.is_torn);
        if !shows || standby.data.last().is_none_or(|last| *last <= mark) {
            return Some("nothing new has reached the standby".to_owned());
        }
        let is_prefix = active.data.starts_with(&standby.data);
        if is_prefix { None } else { Some("the standby shows what the active side never had".to_owned()) }
    }
}

/// Whether every write of the volumes is in a restore point that is here.
fn is_kept(disk: &Disk) -> bool {
    disk.is_torn
        || disk.data.iter().all(|write| disk.points.values().any(|point| point.content.contains(write)))
}

impl Node {
    /// Nothing is overwritten that was not first kept.
    pub fn check_overwrite(&self, by: RestorePointId) {
        if !is_kept(&self.site().disk.borrow()) {
            self.w.fail(format!("{by} overwrites what nothing has kept"));
        }
    }

    /// What a side wrote is kept when it has stepped down.
    pub fn check_kept(&self) {
        if !is_kept(&self.site().disk.borrow()) {
            self.w.fail("a side stepped down and did not keep what it wrote".to_owned());
        }
    }

    /// One id is one restore point, everywhere and for ever.
    pub fn check_commit(&self, id: RestorePointId, point: &Point) {
        let record = self.record();
        let is_over = record.epoch > id.epoch || record.role != SiteRole::Standby;
        if point.origin != self.at && is_over {
            self.w.fail(format!("{id} of an epoch that is over is committed"));
        }
        for site in &self.w.sites {
            let disk = site.disk.borrow();
            if disk.points.get(&id).is_some_and(|other| other.content != point.content) {
                self.w.fail(format!("two restore points have the id {id}"));
            }
        }
    }

    /// What is released shows one restore point, and what was written on top of it since it ran.
    pub fn check_release(&self, id: RestorePointId, epoch: Epoch) {
        let disk = self.site().disk.borrow();
        let shows = disk.points.get(&id).is_some_and(|point| disk.data.starts_with(&point.content));
        let has_more = disk.points.get(&id).is_some_and(|point| disk.data.len() > point.content.len());
        let ran_before = self.site().released.replace(epoch) == epoch;
        if disk.is_torn || !shows || (has_more && !ran_before) {
            self.w.fail(format!("what is released is not restore point {id}"));
        }
    }
}
