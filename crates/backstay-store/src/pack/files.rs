//! Open packs for reading: a bounded set of file handles.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use backstay_types::PackId;

use super::{Entry, check_record};
use crate::StoreError;
use crate::layout::Layout;

/// Handles of one generation; two generations are kept, so at most 128 files are open.
const GENERATION_HANDLES: usize = 64;

/// Reads records from packs.
#[derive(Debug)]
pub(crate) struct PackFiles {
    layout: Layout,
    handles: Mutex<Handles>,
}

/// Two generations: when the young one is full it becomes the old one, and what was old and not used again is
/// closed. Packs being written stand apart, because their file changes its name.
#[derive(Debug, Default)]
struct Handles {
    young: HashMap<PackId, Arc<File>>,
    old: HashMap<PackId, Arc<File>>,
    writing: HashMap<PackId, (Arc<File>, PathBuf)>,
}

impl PackFiles {
    pub(crate) fn new(layout: Layout) -> Self {
        Self { layout, handles: Mutex::default() }
    }

    /// A pack is being written; it is read through the writer's own file.
    pub(crate) fn writing(&self, pack: PackId, file: Arc<File>, path: PathBuf) {
        self.lock().writing.insert(pack, (file, path));
    }

    /// A pack has its final name.
    pub(crate) fn sealed(&self, pack: PackId) {
        self.lock().writing.remove(&pack);
    }

    /// A pack is gone, or about to be.
    pub(crate) fn forget(&self, pack: PackId) {
        let mut handles = self.lock();
        handles.young.remove(&pack);
        handles.old.remove(&pack);
        handles.writing.remove(&pack);
    }

    /// Files of the packs being written, for a commit that stands on chunks in them.
    pub(crate) fn being_written(&self) -> Vec<(Arc<File>, PathBuf)> {
        self.lock().writing.values().cloned().collect()
    }

    /// The file of a pack.
    pub(crate) fn open(&self, pack: PackId) -> Result<Arc<File>, StoreError> {
        if let Some(file) = self.lock().get(pack) {
            return Ok(file);
        }
        let path = self.layout.pack(pack);
        let file = match File::open(&path) {
            Ok(file) => Arc::new(file),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(StoreError::PackDamaged { pack, why: "its file is missing".to_owned() });
            }
            Err(e) => return Err(StoreError::io("open", &path, e)),
        };
        self.lock().put(pack, Arc::clone(&file));
        Ok(file)
    }

    /// The whole record of an entry, header included, checked against its checksum.
    pub(crate) fn record(&self, entry: &Entry) -> Result<Vec<u8>, StoreError> {
        let pack = entry.loc.pack;
        let damaged = |why: &str| StoreError::ChunkDamaged { id: entry.id, pack, why: why.to_owned() };
        let file = self.open(pack)?;
        // Bounded: the index holds no stored length above its limit.
        let mut record = vec![0; entry.loc.record_len()];
        match file.read_exact_at(&mut record, u64::from(entry.loc.offset)) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(damaged("the pack ends before it"));
            }
            // A sector the disk cannot read is damage of this chunk, not of the way to it.
            Err(e) if e.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => {
                return Err(damaged("the disk cannot read it"));
            }
            outcome => outcome.map_err(|e| StoreError::io("read", &self.layout.pack(pack), e))?,
        }
        check_record(&record, entry).map_err(damaged)?;
        Ok(record)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Handles> {
        // Every change of the maps is a single call, so a panic elsewhere leaves them whole.
        self.handles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Handles {
    fn get(&mut self, pack: PackId) -> Option<Arc<File>> {
        if let Some((file, _)) = self.writing.get(&pack) {
            return Some(Arc::clone(file));
        }
        if let Some(file) = self.young.get(&pack) {
            return Some(Arc::clone(file));
        }
        let file = self.old.remove(&pack)?;
        self.put(pack, Arc::clone(&file));
        Some(file)
    }

    fn put(&mut self, pack: PackId, file: Arc<File>) {
        if self.young.len() >= GENERATION_HANDLES {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(pack, file);
    }
}
