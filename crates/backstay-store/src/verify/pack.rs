//! Checking one pack: its digest, its structure, and every chunk in it that is in use.

use std::fs::File;
use std::os::unix::fs::FileExt;

use backstay_types::{HashKey, PackId, PairId, limits};

use super::DamagedChunk;
use crate::StoreError;
use crate::cache::ChunkCache;
use crate::inner::Inner;
use crate::open::list_pack;
use crate::pack::{Entry, check_header};

/// Cache of bases while patches are checked; filled from disk by the check itself.
const CACHE_BYTES: usize = 16 << 20;

/// What was found in a pack.
#[derive(Default)]
pub(super) struct PackCheck {
    /// Chunks re-hashed.
    pub(super) chunks: u64,
    /// What is wrong with the pack as a file.
    pub(super) damage: Option<String>,
    /// Chunks in use that cannot be read back.
    pub(super) bad: Vec<DamagedChunk>,
}

impl PackCheck {
    pub(super) fn run(inner: &Inner, pack: PackId) -> Result<Self, StoreError> {
        let mut check = Self::default();
        let path = inner.layout.pack(pack);
        let pair = match inner.packs.open(pack).and_then(|file| {
            check.note(digest_of(&file, &path, pack))?;
            check_header(&file, &path, pack)
        }) {
            Ok(pair) => Some(pair),
            outcome => {
                check.note(outcome.map(drop))?;
                None
            }
        };
        let (listed, damage) = list_pack(inner, pack)?;
        check.note(damage.map_or(Ok(()), Err))?;
        let mut entries = listed;
        if check.damage.is_some() {
            // What the pack no longer lists is still looked for in it.
            let known: std::collections::HashSet<_> = entries.iter().map(|entry| entry.id).collect();
            entries
                .extend(inner.listed_in_runs(pack)?.into_iter().filter(|entry| !known.contains(&entry.id)));
        }
        check.chunks(inner, pair, &entries)?;
        Ok(check)
    }

    fn chunks(&mut self, inner: &Inner, pair: Option<PairId>, entries: &[Entry]) -> Result<(), StoreError> {
        let key = match pair.map(|pair| inner.key(pair)).transpose() {
            Err(StoreError::NoKey { .. }) => None,
            key => key?,
        };
        let cache = ChunkCache::new(CACHE_BYTES);
        for entry in entries {
            let hit = inner.index.read().find(&entry.id)?;
            // A copy that is not in use is nobody's loss.
            if hit.is_none_or(|hit| hit.loc != entry.loc) {
                continue;
            }
            self.chunks += 1;
            let why = match check_chunk(inner, key.as_ref(), entry, &cache) {
                Ok(()) => continue,
                Err(StoreError::ChunkDamaged { why, .. } | StoreError::PackDamaged { why, .. }) => why,
                Err(error) if error.is_damage() => error.to_string(),
                Err(error) => return Err(error),
            };
            self.bad.push(DamagedChunk { pair, id: entry.id, pack: entry.loc.pack, why });
        }
        Ok(())
    }

    /// Keeps the first damage; other errors are not the pack's.
    fn note(&mut self, outcome: Result<(), StoreError>) -> Result<(), StoreError> {
        match outcome {
            Err(StoreError::PackDamaged { why, .. }) => {
                self.damage.get_or_insert(why);
                Ok(())
            }
            outcome => outcome,
        }
    }
}

fn check_chunk(
    inner: &Inner,
    key: Option<&HashKey>,
    entry: &Entry,
    cache: &ChunkCache,
) -> Result<(), StoreError> {
    match key {
        Some(key) => inner.load_at(key, entry, cache, u32::from(limits::PATCH_DEPTH_MAX)).map(drop),
        // The header that says whose key it is is gone, or the key is; the record's own checksum is left.
        None => inner.packs.record(entry).map(drop),
    }
}

/// Holds the file against the digest at its end.
fn digest_of(file: &File, path: &std::path::Path, pack: PackId) -> Result<(), StoreError> {
    let failed = |e: std::io::Error| match e.raw_os_error() {
        Some(code) if code == rustix::io::Errno::IO.raw_os_error() => {
            StoreError::PackDamaged { pack, why: "the disk cannot read all of it".to_owned() }
        }
        _ => StoreError::io("read", path, e),
    };
    let len = file.metadata().map_err(failed)?.len();
    let digest_at = len.saturating_sub(32);
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    while at < digest_at {
        let take = usize::try_from(digest_at - at).unwrap_or(usize::MAX).min(buffer.len());
        let part = buffer.get_mut(..take).unwrap_or_default();
        file.read_exact_at(part, at).map_err(failed)?;
        hasher.update(part);
        at += take as u64;
    }
    let mut expected = vec![0; usize::try_from(len - digest_at).unwrap_or_default()];
    file.read_exact_at(&mut expected, digest_at).map_err(failed)?;
    let found = hasher.finalize();
    if found.as_bytes().as_slice() == expected {
        return Ok(());
    }
    let expected = expected
        .first_chunk::<32>()
        .map_or_else(String::new, |d| blake3::Hash::from(*d).to_hex().to_string());
    Err(StoreError::PackDamaged { pack, why: format!("digest: expected {expected}, found {found}") })
}
