//! Cut points are a format: what one version cut, every later one must.

use backstay_types::ChunkParams;
use rand::RngExt;

use super::support::*;
use crate::content::{CutMode, Cutter};

/// Lengths of the chunks of `bytes`.
fn cuts(cutter: &Cutter, bytes: &[u8]) -> Vec<usize> {
    let mut lens = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let len = cutter.cut(CutMode::Content, 0, rest);
        lens.push(len);
        rest = &rest[len..];
    }
    lens
}

/// Bytes that depend on no library: a linear congruential generator.
fn fixed_bytes(len: usize) -> Vec<u8> {
    let mut state = 0x1234_5678_9abc_def0_u64;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect()
}

#[test]
fn golden_cut_points() {
    let bytes = fixed_bytes(1 << 20);
    let golden = [(0, include_str!("golden_cuts_seed_0.txt")), (42, include_str!("golden_cuts_seed_42.txt"))];
    for (seed, golden) in golden {
        let cutter = Cutter::new(&ChunkParams::with_seed(seed)).unwrap();
        let lens: Vec<String> = cuts(&cutter, &bytes).iter().map(ToString::to_string).collect();
        assert_eq!(
            lens.join(" "),
            golden.trim(),
            "seed {seed}: a changed cut point breaks every pair there is"
        );
    }
}

#[test]
fn an_edit_moves_few_cuts() {
    let cutter = Cutter::new(&params()).unwrap();
    let mut rng = seeded(6);
    let before = random_bytes(&mut rng, 8 << 20);
    let starts = |bytes: &[u8]| {
        let mut at = 0;
        cuts(&cutter, bytes)
            .into_iter()
            .map(|len| {
                at += len;
                key().chunk_id(&bytes[at - len..at])
            })
            .collect::<std::collections::HashSet<_>>()
    };
    let old = starts(&before);
    for _ in 0..20 {
        let mut after = before.clone();
        let at = rng.random_range(0..after.len());
        match rng.random_range(0..3) {
            0 => {
                let inserted = random_bytes(&mut rng, 100);
                after.splice(at..at, inserted);
            }
            1 => {
                after.drain(at..(at + 100).min(before.len()));
            }
            _ => after[at] ^= 0xff,
        }
        let new = starts(&after).difference(&old).count();
        assert!(new <= 6, "{new} of {} chunks are new after one edit at {at}", old.len());
    }
}

#[test]
fn odd_or_absurd_parameters_are_refused() {
    let good = params();
    assert!(Cutter::new(&good).is_ok());
    for bad in [
        ChunkParams { min_bytes: 16_385, ..good },
        ChunkParams { min_bytes: 0, ..good },
        ChunkParams { max_bytes: 4 << 20, ..good },
        ChunkParams { avg_bytes: 8, ..good },
        ChunkParams { min_bytes: 128 << 10, ..good },
        ChunkParams { block_bytes: 0, ..good },
        ChunkParams { block_bytes: 5000, ..good },
    ] {
        assert!(Cutter::new(&bad).is_err(), "{bad:?}");
    }
}
