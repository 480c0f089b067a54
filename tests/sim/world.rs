//! What there is: two sites with disks, data and clocks, the lines between them and a witness.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use backstay_engine::handover::Handover;
use backstay_engine::lease::{Kept, Seen, StandbyLease};
use backstay_engine::promotion::PromotionPlan;
use backstay_engine::role::Local;
use backstay_types::frame::SiteRole;
use backstay_types::{Epoch, PlanName, RestorePointId, SessionId};

use crate::exec::{Exec, Owner};

/// Writes of workloads, in order.
pub type Content = Rc<Vec<u32>>;

/// Who may do what in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Planned takeovers alone: at no time may both sides run.
    Planned,
    /// Planned ones, and automatic failover by a witness: neither.
    Lease,
    /// Everything an operator can do, at the worst moment.
    Operator,
}

/// One durable record: what the daemon has in `plan.json`.
#[derive(Debug, Clone)]
pub struct Record {
    pub role: SiteRole,
    pub epoch: Epoch,
    pub number: u64,
    pub home: bool,
    pub conflict: bool,
    pub promotion: Option<PromotionPlan>,
    pub handover: Option<Handover>,
    pub active_until: Option<Epoch>,
    pub standing: bool,
    pub cut_off: bool,
}

impl Record {
    pub const fn local(&self) -> Local {
        Local { role: self.role, epoch: self.epoch }
    }
}

#[derive(Debug, Clone)]
pub struct Point {
    pub content: Content,
    pub origin: usize,
    pub diverged: bool,
    pub time: u64,
}

/// What outlives a crash.
#[derive(Debug, Clone)]
pub struct Disk {
    pub record: Record,
    pub points: BTreeMap<RestorePointId, Point>,
    pub applied: Option<RestorePointId>,
    pub applying: Option<RestorePointId>,
    pub sent: Option<(RestorePointId, Content)>,
    pub last_success: Option<(RestorePointId, Content)>,
    pub lease: Option<(Epoch, u32, Kept)>,
    /// The volumes, and whether they are between two points.
    pub data: Content,
    pub is_torn: bool,
}

/// What a crash takes.
#[derive(Default)]
pub struct Volatile {
    pub cycle: Arc<tokio::sync::Mutex<()>>,
    pub apply: Arc<tokio::sync::Mutex<()>>,
    pub fence: Arc<tokio::sync::Mutex<()>>,
    pub session: Cell<Option<SessionId>>,
    pub standing: RefCell<Option<StandbyLease>>,
}

pub struct Site {
    pub disk: RefCell<Disk>,
    pub volatile: RefCell<Rc<Volatile>>,
    /// The daemon runs.
    pub is_up: Cell<bool>,
    /// So does the machine.
    pub is_powered: Cell<bool>,
    /// The cluster is told to run the workloads.
    pub is_ordered: Cell<bool>,
    /// The epoch that the workloads were released at last.
    pub released: Cell<Epoch>,
    /// It does.
    pub runs: Cell<bool>,
    pub is_full: Cell<bool>,
    /// State files that still fit on a full disk.
    pub reserve: Cell<u32>,
    pub offset: Cell<u64>,
    pub rate: u64,
    pub boot: Cell<u32>,
    pub booted: Cell<u64>,
    pub crashed: Cell<u64>,
}

/// State files that the reserve of a site has room for: each replaces one of its size.
const RESERVE: u32 = 64;

impl Site {
    /// The disk fills up; or there is room again, also for the reserve.
    pub fn set_full(&self, is_full: bool) {
        self.is_full.set(is_full);
        if !is_full {
            self.reserve.set(RESERVE);
        }
    }
}

pub struct World {
    pub exec: Rc<Exec>,
    pub plan: PlanName,
    pub mode: Mode,
    pub sites: [Site; 2],
    /// Lines from a site: to the other, to the witness; and from the witness.
    pub cut: [Cell<bool>; 2],
    pub cut_ask: [Cell<bool>; 2],
    pub cut_answer: [Cell<bool>; 2],
    /// Grows when a connection is made anew.
    pub connection: Cell<u64>,
    /// Of a thousand messages, and of a thousand moments of danger.
    pub rough: Cell<u64>,
    pub danger: Cell<u64>,
    pub is_healed: Cell<bool>,
    pub witness: RefCell<Option<Seen>>,
    pub versions: Cell<u64>,
    pub writes: Cell<u32>,
    /// Points a sender has heard are there: which side holds them, and what they show.
    pub acked: RefCell<Vec<(usize, RestorePointId, Content)>>,
    /// What retention took.
    pub expired: RefCell<Vec<(usize, RestorePointId)>>,
    pub failure: RefCell<Option<String>>,
    pub trace: Option<RefCell<Vec<String>>>,
    pub counts: RefCell<BTreeMap<&'static str, u64>>,
}

fn site(at: usize, rate: u64, offset: u64) -> Site {
    let role = if at == 0 { SiteRole::Active } else { SiteRole::Standby };
    let record = Record {
        role,
        epoch: Epoch(1),
        number: 0,
        home: at == 0,
        conflict: false,
        promotion: None,
        handover: None,
        active_until: None,
        standing: false,
        cut_off: false,
    };
    let disk = Disk {
        record,
        points: BTreeMap::new(),
        applied: None,
        applying: None,
        sent: None,
        last_success: None,
        lease: None,
        data: Content::default(),
        is_torn: false,
    };
    Site {
        disk: RefCell::new(disk),
        volatile: RefCell::default(),
        is_up: Cell::new(false),
        is_powered: Cell::new(true),
        is_ordered: Cell::new(at == 0),
        released: Cell::new(Epoch(0)),
        runs: Cell::new(at == 0),
        is_full: Cell::new(false),
        reserve: Cell::new(RESERVE),
        offset: Cell::new(offset),
        rate,
        boot: Cell::new(0),
        booted: Cell::new(0),
        crashed: Cell::new(0),
    }
}

impl World {
    pub fn new(seed: u64, mode: Mode, traced: bool) -> Rc<Self> {
        let exec = Exec::new(seed);
        // The ends of what clocks may do are the hard cases.
        let rate = || [950, 1000, 1050, 950 + exec.draw(100)][exec.draw(4) as usize];
        let rates = [rate(), rate()];
        let offsets = [exec.draw(1 << 40), exec.draw(1 << 40)];
        Rc::new(Self {
            plan: "shop".parse().expect("a name"),
            mode,
            sites: [site(0, rates[0], offsets[0]), site(1, rates[1], offsets[1])],
            cut: Default::default(),
            cut_ask: Default::default(),
            cut_answer: Default::default(),
            connection: Cell::new(1),
            rough: Cell::new(0),
            danger: Cell::new(0),
            is_healed: Cell::new(false),
            witness: RefCell::default(),
            versions: Cell::new(0),
            writes: Cell::new(0),
            acked: RefCell::default(),
            expired: RefCell::default(),
            failure: RefCell::default(),
            trace: traced.then(RefCell::default),
            counts: RefCell::default(),
            exec,
        })
    }

    /// Notes an event for whoever reads a failed run.
    pub fn tell(&self, at: usize, text: impl FnOnce() -> String) {
        if let Some(trace) = &self.trace {
            let place = ["east", "west", "world"][at];
            trace.borrow_mut().push(format!("{:>9} {place:<5} {}", self.exec.now(), text()));
        }
    }

    pub fn count(&self, what: &'static str) {
        *self.counts.borrow_mut().entry(what).or_default() += 1;
    }

    /// A thing that must never happen.
    pub fn fail(&self, text: String) {
        self.tell(2, || format!("VIOLATION: {text}"));
        self.failure.borrow_mut().get_or_insert(text);
    }

    pub fn chance(&self, of_thousand: u64) -> bool {
        self.exec.draw(1000) < of_thousand
    }

    /// Ends the daemon of a site, or its machine; both come back. `false` if that is spared.
    ///
    /// A daemon that is not there cannot hold what it runs: with a lease it is back soon, and does not die at once again.
    pub fn crash(self: &Rc<Self>, at: usize, with_machine: bool, for_millis: u64) -> bool {
        let (site, now) = (&self.sites[at], self.exec.now());
        let is_spared = self.mode == Mode::Lease && now < site.crashed.get() + 15_000;
        if !site.is_up.get() || is_spared {
            return false;
        }
        site.crashed.set(now);
        self.count(if with_machine { "power cuts" } else { "crashes" });
        self.tell(at, || format!("{} for {for_millis} ms", if with_machine { "power cut" } else { "crash" }));
        site.is_up.set(false);
        self.exec.kill(Owner::Site(at));
        *site.volatile.borrow_mut() = Rc::default();
        if with_machine {
            site.is_powered.set(false);
            site.runs.set(false);
        }
        let world = self.clone();
        self.exec.spawn(Owner::World, async move {
            world.exec.sleep(for_millis).await;
            let site = &world.sites[at];
            if with_machine {
                site.is_powered.set(true);
                site.boot.set(site.boot.get() + 1);
                site.offset.set(world.exec.draw(1 << 40));
                site.booted.set(world.exec.now());
                site.runs.set(site.is_ordered.get());
            }
            crate::node::Node::new(&world, at).boot();
        });
        true
    }
}
