//! Patches: stored as such, four deep, then whole; and never wrong.

use backstay_types::ChunkId;
use backstay_types::frame::batch::Codec;
use backstay_types::frame::patch::{Patch, SECTOR_BYTES};
use backstay_types::manifest::FetchChunk;

use crate::fixture::*;

const LEN: usize = 4 * SECTOR_BYTES;

/// A chunk that differs from `base` in one sector, and the patch that says so.
fn patched(base: &[u8], base_id: ChunkId, sector: usize, seed: u64, zstd: bool) -> (Vec<u8>, Record) {
    let mut bytes = base.to_vec();
    let content = noise(seed, SECTOR_BYTES);
    bytes[sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES].copy_from_slice(&content);
    let sectors = if zstd { zstd::bulk::compress(&content, 1).unwrap() } else { content };
    let patch = Patch {
        bases: vec![base_id],
        skip: 0,
        lead: SECTOR_BYTES as u16,
        bitmap: &[1 << sector],
        zstd,
        sectors: &sectors,
    };
    let record = Record {
        id: key().chunk_id(&bytes),
        raw_len: bytes.len(),
        codec: Codec::Patch,
        stored: patch.encode(),
    };
    (bytes, record)
}

fn files_of(bytes: &[u8]) -> Files {
    Files::from([("db".to_owned(), bytes.to_vec())])
}

/// A volume whose only file is one chunk.
fn one_chunk(bytes: &[u8]) -> Volume {
    let mut volume = volume(&Files::new());
    let key = key();
    let id = key.chunk_id(bytes);
    let mut segments = backstay_types::manifest::SegmentWriter::new();
    let path = backstay_types::manifest::RelPath::parse(b"db").unwrap();
    let entry = backstay_types::manifest::Entry {
        path,
        kind: backstay_types::manifest::NodeKind::File { size: bytes.len() as u64 },
        links: None,
        mode: 0o600,
        uid: 0,
        gid: 0,
        mtime: backstay_types::manifest::Mtime { secs: 0, nanos: 0 },
        xattrs: Vec::new(),
    };
    segments.entry(entry).unwrap();
    segments.extents(&[backstay_types::manifest::Extent::Data { id, len: bytes.len() as u32 }]);
    let mut tree = backstay_types::manifest::TreeBuilder::new(key);
    let (segment, _) = tree.segment(segments.finish().unwrap()).unwrap();
    let name = Some("data".parse().unwrap());
    let kind = backstay_types::manifest::VolumeKind::Directory;
    let (node, root) = tree.finish(name, kind, 1, bytes.len() as u64).unwrap();
    volume.root = root.id;
    volume.chunks = vec![(segment.id, segment.bytes), (root.id, root.bytes)];
    volume.chunks.extend(node.map(|node| (node.id, node.bytes)));
    volume.files = files_of(bytes);
    volume
}

#[test]
fn a_chain_of_patches_reads_back_and_outlives_its_points() {
    let site = Site::new();
    let store = site.open();
    let mut bytes = noise(1, LEN);
    let mut base = key().chunk_id(&bytes);
    let mut ingest = store.begin(PAIR, &plan(), id(1)).unwrap();
    put(&mut ingest, &[raw(base, &bytes)]).unwrap();
    let first = one_chunk(&bytes);
    send(&mut ingest, &first.chunks).unwrap();
    drop(ingest.commit(point(1, None, &first)).unwrap());
    let mut history = vec![first];
    let mut sizes = Vec::new();
    for number in 2..=9 {
        let (next, record) = patched(&bytes, base, number as usize % 4, number, number % 2 == 0);
        let volume = one_chunk(&next);
        let mut ingest = store.begin(PAIR, &plan(), id(number)).unwrap();
        let before = store.usage().bytes;
        assert!(put(&mut ingest, &[record]).unwrap().is_empty());
        sizes.push(store.usage().bytes - before);
        send(&mut ingest, &volume.chunks).unwrap();
        drop(ingest.commit(point(number, Some(number - 1), &volume)).unwrap());
        base = key().chunk_id(&next);
        bytes = next;
        history.push(volume);
    }
    // Four patches, then a whole chunk, then patches on that one.
    let whole: Vec<bool> = sizes.iter().map(|size| *size > LEN as u64).collect();
    assert_eq!(whole, [false, false, false, false, true, false, false, false], "{sizes:?}");
    for (volume, number) in history.iter().zip(1..) {
        assert_eq!(read(&store, number).unwrap(), volume.files, "point {number}");
    }

    // Point 4 stands on three patches and the first whole chunk; nothing else names those.
    let gone: Vec<_> = (1..=9).filter(|n| *n != 4).map(id).collect();
    store.delete_points(&plan(), &gone).unwrap();
    let plan_of_gc = store.gc_plan().unwrap();
    let report = store.gc(plan_of_gc).unwrap();
    assert!(report.packs_deleted > 0, "{report}");
    drop(store);
    let store = site.open();
    assert_eq!(read(&store, 4).unwrap(), history[3].files);
    let reader = store.reader(PAIR);
    assert!(reader.fetch(&key().chunk_id(&history[8].files["db"])).is_err(), "what nobody needs is gone");
    assert_clean(&store);
}

#[test]
fn a_patch_that_does_not_rebuild_is_rejected() {
    let site = Site::new();
    let store = site.open();
    let base = noise(1, LEN);
    let base_id = key().chunk_id(&base);
    let mut ingest = store.begin(PAIR, &plan(), id(1)).unwrap();
    put(&mut ingest, &[raw(base_id, &base)]).unwrap();
    let (_, good) = patched(&base, base_id, 1, 2, false);
    let (_, mut no_base) = patched(&base, key().chunk_id(b"unknown"), 2, 3, false);
    let (_, mut wrong_id) = patched(&base, base_id, 3, 4, true);
    wrong_id.id = key().chunk_id(b"other");
    let (_, mut cut) = patched(&base, base_id, 0, 5, false);
    cut.stored.truncate(50);
    no_base.raw_len = LEN;
    let good_id = good.id;
    let records = [no_base, good, wrong_id, cut];
    assert_eq!(put(&mut ingest, &records).unwrap(), [0, 2, 3]);
    let ids: Vec<_> = records.iter().map(|record| record.id).collect();
    assert_eq!(wanted(&mut ingest, &ids), [0, 2, 3]);
    assert!(store.reader(PAIR).fetch(&good_id).is_ok());
    assert_eq!(store.usage().refused_chunks, 3);
}

#[test]
fn a_patch_over_part_of_several_bases_rebuilds() {
    let site = Site::new();
    let store = site.open();
    let range = noise(5, 5 * SECTOR_BYTES);
    let pieces = [&range[..3000], &range[3000..9000], &range[9000..]];
    let mut ingest = store.begin(PAIR, &plan(), id(1)).unwrap();
    let records: Vec<Record> = pieces.iter().map(|piece| raw(key().chunk_id(piece), piece)).collect();
    put(&mut ingest, &records).unwrap();
    // The chunk begins 3500 bytes into the range, 1000 bytes before a sector of the file ends.
    let mut bytes = range[3500..3500 + 9000].to_vec();
    bytes[1000..1000 + SECTOR_BYTES].copy_from_slice(&noise(6, SECTOR_BYTES));
    let patch = Patch {
        bases: pieces.iter().map(|piece| key().chunk_id(piece)).collect(),
        skip: 3500,
        lead: 1000,
        bitmap: &[0b10],
        zstd: false,
        sectors: &bytes[1000..1000 + SECTOR_BYTES],
    };
    let id = key().chunk_id(&bytes);
    let record = Record { id, raw_len: bytes.len(), codec: Codec::Patch, stored: patch.encode() };
    assert!(put(&mut ingest, &[record]).unwrap().is_empty());
    assert_eq!(store.reader(PAIR).fetch(&id).unwrap(), bytes);
}
