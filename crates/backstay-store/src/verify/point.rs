//! Checking restore points: their files, and that everything they reach can be read.

use std::collections::BTreeSet;
use std::sync::Arc;

use backstay_types::{ChunkId, HashKey, PackId, PlanName, VolumeName};

use super::{DamagedFile, DamagedPoint, VerifyReport};
use crate::StoreError;
use crate::error::LOST_KEY;
use crate::index::{Hit, Marks};
use crate::inner::Inner;
use crate::points::{Held, read_file};
use crate::walk::{Part, Visitor, walk};

/// Reads the files back, and writes those anew that are not what they were.
pub(super) fn check_files(
    inner: &Inner,
    plan: Option<&PlanName>,
    report: &mut VerifyReport,
) -> Result<(), StoreError> {
    for (of, id, why) in inner.points.unreadable() {
        if plan.is_none_or(|plan| *plan == of) {
            report.damaged_files.push(DamagedFile {
                file: format!("points/{of}/{id}.rp"),
                why: why.clone(),
                mended: false,
            });
            report.damaged_points.push(DamagedPoint { plan: of, id, why });
        }
    }
    let points = plan.map_or_else(|| inner.points.all(), |plan| inner.points.of_plan(plan));
    for Held { point, .. } in points {
        let why = match read_file(&inner.layout, &point.plan, point.id) {
            Ok(found) if found == *point => continue,
            Ok(_) => "it is not what was committed".to_owned(),
            Err(error) => error.to_string(),
        };
        let path = inner.layout.point(&point.plan, point.id);
        inner.disk.publish(&path, &point.encode())?;
        let file = format!("points/{}/{}.rp", point.plan, point.id);
        tracing::error!(file, why, "a restore-point file was damaged and is written anew");
        report.damaged_files.push(DamagedFile { file, why, mended: true });
    }
    Ok(())
}

/// Packs these restore points stand on; `None` if that cannot be told.
pub(super) fn packs_needed(inner: &Inner, points: &[Held]) -> Result<Option<BTreeSet<PackId>>, StoreError> {
    let mut packs = BTreeSet::new();
    let mut seen = Marks::default();
    for Held { point, .. } in points {
        if inner.is_keyless(point.pair) {
            // What it stands on cannot be told: whole packs are checked, by their own checksums.
            return Ok(None);
        }
        let key = inner.key(point.pair)?;
        let mut visitor = Gather { inner, key: &key, seen: &mut seen, packs: &mut packs };
        for root in point.roots() {
            match walk(&root, &mut visitor) {
                Ok(_) => {}
                Err(error) if error.is_damage() => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }
    Ok(Some(packs))
}

struct Gather<'a> {
    inner: &'a Inner,
    key: &'a HashKey,
    seen: &'a mut Marks,
    packs: &'a mut BTreeSet<PackId>,
}

impl Gather<'_> {
    fn add(&mut self, id: &ChunkId) -> Result<Option<(Hit, bool)>, StoreError> {
        let Some(hit) = self.inner.index.read().find(id)? else { return Ok(None) };
        let new = self.seen.insert(id, &hit);
        self.packs.insert(hit.loc.pack);
        if new {
            for base in self.inner.bases(id, &hit)? {
                self.add(&base)?;
            }
        }
        Ok(Some((hit, new)))
    }
}

impl Visitor for Gather<'_> {
    fn chunk(&mut self, id: &ChunkId, part: Part<'_>) -> Result<bool, StoreError> {
        match self.add(id)? {
            // One seen as content may be looked into once more as a segment; that costs time only.
            Some((_, new)) => Ok(new || matches!(part, Part::Root)),
            None => Err(StoreError::ChunkMissing { id: *id }),
        }
    }

    fn fetch(&mut self, id: &ChunkId) -> Result<Arc<Vec<u8>>, StoreError> {
        self.inner.load(self.key, id, &self.inner.cache)
    }
}

/// What is wrong with each of these restore points, as far as the packs were checked before.
pub(super) fn damage_of(inner: &Inner, points: &[Held]) -> Result<Vec<Option<String>>, StoreError> {
    // Most stores are whole: what one point shares with another is looked at once, as long as all is well.
    let mut walked = Marks::default();
    for held in points {
        if damage_of_one(inner, held, &mut walked)?.is_some() {
            return points.iter().map(|held| damage_of_one(inner, held, &mut Marks::default())).collect();
        }
    }
    Ok(points.iter().map(|_| None).collect())
}

fn damage_of_one(inner: &Inner, held: &Held, walked: &mut Marks) -> Result<Option<String>, StoreError> {
    let point = &held.point;
    let key = match inner.key(point.pair) {
        Err(StoreError::NoKey { .. }) => return Ok(Some(LOST_KEY.to_owned())),
        key => key?,
    };
    let volumes = point.volumes.iter().map(|volume| (Some(&volume.name), volume.root));
    for (name, root) in volumes.chain(point.bundle.iter().map(|bundle| (None, bundle.root))) {
        let volume = name.map_or_else(|| "bundle".to_owned(), VolumeName::to_string);
        let mut visitor = Whole { inner, key: &key, walked, hole: None };
        let outcome = walk(&root, &mut visitor);
        let why = match (visitor.hole, outcome) {
            (Some((path, why)), _) => format!("volume {volume}, path {path}: {why}"),
            (None, Ok(_)) => continue,
            (None, Err(error)) if error.is_damage() => format!("volume {volume}: {error}"),
            (None, Err(error)) => return Err(error),
        };
        return Ok(Some(why));
    }
    Ok(None)
}

struct Whole<'a> {
    inner: &'a Inner,
    key: &'a HashKey,
    /// Nodes and segments looked into already and found whole.
    walked: &'a mut Marks,
    /// Path and reason of the first hole.
    hole: Option<(String, String)>,
}

impl Visitor for Whole<'_> {
    fn chunk(&mut self, id: &ChunkId, part: Part<'_>) -> Result<bool, StoreError> {
        let (path, len) = match part {
            Part::Root | Part::Node => ("(manifest)".to_owned(), None),
            Part::Segment { len } => ("(manifest)".to_owned(), Some(len)),
            Part::Data { len, path } => (path.to_string(), Some(len)),
        };
        let (hit, bad) = {
            let state = self.inner.index.read();
            let hit = state.find(id)?;
            let bad = hit.as_ref().is_some_and(|hit| state.is_bad(id, &hit.loc));
            (hit, bad)
        };
        let why = match &hit {
            None => format!("chunk {id} is not in the store"),
            Some(hit) if bad => format!("chunk {id} in pack {} is damaged", hit.loc.pack),
            Some(hit) if len.is_some_and(|len| len != hit.loc.raw_len) => {
                format!("chunk {id} has another length")
            }
            Some(hit) => return Ok(matches!(part, Part::Data { .. }) || self.walked.insert(id, hit)),
        };
        self.hole = Some((path, why));
        // Ends the walk; the hole says why.
        Err(StoreError::ChunkMissing { id: *id })
    }

    fn fetch(&mut self, id: &ChunkId) -> Result<Arc<Vec<u8>>, StoreError> {
        self.inner.load(self.key, id, &self.inner.cache)
    }
}
