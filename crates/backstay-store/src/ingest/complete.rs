//! Whether a restore point is whole: every chunk its manifests reach is here, sound, and as long as they say.
//!
//! What the parent is known to have is not looked at again: nodes and segments both share are skipped. That is
//! sound because the parent was checked in the same way, is marked if it was found damaged since, and is claimed
//! by the session.

use std::collections::HashSet;
use std::sync::Arc;

use backstay_types::manifest::{ManifestRoot, VolumeKind, decode_node};
use backstay_types::point::RestorePoint;
use backstay_types::{ChunkId, HashKey, VolumeName};

use super::find_and_pin;
use crate::StoreError;
use crate::inner::Inner;
use crate::points::Held;
use crate::session::Session;
use crate::walk::{Part, Visitor, walk};

/// Segments of the parent that are remembered for skipping: 8 MiB of ids, 16 GiB of manifest. Past that the check
/// takes longer, not more memory.
const SKIP_SEGMENTS_MAX: usize = 256 << 10;

/// Fails with the first hole.
pub(super) fn check(
    inner: &Inner,
    session: &Session,
    key: &HashKey,
    point: &RestorePoint,
) -> Result<(), StoreError> {
    let parent = point.parent.and_then(|id| inner.points.get(&point.plan, id));
    let parent = parent.filter(|held| held.damage.is_none() && held.point.pair == point.pair);
    let volumes = point.volumes.iter().map(|volume| (Some(&volume.name), volume.kind, volume.root));
    let bundle = point.bundle.iter().map(|bundle| (None, VolumeKind::Bundle, bundle.root));
    for (name, kind, root) in volumes.chain(bundle) {
        let volume = name.map_or_else(|| "bundle".to_owned(), VolumeName::to_string);
        let mut check = Check { inner, session, key, point, volume, skip: HashSet::new() };
        if let Some(old) = parent.as_ref().and_then(|held| root_in(held, name)) {
            if old == root {
                continue;
            }
            check.skip_shared_with(&old)?;
        }
        if let Some(found) = walk(&root, &mut check)?
            && (found.volume.as_ref() != name || found.kind != kind)
        {
            return Err(check.hole(".", "its manifest is another volume's".to_owned()));
        }
    }
    Ok(())
}

fn root_in(held: &Held, name: Option<&VolumeName>) -> Option<ChunkId> {
    match name {
        Some(name) => held.point.volume(name).map(|volume| volume.root),
        None => held.point.bundle.as_ref().map(|bundle| bundle.root),
    }
}

struct Check<'a> {
    inner: &'a Inner,
    session: &'a Session,
    key: &'a HashKey,
    point: &'a RestorePoint,
    volume: String,
    /// Nodes and segments of the parent's manifest.
    skip: HashSet<ChunkId>,
}

impl Check<'_> {
    fn skip_shared_with(&mut self, old: &ChunkId) -> Result<(), StoreError> {
        let bad = |why: String| StoreError::Manifest { root: *old, why };
        let root = ManifestRoot::decode(&self.fetch(old)?).map_err(|e| bad(e.to_string()))?;
        for node in &root.nodes {
            let segments = decode_node(&self.fetch(node)?).map_err(|e| bad(e.to_string()))?;
            if self.skip.len() + segments.len() > SKIP_SEGMENTS_MAX {
                break;
            }
            self.skip.insert(*node);
            self.skip.extend(segments.iter().map(|segment| segment.id));
        }
        Ok(())
    }

    fn hole(&self, path: &str, why: String) -> StoreError {
        StoreError::Incomplete {
            plan: self.point.plan.clone(),
            id: self.point.id,
            volume: self.volume.clone(),
            path: path.to_owned(),
            why,
        }
    }
}

impl Visitor for Check<'_> {
    fn chunk(&mut self, id: &ChunkId, part: Part<'_>) -> Result<bool, StoreError> {
        if !matches!(part, Part::Root | Part::Data { .. }) && self.skip.contains(id) {
            return Ok(false);
        }
        let (path, len) = match part {
            Part::Root | Part::Node => ("(manifest)".to_owned(), None),
            Part::Segment { len } => ("(manifest)".to_owned(), Some(len)),
            Part::Data { len, path } => (path.to_string(), Some(len)),
        };
        match find_and_pin(self.inner, self.session, id)? {
            None => Err(self.hole(&path, format!("chunk {id} was not received"))),
            Some(hit) if len.is_some_and(|len| len != hit.loc.raw_len) => {
                let why =
                    format!("chunk {id} has {} bytes, expected {}", hit.loc.raw_len, len.unwrap_or_default());
                Err(self.hole(&path, why))
            }
            Some(_) => Ok(true),
        }
    }

    fn fetch(&mut self, id: &ChunkId) -> Result<Arc<Vec<u8>>, StoreError> {
        self.inner.load(self.key, id, &self.inner.cache)
    }
}
