//! From a received record to one that may be written: decoded, hashed, and as a patch only if it may stay one.

use std::sync::Arc;

use backstay_types::frame::batch::{BatchRecord, Codec};
use backstay_types::{ChunkId, HashKey, PackId, limits};

use super::find_and_pin;
use crate::StoreError;
use crate::decode::{self, Bases, Undecodable};
use crate::index::Hit;
use crate::inner::Inner;
use crate::pack::RecordHeader;
use crate::session::Session;

/// Records one read of a chunk may touch, all patches under it included. A patch over many bases that are
/// patches over many bases would otherwise cost their product: 66^4 is 19 million.
const PATCH_READS_MAX: u32 = 1024;

/// Level for chunks that come as patches and must be stored whole.
const ZSTD_LEVEL: i32 = 1;

/// What is to be done with a record.
pub(super) enum Prepared {
    /// Nothing: the chunk is here.
    Held,
    /// It is a patch that does not rebuild its chunk here.
    Rejected,
    /// To be written.
    Store {
        header: RecordHeader,
        /// Bytes to write, if not those of the record.
        stored: Option<Vec<u8>>,
        /// The pack of a damaged copy; the new one must go into a later pack, to be preferred.
        instead_of: Option<PackId>,
    },
}

/// Checks one record.
pub(super) fn prepare(
    inner: &Inner,
    session: &Session,
    key: &HashKey,
    record: &BatchRecord<'_>,
) -> Result<Prepared, StoreError> {
    if find_and_pin(inner, session, &record.id)?.is_some() {
        return Ok(Prepared::Held);
    }
    // Damaged, or in a pack about to go: known, but not to be used.
    let known = inner.index.read().find(&record.id)?;
    let instead_of = known.map(|hit| hit.loc.pack);
    match record.codec {
        Codec::Raw | Codec::Zstd => prepare_whole(key, record, instead_of),
        Codec::Patch => prepare_patch(inner, session, key, record, instead_of),
    }
}

fn prepare_whole(
    key: &HashKey,
    record: &BatchRecord<'_>,
    instead_of: Option<PackId>,
) -> Result<Prepared, StoreError> {
    let refused = |why| StoreError::ChunkRefused { id: record.id, why };
    let bytes = decode::whole(record.codec, record.stored, record.raw_len).map_err(refused)?;
    if key.chunk_id(&bytes) != record.id {
        return Err(refused("its bytes do not match its id"));
    }
    store(record, record.codec, 0, None, instead_of)
}

fn prepare_patch(
    inner: &Inner,
    session: &Session,
    key: &HashKey,
    record: &BatchRecord<'_>,
    instead_of: Option<PackId>,
) -> Result<Prepared, StoreError> {
    let mut bases = Claimed { inner, session, key };
    let bytes = match decode::patched(record.stored, record.raw_len, &mut bases) {
        Ok(bytes) if key.chunk_id(&bytes) == record.id => bytes,
        Ok(_) | Err(Undecodable::Damaged(_) | Undecodable::NoBase(_)) => return Ok(Prepared::Rejected),
        Err(Undecodable::Store(error)) if error.is_damage() => {
            tracing::warn!(chunk = %record.id, %error, "a patch was rejected because its base is damaged");
            return Ok(Prepared::Rejected);
        }
        Err(Undecodable::Store(error)) => return Err(error),
    };
    // A chunk that is known in a bad copy is written whole: patches that stand on it must not come to stand
    // under it.
    let depth = if instead_of.is_some() { None } else { depth_over(inner, session, record)? };
    if let Some(depth) = depth {
        return store(record, Codec::Patch, depth, None, None);
    }
    let packed = zstd::bulk::compress(&bytes, ZSTD_LEVEL).unwrap_or_default();
    let (codec, stored) = if packed.is_empty() || packed.len() >= bytes.len() {
        (Codec::Raw, bytes)
    } else {
        (Codec::Zstd, packed)
    };
    store(record, codec, 0, Some(stored), instead_of)
}

fn store(
    record: &BatchRecord<'_>,
    codec: Codec,
    depth: u8,
    stored: Option<Vec<u8>>,
    instead_of: Option<PackId>,
) -> Result<Prepared, StoreError> {
    let len = stored.as_ref().map_or(record.stored.len(), Vec::len);
    let stored_len = u32::try_from(len).map_err(|_| StoreError::Limit {
        what: "stored chunk",
        max: limits::CHUNK_STORED_BYTES_MAX as u64,
    })?;
    let header = RecordHeader { id: record.id, stored_len, raw_len: record.raw_len, codec, depth };
    Ok(Prepared::Store { header, stored, instead_of })
}

/// How deep a patch would stand; `None` if it is too deep, or too costly to read, to stay a patch.
fn depth_over(inner: &Inner, session: &Session, record: &BatchRecord<'_>) -> Result<Option<u8>, StoreError> {
    let Ok(bases) = decode::bases_of(record.stored, record.raw_len) else { return Ok(None) };
    let mut deepest = 0;
    let mut reads = 1;
    for base in &bases {
        let Some(hit) = find_and_pin(inner, session, base)? else { return Ok(None) };
        deepest = deepest.max(hit.loc.depth);
        if deepest >= limits::PATCH_DEPTH_MAX || !count_reads(inner, base, &hit, &mut reads)? {
            return Ok(None);
        }
    }
    Ok(Some(deepest + 1))
}

/// Counts the records a read of this chunk touches; whether they are few enough.
/// Recursion ends because every stored patch is at most `PATCH_DEPTH_MAX` deep and was counted when it came.
fn count_reads(inner: &Inner, id: &ChunkId, hit: &Hit, reads: &mut u32) -> Result<bool, StoreError> {
    *reads += 1;
    if *reads > PATCH_READS_MAX {
        return Ok(false);
    }
    for base in inner.bases(id, hit)? {
        let below = inner.index.read().find(&base)?;
        let Some(below) = below.filter(|below| below.loc.depth < hit.loc.depth) else { return Ok(false) };
        if !count_reads(inner, &base, &below, reads)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Bases a new patch may stand on, claimed for the session.
struct Claimed<'a> {
    inner: &'a Inner,
    session: &'a Session,
    key: &'a HashKey,
}

impl Bases for Claimed<'_> {
    fn len(&mut self, id: &ChunkId) -> Result<Option<u32>, StoreError> {
        Ok(find_and_pin(self.inner, self.session, id)?.map(|hit| hit.loc.raw_len))
    }

    fn bytes(&mut self, id: &ChunkId) -> Result<Arc<Vec<u8>>, StoreError> {
        self.inner.load(self.key, id, &self.inner.cache)
    }
}
