//! The pack: a file of up to 64 MiB holding many chunks and, once sealed, a sorted list of them.
//!
//! ```text
//! pack    = header · records · trailer · footer
//! header  = magic "BSPK" · version u32 · pack u32 · pair 16 · crc32c u32
//! record  = magic "BSRC" · stored_len u32 · raw_len u32 · codec u8 · depth u8 · 0 u16 · id 32 · crc32c u32 · stored bytes
//! trailer = entries sorted by id: id 32 · offset u32 · stored_len u32 · kind u32
//! footer  = magic "BSPT" · count u32 · trailer offset u32 · trailer crc32c u32 · BLAKE3 of all before 32
//! ```
//! All numbers little-endian. `kind` holds the raw length in its low 24 bits, the codec in the next 4 and the
//! depth of a patch in the top 4. A record's checksum covers its header and its bytes.
//!
//! 1. A pack is written under the suffix `.open` and gets `.pack` when it is sealed, so a sealed name always has
//!    a trailer.
//! 2. After a crash an open pack is cut at its first bad record and sealed (test `a_pack_cut_anywhere_keeps_what_is_whole`).
//! 3. No length of a file is believed before it was held against the file and a limit (test `random_bytes_never_panic`).
//!
//! Left to others: which chunks are needed (garbage collection), and where they are (the index).

mod files;
mod read;
mod writer;

pub(crate) use files::PackFiles;
pub(crate) use read::{check_header, check_record, read_trailer, recover, scan_records};
pub(crate) use writer::{PackWriter, Pending};

use backstay_types::frame::batch::Codec;
use backstay_types::{ChunkId, PackId, PairId, limits};

const HEADER_MAGIC: &[u8; 4] = b"BSPK";
const RECORD_MAGIC: &[u8; 4] = b"BSRC";
const FOOTER_MAGIC: &[u8; 4] = b"BSPT";
const VERSION: u32 = 1;

pub(crate) const HEADER_BYTES: usize = 4 + 4 + 4 + 16 + 4;
pub(crate) const RECORD_HEADER_BYTES: usize = 4 + 4 + 4 + 1 + 1 + 2 + 32 + 4;
pub(crate) const TRAILER_ENTRY_BYTES: usize = 32 + 4 + 4 + 4;
pub(crate) const FOOTER_BYTES: usize = 4 + 4 + 4 + 4 + 32;

/// Records of one pack: bounds its trailer to 2.8 MB and what the index holds of an open pack to 7 MB.
pub(crate) const PACK_RECORDS_MAX: usize = 64 << 10;

/// Longest file that can be a pack: a full one, one batch on top, its trailer.
pub(crate) const PACK_FILE_BYTES_MAX: u64 = limits::PACK_BYTES_TARGET
    + (2 * limits::BATCH_BYTES_MAX + (PACK_RECORDS_MAX + 1) * TRAILER_ENTRY_BYTES) as u64;

/// Where a chunk is and how it is stored there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Loc {
    pub(crate) pack: PackId,
    /// Of the record's header.
    pub(crate) offset: u32,
    pub(crate) stored_len: u32,
    pub(crate) raw_len: u32,
    pub(crate) codec: Codec,
    /// Patches under this one; 0 for a whole chunk.
    pub(crate) depth: u8,
}

impl Loc {
    /// Whether this copy is to be preferred over `other`: whole before patch (so that patches can never stand on
    /// each other in a circle), then newer before older (so that a repaired copy wins).
    pub(crate) fn beats(&self, other: &Loc) -> bool {
        (other.depth, self.pack, self.offset) > (self.depth, other.pack, other.offset)
    }

    /// Bytes of its record.
    pub(crate) fn record_len(&self) -> usize {
        RECORD_HEADER_BYTES + self.stored_len as usize
    }

    pub(crate) fn kind(&self) -> u32 {
        self.raw_len & 0x00ff_ffff | u32::from(self.codec as u8) << 24 | u32::from(self.depth) << 28
    }

    /// Puts a location together from its stored fields; `None` if one is out of bounds.
    pub(crate) fn from_fields(pack: PackId, offset: u32, stored_len: u32, kind: u32) -> Option<Self> {
        let [_, _, _, top] = kind.to_le_bytes();
        let raw_len = kind & 0x00ff_ffff;
        let codec = Codec::from_code(top & 0xf)?;
        let depth = top >> 4;
        let sound = raw_len as usize <= limits::CHUNK_BYTES_MAX
            && stored_len as usize <= limits::CHUNK_STORED_BYTES_MAX
            && depth <= limits::PATCH_DEPTH_MAX
            && (codec == Codec::Patch) == (depth > 0);
        sound.then_some(Self { pack, offset, stored_len, raw_len, codec, depth })
    }
}

/// A chunk and where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) id: ChunkId,
    pub(crate) loc: Loc,
}

/// Takes fixed-size fields off the front of bytes.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*first)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }
}

fn encode_header(pack: PackId, pair: PairId) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_BYTES);
    out.extend_from_slice(HEADER_MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&pack.0.to_le_bytes());
    out.extend_from_slice(&pair.0);
    let crc = crc32c::crc32c(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out
}

fn decode_header(bytes: &[u8]) -> Result<(PackId, PairId), &'static str> {
    let (body, crc) = bytes.split_last_chunk::<4>().ok_or("its header is cut short")?;
    let mut fields = Fields(body);
    if fields.take::<4>() != Some(*HEADER_MAGIC) {
        return Err("it does not begin like a pack");
    }
    if crc32c::crc32c(body) != u32::from_le_bytes(*crc) {
        return Err("its header does not match its checksum");
    }
    if fields.u32() != Some(VERSION) {
        return Err("its format version is not known to this program");
    }
    let pack = fields.u32().ok_or("its header is cut short")?;
    let pair = fields.take().ok_or("its header is cut short")?;
    Ok((PackId(pack), PairId(pair)))
}

/// Header of a record, without its magic and checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    pub(crate) id: ChunkId,
    pub(crate) stored_len: u32,
    pub(crate) raw_len: u32,
    pub(crate) codec: Codec,
    pub(crate) depth: u8,
}

impl RecordHeader {
    fn encode_into(&self, stored: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(RECORD_MAGIC);
        out.extend_from_slice(&self.stored_len.to_le_bytes());
        out.extend_from_slice(&self.raw_len.to_le_bytes());
        out.extend_from_slice(&[self.codec as u8, self.depth, 0, 0]);
        out.extend_from_slice(&self.id.0);
        let crc = crc32c::crc32c_append(crc32c::crc32c(out.get(start..).unwrap_or_default()), stored);
        out.extend_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(stored);
    }

    /// Reads a header, its fields held against the limits, and the checksum it promises.
    fn decode(bytes: &[u8]) -> Result<(Self, u32), &'static str> {
        let mut fields = Fields(bytes);
        if fields.take::<4>() != Some(*RECORD_MAGIC) {
            return Err("no record begins there");
        }
        let read = |fields: &mut Fields<'_>| {
            let (stored_len, raw_len) = (fields.u32()?, fields.u32()?);
            let [codec, depth, zero, nil] = fields.take()?;
            let id = ChunkId(fields.take()?);
            let crc = fields.u32()?;
            let kind = raw_len | u32::from(codec & 0xf) << 24 | u32::from(depth & 0xf) << 28;
            let bounded = raw_len < 1 << 24 && codec < 16 && depth < 16 && [zero, nil] == [0, 0];
            let loc = Loc::from_fields(PackId(0), 0, stored_len, kind).filter(|_| bounded)?;
            Some((Self { id, stored_len, raw_len, codec: loc.codec, depth }, crc))
        };
        read(&mut fields).ok_or("a record's header is out of bounds")
    }
}

fn encode_trailer(entries: &[Entry], offset: u32, out: &mut Vec<u8>) {
    let start = out.len();
    for Entry { id, loc } in entries {
        out.extend_from_slice(&id.0);
        out.extend_from_slice(&loc.offset.to_le_bytes());
        out.extend_from_slice(&loc.stored_len.to_le_bytes());
        out.extend_from_slice(&loc.kind().to_le_bytes());
    }
    let crc = crc32c::crc32c(out.get(start..).unwrap_or_default());
    // A pack holds at most `PACK_RECORDS_MAX` records.
    let count = u32::try_from(entries.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(FOOTER_MAGIC);
    out.extend_from_slice(&count.to_le_bytes());
    out.extend_from_slice(&offset.to_le_bytes());
    out.extend_from_slice(&crc.to_le_bytes());
}
