//! Sender and receiver joined by queues, under a virtual clock: seeded loss of the connection, batches in any
//! order, answers in any order, a slow producer, a slow disk.

#![allow(clippy::indexing_slicing, clippy::expect_used, reason = "a test may fail where it counts wrong")]

#[path = "transfer/world.rs"]
mod world;

use backstay_types::limits;
use proptest::prelude::*;

use world::{Chunk, Setting, World};

/// Chunks of all sizes; some ids come again, some are patches, of which some do not rebuild, some are held already.
fn chunks() -> impl Strategy<Value = Vec<Chunk>> {
    let len = prop_oneof![
        1_u32..200,
        10_000_u32..300_000,
        Just(u32::try_from(limits::CHUNK_BYTES_MAX).expect("fits")),
    ];
    let chunk = (0_u64..500, len, 0_u8..10).prop_map(|(name, len, kind)| Chunk {
        name,
        // One id, one length.
        len: if name % 3 == 0 { len } else { 65_536 },
        is_held: kind == 0,
        is_patch: (1..5).contains(&kind),
        rebuilds: kind != 1,
    });
    proptest::collection::vec(chunk, 0..400).prop_map(|chunks| {
        let mut seen = std::collections::BTreeMap::new();
        chunks.into_iter().map(|chunk| *seen.entry(chunk.name).or_insert(chunk)).collect()
    })
}

fn setting() -> impl Strategy<Value = Setting> {
    (any::<u64>(), prop_oneof![Just(0_u32), 1_u32..30], 1_u32..60, 1_u64..4000, 0_u32..5).prop_map(
        |(seed, losses, shrink, batch_kib, idle)| Setting {
            seed,
            losses,
            shrink,
            batch_bytes: batch_kib << 10,
            idle_percent: idle * 10,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Checked in the world at each step: the window, no deadlock, nothing stored twice or unasked, no commit before
    /// its batches.
    #[test]
    fn every_transfer_ends_with_all_chunks_stored(chunks in chunks(), setting in setting()) {
        let mut world = World::new(chunks.clone(), setting);
        world.drive_bounded(400_000);
        for chunk in &chunks {
            prop_assert!(world.is_stored(chunk.name), "chunk {} is stored", chunk.name);
        }
    }
}

#[test]
fn the_window_is_never_exceeded() {
    // 300 MiB of the largest chunks, none compressible: the window fills and stays full.
    let len = u32::try_from(limits::CHUNK_BYTES_MAX).expect("fits");
    let chunk = |name| Chunk { name, len, is_held: false, is_patch: false, rebuilds: true };
    let mut world = World::new((0..300).map(chunk).collect(), Setting { shrink: 1, ..Setting::calm(1) });
    world.drive_bounded(100_000);
    assert!(world.peak_bytes <= limits::SEND_WINDOW_BYTES, "{} bytes", world.peak_bytes);
    assert!(world.peak_bytes > limits::SEND_WINDOW_BYTES / 2, "and it is used: {} bytes", world.peak_bytes);
}

#[test]
fn chunks_that_compress_to_nothing_do_not_stall_a_full_window() {
    // The whole window fits a batch a hundred times over, so that no batch ever fills.
    let len = u32::try_from(limits::CHUNK_BYTES_MAX).expect("fits");
    let chunk = |name| Chunk { name, len, is_held: false, is_patch: false, rebuilds: true };
    let setting = Setting { shrink: 10_000, batch_bytes: 2 << 20, ..Setting::calm(2) };
    let mut world = World::new((0..200).map(chunk).collect(), setting);
    world.drive_bounded(100_000);
}

#[test]
fn tiny_chunks_are_bounded_by_slots() {
    let chunk = |name| Chunk { name, len: 1, is_held: false, is_patch: false, rebuilds: true };
    let mut world = World::new((0..200_000).map(chunk).collect(), Setting { shrink: 1, ..Setting::calm(3) });
    world.drive_bounded(2_000_000);
    assert!(world.peak_slots <= backstay_engine::send::SLOTS_MAX, "{} slots", world.peak_slots);
}

#[test]
fn a_stuck_batch_does_not_let_the_others_run_past_what_the_receiver_keeps() {
    let chunk = |name| Chunk { name, len: 40_000, is_held: false, is_patch: false, rebuilds: true };
    // Batches of two chunks, and the first stays away until nothing else can move.
    let setting = Setting { batch_bytes: 80_000, shrink: 1, ..Setting::calm(4) };
    let mut world = World::new((0..4_000).map(chunk).collect(), setting);
    world.stuck_batch = Some(0);
    world.drive_bounded(500_000);
}
