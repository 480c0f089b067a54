//! The world of one transfer: two sessions, the wires between them, a producer, an encoder and a disk.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use backstay_engine::recv::{RecvAction, RecvEvent, RecvSession};
use backstay_engine::role::Local;
use backstay_engine::send::{SendAction, SendEvent, SendSession};
use backstay_types::frame::{Begin, Commit, Committed, Offer, SiteRole};
use backstay_types::point::{Consistency, CycleStats};
use backstay_types::{ChunkId, Epoch, RestorePointId, SessionId, Time, limits};

const ID: RestorePointId = RestorePointId { epoch: Epoch(3), number: 42 };

/// A chunk of the source.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chunk {
    pub(crate) name: u64,
    pub(crate) len: u32,
    /// The receiver has it from before.
    pub(crate) is_held: bool,
    /// The encoder would make a patch of it.
    pub(crate) is_patch: bool,
    /// The patch works out on the other side.
    pub(crate) rebuilds: bool,
}

/// How the world behaves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setting {
    pub(crate) seed: u64,
    /// Connections lost on the way.
    pub(crate) losses: u32,
    /// Compression, as a divisor.
    pub(crate) shrink: u32,
    /// A batch is closed at so many stored bytes.
    pub(crate) batch_bytes: u64,
    /// How often the producer says it is idle.
    pub(crate) idle_percent: u32,
}

impl Setting {
    pub(crate) fn calm(seed: u64) -> Self {
        Self { seed, losses: 0, shrink: 2, batch_bytes: limits::BATCH_BYTES_TARGET as u64, idle_percent: 0 }
    }
}

fn id_of(name: u64) -> ChunkId {
    let mut id = [0; 32];
    id[..8].copy_from_slice(&name.to_le_bytes());
    ChunkId(id)
}

/// `SplitMix64`.
struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

enum ToEncoder {
    Chunk { slot: u64, whole: bool },
    Seal,
}

struct Record {
    id: ChunkId,
    bad: bool,
}

struct Batch {
    seq: u32,
    session: SessionId,
    records: Vec<Record>,
}

/// Work of the receiver's store.
enum Disk {
    Parent,
    Query(Offer),
    Store(Batch),
    Commit,
}

/// What can happen next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Produce,
    Encode,
    ToReceiver,
    ToSender,
    BatchArrives,
    DiskWorks,
    Reconnect,
}

pub(crate) struct World {
    rng: Rng,
    now: Time,
    setting: Setting,
    source: Vec<Chunk>,
    chunk_of: BTreeMap<ChunkId, Chunk>,
    // The sender's side.
    send: SendSession,
    produced: usize,
    started: bool,
    next_slot: u64,
    slots: BTreeMap<u64, Chunk>,
    live_bytes: u64,
    encoder: VecDeque<ToEncoder>,
    open: Vec<(u64, Record)>,
    open_bytes: u64,
    next_batch: u32,
    // Wires.
    to_receiver: VecDeque<RecvEvent>,
    to_sender: VecDeque<SendEvent>,
    batches: Vec<Batch>,
    begins: u64,
    connected: bool,
    // The receiver's side.
    recv: Option<RecvSession>,
    arrived: BTreeMap<u32, Batch>,
    disk: Vec<Disk>,
    stored: BTreeMap<ChunkId, u32>,
    committed: bool,
    finished: bool,
    pub(crate) peak_bytes: u64,
    pub(crate) peak_slots: usize,
    /// A batch that stays on the wire until nothing else can happen.
    pub(crate) stuck_batch: Option<u32>,
}

fn begin(session: u64) -> Begin {
    Begin {
        session: SessionId(session),
        plan: "shop".parse().expect("a name"),
        id: ID,
        parent: Some(RestorePointId { epoch: Epoch(3), number: 41 }),
    }
}

fn commit() -> Box<Commit> {
    Box::new(Commit {
        batches: 0,
        snapshot_time: Time(1),
        consistency: Consistency::Crash,
        volumes: Vec::new(),
        bundle: None,
        stats: CycleStats::default(),
    })
}

impl World {
    pub(crate) fn new(source: Vec<Chunk>, setting: Setting) -> Self {
        let now = Time(1_800_000_000_000);
        let stored =
            source.iter().filter(|chunk| chunk.is_held).map(|chunk| (id_of(chunk.name), 1)).collect();
        let mut world = Self {
            rng: Rng(setting.seed),
            now,
            setting,
            chunk_of: source.iter().map(|chunk| (id_of(chunk.name), *chunk)).collect(),
            source,
            send: SendSession::new(begin(0), now),
            produced: 0,
            started: false,
            next_slot: 0,
            slots: BTreeMap::new(),
            live_bytes: 0,
            encoder: VecDeque::new(),
            open: Vec::new(),
            open_bytes: 0,
            next_batch: 0,
            to_receiver: VecDeque::new(),
            to_sender: VecDeque::new(),
            batches: Vec::new(),
            begins: 0,
            connected: false,
            recv: None,
            arrived: BTreeMap::new(),
            disk: Vec::new(),
            stored,
            committed: false,
            finished: false,
            peak_bytes: 0,
            peak_slots: 0,
            stuck_batch: None,
        };
        world.connect();
        world
    }

    pub(crate) fn is_stored(&self, name: u64) -> bool {
        self.stored.contains_key(&id_of(name))
    }

    /// Runs to the end; panics if that takes more than so many steps or nothing can happen any more.
    pub(crate) fn drive_bounded(&mut self, steps_max: u32) {
        for _ in 0..steps_max {
            if self.finished {
                assert!(self.committed);
                return;
            }
            self.step();
        }
        panic!("not finished after {steps_max} steps: {:?}", self.send);
    }

    fn step(&mut self) {
        self.now = Time(self.now.0 + 1);
        if self.connected && self.setting.losses > 0 && self.rng.below(200) == 0 {
            self.setting.losses -= 1;
            self.lose_connection();
            return;
        }
        let steps = self.possible();
        assert!(!steps.is_empty(), "nothing can happen any more: {:?} {:?}", self.send, self.recv);
        let at = self.rng.below(steps.len() as u64);
        match steps[usize::try_from(at).expect("fits")] {
            Step::Produce => self.produce(),
            Step::Encode => self.encode(),
            Step::ToReceiver => {
                let event = self.to_receiver.pop_front().expect("checked");
                self.receive(event);
            }
            Step::ToSender => {
                let event = self.to_sender.pop_front().expect("checked");
                self.tell_sender(event);
            }
            Step::BatchArrives => self.batch_arrives(),
            Step::DiskWorks => self.disk_works(),
            Step::Reconnect => self.connect(),
        }
    }

    fn possible(&self) -> Vec<Step> {
        if !self.connected {
            return vec![Step::Reconnect];
        }
        let moves = self.batches.iter().any(|batch| Some(batch.seq) != self.stuck_batch);
        let can_produce = self.started && (self.send.wants_more() || self.produced == self.source.len());
        let mut steps: Vec<Step> = [
            (Step::Produce, can_produce && self.produced <= self.source.len()),
            (Step::Encode, !self.encoder.is_empty()),
            (Step::ToReceiver, !self.to_receiver.is_empty()),
            (Step::ToSender, !self.to_sender.is_empty()),
            (Step::BatchArrives, moves),
            (Step::DiskWorks, !self.disk.is_empty()),
        ]
        .into_iter()
        .filter_map(|(step, possible)| possible.then_some(step))
        .collect();
        if steps.is_empty() && !self.batches.is_empty() {
            steps.push(Step::BatchArrives);
        }
        steps
    }

    fn connect(&mut self) {
        self.connected = true;
        if self.committed {
            // What a daemon learns from `QueryPlan` before it begins again.
            self.finished = true;
            return;
        }
        self.begins += 1;
        self.produced = 0;
        self.next_batch = 0;
        self.send = SendSession::new(begin(self.begins), self.now);
        self.drain_sender();
    }

    fn lose_connection(&mut self) {
        self.connected = false;
        self.started = false;
        self.slots.clear();
        self.live_bytes = 0;
        self.encoder.clear();
        self.open.clear();
        self.open_bytes = 0;
        self.to_receiver.clear();
        self.to_sender.clear();
        self.batches.clear();
        self.arrived.clear();
        self.send.handle(SendEvent::ConnectionLost, self.now);
        assert!(matches!(self.send.poll_action(), Some(SendAction::Failed(_)) | None));
        if let Some(recv) = &mut self.recv {
            recv.handle(RecvEvent::ConnectionLost, self.now);
        }
        // What the disk had begun it finishes.
        for work in std::mem::take(&mut self.disk) {
            match work {
                Disk::Store(batch) => drop(self.store(&batch)),
                Disk::Commit => self.committed = true,
                Disk::Parent | Disk::Query(_) => {}
            }
        }
        self.recv = None;
    }

    fn produce(&mut self) {
        if self.produced == self.source.len() {
            self.produced += 1;
            self.tell_sender(SendEvent::ScanDone(commit()));
            return;
        }
        if self.rng.below(100) < u64::from(self.setting.idle_percent) {
            self.tell_sender(SendEvent::ProducerIdle);
            return;
        }
        let chunk = self.source[self.produced];
        self.produced += 1;
        let slot = self.next_slot;
        self.next_slot += 1;
        self.slots.insert(slot, chunk);
        self.live_bytes += u64::from(chunk.len);
        self.peak_bytes = self.peak_bytes.max(self.live_bytes);
        self.peak_slots = self.peak_slots.max(self.slots.len());
        assert!(self.live_bytes <= limits::SEND_WINDOW_BYTES, "{} bytes in slots", self.live_bytes);
        self.tell_sender(SendEvent::Chunk { slot, id: id_of(chunk.name), len: chunk.len });
    }

    fn tell_sender(&mut self, event: SendEvent) {
        self.send.handle(event, self.now);
        self.drain_sender();
    }

    fn drain_sender(&mut self) {
        while let Some(action) = self.send.poll_action() {
            match action {
                SendAction::SendBegin(begin) => self.open_receiver(begin),
                SendAction::Start { has_parent } => {
                    assert!(has_parent);
                    self.started = true;
                }
                SendAction::SendOffer(offer) => self.to_receiver.push_back(RecvEvent::Offer(offer)),
                SendAction::SendChunks { slots, whole } => {
                    self.encoder.extend(slots.into_iter().map(|slot| ToEncoder::Chunk { slot, whole }));
                }
                SendAction::SealBatch => self.encoder.push_back(ToEncoder::Seal),
                SendAction::Release { slot } => {
                    let chunk = self.slots.remove(&slot).expect("released once");
                    self.live_bytes -= u64::from(chunk.len);
                }
                SendAction::SendCommit(commit) => {
                    assert!(self.slots.is_empty(), "all is known to be there at the commit");
                    assert_eq!(commit.batches, self.next_batch);
                    self.to_receiver.push_back(RecvEvent::Commit(commit));
                }
                SendAction::Finished(committed) => {
                    assert_eq!(committed.id, ID);
                    self.finished = true;
                }
                SendAction::Failed(error) => panic!("failed to send: {error}"),
            }
        }
    }

    fn encode(&mut self) {
        match self.encoder.pop_front().expect("checked") {
            ToEncoder::Seal => self.seal(),
            ToEncoder::Chunk { slot, whole } => {
                let chunk = self.slots[&slot];
                let bad = chunk.is_patch && !chunk.rebuilds && !whole;
                self.open.push((slot, Record { id: id_of(chunk.name), bad }));
                self.open_bytes += u64::from(chunk.len / self.setting.shrink);
                if self.open_bytes >= self.setting.batch_bytes || self.open.len() == limits::BATCH_RECORDS_MAX
                {
                    self.seal();
                }
            }
        }
    }

    fn seal(&mut self) {
        self.open_bytes = 0;
        let (slots, records): (Vec<u64>, Vec<Record>) = std::mem::take(&mut self.open).into_iter().unzip();
        if slots.is_empty() {
            return;
        }
        let seq = self.next_batch;
        self.next_batch += 1;
        self.batches.push(Batch { seq, session: SessionId(self.begins), records });
        self.tell_sender(SendEvent::BatchSealed { seq, slots });
    }

    fn open_receiver(&mut self, begin: Begin) {
        let local = Local { role: SiteRole::Standby, epoch: Epoch(3) };
        let newest = begin.parent;
        let (session, grant) = RecvSession::open(begin, Some(local), newest).expect("admitted");
        assert!(!grant.is_new);
        self.recv = Some(session);
        self.drain_receiver();
    }

    fn receive(&mut self, event: RecvEvent) {
        self.recv.as_mut().expect("a session is open").handle(event, self.now);
        self.drain_receiver();
    }

    fn drain_receiver(&mut self) {
        while let Some(action) = self.recv.as_mut().and_then(RecvSession::poll_action) {
            match action {
                RecvAction::CheckParent(_) => self.disk.push(Disk::Parent),
                RecvAction::AnswerReady(ready) => self.to_sender.push_back(SendEvent::Ready(ready)),
                RecvAction::QueryMissing(offer) => self.disk.push(Disk::Query(offer)),
                RecvAction::AnswerMissing(missing) => self.to_sender.push_back(SendEvent::Missing(missing)),
                RecvAction::StoreBatch { seq } => {
                    let batch = self.arrived.remove(&seq).expect("it came");
                    self.disk.push(Disk::Store(batch));
                }
                RecvAction::AnswerStored(stored) => self.to_sender.push_back(SendEvent::Stored(stored)),
                RecvAction::CommitPoint(commit) => {
                    assert_eq!(commit.batches, self.next_batch);
                    for chunk in &self.source {
                        assert!(self.is_stored(chunk.name), "committed without chunk {}", chunk.name);
                    }
                    self.disk.push(Disk::Commit);
                }
                RecvAction::AnswerCommitted(committed) => {
                    self.to_sender.push_back(SendEvent::Committed(committed));
                }
                RecvAction::Refuse { error, .. } => panic!("refused: {error}"),
                RecvAction::Abandon => {}
            }
        }
    }

    fn batch_arrives(&mut self) {
        let free: Vec<usize> = (0..self.batches.len())
            .filter(|at| self.batches.len() == 1 || Some(self.batches[*at].seq) != self.stuck_batch)
            .collect();
        let pick = free[usize::try_from(self.rng.below(free.len() as u64)).expect("fits")];
        let batch = self.batches.swap_remove(pick);
        let (seq, session) = (batch.seq, batch.session);
        let count = u32::try_from(batch.records.len()).expect("fits");
        self.arrived.insert(seq, batch);
        self.receive(RecvEvent::Batch { session, seq, count });
    }

    fn disk_works(&mut self) {
        let at = usize::try_from(self.rng.below(self.disk.len() as u64)).expect("fits");
        let event = match self.disk.swap_remove(at) {
            Disk::Parent => RecvEvent::ParentChecked { held: true },
            Disk::Query(offer) => {
                let ids: BTreeSet<&ChunkId> = offer.ids.iter().collect();
                assert_eq!(ids.len(), offer.ids.len(), "an id once per offer");
                let missing = offer.ids.iter().map(|id| !self.stored.contains_key(id)).collect();
                RecvEvent::MissingKnown { seq: offer.seq, missing }
            }
            Disk::Store(batch) => {
                let rejected = self.store(&batch);
                RecvEvent::BatchStored { seq: batch.seq, rejected }
            }
            Disk::Commit => {
                self.committed = true;
                RecvEvent::PointCommitted(Committed { id: ID, committed_time: self.now })
            }
        };
        self.receive(event);
    }

    fn store(&mut self, batch: &Batch) -> Vec<u32> {
        let mut rejected = Vec::new();
        for (position, record) in (0_u32..).zip(&batch.records) {
            if record.bad {
                rejected.push(position);
                continue;
            }
            assert!(self.chunk_of.contains_key(&record.id), "a chunk of the source");
            let times = self.stored.entry(record.id).or_default();
            *times += 1;
            assert_eq!(*times, 1, "chunk {} is stored once", record.id);
        }
        rejected
    }
}
