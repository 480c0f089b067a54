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
//!
//! What is dead goes first and needs no room, so a full disk can be collected.

mod execute;
mod mark;

pub(crate) use execute::{execute, remove_packs};
use mark::mark_reachable;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use backstay_types::{PackId, Span};
use serde::{Deserialize, Serialize};

use crate::StoreError;
use crate::index::{Marks, PackStage};
use crate::inner::{Inner, lock};
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
    /// Packs left alone for sessions in flight, or so that a broken one can resume.
    pub packs_claimed: u64,
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
    let claims = Claims::of(inner);
    let mut live = Marks::default();
    mark_reachable(inner, &mut live, &claims)?;
    let usage = usage(inner, &live)?;
    let mut plan = GcPlan { packs_total: usage.len() as u64, ..GcPlan::default() };
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
}

impl Claims {
    fn of(inner: &Inner) -> Self {
        let sessions = inner.sessions.all();
        let floor = sessions.iter().map(|session| session.floor).min();
        let oldest = inner.now().minus(RESUME_SPAN);
        let fresh =
            lock(&inner.fresh).iter().filter(|(_, at)| **at > oldest).map(|(pack, _)| *pack).collect();
        let state = inner.index.read();
        let settled = |stage| stage == PackStage::InRun;
        let unsettled =
            state.packs().iter().filter(|(_, pack)| !settled(pack.stage)).map(|(pack, _)| *pack).collect();
        Self { sessions, floor, fresh, unsettled }
    }

    /// Whether a pack is claimed whole.
    pub(crate) fn claim(&self, pack: PackId) -> bool {
        self.floor.is_some_and(|floor| pack >= floor)
            || self.fresh.contains(&pack)
            || self.unsettled.contains(&pack)
    }
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
