//! Writing a pack: whole groups of records, one at a time, and the seal.
//!
//! A write that fails half-way is cut off again, so the file always ends with a whole record and the session can
//! go on once there is room (test `a_full_disk_costs_the_session_and_nothing_else`).

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use backstay_types::{ChunkId, PackId, PairId};

use super::{Entry, HEADER_BYTES, Loc, PACK_RECORDS_MAX, RecordHeader, encode_header, encode_trailer};
use crate::StoreError;
use crate::disk::{self, Disk};
use crate::layout::Layout;

/// A pack being written. Dropped unsealed, its file stays and is recovered at the next open.
#[derive(Debug)]
pub(crate) struct PackWriter {
    pack: PackId,
    pair: PairId,
    file: Arc<File>,
    path: PathBuf,
    sealed_path: PathBuf,
    len: u32,
    hasher: blake3::Hasher,
    /// The preferred copy of each chunk, for the trailer.
    entries: BTreeMap<ChunkId, Loc>,
    records: usize,
}

/// Records encoded and not yet written.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    bytes: Vec<u8>,
    headers: Vec<(RecordHeader, u32)>,
}

impl Pending {
    /// Adds a record.
    pub(crate) fn push(&mut self, header: RecordHeader, stored: &[u8]) -> Result<(), StoreError> {
        let offset = u32::try_from(self.bytes.len()).map_err(|_| too_long())?;
        header.encode_into(stored, &mut self.bytes);
        self.headers.push((header, offset));
        Ok(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.headers.is_empty()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    pub(crate) fn records(&self) -> usize {
        self.headers.len()
    }
}

fn too_long() -> StoreError {
    StoreError::Limit { what: "length of a pack", max: u64::from(u32::MAX) }
}

impl PackWriter {
    /// Makes the file of a new pack, its name durable.
    pub(crate) fn create(
        disk: &Disk,
        layout: &Layout,
        pack: PackId,
        pair: PairId,
    ) -> Result<Self, StoreError> {
        let path = layout.open_pack(pack);
        if let Some(dir) = path.parent() {
            disk.make_dir(dir)?;
        }
        let file = disk::create(&path)?;
        let header = encode_header(pack, pair);
        if let Err(e) = file.write_all_at(&header, 0) {
            disk::remove_leftover(&path);
            return Err(StoreError::io("write", &path, e));
        }
        if let Some(dir) = path.parent() {
            disk.sync_dir(dir)?;
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(&header);
        Ok(Self::from_parts(layout, pack, pair, file, HEADER_BYTES, hasher, Vec::new()))
    }

    /// A writer that goes on behind records read back from the file.
    pub(super) fn from_parts(
        layout: &Layout,
        pack: PackId,
        pair: PairId,
        file: File,
        len: usize,
        hasher: blake3::Hasher,
        entries: Vec<Entry>,
    ) -> Self {
        let records = entries.len();
        let mut writer = Self {
            pack,
            pair,
            file: Arc::new(file),
            path: layout.open_pack(pack),
            sealed_path: layout.pack(pack),
            len: u32::try_from(len).unwrap_or(u32::MAX),
            hasher,
            entries: BTreeMap::new(),
            records,
        };
        entries.into_iter().for_each(|entry| writer.list(entry));
        writer
    }

    pub(crate) fn pack(&self) -> PackId {
        self.pack
    }

    pub(crate) fn pair(&self) -> PairId {
        self.pair
    }

    pub(crate) fn file(&self) -> &Arc<File> {
        &self.file
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn len(&self) -> u64 {
        u64::from(self.len)
    }

    pub(crate) fn records(&self) -> usize {
        self.records
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What the trailer would list now.
    pub(crate) fn entries(&self) -> impl Iterator<Item = Entry> + '_ {
        self.entries.iter().map(|(id, loc)| Entry { id: *id, loc: *loc })
    }

    /// Whether `pending` still belongs into this pack.
    pub(crate) fn has_room(&self, pending: &Pending, pack_bytes: u64) -> bool {
        self.is_empty()
            || (self.len() + pending.bytes() <= pack_bytes
                && self.records + pending.records() <= PACK_RECORDS_MAX)
    }

    /// Writes records. All of them are in the file afterwards, or none.
    pub(crate) fn append(&mut self, disk: &Disk, pending: &Pending) -> Result<Vec<Entry>, StoreError> {
        disk.check()?;
        let start = self.len;
        let len = u32::try_from(pending.bytes.len()).ok().and_then(|len| start.checked_add(len));
        let len = len.ok_or_else(too_long)?;
        if let Err(e) = self.file.write_all_at(&pending.bytes, u64::from(start)) {
            self.cut_back(disk)?;
            return Err(StoreError::io("write", &self.path, e));
        }
        self.hasher.update(&pending.bytes);
        self.len = len;
        self.records += pending.headers.len();
        let mut written = Vec::with_capacity(pending.headers.len());
        for (header, offset) in &pending.headers {
            let RecordHeader { id, stored_len, raw_len, codec, depth } = *header;
            let loc = Loc { pack: self.pack, offset: start + offset, stored_len, raw_len, codec, depth };
            self.list(Entry { id, loc });
            written.push(Entry { id, loc });
        }
        Ok(written)
    }

    /// Makes what was written durable without sealing it.
    pub(crate) fn sync(&self, disk: &Disk) -> Result<(), StoreError> {
        disk.sync(&self.file, &self.path)
    }

    /// Writes the trailer and makes the file durable, still under its open name.
    pub(crate) fn close(&mut self, disk: &Disk) -> Result<(), StoreError> {
        let entries: Vec<Entry> = self.entries().collect();
        let mut tail = Vec::new();
        encode_trailer(&entries, self.len, &mut tail);
        let mut hasher = self.hasher.clone();
        hasher.update(&tail);
        tail.extend_from_slice(hasher.finalize().as_bytes());
        // A trailer of an earlier attempt may stand there, and a longer one would show behind the new footer.
        self.cut_back(disk)?;
        if let Err(e) = self.file.write_all_at(&tail, self.len()) {
            self.cut_back(disk)?;
            return Err(StoreError::io("write", &self.path, e));
        }
        self.sync(disk)
    }

    /// Gives a closed pack its final name. Returns the length of the file.
    pub(crate) fn publish(&self, disk: &Disk) -> Result<u64, StoreError> {
        disk.rename(&self.path, &self.sealed_path)?;
        let meta = self.file.metadata().map_err(|e| StoreError::io("look at", &self.sealed_path, e))?;
        Ok(meta.len())
    }

    fn list(&mut self, entry: Entry) {
        let better = self.entries.get(&entry.id).is_none_or(|old| entry.loc.beats(old));
        if better {
            self.entries.insert(entry.id, entry.loc);
        }
    }

    /// Removes what a failed write left behind the last whole record.
    fn cut_back(&self, disk: &Disk) -> Result<(), StoreError> {
        self.file.set_len(self.len()).map_err(|e| {
            // Bytes that cannot be cut off would be taken for records later on.
            let error = StoreError::io("cut back", &self.path, e);
            disk.poison(&error);
            error
        })
    }
}
