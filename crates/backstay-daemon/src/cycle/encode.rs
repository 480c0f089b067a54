//! Turns chunks into batch records: as patches where the receiver holds most of the sectors, else compressed
//! where that pays, else raw.

use std::sync::Arc;

use backstay_types::ChunkId;
use backstay_types::frame::batch::Codec;
use backstay_types::frame::patch::{Patch, SECTOR_BYTES, sector_count};
use backstay_volume::PatchBase;

use super::produce::Chunk;

/// zstd level: at 1, compression keeps up with the links this is made for.
const LEVEL: i32 = 1;

/// A chunk larger than this is probed before it is compressed whole.
const PROBE_ABOVE: usize = 16 << 10;
/// How much of it is probed, from its middle: headers at the start compress better than what follows.
const PROBE_BYTES: usize = 4 << 10;

/// A chunk ready for a batch.
pub(super) struct Encoded {
    pub(super) slot: u64,
    pub(super) id: ChunkId,
    pub(super) raw_len: u32,
    pub(super) codec: Codec,
    pub(super) stored: Vec<u8>,
}

/// What to encode.
pub(super) struct Work {
    pub(super) slot: u64,
    pub(super) chunk: Arc<Chunk>,
    /// Whether a patch will not do.
    pub(super) whole: bool,
}

/// Encodes a group of chunks, in order.
pub(super) fn encode(group: Vec<Work>) -> std::io::Result<Vec<Encoded>> {
    let mut compressor = zstd::bulk::Compressor::new(LEVEL)?;
    group.into_iter().map(|work| encode_one(&mut compressor, &work)).collect()
}

fn encode_one(compressor: &mut zstd::bulk::Compressor<'_>, work: &Work) -> std::io::Result<Encoded> {
    let chunk = &work.chunk;
    let patch = match &chunk.base {
        Some(base) if !work.whole => Some((Codec::Patch, patch(compressor, base, &chunk.bytes)?)),
        _ => None,
    };
    let (codec, stored) = match patch {
        Some(patch) => patch,
        None => compress(compressor, &chunk.bytes)?,
    };
    let raw_len = u32::try_from(chunk.bytes.len()).unwrap_or(u32::MAX);
    Ok(Encoded { slot: work.slot, id: chunk.id, raw_len, codec, stored })
}

fn compress(compressor: &mut zstd::bulk::Compressor<'_>, bytes: &[u8]) -> std::io::Result<(Codec, Vec<u8>)> {
    if bytes.len() > PROBE_ABOVE {
        let middle = bytes.len() / 2;
        let sample = bytes.get(middle..middle + PROBE_BYTES).unwrap_or(bytes);
        if compressor.compress(sample)?.len() * 20 > sample.len() * 19 {
            return Ok((Codec::Raw, bytes.to_vec()));
        }
    }
    let packed = compressor.compress(bytes)?;
    Ok(if packed.len() < bytes.len() { (Codec::Zstd, packed) } else { (Codec::Raw, bytes.to_vec()) })
}

fn patch(
    compressor: &mut zstd::bulk::Compressor<'_>,
    base: &PatchBase,
    bytes: &[u8],
) -> std::io::Result<Vec<u8>> {
    let mut changed = Vec::new();
    let mut at = 0;
    for sector in 0..sector_count(bytes.len(), base.lead) {
        let len = if sector == 0 { usize::from(base.lead) } else { SECTOR_BYTES }.min(bytes.len() - at);
        let is_set = base.bitmap.get(sector / 8).is_some_and(|byte| byte & (1 << (sector % 8)) != 0);
        if is_set {
            changed.extend_from_slice(bytes.get(at..at + len).unwrap_or_default());
        }
        at += len;
    }
    let (codec, sectors) = compress(compressor, &changed)?;
    let bases = base.bases.clone();
    let patch = Patch {
        bases,
        skip: base.skip,
        lead: base.lead,
        bitmap: &base.bitmap,
        zstd: codec == Codec::Zstd,
        sectors: &sectors,
    };
    Ok(patch.encode())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_rebuilds_the_chunk() {
        let base: Vec<u8> = (0..40_000_u32).map(|i| (i % 251) as u8).collect();
        let mut bytes = base[1000..31_000].to_vec();
        bytes[5000] ^= 1;
        let lead = 3096_u16;
        // Byte 5000 lies in the second sector: the first has 3096 bytes, the second the 4096 after.
        let patch_base = PatchBase { bases: vec![ChunkId([1; 32])], skip: 1000, lead, bitmap: vec![0b10] };
        let mut compressor = zstd::bulk::Compressor::new(LEVEL).expect("a compressor");
        let stored = patch(&mut compressor, &patch_base, &bytes).expect("it encodes");
        assert!(stored.len() < 5000, "one sector travels, not {}", stored.len());
        let decoded = Patch::decode(&stored, bytes.len()).expect("it decodes");
        let sectors = if decoded.zstd {
            zstd::bulk::decompress(decoded.sectors, 1 << 20).expect("sectors decompress")
        } else {
            decoded.sectors.to_vec()
        };
        let rebuilt = Patch::apply(decoded.bitmap, decoded.lead, &base[1000..], &sectors, bytes.len());
        assert_eq!(rebuilt.as_deref(), Some(&bytes[..]));
    }

    #[test]
    fn what_does_not_compress_stays_raw() {
        let noise: Vec<u8> = {
            let mut state = 1_u64;
            let step = |state: &mut u64| {
                *state =
                    state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (*state >> 56) as u8
            };
            (0..65_536).map(|_| step(&mut state)).collect()
        };
        let mut compressor = zstd::bulk::Compressor::new(LEVEL).expect("a compressor");
        assert_eq!(compress(&mut compressor, &noise).expect("it encodes").0, Codec::Raw);
        assert_eq!(compress(&mut compressor, &[7; 65_536]).expect("it encodes").0, Codec::Zstd);
    }
}
