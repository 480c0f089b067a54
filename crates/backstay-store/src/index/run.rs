//! A run: an immutable file of sorted index entries over a set of packs.
//!
//! ```text
//! run    = magic "BSRN" · version u32 · entries · packs u32 each · fan-out u32 each · footer
//! entry  = id 32 · pack u32 · offset u32 · stored_len u32 · kind u32                       48 bytes
//! footer = entry count u64 · pack count u32 · fan bits u32 · crc32c of packs, fan-out and these fields u32 · BLAKE3 of all before
//! ```
//! The fan-out says where the ids with each value of their first bits begin; it has so many bits that 64 to 128
//! entries share a value, so a lookup is one positioned read of 3 to 6 KiB, nearly always from the page cache.
//! It and the list of packs are all that stays in memory: 4 bytes for each 64 entries or more.
//!
//! A memory map would save the copy, but needs `unsafe`, which this workspace forbids; one read call costs about
//! as much as the search behind it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use backstay_types::{ChunkId, PackId};

use crate::StoreError;
use crate::disk::{self, Disk};
use crate::pack::{Entry, Fields, Loc};

const MAGIC: &[u8; 4] = b"BSRN";
const VERSION: u32 = 1;
const PREFIX_BYTES: u64 = 8;
pub(crate) const ENTRY_BYTES: usize = 48;
const FOOTER_BYTES: usize = 8 + 4 + 4 + 4 + 32;
/// Entries that share a fan-out value, at least.
const BUCKET_ENTRIES: u64 = 64;
/// 4 MiB of fan-out: 128 entries a value at 134 M entries, 8 TiB of chunks.
const FAN_BITS_MAX: u32 = 20;
/// Packs of one run: 4 million packs are 256 TiB.
const PACKS_MAX: usize = 4 << 20;
/// A lookup reads at most this many entries at once; 24 KiB.
const SPAN_ENTRIES: u64 = 512;
/// Entries an iterator reads at once; 192 KiB.
const READ_ENTRIES: u64 = 4096;

/// A run, open for lookups.
#[derive(Debug)]
pub(crate) struct Run {
    seq: u64,
    path: PathBuf,
    file: File,
    count: u64,
    fan_bits: u32,
    fan: Vec<u32>,
    packs: BTreeSet<PackId>,
}

fn bucket_of(id: &ChunkId, fan_bits: u32) -> usize {
    let [a, b, c, d, ..] = id.0;
    u32::from_be_bytes([a, b, c, d]).checked_shr(32 - fan_bits).unwrap_or(0) as usize
}

fn fan_bits_for(count: u64) -> u32 {
    (count / BUCKET_ENTRIES).max(1).ilog2().min(FAN_BITS_MAX)
}

fn encode_entry(entry: &Entry) -> [u8; ENTRY_BYTES] {
    let mut out = [0; ENTRY_BYTES];
    let Entry { id, loc } = entry;
    let fields = [loc.pack.0, loc.offset, loc.stored_len, loc.kind()];
    let (head, tail) = out.split_at_mut(32);
    head.copy_from_slice(&id.0);
    tail.chunks_exact_mut(4)
        .zip(fields)
        .for_each(|(place, field)| place.copy_from_slice(&field.to_le_bytes()));
    out
}

fn decode_entry(bytes: &[u8]) -> Option<Entry> {
    let mut fields = Fields(bytes);
    let id = ChunkId(fields.take()?);
    let pack = PackId(fields.u32()?);
    Some(Entry { id, loc: Loc::from_fields(pack, fields.u32()?, fields.u32()?, fields.u32()?)? })
}

impl Run {
    /// Writes a run from entries in ascending order of their ids. `count_max` bounds how many there are.
    pub(crate) fn write(
        disk: &Disk,
        path: &Path,
        seq: u64,
        packs: &BTreeSet<PackId>,
        count_max: u64,
        entries: &mut dyn Iterator<Item = Result<Entry, StoreError>>,
    ) -> Result<Run, StoreError> {
        let temp = path.with_extension(format!("run.{}", disk::TEMP_SUFFIX));
        let file = disk::create(&temp)?;
        let written = write_content(&file, &temp, packs, count_max, entries);
        if let Err(error) = written.and_then(|()| disk.sync(&file, &temp)) {
            disk::remove_leftover(&temp);
            return Err(error);
        }
        disk.rename(&temp, path)?;
        Run::open(path, seq)
    }

    /// Opens a run. Its entries are not read; see [`Run::check`].
    pub(crate) fn open(path: &Path, seq: u64) -> Result<Run, StoreError> {
        let damaged = |why| StoreError::RunDamaged { path: path.to_owned(), why };
        let failed = |e| StoreError::io("read", path, e);
        let file = File::open(path).map_err(|e| StoreError::io("open", path, e))?;
        let len = file.metadata().map_err(failed)?.len();
        let footer_at = len.checked_sub(FOOTER_BYTES as u64).ok_or(damaged("it is too short"))?;
        let mut prefix = [0; 8];
        file.read_exact_at(&mut prefix, 0).map_err(failed)?;
        let mut fields = Fields(&prefix);
        if fields.take::<4>() != Some(*MAGIC) || fields.u32() != Some(VERSION) {
            return Err(damaged("it does not begin like an index run of this version"));
        }
        let mut footer = [0; FOOTER_BYTES];
        file.read_exact_at(&mut footer, footer_at).map_err(failed)?;
        let mut fields = Fields(&footer);
        let parsed = (|| Some((fields.u64()?, fields.u32()? as usize, fields.u32()?, fields.u32()?)))();
        let (count, packs, fan_bits, crc) = parsed.ok_or(damaged("it is too short"))?;
        let bounded = fan_bits <= FAN_BITS_MAX && packs <= PACKS_MAX && count <= u64::from(u32::MAX);
        // At most 4 Mi packs and 1 Mi fan-out values: 20 MiB.
        let tail = if bounded { packs * 4 + ((1_usize << fan_bits) + 1) * 4 } else { 0 };
        let tail_at =
            count.checked_mul(ENTRY_BYTES as u64).and_then(|entries| entries.checked_add(PREFIX_BYTES));
        let fits = tail_at.and_then(|at| at.checked_add(tail as u64)) == Some(footer_at);
        let tail_at = tail_at.filter(|_| bounded && fits);
        let Some(tail_at) = tail_at else {
            return Err(damaged("its footer does not match its length"));
        };
        let mut bytes = vec![0; tail];
        file.read_exact_at(&mut bytes, tail_at).map_err(failed)?;
        let covered = footer.get(..16).unwrap_or_default();
        if crc32c::crc32c_append(crc32c::crc32c(&bytes), covered) != crc {
            return Err(damaged("its footer does not match its checksum"));
        }
        let numbers = |bytes: &[u8]| -> Vec<u32> {
            bytes.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect()
        };
        let (pack_bytes, fan_bytes) = bytes.split_at_checked(packs * 4).unwrap_or_default();
        let fan = numbers(fan_bytes);
        if !fan.is_sorted() || fan.last().copied().map(u64::from) != Some(count) {
            return Err(damaged("its fan-out is out of order"));
        }
        let packs = numbers(pack_bytes).into_iter().map(PackId).collect();
        Ok(Run { seq, path: path.to_owned(), file, count, fan_bits, fan, packs })
    }

    pub(crate) fn seq(&self) -> u64 {
        self.seq
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Packs whose trailers went into this run.
    pub(crate) fn packs(&self) -> &BTreeSet<PackId> {
        &self.packs
    }

    /// The entry of a chunk and its position.
    pub(crate) fn find(&self, id: &ChunkId) -> Result<Option<(Loc, u64)>, StoreError> {
        let bucket = bucket_of(id, self.fan_bits);
        let (Some(&start), Some(&end)) = (self.fan.get(bucket), self.fan.get(bucket + 1)) else {
            return Ok(None);
        };
        let (mut start, mut end) = (u64::from(start), u64::from(end));
        // Ids are keyed hashes, so a crowded bucket is rare; it costs reads, never memory.
        while end - start > SPAN_ENTRIES {
            let middle = start + (end - start) / 2;
            let bytes = self.read(middle, 1)?;
            if bytes.get(..32).is_some_and(|found| found <= id.0.as_slice()) {
                start = middle
            } else {
                end = middle
            }
        }
        let bytes = self.read(start, end - start)?;
        let (entries, _) = bytes.as_chunks::<ENTRY_BYTES>();
        let Ok(at) = entries.binary_search_by(|entry| entry.get(..32).unwrap_or_default().cmp(&id.0)) else {
            return Ok(None);
        };
        let entry = entries.get(at).and_then(|bytes| decode_entry(bytes));
        let entry = entry.ok_or_else(|| self.damaged("an entry is out of bounds"))?;
        Ok(Some((entry.loc, start + at as u64)))
    }

    /// The entry at a position.
    pub(crate) fn entry(&self, position: u64) -> Result<Entry, StoreError> {
        decode_entry(&self.read(position, 1)?).ok_or_else(|| self.damaged("an entry is out of bounds"))
    }

    /// All entries in order.
    pub(crate) fn iter(&self) -> RunIter<'_> {
        RunIter { run: self, next: 0, buffer: Vec::new(), at: 0 }
    }

    /// Reads the whole file and checks its digest and the order of its entries.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        let failed = |e| StoreError::io("read", &self.path, e);
        let len = self.file.metadata().map_err(failed)?.len();
        let digest_at = len.saturating_sub(32);
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; 256 << 10];
        let mut at = 0;
        while at < digest_at {
            let take = usize::try_from(digest_at - at).unwrap_or(usize::MAX).min(buffer.len());
            let part = buffer.get_mut(..take).unwrap_or_default();
            self.file.read_exact_at(part, at).map_err(failed)?;
            hasher.update(part);
            at += take as u64;
        }
        let mut digest = [0; 32];
        self.file.read_exact_at(&mut digest, digest_at).map_err(failed)?;
        if *hasher.finalize().as_bytes() != digest {
            return Err(self.damaged("it does not match its digest"));
        }
        let mut last: Option<ChunkId> = None;
        for entry in self.iter() {
            let id = entry?.id;
            if last.is_some_and(|last| last >= id) {
                return Err(self.damaged("its entries are out of order"));
            }
            last = Some(id);
        }
        Ok(())
    }

    fn read(&self, position: u64, entries: u64) -> Result<Vec<u8>, StoreError> {
        // At most `READ_ENTRIES` at once.
        let len = usize::try_from(entries).unwrap_or(0) * ENTRY_BYTES;
        let mut bytes = vec![0; len];
        let offset = PREFIX_BYTES + position * ENTRY_BYTES as u64;
        self.file.read_exact_at(&mut bytes, offset).map_err(|e| StoreError::io("read", &self.path, e))?;
        Ok(bytes)
    }

    fn damaged(&self, why: &'static str) -> StoreError {
        StoreError::RunDamaged { path: self.path.clone(), why }
    }
}

/// Writes through a hasher.
struct Hashing<W> {
    out: W,
    hasher: blake3::Hasher,
}

impl<W: Write> Hashing<W> {
    fn put(&mut self, bytes: &[u8], path: &Path) -> Result<(), StoreError> {
        self.hasher.update(bytes);
        self.out.write_all(bytes).map_err(|e| StoreError::io("write", path, e))
    }
}

fn write_content(
    file: &File,
    path: &Path,
    packs: &BTreeSet<PackId>,
    count_max: u64,
    entries: &mut dyn Iterator<Item = Result<Entry, StoreError>>,
) -> Result<(), StoreError> {
    let limit = || StoreError::Limit { what: "number of entries of an index run", max: u64::from(u32::MAX) };
    let fan_bits = fan_bits_for(count_max);
    // Entries per value first, then summed up; the first place stays 0.
    let mut fan = vec![0_u32; (1 << fan_bits) + 1];
    let mut out = Hashing { out: BufWriter::with_capacity(256 << 10, file), hasher: blake3::Hasher::new() };
    out.put(MAGIC, path)?;
    out.put(&VERSION.to_le_bytes(), path)?;
    let mut count = 0_u32;
    for entry in entries {
        let entry = entry?;
        out.put(&encode_entry(&entry), path)?;
        if let Some(place) = fan.get_mut(bucket_of(&entry.id, fan_bits) + 1) {
            *place += 1;
        }
        count = count.checked_add(1).ok_or_else(limit)?;
    }
    let mut sum = 0;
    for place in &mut fan {
        sum += *place;
        *place = sum;
    }
    let mut tail: Vec<u8> = packs.iter().flat_map(|pack| pack.0.to_le_bytes()).collect();
    tail.extend(fan.iter().flat_map(|start| start.to_le_bytes()));
    tail.extend_from_slice(&u64::from(count).to_le_bytes());
    tail.extend_from_slice(&u32::try_from(packs.len()).map_err(|_| limit())?.to_le_bytes());
    tail.extend_from_slice(&fan_bits.to_le_bytes());
    let crc = crc32c::crc32c(&tail);
    tail.extend_from_slice(&crc.to_le_bytes());
    out.put(&tail, path)?;
    let digest = out.hasher.finalize();
    let mut writer = out.out;
    writer
        .write_all(digest.as_bytes())
        .and_then(|()| writer.flush())
        .map_err(|e| StoreError::io("write", path, e))
}

/// Entries of a run in order.
pub(crate) struct RunIter<'a> {
    run: &'a Run,
    next: u64,
    buffer: Vec<u8>,
    at: usize,
}

impl Iterator for RunIter<'_> {
    type Item = Result<Entry, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.buffer.len() {
            let take = (self.run.count - self.next).min(READ_ENTRIES);
            if take == 0 {
                return None;
            }
            match self.run.read(self.next, take) {
                Ok(buffer) => self.buffer = buffer,
                Err(error) => {
                    self.next = self.run.count;
                    return Some(Err(error));
                }
            }
            self.next += take;
            self.at = 0;
        }
        let bytes = self.buffer.get(self.at..self.at + ENTRY_BYTES)?;
        self.at += ENTRY_BYTES;
        Some(decode_entry(bytes).ok_or_else(|| self.run.damaged("an entry is out of bounds")))
    }
}
