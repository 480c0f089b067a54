//! What is under way for each plan: gates, progress and the outcome of the last cycle. Nothing here outlives
//! the process; what must, is in the plan's files.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, RwLock};

use backstay_engine::backoff::{Backoff, BackoffPolicy};
use backstay_types::frame::{ApplyFailure, PlanState, Proposals, SiteRole};
use backstay_types::{Class, Epoch, PlanName, RestorePointId, Span, Time};
use backstay_volume::Progress;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::api_types::{
    CycleOutcome, CyclePhase, CycleStatus, ErrorInfo, LastCycle, StandbyError, StandbyStatus,
};
use crate::clock;

const POISONED: &str = "no holder of this lock panics";

/// The runtime of one plan.
pub(crate) struct PlanRuntime {
    cycle: tokio::sync::Mutex<()>,
    /// Cycles that wait for the gate.
    queued: AtomicUsize,
    /// Held while a session receives.
    pub(crate) receive: tokio::sync::Mutex<()>,
    /// Held while replicas are written.
    pub(crate) apply: tokio::sync::Mutex<()>,
    /// Held while workloads are held, or let go: of half of either no original may be taken down.
    pub(crate) standstill: tokio::sync::Mutex<()>,
    /// Held from the check of role and epoch to the deed that depends on them: a commit, a promotion.
    pub(crate) fence: tokio::sync::Mutex<()>,
    /// Held while this side tells its active side of what it shows.
    pub(crate) telling: tokio::sync::Mutex<()>,
    /// Whether a task waits to apply once nobody uses the volumes any more.
    pub(crate) waits_unused: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    activity: Option<Arc<Activity>>,
    last: Option<LastCycle>,
    /// Start of the last scheduled or asked-for cycle.
    last_start: Option<Time>,
    /// After a failure: when to try again.
    retry: Option<Backoff>,
    next_run: Option<Time>,
    apply_error: Option<ErrorInfo>,
    /// What the replicas were to be brought to last.
    apply_target: Option<RestorePointId>,
    /// What the standby said of itself last.
    standby: Option<StandbyStatus>,
    promotion_error: Option<ErrorInfo>,
    /// The epoch that the peer said last.
    peer_epoch: Option<Epoch>,
    /// What the peer has not accepted, as it said last.
    peer_proposals: Proposals,
    /// Ends the session that is receiving.
    session: Option<CancellationToken>,
}

/// A shut cycle gate. When it opens the clock looks again: it takes a plan whose gate is shut for one that runs.
pub(crate) struct CycleGate<'a> {
    _shut: tokio::sync::MutexGuard<'a, ()>,
    // Dropped after the guard.
    _wake: WakeOnDrop<'a>,
}

struct WakeOnDrop<'a>(&'a Notify);

impl Drop for WakeOnDrop<'_> {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

struct Queued<'a>(&'a AtomicUsize);

impl<'a> Queued<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl PlanRuntime {
    /// Held for the length of a cycle: cycles of one plan never overlap. `wake` wakes the schedule clock.
    pub(crate) async fn cycle_gate<'a>(&'a self, wake: &'a Notify) -> CycleGate<'a> {
        let queued = Queued::new(&self.queued);
        let shut = self.cycle.lock().await;
        drop(queued);
        CycleGate { _shut: shut, _wake: WakeOnDrop(wake) }
    }

    /// Whether a cycle waits for its turn already: it will see whatever another would.
    pub(crate) fn is_cycle_queued(&self) -> bool {
        self.queued.load(Ordering::SeqCst) > 0
    }

    /// Whether somebody holds the cycle gate.
    pub(crate) fn is_cycle_running(&self) -> bool {
        self.cycle.try_lock().is_err()
    }
}

/// Work under way, for progress.
pub(crate) struct Activity {
    phase: RwLock<CyclePhase>,
    /// When the present phase began.
    since: RwLock<Time>,
    pub(crate) started: Time,
    /// Counts bytes done, and is the switch that stops the work.
    pub(crate) progress: Progress,
    /// Bytes done in earlier phases: the counter of the volumes only grows.
    done_before: AtomicU64,
    total: AtomicU64,
    /// How long rules kept an application frozen.
    pub(crate) freeze: OnceLock<Span>,
    /// What kept the point below `crash`.
    pub(crate) below: OnceLock<String>,
}

impl Activity {
    /// Work that begins now.
    pub(crate) fn begin(phase: CyclePhase) -> Arc<Self> {
        let now = clock::now();
        Arc::new(Self {
            phase: RwLock::new(phase),
            since: RwLock::new(now),
            started: now,
            progress: Progress::default(),
            done_before: AtomicU64::new(0),
            total: AtomicU64::new(0),
            freeze: OnceLock::new(),
            below: OnceLock::new(),
        })
    }

    /// The next phase, with how many bytes it has to do; 0 if that is not known.
    pub(crate) fn enter(&self, phase: CyclePhase, bytes_total: u64) {
        *self.phase.write().expect(POISONED) = phase;
        *self.since.write().expect(POISONED) = clock::now();
        self.done_before.store(self.progress.bytes_done(), Ordering::Relaxed);
        self.total.store(bytes_total, Ordering::Relaxed);
    }

    /// How far it is, as status shows it.
    pub(crate) fn view(&self) -> CycleStatus {
        let done = self.progress.bytes_done().saturating_sub(self.done_before.load(Ordering::Relaxed));
        let total = match self.total.load(Ordering::Relaxed) {
            0 => 0,
            // A file that changed while it was read is read again: then there was more to do than was known.
            known => known.max(done),
        };
        let elapsed = clock::now().since(*self.since.read().expect(POISONED)).as_secs_f64();
        // Counts of bytes: the loss of precision above 2^53 does not show in a percentage.
        let (done_f, total_f) = (done as f64, total as f64);
        let rate = if elapsed > 0.0 { done_f / elapsed } else { 0.0 };
        CycleStatus {
            phase: *self.phase.read().expect(POISONED),
            percent: (total > 0).then(|| 100.0 * done_f / total_f),
            bytes_done: done,
            bytes_total: (total > 0).then_some(total),
            bytes_per_second: rate,
            // With all read, what is left is the peer's to do.
            eta_seconds: (total > done && rate > 0.0).then(|| (total_f - done_f) / rate),
        }
    }
}

/// Shows an activity in status for as long as it lives.
pub(crate) struct Shown<'a>(&'a PlanRuntime);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        self.0.lock().activity = None;
    }
}

impl PlanRuntime {
    fn new() -> Self {
        Self {
            cycle: tokio::sync::Mutex::default(),
            queued: AtomicUsize::new(0),
            receive: tokio::sync::Mutex::default(),
            apply: tokio::sync::Mutex::default(),
            standstill: tokio::sync::Mutex::default(),
            fence: tokio::sync::Mutex::default(),
            telling: tokio::sync::Mutex::default(),
            waits_unused: AtomicBool::new(false),
            state: Mutex::default(),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect(POISONED)
    }

    /// Shows work in status until the value returned is dropped.
    pub(crate) fn show(&self, activity: Arc<Activity>) -> Shown<'_> {
        self.lock().activity = Some(activity);
        Shown(self)
    }

    pub(crate) fn activity(&self) -> Option<Arc<Activity>> {
        self.lock().activity.clone()
    }

    pub(crate) fn last(&self) -> Option<LastCycle> {
        self.lock().last.clone()
    }

    pub(crate) fn last_start(&self) -> Option<Time> {
        self.lock().last_start
    }

    pub(crate) fn set_last_start(&self, time: Option<Time>) {
        self.lock().last_start = time;
    }

    pub(crate) fn next_run(&self) -> Option<Time> {
        self.lock().next_run
    }

    pub(crate) fn set_next_run(&self, time: Option<Time>) {
        self.lock().next_run = time;
    }

    pub(crate) fn retry_at(&self) -> Option<Time> {
        self.lock().retry.as_ref().and_then(Backoff::retry_at)
    }

    pub(crate) fn apply_error(&self) -> Option<ErrorInfo> {
        self.lock().apply_error.clone()
    }

    /// Why the promotion under way stopped.
    pub(crate) fn promotion_error(&self) -> Option<ErrorInfo> {
        self.lock().promotion_error.clone()
    }

    /// A promotion stopped, or goes on.
    pub(crate) fn set_promotion_error(&self, failure: Option<ErrorInfo>) {
        self.lock().promotion_error = failure;
    }

    pub(crate) fn set_apply_error(&self, failure: Option<ErrorInfo>) {
        self.lock().apply_error = failure;
    }

    /// Why the replicas do not show what they were to be brought to, if that failed.
    pub(crate) fn apply_failure(&self) -> Option<ApplyFailure> {
        let state = self.lock();
        let (point, error) = (state.apply_target?, state.apply_error.as_ref()?);
        Some(ApplyFailure::new(point, error.class, &error.message))
    }

    pub(crate) fn set_apply_target(&self, point: RestorePointId) {
        self.lock().apply_target = Some(point);
    }

    pub(crate) fn standby(&self) -> Option<StandbyStatus> {
        self.lock().standby.clone()
    }

    /// The standby has said how far it is.
    pub(crate) fn set_standby(&self, state: &PlanState) {
        if state.role != Some(SiteRole::Standby) {
            return;
        }
        let apply_error = state.apply_failure.as_ref().map(|failure| StandbyError {
            restore_point: failure.point,
            class: Class::from_wire_code(failure.class),
            message: failure.message.clone(),
        });
        let time = clock::now();
        self.lock().standby = Some(StandbyStatus { time, applied_restore_point: state.applied, apply_error });
    }

    pub(crate) fn peer_epoch(&self) -> Option<Epoch> {
        self.lock().peer_epoch
    }

    /// The peer has said that it is at this epoch.
    pub(crate) fn set_peer_epoch(&self, epoch: Epoch) {
        self.lock().peer_epoch = Some(epoch);
    }

    /// What the peer has not accepted of this side's changes.
    pub(crate) fn peer_proposals(&self) -> Proposals {
        self.lock().peer_proposals.clone()
    }

    /// The peer has said what it has not accepted; whether there is something, and it is news.
    pub(crate) fn set_peer_proposals(&self, told: &Proposals) -> bool {
        let old = std::mem::replace(&mut self.lock().peer_proposals, told.clone());
        old != *told && *told != Proposals::default()
    }

    /// Puts the switch of a session in its place; returns that of the one before.
    pub(crate) fn set_session(&self, session: Option<CancellationToken>) -> Option<CancellationToken> {
        std::mem::replace(&mut self.lock().session, session)
    }

    /// The plan is gone: what is known of its cycles is nothing to a later plan of its name. Its gates stay, for
    /// whoever waits at one.
    pub(crate) fn forget(&self) {
        let mut state = self.lock();
        let activity = state.activity.take();
        *state = State { activity, session: state.session.take(), ..State::default() };
    }

    /// Notes how a cycle ended, and when to try again if it failed in a way that may pass.
    pub(crate) fn ended(&self, last: LastCycle, policy: BackoffPolicy, seed: u64) {
        let mut state = self.lock();
        debug_assert_eq!(last.outcome == CycleOutcome::Failed, last.error.is_some());
        match &last.error {
            Some(error) if error.class.retries() => {
                state.retry.get_or_insert_with(|| Backoff::new(policy, seed)).failed(clock::now());
            }
            _ => state.retry = None,
        }
        state.last = Some(last);
    }
}

/// The runtimes of all plans, made on first use.
#[derive(Default)]
pub(crate) struct Runtimes(RwLock<BTreeMap<PlanName, Arc<PlanRuntime>>>);

impl Runtimes {
    /// The runtime of a plan.
    pub(crate) fn of(&self, plan: &PlanName) -> Arc<PlanRuntime> {
        if let Some(runtime) = self.0.read().expect(POISONED).get(plan) {
            return runtime.clone();
        }
        self.0
            .write()
            .expect(POISONED)
            .entry(plan.clone())
            .or_insert_with(|| Arc::new(PlanRuntime::new()))
            .clone()
    }

    /// Stops whatever is under way, everywhere: all of it resumes later.
    pub(crate) fn stop_all(&self) {
        for runtime in self.0.read().expect(POISONED).values() {
            if let Some(activity) = runtime.activity() {
                activity.progress.cancel();
            }
        }
    }
}
