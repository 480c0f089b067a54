//! Checking index runs, and making a damaged one anew from the packs it was made from.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use backstay_types::{ChunkId, PackId};

use super::{DamagedFile, VerifyReport};
use crate::StoreError;
use crate::index::Run;
use crate::inner::Inner;
use crate::open::list_pack;
use crate::pack::{Entry, Loc};

/// Entries of one new run: 1 M entries of about 100 bytes are 100 MB of memory, for as long as it is made.
const GROUP_ENTRIES: usize = 1 << 20;

/// Checks every run; those that are damaged are replaced.
pub(super) fn check_runs(inner: &Inner, report: &mut VerifyReport) -> Result<(), StoreError> {
    let runs = inner.index.read().runs().to_vec();
    let mut mended = false;
    for run in runs {
        let why = match run.check() {
            Ok(()) => continue,
            Err(StoreError::RunDamaged { why, .. }) => why.to_owned(),
            // Bytes the disk cannot read can be had again from the packs as well.
            Err(error) => error.to_string(),
        };
        let file = run.path().strip_prefix(inner.layout.root()).map(|path| path.display().to_string());
        let file = file.unwrap_or_else(|_| run.path().display().to_string());
        tracing::error!(file, why, "an index run is damaged and is made anew");
        replace(inner, &run)?;
        mended = true;
        report.damaged_files.push(DamagedFile { file, why, mended: true });
    }
    // The new runs have late numbers and an early place; as one run that cannot be mistaken after a restart.
    if mended { inner.compact_index() } else { Ok(()) }
}

fn replace(inner: &Inner, damaged: &Arc<Run>) -> Result<(), StoreError> {
    let mut made = Vec::new();
    let mut group = Group::default();
    for pack in damaged.packs() {
        if inner.index.read().stage(*pack).is_none() {
            continue;
        }
        let (entries, _) = list_pack(inner, *pack)?;
        group.add(*pack, entries);
        if group.entries.len() >= GROUP_ENTRIES {
            made.push(std::mem::take(&mut group).write(inner)?);
        }
    }
    if !group.packs.is_empty() {
        made.push(group.write(inner)?);
    }
    inner.replace_run(damaged, made)
}

#[derive(Default)]
struct Group {
    packs: BTreeSet<PackId>,
    entries: BTreeMap<ChunkId, Loc>,
}

impl Group {
    fn add(&mut self, pack: PackId, entries: Vec<Entry>) {
        self.packs.insert(pack);
        for Entry { id, loc } in entries {
            if self.entries.get(&id).is_none_or(|old| loc.beats(old)) {
                self.entries.insert(id, loc);
            }
        }
    }

    fn write(self, inner: &Inner) -> Result<Arc<Run>, StoreError> {
        let seq = inner.index.write().new_run();
        let mut entries = self.entries.iter().map(|(id, loc)| Ok(Entry { id: *id, loc: *loc }));
        let count = self.entries.len() as u64;
        let run = Run::write(&inner.disk, &inner.layout.run(seq), seq, &self.packs, count, &mut entries)?;
        Ok(Arc::new(run))
    }
}
