//! Takeover: carries out the promotion that the engine computed.
//!
//! 1. Role and epoch are on disk, in one write with the promotion itself, before anything is applied or started.
//!    Before that write a failure leaves the plan a standby; after it the only way is on.
//! 2. Every step is idempotent: a killed promotion goes on when the daemon starts, or when it is asked for again.
//!
//! At a crash: see 2.

mod check;
mod hooks;
mod peer;

use std::sync::Arc;

use backstay_engine::handover::{Handover, Offered};
use backstay_engine::plan_state::Transition;
use backstay_engine::promotion::{
    self, Planned, PointFacts, PromotionFacts, PromotionPlan, Step, StepName, StepState as EngineState,
};
use backstay_engine::role::Local;
use backstay_engine::shrink;
use backstay_kube::cluster::ClusterError;
use backstay_kube::failure::Failures;
use backstay_kube::folder;
use backstay_kube::wave::ReleasePlan;
use backstay_types::frame::{SiteRole, TakeOver};
use backstay_types::point::{Consistency, RestorePoint};
use backstay_types::{Classify, PairId, PlanName, RestorePointId, Span};
use tracing::Instrument;

use crate::api_types::{CyclePhase, ErrorInfo, PromoteRequest, PromotionReport, PromotionStep, StepState};
use crate::apply::{CheckFailures, named, whom};
use crate::audit::Actor;
use crate::host_hold::Release;
use crate::plans::PlanRecord;
use crate::runtime::{Activity, PlanRuntime};
use crate::site::Site;
use crate::{DaemonError, clock, files, reserve};

/// Between two looks at what is not ready yet.
const READY_LOOK_EVERY: std::time::Duration = std::time::Duration::from_millis(500);
/// Workloads that are not ready in time, of which so many are named.
const UNREADY_NAMED_MAX: usize = 10;

/// Between two tries to finish a promotion that nobody waits for.
const RESUME_AGAIN: std::time::Duration = std::time::Duration::from_secs(5);
const RESUME_AGAIN_MAX: std::time::Duration = std::time::Duration::from_secs(60);

/// Plans promoted at once by `--all`: the steps wait for disks, not for processors.
const PROMOTIONS_MAX: usize = 4;

impl Site {
    /// Promotes a plan here; goes on with a promotion that was cut off.
    pub(crate) async fn promote(
        self: &Arc<Self>,
        name: &PlanName,
        request: PromoteRequest,
    ) -> Result<PromotionReport, DaemonError> {
        // A task of its own: whoever asked may hang up, the promotion goes on.
        self.promote_by(name.clone(), request, None).await
    }

    /// Promotes a plan here as its active side offers.
    pub(crate) async fn promote_as_offered(
        self: &Arc<Self>,
        pair: PairId,
        offer: TakeOver,
    ) -> Result<PromotionReport, DaemonError> {
        self.promote_by(offer.plan.clone(), PromoteRequest::default(), Some((pair, offer))).await
    }

    async fn promote_by(
        self: &Arc<Self>,
        plan: PlanName,
        request: PromoteRequest,
        offer: Option<(PairId, TakeOver)>,
    ) -> Result<PromotionReport, DaemonError> {
        let site = self.clone();
        let span = tracing::info_span!("promote", %plan);
        let work = async move { site.promote_one(&plan, request, offer).await };
        let task = self.tasks.spawn(work.instrument(span));
        let mut report = task.await.map_err(|_| DaemonError::Worker { what: "the promotion" })??;
        report.consistency = self.word_of(&report.plan, report.restore_point);
        Ok(report)
    }

    /// What a point of this side promises; nothing of one that cannot be read, which `verify` is for.
    pub(crate) fn word_of(
        &self,
        plan: &PlanName,
        point: backstay_types::RestorePointId,
    ) -> Option<Consistency> {
        match self.store.point(plan, point) {
            Ok(point) => Some(point.consistency),
            Err(error) => {
                tracing::debug!(%plan, %point, "its word cannot be told: {error}");
                None
            }
        }
    }

    async fn promote_one(
        self: &Arc<Self>,
        name: &PlanName,
        mut request: PromoteRequest,
        offer: Option<(PairId, TakeOver)>,
    ) -> Result<PromotionReport, DaemonError> {
        let asked = clock::now();
        let runtime = self.runtimes.of(name);
        // The handover holds the gate for as long as it waits for the peer.
        let waiting = self.plans.get(name)?.state.handover().cloned().filter(Handover::is_offered);
        if let Some(handover) = waiting.filter(|_| offer.is_none()) {
            if request.force && !request.dry_run {
                return self.force_back(name, &handover).await;
            }
            crate::plan_ops::check_not_offered(&*self.plans.get(name)?)?;
        }
        let _gate = runtime.cycle_gate(&self.wake).await;
        let record = self.plans.get(name)?;
        // Before it is asked, and found to be there no more.
        self.look_for_signs();
        // Before all else: not every peer may set a promotion going again, nor hear how it went.
        let admitted = offer.as_ref().map(|(pair, offer)| self.admit_offer(*pair, offer)).transpose()?;
        if let Some(stored) = record.state.promotion().cloned() {
            if request.dry_run {
                return self.dry_run(&record, &stored).await;
            }
            let stored = self.retargeted(&runtime, stored, request.restore_point).await?;
            return self.carry_out(&runtime, stored, request.accept_partial).await;
        }
        if record.state.ended() && offer.is_none() && !request.force && request.lease.is_none() {
            return Err(DaemonError::Ended { plan: name.clone() });
        }
        let peer = match &offer {
            Some((_, offer)) => {
                request.restore_point =
                    admitted.filter(|it| *it == Offered::Promote).map(|_| offer.restore_point);
                peer::that_offers(offer)
            }
            None => self.peer_facts(&record).await,
        };
        let record = self.above_the_cluster(record, request.force).await?;
        let points = self.point_facts(name)?;
        let applied = self.plans.applied(name)?;
        let facts = PromotionFacts {
            plan: name,
            role: record.state.role(),
            epoch: record.state.epoch(),
            points: &points,
            applied: applied.point,
            applying: applied.target,
            peer: &peer,
            last_sign: self.last_sign(&record)?,
            wanted: request.restore_point,
            force: request.force,
            lease: request.lease,
            accept_partial: request.accept_partial,
        };
        match promotion::plan(&facts, asked)? {
            Planned::Already { epoch } => {
                let claimed = self.set_leap_aside(name, &request)?;
                let mut report = self.already(name, epoch)?;
                report.warnings.extend(claimed.map(|claimed| {
                    format!("epoch {claimed}, which the other side claims, is set aside: cycles run again")
                }));
                Ok(report)
            }
            Planned::Promote(mut plan) => {
                plan.warnings.extend(self.far_less_than_before(name, plan.restore_point)?);
                if request.dry_run {
                    return self.dry_run(&record, &plan).await;
                }
                if !applied.withheld.is_empty() {
                    let names = applied.withheld.names().join(", ");
                    plan.warnings.push(format!("not applied, since nobody here has accepted it: {names}"));
                }
                tracing::info!("{plan}");
                self.carry_out(&runtime, plan, request.accept_partial).await
            }
        }
    }

    /// The operator has decided that this side is right. What was set aside.
    fn set_leap_aside(
        &self,
        name: &PlanName,
        request: &PromoteRequest,
    ) -> Result<Option<backstay_types::Epoch>, DaemonError> {
        if !request.force || request.dry_run {
            return Ok(None);
        }
        let (_, claimed) = self.plans.decide(name, |record| {
            let claimed = record.state.leap();
            record.apply(Transition::LeapSetAside)?;
            Ok(claimed)
        })?;
        self.wake.notify_one();
        Ok(claimed)
    }

    /// The plan, at no lower epoch than the cluster beside this site knows. One that is behind was brought back from a backup,
    /// and only the operator can tell that nothing else runs the plan.
    async fn above_the_cluster(
        self: &Arc<Self>,
        record: Arc<PlanRecord>,
        force: bool,
    ) -> Result<Arc<PlanRecord>, DaemonError> {
        let (site, name) = (self.clone(), record.name.clone());
        let checked = self.blocking("asking the cluster", move || site.check_epoch_on_cluster(&name)).await;
        match checked {
            Ok(()) => Ok(record),
            Err(DaemonError::Cluster(ClusterError::Superseded { found, .. })) if force => {
                self.plans.transition(&record.name, Transition::EpochObserved(found))
            }
            Err(error) => Err(error),
        }
    }

    /// What a restore point has far less of than the one before it: an emptied source looks like any other.
    fn far_less_than_before(
        &self,
        name: &PlanName,
        wanted: RestorePointId,
    ) -> Result<Vec<String>, DaemonError> {
        let mut points = self.store.points(name)?;
        points.retain(|point| point.consistency != Consistency::Diverged || point.id == wanted);
        let Some(at) = points.iter().position(|point| point.id == wanted) else { return Ok(Vec::new()) };
        let (before, from) = points.split_at(at);
        let (Some(before), Some(promoted)) = (before.last(), from.first()) else { return Ok(Vec::new()) };
        let said = |shrunk: shrink::Shrunk| {
            let before = before.id;
            format!(
                "{wanted} is far smaller than {before}, the restore point before it: {shrunk}; to take that one, \
                 promote with `--restore-point {before}`"
            )
        };
        Ok(shrink::points(before, promoted).into_iter().map(said).collect())
    }

    /// A promotion under way goes on to another restore point if the operator names one.
    async fn retargeted(
        self: &Arc<Self>,
        runtime: &PlanRuntime,
        mut stored: PromotionPlan,
        wanted: Option<RestorePointId>,
    ) -> Result<PromotionPlan, DaemonError> {
        let Some(wanted) = wanted.filter(|wanted| *wanted != stored.restore_point) else { return Ok(stored) };
        let point = self.store.point(&stored.plan, wanted)?;
        stored.retarget(point.id, point.snapshot_time);
        let _gate = runtime.apply.lock().await;
        self.check_point(&stored).await?;
        let kept = stored.clone();
        self.while_promoting(&stored, Transition::PromotionWentOn(kept))?;
        Ok(stored)
    }

    /// The report of the promotion that made this side active, again.
    fn already(&self, name: &PlanName, epoch: backstay_types::Epoch) -> Result<PromotionReport, DaemonError> {
        if let Some(last) = files::read_json::<PromotionPlan>(&self.last_promotion(name))?
            && last.epoch == epoch
        {
            return Ok(report(&last, false));
        }
        let newest = self.newest_known(&*self.plans.get(name)?)?;
        let point = newest.ok_or_else(|| DaemonError::NoRestorePoint { plan: name.clone() })?;
        Ok(PromotionReport {
            plan: name.clone(),
            epoch,
            restore_point: point.id,
            consistency: Some(point.consistency),
            rpo_seconds: 0.0,
            rpo_counted_from: None,
            rto_seconds: Some(0.0),
            steps: Vec::new(),
            waves: Vec::new(),
            warnings: vec!["this side is active already: nothing was done".to_owned()],
            nothing_lost: false,
            dry_run: false,
        })
    }

    fn last_promotion(&self, name: &PlanName) -> std::path::PathBuf {
        self.plans.plan_folder(name).join("last-promotion.json")
    }

    pub(crate) fn point_facts(&self, name: &PlanName) -> Result<Vec<PointFacts>, DaemonError> {
        let facts = |point: &RestorePoint| {
            Ok(PointFacts {
                id: point.id,
                snapshot_time: point.snapshot_time,
                damaged: self.store.damage(name, point.id)?.is_some(),
                // Only complete points are ever committed.
                complete: true,
                diverged: point.consistency == Consistency::Diverged,
            })
        };
        self.store.points(name)?.iter().map(facts).collect()
    }

    /// Carries out what is left of a promotion.
    async fn carry_out(
        self: &Arc<Self>,
        runtime: &PlanRuntime,
        mut plan: PromotionPlan,
        accept_partial: bool,
    ) -> Result<PromotionReport, DaemonError> {
        let activity = Activity::begin(CyclePhase::Promote);
        let _shown = runtime.show(activity.clone());
        reserve::make_room(&self.dir);
        // What is being received would be refused at its commit: end it now.
        runtime.end_session();
        self.stop_readers(&*self.plans.get(&plan.plan)?);
        // Held to the end: the point may not expire, and nothing else may write the replicas.
        let _gate = runtime.apply.lock().await;
        while let Some(step) = plan.next_step() {
            plan.start(step, clock::now()).map_err(|error| DaemonError::decision(&error))?;
            let done = match step {
                StepName::Fence => {
                    self.fence_peer(&mut plan).await;
                    Ok(())
                }
                StepName::Release => self.release(&mut plan, accept_partial).await,
                StepName::WaitReady => self.wait_ready(&mut plan).await,
                StepName::Hooks => self.run_hooks(&mut plan).await,
                StepName::Apply => self.apply_promoted(&mut plan, accept_partial, &activity).await,
                StepName::Verify => self.check_replicas(&mut plan, &activity).await,
                step => self.carry_out_step(runtime, &plan, step).await,
            };
            done.inspect_err(|error| {
                tracing::error!(class = error.class().label(), %step, "promotion stopped: {error}");
                runtime.set_promotion_error(Some(ErrorInfo::new(error)));
            })?;
            plan.complete(step, clock::now()).map_err(|error| DaemonError::decision(&error))?;
            if plan.is_past_return() && plan.next_step().is_some() {
                let stored = plan.clone();
                self.while_promoting(&plan, Transition::PromotionWentOn(stored))?;
            }
        }
        runtime.set_promotion_error(None);
        files::write_json(&self.last_promotion(&plan.plan), &plan)?;
        self.while_promoting(&plan, Transition::Promoted(plan.epoch))?;
        tracing::info!(epoch = %plan.epoch, restore_point = %plan.restore_point, "promoted");
        Ok(report(&plan, false))
    }

    /// Refuses to go on once a higher epoch has ended the promotion: that does, however far it is.
    fn check_promoting(&self, plan: &PromotionPlan) -> Result<(), DaemonError> {
        let record = self.plans.get(&plan.plan)?;
        match record.state.local() == (Local { role: SiteRole::Promoting, epoch: plan.epoch }) {
            true => Ok(()),
            false => Err(overtaken(plan, &record)),
        }
    }

    /// Changes the plan, unless a higher epoch has ended its promotion.
    fn while_promoting(&self, plan: &PromotionPlan, transition: Transition) -> Result<(), DaemonError> {
        let changed = self
            .plans
            .decide(&plan.plan, |record| record.apply(transition).map_err(|_| overtaken(plan, record)));
        changed.map(drop)
    }

    async fn carry_out_step(
        self: &Arc<Self>,
        runtime: &PlanRuntime,
        plan: &PromotionPlan,
        step: StepName,
    ) -> Result<(), DaemonError> {
        match step {
            StepName::CheckRestorePoint => self.check_point(plan).await,
            StepName::Epoch => {
                let _fence = runtime.fence.lock().await;
                let begun = self.plans.decide(&plan.plan, |record| {
                    // A try that was cut off has raised it already.
                    let is_raised = record.state.promotion().is_some_and(|begun| begun.epoch == plan.epoch);
                    if is_raised
                        && record.state.role() == SiteRole::Promoting
                        && record.state.epoch() == plan.epoch
                    {
                        return Ok(());
                    }
                    // Between the decision and this the peer may have taken the same epoch, and told.
                    let begun = Transition::PromotionBegun(plan.clone());
                    record.apply(begun).map_err(|_| overtaken(plan, record))
                });
                begun.map(drop)
            }
            // The others are the caller's, who adds to the warnings; the report is the answer itself.
            StepName::Fence
            | StepName::Apply
            | StepName::Verify
            | StepName::Release
            | StepName::WaitReady
            | StepName::Hooks
            | StepName::Report => Ok(()),
        }
    }

    /// Nothing is promoted that cannot be applied: what the replicas lack must be readable before the epoch rises.
    ///
    /// Also for a point that is marked as damaged and accepted so: the replicas may have what the store lost. The
    /// caller holds the apply gate.
    async fn check_point(self: &Arc<Self>, plan: &PromotionPlan) -> Result<(), DaemonError> {
        let (site, plan) = (self.clone(), plan.clone());
        self.blocking("checking the restore point", move || {
            let point = site.store.point(&plan.plan, plan.restore_point)?;
            let (point, _) = site.accepted_of(&plan.plan, &point)?;
            let applied = site.plans.applied(&plan.plan)?;
            site.check_mounted(&plan.plan, &applied, &point)?;
            let reader = site.store.reader(point.pair);
            // Also of volumes that show the point already: whoever has one open changes it before it is looked through.
            let places: Vec<_> =
                point.volumes.iter().map(|volume| site.place(&plan.plan, &volume.name)).collect();
            site.check_unused(&plan.plan, &places, whom(&applied))?;
            let is_of_key =
                applied.target.is_none() && site.applied_pair(&plan.plan, &applied) == Some(point.pair);
            let damaged = |what: String, why: String| DaemonError::Damaged {
                plan: plan.plan.clone(),
                point: point.id,
                why: format!("{what}: {why}"),
            };
            for volume in &point.volumes {
                // Of another root than the one that was left nothing is taken for there.
                let is_there = is_of_key && site.stands_at_all(&plan.plan, &applied, volume)?;
                let shown = applied.volumes.get(&volume.name).filter(|_| is_there);
                check::readable(&reader, shown, &volume.root)
                    .map_err(|why| damaged(format!("volume {}", volume.name), why))?;
            }
            if let Some(bundle) = &point.bundle {
                let shown = applied.objects.as_ref().map(|objects| &objects.bundle);
                check::readable(&reader, shown.filter(|_| is_of_key), &bundle.root)
                    .map_err(|why| damaged("objects".to_owned(), why))?;
            }
            Ok(())
        })
        .await
    }

    /// Brings the replicas to the point, and what somebody changed in them back to it. The operator may go on without objects
    /// that cannot be put in place.
    async fn apply_promoted(
        self: &Arc<Self>,
        plan: &mut PromotionPlan,
        accept_partial: bool,
        activity: &Arc<Activity>,
    ) -> Result<(), DaemonError> {
        let point = self.store.point(&plan.plan, plan.restore_point)?;
        match self.bring_to(&plan.plan, point, activity.clone()).await {
            Ok(told) => plan.warnings.extend(told),
            Err(error @ DaemonError::Objects { .. }) if accept_partial => {
                plan.warnings.push(format!("not put in place: {error}"));
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// The replicas are those that were just looked through, and a sample of their content is that of the point; one whose
    /// is not is compared in full.
    async fn check_replicas(
        self: &Arc<Self>,
        plan: &mut PromotionPlan,
        activity: &Arc<Activity>,
    ) -> Result<(), DaemonError> {
        let (site, name, id, activity) =
            (self.clone(), plan.plan.clone(), plan.restore_point, activity.clone());
        // Another sample each time.
        let seed = u32::try_from(clock::now().0.unsigned_abs() % u64::from(u32::MAX)).unwrap_or(0);
        let work = move || {
            let (point, _) = site.accepted_of(&name, &site.store.point(&name, id)?)?;
            let mut told = Vec::new();
            let failed = site.sampled(&name, &point, seed)?;
            if !failed.is_empty() {
                let mut applied = site.plans.applied(&name)?;
                for (volume, why) in &failed {
                    applied.volumes.remove(&volume.name);
                    told.push(format!(
                        "volume {}: content of the replica was not that of {id} ({why}): it was compared in full",
                        volume.name
                    ));
                }
                applied.point = None;
                site.plans.set_applied(&name, &applied)?;
                told.extend(site.bring_to_blocking(&name, &point, &activity)?);
            }
            let applied = site.plans.applied(&name)?;
            for volume in &point.volumes {
                if !site.stands(&name, &applied, volume)? {
                    let place = site.place(&name, &volume.name);
                    let why = format!("replica {} does not show volume {}", place.display(), volume.name);
                    return Err(DaemonError::Damaged { plan: name.clone(), point: id, why });
                }
            }
            Ok(told)
        };
        plan.warnings.extend(self.blocking("looking at the replicas", work).await?);
        Ok(())
    }

    /// Starts what is held. Objects that fail do not stop the others; with any of them the promotion stays at this step
    /// and goes on when asked again, unless the operator accepts to go on without them.
    async fn release(
        self: &Arc<Self>,
        plan: &mut PromotionPlan,
        accept_partial: bool,
    ) -> Result<(), DaemonError> {
        self.check_lease_not_lost(&plan.plan)?;
        let record = self.plans.get(&plan.plan)?;
        let point = self.store.point(&plan.plan, plan.restore_point)?;
        let site = self.clone();
        let work = move || {
            if record.spec.covers_cluster() {
                let report = site.release_on_cluster(&record.name, &record.spec, &point)?;
                tracing::info!(
                    released = report.released,
                    created = report.created,
                    already = report.already,
                    failed = report.failures.count,
                    "objects released"
                );
                return Ok((report.warnings, report.failures));
            }
            let folder = site.manifests(&record.name);
            if !folder.exists() {
                return Ok((Vec::new(), Failures::default()));
            }
            let report = folder::release(&folder, &record.name)?;
            Ok((report.warnings, report.failures))
        };
        let (warnings, failures) = self.blocking("releasing the objects", work).await?;
        plan.warnings.extend(warnings);
        self.check_lease_not_lost(&plan.plan)?;
        match self.release_host(&*self.plans.get(&plan.plan)?, Release::TakeOver).await {
            Ok(report) => plan.warnings.extend(report.warnings),
            Err(error) if accept_partial => plan.warnings.push(format!("not started on this host: {error}")),
            Err(error) => return Err(error),
        }
        self.note_unreleased(&plan.plan, &failures)?;
        if !accept_partial {
            return failures.check(&plan.plan);
        }
        plan.warnings.extend(named(&failures).map(|failure| format!("not released: {failure}")));
        Ok(())
    }

    /// Nothing is started that the lease would have to hold: the other side may run it by now.
    fn check_lease_not_lost(&self, plan: &PlanName) -> Result<(), DaemonError> {
        match self.plans.get(plan)?.state.cut_off() {
            true => Err(DaemonError::LeaseLost { plan: plan.clone() }),
            false => Ok(()),
        }
    }

    /// What a status names while the promotion stands still, and not any more once it goes on.
    fn note_unreleased(&self, plan: &PlanName, failures: &Failures) -> Result<(), DaemonError> {
        let mut applied = self.plans.applied(plan)?;
        let Some(objects) = &mut applied.cluster else { return Ok(()) };
        (objects.failed, objects.first_failures) = (failures.count, named(failures).collect());
        self.plans.set_applied(plan, &applied)
    }

    /// Waits for what was started, as long as the plan says. It runs then, ready or not: the promotion is not held up.
    async fn wait_ready(self: &Arc<Self>, plan: &mut PromotionPlan) -> Result<(), DaemonError> {
        let record = self.plans.get(&plan.plan)?;
        let Some(patience) = record.spec.wait_ready.filter(|_| record.spec.covers_cluster()) else {
            return Ok(());
        };
        let point = self.store.point(&plan.plan, plan.restore_point)?;
        // Not by the clock on the wall: one that is set back would hold the promotion up.
        let ended = tokio::time::Instant::now() + patience.to_duration();
        loop {
            // A higher epoch does not wait for what it ends.
            self.check_promoting(plan)?;
            let (site, record, point) = (self.clone(), record.clone(), point.clone());
            let look = move || site.not_ready(&record.name, &record.spec, &point);
            let waiting = self.blocking("looking whether everything is ready", look).await?;
            if waiting.is_empty() {
                return Ok(());
            }
            if tokio::time::Instant::now() >= ended {
                let named = waiting.iter().take(UNREADY_NAMED_MAX).map(|why| format!("not ready: {why}"));
                plan.warnings.extend(named);
                return Ok(());
            }
            tokio::time::sleep(READY_LOOK_EVERY).await;
        }
    }

    /// What a promotion would do, and nothing of it.
    async fn dry_run(
        self: &Arc<Self>,
        record: &Arc<PlanRecord>,
        plan: &PromotionPlan,
    ) -> Result<PromotionReport, DaemonError> {
        let mut report = report(plan, true);
        let (site, record, point) = (self.clone(), record.clone(), plan.restore_point);
        let work = move || {
            let shown = site.store.point(&record.name, point)?;
            site.check_mounted(&record.name, &site.plans.applied(&record.name)?, &shown)?;
            if record.spec.covers_cluster() {
                let point = shown;
                return site.release_plan(&record.name, &record.spec, &point);
            }
            // What another point than the one that is shown would release is known once it is applied.
            let applied = site.plans.applied(&record.name)?;
            if applied.point != Some(point) || applied.target.is_some() {
                let unknown = format!("what is released, in which order, is known once {point} is applied");
                return Ok(ReleasePlan { warnings: vec![unknown], ..ReleasePlan::default() });
            }
            Ok(folder::release_plan(&site.manifests(&record.name), &record.name)?)
        };
        let released = self.blocking("computing the waves", work).await?;
        report.waves = released.waves.iter().map(ToString::to_string).collect();
        report.waves.extend(named(&released.failures).map(|failure| format!("not released: {failure}")));
        report.warnings.extend(released.warnings);
        Ok(report)
    }

    /// Goes on with a promotion that a stop or a crash cut off.
    pub(crate) fn finish_promotion_soon(self: &Arc<Self>, name: PlanName) {
        let site = self.clone();
        let work = async move {
            let mut pause = RESUME_AGAIN;
            loop {
                if site.plans.find(&name).is_none_or(|record| record.state.promotion().is_none()) {
                    return;
                }
                let outcome = site.promote(&name, PromoteRequest::default()).await;
                site.record(&Actor::Daemon, "promote", Some(&name), "resumed".into(), outcome.as_ref().err());
                let Err(error) = outcome else { return };
                // A second site that started without its cluster, say: nobody may be there to ask again.
                let is_over = site.plans.find(&name).is_none_or(|record| record.state.promotion().is_none());
                if is_over || !error.class().retries() {
                    return;
                }
                tokio::select! {
                    () = tokio::time::sleep(pause) => pause = (pause * 2).min(RESUME_AGAIN_MAX),
                    () = site.stop.cancelled() => return,
                }
            }
        };
        self.tasks.spawn(work);
    }

    /// Promotes every standby plan that is not at its end, a few at a time; all are tried, and a failure of one is told after the others.
    pub(crate) async fn promote_all(
        self: &Arc<Self>,
        request: PromoteRequest,
    ) -> Result<Vec<PromotionReport>, DaemonError> {
        if request.restore_point.is_some() {
            let message = "a restore point belongs to one plan: name the plan instead of --all".to_owned();
            return Err(DaemonError::Request { message });
        }
        let room = Arc::new(tokio::sync::Semaphore::new(PROMOTIONS_MAX));
        let mut tasks = tokio::task::JoinSet::new();
        let is_standby =
            |record: &Arc<PlanRecord>| matches!(record.state.role(), SiteRole::Standby | SiteRole::Promoting);
        for record in self.plans.list().into_iter().filter(is_standby).filter(|record| !record.state.ended())
        {
            let (site, room) = (self.clone(), room.clone());
            tasks.spawn(async move {
                let _place = room.acquire().await;
                site.promote(&record.name, request).await
            });
        }
        let (mut reports, mut failures) = (Vec::new(), Vec::new());
        for outcome in tasks.join_all().await {
            match outcome {
                Ok(report) => reports.push(report),
                Err(error) => failures.push(error),
            }
        }
        reports.sort_by(|a, b| a.plan.cmp(&b.plan));
        match failures.first() {
            None => Ok(reports),
            Some(first) => Err(DaemonError::Decision {
                class: first.class(),
                message: format!("{} plans promoted, {} not: {first}", reports.len(), failures.len()),
                hint: first.hint(),
            }),
        }
    }
}

/// The promotion that another one came before.
fn overtaken(plan: &PromotionPlan, record: &PlanRecord) -> DaemonError {
    DaemonError::EpochShrinks { plan: plan.plan.clone(), known: record.state.epoch(), asked: plan.epoch }
}

fn report(plan: &PromotionPlan, dry_run: bool) -> PromotionReport {
    let outcome = plan.outcome(clock::now());
    let step = |step: &Step| PromotionStep {
        name: step.name.to_string(),
        state: match step.state {
            EngineState::Done { .. } => StepState::Done,
            EngineState::Pending | EngineState::Running { .. } => StepState::Pending,
        },
        duration_seconds: step.duration().map(Span::as_secs_f64),
    };
    PromotionReport {
        plan: plan.plan.clone(),
        epoch: plan.epoch,
        restore_point: plan.restore_point,
        consistency: None,
        rpo_seconds: outcome.rpo.as_secs_f64(),
        rpo_counted_from: Some(plan.counted_from()),
        rto_seconds: (!dry_run).then(|| outcome.rto.as_secs_f64()),
        steps: plan.steps().iter().map(step).collect(),
        waves: Vec::new(),
        warnings: plan.warnings.clone(),
        nothing_lost: false,
        dry_run,
    }
}
