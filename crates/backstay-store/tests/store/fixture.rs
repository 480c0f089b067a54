//! A store in a folder of its own, and restore points made of small files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use backstay_store::{Ingest, Store, StoreConfig, StoreError};
use backstay_types::frame::batch::{BATCH_HEADER_BYTES, BatchHeader, BatchRecord, BatchWriter, Codec};
use backstay_types::manifest::{
    Cursor, Entry, Extent, FetchChunk, Item, Mtime, NodeKind, RelPath, SegmentWriter, TreeBuilder, VolumeKind,
};
use backstay_types::point::{Consistency, CycleStats, PointVolume, RestorePoint};
use backstay_types::{
    ChunkId, Epoch, HashKey, PairId, PlanName, RestorePointId, SessionId, SiteId, Time, VolumeName,
};
use tempfile::TempDir;

pub(crate) const PAIR: PairId = PairId([7; 16]);
pub(crate) const CHUNK: usize = 1024;

pub(crate) fn key() -> HashKey {
    HashKey([3; 32])
}

pub(crate) fn plan() -> PlanName {
    "shop".parse().unwrap()
}

pub(crate) fn id(number: u64) -> RestorePointId {
    RestorePointId { epoch: Epoch(1), number }
}

/// Files of a volume by path.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// A site folder. The store in it is small: packs of 64 KiB, runs of 64 entries.
pub(crate) struct Site {
    pub(crate) _temp: Option<TempDir>,
    pub(crate) config: StoreConfig,
}

/// Looks at a locked store, in the 10 s that the start of a program may take.
const LOOKS_MAX: u32 = 2000;

impl Site {
    pub(crate) fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let mut site = Self::at(temp.path());
        site._temp = Some(temp);
        site
    }

    pub(crate) fn at(dir: &Path) -> Self {
        let mut config = StoreConfig::new(dir);
        config.pack_bytes = 64 << 10;
        config.run_entries = 64;
        config.reserve_bytes = 0;
        Self { _temp: None, config }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.config.dir
    }

    /// Opens it once it is let go of: a program that another test is just starting has a copy of each open file, and so
    /// of the lock, until it runs.
    pub(crate) fn open(&self) -> Store {
        for _ in 0..LOOKS_MAX {
            match self.try_open() {
                Err(StoreError::Locked { .. }) => std::thread::sleep(std::time::Duration::from_millis(5)),
                opened => return opened.unwrap(),
            }
        }
        panic!("{} stays locked", self.dir().display())
    }

    pub(crate) fn try_open(&self) -> Result<Store, StoreError> {
        let store = Store::open(self.config.clone())?;
        store.set_key(PAIR, key());
        Ok(store)
    }

    /// All files below a folder of the store with that ending.
    pub(crate) fn files(&self, folder: &str, ending: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut todo = vec![self.dir().join("store").join(folder)];
        while let Some(dir) = todo.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    todo.push(path);
                } else if path.to_string_lossy().ends_with(ending) {
                    found.push(path);
                }
            }
        }
        found.sort();
        found
    }
}

/// A volume as a sender makes it.
#[derive(Clone)]
pub(crate) struct Volume {
    pub(crate) root: ChunkId,
    pub(crate) chunks: Vec<(ChunkId, Vec<u8>)>,
    pub(crate) files: Files,
}

pub(crate) fn volume(files: &Files) -> Volume {
    let key = key();
    let mut chunks = Vec::new();
    let mut segments = SegmentWriter::new();
    let mut tree = TreeBuilder::new(key.clone());
    let mut done = Vec::new();
    let mut sorted: Vec<(RelPath, &Vec<u8>)> =
        files.iter().map(|(path, bytes)| (RelPath::parse(path.as_bytes()).unwrap(), bytes)).collect();
    sorted.sort_by(|a, b| a.0.cmp(&b.0));
    for (path, bytes) in sorted {
        done.extend(segments.entry(entry(path, bytes.len() as u64)).unwrap());
        let mut extents = Vec::new();
        for part in bytes.chunks(CHUNK) {
            let id = key.chunk_id(part);
            chunks.push((id, part.to_vec()));
            extents.push(Extent::Data { id, len: part.len() as u32 });
        }
        done.extend(segments.extents(&extents));
    }
    done.extend(segments.finish());
    for segment in done {
        let (segment, node) = tree.segment(segment).unwrap();
        chunks.push((segment.id, segment.bytes));
        chunks.extend(node.map(|node| (node.id, node.bytes)));
    }
    let name: VolumeName = "data".parse().unwrap();
    let bytes = files.values().map(|bytes| bytes.len() as u64).sum();
    let (node, root) = tree.finish(Some(name), VolumeKind::Directory, files.len() as u64, bytes).unwrap();
    chunks.extend(node.map(|node| (node.id, node.bytes)));
    let id = root.id;
    chunks.push((id, root.bytes));
    Volume { root: id, chunks, files: files.clone() }
}

fn entry(path: RelPath, size: u64) -> Entry {
    Entry {
        path,
        kind: NodeKind::File { size },
        links: None,
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: Mtime { secs: 1, nanos: 0 },
        xattrs: Vec::new(),
    }
}

pub(crate) fn point(number: u64, parent: Option<u64>, volume: &Volume) -> RestorePoint {
    RestorePoint {
        id: id(number),
        pair: PAIR,
        plan: plan(),
        origin: SiteId([1; 16]),
        parent: parent.map(id),
        snapshot_time: Time(number as i64 * 1000),
        committed_time: Time(number as i64 * 1000 + 1),
        consistency: Consistency::Crash,
        volumes: vec![PointVolume {
            name: "data".parse().unwrap(),
            kind: VolumeKind::Directory,
            root: volume.root,
            entries: volume.files.len() as u64,
            bytes: 0,
        }],
        bundle: None,
        stats: CycleStats::default(),
    }
}

/// A record for a batch.
pub(crate) struct Record {
    pub(crate) id: ChunkId,
    pub(crate) raw_len: usize,
    pub(crate) codec: Codec,
    pub(crate) stored: Vec<u8>,
}

pub(crate) fn raw(id: ChunkId, bytes: &[u8]) -> Record {
    Record { id, raw_len: bytes.len(), codec: Codec::Raw, stored: bytes.to_vec() }
}

pub(crate) fn put(ingest: &mut Ingest, records: &[Record]) -> Result<Vec<u32>, StoreError> {
    let mut writer = BatchWriter::new();
    for record in records {
        let raw_len = record.raw_len as u32;
        let Record { id, codec, stored, .. } = record;
        writer.push(BatchRecord { id: *id, raw_len, codec: *codec, stored }).unwrap();
    }
    let bytes = writer.finish(SessionId(1), 0);
    let header = BatchHeader::decode(bytes.first_chunk::<BATCH_HEADER_BYTES>().unwrap()).unwrap();
    ingest.put_batch(&header, &bytes[BATCH_HEADER_BYTES..])
}

/// Which of the chunks the store asks for, by position.
pub(crate) fn wanted(ingest: &mut Ingest, ids: &[ChunkId]) -> Vec<usize> {
    let bits = ingest.missing(ids).unwrap();
    (0..ids.len()).filter(|i| bits[i / 8] & (1 << (i % 8)) != 0).collect()
}

/// Sends what is missing, every other chunk compressed. Returns how many chunks were sent.
pub(crate) fn send(ingest: &mut Ingest, chunks: &[(ChunkId, Vec<u8>)]) -> Result<usize, StoreError> {
    let ids: Vec<ChunkId> = chunks.iter().map(|(id, _)| *id).collect();
    let wanted = wanted(ingest, &ids);
    for group in wanted.chunks(16) {
        let records: Vec<Record> = group
            .iter()
            .map(|i| {
                let (id, bytes) = &chunks[*i];
                if i % 2 == 0 {
                    raw(*id, bytes)
                } else {
                    let stored = zstd::bulk::compress(bytes, 1).unwrap();
                    Record { id: *id, raw_len: bytes.len(), codec: Codec::Zstd, stored }
                }
            })
            .collect();
        assert!(put(ingest, &records)?.is_empty());
    }
    Ok(wanted.len())
}

/// Receives and commits a point with this volume.
pub(crate) fn commit(store: &Store, number: u64, parent: Option<u64>, volume: &Volume) -> usize {
    let mut ingest = store.begin(PAIR, &plan(), id(number)).unwrap();
    let sent = send(&mut ingest, &volume.chunks).unwrap();
    let durable = ingest.commit(point(number, parent, volume)).unwrap();
    assert_eq!(durable.into_inner().id, id(number));
    sent
}

/// Reads a whole volume back.
pub(crate) fn read(store: &Store, number: u64) -> Result<Files, String> {
    let point = store.point(&plan(), id(number)).map_err(|e| e.to_string())?;
    let reader = store.reader(point.pair);
    let mut cursor = Cursor::open(&reader, &point.volumes[0].root).map_err(|e| e.to_string())?;
    let mut files = Files::new();
    let mut path = String::new();
    while let Some(item) = cursor.next_item().map_err(|e| e.to_string())? {
        match item {
            Item::Entry(entry) => {
                path = entry.path.to_string();
                files.insert(path.clone(), Vec::new());
            }
            Item::Extents(extents) => {
                for extent in extents {
                    let Extent::Data { id, .. } = extent else { panic!("no holes are made here") };
                    let bytes = reader.fetch(&id).map_err(|e| e.to_string())?;
                    files.get_mut(&path).unwrap().extend(bytes);
                }
            }
        }
    }
    Ok(files)
}

/// Bytes that do not compress, different for every seed.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new_derive_key("noise").update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// `count` files of a few chunks each.
pub(crate) fn some_files(seed: u64, count: u64) -> Files {
    (0..count)
        .map(|n| {
            (format!("dir{}/file{n:03}", n % 5), noise(seed * 1000 + n, 500 + (n as usize * 977) % 4000))
        })
        .collect()
}

pub(crate) fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() { copy_dir(&path, &target) } else { assert!(fs::copy(&path, &target).is_ok()) }
    }
}

/// The product's own check, with which every test ends.
pub(crate) fn assert_clean(store: &Store) {
    let report = store.verify(None, &mut |_| {}).unwrap();
    assert!(report.is_clean() && report.damaged_packs.is_empty(), "{report}");
}

/// Flips one bit.
pub(crate) fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    fs::write(path, bytes).unwrap();
}
