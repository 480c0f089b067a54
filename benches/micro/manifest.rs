//! Writing a manifest of 20 000 small files, and streaming it with a cursor: what an unchanged cycle does most.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench fails by panicking, and criterion's macro makes the docless items"
)]

use std::collections::HashMap;
use std::convert::Infallible;
use std::hint::black_box;

use backstay_benches::KEY;
use backstay_types::ChunkId;
use backstay_types::manifest::{
    Cursor, Entry, Extent, FetchChunk, Mtime, NodeKind, RelPath, SegmentWriter, TreeBuilder, TreeChunk,
    VolumeKind,
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const FILES: u64 = 20_000;

#[derive(Default)]
struct Chunks(HashMap<ChunkId, Vec<u8>>);

impl Chunks {
    fn keep(&mut self, chunk: TreeChunk) -> ChunkId {
        self.0.insert(chunk.id, chunk.bytes);
        chunk.id
    }
}

impl FetchChunk for Chunks {
    type Error = Infallible;
    fn fetch(&self, id: &ChunkId) -> Result<Vec<u8>, Infallible> {
        Ok(self.0.get(id).cloned().unwrap_or_default())
    }
}

fn entry(path: &[u8], kind: NodeKind) -> Entry {
    let mtime = Mtime { secs: 1_700_000_000, nanos: 5 };
    Entry {
        path: RelPath::parse(path).unwrap(),
        kind,
        links: None,
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime,
        xattrs: Vec::new(),
    }
}

fn write() -> (Chunks, ChunkId) {
    let (mut chunks, mut writer, mut tree) = (Chunks::default(), SegmentWriter::new(), TreeBuilder::new(KEY));
    let mut put = |chunks: &mut Chunks, segment: Vec<u8>| {
        let (segment, node) = tree.segment(segment).unwrap();
        for chunk in [Some(segment), node].into_iter().flatten() {
            chunks.keep(chunk);
        }
    };
    if let Some(segment) = writer.entry(entry(b"", NodeKind::Directory)).unwrap() {
        put(&mut chunks, segment);
    }
    for number in 0..FILES {
        let path = format!("folder{:03}-file{number:07}.txt", number / 250);
        let file = entry(path.as_bytes(), NodeKind::File { size: 4000 });
        if let Some(segment) = writer.entry(file).unwrap() {
            put(&mut chunks, segment);
        }
        let id = KEY.chunk_id(&number.to_le_bytes());
        for segment in writer.extents(&[Extent::Data { id, len: 4000 }]) {
            put(&mut chunks, segment);
        }
    }
    if let Some(segment) = writer.finish() {
        put(&mut chunks, segment);
    }
    let (node, root) = tree.finish(None, VolumeKind::Directory, FILES + 1, FILES * 4000).unwrap();
    if let Some(chunk) = node {
        chunks.keep(chunk);
    }
    let root = chunks.keep(root);
    (chunks, root)
}

fn bench(c: &mut Criterion) {
    let mut group = c.benchmark_group("manifest");
    group.throughput(Throughput::Elements(FILES)).sample_size(20);
    group.bench_function("write", |b| b.iter(|| black_box(write())));
    let (chunks, root) = write();
    group.bench_function("cursor", |b| {
        b.iter(|| {
            let mut cursor = Cursor::open(&chunks, &root).unwrap();
            let mut items = 0_u64;
            while let Some(item) = cursor.next_item().unwrap() {
                black_box(item);
                items += 1;
            }
            assert_eq!(items, 2 * FILES + 1);
        });
    });
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
