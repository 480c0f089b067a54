//! One cycle on the active side: snapshot, scan, transfer, acknowledgement.
//!
//! 1. Cycles of one plan never overlap: the plan's gate is held throughout.
//! 2. What the next cycle compares against is adopted only after the receiver's acknowledgement.
//! 3. Snapshots are released however the cycle ends.
//!
//! At a crash: the receiver keeps the chunks it was sent, and the next cycle asks what is missing.

mod encode;
mod guard;
mod keep;
mod left_over;
mod objects;
mod passes;
mod produce;
mod quiet;
mod reversed;
mod sources;
mod standby;
mod transfer;
mod watch;

pub(crate) use sources::own_scope;

use std::sync::Arc;

use backstay_engine::backoff::BackoffPolicy;
use backstay_engine::role;
use backstay_types::frame::{Begin, SiteRole};
use backstay_types::point::RestorePoint;
use backstay_types::{Class, Classify, PlanName, RestorePointId, SessionId};
use backstay_volume::SentState;
use objects::SentObjects;
use sources::{Purpose, Sources};
use tracing::Instrument;
use transfer::Transfer;

use crate::api_types::{CycleOutcome, CyclePhase, ErrorInfo, LastCycle};
use crate::meter::Metered;
use crate::neighbours::Links;
use crate::plan_ops::wrong_role;
use crate::plans::{LastSuccess, PlanRecord};
use crate::runtime::Activity;
use crate::schedule::seed_of;
use crate::site::Site;
use crate::{DaemonError, clock};

impl Site {
    /// Whether this site may run cycles of a plan.
    pub(crate) fn may_sync(&self, name: &PlanName) -> Result<Arc<PlanRecord>, DaemonError> {
        let record = self.plans.get(name)?;
        if record.state.role() != SiteRole::Active {
            return Err(wrong_role(&record, "sync"));
        }
        if record.state.conflict() {
            return Err(DaemonError::Conflict { plan: name.clone(), epoch: record.state.epoch() });
        }
        if let Some(leap) = crate::status::leap_of(&record) {
            return Err(leap);
        }
        Ok(record)
    }

    /// Runs one cycle now; waits for the one that runs, if one does.
    pub(crate) async fn sync(self: &Arc<Self>, name: &PlanName) -> Result<RestorePoint, DaemonError> {
        let runtime = self.runtimes.of(name);
        let _gate = tokio::select! {
            gate = runtime.cycle_gate(&self.wake) => gate,
            () = self.stop.cancelled() => return Err(DaemonError::Stopping { what: "the cycle" }),
        };
        let activity = Activity::begin(CyclePhase::Waiting);
        let _room = tokio::select! {
            room = self.cycles.acquire() => room.map_err(|_| DaemonError::Stopping { what: "the cycle" })?,
            () = self.stop.cancelled() => return Err(DaemonError::Stopping { what: "the cycle" }),
        };
        let shown = runtime.show(activity.clone());
        let span = tracing::info_span!("cycle", plan = %name, restore_point = tracing::field::Empty);
        let outcome = self.cycle(name, &activity).instrument(span.clone()).await;
        drop(shown);
        let ended = LastCycle {
            started_time: activity.started,
            outcome: if outcome.is_ok() { CycleOutcome::Succeeded } else { CycleOutcome::Failed },
            error: outcome.as_ref().err().map(|error| ErrorInfo::new(error)),
            duration_seconds: clock::now().since(activity.started).as_secs_f64(),
            freeze_seconds: activity.freeze.get().map(|length| length.as_secs_f64()),
            consistency: outcome.as_ref().ok().map(|point| point.consistency),
            below_crash: activity.below.get().cloned(),
        };
        span.in_scope(|| self.tell_outcome(name, &outcome, &ended));
        let config = self.config.load();
        let policy = BackoffPolicy { first: config.retry_first, cap: config.retry_max };
        // One that waited while its plan was deleted is not the last cycle of a later plan of that name.
        if self.plans.find(name).is_some() {
            runtime.ended(ended, policy, seed_of(name));
        }
        outcome
    }

    fn tell_outcome(&self, name: &PlanName, outcome: &Result<RestorePoint, DaemonError>, ended: &LastCycle) {
        match outcome {
            Ok(point) => {
                self.metrics.cycle_done(name, ended.duration_seconds, point.stats.bytes_scanned);
                tracing::info!(
                    files = point.stats.files_scanned,
                    bytes_changed = point.stats.bytes_changed,
                    wire_bytes = point.stats.wire_bytes,
                    seconds = ended.duration_seconds,
                    "restore point {} committed",
                    point.id
                );
            }
            Err(error) => {
                let class = error.class();
                self.metrics.count_error(class);
                tracing::warn!(class = class.label(), "cycle failed: {error}");
            }
        }
    }

    /// The same with the cycle gate shut by the caller.
    pub(crate) async fn cycle(
        self: &Arc<Self>,
        name: &PlanName,
        activity: &Arc<Activity>,
    ) -> Result<RestorePoint, DaemonError> {
        let record = self.may_sync(name)?;
        let work = self.fenced_cycle(&record, activity);
        let outcome = tokio::select! {
            outcome = work => outcome,
            () = self.stop.cancelled() => Err(DaemonError::Stopping { what: "the cycle" }),
        };
        if let Err(DaemonError::Refused { class: Class::Fenced, epoch: Some(epoch), .. }) = &outcome {
            self.learn_epoch(name, *epoch)?;
        }
        outcome
    }

    async fn fenced_cycle(
        self: &Arc<Self>,
        record: &Arc<PlanRecord>,
        activity: &Arc<Activity>,
    ) -> Result<RestorePoint, DaemonError> {
        let record = &self.begun(record).await?;
        self.share(record).await?;
        let peer = self.ask_plan(record.pair, &record.name).await?;
        let held = self.store.newest(&record.name)?.map(|point| point.id);
        let ours = record.number.max(held.map_or(0, |newest| newest.number));
        let number = role::next_number(&record.name, ours, peer.newest)?;
        let id = RestorePointId { epoch: record.state.epoch(), number };
        tracing::Span::current().record("restore_point", tracing::field::display(id));
        let links = Links::of(self, record);
        let _gates = links.shut(self, &record.name).await?;
        let sources = self.sources(record, Purpose::Cycle).await?;
        let asked = self.send_from_what_is_shown(record, &sources, peer.applied, activity).await?;
        let sent = self.sent_states(record, &sources)?;
        let objects = SentObjects::open(self.sent_objects(&record.name))?;
        let of_volumes = sent.iter().filter_map(SentState::parent_id).max();
        let parent = of_volumes.max(objects.parent_id());
        let begin = Begin { session: SessionId(rand::random()), plan: record.name.clone(), id, parent };
        let connection = self.net.wait_connection(record.pair, crate::ask::CONNECT_WITHIN).await?;
        self.limit_bandwidth();
        let meter = Metered::begin(&self.meters, &connection, begin.session).after(asked);
        let job = produce::Job {
            record: record.clone(),
            sources,
            sent,
            objects,
            parent: None,
            describe_by_parent: true,
            activity: activity.clone(),
        };
        let (sent, done) = Transfer::run(self, connection, begin, job, &meter).await?;
        let mut point = sent.point(record, self.id, id, parent);
        let wire = meter.wire();
        self.metrics.count_wire("sent", wire.sent);
        self.metrics.count_wire("received", wire.received);
        point.stats.wire_bytes = wire.total();
        point.stats.duration_millis = clock::now().since(activity.started).0;
        self.acknowledged(record, &point, done).await?;
        self.watch_standby_soon(record, id);
        Ok(point)
    }

    fn sent_states(&self, record: &PlanRecord, sources: &Sources) -> Result<Vec<SentState>, DaemonError> {
        let open = |name| Ok(SentState::open(&self.sent(&record.name, name))?);
        sources.volumes.iter().map(|volume| open(&volume.name)).collect()
    }

    /// The receiver holds the point: the next cycle works against it.
    async fn acknowledged(
        self: &Arc<Self>,
        record: &PlanRecord,
        point: &RestorePoint,
        done: produce::Done,
    ) -> Result<(), DaemonError> {
        let (site, name, id, point) = (self.clone(), record.name.clone(), point.id, point.clone());
        self.blocking("adopting the restore point", move || {
            for pending in done.pending {
                pending.adopt(id)?;
            }
            done.objects.map_or(Ok(()), |objects| objects.adopt(id))?;
            let last = LastSuccess { point, seen: done.seen, derived: true };
            site.plans.set_last_success(&name, &last)?;
            site.plans.update(&name, |record| record.number = record.number.max(id.number))?;
            Ok(())
        })
        .await
    }
}

impl transfer::Sent {
    /// The restore point as the receiver committed it.
    fn point(
        self,
        record: &PlanRecord,
        origin: backstay_types::SiteId,
        id: RestorePointId,
        parent: Option<RestorePointId>,
    ) -> RestorePoint {
        let commit = self.commit;
        RestorePoint {
            id,
            pair: record.pair,
            plan: record.name.clone(),
            origin,
            parent,
            snapshot_time: commit.snapshot_time,
            committed_time: self.committed_time,
            consistency: commit.consistency,
            volumes: commit.volumes,
            bundle: commit.bundle,
            stats: commit.stats,
        }
    }
}
