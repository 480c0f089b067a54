//! From stored bytes to the bytes of a chunk. Nothing here trusts a length: every output is bounded by the raw
//! length, which was held against its limit when the record or entry was read.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;

use backstay_types::ChunkId;
use backstay_types::frame::batch::Codec;
use backstay_types::frame::patch::{Patch, SECTOR_BYTES};

use crate::StoreError;

/// Where the bases of a patch come from.
pub(crate) trait Bases {
    /// Length of a base; `None` if it cannot be used.
    fn len(&mut self, id: &ChunkId) -> Result<Option<u32>, StoreError>;
    /// Its bytes.
    fn bytes(&mut self, id: &ChunkId) -> Result<Arc<Vec<u8>>, StoreError>;
}

/// Why stored bytes do not give a chunk.
#[derive(Debug)]
pub(crate) enum Undecodable {
    /// They cannot, whatever the bases are.
    Damaged(&'static str),
    /// A base is not there.
    NoBase(ChunkId),
    /// A base could not be read.
    Store(StoreError),
}

impl From<StoreError> for Undecodable {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Bytes of a whole chunk.
pub(crate) fn whole(codec: Codec, stored: &[u8], raw_len: u32) -> Result<Vec<u8>, &'static str> {
    let raw_len = raw_len as usize;
    let bytes = match codec {
        Codec::Raw => stored.to_vec(),
        Codec::Zstd => inflate(stored, raw_len).map_err(|_| "it does not decompress")?,
        Codec::Patch => return Err("a patch stands where a whole chunk must"),
    };
    if bytes.len() == raw_len { Ok(bytes) } else { Err("it has another length") }
}

thread_local! {
    /// Making a context costs more than inflating a small chunk with it. About 160 KiB for each thread that reads or
    /// takes in chunks.
    static CONTEXT: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Inflates to at most `most` bytes.
fn inflate(packed: &[u8], most: usize) -> io::Result<Vec<u8>> {
    CONTEXT.with_borrow_mut(|context| match context {
        Some(context) => context.decompress(packed, most),
        None => context.insert(zstd::bulk::Decompressor::new()?).decompress(packed, most),
    })
}

/// Bytes of a chunk stored as a patch.
///
/// Memory: of all bases only the range the chunk covers is gathered, so twice the largest chunk and one base.
pub(crate) fn patched(stored: &[u8], raw_len: u32, bases: &mut dyn Bases) -> Result<Vec<u8>, Undecodable> {
    let raw_len = raw_len as usize;
    let patch = Patch::decode(stored, raw_len).ok_or(Undecodable::Damaged("the patch does not decode"))?;
    let base = gather(&patch, raw_len, bases)?;
    let inflated;
    let sectors = if patch.zstd {
        // The first changed sector may be a short one, so this is at most one sector too much.
        let changed: u32 = patch.bitmap.iter().map(|byte| byte.count_ones()).sum();
        let most = (changed as usize * SECTOR_BYTES).min(raw_len);
        inflated = inflate(patch.sectors, most)
            .map_err(|_| Undecodable::Damaged("the sectors of the patch do not decompress"))?;
        inflated.as_slice()
    } else {
        patch.sectors
    };
    Patch::apply(patch.bitmap, patch.lead, &base, sectors, raw_len)
        .ok_or(Undecodable::Damaged("the patch does not fit its base"))
}

/// The part of the concatenated bases that the chunk lies over.
fn gather(patch: &Patch<'_>, raw_len: usize, bases: &mut dyn Bases) -> Result<Vec<u8>, Undecodable> {
    let mut base = Vec::with_capacity(raw_len);
    let mut skip = patch.skip as usize;
    for id in &patch.bases {
        let len = bases.len(id)?.ok_or(Undecodable::NoBase(*id))? as usize;
        if base.len() == raw_len {
            break;
        }
        if skip >= len {
            skip -= len;
            continue;
        }
        let bytes = bases.bytes(id)?;
        let from = bytes.get(skip..).unwrap_or_default();
        base.extend_from_slice(from.get(..from.len().min(raw_len - base.len())).unwrap_or_default());
        skip = 0;
    }
    Ok(base)
}

/// The bases a stored patch names.
pub(crate) fn bases_of(stored: &[u8], raw_len: u32) -> Result<Vec<ChunkId>, &'static str> {
    Patch::decode(stored, raw_len as usize).map(|patch| patch.bases).ok_or("the patch does not decode")
}
