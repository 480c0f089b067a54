//! Automatic failover: drives the leases of `backstay_engine::lease`, one task for each plan that wants it, on both
//! sides.
//!
//! 1. What a restart must not forget of a lease is on disk before what it stands for is done ([`kept`]).
//! 2. The standby's word that it stands by is given under the same lock as its decision to take over ([`Leases`]).
//! 3. A lease is renewed here only while this daemon has it, and not the keeper (`keeper`, [`guarded`]).
//! 4. Answers to questions of a machine that is gone are dropped with its tasks.
//!
//! At a crash the task begins anew from the plan's role and what was kept.

mod active;
mod error;
mod guarded;
pub(crate) mod kept;
mod standby;
mod status;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backstay_engine::lease::{Answer, Ask, Mono, Party, Terms};
use backstay_types::frame::{PlanState, SiteRole};
use backstay_types::{Classify, PairId, PlanName};
use tokio::task::JoinSet;

pub use error::AutomaticError;
use guarded::{Guarded, Seats};
use standby::Standing;
use status::View;

use crate::config::WitnessConfig;
use crate::plans::PlanRecord;
use crate::site::Site;
use crate::witness::{LeaseId, Witness, WitnessError};
use crate::{DaemonError, clock};

/// Plans are looked through this often for those that want a lease.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// A machine is asked at least this often what to do: a clock that went on while timers slept is noticed.
const TICK: Duration = Duration::from_millis(250);

const POISONED: &str = "no holder of this lock panics";

/// What the tasks of plans share with the rest of the daemon.
#[derive(Default)]
pub(crate) struct Leases {
    standing: Mutex<BTreeMap<PlanName, Standing>>,
    views: Mutex<BTreeMap<PlanName, View>>,
    guarded: Guarded,
}

impl Leases {
    fn show(&self, plan: &PlanName, view: View) {
        self.views.lock().expect(POISONED).insert(plan.clone(), view);
    }

    fn forget(&self, plan: &PlanName) {
        self.views.lock().expect(POISONED).remove(plan);
        self.standing.lock().expect(POISONED).remove(plan);
    }

    /// Gives the word that this side stands by, unless it is about to take over.
    fn grant(&self, plan: &PlanName, now: Mono) -> bool {
        self.standing.lock().expect(POISONED).get_mut(plan).is_none_or(|standing| standing.lease.grant(now))
    }
}

impl Site {
    /// Runs until the daemon stops.
    pub(crate) async fn run_automatic(self: Arc<Self>) {
        // Dropped last: whoever goes on in this daemon's place must not begin before its tasks have ended.
        let mut seats = Seats::new(&self.dir);
        let mut tasks = JoinSet::new();
        let mut running = BTreeSet::new();
        loop {
            self.leases.guarded.see(&mut seats);
            if !self.leases.guarded.has_lease() {
                seats.watch().await;
            }
            for record in self.plans.list() {
                self.forget_left_over(&record);
                if self.wants_lease(&record) && running.insert(record.name.clone()) {
                    let (site, name) = (self.clone(), record.name.clone());
                    tasks.spawn(async move {
                        site.keep_lease(&name).await;
                        site.leases.forget(&name);
                        name
                    });
                }
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_AGAIN) => {}
                Some(ended) = tasks.join_next() => match ended {
                    Ok(name) => drop(running.remove(&name)),
                    // One that panicked is told, and begins anew with the daemon.
                    Err(error) => tracing::error!("automatic failover of a plan ended: {error}"),
                },
            }
        }
    }

    /// Whether a plan has a lease, or has one to give back.
    pub(crate) fn wants_lease(&self, record: &PlanRecord) -> bool {
        record.spec.automatic_failover.is_some()
            || (record.state.role() == SiteRole::Active && self.kept_file(&record.name).exists())
    }

    /// Follows a plan through its roles until it wants no lease any more.
    async fn keep_lease(self: &Arc<Self>, name: &PlanName) {
        let mut taken = None;
        while let Some(record) = self.plans.find(name).filter(|record| self.wants_lease(record)) {
            if self.stop.is_cancelled() {
                return;
            }
            let outcome = match (record.state.role(), taken.take()) {
                (SiteRole::Active | SiteRole::Promoting, waiting)
                | (SiteRole::Standby, waiting @ Some(_))
                    if !self.leases.guarded.has_lease() =>
                {
                    // The keeper has it, and lets go as soon as it sees this daemon.
                    taken = waiting;
                    tokio::time::sleep(TICK).await;
                    Ok(())
                }
                (SiteRole::Active | SiteRole::Promoting, taken) | (SiteRole::Standby, taken @ Some(_)) => {
                    self.run_active(&record, taken).await
                }
                (SiteRole::Standby, None) => self.run_standby(&record).await.map(|won| taken = won),
                (SiteRole::Demoting, _) => {
                    self.leases.forget(name);
                    let given = self.give_orders(&record, &mut None);
                    tokio::time::sleep(LOOK_AGAIN).await;
                    given
                }
            };
            if let Err(error) = outcome {
                self.metrics.count_error(error.class());
                tracing::error!(plan = %name, class = error.class().label(), "automatic failover: {error}");
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        }
    }

    /// Who this side is in the lease of a plan, if the plan wants one.
    fn party(&self, record: &PlanRecord) -> Option<Party> {
        let wanted = record.spec.automatic_failover.as_ref()?;
        Some(Party {
            plan: record.name.clone(),
            site: self.id,
            epoch: record.state.epoch(),
            terms: Terms::new(wanted.after),
        })
    }

    /// The peer asks about a plan: its answer says that this side stands by.
    pub(crate) fn told_plan(&self, pair: PairId, plan: &PlanName) -> Result<PlanState, DaemonError> {
        self.check_stands_by(plan)?;
        self.plan_state(pair, plan)
    }

    /// Refuses what must not be answered while this side is about to take over by itself; else it takes nothing for the
    /// plan's time from now on.
    pub(crate) fn check_stands_by(&self, plan: &PlanName) -> Result<(), DaemonError> {
        if self.leases.grant(plan, clock::mono()) {
            Ok(())
        } else {
            Err(AutomaticError::TakingOver { plan: plan.clone() }.into())
        }
    }
}

/// The witness as a plan's task asks it: built anew when `site.toml` says another.
struct Asked {
    site: Arc<Site>,
    id: LeaseId,
    built: Option<(WitnessConfig, Witness)>,
    /// The last failure: one that lasts is told once.
    told: Option<String>,
}

impl Asked {
    fn new(site: &Arc<Site>, record: &PlanRecord) -> Self {
        Self { site: site.clone(), id: LeaseId::of(record.pair, &record.name), built: None, told: None }
    }

    /// The witness, if there is one of the kind that the plan wants.
    fn witness(&mut self, record: &PlanRecord) -> Result<Witness, AutomaticError> {
        let plan = || record.name.clone();
        let config = self.site.config.load().witness.clone();
        let config = config.ok_or_else(|| AutomaticError::NoWitness { plan: plan() })?;
        let wanted = record.spec.automatic_failover.as_ref().and_then(|wanted| wanted.witness);
        let found = config.url.kind();
        if let Some(expected) = wanted.filter(|wanted| *wanted != found) {
            let (expected, found) = (expected.as_str(), found.as_str());
            return Err(AutomaticError::OtherWitness { plan: plan(), expected, found });
        }
        if self.built.as_ref().is_none_or(|(built, _)| *built != config) {
            let witness = Witness::new(&config);
            self.built = Some((config, witness));
        }
        let built = self.built.as_ref().map(|(_, witness)| witness.clone());
        built.ok_or_else(|| AutomaticError::NoWitness { plan: plan() })
    }

    /// Tells a failure when it begins, and its end.
    fn tell(&mut self, plan: &PlanName, failure: Option<String>) {
        if failure != self.told {
            match &failure {
                Some(text) => tracing::warn!(%plan, "the witness is not reached: {text}"),
                None => tracing::info!(%plan, "the witness answers again"),
            }
            self.told = failure;
        }
    }
}

/// Carries one question, for no longer than it may take.
pub(crate) async fn carry(
    witness: Result<Witness, AutomaticError>,
    id: LeaseId,
    question: Ask,
    terms: Terms,
) -> Result<Answer, AutomaticError> {
    let within = terms.answer_within();
    match tokio::time::timeout(within.to_duration(), witness?.ask(&id, question)).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(WitnessError::Slow { within }.into()),
    }
}

/// How long to sleep until `wake`.
pub(crate) fn pause(wake: Option<Mono>, now: Mono) -> Duration {
    wake.map_or(TICK, |wake| wake.since(now).to_duration()).min(TICK)
}
