//! Reading packs: header, trailer, records one by one, and the recovery of one that was never sealed.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use backstay_types::{ChunkId, PackId, PairId};

use super::{
    Entry, FOOTER_BYTES, FOOTER_MAGIC, Fields, HEADER_BYTES, Loc, PACK_FILE_BYTES_MAX, PACK_RECORDS_MAX,
    PackWriter, RECORD_HEADER_BYTES, RecordHeader, TRAILER_ENTRY_BYTES, decode_header,
};
use crate::StoreError;
use crate::disk;
use crate::layout::Layout;

fn damaged(pack: PackId, why: impl Into<String>) -> StoreError {
    StoreError::PackDamaged { pack, why: why.into() }
}

fn read_at(file: &File, path: &Path, offset: u64, len: usize) -> Result<Vec<u8>, StoreError> {
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, offset).map_err(|e| StoreError::io("read", path, e))?;
    Ok(bytes)
}

fn file_len(file: &File, path: &Path) -> Result<u64, StoreError> {
    file.metadata().map(|meta| meta.len()).map_err(|e| StoreError::io("look at", path, e))
}

/// Checks a pack's header. Returns the pair whose chunks it holds.
pub(crate) fn check_header(file: &File, path: &Path, pack: PackId) -> Result<PairId, StoreError> {
    if file_len(file, path)? < HEADER_BYTES as u64 {
        return Err(damaged(pack, "its header is cut short"));
    }
    let header = read_at(file, path, 0, HEADER_BYTES)?;
    let (found, pair) = decode_header(&header).map_err(|why| damaged(pack, why))?;
    if found == pack { Ok(pair) } else { Err(damaged(pack, format!("its header says it is pack {found}"))) }
}

/// Reads the trailer of a sealed pack: its entries, sorted by id, and where the records end.
pub(crate) fn read_trailer(file: &File, path: &Path, pack: PackId) -> Result<(Vec<Entry>, u64), StoreError> {
    let len = file_len(file, path)?;
    let footer_at = len.checked_sub(FOOTER_BYTES as u64).filter(|at| *at >= HEADER_BYTES as u64);
    let footer_at = footer_at.ok_or_else(|| damaged(pack, "it is too short"))?;
    if len > PACK_FILE_BYTES_MAX {
        return Err(damaged(pack, format!("it has {len} bytes, at most {PACK_FILE_BYTES_MAX} allowed")));
    }
    let footer = read_at(file, path, footer_at, FOOTER_BYTES)?;
    let mut fields = Fields(&footer);
    if fields.take::<4>() != Some(*FOOTER_MAGIC) {
        return Err(damaged(pack, "it has no footer"));
    }
    let mut next = || fields.u32().ok_or_else(|| damaged(pack, "it has no footer"));
    let (count, start, crc) = (next()? as usize, u64::from(next()?), next()?);
    let fits = count <= PACK_RECORDS_MAX && start + (count * TRAILER_ENTRY_BYTES) as u64 == footer_at;
    if !fits {
        return Err(damaged(pack, "its footer does not match its length"));
    }
    let trailer = read_at(file, path, start, count * TRAILER_ENTRY_BYTES)?;
    if crc32c::crc32c(&trailer) != crc {
        return Err(damaged(pack, "its trailer does not match its checksum"));
    }
    let entries =
        decode_trailer(&trailer, pack, start).ok_or_else(|| damaged(pack, "its trailer is out of bounds"))?;
    Ok((entries, start))
}

fn decode_trailer(trailer: &[u8], pack: PackId, records_end: u64) -> Option<Vec<Entry>> {
    let mut entries: Vec<Entry> = Vec::with_capacity(trailer.len() / TRAILER_ENTRY_BYTES);
    for bytes in trailer.chunks_exact(TRAILER_ENTRY_BYTES) {
        let mut fields = Fields(bytes);
        let id = ChunkId(fields.take()?);
        let loc = Loc::from_fields(pack, fields.u32()?, fields.u32()?, fields.u32()?)?;
        let ends = u64::from(loc.offset) + loc.record_len() as u64;
        let ascends = entries.last().is_none_or(|last| last.id < id);
        if !ascends || (loc.offset as usize) < HEADER_BYTES || ends > records_end {
            return None;
        }
        entries.push(Entry { id, loc });
    }
    Some(entries)
}

/// Checks the bytes of a record against where the index says it is. Returns the stored bytes.
pub(crate) fn check_record<'a>(record: &'a [u8], entry: &Entry) -> Result<&'a [u8], &'static str> {
    let (header, stored) = record.split_at_checked(RECORD_HEADER_BYTES).ok_or("the record is cut short")?;
    let (found, crc) = RecordHeader::decode(header)?;
    let Loc { stored_len, raw_len, codec, depth, .. } = entry.loc;
    if found != (RecordHeader { id: entry.id, stored_len, raw_len, codec, depth }) {
        return Err("the record there is not the one expected");
    }
    if stored.len() != stored_len as usize || record_crc(header, stored) != crc {
        return Err("the record does not match its checksum");
    }
    Ok(stored)
}

fn record_crc(header: &[u8], stored: &[u8]) -> u32 {
    let covered = header.get(..RECORD_HEADER_BYTES - 4).unwrap_or_default();
    crc32c::crc32c_append(crc32c::crc32c(covered), stored)
}

/// Goes through the records from the front up to the first that is not whole, or to `end`.
/// Calls `each` with every one and its bytes. Returns where the last whole record ends.
pub(crate) fn scan_records(
    file: &File,
    path: &Path,
    pack: PackId,
    end: u64,
    each: &mut dyn FnMut(Entry, &[u8]),
) -> Result<u64, StoreError> {
    let mut at = HEADER_BYTES as u64;
    loop {
        let left = end.saturating_sub(at);
        if left < RECORD_HEADER_BYTES as u64 {
            return Ok(at);
        }
        let header = read_at(file, path, at, RECORD_HEADER_BYTES)?;
        let Ok((found, _)) = RecordHeader::decode(&header) else { return Ok(at) };
        let RecordHeader { id, stored_len, raw_len, codec, depth } = found;
        let Ok(offset) = u32::try_from(at) else { return Ok(at) };
        let entry = Entry { id, loc: Loc { pack, offset, stored_len, raw_len, codec, depth } };
        if left < entry.loc.record_len() as u64 {
            return Ok(at);
        }
        let record = read_at(file, path, at, entry.loc.record_len())?;
        if check_record(&record, &entry).is_err() {
            return Ok(at);
        }
        each(entry, &record);
        at += record.len() as u64;
    }
}

/// Takes up a pack that was not sealed: cut at its first bad record, ready to be written on or sealed.
/// One without a single whole record is removed, and `None` returned.
pub(crate) fn recover(layout: &Layout, pack: PackId) -> Result<Option<PackWriter>, StoreError> {
    let path = layout.open_pack(pack);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .map_err(|e| StoreError::io("open", &path, e))?;
    let pair = match check_header(&file, &path, pack) {
        Ok(pair) => pair,
        Err(StoreError::PackDamaged { why, .. }) => {
            tracing::warn!(%pack, why, "an unfinished pack holds nothing and is removed");
            disk::remove_file(&path)?;
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let mut hasher = blake3::Hasher::new();
    hasher.update(&read_at(&file, &path, 0, HEADER_BYTES)?);
    let mut entries = Vec::new();
    // Its length is bounded like that of every pack; the scan holds one record at a time.
    let len = file_len(&file, &path)?.min(PACK_FILE_BYTES_MAX);
    let end = scan_records(&file, &path, pack, len, &mut |entry, record| {
        hasher.update(record);
        entries.push(entry);
    })?;
    if entries.is_empty() {
        disk::remove_file(&path)?;
        return Ok(None);
    }
    if end < len {
        tracing::info!(%pack, kept = entries.len(), cut_bytes = len - end, "an unfinished pack was cut at its last whole record");
    }
    file.set_len(end).map_err(|e| StoreError::io("cut back", &path, e))?;
    let end = usize::try_from(end)
        .map_err(|_| StoreError::Limit { what: "length of a pack", max: PACK_FILE_BYTES_MAX })?;
    Ok(Some(PackWriter::from_parts(layout, pack, pair, file, end, hasher, entries)))
}
