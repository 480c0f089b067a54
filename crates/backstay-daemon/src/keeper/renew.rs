//! Renews one plan's lease in the daemon's place: the engine's machine, from what the daemon kept.
//!
//! It knows no peer, so it goes by the witness alone. It lets go only what it, or a watcher, has held: what the daemon
//! held it held with more than this knows of, and lets go itself when it is back. A record of a higher epoch it cannot
//! obey, for roles are the daemon's; it holds, and lets go no more.

use std::path::PathBuf;

use backstay_engine::lease::{
    ActiveAction, ActiveEvent, ActiveLease, Answer, Ask, AskId, Kept, PeerAnswer, Stance,
};
use backstay_types::{Class, Classify as _};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::watch::{hold_host, release_host};
use super::{Locks, Note, Orders, Seat, plan_folder};
use crate::automatic::{AutomaticError, carry, kept, pause};
use crate::witness::{LeaseId, Witness};
use crate::{DaemonError, clock, files};

/// Held, or let go, or a witness that answered.
type Done = (ActiveEvent, Option<Result<(), String>>);

/// One plan, whose lease is the keeper's for now.
struct Renewal {
    dir: PathBuf,
    locks: Locks,
    orders: Orders,
    lease: ActiveLease,
    kept: Kept,
    /// A higher epoch is at the witness.
    superseded: bool,
    /// The daemon has held, with more than this knows of: it lets go itself when it is back.
    is_daemons: bool,
    tasks: JoinSet<Done>,
    told: Option<String>,
}

/// Ends when there are no orders any more, or when it is told to.
pub(super) async fn run(dir: PathBuf, locks: Locks, orders: Orders, stop: CancellationToken) {
    let (now, plan) = (clock::mono(), orders.plan.clone());
    let folder = plan_folder(&dir, &plan);
    let kept = match kept::read(&folder, now) {
        // Orders are of the epoch that counts; what binds this side was kept at it or before.
        Ok(found) => found.map(|(_, kept)| kept).unwrap_or_default(),
        Err(error) => {
            tracing::error!(%plan, class = error.class().label(), "what binds this side is not known: {error}");
            kept::bound_by_anything(false, now)
        }
    };
    let lease = ActiveLease::new(orders.party(&kept), kept, now);
    let is_daemons = kept.held && !Note::path(&folder).exists();
    let (superseded, tasks, told) = (false, JoinSet::new(), None);
    let mut renewal = Renewal { dir, locks, orders, lease, kept, superseded, is_daemons, tasks, told };
    if let Err(error) = renewal.run(&stop).await {
        tracing::error!(%plan, class = error.class().label(), "the lease is not renewed: {error}");
        tokio::time::sleep(super::LOOK_EVERY).await;
    }
}

impl Renewal {
    async fn run(&mut self, stop: &CancellationToken) -> Result<(), DaemonError> {
        let folder = plan_folder(&self.dir, &self.orders.plan);
        let mut event = ActiveEvent::Tick;
        loop {
            let now = clock::mono();
            match Orders::load(&folder)? {
                Some(orders) if !orders.fenced => self.orders = orders,
                _ => return Ok(()),
            }
            let (epoch, terms) = (self.orders.epoch, self.orders.terms(&self.kept));
            // A guard that is not seen is none: the standby takes nothing over then.
            let guarded = self.locks.sees(Seat::Guard, false);
            self.lease.update(epoch, terms, self.orders.wanted, guarded, now);
            let mut actions = Vec::new();
            if self.lease.stance() == Stance::Running && (self.superseded || self.is_noted()) {
                actions.extend(self.lease.handle(ActiveEvent::HeldByWatcher, now));
            }
            actions.extend(self.lease.handle(event, now));
            self.keep(&actions)?;
            for action in actions {
                if self.carry_out(action)? {
                    return Ok(());
                }
            }
            event = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(pause(self.lease.wake(), now)) => ActiveEvent::Tick,
                Some(done) = self.tasks.join_next() => match done {
                    Ok((event, told)) => {
                        if let Some(answer) = told {
                            self.tell(answer.err());
                        }
                        event
                    }
                    Err(_) => return Err(DaemonError::Worker { what: "a task of the keeper" }),
                },
            };
        }
    }

    fn is_noted(&self) -> bool {
        Note::of(&self.dir, &self.orders.plan).exists()
    }

    /// What must not be forgotten is on disk before it is acted on.
    fn keep(&mut self, actions: &[ActiveAction]) -> Result<(), DaemonError> {
        let kept = self.lease.kept();
        if kept == self.kept {
            return Ok(());
        }
        match kept::store(&plan_folder(&self.dir, &self.orders.plan), self.orders.epoch, &kept) {
            Ok(()) => self.kept = kept,
            // Holding does not wait for a disk.
            Err(error) if actions.contains(&ActiveAction::Hold) => {
                tracing::error!(plan = %self.orders.plan, "what is held is not recorded: {error}");
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Carries out an action; `true` ends the loop.
    fn carry_out(&mut self, action: ActiveAction) -> Result<bool, DaemonError> {
        let plan = self.orders.plan.clone();
        match action {
            ActiveAction::Ask { ask, question } => self.ask(ask, question),
            ActiveAction::AskPeer { ask } => {
                let answer = PeerAnswer::Silent;
                self.tasks.spawn(async move { (ActiveEvent::Peer { ask, answer }, None) });
            }
            ActiveAction::Hold => {
                tracing::warn!(%plan, "the lease is not good: the keeper holds what runs here");
                let note = Note { by: "the keeper".to_owned(), why: "the witness was not heard".to_owned() };
                let noted = if self.is_daemons || self.is_noted() {
                    Ok(())
                } else {
                    files::write_json_beside(&Note::of(&self.dir, &plan), &note)
                };
                let (dir, orders) = (self.dir.clone(), self.orders.clone());
                self.tasks.spawn_blocking(move || {
                    let held = hold_host(&dir, &orders).and(noted);
                    (done(&orders, held, ActiveEvent::Held, ActiveEvent::HoldFailed), None)
                });
            }
            ActiveAction::LetGo => self.let_go(),
            ActiveAction::StepDown { epoch } => {
                if !self.superseded {
                    tracing::warn!(%plan, %epoch, "the other side runs the plan: it stays held here");
                }
                self.superseded = true;
            }
            ActiveAction::Disarmed => {
                tracing::info!(%plan, "the lease is given back: no automatic failover any more");
                let folder = plan_folder(&self.dir, &plan);
                kept::forget(&folder)?;
                Orders::forget(&folder)?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn ask(&mut self, ask: AskId, question: Ask) {
        let plan = self.orders.plan.clone();
        let config = self.orders.witness.as_ref().and_then(super::WitnessOrders::config);
        let witness =
            config.as_ref().map(Witness::new).ok_or(AutomaticError::NoWitness { plan: plan.clone() });
        let (id, terms) = (LeaseId::of(self.orders.pair, &plan), self.lease.terms());
        self.tasks.spawn(async move {
            let answer = carry(witness, id, question, terms).await.map_err(|error| error.to_string());
            let told = answer.as_ref().map(|_| ()).map_err(Clone::clone);
            (ActiveEvent::Witness { ask, answer: answer.unwrap_or(Answer::Failed) }, Some(told))
        });
    }

    fn let_go(&mut self) {
        let (dir, orders) = (self.dir.clone(), self.orders.clone());
        if self.superseded || self.is_daemons || !orders.may_let_go {
            self.tasks.spawn(async { (ActiveEvent::LetGoFailed, None) });
            return;
        }
        tracing::info!(plan = %orders.plan, "the lease is good again: the keeper lets go what was held");
        self.tasks.spawn_blocking(move || {
            // First the note: a watcher that holds later than this tells so again.
            let released =
                files::remove(&Note::of(&dir, &orders.plan)).and_then(|()| release_host(&dir, &orders));
            (done(&orders, released, ActiveEvent::LetGo, ActiveEvent::LetGoFailed), None)
        });
    }

    fn tell(&mut self, failure: Option<String>) {
        if failure != self.told {
            match &failure {
                Some(text) => tracing::warn!(plan = %self.orders.plan, "the witness is not reached: {text}"),
                None => tracing::info!(plan = %self.orders.plan, "the witness answers again"),
            }
            self.told = failure;
        }
    }
}

fn done(
    orders: &Orders,
    outcome: Result<(), DaemonError>,
    good: ActiveEvent,
    bad: ActiveEvent,
) -> ActiveEvent {
    match outcome {
        Ok(()) => good,
        Err(error) => {
            let class = error.class().label();
            match error.class() {
                // It is done again, or was given up for a hold that is due.
                Class::Transient => {
                    tracing::warn!(plan = %orders.plan, class, "not held, or not let go: {error}")
                }
                _ => tracing::error!(plan = %orders.plan, class, "not held, or not let go: {error}"),
            }
            bad
        }
    }
}
