//! The simulated world: true time in milliseconds, two sites with clocks of their own, a witness, lines between them.
//!
//! On each site run a daemon, a keeper and a guard beside the workloads, and each dies for itself. Of daemon and keeper one
//! has the lease; whoever lives and has it not watches.

use std::collections::{BTreeMap, BTreeSet};

use super::super::*;
use crate::draw::draw;

/// `after` of the plan.
pub(super) const AFTER: u64 = 5_000;
/// How finely the world is looked at.
const STEP: u64 = 5;
/// How often processes look at each other.
const LOOK: u64 = 50;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    East,
    West,
}

impl Place {
    const ALL: [Place; 2] = [Place::East, Place::West];

    fn other(self) -> Self {
        if self == Self::East { Self::West } else { Self::East }
    }

    fn site(self) -> SiteId {
        SiteId([if self == Self::East { 1 } else { 2 }; 16])
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Line {
    Peer,
    Witness(Place),
}

/// A process of a site beside its workloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Process {
    Daemon,
    Keeper,
    Guard,
}

impl Process {
    pub(super) const ALL: [Process; 3] = [Process::Daemon, Process::Keeper, Process::Guard];
}

#[derive(Debug)]
enum Side {
    Active(ActiveLease),
    Standby(StandbyLease),
}

#[derive(Debug)]
struct Site {
    side: Side,
    epoch: Epoch,
    /// The machine.
    alive: bool,
    /// Those of its processes that live.
    processes: BTreeSet<Process>,
    /// Until when whoever has the lease is stopped, in true time.
    stopped: u64,
    /// What whoever has the lease keeps on disk.
    kept: Kept,
    watch: Watch,
    /// When a watcher has held, in true time.
    watcher_done: Option<u64>,
    /// A watcher has held, and whoever has the lease has not let go since.
    noted: bool,
    /// The keeper, which cannot step down, knows of a higher epoch.
    fenced: bool,
    /// Whether its workloads do, whatever its daemon knows.
    runs: bool,
    disarmed: bool,
    /// Its clock: `offset + true time × rate / 1000`.
    offset: u64,
    rate: u64,
    /// When holding or letting go ends, and what it was.
    doing: Option<(u64, ActiveEvent)>,
    /// When an open question to the witness counts as failed.
    fails_at: Option<(u64, AskId)>,
    /// Grows with each machine: answers to those before reach nobody.
    generation: u64,
}

#[derive(Debug, Clone)]
enum Message {
    ToWitness { from: Place, generation: u64, ask: AskId, question: Ask },
    FromWitness { to: Place, generation: u64, ask: AskId, answer: Answer },
    ToPeer { from: Place, generation: u64, ask: AskId },
    FromPeer { to: Place, generation: u64, ask: AskId, answer: PeerAnswer },
}

#[derive(Debug)]
pub(super) struct World {
    seed: u64,
    drawn: u64,
    now: u64,
    sites: BTreeMap<Place, Site>,
    register: Option<Seen>,
    versions: u64,
    mail: Vec<(u64, Message)>,
    cut_peer: bool,
    cut_witness: BTreeMap<Place, bool>,
    /// Messages are lost, late and repeated.
    pub(super) is_rough: bool,
    /// How long holding takes, in true time; at random up to what it may without it.
    pub(super) hold_takes: Option<u64>,
    /// Two sides may run because a person said so.
    pub(super) is_by_hand: bool,
    /// The standby takes every lease, guarded or not.
    pub(super) claims_guards: bool,
    pub(super) takeovers: u32,
    pub(super) holds: u32,
}

fn party(place: Place, epoch: Epoch) -> Party {
    Party { plan: "shop".parse().expect("a name"), site: place.site(), epoch, terms: Terms::new(Span(AFTER)) }
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut world = Self {
            seed,
            drawn: 0,
            now: 0,
            sites: BTreeMap::new(),
            register: None,
            versions: 0,
            mail: Vec::new(),
            cut_peer: false,
            cut_witness: BTreeMap::new(),
            is_rough: false,
            hold_takes: None,
            is_by_hand: false,
            claims_guards: false,
            takeovers: 0,
            holds: 0,
        };
        for place in Place::ALL {
            let apart = 10 * CLOCKS_APART_PERCENT;
            // The ends of the bound are the hard cases.
            let rate = match world.draw(3) {
                0 => 1000 - apart,
                1 => 1000 + apart,
                _ => 1000 - apart + world.draw(2 * apart),
            };
            let offset = world.draw(1 << 40);
            let start = Mono(offset);
            let side = match place {
                Place::East => Side::Active(ActiveLease::new(party(place, Epoch(1)), Kept::default(), start)),
                Place::West => Side::Standby(StandbyLease::new(party(place, Epoch(1)), start)),
            };
            let site = Site {
                side,
                epoch: Epoch(1),
                alive: true,
                processes: Process::ALL.into(),
                stopped: 0,
                kept: Kept::default(),
                watch: Watch::new(start),
                watcher_done: None,
                noted: false,
                fenced: false,
                runs: place == Place::East,
                disarmed: false,
                offset,
                rate,
                doing: None,
                fails_at: None,
                generation: 0,
            };
            world.sites.insert(place, site);
        }
        world
    }

    /// A number below `bound`.
    pub(super) fn draw(&mut self, bound: u64) -> u64 {
        self.drawn += 1;
        draw(self.seed, self.drawn) % bound.max(1)
    }

    pub(super) fn now(&self) -> u64 {
        self.now
    }

    /// Until the lease is there and both sides know it.
    pub(super) fn settle(&mut self) {
        self.run(AFTER);
        assert_eq!(self.running(), [Place::East]);
        assert!(self.register.is_some());
    }

    pub(super) fn cut(&mut self, line: Line) -> &mut Self {
        self.set(line, true);
        self
    }

    pub(super) fn restore(&mut self, line: Line) {
        self.set(line, false);
    }

    pub(super) fn mend(&mut self) {
        for line in [Line::Peer, Line::Witness(Place::East), Line::Witness(Place::West)] {
            self.set(line, false);
        }
    }

    fn set(&mut self, line: Line, cut: bool) {
        match line {
            Line::Peer => self.cut_peer = cut,
            Line::Witness(place) => drop(self.cut_witness.insert(place, cut)),
        }
    }

    /// Breaks and mends lines at random; now and then a daemon starts again, and the witness loses everything.
    pub(super) fn toss_lines(&mut self) {
        for line in [Line::Peer, Line::Witness(Place::East), Line::Witness(Place::West)] {
            if self.draw(2) == 0 {
                let cut = self.draw(2) == 0;
                self.set(line, cut);
            }
        }
        let place = if self.draw(2) == 0 { Place::East } else { Place::West };
        match self.draw(12) {
            0 => self.restart(place),
            1 => self.wipe_witness(),
            _ => {}
        }
    }

    /// Processes die and come back at random, or the one that has the lease stands still; the workloads go on. Of three that
    /// guard each other one is left, which is what a guarded record promises.
    pub(super) fn toss_processes(&mut self) {
        for place in Place::ALL {
            for process in Process::ALL {
                let site = &self.sites[&place];
                // One that stands still guards nobody.
                let is_stopped = self.now < site.stopped;
                let stopped = self.owner(place).filter(|_| is_stopped);
                let is_last = site.processes.iter().all(|other| *other == process || Some(*other) == stopped);
                if !site.processes.contains(&process) {
                    if self.draw(2) == 0 {
                        self.begin(place, process);
                    }
                } else if !is_last && self.draw(4) == 0 {
                    self.end(place, process);
                }
            }
            let site = &self.sites[&place];
            let is_watched = site.processes.len() > 1 && site.doing.is_none();
            if is_watched && self.draw(10) == 0 {
                let until = self.now + self.draw(4 * AFTER);
                self.site(place).stopped = until;
            }
        }
    }

    /// All that died comes back.
    pub(super) fn mend_processes(&mut self) {
        for place in Place::ALL {
            self.site(place).stopped = 0;
            for process in Process::ALL {
                if !self.sites[&place].processes.contains(&process) {
                    self.begin(place, process);
                }
            }
        }
    }

    /// A process dies; the workloads go on.
    pub(super) fn end(&mut self, place: Place, process: Process) {
        let owner = self.owner(place);
        self.site(place).processes.remove(&process);
        if owner == Some(process) {
            self.site(place).stopped = 0;
            self.restart(place);
        }
    }

    fn begin(&mut self, place: Place, process: Process) {
        let (now, owner) = (self.clock(place), self.owner(place));
        let site = self.site(place);
        site.processes.insert(process);
        site.watch = Watch::new(now);
        // A keeper that is stopped gives its lease to nobody.
        if owner != self.owner(place) && self.now >= self.sites[&place].stopped {
            self.restart(place);
        }
    }

    /// Who has the lease.
    fn owner(&self, place: Place) -> Option<Process> {
        let has = |process: &Process| self.sites[&place].processes.contains(process);
        [Process::Daemon, Process::Keeper].into_iter().find(has)
    }

    /// Whether whoever has the lease can do anything.
    fn is_awake(&self, place: Place) -> bool {
        let site = &self.sites[&place];
        let is_there = match site.side {
            Side::Active(_) => self.owner(place).is_some(),
            Side::Standby(_) => site.processes.contains(&Process::Daemon),
        };
        site.alive && is_there && self.now >= site.stopped
    }

    pub(super) fn wipe_witness(&mut self) {
        self.register = None;
    }

    pub(super) fn has_record(&self) -> bool {
        self.register.is_some()
    }

    pub(super) fn kill(&mut self, place: Place) {
        self.site(place).alive = false;
    }

    pub(super) fn disarm(&mut self, place: Place) {
        let now = self.clock(place);
        if let Side::Active(lease) = &mut self.site(place).side {
            lease.update(Epoch(1), Terms::new(Span(AFTER)), false, true, now);
        }
    }

    pub(super) fn is_disarmed(&self, place: Place) -> bool {
        self.sites[&place].disarmed
    }

    pub(super) fn epoch(&self, place: Place) -> Epoch {
        self.sites[&place].epoch
    }

    pub(super) fn is_active(&self, place: Place) -> bool {
        matches!(self.sites[&place].side, Side::Active(_))
    }

    pub(super) fn promote_by_hand(&mut self, place: Place, epoch: Epoch) {
        self.promote(place, epoch, Kept::default());
    }

    /// Who runs the workloads.
    pub(super) fn running(&self) -> Vec<Place> {
        self.sites.iter().filter(|(_, site)| site.alive && site.runs).map(|(place, _)| *place).collect()
    }

    /// Lets time pass; at every step at most one side may run.
    pub(super) fn run(&mut self, millis: u64) {
        let end = self.now + millis;
        while self.now < end {
            self.now += STEP;
            self.deliver();
            for place in Place::ALL {
                self.advance(place);
            }
            let running = self.running();
            assert!(running.len() < 2 || self.is_by_hand, "seed {}: two sides run: {self:?}", self.seed);
        }
    }

    /// The daemon ends and starts again, on the same machine; its workloads go on.
    fn restart(&mut self, place: Place) {
        let now = self.clock(place);
        let site = self.site(place);
        let me = party(place, site.epoch);
        site.side = match &site.side {
            Side::Active(_) => Side::Active(ActiveLease::new(me, site.kept, now)),
            Side::Standby(_) => Side::Standby(StandbyLease::new(me, now)),
        };
        // What was being held goes on where it was; letting go does not.
        site.doing.take_if(|(_, event)| *event != ActiveEvent::Held);
        site.fails_at = None;
        self.site(place).generation += 1;
    }

    fn site(&mut self, place: Place) -> &mut Site {
        self.sites.get_mut(&place).expect("both are there")
    }

    fn clock(&self, place: Place) -> Mono {
        let site = &self.sites[&place];
        Mono(site.offset + self.now * site.rate / 1000)
    }

    fn advance(&mut self, place: Place) {
        if !self.sites[&place].alive {
            return;
        }
        let looks = self.now.is_multiple_of(LOOK);
        if looks {
            self.watch(place);
        }
        if !self.is_awake(place) {
            return;
        }
        let now = self.clock(place);
        let true_now = self.now;
        // Whoever has the lease is watched by those who have it not.
        let guarded = self.sites[&place].processes.len() > 1;
        if looks && let Side::Active(lease) = &mut self.site(place).side {
            let wanted = lease.is_wanted();
            lease.update(Epoch(0), Terms::new(Span(AFTER)), wanted, guarded, now);
            if self.sites[&place].noted {
                self.active(place, ActiveEvent::HeldByWatcher);
            }
        }
        let site = self.site(place);
        let done = site.doing.take_if(|(at, _)| *at <= true_now);
        let failed = site.fails_at.take_if(|(at, _)| *at <= true_now);
        if let Some((_, event)) = done {
            if event != ActiveEvent::LetGoFailed {
                site.runs = event != ActiveEvent::Held;
            }
            self.active(place, event);
        }
        if let Some((_, ask)) = failed {
            self.witness_says(place, ask, Answer::Failed);
        }
        let epoch = self.sites[&place].epoch;
        match &mut self.site(place).side {
            Side::Active(lease) if lease.wake().is_some_and(|wake| wake <= now) => {
                self.active(place, ActiveEvent::Tick);
            }
            Side::Standby(lease) => {
                lease.update(epoch, Terms::new(Span(AFTER)), true);
                if lease.wake(now).is_some_and(|wake| wake <= now) {
                    self.standby(place, StandbyEvent::Tick);
                }
            }
            Side::Active(_) => {}
        }
    }

    /// Holds by what is on disk, if anybody lives who does not have the lease or could not use it.
    fn watch(&mut self, place: Place) {
        let (now, true_now) = (self.clock(place), self.now);
        let site = &self.sites[&place];
        let lives = site.processes.len() > usize::from(self.owner(place).is_some());
        if !lives || !matches!(site.side, Side::Active(_)) {
            self.site(place).watcher_done = None;
            return;
        }
        let is_due = site.watch.holds_at(site.kept, Span(AFTER)).is_some_and(|at| at <= now);
        if !is_due || !site.runs {
            self.site(place).watcher_done = None;
            return;
        }
        let terms = Terms::new(Span(AFTER));
        let most = (terms.held_within().0 - terms.watcher_holds_at().0) * 1000 / site.rate;
        let takes = self.hold_takes.unwrap_or(0).max(self.draw(most.saturating_sub(2 * LOOK)));
        let site = self.site(place);
        if *site.watcher_done.get_or_insert(true_now + takes) <= true_now {
            (site.runs, site.noted, site.watcher_done) = (false, true, None);
        }
    }

    fn witness_says(&mut self, place: Place, ask: AskId, answer: Answer) {
        if self.sites[&place].fails_at.is_some_and(|(_, open)| open == ask) {
            self.site(place).fails_at = None;
        }
        match self.sites[&place].side {
            Side::Active(_) => self.active(place, ActiveEvent::Witness { ask, answer }),
            Side::Standby(_) => self.standby(place, StandbyEvent::Witness { ask, answer }),
        }
    }

    fn active(&mut self, place: Place, event: ActiveEvent) {
        let now = self.clock(place);
        let site = self.site(place);
        let Side::Active(lease) = &mut site.side else { return };
        let actions = lease.handle(event, now);
        site.kept = lease.kept();
        for action in actions {
            match action {
                ActiveAction::Ask { ask, question } => self.ask_witness(place, ask, question),
                ActiveAction::AskPeer { ask } => self.ask_peer(place, ask),
                ActiveAction::Hold => {
                    self.holds += 1;
                    let site = &self.sites[&place];
                    let (runs, rate) = (site.runs, site.rate);
                    // What it may take by its own clock, in true time.
                    let most = Terms::new(Span(AFTER)).hold_within().0 * 1000 / rate;
                    let takes = self.hold_takes.unwrap_or(0).max(self.draw(most.saturating_sub(2 * STEP)));
                    let takes = if runs { takes } else { 0 };
                    let ends = (self.now + takes, ActiveEvent::Held);
                    self.site(place).doing.get_or_insert(ends);
                }
                ActiveAction::LetGo if self.sites[&place].fenced => {
                    self.site(place).doing = Some((self.now, ActiveEvent::LetGoFailed));
                }
                ActiveAction::LetGo => {
                    let (site_now, takes) = (self.now, self.draw(AFTER / 5));
                    let site = self.site(place);
                    (site.runs, site.noted, site.watcher_done) = (true, false, None);
                    site.doing = Some((site_now + takes, ActiveEvent::LetGo));
                }
                // The daemon steps down when it is back.
                ActiveAction::StepDown { .. } if self.owner(place) == Some(Process::Keeper) => {
                    let site = self.site(place);
                    (site.runs, site.noted, site.fenced) = (false, true, true);
                }
                ActiveAction::StepDown { epoch } => {
                    let site = self.site(place);
                    (site.noted, site.fenced, site.kept) = (false, false, Kept::default());
                    (site.epoch, site.runs) = (epoch, false);
                    site.side = Side::Standby(StandbyLease::new(party(place, epoch), now));
                    (site.doing, site.fails_at) = (None, None);
                    self.site(place).generation += 1;
                    return;
                }
                ActiveAction::Disarmed => self.site(place).disarmed = true,
            }
        }
    }

    fn standby(&mut self, place: Place, event: StandbyEvent) {
        let now = self.clock(place);
        let Side::Standby(lease) = &mut self.site(place).side else { return };
        for action in lease.handle(event, now) {
            match action {
                StandbyAction::Ask { ask, question } => self.ask_witness(place, ask, question),
                StandbyAction::Adopt { epoch } => self.site(place).epoch = epoch,
                StandbyAction::Promote { epoch, good, after } => {
                    self.takeovers += 1;
                    let kept = Kept { bound: Some(after), good: Some(good), anew: None, held: false };
                    self.promote(place, epoch, kept);
                    return;
                }
            }
        }
    }

    fn promote(&mut self, place: Place, epoch: Epoch, kept: Kept) {
        let now = self.clock(place);
        let site = self.site(place);
        assert!(epoch > site.epoch, "an epoch only grows");
        (site.epoch, site.runs, site.kept) = (epoch, true, kept);
        site.side = Side::Active(ActiveLease::new(party(place, epoch), kept, now));
        site.fails_at = None;
        self.site(place).generation += 1;
    }

    fn ask_witness(&mut self, from: Place, ask: AskId, question: Ask) {
        let within = Terms::new(Span(AFTER)).answer_within().0;
        self.site(from).fails_at = Some((self.now + within, ask));
        let generation = self.sites[&from].generation;
        self.send(Line::Witness(from), Message::ToWitness { from, generation, ask, question });
    }

    fn ask_peer(&mut self, from: Place, ask: AskId) {
        let generation = self.sites[&from].generation;
        if self.owner(from) == Some(Process::Keeper) {
            // It knows no peer.
            let silent = Message::FromPeer { to: from, generation, ask, answer: PeerAnswer::Silent };
            self.mail.push((self.now, silent));
            return;
        }
        self.send(Line::Peer, Message::ToPeer { from, generation, ask });
        // Whoever carries a question answers it in any case.
        let within = Terms::new(Span(AFTER)).answer_within().0;
        let silent = Message::FromPeer { to: from, generation, ask, answer: PeerAnswer::Silent };
        self.mail.push((self.now + within, silent));
    }

    /// Puts a message on a line, or loses it.
    fn send(&mut self, line: Line, message: Message) {
        let cut = match line {
            Line::Peer => self.cut_peer,
            Line::Witness(place) => self.cut_witness.get(&place).copied().unwrap_or(false),
        };
        if cut || (self.is_rough && self.draw(10) == 0) {
            return;
        }
        if self.is_rough && self.draw(10) == 0 {
            let late = self.now + self.draw(AFTER);
            self.mail.push((late, message.clone()));
        }
        let late = if self.is_rough && self.draw(10) == 0 { self.draw(2 * AFTER) } else { self.draw(50) };
        self.mail.push((self.now + late, message));
    }

    fn deliver(&mut self) {
        let now = self.now;
        let (due, later) = std::mem::take(&mut self.mail).into_iter().partition(|(at, _)| *at <= now);
        self.mail = later;
        let mut due: Vec<(u64, Message)> = due;
        due.sort_by_key(|(at, _)| *at);
        for (_, message) in due {
            self.take_in(message);
        }
    }

    fn take_in(&mut self, message: Message) {
        match message {
            Message::ToWitness { from, generation, ask, question } => {
                let answer = self.swap_or_read(question);
                self.send(Line::Witness(from), Message::FromWitness { to: from, generation, ask, answer });
            }
            Message::FromWitness { to, generation, ask, answer } if self.hears(to, generation) => {
                self.witness_says(to, ask, answer);
            }
            Message::ToPeer { from, generation, ask } if self.is_awake(from.other()) => {
                let now = self.clock(from.other());
                let answer = match &mut self.site(from.other()).side {
                    Side::Standby(lease) => lease.grant(now),
                    Side::Active(_) => false,
                };
                let answer = if answer { PeerAnswer::StandsBy } else { PeerAnswer::Silent };
                self.send(Line::Peer, Message::FromPeer { to: from, generation, ask, answer });
            }
            Message::FromPeer { to, generation, ask, answer } if self.hears(to, generation) => {
                self.active(to, ActiveEvent::Peer { ask, answer });
            }
            _ => {}
        }
    }

    fn hears(&self, place: Place, generation: u64) -> bool {
        let site = &self.sites[&place];
        self.is_awake(place) && site.generation == generation
    }

    fn swap_or_read(&mut self, question: Ask) -> Answer {
        match question {
            Ask::Read => {
                let claim = |mut seen: Seen| {
                    seen.record.guarded |= self.claims_guards;
                    seen
                };
                Answer::Read(self.register.clone().map(claim))
            }
            Ask::Swap { over, record } => {
                if over.as_ref() != self.register.as_ref().map(|seen| &seen.version) {
                    return Answer::Conflict;
                }
                self.versions += 1;
                let version = Version(format!("v{}", self.versions));
                self.register = Some(Seen { version: version.clone(), record });
                Answer::Swapped(version)
            }
        }
    }
}
