//! What the sender does with a volume: walk, cut, hash, fingerprint; first in full, then with nothing changed.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench fails by panicking, and criterion's macro makes the docless items"
)]

use std::fs;
use std::hint::black_box;
use std::path::Path;

use backstay_benches::{KEY, PARAMS, noise};
use backstay_types::ChunkId;
use backstay_types::plan::VolumeSpec;
use backstay_volume::{
    Cancel, ChunkSink, ParentUse, PatchBase, Progress, SentState, SinkClosed, VolumeContext, VolumeRead,
    snapshot,
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const BYTES: usize = 64 << 20;

struct Nowhere;

impl ChunkSink for Nowhere {
    fn chunk(&mut self, id: ChunkId, bytes: Vec<u8>, _: Option<PatchBase>) -> Result<(), SinkClosed> {
        black_box((id, bytes));
        Ok(())
    }
}

fn read(source: &Path, state: &Path, parent: ParentUse) -> VolumeRead {
    let spec = VolumeSpec {
        name: "data".parse().unwrap(),
        path: Some(source.to_owned()),
        device: None,
        snapshot: Default::default(),
    };
    let context = VolumeContext {
        plan: "bench".parse().unwrap(),
        key: KEY,
        params: PARAMS,
        allow_fuzzy: false,
        allow_empty: false,
    };
    let sent = SentState::open(state).unwrap();
    let scanned = snapshot(&spec, &context, &sent, parent).unwrap().scan(&Cancel::new()).unwrap();
    scanned.read(&mut Nowhere, &Progress::new()).unwrap()
}

fn bench(c: &mut Criterion) {
    let (source, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(source.path().join("large"), noise(1, BYTES)).unwrap();
    let mut group = c.benchmark_group("read");
    group.throughput(Throughput::Bytes(u64::try_from(BYTES).unwrap())).sample_size(10);
    group.bench_function("large file", |b| b.iter(|| read(source.path(), state.path(), ParentUse::None)));
    group.finish();

    let small = tempfile::tempdir().unwrap();
    for number in 0..5000_u64 {
        fs::write(small.path().join(number.to_string()), noise(number, 1000)).unwrap();
    }
    // Younger than 2 s, a file is read again: let the files age.
    std::thread::sleep(std::time::Duration::from_secs(3));
    read(small.path(), state.path(), ParentUse::None).pending.adopt("e1-000001".parse().unwrap()).unwrap();
    let mut group = c.benchmark_group("rescan");
    group.throughput(Throughput::Elements(5000)).sample_size(20);
    group.bench_function("nothing changed", |b| b.iter(|| read(small.path(), state.path(), ParentUse::Held)));
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
