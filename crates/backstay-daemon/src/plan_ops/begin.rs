//! The beginning of a plan: active here, and nowhere else.
//!
//! 1. A plan begins only where nobody else runs one of its name: not the peer, and not what an earlier plan of the name has
//!    left on the cluster (tests `a_plan_that_the_peer_runs_is_not_begun`, kube suite `lifecycle`).
//! 2. While the peer cannot be asked, a new plan claims no epoch: a peer that runs one must not step down for what somebody
//!    applied here (test `a_plan_begun_while_the_peer_was_away_makes_nobody_step_down`).
//! 3. It goes on after the points, and at the epoch, of an earlier plan of its name.

use std::sync::Arc;

use backstay_engine::plan_state::Transition;
use backstay_engine::role::{self, Local};
use backstay_kube::documents::Begins;
use backstay_types::frame::SiteRole;
use backstay_types::plan::PlanSpec;
use backstay_types::{Epoch, PairId, PlanName};

use crate::DaemonError;
use crate::plans::PlanRecord;
use crate::site::Site;

impl Site {
    /// A plan that begins here. Points of an earlier plan of its name may have been kept, here or by the peer: it
    /// goes on after them.
    pub(super) async fn new_plan(
        self: &Arc<Self>,
        name: &PlanName,
        pair: PairId,
        spec: PlanSpec,
        begins: Begins,
    ) -> Result<PlanRecord, DaemonError> {
        let kept = self.store.newest(name)?.map(|point| point.id);
        let ended = self.plans.ended().get(name.as_str()).map(|ended| ended.epoch);
        let epoch = kept.map(|kept| kept.epoch).max(ended).unwrap_or(Epoch::FIRST);
        let local = Local { role: SiteRole::Active, epoch };
        let mut record = PlanRecord::new(name.clone(), pair, local, spec, true);
        record.number = kept.map_or(0, |kept| kept.number);
        record.peer_site = self.peer(pair).ok().map(|peer| peer.site);
        record.resource.clone_from(&begins.resource);
        // What goes on where something was before is not begun on a guess.
        let is_asked = self.net.connection(pair).is_some() || begins.told.is_some();
        if is_asked {
            let peer = self.ask_plan(pair, name).await?;
            let epoch = role::admit_new(name, record.state.epoch(), &peer)?;
            record.apply(Transition::EpochObserved(epoch))?;
        } else {
            record.apply(Transition::BegunUnasked)?;
        }
        self.go_on_from_what_is_left(&mut record, &begins).await?;
        if let Some(told) = begins.told.filter(|told| *told != record.state.epoch()) {
            return Err(DaemonError::ToldOtherwise { plan: name.clone(), told, epoch: record.state.epoch() });
        }
        if is_asked {
            // A peer that has it from another side says so now rather than at the first cycle.
            self.share(&record).await?;
        }
        Ok(record)
    }

    /// Refuses beside what an earlier plan of the name left on the cluster, unless whoever begins this one knows of it.
    async fn go_on_from_what_is_left(
        &self,
        record: &mut PlanRecord,
        begins: &Begins,
    ) -> Result<(), DaemonError> {
        if !record.spec.covers_cluster() {
            return Ok(());
        }
        let plan = record.name.clone();
        let Some(left) = self.cluster().await?.left_of(&plan).await? else { return Ok(()) };
        if left.is_held {
            return Err(DaemonError::StandbyCopies { plan, object: left.object, epoch: left.epoch });
        }
        if ![begins.adopt, begins.told].contains(&Some(left.epoch)) {
            return Err(DaemonError::LeftBehind { plan, object: left.object, epoch: left.epoch });
        }
        record.apply(Transition::EpochObserved(left.epoch))
    }

    /// The plan with the epoch its cycles begin with: one that was applied while the peer was away has not asked yet.
    pub(crate) async fn begun(&self, record: &Arc<PlanRecord>) -> Result<Arc<PlanRecord>, DaemonError> {
        if record.state.unconfirmed() {
            return self.confirmed(record).await;
        }
        if self.plans.last_success(&record.name)?.is_some() {
            return Ok(record.clone());
        }
        let peer = self.ask_plan(record.pair, &record.name).await?;
        let epoch = role::first_epoch(record.state.epoch(), &peer);
        if epoch == record.state.epoch() {
            return Ok(record.clone());
        }
        self.plans.transition(&record.name, Transition::EpochObserved(epoch))
    }

    /// Asks the peer about a plan that was begun while it was away. Where it runs one of the name, no cycle runs here until
    /// an operator has decided.
    pub(crate) async fn confirmed(&self, record: &PlanRecord) -> Result<Arc<PlanRecord>, DaemonError> {
        let peer = self.ask_plan(record.pair, &record.name).await?;
        match role::admit_new(&record.name, record.state.epoch(), &peer) {
            Ok(epoch) => self.plans.transition(&record.name, Transition::Confirmed(epoch)),
            Err(_) => {
                self.plans.transition(&record.name, Transition::ConflictFound)?;
                Err(DaemonError::Conflict { plan: record.name.clone(), epoch: record.state.epoch() })
            }
        }
    }
}
