//! Whether what a cycle found is so much less than the restore point before that somebody should look first.
//!
//! An unmounted place, a fresh file system, an application that began anew beside its data, a namespace that was
//! emptied: none of them is an error of what is read, and each would take the standby's copy with it. The numbers:
//!
//! | of | refused when | at least |
//! |---|---|---|
//! | a volume | nothing is left | 1 entry before |
//! | a volume | over 90 % of its entries and half of its bytes are gone | `ENTRIES_MIN` before |
//! | a volume | over 90 % of its bytes are gone | `BYTES_MIN` before |
//! | a volume on another file system than before | over half of its entries or bytes are gone | `MOVED_ENTRIES_MIN` before |
//! | the objects | none is left, or no workload | 1 before |
//! | the objects | over half are gone | `OBJECTS_MIN` before |
//! | the claims | the volume of one is gone | – |
//!
//! 1. Entries alone do not count: a spool that is emptied every night beside a database keeps its bytes
//!    (test `ordinary_shrinkage_is_none`).
//! 2. What grows, or shrinks by less, is never refused (test `what_does_not_shrink_is_none`).

use std::collections::BTreeSet;
use std::fmt;

use backstay_types::VolumeName;
use backstay_types::point::RestorePoint;

/// A volume of fewer entries is small enough to lose most of them in ordinary work.
const ENTRIES_MIN: u64 = 20;
/// The same of a volume that lies on another file system than before.
const MOVED_ENTRIES_MIN: u64 = 3;
/// A log of less may be rotated away.
const BYTES_MIN: u64 = 64 << 20;
/// Of fewer objects, half are soon deleted by hand.
const OBJECTS_MIN: u64 = 10;

/// How much a volume holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Extent {
    /// Entries, the root among them.
    pub entries: u64,
    /// Length of all files.
    pub bytes: u64,
}

/// How many objects there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ObjectCount {
    /// All of them.
    pub objects: u64,
    /// Those that run something, where that is known.
    pub workloads: Option<u64>,
}

/// Much less than before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shrunk {
    /// A volume.
    Volume {
        /// Which.
        name: VolumeName,
        /// What it held.
        before: Extent,
        /// What it holds.
        now: Extent,
        /// It lies on another file system than before.
        moved: bool,
    },
    /// The volume of a claim is not there any more.
    Claim {
        /// Its name in the restore point.
        name: VolumeName,
        /// What it held.
        before: Extent,
    },
    /// Objects.
    Objects {
        /// How many there were.
        before: u64,
        /// How many there are.
        now: u64,
    },
    /// Everything that runs.
    Workloads {
        /// How many there were.
        before: u64,
    },
}

impl fmt::Display for Shrunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Volume { name, before, now, moved } => {
                write!(
                    f,
                    "volume {name} has {} of {} entries and {} of {} bytes left",
                    now.entries, before.entries, now.bytes, before.bytes
                )?;
                f.write_str(if *moved { ", on another file system than before" } else { "" })
            }
            Self::Claim { name, before } => {
                write!(f, "volume {name} of {} bytes is gone", before.bytes)
            }
            Self::Objects { before, now: 0 } => write!(f, "none of its {before} objects is left"),
            Self::Objects { before, now } => write!(f, "{now} of its {before} objects are left"),
            Self::Workloads { before } => {
                write!(f, "none of the {before} objects that run something is left")
            }
        }
    }
}

/// Judges a volume that is still there. `emptied`: nothing of its own is left in it.
pub fn volume(name: &VolumeName, before: Extent, now: Extent, emptied: bool, moved: bool) -> Option<Shrunk> {
    // The root is no content.
    let (entries, left) = (before.entries.saturating_sub(1), now.entries.saturating_sub(1));
    let less = left < entries || now.bytes < before.bytes;
    let is_emptied = emptied && less;
    let thinned = entries >= ENTRIES_MIN && is_most(entries, left) && is_half_or_all(before.bytes, now.bytes);
    let drained = before.bytes >= BYTES_MIN && is_most(before.bytes, now.bytes);
    let replaced = moved
        && entries >= MOVED_ENTRIES_MIN
        && (is_over_half(entries, left) || is_over_half(before.bytes, now.bytes));
    (is_emptied || thinned || drained || replaced).then(|| Shrunk::Volume {
        name: name.clone(),
        before,
        now,
        moved: moved && replaced,
    })
}

/// Judges the objects.
pub fn objects(before: ObjectCount, now: ObjectCount) -> Option<Shrunk> {
    let counts = Shrunk::Objects { before: before.objects, now: now.objects };
    if before.objects > 0 && now.objects == 0 {
        return Some(counts);
    }
    match (before.workloads, now.workloads) {
        (Some(workloads @ 1..), Some(0)) => Some(Shrunk::Workloads { before: workloads }),
        _ => {
            let halved = before.objects >= OBJECTS_MIN && is_over_half(before.objects, now.objects);
            halved.then_some(counts)
        }
    }
}

/// The volumes of `claims` that are in `before` and not among `now`.
pub fn claims<'a>(
    before: &'a RestorePoint,
    claims: &'a BTreeSet<VolumeName>,
    now: &'a BTreeSet<VolumeName>,
) -> impl Iterator<Item = Shrunk> + 'a {
    let gone = |name: &VolumeName| claims.contains(name) && !now.contains(name);
    let lost = before.volumes.iter().filter(move |volume| gone(&volume.name));
    lost.map(|volume| Shrunk::Claim {
        name: volume.name.clone(),
        before: Extent { entries: volume.entries, bytes: volume.bytes },
    })
}

/// What a restore point has so much less of than the one before that whoever promotes it should know.
pub fn points(before: &RestorePoint, now: &RestorePoint) -> Vec<Shrunk> {
    let mut found = Vec::new();
    for old in &before.volumes {
        let extent = Extent { entries: old.entries, bytes: old.bytes };
        match now.volume(&old.name) {
            Some(new) => {
                let left = Extent { entries: new.entries, bytes: new.bytes };
                found.extend(volume(&old.name, extent, left, left.entries <= 1 && left.bytes == 0, false));
            }
            None => found.push(Shrunk::Claim { name: old.name.clone(), before: extent }),
        }
    }
    let count = |point: &RestorePoint| ObjectCount {
        objects: point.bundle.as_ref().map_or(0, |bundle| bundle.objects),
        workloads: None,
    };
    found.extend(objects(count(before), count(now)));
    found
}

/// Over 90 % are gone.
fn is_most(before: u64, now: u64) -> bool {
    now.saturating_mul(10) < before
}

fn is_over_half(before: u64, now: u64) -> bool {
    now.saturating_mul(2) < before
}

/// At least half are gone, or there was nothing to lose.
fn is_half_or_all(before: u64, now: u64) -> bool {
    now.saturating_mul(2) <= before
}

#[cfg(test)]
mod tests {
    use backstay_types::point::{Bundle, Consistency, CycleStats, PointVolume};
    use backstay_types::{ChunkId, Epoch, PairId, RestorePointId, SiteId, Time};

    use super::*;

    fn name() -> VolumeName {
        "data".parse().unwrap()
    }

    fn extent(entries: u64, bytes: u64) -> Extent {
        Extent { entries, bytes }
    }

    fn is_refused(before: Extent, now: Extent, moved: bool) -> bool {
        volume(&name(), before, now, now.entries <= 1, moved).is_some()
    }

    #[test]
    fn boundaries_of_a_volume() {
        const MIB: u64 = 1 << 20;
        for (before, now, moved, expected) in [
            // Nothing is left.
            (extent(2, 9), extent(1, 0), false, true),
            (extent(1, 0), extent(1, 0), false, false),
            // Entries: 20 and over 90 %, and half of the bytes.
            (extent(21, 100), extent(3, 0), false, false),
            (extent(21, 100), extent(2, 50), false, true),
            (extent(21, 100), extent(2, 51), false, false),
            (extent(20, 100), extent(2, 0), false, false),
            (extent(1001, 0), extent(101, 0), false, false),
            (extent(1001, 0), extent(100, 0), false, true),
            // Bytes: 64 MiB and over 90 %, whatever the entries.
            (extent(1000, 640 * MIB), extent(1500, 64 * MIB), false, false),
            (extent(1000, 640 * MIB), extent(1500, 64 * MIB - 1), false, true),
            (extent(3, 64 * MIB), extent(3, 1), false, true),
            (extent(3, 64 * MIB - 1), extent(3, 1), false, false),
            // Another file system, and over half of either.
            (extent(4, 100), extent(2, 100), true, true),
            (extent(4, 100), extent(4, 49), true, true),
            (extent(5, 100), extent(3, 50), true, false),
            (extent(3, 100), extent(2, 1), true, false),
        ] {
            assert_eq!(is_refused(before, now, moved), expected, "{before:?} → {now:?}, moved: {moved}");
        }
    }

    #[test]
    fn what_a_file_system_leaves_is_no_content() {
        let found = volume(&name(), extent(2, 7), extent(2, 0), true, false).unwrap();
        assert_eq!(found.to_string(), "volume data has 2 of 2 entries and 0 of 7 bytes left");
        assert_eq!(volume(&name(), extent(2, 0), extent(2, 0), true, true), None, "it always was empty");
    }

    #[test]
    fn ordinary_shrinkage_is_none() {
        // A mail spool beside a database; a build cache of which a tenth stays; a rotated log.
        assert!(!is_refused(extent(50_000, 10 << 30), extent(400, 9 << 30), false));
        assert!(!is_refused(extent(50_000, 1 << 30), extent(5_100, 200 << 20), false));
        assert!(!is_refused(extent(6, 50 << 20), extent(4, 1 << 20), false));
    }

    #[test]
    fn what_does_not_shrink_is_none() {
        assert!(!is_refused(extent(1, 0), extent(1, 0), true));
        assert!(!is_refused(extent(100, 1 << 30), extent(100, 1 << 30), true));
        assert!(!is_refused(extent(100, 1 << 30), extent(200, 2 << 30), true));
    }

    #[test]
    fn boundaries_of_objects() {
        let count = |objects, workloads| ObjectCount { objects, workloads };
        for (before, now, expected) in [
            (count(1, None), count(0, None), true),
            (count(0, None), count(0, None), false),
            (count(3, None), count(1, None), false),
            (count(10, None), count(5, None), false),
            (count(10, None), count(4, None), true),
            (count(9, None), count(1, None), false),
            (count(3, Some(1)), count(2, Some(0)), true),
            (count(3, Some(0)), count(2, Some(0)), false),
            (count(3, Some(5)), count(3, Some(1)), false),
            (count(3, None), count(2, Some(0)), false),
        ] {
            assert_eq!(objects(before, now).is_some(), expected, "{before:?} → {now:?}");
        }
    }

    fn point(volumes: &[(&str, u64, u64)], objects: u64) -> RestorePoint {
        let volume = |(name, entries, bytes): &(&str, u64, u64)| PointVolume {
            name: name.parse().unwrap(),
            kind: backstay_types::manifest::VolumeKind::Directory,
            root: ChunkId([0; 32]),
            entries: *entries,
            bytes: *bytes,
        };
        RestorePoint {
            id: RestorePointId { epoch: Epoch(1), number: 1 },
            pair: PairId([0; 16]),
            plan: "shop".parse().unwrap(),
            origin: SiteId([0; 16]),
            parent: None,
            snapshot_time: Time(0),
            committed_time: Time(0),
            consistency: Consistency::Crash,
            volumes: volumes.iter().map(volume).collect(),
            bundle: Some(Bundle { root: ChunkId([0; 32]), objects, bytes: 0 }),
            stats: CycleStats::default(),
        }
    }

    #[test]
    fn a_point_is_compared_with_the_one_before() {
        let before = point(&[("data", 1000, 1 << 30), ("logs", 10, 10)], 20);
        assert_eq!(points(&before, &before), []);
        let after = point(&[("data", 2, 0)], 3);
        let said: Vec<_> = points(&before, &after).iter().map(ToString::to_string).collect();
        assert_eq!(
            said,
            [
                "volume data has 2 of 1000 entries and 0 of 1073741824 bytes left",
                "volume logs of 10 bytes is gone",
                "3 of its 20 objects are left",
            ]
        );
        let claimed = BTreeSet::from(["logs".parse().unwrap()]);
        assert_eq!(claims(&before, &claimed, &BTreeSet::new()).count(), 1, "data is the plan's own");
        assert_eq!(claims(&before, &claimed, &claimed).count(), 0);
    }
}
