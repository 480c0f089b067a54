//! Automatic failover: both ends of the lease, and the witness between them.

use std::cell::Cell;
use std::rc::Rc;

use backstay_engine::lease::{
    ActiveAction, ActiveEvent, ActiveLease, Answer, Ask, AskId, Kept, Mono, Party, PeerAnswer, Seen, Stance,
    StandbyAction, StandbyEvent, StandbyLease, Terms, Version,
};
use backstay_engine::role::{self, News};
use backstay_types::frame::SiteRole;
use backstay_types::{Epoch, SiteId, Span};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

use super::promote::Request;
use super::{Fault, Node};
use crate::exec::Owner;
use crate::world::World;

const AFTER: Span = Span(10_000);
const TICK: u64 = 250;
const AGAIN: u64 = 500;
const PROMOTE_AGAIN: Span = Span(5_000);

/// A lease that was taken.
#[derive(Debug, Clone, Copy)]
struct Taken {
    epoch: Epoch,
    kept: Kept,
}

/// What a task of a lease has done.
enum Done<E> {
    Event(E),
    HeldAgain,
    Promoted(Result<Epoch, Fault>),
}

/// Tasks that end with the machine they were started for.
struct Tasks<E> {
    line: UnboundedSender<Done<E>>,
    done: UnboundedReceiver<Done<E>>,
    open: Rc<Cell<u32>>,
}

impl<E: 'static> Tasks<E> {
    fn new() -> Self {
        let (line, done) = mpsc::unbounded_channel();
        Self { line, done, open: Rc::default() }
    }

    fn spawn(&self, node: &Node, work: impl Future<Output = Done<E>> + 'static) {
        let (line, open) = (self.line.clone(), self.open.clone());
        open.set(open.get() + 1);
        node.spawn(async move {
            tokio::select! {
                biased;
                () = line.closed() => {}
                done = work => drop(line.send(done)),
            }
            open.set(open.get() - 1);
        });
    }

    /// What is done next, or nothing until `wake`.
    async fn next(&mut self, node: &Node, wake: Option<Mono>) -> Option<Done<E>> {
        let pause = wake.map_or(TICK, |wake| wake.since(Mono(node.mono())).0.min(TICK));
        tokio::select! {
            biased;
            done = self.done.recv() => done,
            () = node.pause(pause) => None,
        }
    }
}

impl World {
    fn swap_or_read(&self, question: Ask) -> Answer {
        let mut kept = self.witness.borrow_mut();
        let Ask::Swap { over, record } = question else { return Answer::Read(kept.clone()) };
        if over.as_ref() != kept.as_ref().map(|seen| &seen.version) {
            return Answer::Conflict;
        }
        self.versions.set(self.versions.get() + 1);
        let version = Version(format!("v{}", self.versions.get()));
        *kept = Some(Seen { version: version.clone(), record });
        Answer::Swapped(version)
    }
}

impl Node {
    async fn ask_witness(&self, question: Ask) -> Answer {
        self.danger("before asking the witness").await;
        let (line, answer) = tokio::sync::oneshot::channel();
        let (w, at) = (self.w.clone(), self.at);
        self.w.exec.spawn(Owner::World, async move {
            let Some(late) = w.passage() else { return std::future::pending().await };
            w.exec.sleep(late).await;
            if w.cut_ask[at].get() {
                return std::future::pending().await;
            }
            let said = w.swap_or_read(question);
            let Some(late) = w.passage() else { return std::future::pending().await };
            w.exec.sleep(late).await;
            if w.cut_answer[at].get() {
                return std::future::pending().await;
            }
            drop(line.send(said));
        });
        tokio::select! {
            biased;
            said = answer => said.unwrap_or(Answer::Failed),
            () = self.pause(Terms::new(AFTER).answer_within().0) => Answer::Failed,
        }
    }

    pub async fn run_lease(&self) {
        let mut taken = None;
        loop {
            let outcome = match (self.record().role, taken.take()) {
                (SiteRole::Active | SiteRole::Promoting, taken) | (SiteRole::Standby, taken @ Some(_)) => {
                    self.run_active(taken).await
                }
                (SiteRole::Standby, None) => self.run_standby().await.map(|won| taken = won),
                (SiteRole::Demoting, _) => {
                    *self.volatile().standing.borrow_mut() = None;
                    Err(Fault::Role)
                }
            };
            if outcome.is_err() {
                self.pause(AGAIN).await;
            }
        }
    }

    fn party(&self, epoch: Epoch) -> Party {
        let site = SiteId([self.at as u8 + 1; 16]);
        Party { plan: self.w.plan.clone(), site, epoch, terms: Terms::new(AFTER) }
    }

    fn load_kept(&self, epoch: Epoch, now: Mono) -> Kept {
        let Some((of, boot, kept)) = self.site().disk.borrow().lease else { return Kept::default() };
        if of != epoch {
            return Kept::default();
        }
        let is_same = boot == self.site().boot.get();
        let anew = kept.anew.map(|anew| if is_same { anew } else { now });
        Kept { good: kept.good.filter(|_| is_same), anew, ..kept }
    }

    async fn store_kept(&self, epoch: Epoch, kept: Kept) -> Result<(), Fault> {
        let boot = self.site().boot.get();
        self.write("lease", |disk| disk.lease = Some((epoch, boot, kept))).await
    }

    async fn run_active(&self, taken: Option<Taken>) -> Result<(), Fault> {
        let now = Mono(self.mono());
        let mut epoch = taken.map_or(self.record().epoch, |taken| taken.epoch);
        let mut kept = taken.map_or_else(|| self.load_kept(epoch, now), |taken| taken.kept);
        let mut lease = ActiveLease::new(self.party(epoch), kept, now);
        let mut promote_at = taken.map(|_| now);
        let mut tasks = Tasks::new();
        if taken.is_some() {
            self.store_kept(epoch, kept).await?;
        }
        let mut event = ActiveEvent::Tick;
        let (mut stood, mut is_holding_again) = (false, false);
        loop {
            let now = Mono(self.mono());
            let record = self.record();
            match record.role {
                SiteRole::Active | SiteRole::Promoting => {
                    promote_at = None;
                    *self.volatile().standing.borrow_mut() = None;
                }
                SiteRole::Standby if promote_at.is_some() || tasks.open.get() > 0 => {}
                SiteRole::Standby | SiteRole::Demoting => return Ok(()),
            }
            epoch = epoch.max(record.epoch);
            // Whoever dies here has a keeper, or dies with what runs.
            lease.update(epoch, Terms::new(AFTER), true, true, now);
            let actions = lease.handle(event, now);
            if lease.kept() != kept {
                match self.store_kept(epoch, lease.kept()).await {
                    Ok(()) => kept = lease.kept(),
                    Err(_) if actions.contains(&ActiveAction::Hold) => {}
                    Err(fault) => return Err(fault),
                }
            }
            for action in actions {
                if self.carry_out_lease(&tasks, action).await? {
                    return Ok(());
                }
            }
            // What the lease holds may be let go by a handover that is rolled back: it is held again.
            let is_held = lease.stance() == Stance::Held;
            if is_held && stood && !record.standing && !is_holding_again {
                is_holding_again = true;
                let node = self.clone();
                tasks.spawn(self, async move {
                    drop(node.stand_still().await);
                    Done::HeldAgain
                });
            }
            stood = is_held && (stood || record.standing);
            if promote_at.take_if(|at| *at <= now).is_some() {
                let node = self.clone();
                let request = Request { lease: Some(epoch), ..Request::default() };
                tasks.spawn(self, async move {
                    node.w.count("taken over by the lease");
                    Done::Promoted(node.promote(request, None).await)
                });
            }
            event = match tasks.next(self, lease.wake()).await {
                Some(Done::Event(event)) => event,
                Some(Done::Promoted(outcome)) => {
                    if outcome.is_err() {
                        promote_at = Some(Mono(self.mono()).plus(PROMOTE_AGAIN));
                    }
                    ActiveEvent::Tick
                }
                Some(Done::HeldAgain) => {
                    is_holding_again = false;
                    ActiveEvent::Tick
                }
                None => ActiveEvent::Tick,
            };
        }
    }

    async fn carry_out_lease(&self, tasks: &Tasks<ActiveEvent>, action: ActiveAction) -> Result<bool, Fault> {
        let node = self.clone();
        match action {
            ActiveAction::Ask { ask, question } => tasks.spawn(self, async move {
                Done::Event(ActiveEvent::Witness { ask, answer: node.ask_witness(question).await })
            }),
            ActiveAction::AskPeer { ask } => tasks.spawn(self, async move {
                let answer = node.ask_stands_by().await.unwrap_or(PeerAnswer::Silent);
                Done::Event(ActiveEvent::Peer { ask, answer })
            }),
            ActiveAction::Hold => tasks.spawn(self, async move {
                node.w.count("held by the lease");
                drop(node.write("cut off", |disk| disk.record.cut_off = true).await);
                let done = node.stand_still().await;
                if done.is_ok() {
                    node.wait_gone().await;
                }
                Done::Event(if done.is_ok() { ActiveEvent::Held } else { ActiveEvent::HoldFailed })
            }),
            ActiveAction::LetGo => tasks.spawn(self, async move {
                if node.write("not cut off", |disk| disk.record.cut_off = false).await.is_err() {
                    return Done::Event(ActiveEvent::LetGoFailed);
                }
                let record = node.record();
                // One that steps down, or hands over, stays held.
                let stays = record.role != SiteRole::Active || record.handover.is_some();
                let done = if stays { Ok(()) } else { node.let_go().await };
                Done::Event(if done.is_ok() { ActiveEvent::LetGo } else { ActiveEvent::LetGoFailed })
            }),
            ActiveAction::StepDown { epoch } => {
                self.learn_epoch(epoch).await?;
                return Ok(true);
            }
            ActiveAction::Disarmed => {}
        }
        Ok(false)
    }

    async fn ask_stands_by(&self) -> Result<PeerAnswer, Fault> {
        let state = self.ask_plan(Terms::new(AFTER).answer_within().0).await?;
        if let News::StepDown { epoch } = role::on_peer_state(self.record().local(), &state) {
            self.learn_epoch(epoch).await?;
            return Ok(PeerAnswer::Silent);
        }
        Ok(match state.role {
            None | Some(SiteRole::Standby | SiteRole::Demoting) => PeerAnswer::StandsBy,
            Some(SiteRole::Active | SiteRole::Promoting) => PeerAnswer::Silent,
        })
    }

    async fn run_standby(&self) -> Result<Option<Taken>, Fault> {
        self.write("no lease", |disk| disk.lease = None).await?;
        let lease = StandbyLease::new(self.party(self.record().epoch), Mono(self.mono()));
        *self.volatile().standing.borrow_mut() = Some(lease);
        let mut tasks: Tasks<(AskId, Answer)> = Tasks::new();
        let mut event = StandbyEvent::Tick;
        loop {
            let now = Mono(self.mono());
            let record = self.record();
            if record.role != SiteRole::Standby {
                *self.volatile().standing.borrow_mut() = None;
                return Ok(None);
            }
            let able = self.site().disk.borrow().points.values().any(|point| !point.diverged);
            let volatile = self.volatile();
            let (actions, wake) = {
                let mut standing = volatile.standing.borrow_mut();
                let Some(lease) = standing.as_mut() else { return Ok(None) };
                lease.update(record.epoch, Terms::new(AFTER), able);
                (lease.handle(event, now), lease.wake(now))
            };
            for action in actions {
                let node = self.clone();
                match action {
                    StandbyAction::Ask { ask, question } => {
                        tasks.spawn(self, async move { Done::Event((ask, node.ask_witness(question).await)) })
                    }
                    StandbyAction::Adopt { epoch } => {
                        self.write("epoch of the lease", |disk| {
                            if disk.record.role == SiteRole::Standby {
                                disk.record.epoch = disk.record.epoch.max(epoch);
                            }
                        })
                        .await?;
                    }
                    StandbyAction::Promote { epoch, good, after } => {
                        let kept = Kept { bound: Some(after), good: Some(good), ..Kept::default() };
                        return Ok(Some(Taken { epoch, kept }));
                    }
                }
            }
            event = match tasks.next(self, wake).await {
                Some(Done::Event((ask, answer))) => StandbyEvent::Witness { ask, answer },
                _ => StandbyEvent::Tick,
            };
        }
    }
}
