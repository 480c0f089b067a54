//! One value of every format, with every field set to something that is not its default.

use backstay_types::frame::batch::{BatchRecord, BatchWriter, Codec};
use backstay_types::frame::patch::Patch;
use backstay_types::frame::{
    ApplyFailure, Begin, Commit, Committed, Done, DropPlan, Frame, HandOver, HandedOver, Hello, ListPoints,
    Missing, Offer, PlanState, Points, Promoted, Proposals, QueryPlan, QuerySectors, QueryTree, Ready,
    Refused, Rotate, Rotated, SectorRun, SharePlan, SiteRole, Stored, TakeBack, TakeOver, TakenOver,
    ToldSectors, ToldTree, Whereabouts, WireVersion,
};
use backstay_types::manifest::{
    Device, Entry, Extent, Mtime, NodeKind, RelPath, SegmentWriter, TreeBuilder, VolumeKind, Xattr,
};
use backstay_types::point::{Bundle, Consistency, CycleStats, PointVolume, RestorePoint};
use backstay_types::{
    ChunkId, Class, Epoch, HashKey, PairId, PlanName, RestorePointId, SessionId, SiteId, Time,
};

/// Length of the chunk that the sample patch makes: four sectors and a bit, the first of them short.
pub(crate) const PATCH_RAW_LEN: usize = 100 + 3 * 4096 + 50;

fn plan() -> PlanName {
    "shop".parse().expect("a name")
}

fn point_id(number: u64) -> RestorePointId {
    RestorePointId { epoch: Epoch(3), number }
}

fn chunk(byte: u8) -> ChunkId {
    ChunkId([byte; 32])
}

fn volumes() -> Vec<PointVolume> {
    let volume = |name: &str, kind, byte| PointVolume {
        name: name.parse().expect("a name"),
        kind,
        root: chunk(byte),
        entries: 200_000,
        bytes: 1 << 40,
    };
    vec![volume("data", VolumeKind::Directory, 0xa1), volume("disk0", VolumeKind::Block, 0xa2)]
}

fn stats() -> CycleStats {
    CycleStats {
        files_scanned: 200_001,
        bytes_scanned: 1 << 41,
        bytes_changed: 12_345,
        wire_bytes: 6_789,
        duration_millis: 1_500,
    }
}

fn bundle() -> Bundle {
    Bundle { root: chunk(0xb0), objects: 42, bytes: 4_242 }
}

pub(crate) fn point() -> RestorePoint {
    RestorePoint {
        id: point_id(42),
        pair: PairId([0x11; 16]),
        plan: plan(),
        origin: SiteId([0x22; 16]),
        parent: Some(point_id(41)),
        snapshot_time: Time(1_800_000_000_123),
        committed_time: Time(1_800_000_009_456),
        consistency: Consistency::Fuzzy,
        volumes: volumes(),
        bundle: Some(bundle()),
        stats: stats(),
    }
}

fn plan_frames() -> Vec<Frame> {
    vec![
        Hello {
            newest: WireVersion(2),
            oldest: WireVersion(1),
            site: SiteId([0x33; 16]),
            name: "east".into(),
            program: "0.1.0".into(),
        }
        .into(),
        Refused {
            class: Class::Fenced.wire_code(),
            message: "epoch 2 is over".into(),
            hint: Some("step down".into()),
            epoch: Some(Epoch(3)),
        }
        .into(),
        Done {}.into(),
        SharePlan { plan: plan(), epoch: Epoch(3), spec: "{\"pair\":\"west\"}".into(), rules: "{}".into() }
            .into(),
        DropPlan { plan: plan(), epoch: Epoch(300) }.into(),
        QueryPlan { plan: plan() }.into(),
        PlanState {
            plan: plan(),
            role: Some(SiteRole::Demoting),
            epoch: Epoch(3),
            newest: Some(point_id(42)),
            newest_snapshot_time: Some(Time(-1)),
            applied: Some(point_id(41)),
            apply_failure: Some(ApplyFailure::new(point_id(42), Class::Transient, "no room")),
            proposals: Proposals {
                fields: vec!["volumes".into()],
                withheld: vec!["data".into(), "kube-system".into()],
            },
        }
        .into(),
        Promoted { plan: plan(), epoch: Epoch(4) }.into(),
        ListPoints { plan: plan() }.into(),
        TakeOver {
            plan: plan(),
            epoch: Epoch(4),
            restore_point: point_id(42),
            held_time: Time(1_800_000_000_123),
        }
        .into(),
        TakenOver { plan: plan(), epoch: Epoch(4), report: "{}".into() }.into(),
        TakeBack { plan: plan(), epoch: Epoch(5) }.into(),
        HandOver { plan: plan(), epoch: Epoch(4) }.into(),
        HandedOver { plan: plan(), report: "{}".into() }.into(),
        Points { points: vec![point()] }.into(),
    ]
}

fn tell_frames() -> Vec<Frame> {
    let run = |ids: &[u8], skip, len| SectorRun { ids: ids.iter().map(|id| chunk(*id)).collect(), skip, len };
    vec![
        QueryTree { plan: plan(), epoch: Epoch(4), ids: vec![chunk(0xa1), chunk(0xa2)] }.into(),
        ToldTree { lens: vec![300, 70_000], zstd: b"what a compressor made".to_vec() }.into(),
        QuerySectors {
            plan: plan(),
            epoch: Epoch(4),
            runs: vec![run(&[1, 2], 100, 8192), run(&[3], 0, 5000)],
        }
        .into(),
        ToldSectors { fingerprints: vec![[1, 2, 3, 4, 5, 6, 7, 8], [0; 8], [0xff; 8]] }.into(),
    ]
}

fn session_frames() -> Vec<Frame> {
    vec![
        Begin {
            session: SessionId(0x0102_0304_0506_0708),
            plan: plan(),
            id: point_id(42),
            parent: Some(point_id(41)),
        }
        .into(),
        Ready { has_parent: true, newest: Some(point_id(41)) }.into(),
        Offer { seq: 5, ids: vec![chunk(1), chunk(2), chunk(3)] }.into(),
        Missing { seq: 5, bits: vec![0b101] }.into(),
        Stored { seq: 9, rejected: vec![0, 300] }.into(),
        Commit {
            batches: 10,
            snapshot_time: Time(1_800_000_000_123),
            consistency: Consistency::Application,
            volumes: volumes(),
            bundle: Some(bundle()),
            stats: stats(),
        }
        .into(),
        Committed { id: point_id(42), committed_time: Time(1_800_000_009_456) }.into(),
        Whereabouts {
            endpoints: vec!["west.example.org:7443".into(), "[2001:db8::1]:7443".into()],
            port: 7443,
        }
        .into(),
        Rotate { ca_der: vec![0x30, 0x82, 0x01] }.into(),
        Rotated { ca_der: vec![0x30, 0x82, 0x02] }.into(),
    ]
}

/// A frame of every kind.
pub(crate) fn frames() -> Vec<Frame> {
    [plan_frames(), session_frames(), tell_frames()].concat()
}

/// A patch with two bases.
pub(crate) fn patch() -> Patch<'static> {
    Patch {
        bases: vec![chunk(0xc1), chunk(0xc2)],
        skip: 70_000,
        lead: 100,
        bitmap: &[0b1_0110],
        zstd: true,
        sectors: b"what a compressor made",
    }
}

/// Records of the sample batch, one of each codec.
pub(crate) fn records(patch: &[u8]) -> Vec<BatchRecord<'_>> {
    let raw_len = u32::try_from(PATCH_RAW_LEN).expect("fits");
    vec![
        BatchRecord { id: chunk(1), raw_len: 5, codec: Codec::Raw, stored: b"hello" },
        BatchRecord { id: chunk(2), raw_len: 65_536, codec: Codec::Zstd, stored: b"squeezed" },
        BatchRecord { id: chunk(3), raw_len, codec: Codec::Patch, stored: patch },
    ]
}

pub(crate) fn batch() -> Vec<u8> {
    let mut writer = BatchWriter::new();
    for record in records(&patch().encode()) {
        writer.push(record).expect("it fits");
    }
    writer.finish(SessionId(0x0102_0304_0506_0708), 9)
}

/// The chunks of a small manifest of two segments.
pub(crate) struct Tree {
    pub(crate) segments: Vec<Vec<u8>>,
    pub(crate) node: Vec<u8>,
    pub(crate) root: Vec<u8>,
}

fn kinds() -> Vec<(&'static [u8], NodeKind, Option<u64>)> {
    let device = Device { major: 8, minor: 300 };
    vec![
        (b"", NodeKind::Directory, None),
        (b"etc/block", NodeKind::BlockDevice(device), None),
        (b"etc/char", NodeKind::CharDevice(device), None),
        (b"etc/fifo", NodeKind::Fifo, Some(76)),
        (b"etc/hard", NodeKind::HardLink { group: 76 }, None),
        (b"etc/link", NodeKind::Symlink { target: b"../nowhere\xff".to_vec() }, None),
        (b"etc/socket\xfe", NodeKind::Socket, None),
        (b"zz", NodeKind::File { size: 700 * 65_536 + 4096 }, Some(77)),
    ]
}

pub(crate) fn tree() -> Tree {
    let mut writer = SegmentWriter::new();
    let mut segments = Vec::new();
    for (path, kind, links) in kinds() {
        let entry = Entry {
            path: RelPath::parse(path).expect("a path"),
            kind,
            links,
            mode: 0o4755,
            uid: 1000,
            gid: 70_000,
            mtime: Mtime { secs: -86_400, nanos: 999_999_999 },
            xattrs: vec![Xattr { name: b"user.note".to_vec(), value: b"\0\xff".to_vec() }],
        };
        segments.extend(writer.entry(entry).expect("in order"));
    }
    let mut extents = vec![Extent::Hole { len: 4096 }];
    // Chunk 500's id has the place to cut.
    extents.extend((0..700_u64).map(|number| {
        let mut id = [0x5a; 32];
        id[..8]
            .copy_from_slice(&(if number == 500 { 0 } else { 0x0101 + number * 0x0001_0000 }).to_le_bytes());
        Extent::Data { id: ChunkId(id), len: 65_536 }
    }));
    segments.extend(writer.extents(&extents));
    segments.extend(writer.finish());
    let mut tree = TreeBuilder::new(HashKey([7; 32]));
    for segment in &segments {
        let (_, node) = tree.segment(segment.clone()).expect("it fits");
        assert!(node.is_none(), "the sample is one node");
    }
    let volume = Some("data".parse().expect("a name"));
    let (node, root) = tree.finish(volume, VolumeKind::Directory, 8, 1 << 30).expect("it fits");
    Tree { segments, node: node.expect("one node").bytes, root: root.bytes }
}
