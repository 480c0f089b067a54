//! Deterministic draws: the same seed and the same question give the same number, so a restarted daemon keeps the
//! moments it had announced, and a test repeats.

/// A number made of `seed` and `salt` with every bit of both spread over all of it (`SplitMix64`, Steele et al.,
/// OOPSLA 2014).
pub(crate) const fn draw(seed: u64, salt: u64) -> u64 {
    let mut z = seed ^ salt.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A number from 0 to `max`, both included.
pub(crate) const fn draw_to(seed: u64, salt: u64, max: u64) -> u64 {
    match max.checked_add(1) {
        // The bias of a remainder is below 1 in 2^32 for every span of time used here.
        Some(bound) => draw(seed, salt) % bound,
        None => draw(seed, salt),
    }
}
