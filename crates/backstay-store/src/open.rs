//! Opening a store: the lock, the catalog, and whatever a crash left to be finished.
//!
//! 1. An unsealed pack is cut at its first bad record and sealed, so what was received before a crash is not sent
//!    again. Its chunks were checked before they were written, and their checksums say whether they are whole.
//! 2. Packs that no run covers are read back from their trailers. An empty catalog therefore rebuilds the index
//!    by the same way, only longer.
//! 3. A catalog that cannot be read is moved aside, never deleted.
//! 4. A store that is not there is not made anew (see [`crate::identity`]).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use backstay_types::{ChunkId, PackId, Time};

use crate::catalog::{Catalog, Change, Contents};
use crate::disk::{self, Disk};
use crate::gc::remove_packs;
use crate::identity::Identity;
use crate::index::{Hit, Index, PackStage, PackState, Place, Run, State};
use crate::inner::{Inner, Opened, lock};
use crate::layout::Layout;
use crate::pack::{Entry, read_trailer, recover, scan_records};
use crate::points::Points;
use crate::{StoreConfig, StoreError};

/// Opens a store, or makes an empty one.
pub(crate) fn open(config: StoreConfig) -> Result<Arc<Inner>, StoreError> {
    let disk = Arc::new(Disk::default());
    let identity = Identity::look(&config)?;
    let layout = Layout::create(config.root(), &disk)?;
    let lock_file = disk::lock(layout.root())?;
    let (catalog, mut contents) = open_catalog(&config, &disk)?;
    identity.check_catalog(&config, contents.points.len(), layout.list_points()?.len())?;
    let (points, mut changes) = Points::load(&layout, &disk, &mut contents)?;
    let (index, known) = open_index(&disk, &layout, &mut contents, &mut changes)?;
    let rebuilt = contents.runs.is_empty() && contents.next_pack == 0 && !known.unindexed.is_empty();
    let inner = Arc::new(Inner::new(Opened {
        config,
        disk,
        layout,
        catalog,
        index,
        points,
        fresh: contents.fresh,
        bad_packs: contents.bad_packs,
        lock: lock_file,
    }));
    if_there_is_room(identity.settle(&inner, inner.points.count() > 0))?;
    recover_open_packs(&inner, &known.open, &mut changes)?;
    changes.push(Change::NextPack(inner.index.read().next_pack()));
    if_there_is_room(inner.catalog.write(&changes))?;
    read_trailers(&inner, &known.unindexed)?;
    if rebuilt {
        tracing::warn!(
            packs = known.unindexed.len(),
            restore_points = inner.points.count(),
            "the catalog was empty beside a store that is not; rebuilt from packs and restore points"
        );
        after_rebuild(&inner, &known.unindexed)?;
    }
    Ok(inner)
}

/// Opens the catalog; one that is damaged is moved aside.
fn open_catalog(config: &StoreConfig, disk: &Arc<Disk>) -> Result<(Catalog, Contents), StoreError> {
    let path = config.catalog();
    let open = || {
        let catalog = Catalog::open(&path, disk)?;
        let contents = catalog.load()?;
        Ok((catalog, contents))
    };
    match open() {
        Err(StoreError::Catalog { why, .. }) => {
            let aside = move_aside(&path, "damaged", (config.clock)())?;
            tracing::error!(why, aside = ?aside, "the catalog is damaged; moved aside and rebuilt");
            open()
        }
        outcome => outcome,
    }
}

/// Moves the catalog out of the way, under a name that says when.
pub(crate) fn move_aside(path: &Path, what: &str, now: Time) -> Result<Option<PathBuf>, StoreError> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{what}-{}", now.0));
    let aside = PathBuf::from(name);
    match fs::rename(path, &aside) {
        Ok(()) => Ok(Some(aside)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(StoreError::io("move aside", path, e)),
    }
}

/// Packs that need attention.
struct Known {
    /// Sealed, in no run; with the length of the file. Not in the table until they are read, because writing a
    /// run takes every sealed pack of the table for one whose entries are in memory.
    unindexed: Vec<(PackId, u64)>,
    /// Never sealed.
    open: Vec<PackId>,
}

fn open_index(
    disk: &Disk,
    layout: &Layout,
    contents: &mut Contents,
    changes: &mut Vec<Change>,
) -> Result<(Index, Known), StoreError> {
    let mut runs = Vec::new();
    let on_disk = layout.list_runs()?;
    for seq in &contents.runs {
        match Run::open(&layout.run(*seq), *seq) {
            Ok(run) => runs.push(Arc::new(run)),
            Err(error) => {
                tracing::error!(%error, "an index run cannot be used and is rebuilt from its packs");
                changes.push(Change::DropRun(*seq));
            }
        }
    }
    let used: BTreeSet<u64> = runs.iter().map(|run| run.seq()).collect();
    for seq in on_disk.iter().filter(|seq| !used.contains(seq)) {
        disk::remove_file(&layout.run(*seq))?;
    }
    let covered: BTreeSet<PackId> = runs.iter().flat_map(|run| run.packs()).copied().collect();
    remove_packs(disk, layout, &contents.dead)?;
    changes.extend(contents.dead.iter().filter(|pack| !covered.contains(pack)).copied().map(Change::Undead));

    let found = layout.list_packs()?;
    let mut packs = BTreeMap::new();
    let mut unindexed = Vec::new();
    for (pack, bytes) in found.sealed {
        if covered.contains(&pack) {
            packs.insert(pack, PackState { stage: PackStage::InRun, bytes });
        } else {
            unindexed.push((pack, bytes));
        }
    }
    let dead: HashSet<PackId> = contents.dead.iter().copied().collect();
    let lost: HashSet<PackId> =
        covered.iter().copied().filter(|pack| !packs.contains_key(pack) && !dead.contains(pack)).collect();
    for pack in &lost {
        tracing::error!(%pack, "the file of a pack is missing");
        // It stays in the table, so that its chunks are known to be lost rather than unknown.
        packs.insert(*pack, PackState { stage: PackStage::InRun, bytes: 0 });
    }
    let sealed = unindexed.iter().map(|(pack, _)| pack);
    let numbers = packs
        .keys()
        .chain(sealed)
        .chain(&found.open)
        .chain(&covered)
        .chain(&contents.dead)
        .map(|pack| pack.0);
    let next_pack = numbers.max().map_or(1, |last| last.saturating_add(1)).max(contents.next_pack);
    let next_run = on_disk.iter().chain(&contents.runs).max().map_or(1, |last| last + 1);
    let state = State::new(runs, packs, lost, std::mem::take(&mut contents.bad), next_pack, next_run);
    Ok((Index::new(state), Known { unindexed, open: found.open }))
}

/// Cuts and seals what a crash left unsealed. On a full disk it stays open, readable and to be written on.
fn recover_open_packs(inner: &Inner, open: &[PackId], changes: &mut Vec<Change>) -> Result<(), StoreError> {
    for pack in open {
        let Some(mut writer) = recover(&inner.layout, *pack)? else { continue };
        let entries: Vec<Entry> = writer.entries().collect();
        inner.packs.writing(*pack, Arc::clone(writer.file()), writer.path().to_owned());
        inner.index.write().set_pack(*pack, PackStage::Open, writer.len());
        match inner.seal(&mut writer) {
            Ok(()) => {}
            Err(error @ StoreError::NoSpace { .. }) => {
                tracing::warn!(%pack, %error, "an unfinished pack stays unsealed until there is room");
                lock(&inner.orphans).push(writer);
            }
            Err(error) => return Err(error),
        }
        inner.index.write().publish_recovered(entries)?;
        let now = inner.now();
        lock(&inner.fresh).insert(*pack, now);
        changes.push(Change::Fresh(*pack, now));
    }
    Ok(())
}

/// Reads the entries of packs that no run covers into the index.
fn read_trailers(inner: &Inner, packs: &[(PackId, u64)]) -> Result<(), StoreError> {
    for (pack, bytes) in packs {
        let (entries, damage) = list_pack(inner, *pack)?;
        {
            let mut state = inner.index.write();
            state.set_pack(*pack, PackStage::Sealed, *bytes);
            state.publish_recovered(entries)?;
        }
        if let Some(error) = damage {
            tracing::error!(%pack, %error, "a pack is damaged; the chunks before the damage were taken up");
            lock(&inner.bad_packs).insert(*pack, error.to_string());
            if_there_is_room(inner.catalog.write(&[Change::BadPack(*pack, error.to_string())]))?;
        }
        if inner.index.read().in_memory() >= inner.config.run_entries {
            if_there_is_room(inner.tidy_index(inner.config.run_entries))?;
        }
    }
    Ok(())
}

/// The entries of a sealed pack, from its trailer or, if that is damaged, from its records; and the damage.
pub(crate) fn list_pack(inner: &Inner, pack: PackId) -> Result<(Vec<Entry>, Option<StoreError>), StoreError> {
    let path = inner.layout.pack(pack);
    let file = match inner.packs.open(pack) {
        Ok(file) => file,
        Err(error) if error.is_damage() => return Ok((Vec::new(), Some(error))),
        Err(error) => return Err(error),
    };
    match read_trailer(&file, &path, pack) {
        Ok((entries, _)) => Ok((entries, None)),
        Err(error) if error.is_damage() => {
            let len = file.metadata().map_err(|e| StoreError::io("look at", &path, e))?.len();
            let mut entries = Vec::new();
            scan_records(&file, &path, pack, len, &mut |entry, _| entries.push(entry))?;
            Ok((entries, Some(error)))
        }
        Err(error) => Err(error),
    }
}

/// What only the catalog knew is decided anew, on the safe side: recent packs may belong to a broken session, and
/// a patch may have outlived its base if a deletion was not finished.
fn after_rebuild(inner: &Inner, packs: &[(PackId, u64)]) -> Result<(), StoreError> {
    let mut changes = Vec::new();
    for (pack, _) in packs {
        let path = inner.layout.pack(*pack);
        let modified = path
            .metadata()
            .and_then(|meta| meta.modified())
            .map_err(|e| StoreError::io("look at", &path, e))?;
        let since = modified.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let at = Time(i64::try_from(since).unwrap_or(i64::MAX));
        lock(&inner.fresh).insert(*pack, at);
        changes.push(Change::Fresh(*pack, at));
    }
    let dangling = dangling_patches(inner)?;
    if !dangling.is_empty() {
        tracing::warn!(
            chunks = dangling.len(),
            "patches without their base were found and will be asked for again"
        );
    }
    changes.extend(dangling.iter().map(|(id, pack)| Change::Bad(*id, *pack)));
    inner.index.write().bad_mut().extend(dangling);
    if_there_is_room(inner.catalog.write(&changes))
}

/// A store on a full disk must open, or nobody could make room in it. What is noted here is found out again at
/// the next start.
fn if_there_is_room(outcome: Result<(), StoreError>) -> Result<(), StoreError> {
    match outcome {
        Err(error @ StoreError::NoSpace { .. }) => {
            tracing::warn!(%error, "the store opens all the same; what it noted is noted again at the next start");
            Ok(())
        }
        outcome => outcome,
    }
}

fn dangling_patches(inner: &Inner) -> Result<HashMap<ChunkId, PackId>, StoreError> {
    let (runs, in_map) = {
        let state = inner.index.read();
        (state.runs().to_vec(), state.ids_in_memory())
    };
    let mut dangling = HashMap::new();
    let mut look = |id: ChunkId, hit: Hit| -> Result<(), StoreError> {
        if hit.loc.depth > 0 && !stands(inner, &id, &hit)? {
            dangling.insert(id, hit.loc.pack);
        }
        Ok(())
    };
    for run in &runs {
        for (entry, position) in run.iter().zip(0..) {
            let Entry { id, loc } = entry?;
            look(id, Hit { loc, place: Place::Run(Arc::clone(run), position) })?;
        }
    }
    for id in in_map {
        let hit = inner.index.read().find(&id)?;
        hit.map_or(Ok(()), |hit| look(id, hit))?;
    }
    Ok(dangling)
}

/// Whether every chunk under a patch is here. At most `PATCH_DEPTH_MAX` deep, because depths must fall.
fn stands(inner: &Inner, id: &ChunkId, hit: &Hit) -> Result<bool, StoreError> {
    let bases = match inner.bases(id, hit) {
        Err(error) if error.is_damage() => return Ok(false),
        bases => bases?,
    };
    for base in bases {
        let below = inner.index.read().find(&base)?;
        match below.filter(|below| below.loc.depth < hit.loc.depth) {
            Some(below) if below.loc.depth == 0 || stands(inner, &base, &below)? => {}
            _ => return Ok(false),
        }
    }
    Ok(true)
}
