//! Putting a good copy in the place of a damaged chunk.
//!
//! The copy goes into a later pack than the damaged one, so it is the preferred one after a restart too. It is
//! synced before the call returns; the pack stays open for the next repair, and for the next session of the pair,
//! and after a crash it is recovered like every open pack.

use backstay_types::frame::batch::Codec;
use backstay_types::{ChunkId, PackId, PairId, limits};

use crate::StoreError;
use crate::index::PackStage;
use crate::inner::{Inner, lock};
use crate::pack::{PackWriter, Pending, RecordHeader};

/// Level for repaired chunks.
const ZSTD_LEVEL: i32 = 1;

/// See [`crate::Store::repair_chunk`].
pub(crate) fn repair(inner: &Inner, pair: PairId, id: ChunkId, bytes: &[u8]) -> Result<bool, StoreError> {
    inner.disk.check()?;
    let key = inner.key(pair)?;
    if bytes.len() > limits::CHUNK_BYTES_MAX || key.chunk_id(bytes) != id {
        return Ok(false);
    }
    let known = {
        let state = inner.index.read();
        if state.find_sound(&id, |_| true)?.is_some() {
            return Ok(true);
        }
        state.find(&id)?.map(|hit| hit.loc.pack)
    };
    let packed = zstd::bulk::compress(bytes, ZSTD_LEVEL).unwrap_or_default();
    let smaller = !packed.is_empty() && packed.len() < bytes.len();
    let (codec, stored) = if smaller { (Codec::Zstd, packed.as_slice()) } else { (Codec::Raw, bytes) };
    let too_long = |_| StoreError::Limit { what: "stored chunk", max: limits::CHUNK_STORED_BYTES_MAX as u64 };
    let stored_len = u32::try_from(stored.len()).map_err(too_long)?;
    let raw_len = u32::try_from(bytes.len()).map_err(too_long)?;
    let mut pending = Pending::default();
    pending.push(RecordHeader { id, stored_len, raw_len, codec, depth: 0 }, stored)?;
    write(inner, pair, &pending, known)?;
    Ok(true)
}

/// Writes a record into a pack of the pair with a number above `above`, durably.
fn write(inner: &Inner, pair: PairId, pending: &Pending, above: Option<PackId>) -> Result<(), StoreError> {
    inner.check_room(pending.bytes())?;
    let fits = |writer: &PackWriter| {
        writer.pair() == pair
            && writer.has_room(pending, inner.config.pack_bytes)
            && above.is_none_or(|above| writer.pack() > above)
    };
    let mut orphans = lock(&inner.orphans);
    let at = match orphans.iter().position(fits) {
        Some(at) => at,
        None => {
            orphans.push(inner.new_pack(pair)?);
            orphans.len() - 1
        }
    };
    let writer = orphans.get_mut(at).ok_or(StoreError::Broken { what: "a pack being written is gone" })?;
    let entries = writer.append(&inner.disk, pending)?;
    writer.sync(&inner.disk)?;
    let mut state = inner.index.write();
    state.set_pack(writer.pack(), PackStage::Open, writer.len());
    state.publish(entries)
}
