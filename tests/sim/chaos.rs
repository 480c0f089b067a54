//! What happens to the sites: workloads that write, lines that break, crashes, full disks, operators.

use std::rc::Rc;

use backstay_engine::handover::Target;
use backstay_types::frame::SiteRole;

use crate::exec::Owner;
use crate::node::Node;
use crate::node::promote::Request;
use crate::world::{Mode, World};

impl World {
    /// Starts everything that is no daemon.
    pub fn begin(self: &Rc<Self>) {
        for at in 0..2 {
            Node::new(self, at).boot();
            let world = self.clone();
            self.exec.spawn(Owner::World, async move { world.run_workload(at).await });
        }
        let world = self.clone();
        self.exec.spawn(Owner::World, async move { world.run_faults().await });
        let world = self.clone();
        self.exec.spawn(Owner::World, async move { world.run_operator().await });
    }

    async fn run_workload(self: Rc<Self>, at: usize) {
        loop {
            self.exec.sleep(200 + self.exec.draw(2_500)).await;
            let site = &self.sites[at];
            if site.runs.get() {
                self.writes.set(self.writes.get() + 1);
                Rc::make_mut(&mut site.disk.borrow_mut().data).push(self.writes.get());
            }
        }
    }

    async fn run_faults(self: Rc<Self>) {
        self.exec.sleep(10_000).await;
        // Some runs are rough throughout, some have a few faults, and some none but the operator's.
        self.rough.set([0, 20, 100][self.exec.draw(3) as usize]);
        self.danger.set([0, 2, 8, 25][self.exec.draw(4) as usize]);
        while !self.is_healed.get() {
            self.exec.sleep(500 + self.exec.draw(12_000)).await;
            if self.is_healed.get() {
                return;
            }
            self.one_fault();
        }
    }

    fn one_fault(self: &Rc<Self>) {
        let at = self.exec.draw(2) as usize;
        let is_cut = self.chance(500);
        match self.exec.draw(12) {
            0..=2 => {
                // Mostly both ways at once, now and then one way alone.
                self.cut[at].set(is_cut);
                if self.chance(600) {
                    self.cut[1 - at].set(is_cut);
                }
                self.connection.set(self.connection.get() + 1);
                self.tell(2, || format!("cut: {} {}", self.cut[0].get(), self.cut[1].get()));
            }
            3 => self.cut_ask[at].set(is_cut),
            4 => self.cut_answer[at].set(is_cut),
            5 | 6 => {
                let most = if self.mode == Mode::Lease { 1_200 } else { 60_000 };
                let with_machine = self.chance(300);
                self.crash(at, with_machine, 100 + self.exec.draw(most));
            }
            7 => {
                self.sites[at].set_full(is_cut);
                self.tell(at, || format!("disk full: {is_cut}"));
            }
            _ => {
                self.cut.iter().for_each(|cut| cut.set(false));
                self.connection.set(self.connection.get() + 1);
                self.tell(2, || "the line is whole".to_owned());
            }
        }
    }

    async fn run_operator(self: Rc<Self>) {
        self.exec.sleep(12_000).await;
        while !self.is_healed.get() {
            self.exec.sleep(500 + self.exec.draw(30_000)).await;
            if !self.is_healed.get() {
                self.one_order();
            }
        }
    }

    fn one_order(self: &Rc<Self>) {
        let at = self.exec.draw(2) as usize;
        if !self.sites[at].is_up.get() {
            return;
        }
        let node = Node::new(self, at);
        let target = if self.chance(500) { Target::Away } else { Target::Home };
        let is_planned = self.mode != Mode::Operator || self.chance(500);
        if is_planned {
            self.tell(at, || format!("operator: {}", target.command()));
            self.exec.spawn(Owner::Site(at), async move { drop(node.hand_over(target).await) });
            return;
        }
        let points: Vec<_> = self.sites[at].disk.borrow().points.keys().copied().collect();
        let older = self.chance(150) && !points.is_empty();
        let restore_point = older.then(|| points[self.exec.draw(points.len() as u64) as usize]);
        let request = Request { restore_point, force: self.chance(400), lease: None };
        self.tell(at, || format!("operator: promote {request:?}"));
        self.exec.spawn(Owner::Site(at), async move { drop(node.promote(request, None).await) });
    }

    /// Nothing breaks any more.
    pub fn heal(self: &Rc<Self>) {
        self.tell(2, || "everything is whole again".to_owned());
        self.is_healed.set(true);
        for at in 0..2 {
            self.cut[at].set(false);
            self.cut_ask[at].set(false);
            self.cut_answer[at].set(false);
            self.sites[at].set_full(false);
        }
        self.rough.set(0);
        self.danger.set(0);
        self.connection.set(self.connection.get() + 1);
        let world = self.clone();
        self.exec.spawn(Owner::World, async move { world.run_patient_operator().await });
    }

    /// Asks again for what stopped half-way, as the error says; and makes a side active if an operator's orders left
    /// none.
    async fn run_patient_operator(self: Rc<Self>) {
        loop {
            self.exec.sleep(60_000).await;
            let roles = [0, 1].map(|at| self.sites[at].disk.borrow().record.role);
            let lost = self.mode == Mode::Operator && roles == [SiteRole::Standby; 2];
            let half = roles.iter().position(|role| *role == SiteRole::Promoting);
            let Some(at) = half.or(lost.then_some(0)) else { continue };
            if self.sites[at].is_up.get() {
                self.count("promotions asked for again");
                let node = Node::new(&self, at);
                self.exec.spawn(Owner::Site(at), async move {
                    drop(node.promote(Request::default(), None).await);
                });
            }
        }
    }
}
