//! The standby side of a transfer: carries out what the engine's [`RecvSession`] decides.
//!
//! 1. The commit runs under the plan's fence: a promotion is either before it, and the commit is refused, or
//!    after it.
//! 2. One session per plan: a new one ends the one before, whose connection is dead.
//!
//! At a crash: what was stored stays in the store, and the next session is told it is not missing.

use std::collections::HashMap;
use std::sync::Arc;

use backstay_engine::plan_state::Transition;
use backstay_engine::recv::{RecvAction, RecvEvent, RecvSession};
use backstay_engine::role::Refusal;
use backstay_net::{Batch, Connection, Control, ControlSend, SessionBatches};
use backstay_store::Ingest;
use backstay_types::frame::{Begin, Commit, Committed, Frame, Offer, Refused, SiteRole};
use backstay_types::point::RestorePoint;
use backstay_types::{Class, Classify, Epoch, PlanName, RestorePointId, limits};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::plans::PlanRecord;
use crate::runtime::PlanRuntime;
use crate::site::Site;
use crate::{DaemonError, clock};

/// Orders and answers between session and store thread: 64 open offers, 256 open batches and the commit.
const QUEUE: usize = limits::OFFERS_OPEN_MAX + limits::BATCHES_OPEN_MAX + 1;

/// What the store thread is told to do.
enum Order {
    Missing(Offer),
    Store(Batch),
    Commit(Box<RestorePoint>),
}

/// What it answers.
enum Answer {
    Missing {
        seq: u32,
        missing: Vec<bool>,
    },
    Stored {
        seq: u32,
        rejected: Vec<u32>,
    },
    Committed(Box<RestorePoint>),
    /// A higher epoch began before the commit.
    Fenced(Epoch),
    Failed(DaemonError),
}

/// One session under way.
struct Receive {
    site: Arc<Site>,
    record: Arc<PlanRecord>,
    begin: Begin,
    origin: backstay_types::SiteId,
    session: RecvSession,
    control: ControlSend,
    /// Batches that arrived and wait for the session's word.
    arrived: HashMap<u32, Batch>,
    orders: mpsc::Sender<Order>,
    answers: mpsc::Receiver<Answer>,
}

impl Site {
    /// Serves a `Begin` of the peer to the end of its session.
    pub(crate) async fn receive(
        self: &Arc<Self>,
        connection: &Connection,
        control: Control,
        begin: Begin,
    ) -> Result<(), DaemonError> {
        let plan = begin.plan.clone();
        let span = tracing::info_span!("receive", %plan, restore_point = %begin.id);
        let runtime = self.runtimes.of(&plan);
        let stop = runtime.replace_session();
        let work = async {
            let _gate = runtime.receive.lock().await;
            self.receive_one(connection, control, begin).await
        };
        tokio::select! {
            outcome = work.instrument(span) => outcome,
            () = stop.cancelled() => Err(DaemonError::Stopping { what: "the session" }),
        }
    }

    async fn receive_one(
        self: &Arc<Self>,
        connection: &Connection,
        mut control: Control,
        begin: Begin,
    ) -> Result<(), DaemonError> {
        let prepared = self.prepare(connection, &begin);
        let (session, record, ingest) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => return refuse(&mut control, error).await,
        };
        let mut batches = connection.register(begin.session);
        let (control, mut frames_of_peer) = control.split();
        let (frames_in, mut frames) = mpsc::channel(QUEUE);
        // Reading a frame cannot be broken off half-way, so it has a task of its own; it ends with `frames`.
        let mut reader = JoinSet::new();
        reader.spawn(async move {
            while let Ok(Some(frame)) = frames_of_peer.recv().await {
                if frames_in.send(frame).await.is_err() {
                    break;
                }
            }
        });
        let (orders, answers) = start_store_thread(self, ingest, &record.name);
        let (site, origin) = (self.clone(), connection.peer().site);
        let mut receive = Receive {
            site,
            record,
            begin,
            origin,
            session,
            control,
            arrived: HashMap::new(),
            orders,
            answers,
        };
        match receive.run(&mut frames, &mut batches).await {
            Ok(()) => Ok(()),
            Err(error) => {
                let refused = Refused::new(&error, None);
                // The peer may be gone; the error at hand is the one that counts.
                drop(receive.control.send(&refused.into()).await);
                Err(error)
            }
        }
    }

    /// Admits the session and opens the store for it.
    fn prepare(
        self: &Arc<Self>,
        connection: &Connection,
        begin: &Begin,
    ) -> Result<(RecvSession, Arc<PlanRecord>, Ingest), DaemonError> {
        let plan = &begin.plan;
        let peer = connection.peer();
        let newest = self.store.newest(plan)?.map(|point| point.id);
        let unknown = || Refusal::UnknownPlan { plan: plan.clone() };
        self.plan_of(peer.pair, plan).ok_or_else(unknown)?;
        // In one with what it changes: a promotion that begins at this moment is before it or after it.
        let admitted = self.plans.decide(plan, |record| {
            let (session, grant) = RecvSession::open(begin.clone(), Some(record.state.local()), newest)?;
            record.apply(Transition::Followed(grant.local.epoch))?;
            Ok(session)
        });
        let (record, session) = self.or_step_down(plan, admitted)?;
        self.runtimes.of(plan).set_peer_epoch(begin.id.epoch);
        let ingest = self.store.begin(record.pair, plan, begin.id)?;
        Ok((session, record, ingest))
    }

    /// What was decided on a request of the peer; if it is refused because this side has to step down first, it begins to.
    pub(crate) fn or_step_down<T>(
        self: &Arc<Self>,
        plan: &PlanName,
        decided: Result<T, DaemonError>,
    ) -> Result<T, DaemonError> {
        if let Err(DaemonError::Refusal(refusal)) = &decided
            && let Some(epoch) = refusal.steps_down_for()
        {
            self.learn_epoch(plan, epoch)?;
        }
        if let Err(DaemonError::Refusal(refusal)) = &decided
            && let Some(claimed) = refusal.leaps_to()
        {
            self.note_leap(plan, claimed)?;
        }
        decided
    }
}

async fn maybe_sleep(pause: Option<std::time::Duration>) {
    match pause {
        Some(pause) => tokio::time::sleep(pause).await,
        None => std::future::pending().await,
    }
}

/// Tells the peer why it is refused, and passes the reason on.
pub(crate) async fn refuse(control: &mut Control, error: DaemonError) -> Result<(), DaemonError> {
    let epoch = match &error {
        DaemonError::Refusal(refusal) => refusal.epoch(),
        _ => None,
    };
    control.send(&Refused::new(&error, epoch).into()).await?;
    control.finish()?;
    Err(error)
}

impl Receive {
    /// Runs the session to its end.
    async fn run(
        &mut self,
        frames: &mut mpsc::Receiver<Frame>,
        batches: &mut SessionBatches,
    ) -> Result<(), DaemonError> {
        loop {
            while let Some(action) = self.session.poll_action() {
                if self.execute(action).await? {
                    return Ok(());
                }
            }
            let pause = self.session.wake().map(|wake| wake.since(clock::now()).to_duration());
            let event = tokio::select! {
                frame = frames.recv() => self.event_of(frame)?,
                batch = batches.recv() => match batch {
                    Some(batch) => self.arrive(batch),
                    None => RecvEvent::ConnectionLost,
                },
                answer = self.answers.recv() => self.event_of_answer(answer)?,
                () = maybe_sleep(pause) => RecvEvent::Tick,
            };
            self.session.handle(event, clock::now());
        }
    }

    fn event_of(&self, frame: Option<Frame>) -> Result<RecvEvent, DaemonError> {
        Ok(match frame {
            Some(Frame::Offer(offer)) => RecvEvent::Offer(offer),
            Some(Frame::Commit(commit)) => RecvEvent::Commit(Box::new(commit)),
            Some(other) => return Err(self.site.unexpected(self.record.pair, &other)),
            None => RecvEvent::ConnectionLost,
        })
    }

    fn arrive(&mut self, batch: Batch) -> RecvEvent {
        let header = batch.header;
        self.arrived.insert(header.seq, batch);
        RecvEvent::Batch { session: header.session, seq: header.seq, count: header.count }
    }

    fn event_of_answer(&self, answer: Option<Answer>) -> Result<RecvEvent, DaemonError> {
        Ok(match answer {
            Some(Answer::Missing { seq, missing }) => RecvEvent::MissingKnown { seq, missing },
            Some(Answer::Stored { seq, rejected }) => RecvEvent::BatchStored { seq, rejected },
            Some(Answer::Committed(point)) => RecvEvent::PointCommitted(committed(&point)),
            Some(Answer::Fenced(epoch)) => RecvEvent::EpochSeen(epoch),
            Some(Answer::Failed(error)) => {
                tracing::error!(class = error.class().label(), "chunks not stored: {error}");
                self.site.metrics.count_error(error.class());
                RecvEvent::StoreFailed(Refused::new(&error, None))
            }
            None => return Err(DaemonError::Worker { what: "the store" }),
        })
    }

    fn order(&self, order: Order) -> Result<(), DaemonError> {
        match self.orders.try_send(order) {
            // A closed one ended with a failure, which waits among the answers.
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
            // Only if the peer broke the bounds that the session keeps.
            Err(mpsc::error::TrySendError::Full(_)) => Err(DaemonError::Worker { what: "the store" }),
        }
    }

    /// Carries one action out; says whether the session is over.
    async fn execute(&mut self, action: RecvAction) -> Result<bool, DaemonError> {
        match action {
            RecvAction::CheckParent(parent) => {
                let held = self.holds(&self.record.name, parent)?;
                self.session.handle(RecvEvent::ParentChecked { held }, clock::now());
            }
            RecvAction::AnswerReady(ready) => self.control.send(&ready.into()).await?,
            RecvAction::QueryMissing(offer) => self.order(Order::Missing(offer))?,
            RecvAction::AnswerMissing(missing) => self.control.send(&missing.into()).await?,
            RecvAction::StoreBatch { seq } => {
                let batch = self.arrived.remove(&seq).ok_or(DaemonError::Worker { what: "the session" })?;
                self.order(Order::Store(batch))?;
            }
            RecvAction::AnswerStored(stored) => self.control.send(&stored.into()).await?,
            RecvAction::CommitPoint(commit) => self.order(Order::Commit(Box::new(self.point(*commit))))?,
            RecvAction::AnswerCommitted(committed) => {
                self.control.send(&committed.into()).await?;
                self.control.finish()?;
                return Ok(true);
            }
            RecvAction::Refuse { refused, error } => {
                let class = Class::from_wire_code(refused.class);
                tracing::warn!(class = class.label(), "session refused: {error}");
                self.control.send(&refused.into()).await?;
                self.control.finish()?;
                return Ok(true);
            }
            RecvAction::Abandon => {
                tracing::info!("connection lost; what came so far is kept for the next session");
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn holds(&self, plan: &PlanName, parent: RestorePointId) -> Result<bool, DaemonError> {
        match self.site.store.point(plan, parent) {
            // One of another key shares no chunk with what comes.
            Ok(point) if point.pair != self.record.pair => Ok(false),
            Ok(point) => Ok(self.site.store.damage(plan, point.id)?.is_none()),
            Err(error) if error.class() == Class::NotFound => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn point(&self, commit: Commit) -> RestorePoint {
        RestorePoint {
            id: self.begin.id,
            pair: self.record.pair,
            plan: self.record.name.clone(),
            origin: self.origin,
            parent: self.begin.parent,
            snapshot_time: commit.snapshot_time,
            committed_time: clock::now(),
            consistency: commit.consistency,
            volumes: commit.volumes,
            bundle: commit.bundle,
            stats: commit.stats,
        }
    }
}

fn committed(point: &RestorePoint) -> Committed {
    Committed { id: point.id, committed_time: point.committed_time }
}

/// The store's blocking work of one session has a thread of its own, so that its order is kept.
/// The thread that has the store's side of a session. It may outlive the session, whose task can be cut off at any
/// point: so the fence is shut here, around the commit, and nowhere else.
fn start_store_thread(
    site: &Arc<Site>,
    ingest: Ingest,
    plan: &PlanName,
) -> (mpsc::Sender<Order>, mpsc::Receiver<Answer>) {
    let (orders, mut todo) = mpsc::channel(QUEUE);
    let (done, answers) = mpsc::channel(QUEUE);
    let span = tracing::Span::current();
    let (owner, plan) = (site.clone(), plan.clone());
    site.tasks.spawn_blocking(move || {
        span.in_scope(|| {
            let mut ingest = Some(ingest);
            while let Some(order) = todo.blocking_recv() {
                let answer = carry_out(&owner, &plan, &mut ingest, order).unwrap_or_else(Answer::Failed);
                let failed = matches!(answer, Answer::Failed(_));
                if done.blocking_send(answer).is_err() || failed {
                    return;
                }
            }
        });
    });
    (orders, answers)
}

fn carry_out(
    site: &Arc<Site>,
    plan: &PlanName,
    ingest: &mut Option<Ingest>,
    order: Order,
) -> Result<Answer, DaemonError> {
    const OVER: DaemonError = DaemonError::Worker { what: "a session after its commit" };
    match order {
        Order::Missing(offer) => {
            let bits = ingest.as_mut().ok_or(OVER)?.missing(&offer.ids)?;
            let missing = backstay_types::frame::Missing { seq: offer.seq, bits };
            Ok(Answer::Missing {
                seq: offer.seq,
                missing: (0..offer.ids.len()).map(|i| missing.contains(i)).collect(),
            })
        }
        Order::Store(batch) => {
            let rejected = ingest.as_mut().ok_or(OVER)?.put_batch(&batch.header, &batch.records)?;
            Ok(Answer::Stored { seq: batch.header.seq, rejected })
        }
        Order::Commit(point) => commit(site, plan, ingest.take().ok_or(OVER)?, *point),
    }
}

/// Commits, unless another epoch began in the meantime.
fn commit(
    site: &Arc<Site>,
    plan: &PlanName,
    ingest: Ingest,
    point: RestorePoint,
) -> Result<Answer, DaemonError> {
    let runtime = site.runtimes.of(plan);
    let _fence = runtime.fence.blocking_lock();
    let now = site.plans.get(plan)?;
    if now.state.epoch() > point.id.epoch || now.state.role() != SiteRole::Standby {
        return Ok(Answer::Fenced(now.state.epoch().max(point.id.epoch.next())));
    }
    let point = ingest.commit(point)?.into_inner();
    let number = point.id.number;
    site.plans.update(plan, |record| record.number = record.number.max(number))?;
    tracing::info!(
        files = point.stats.files_scanned,
        wire_bytes = point.stats.wire_bytes,
        "restore point committed"
    );
    // Here, for the sender may be gone before it hears of it.
    site.after_commit(plan);
    Ok(Answer::Committed(Box::new(point)))
}

/// Ends a session when a newer one begins.
impl PlanRuntime {
    fn replace_session(&self) -> CancellationToken {
        let token = CancellationToken::new();
        if let Some(old) = self.set_session(Some(token.clone())) {
            old.cancel();
        }
        token
    }

    /// Ends the session that is receiving, if one is.
    pub(crate) fn end_session(&self) {
        if let Some(old) = self.set_session(None) {
            old.cancel();
        }
    }
}
