//! The sending half of a cycle: carries out what the engine's [`SendSession`] decides.
//!
//! One task owns the session. Encoding runs on the blocking pool, batches travel beside the control stream, and
//! everything comes back here as an event. Memory: the session's window of raw chunks, and up to
//! [`ENCODING_MAX`] + [`SENDING_MAX`] batches of about 2 MiB.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use backstay_engine::send::{SendAction, SendError, SendEvent, SendSession};
use backstay_net::{BatchSendError, Connection, ControlSend, StreamError};
use backstay_types::frame::batch::{BatchRecord, BatchWriter};
use backstay_types::frame::{Begin, Commit, Committed, Frame};
use backstay_types::{Class, Time, limits};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};

use super::encode::{self, Encoded, Work};
use super::produce::{self, Chunk, Done, End, Job, Produced};
use crate::api_types::CyclePhase;
use crate::meter::Metered;
use crate::runtime::Activity;
use crate::site::Site;
use crate::{DaemonError, clock};

/// Encoding jobs at once: one for each core of a small machine.
const ENCODING_MAX: usize = 2;
/// Batches on their way at once: 8 × 2 MiB.
const SENDING_MAX: usize = 8;
/// Frames of the peer that wait to be handled.
const FRAMES_QUEUED: usize = 64;

/// What came of a transfer.
pub(super) struct Sent {
    pub(super) commit: Commit,
    pub(super) committed_time: Time,
}

/// One transfer under way.
pub(super) struct Transfer<'a> {
    site: &'a Arc<Site>,
    connection: Connection,
    peer: String,
    meter: &'a Metered,
    session: SendSession,
    /// Begin of the session, and the job to start once the receiver is ready.
    begin: Begin,
    job: Option<Job>,
    control: ControlSend,
    slots: HashMap<u64, Arc<Chunk>>,
    next_slot: u64,
    /// Handed out and not yet given to an encoder.
    waiting: VecDeque<Work>,
    waiting_bytes: usize,
    encoding: JoinSet<(u64, std::io::Result<Vec<Encoded>>)>,
    /// Encoded groups that finished before one in front of them; and the numbers that keep their order.
    encoded: HashMap<u64, Vec<Encoded>>,
    next_group: u64,
    next_packed: u64,
    batch: BatchWriter,
    batch_slots: Vec<u64>,
    seal: bool,
    next_batch: u32,
    sending: JoinSet<Result<(), BatchSendError>>,
    commit: Option<Commit>,
    activity: Arc<Activity>,
}

/// The producer once it runs.
type Producer = (JoinHandle<Result<Done, DaemonError>>, mpsc::Receiver<Produced>);

impl<'a> Transfer<'a> {
    /// Opens the session on the wire and runs it to its end.
    pub(super) async fn run(
        site: &'a Arc<Site>,
        connection: Connection,
        begin: Begin,
        job: Job,
        meter: &'a Metered,
    ) -> Result<(Sent, Done), DaemonError> {
        let peer = site.peer(job.record.pair)?.name.clone();
        let activity = job.activity.clone();
        let mut session = SendSession::new(begin.clone(), clock::now());
        let Some(SendAction::SendBegin(first)) = session.poll_action() else {
            return Err(DaemonError::Worker { what: "the session" });
        };
        let (control, mut frames_of_peer) = connection.open(Frame::Begin(first)).await?.split();
        let (frames_in, mut frames) = mpsc::channel(FRAMES_QUEUED);
        // Reading a frame cannot be broken off half-way, so it has a task of its own; it ends with `frames`.
        let mut reader = JoinSet::new();
        reader.spawn(async move {
            while let Ok(Some(frame)) = frames_of_peer.recv().await {
                if frames_in.send(frame).await.is_err() {
                    break;
                }
            }
        });
        let mut transfer = Self {
            site,
            connection,
            peer,
            meter,
            session,
            begin,
            job: Some(job),
            control,
            slots: HashMap::new(),
            next_slot: 0,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            encoding: JoinSet::new(),
            encoded: HashMap::new(),
            next_group: 0,
            next_packed: 0,
            batch: BatchWriter::new(),
            batch_slots: Vec::new(),
            seal: false,
            next_batch: 0,
            sending: JoinSet::new(),
            commit: None,
            activity,
        };
        let mut producer = None;
        let outcome = transfer.drive(&mut frames, &mut producer).await;
        transfer.count();
        let Some((task, chunks)) = producer else {
            return Err(outcome.err().unwrap_or(DaemonError::Worker { what: "the session" }));
        };
        // Nobody takes its chunks any more: it ends, also in the middle of a walk, and releases the snapshots.
        if outcome.is_err() {
            transfer.activity.progress.cancel();
        }
        drop(chunks);
        let produced = task.await.map_err(|_| DaemonError::Worker { what: "reading the volumes" })?;
        match (produced, outcome) {
            // A producer that failed by itself is the cause; one that was stopped is a consequence.
            (Err(error), _) if !error.is_consequence() => Err(error),
            (Err(error), Err(other)) if other.is_consequence() => Err(error),
            (_, Err(error)) | (Err(error), Ok(_)) => Err(error),
            (Ok(done), Ok(sent)) => Ok((sent, done)),
        }
    }

    fn count(&self) {
        let progress = self.session.progress();
        self.site.metrics.count_chunks("sent", progress.chunks_stored);
        self.site.metrics.count_chunks("held", progress.chunks_held);
        self.site.metrics.count_chunks("refused", progress.patches_rejected);
    }

    async fn drive(
        &mut self,
        frames: &mut mpsc::Receiver<Frame>,
        producer: &mut Option<Producer>,
    ) -> Result<Sent, DaemonError> {
        let mut ended = false;
        let mut idle = false;
        loop {
            self.pump()?;
            if let Some(action) = self.session.poll_action() {
                let done = match self.execute(action, producer).await {
                    // What was to be sent was turned away, as a batch may be.
                    Err(DaemonError::Stream(error @ StreamError::Stopped { .. })) => {
                        return Err(self.cause(frames, error.into()).await);
                    }
                    done => done?,
                };
                if let Some(committed) = done {
                    let commit = self.commit.take().ok_or(DaemonError::Worker { what: "the commit" })?;
                    return Ok(Sent { commit, committed_time: committed.committed_time });
                }
                continue;
            }
            let pause = self
                .session
                .wake()
                .map_or(limits_of_patience(), |wake| wake.since(clock::now()).to_duration());
            let takes = !ended && self.session.wants_more();
            let event = tokio::select! {
                biased;
                frame = frames.recv() => self.event_of(frame)?,
                Some(group) = self.encoding.join_next() => {
                    self.keep(group)?;
                    continue;
                }
                Some(sent) = self.sending.join_next() => match sent {
                    Ok(Ok(())) => continue,
                    Ok(Err(error)) => return Err(self.cause(frames, error.into()).await),
                    Err(_) => return Err(DaemonError::Worker { what: "sending a batch" }),
                },
                produced = next_of(producer), if takes => {
                    idle = false;
                    match produced {
                        Some(Produced::Chunk(chunk)) => self.take(chunk),
                        Some(Produced::End(end)) => {
                            ended = true;
                            SendEvent::ScanDone(Box::new(commit_of(*end)))
                        }
                        // The producer failed: its own error says why.
                        None => return Err(DaemonError::Volume(backstay_volume::VolumeError::SinkClosed)),
                    }
                }
                () = tokio::time::sleep(IDLE_AFTER), if takes && !idle => {
                    idle = true;
                    SendEvent::ProducerIdle
                }
                () = tokio::time::sleep(pause) => SendEvent::Tick,
                _ = self.connection.closed() => SendEvent::ConnectionLost,
            };
            self.session.handle(event, clock::now());
        }
    }

    /// Fills a slot.
    fn take(&mut self, chunk: Chunk) -> SendEvent {
        let slot = self.next_slot;
        self.next_slot += 1;
        let (id, len) = (chunk.id, u32::try_from(chunk.bytes.len()).unwrap_or(u32::MAX));
        self.slots.insert(slot, Arc::new(chunk));
        SendEvent::Chunk { slot, id, len }
    }

    fn event_of(&self, frame: Option<Frame>) -> Result<SendEvent, DaemonError> {
        Ok(match frame {
            Some(Frame::Ready(ready)) => SendEvent::Ready(ready),
            Some(Frame::Refused(refused)) => return Err(DaemonError::refused(&self.peer, refused)),
            Some(Frame::Missing(missing)) => SendEvent::Missing(missing),
            Some(Frame::Stored(stored)) => SendEvent::Stored(stored),
            Some(Frame::Committed(committed)) => SendEvent::Committed(committed),
            Some(other) => {
                let why = format!("frame {} is out of place in a session", other.name());
                return Err(DaemonError::Peer { peer: self.peer.clone(), class: Class::Incompatible, why });
            }
            None => SendEvent::ConnectionLost,
        })
    }

    /// Why a batch or a frame was not taken: a receiver that ended the session says so on the control stream, and the word
    /// may arrive after what was sent was turned away.
    async fn cause(&self, frames: &mut mpsc::Receiver<Frame>, error: DaemonError) -> DaemonError {
        let refusal = async {
            while let Some(frame) = frames.recv().await {
                if let Frame::Refused(refused) = frame {
                    return Some(refused);
                }
            }
            None
        };
        match tokio::time::timeout(REFUSAL_WITHIN, refusal).await {
            Ok(Some(refused)) => DaemonError::refused(&self.peer, refused),
            Ok(None) | Err(_) => error,
        }
    }

    async fn execute(
        &mut self,
        action: SendAction,
        producer: &mut Option<Producer>,
    ) -> Result<Option<Committed>, DaemonError> {
        match action {
            SendAction::SendBegin(begin) => self.control.send(&begin.into()).await?,
            SendAction::Start { has_parent } => {
                let mut job = self.job.take().ok_or(DaemonError::Worker { what: "the session" })?;
                job.parent = self.begin.parent.filter(|_| has_parent);
                job.activity.enter(CyclePhase::Snapshot, 0);
                *producer = Some(produce::start(self.site, job));
            }
            SendAction::SendOffer(offer) => {
                self.meter.sent(32 * offer.ids.len() as u64);
                self.control.send(&offer.into()).await?;
            }
            SendAction::SendChunks { slots, whole } => self.enqueue(slots, whole)?,
            SendAction::SealBatch => self.seal = true,
            SendAction::Release { slot } => {
                self.slots.remove(&slot);
            }
            SendAction::SendCommit(mut commit) => {
                commit.stats.wire_bytes = self.meter.wire().total();
                self.commit = Some((*commit).clone());
                // From here on the number may be taken over there, whether this side hears of it or not.
                let id = self.begin.id;
                self.site
                    .plans
                    .update(&self.begin.plan, |record| record.number = record.number.max(id.number))?;
                self.control.send(&(*commit).into()).await?;
            }
            SendAction::Finished(committed) => return Ok(Some(committed)),
            SendAction::Failed(SendError::Refused(refused)) => {
                return Err(DaemonError::refused(&self.peer, refused));
            }
            SendAction::Failed(error) => return Err(DaemonError::decision(&error)),
        }
        Ok(None)
    }

    fn enqueue(&mut self, slots: Vec<u64>, whole: bool) -> Result<(), DaemonError> {
        for slot in slots {
            let chunk = self.slots.get(&slot).ok_or(DaemonError::Worker { what: "the session" })?.clone();
            self.waiting_bytes += chunk.bytes.len();
            self.waiting.push_back(Work { slot, chunk, whole });
        }
        Ok(())
    }

    /// Moves chunks on: to the encoders, into batches, onto the wire.
    fn pump(&mut self) -> Result<(), DaemonError> {
        while let Some(group) = self.encoded.remove(&self.next_packed) {
            self.next_packed += 1;
            for record in group {
                self.pack(&record)?;
            }
        }
        let room = |this: &Self| {
            this.encoding.len() + this.encoded.len() < ENCODING_MAX && this.sending.len() < SENDING_MAX
        };
        while room(self)
            && (self.waiting_bytes >= limits::BATCH_BYTES_TARGET || (self.seal && !self.waiting.is_empty()))
        {
            self.start_encoding();
        }
        if self.seal && self.waiting.is_empty() && self.encoding.is_empty() && self.encoded.is_empty() {
            self.seal = false;
            self.close_batch();
        }
        Ok(())
    }

    fn start_encoding(&mut self) {
        let mut group = Vec::new();
        let mut bytes = 0;
        while bytes < limits::BATCH_BYTES_TARGET
            && let Some(work) = self.waiting.pop_front()
        {
            bytes += work.chunk.bytes.len();
            group.push(work);
        }
        self.waiting_bytes -= bytes;
        let number = self.next_group;
        self.next_group += 1;
        self.encoding.spawn_blocking(move || (number, encode::encode(group)));
    }

    fn keep(
        &mut self,
        group: Result<(u64, std::io::Result<Vec<Encoded>>), tokio::task::JoinError>,
    ) -> Result<(), DaemonError> {
        let (number, encoded) = group.map_err(|_| DaemonError::Worker { what: "encoding" })?;
        let encoded = encoded.map_err(|source| DaemonError::Encode { source })?;
        self.encoded.insert(number, encoded);
        Ok(())
    }

    fn pack(&mut self, encoded: &Encoded) -> Result<(), DaemonError> {
        if self.batch.is_full() {
            self.close_batch();
        }
        let (id, raw_len, codec) = (encoded.id, encoded.raw_len, encoded.codec);
        let record = BatchRecord { id, raw_len, codec, stored: &encoded.stored };
        self.batch.push(record).map_err(|error| DaemonError::decision(&error))?;
        self.batch_slots.push(encoded.slot);
        Ok(())
    }

    fn close_batch(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let seq = self.next_batch;
        self.next_batch += 1;
        let bytes = std::mem::take(&mut self.batch).finish(self.begin.session, seq);
        let slots = std::mem::take(&mut self.batch_slots);
        self.meter.sent(bytes.len() as u64);
        self.session.handle(SendEvent::BatchSealed { seq, slots }, clock::now());
        let connection = self.connection.clone();
        self.sending.spawn(async move { connection.send_batch(bytes).await });
    }
}

/// How long a refusal may take to arrive after a batch was turned away because of it.
const REFUSAL_WITHIN: std::time::Duration = std::time::Duration::from_secs(5);

/// A producer that gave nothing for so long is idle: what was gathered goes out.
const IDLE_AFTER: std::time::Duration = std::time::Duration::from_millis(20);

/// While nothing is owed there is nothing to wait for but events.
const fn limits_of_patience() -> std::time::Duration {
    backstay_engine::send::PATIENCE.to_duration()
}

async fn next_of(producer: &mut Option<Producer>) -> Option<Produced> {
    match producer {
        Some((_, chunks)) => chunks.recv().await,
        None => std::future::pending().await,
    }
}

fn commit_of(end: End) -> Commit {
    Commit {
        batches: 0,
        snapshot_time: end.snapshot_time,
        consistency: end.consistency,
        volumes: end.volumes,
        bundle: end.bundle,
        stats: end.stats,
    }
}
