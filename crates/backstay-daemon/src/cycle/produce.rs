//! The producing half of a cycle, on a thread of its own: snapshots every volume and captures the objects in
//! the same instant, then walks, reads and chunks.

use std::sync::Arc;
use std::time::Duration;

use backstay_engine::consistency::{Verdict, VolumeView, Writers, best, derive};
use backstay_kube::folder::{self, CapturedObject};
use backstay_types::plan::{CommandAtomicity, MinimumConsistency, SnapshotKind, VolumeSpec};
use backstay_types::point::{Bundle, Consistency, CycleStats, PointVolume};
use backstay_types::{ChunkId, PlanName, RestorePointId, Span, Time, VolumeName};
use backstay_volume::{
    ChunkSink, ParentUse, PatchBase, PendingState, QuietMark, SentState, SinkClosed, Snapshot, VolumeContext,
};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use super::objects::{PendingObjects, SentObjects};
use super::passes::{self, Judging, Proven};
use super::sources::{ClusterSource, Sources};
use crate::api_types::CyclePhase;
use crate::plans::{PlanRecord, Seen};
use crate::runtime::Activity;
use crate::site::Site;
use crate::{DaemonError, clock};

/// Chunks between the reading thread and the session: 32 × 256 KiB = 8 MiB at most.
const QUEUE_CHUNKS: usize = 32;

/// The objects of a frozen application are captured within this, or the cycle fails: 31 000 Secrets take 3 s.
const FREEZE_MAX: Duration = Duration::from_secs(60);
/// Those of one that is not frozen.
const CAPTURE_MAX: Duration = Duration::from_secs(1800);

/// What to read.
pub(super) struct Job {
    pub(super) record: Arc<PlanRecord>,
    pub(super) sources: Sources,
    /// One for each volume, in order.
    pub(super) sent: Vec<SentState>,
    pub(super) objects: SentObjects,
    /// The point the receiver holds whole; states of another point are not used.
    pub(super) parent: Option<RestorePointId>,
    /// Whether what was sent last may describe what is sent now, although the receiver does not hold it whole.
    pub(super) describe_by_parent: bool,
    pub(super) activity: Arc<Activity>,
}

/// What the session gets from the producer.
pub(super) enum Produced {
    /// A chunk, to be sent if the receiver lacks it.
    Chunk(Chunk),
    /// That was all.
    End(Box<End>),
}

/// One chunk.
pub(super) struct Chunk {
    pub(super) id: ChunkId,
    pub(super) bytes: Vec<u8>,
    pub(super) base: Option<PatchBase>,
}

/// What the restore point consists of.
pub(super) struct End {
    pub(super) snapshot_time: Time,
    pub(super) consistency: Consistency,
    /// Whether anything is known to have been written while it was read.
    pub(super) disturbed: bool,
    pub(super) volumes: Vec<PointVolume>,
    pub(super) bundle: Option<Bundle>,
    pub(super) stats: CycleStats,
}

/// What is kept until the receiver has acknowledged.
pub(super) struct Done {
    pub(super) pending: Vec<PendingState>,
    pub(super) objects: Option<PendingObjects>,
    pub(super) seen: Seen,
}

/// Starts the producer. It ends early when nobody takes its chunks any more.
pub(super) fn start(
    site: &Arc<Site>,
    job: Job,
) -> (JoinHandle<Result<Done, DaemonError>>, mpsc::Receiver<Produced>) {
    let (sender, receiver) = mpsc::channel(QUEUE_CHUNKS);
    let span = tracing::Span::current();
    let site_of_task = site.clone();
    let task = site.tasks.spawn_blocking(move || span.in_scope(|| job.run(&site_of_task, sender)));
    (task, receiver)
}

struct Sink(mpsc::Sender<Produced>);

impl ChunkSink for Sink {
    fn chunk(&mut self, id: ChunkId, bytes: Vec<u8>, base: Option<PatchBase>) -> Result<(), SinkClosed> {
        self.0.blocking_send(Produced::Chunk(Chunk { id, bytes, base })).map_err(|_| SinkClosed)
    }
}

impl Job {
    fn run(mut self, site: &Site, sender: mpsc::Sender<Produced>) -> Result<Done, DaemonError> {
        // A side that steps down keeps what it has also when the pair was removed meanwhile.
        let peer = site.last_peer(self.record.pair)?;
        let spec = &self.record.spec;
        let minimum = self.record.minimum();
        let context = VolumeContext {
            plan: self.record.name.clone(),
            key: peer.hash_key.clone(),
            params: peer.params,
            allow_fuzzy: minimum == MinimumConsistency::Fuzzy,
            allow_empty: spec.allow_empty,
        };
        let progress = &self.activity.progress;

        let held = self.sources.held.take();
        let on_cluster = self.sources.cluster.take();
        let marks = passes::mark(&self.sources.volumes)?;
        let Taken { snapshot_time, writers, snapshots, objects } =
            self.take(site, &context, marks, on_cluster, held)?;
        let mut judging = Judging { writers, minimum, one_group: is_one_group(&self.sources.volumes) };
        let names: Vec<VolumeName> = self.sources.volumes.iter().map(|volume| volume.name.clone()).collect();
        let begun = judging.begun(&names, &snapshots);
        // What can come to nothing is not read first.
        self.check(best(&begun, &judging.writers), minimum)?;
        let mut scanned = Vec::with_capacity(snapshots.len());
        for snapshot in snapshots {
            scanned.push(snapshot.scan(progress)?);
        }
        let seen = self.guard(site, &scanned, objects.as_deref())?;
        self.activity
            .enter(CyclePhase::Transfer, scanned.iter().map(|volume| volume.totals().read_bytes).sum());
        let mut sink = Sink(sender);
        let mut done = Done { pending: Vec::new(), objects: None, seen };
        let mut end = End {
            snapshot_time,
            consistency: Consistency::Fuzzy,
            disturbed: false,
            volumes: Vec::new(),
            bundle: None,
            stats: CycleStats::default(),
        };
        let mut reads = Vec::with_capacity(scanned.len());
        for volume in scanned {
            reads.push(volume.read(&mut sink, progress)?);
        }
        let Proven { reads, views, writers, disturbed } = judging.prove(reads, &mut sink, progress)?;
        judging.writers = writers;
        (end.consistency, end.disturbed) = (self.judge(&views, &judging)?, disturbed);
        for read in reads {
            end.stats.files_scanned += read.stats.files_scanned;
            end.stats.bytes_scanned += read.stats.bytes_scanned;
            end.stats.bytes_changed += read.stats.bytes_changed;
            if let Some(warning) = read.warning {
                tracing::warn!("volume {}: {warning}", read.volume.name);
            }
            end.volumes.push(read.volume);
            done.pending.push(read.pending);
        }
        if let Some(objects) = objects {
            let objects = objects.into_iter().map(|object| (object.key, object.bytes));
            let mut known = self.objects.sink(self.parent, &mut sink);
            end.bundle = Some(backstay_volume::write_bundle(objects, &context, &mut known)?);
            done.objects = Some(known.pending(&self.objects));
        }
        end.stats.duration_millis = clock::now().since(self.activity.started).0;
        let closed = sink.0.blocking_send(Produced::End(Box::new(end))).is_err();
        if closed { Err(DaemonError::Volume(SinkClosed.into())) } else { Ok(done) }
    }

    /// The word of the point, if the plan accepts it.
    fn judge(&self, views: &[VolumeView], judging: &Judging) -> Result<Consistency, DaemonError> {
        let verdict = derive(views, &judging.writers);
        if let Some(below) = &verdict.below {
            let why = below.to_string();
            tracing::info!(consistency = %verdict.word, "{why}");
            // Only the first of a cycle counts, and there is one.
            let _first = self.activity.below.set(why);
        }
        self.check(verdict, judging.minimum)
    }

    fn check(&self, verdict: Verdict, minimum: MinimumConsistency) -> Result<Consistency, DaemonError> {
        let Verdict { word, below } = verdict;
        if word.reaches(minimum) {
            return Ok(word);
        }
        let (why, may_pass) = match below {
            Some(below) => (below.to_string(), below.may_pass),
            None => (
                "no rule with `stopsWrites: true` held every writer until the last volume was cut".to_owned(),
                false,
            ),
        };
        Err(DaemonError::BelowMinimum { plan: self.record.name.clone(), word, minimum, why, may_pass })
    }

    /// Snapshots every volume and captures the objects while the application is frozen, and no longer.
    fn take(
        &self,
        site: &Site,
        context: &VolumeContext,
        marks: Vec<QuietMark>,
        on_cluster: Option<ClusterSource>,
        held: Option<Vec<CapturedObject>>,
    ) -> Result<Taken, DaemonError> {
        let frozen = match &on_cluster {
            Some(source) => Handle::current().block_on(source.freeze())?,
            None => None,
        };
        let patience = if frozen.is_some() { FREEZE_MAX } else { CAPTURE_MAX };
        let taken = self.take_at_once(site, context, marks, on_cluster, held, patience);
        let Some(frozen) = frozen else { return taken };
        let thawed = Handle::current().block_on(frozen.thaw());
        // What failed first is the cause; what could not be undone is recorded, and tried again by the next cycle.
        let mut taken = taken.inspect_err(|_| {
            if let Err(error) = &thawed {
                tracing::warn!("not thawed: {error}");
            }
        })?;
        let report = thawed?;
        // Only the first of a cycle counts, and there is one.
        let _first = self.activity.freeze.set(report.length);
        tracing::info!(pods = report.pods, held = %report.held, length = %report.length, "application frozen and thawed");
        report.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        if report.writers_stopped {
            taken.writers = Writers::Stopped;
        }
        Ok(taken)
    }

    fn take_at_once(
        &self,
        site: &Site,
        context: &VolumeContext,
        marks: Vec<QuietMark>,
        on_cluster: Option<ClusterSource>,
        held: Option<Vec<CapturedObject>>,
        patience: Duration,
    ) -> Result<Taken, DaemonError> {
        let snapshot_time = clock::now();
        let capture = on_cluster.map(|source| capture(site, &self.record.name, source));
        let volumes = &self.sources.volumes;
        let mut snapshots = Vec::with_capacity(volumes.len());
        for ((volume, sent), mark) in volumes.iter().zip(&self.sent).zip(marks) {
            let parent = match self.parent {
                Some(parent) if sent.parent_id() == Some(parent) => ParentUse::Held,
                // It may have most of it: what is new is described by it, and what is not is offered.
                _ if self.describe_by_parent => ParentUse::Guessed,
                _ => ParentUse::None,
            };
            snapshots.push(backstay_volume::snapshot_since(volume, context, sent, parent, mark)?);
        }
        let objects = match (held, capture, &self.sources.manifests) {
            (Some(held), _, _) => Some(held),
            (None, Some(capture), _) => {
                let captured = async { tokio::time::timeout(patience, capture).await };
                let captured =
                    Handle::current().block_on(captured).map_err(|_| DaemonError::CaptureSlow {
                        plan: self.record.name.clone(),
                        within: Span::from_secs(patience.as_secs()),
                    })?;
                Some(captured.map_err(|_| DaemonError::Worker { what: "capturing the objects" })??)
            }
            (None, None, Some(manifests)) => Some(folder::capture(&manifests.path)?),
            (None, None, None) => None,
        };
        // The plan says so before the first object is held: what was captured until then is as it ran.
        if objects.is_some()
            && site.plans.get(&self.record.name)?.state.standing() != self.record.state.standing()
        {
            return Err(DaemonError::Stopping { what: "the cycle" });
        }
        Ok(Taken { snapshot_time, writers: Writers::Running, snapshots, objects })
    }
}

/// Whether all groups are taken by one command: it is the operator's word that it shows one instant to all.
fn is_one_group(volumes: &[VolumeSpec]) -> bool {
    let group = |volume: &&VolumeSpec| {
        volume.snapshot.provider == SnapshotKind::Command
            && volume.snapshot.atomic == Some(CommandAtomicity::Group)
    };
    let mut commands = volumes.iter().filter(group).map(|volume| &volume.snapshot.create);
    let first = commands.next();
    commands.all(|command| Some(command) == first)
}

/// Everything that shows the instant of the restore point.
struct Taken {
    snapshot_time: Time,
    writers: Writers,
    snapshots: Vec<Snapshot>,
    objects: Option<Vec<CapturedObject>>,
}

/// Reads the objects of a cluster while the volumes are snapshotted.
fn capture(
    site: &Site,
    plan: &PlanName,
    source: ClusterSource,
) -> AbortOnDropHandle<Result<Vec<CapturedObject>, DaemonError>> {
    let plan = plan.clone();
    let work = async move { source.capture(&plan).await };
    AbortOnDropHandle::new(site.tasks.spawn(work.in_current_span()))
}
