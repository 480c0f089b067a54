//! What the receiver does with a batch: decode, re-hash, append to a pack.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench fails by panicking, and criterion's macro makes the docless items"
)]

use std::array;

use backstay_benches::{KEY, PAIR, noise};
use backstay_store::{Store, StoreConfig};
use backstay_types::SessionId;
use backstay_types::frame::batch::{BATCH_HEADER_BYTES, BatchHeader, BatchRecord, BatchWriter, Codec};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

const CHUNK_BYTES: usize = 64 << 10;

/// A full batch of raw chunks that no other seed makes.
fn batch(seed: u64) -> Vec<u8> {
    let mut writer = BatchWriter::new();
    let mut number = 0;
    while !writer.is_full() {
        let bytes = noise(seed * 1000 + number, CHUNK_BYTES);
        let raw_len = u32::try_from(CHUNK_BYTES).unwrap();
        writer
            .push(BatchRecord { id: KEY.chunk_id(&bytes), raw_len, codec: Codec::Raw, stored: &bytes })
            .unwrap();
        number += 1;
    }
    writer.finish(SessionId(1), 0)
}

fn bench(c: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(StoreConfig::new(dir.path())).unwrap();
    store.set_key(PAIR, KEY);
    let plan = "bench".parse().unwrap();
    let mut ingest = store.begin(PAIR, &plan, "e1-000001".parse().unwrap()).unwrap();
    let mut seed = 0;
    let mut group = c.benchmark_group("store");
    group.throughput(Throughput::Bytes(u64::try_from(batch(0).len()).unwrap())).sample_size(30);
    group.bench_function("put_batch", |b| {
        b.iter_batched(
            || {
                seed += 1;
                batch(seed)
            },
            |bytes| {
                let (header, records) = bytes.split_at(BATCH_HEADER_BYTES);
                let header: [u8; BATCH_HEADER_BYTES] =
                    array::from_fn(|at| header.get(at).copied().unwrap_or(0));
                ingest.put_batch(&BatchHeader::decode(&header).unwrap(), records).unwrap()
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
