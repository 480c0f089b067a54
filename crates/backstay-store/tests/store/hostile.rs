//! Files and batches full of anything: errors, never a panic, never a wrong byte.

use std::fs;

use backstay_store::Store;
use backstay_types::SessionId;
use backstay_types::frame::batch::BatchHeader;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::fixture::*;

#[test]
fn random_files_never_panic() {
    let site = Site::new();
    let volume = volume(&some_files(1, 40));
    let store = site.open();
    commit(&store, 1, None, &volume);
    // One pack stays unsealed.
    let mut ingest = store.begin(PAIR, &plan(), id(2)).unwrap();
    put(&mut ingest, &[raw(key().chunk_id(b"one"), b"one"), raw(key().chunk_id(b"two"), b"two")]).unwrap();
    let mut random = StdRng::seed_from_u64(7);
    for round in 0..120 {
        let copy = tempfile::tempdir().unwrap();
        copy_dir(site.dir(), copy.path());
        let hurt = Site::at(copy.path());
        let folder = ["packs", "runs", "points"][round % 3];
        let ending = [".pack", ".run", ".rp", ".open"][if round % 12 == 0 { 3 } else { round % 3 }];
        let files = hurt.files(folder, ending);
        let path = &files[random.random_range(0..files.len())];
        let mut bytes = fs::read(path).unwrap();
        match random.random_range(0..4) {
            0 => bytes.truncate(random.random_range(0..=bytes.len())),
            1 => bytes = noise(round as u64, random.random_range(0..5000)),
            2 => {
                for _ in 0..random.random_range(1..20) {
                    let at = random.random_range(0..bytes.len());
                    bytes[at] = random.random();
                }
            }
            // The ends are where the lengths are.
            _ => {
                let near = if random.random() { 0 } else { bytes.len().saturating_sub(64) };
                let at = near + random.random_range(0..bytes.len().min(64));
                bytes[at] = 0xff;
            }
        }
        fs::write(path, bytes).unwrap();
        // Errors are fine anywhere; what is read must be right.
        let Ok(store) = hurt.try_open() else { continue };
        if let Ok(files) = read(&store, 1) {
            assert_eq!(files, volume.files, "round {round}");
        }
        let report = store.verify(None, &mut |_| {}).unwrap();
        if report.damaged_points.is_empty() {
            assert_eq!(read(&store, 1).unwrap(), volume.files, "round {round}: {report}");
        }
        drop(store);
        Store::rebuild_catalog_with(hurt.config.clone()).unwrap();
    }
}

#[test]
fn random_batches_never_panic() {
    let site = Site::new();
    let store = site.open();
    let mut ingest = store.begin(PAIR, &plan(), id(1)).unwrap();
    let mut random = StdRng::seed_from_u64(11);
    for round in 0..300 {
        let mut records = Vec::new();
        let count = random.random_range(0..4);
        for _ in 0..count {
            records.extend(noise(random.random(), 32));
            let stored = noise(random.random(), random.random_range(0..3000));
            records.extend(random.random_range(0_u32..10_000).to_le_bytes());
            records.extend((stored.len() as u32).to_le_bytes());
            records.push(random.random_range(0..4));
            records.extend(stored);
        }
        if random.random_range(0..4) == 0 {
            records.truncate(random.random_range(0..=records.len()));
        }
        let header = BatchHeader { session: SessionId(1), seq: round, count, bytes: records.len() as u32 };
        // A random chunk is never what its id says, so whatever is accepted holds no whole chunk.
        drop(ingest.put_batch(&header, &records));
    }
    assert_eq!(store.usage().chunks, 0);
    drop(ingest);
    assert_clean(&store);
}
