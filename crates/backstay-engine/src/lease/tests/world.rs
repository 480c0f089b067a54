//! The simulated world: true time in milliseconds, two sites with clocks of their own, a witness, lines between them.

use std::collections::BTreeMap;

use super::super::*;
use crate::draw::draw;

/// `after` of the plan.
pub(super) const AFTER: u64 = 5_000;
/// How finely the world is looked at.
const STEP: u64 = 5;

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

#[derive(Debug)]
enum Side {
    Active(ActiveLease),
    Standby(StandbyLease),
}

#[derive(Debug)]
struct Site {
    side: Side,
    epoch: Epoch,
    alive: bool,
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
            lease.update(Epoch(1), Terms::new(Span(AFTER)), false, now);
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
            Side::Active(lease) => Side::Active(ActiveLease::new(me, lease.kept(), now)),
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
        let now = self.clock(place);
        let true_now = self.now;
        let site = self.site(place);
        let done = site.doing.take_if(|(at, _)| *at <= true_now);
        let failed = site.fails_at.take_if(|(at, _)| *at <= true_now);
        if let Some((_, event)) = done {
            site.runs = event != ActiveEvent::Held;
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
        let Side::Active(lease) = &mut self.site(place).side else { return };
        for action in lease.handle(event, now) {
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
                ActiveAction::LetGo => {
                    let (site_now, takes) = (self.now, self.draw(AFTER / 5));
                    let site = self.site(place);
                    site.runs = true;
                    site.doing = Some((site_now + takes, ActiveEvent::LetGo));
                }
                ActiveAction::StepDown { epoch } => {
                    let site = self.site(place);
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
        (site.epoch, site.runs) = (epoch, true);
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
            Message::ToPeer { from, generation, ask } if self.sites[&from.other()].alive => {
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
        site.alive && site.generation == generation
    }

    fn swap_or_read(&mut self, question: Ask) -> Answer {
        match question {
            Ask::Read => Answer::Read(self.register.clone()),
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
