//! New state while a cycle writes it, and its adoption.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use backstay_types::{ChunkId, Epoch, RestorePointId};

use super::tree_log::{TreeFile, TreeWriter};
use super::{CURRENT, Head, Parent, SectorWriter, SentState, StatRecord};
use crate::{VolumeContext, VolumeError};

/// A folder of new state; removed when dropped without being adopted.
#[derive(Debug)]
pub(crate) struct StateFolder {
    path: PathBuf,
    number: u64,
    adopted: bool,
}

impl Drop for StateFolder {
    fn drop(&mut self) {
        if !self.adopted
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove unused sent state");
        }
    }
}

/// Writes the state of a new restore point beside that of the parent.
pub(crate) struct StateWriter {
    sent: SentState,
    folder: StateFolder,
    tree: TreeWriter,
    stats: BufWriter<File>,
    stats_crc: u32,
    entries: u64,
    pub(crate) sectors: SectorWriter,
}

impl StateWriter {
    /// Makes a folder. What an earlier cycle left and nobody adopted is removed.
    pub(crate) fn create(sent: &SentState) -> Result<Self, VolumeError> {
        Self::keeping(sent, None)
    }

    /// The same for a further pass over the volume, beside the state of the pass before.
    pub(crate) fn beside(pending: &PendingState) -> Result<Self, VolumeError> {
        Self::keeping(&pending.sent, Some(pending.folder.number))
    }

    fn keeping(sent: &SentState, pass: Option<u64>) -> Result<Self, VolumeError> {
        let current = sent.head().map(|head| head.folder);
        let fail = |source| VolumeError::io("write sent state in", sent.dir(), source);
        let highest = sweep(sent.dir(), &[current, pass]).map_err(fail)?;
        let number = highest + 1;
        let path = sent.folder(number);
        fs::create_dir(&path).map_err(fail)?;
        let folder = StateFolder { path, number, adopted: false };
        Ok(Self {
            sent: sent.clone(),
            tree: TreeWriter::create(&folder.path.join("tree")).map_err(fail)?,
            stats: BufWriter::new(File::create_new(folder.path.join("stats")).map_err(fail)?),
            stats_crc: 0,
            entries: 0,
            sectors: SectorWriter::create(&folder.path.join("sectors")).map_err(fail)?,
            folder,
        })
    }

    /// A file in the folder for the time of the cycle.
    pub(crate) fn scratch_path(&self, name: &str) -> PathBuf {
        self.folder.path.join(name)
    }

    pub(crate) fn tree_chunk(&mut self, id: &ChunkId, bytes: &[u8]) -> Result<(), VolumeError> {
        self.tree.append(id, bytes).map_err(|source| self.fail(source))
    }

    /// The chunks of the manifest that were written until now.
    pub(crate) fn tree_so_far(&mut self) -> Result<TreeFile, VolumeError> {
        let bytes = self.tree.flush().map_err(|source| self.fail(source))?;
        let tree = TreeFile::open(&self.scratch_path("tree"), bytes).map_err(|source| self.fail(source))?;
        tree.ok_or_else(|| VolumeError::State {
            path: self.folder.path.display().to_string(),
            why: "what was just written cannot be read".to_owned(),
        })
    }

    pub(crate) fn stat(&mut self, record: &StatRecord) -> Result<(), VolumeError> {
        let bytes = record.encode();
        self.stats_crc = crc32c::crc32c_append(self.stats_crc, &bytes);
        self.entries += 1;
        self.stats.write_all(&bytes).map_err(|source| self.fail(source))
    }

    /// Takes over the fingerprints of an unchanged file. Returns where they are now.
    pub(crate) fn keep_sectors(
        &mut self,
        parent: &Parent,
        first: u64,
        size: u64,
    ) -> Result<u64, VolumeError> {
        let at = self.sectors.position();
        self.sectors.copy(parent.sectors(), first, size).map_err(|source| self.fail(source))?;
        Ok(at)
    }

    pub(crate) fn fail(&self, source: io::Error) -> VolumeError {
        VolumeError::io("write sent state in", &self.folder.path, source)
    }

    /// Makes everything durable but the adoption.
    pub(crate) fn finish(self, seal: Seal) -> Result<PendingState, VolumeError> {
        let Self { sent, folder, tree, stats, stats_crc, entries, sectors } = self;
        let fail = |source| VolumeError::io("write sent state in", &folder.path, source);
        let tree_bytes = tree.finish().map_err(fail)?;
        stats.into_inner().map_err(|e| fail(e.into_error()))?.sync_data().map_err(fail)?;
        sectors.finish().map_err(fail)?;
        let head = Head {
            folder: folder.number,
            // Set by `adopt`.
            point: RestorePointId { epoch: Epoch(0), number: 0 },
            root: seal.root,
            entries,
            scan_start: seal.scan_start,
            dev: seal.dev,
            pair_mark: seal.pair_mark,
            tree_bytes,
            stats_crc,
        };
        Ok(PendingState { sent, folder, head })
    }
}

/// What is known of the new state at its end.
pub(crate) struct Seal {
    pub(crate) root: ChunkId,
    pub(crate) scan_start: i64,
    pub(crate) dev: u64,
    pub(crate) pair_mark: u64,
}

/// Removes every state folder but these. Returns the highest number seen.
fn sweep(dir: &Path, kept: &[Option<u64>]) -> io::Result<u64> {
    let mut highest = kept.iter().flatten().copied().max().unwrap_or(0);
    for item in fs::read_dir(dir)? {
        let item = item?;
        let name = item.file_name();
        let number =
            name.to_str().and_then(|name| name.strip_prefix("state-")).and_then(|n| n.parse::<u64>().ok());
        if let Some(number) = number {
            highest = highest.max(number);
            if !kept.contains(&Some(number)) {
                fs::remove_dir_all(item.path())?;
            }
        }
    }
    Ok(highest)
}

/// State of a restore point that is not yet acknowledged. Dropping it discards it.
#[derive(Debug)]
pub struct PendingState {
    sent: SentState,
    folder: StateFolder,
    head: Head,
}

impl PendingState {
    /// As the parent of a further pass: all of it was handed over by this cycle, or is held by the receiver.
    pub(crate) fn parent(&self, ctx: &VolumeContext) -> Result<Parent, VolumeError> {
        let state = SentState { dir: self.sent.dir().to_owned(), head: Some(self.head) };
        Parent::open(&state, &ctx.key, &ctx.params).ok_or_else(|| VolumeError::State {
            path: self.folder.path.display().to_string(),
            why: "what was just written cannot be read".to_owned(),
        })
    }

    /// A file beside the state for the time of a look.
    pub(crate) fn scratch_path(&self, name: &str) -> PathBuf {
        self.folder.path.join(name)
    }

    /// Makes this the sent state, as that of restore point `id`, after its acknowledgement.
    pub fn adopt(mut self, id: RestorePointId) -> Result<(), VolumeError> {
        self.head.point = id;
        let dir = self.sent.dir().to_owned();
        let written = dir.join("current.new");
        let fail = |source| VolumeError::io("adopt sent state in", &dir, source);
        let mut file = File::create(&written).map_err(fail)?;
        file.write_all(&self.head.encode()).and_then(|()| file.sync_all()).map_err(fail)?;
        fs::rename(&written, dir.join(CURRENT)).map_err(fail)?;
        self.folder.adopted = true;
        File::open(&dir).and_then(|dir| dir.sync_all()).map_err(fail)?;
        sweep(&dir, &[Some(self.head.folder)]).map_err(fail)?;
        Ok(())
    }
}
