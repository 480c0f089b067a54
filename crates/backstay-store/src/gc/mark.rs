//! What is needed: everything restore points reach, everything sessions claim, and under each patch its bases.

use std::sync::Arc;

use backstay_types::point::RestorePoint;
use backstay_types::{ChunkId, HashKey};

use super::Claims;
use crate::StoreError;
use crate::index::{Hit, Marks};
use crate::inner::Inner;
use crate::walk::{Part, Visitor, walk};

/// Marks what is needed. A restore point whose manifest cannot be read stops it: what it reaches is unknown.
///
/// The sessions in `claims` were taken before this reads the restore points, so a session that commits meanwhile
/// is seen as the one or the other.
pub(crate) fn mark_reachable(inner: &Inner, live: &mut Marks, claims: &Claims) -> Result<(), StoreError> {
    let mut walked = Marks::default();
    if let Some((plan, id, why)) = inner.points.unreadable().into_iter().next() {
        let source =
            Box::new(StoreError::PointRefused { plan: plan.clone(), id, why: "its file is damaged" });
        tracing::error!(%plan, restore_point = %id, why, "garbage cannot be told from data");
        return Err(StoreError::Unwalkable { plan, id, source });
    }
    for session in &claims.sessions {
        session.pinned(&mut |id| mark(inner, live, &id).map(drop))?;
        session.points.iter().try_for_each(|point| mark_point(inner, claims, live, &mut walked, point))?;
    }
    mark_claimed_packs(inner, live, claims)?;
    inner.points.all().iter().try_for_each(|held| mark_point(inner, claims, live, &mut walked, &held.point))
}

/// Everything in packs that are claimed whole, for what stands under their patches.
fn mark_claimed_packs(inner: &Inner, live: &mut Marks, claims: &Claims) -> Result<(), StoreError> {
    let (runs, in_map) = {
        let state = inner.index.read();
        (state.runs().to_vec(), state.ids_in_memory())
    };
    for id in in_map {
        mark(inner, live, &id)?;
    }
    for run in &runs {
        if !run.packs().iter().any(|pack| claims.claim(*pack)) {
            continue;
        }
        for entry in run.iter() {
            let entry = entry?;
            if claims.claim(entry.loc.pack) {
                mark(inner, live, &entry.id)?;
            }
        }
    }
    Ok(())
}

fn mark_point(
    inner: &Inner,
    claims: &Claims,
    live: &mut Marks,
    walked: &mut Marks,
    point: &Arc<RestorePoint>,
) -> Result<(), StoreError> {
    if claims.is_keyless(point) {
        // Its packs are claimed whole.
        return Ok(());
    }
    let unwalkable =
        |source| StoreError::Unwalkable { plan: point.plan.clone(), id: point.id, source: Box::new(source) };
    let key = inner.key(point.pair)?;
    let mut visitor = Marking { inner, key: &key, live, walked };
    let outcome = point.roots().try_for_each(|root| walk(&root, &mut visitor).map(drop));
    outcome.map_err(|error| if error.is_damage() { unwalkable(error) } else { error })
}

/// Marks a chunk and what stands under it; its place, if it is here.
fn mark(inner: &Inner, live: &mut Marks, id: &ChunkId) -> Result<Option<Hit>, StoreError> {
    let Some(hit) = inner.index.read().find_settled(id)? else { return Ok(None) };
    let mut todo = if live.insert(id, &hit) { bases(inner, id, &hit)? } else { Vec::new() };
    while let Some(base) = todo.pop() {
        let Some(below) = inner.index.read().find_settled(&base)? else { continue };
        if live.insert(&base, &below) {
            todo.extend(bases(inner, &base, &below)?);
        }
    }
    Ok(Some(hit))
}

fn bases(inner: &Inner, id: &ChunkId, hit: &Hit) -> Result<Vec<ChunkId>, StoreError> {
    match inner.bases(id, hit) {
        Err(error) if error.is_damage() => {
            // The chunk is lost, and nothing stands under what is lost.
            tracing::error!(%error, "a damaged patch was met while looking for garbage");
            Ok(Vec::new())
        }
        bases => bases,
    }
}

struct Marking<'a> {
    inner: &'a Inner,
    key: &'a HashKey,
    live: &'a mut Marks,
    /// Nodes and segments looked into already, for this or another restore point.
    walked: &'a mut Marks,
}

impl Visitor for Marking<'_> {
    fn chunk(&mut self, id: &ChunkId, part: Part<'_>) -> Result<bool, StoreError> {
        let hit = mark(self.inner, self.live, id)?;
        match (part, hit) {
            // A chunk of content that is gone frees nothing else.
            (Part::Data { .. }, _) => Ok(false),
            (_, Some(hit)) => Ok(self.walked.insert(id, &hit)),
            (_, None) => Err(StoreError::ChunkMissing { id: *id }),
        }
    }

    fn fetch(&mut self, id: &ChunkId) -> Result<Arc<Vec<u8>>, StoreError> {
        self.inner.load(self.key, id, &self.inner.cache)
    }
}
