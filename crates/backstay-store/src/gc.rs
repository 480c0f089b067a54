//! Garbage collection: first a plan that prints, then its execution.
//!
//! 1. A pack is deleted only when no chunk in it is reachable from a restore point or claimed by a session
//!    (test `collection_never_frees_what_is_needed`).
//! 2. What is reachable is looked at anew when a plan is carried out, so a plan may be old. Then its packs are
//!    doomed: from that moment a session comes to depend on a chunk in them only if the chunk is going to be saved;
//!    the others count as missing for it. What sessions claimed up to that moment is added to what is saved.
//! 3. Packs are deleted after the catalog durably says so; a crash in between leaves files that the next open
//!    deletes. Chunks are durable in their new pack before their old one goes.
//! 4. Packs of a session that broke off are kept for a day, so that the next cycle can resume.
//! 5. Of a restore point whose pair's hashing key is lost it cannot be told what it needs: it is named, the packs of its
//!    pair stay as they are, and the rest of the store is collected (test `a_lost_key_stops_nothing_else`).
//!
//! What is dead goes first and needs no room, so a full disk can be collected.

mod execute;
mod mark;

pub(crate) use execute::{execute, remove_packs};
use mark::mark_reachable;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use backstay_types::point::RestorePoint;
use backstay_types::{PackId, PairId, PlanName, RestorePointId, Span};
use serde::{Deserialize, Serialize};

use crate::StoreError;
use crate::index::{Marks, PackStage};
use crate::inner::{Inner, lock};
use crate::pack::check_header;
use crate::session::Session;

/// How long the packs of a session that broke off are kept for the next one.
const RESUME_SPAN: Span = Span(24 * 60 * 60 * 1000);
/// A pack of less than an eighth of the full size is small …
const SMALL_FRACTION: u64 = 8;
/// … and small packs are put together when there are this many.
const SMALL_PACKS_MIN: usize = 16;

/// Why a pack goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum GcReason {
    /// Nothing in it is needed.
    Dead,
    /// Less than half of it is needed.
    Sparse,
    /// It is one of many small ones.
    Small,
    /// Its structure is damaged; the chunks in it that are needed are not.
    Damaged,
}

/// One pack to be deleted, after what is needed of it was moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GcPack {
    /// Which.
    pub pack: PackId,
    /// Why.
    pub reason: GcReason,
    /// Length of its file.
    pub bytes: u64,
    /// Bytes of it that are needed and will be moved.
    pub live_bytes: u64,
}

/// What a garbage collection would do.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GcPlan {
    /// Packs to go, by number.
    pub packs: Vec<GcPack>,
    /// Packs of the store.
    pub packs_total: u64,
    /// Their bytes.
    pub bytes_total: u64,
    /// Packs left alone for sessions in flight, so that a broken one can resume, or for restore points whose hashing key
    /// is lost.
    pub packs_claimed: u64,
    /// Restore points whose hashing key is lost.
    #[serde(default)]
    pub keyless: Vec<KeylessPoint>,
}

/// A restore point that nobody can read, because the hashing key of its pair is lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeylessPoint {
    /// Its plan.
    pub plan: PlanName,
    /// Which.
    pub id: RestorePointId,
}

impl GcPlan {
    /// Bytes that will be free afterwards.
    pub fn freed_bytes(&self) -> u64 {
        self.packs.iter().map(|pack| pack.bytes.saturating_sub(pack.live_bytes)).sum()
    }
}

impl fmt::Display for GcPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let moved: u64 = self.packs.iter().map(|pack| pack.live_bytes).sum();
        let dead = self.packs.iter().filter(|pack| pack.live_bytes == 0).count();
        writeln!(f, "{} packs, {} bytes", self.packs_total, self.bytes_total)?;
        writeln!(f, "delete {dead} packs")?;
        writeln!(f, "rewrite {} packs, moving {moved} bytes", self.packs.len() - dead)?;
        if self.packs_claimed > 0 {
            writeln!(f, "leave {} packs to sessions in flight or broken off", self.packs_claimed)?;
        }
        for KeylessPoint { plan, id } in &self.keyless {
            writeln!(f, "leave {plan} {id}, whose hashing key is lost")?;
        }
        write!(f, "free {} bytes", self.freed_bytes())
    }
}

/// What a garbage collection did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GcReport {
    /// Packs deleted.
    pub packs_deleted: u64,
    /// Of those, packs whose needed chunks were moved first.
    pub packs_rewritten: u64,
    /// Packs of the plan that were left, because they were needed by then.
    pub packs_kept: u64,
    /// Bytes of the packs deleted.
    pub bytes_deleted: u64,
    /// Bytes of chunks moved.
    pub bytes_moved: u64,
}

impl fmt::Display for GcReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "deleted {} packs of {} bytes, {} of them rewritten with {} bytes moved; kept {}",
            self.packs_deleted, self.bytes_deleted, self.packs_rewritten, self.bytes_moved, self.packs_kept
        )
    }
}

/// Works out what could go.
pub(crate) fn plan(inner: &Inner) -> Result<GcPlan, StoreError> {
    let _exclusive = inner.maintain()?;
    prepare(inner)?;
    let claims = Claims::of(inner)?;
    let mut live = Marks::default();
    mark_reachable(inner, &mut live, &claims)?;
    let usage = usage(inner, &live)?;
    let mut plan = GcPlan { packs_total: usage.len() as u64, ..GcPlan::default() };
    plan.keyless.clone_from(&claims.keyless_points);
    let mut small = Vec::new();
    for (pack, usage) in &usage {
        plan.bytes_total += usage.bytes;
        if claims.claim(*pack) {
            plan.packs_claimed += 1;
            continue;
        }
        let entry = |reason| GcPack { pack: *pack, reason, bytes: usage.bytes, live_bytes: usage.live_bytes };
        let damaged = lock(&inner.bad_packs).contains_key(pack);
        if usage.live_bytes == 0 {
            plan.packs.push(entry(GcReason::Dead));
        } else if damaged {
            plan.packs.push(entry(GcReason::Damaged));
        } else if usage.live_bytes * 2 < usage.bytes {
            plan.packs.push(entry(GcReason::Sparse));
        } else if usage.bytes < inner.config.pack_bytes / SMALL_FRACTION {
            small.push(entry(GcReason::Small));
        }
    }
    if small.len() >= SMALL_PACKS_MIN {
        plan.packs.append(&mut small);
    }
    plan.packs.sort_by_key(|pack| pack.pack);
    Ok(plan)
}

/// Seals what broken sessions left, and writes it to a run: only packs in runs can be collected.
fn prepare(inner: &Inner) -> Result<(), StoreError> {
    // On a full disk neither may work, and what is in runs can be collected all the same.
    let tidied = inner.seal_orphans().and_then(|()| inner.tidy_index(1));
    match tidied {
        Err(StoreError::NoSpace { .. }) => Ok(()),
        tidied => tidied,
    }
}

/// What must be left alone whether reachable or not.
pub(crate) struct Claims {
    pub(crate) sessions: Vec<Arc<Session>>,
    floor: Option<PackId>,
    fresh: HashSet<PackId>,
    unsettled: HashSet<PackId>,
    keyless_pairs: HashSet<PairId>,
    keyless_points: Vec<KeylessPoint>,
    /// Packs of those pairs.
    keyless: HashSet<PackId>,
}

impl Claims {
    fn of(inner: &Inner) -> Result<Self, StoreError> {
        let sessions = inner.sessions.all();
        let floor = sessions.iter().map(|session| session.floor).min();
        let oldest = inner.now().minus(RESUME_SPAN);
        let fresh =
            lock(&inner.fresh).iter().filter(|(_, at)| **at > oldest).map(|(pack, _)| *pack).collect();
        let settled = |stage| stage == PackStage::InRun;
        let unsettled = {
            let state = inner.index.read();
            state.packs().iter().filter(|(_, pack)| !settled(pack.stage)).map(|(pack, _)| *pack).collect()
        };
        let all = inner.points.all();
        let of_sessions = sessions.iter().flat_map(|session| &session.points);
        let points = all.iter().map(|held| &held.point).chain(of_sessions);
        let keyless_pairs: HashSet<PairId> =
            points.map(|point| point.pair).filter(|pair| inner.is_keyless(*pair)).collect();
        let mut lost = all.iter().map(|held| &held.point).collect::<Vec<_>>();
        lost.retain(|point| keyless_pairs.contains(&point.pair));
        let lost = lost.into_iter().map(|point| KeylessPoint { plan: point.plan.clone(), id: point.id });
        let keyless_points = lost.collect();
        let keyless = packs_of(inner, &keyless_pairs)?;
        Ok(Self { sessions, floor, fresh, unsettled, keyless_pairs, keyless_points, keyless })
    }

    /// Whether it cannot be told what a restore point needs.
    fn is_keyless(&self, point: &RestorePoint) -> bool {
        self.keyless_pairs.contains(&point.pair)
    }

    /// Whether a pack is claimed whole.
    pub(crate) fn claim(&self, pack: PackId) -> bool {
        self.floor.is_some_and(|floor| pack >= floor)
            || self.fresh.contains(&pack)
            || self.unsettled.contains(&pack)
            || self.keyless.contains(&pack)
    }
}

/// The packs of some pairs. What stands under a patch is of the same pair, for ids of another key never meet its own. A
/// pack whose header is damaged may be anybody's.
fn packs_of(inner: &Inner, pairs: &HashSet<PairId>) -> Result<HashSet<PackId>, StoreError> {
    let mut found = HashSet::new();
    if pairs.is_empty() {
        return Ok(found);
    }
    let packs: Vec<PackId> = inner.index.read().packs().keys().copied().collect();
    for pack in packs {
        let path = inner.layout.pack(pack);
        match inner.packs.open(pack).and_then(|file| check_header(&file, &path, pack)) {
            Ok(pair) if !pairs.contains(&pair) => {}
            Err(error) if !error.is_damage() => return Err(error),
            Ok(_) | Err(_) => {
                found.insert(pack);
            }
        }
    }
    Ok(found)
}

/// How much of a pack is needed.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    pub(crate) bytes: u64,
    pub(crate) live_bytes: u64,
}

/// Goes through the runs and adds up what is marked.
pub(crate) fn usage(inner: &Inner, live: &Marks) -> Result<BTreeMap<PackId, Usage>, StoreError> {
    let (runs, packs) = {
        let state = inner.index.read();
        (state.runs().to_vec(), state.packs().clone())
    };
    let mut live_bytes: HashMap<PackId, u64> = HashMap::new();
    for run in &runs {
        for (entry, position) in run.iter().zip(0..) {
            let entry = entry?;
            if live.contains_at(run.seq(), position) {
                *live_bytes.entry(entry.loc.pack).or_default() += entry.loc.record_len() as u64;
            }
        }
    }
    let usage = packs.into_iter().map(|(pack, state)| {
        let live_bytes = live_bytes.get(&pack).copied().unwrap_or_default();
        (pack, Usage { bytes: state.bytes, live_bytes })
    });
    Ok(usage.collect())
}
