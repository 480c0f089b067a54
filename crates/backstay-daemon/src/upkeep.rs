//! Keeping a store in shape: retention, garbage collection, verification, and what works without a daemon.

mod repair;
mod replicas;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use backstay_engine::retention;
use backstay_net::PeerBook;
use backstay_store::{Store, VerifyReport};
use backstay_types::frame::SiteRole;
use backstay_types::{Class, Classify, PlanName, RestorePointId};

use crate::api_types::{CyclePhase, Damage, GcOutcome, RebuildOutcome, VerifyOutcome};
use crate::config::{Overrides, SiteConfig};
use crate::places::Places;
use crate::plans::{Applied, PlanBook};
use crate::runtime::{Activity, Runtimes};
use crate::serve::store_config;
use crate::site::{Site, layout};
use crate::{DaemonError, clock};

/// Restore points expire with the clock as well as with new ones; looking this often is soon enough.
const LOOK_EVERY: Duration = Duration::from_secs(600);

/// Packs are collected when this much of the store would come free: less is not worth the reading.
const COLLECT_ABOVE_PERCENT: u64 = 10;

impl Site {
    /// Runs until the daemon stops.
    pub(crate) async fn run_upkeep(self: Arc<Self>) {
        while !self.stop.is_cancelled() {
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            let site = self.clone();
            let swept = self.blocking("upkeep", move || site.sweep()).await;
            if let Err(error) = swept {
                self.metrics.count_error(error.class());
                tracing::error!(class = error.class().label(), "upkeep of the store failed: {error}");
            }
        }
    }

    /// What follows a commit: the replica, then retention.
    pub(crate) fn after_commit(self: &Arc<Self>, plan: &PlanName) {
        let (site, plan) = (self.clone(), plan.clone());
        self.tasks.spawn(async move {
            site.apply_newest(&plan).await;
            let expired = {
                let (site, plan) = (site.clone(), plan.clone());
                site.clone().blocking("retention", move || site.expire(&plan)).await
            };
            if let Err(error) = expired {
                tracing::error!(%plan, class = error.class().label(), "retention not applied: {error}");
            }
        });
    }

    fn sweep(&self) -> Result<(), DaemonError> {
        for record in self.plans.list() {
            self.expire(&record.name)?;
        }
        let plan = self.store.gc_plan()?;
        if let Some(first) = plan.keyless.first() {
            tracing::warn!(
                count = plan.keyless.len(),
                "restore points whose hashing key is lost keep their space; first: {} of plan {}",
                first.id,
                first.plan
            );
        }
        let worthwhile = plan.freed_bytes() * 100 > plan.bytes_total * COLLECT_ABOVE_PERCENT;
        if worthwhile {
            let report = self.store.gc(plan)?;
            tracing::info!("{report}");
        }
        Ok(())
    }

    /// Lets restore points of a plan go that no rule keeps. Only the standby has points to let go. While its replicas
    /// are being written, or it is being promoted, nothing goes: the next sweep sees to it.
    fn expire(&self, plan: &PlanName) -> Result<u64, DaemonError> {
        let runtime = self.runtimes.of(plan);
        let Ok(_gate) = runtime.apply.try_lock() else { return Ok(0) };
        let expired = self.expired(plan)?;
        if !expired.is_empty() {
            self.store.delete_points(plan, &expired)?;
            tracing::info!(%plan, count = expired.len(), "restore points expired");
        }
        Ok(expired.len() as u64)
    }

    fn expired(&self, plan: &PlanName) -> Result<Vec<RestorePointId>, DaemonError> {
        let record = self.plans.get(plan)?;
        if record.state.role() != SiteRole::Standby {
            return Ok(Vec::new());
        }
        let points = self.store.points(plan)?;
        let times: Vec<_> = points.iter().map(|point| (point.id, point.snapshot_time)).collect();
        Ok(retention::expired(&times, &record.spec.retention, &self.points_in_use(plan)?))
    }

    /// Frees what no restore point needs.
    pub(crate) async fn collect(self: &Arc<Self>, dry_run: bool) -> Result<GcOutcome, DaemonError> {
        let site = self.clone();
        self.blocking("garbage collection", move || site.collect_blocking(dry_run)).await
    }

    fn collect_blocking(&self, dry_run: bool) -> Result<GcOutcome, DaemonError> {
        let started = clock::now();
        let mut outcome = GcOutcome { dry_run, ..GcOutcome::default() };
        for record in self.plans.list() {
            outcome.restore_points_removed +=
                if dry_run { self.expired(&record.name)?.len() as u64 } else { self.expire(&record.name)? };
        }
        let plan = self.store.gc_plan()?;
        outcome.skipped_restore_points =
            plan.keyless.iter().map(|point| format!("{}/{}", point.plan, point.id)).collect();
        outcome.bytes_live = plan.bytes_total.saturating_sub(plan.freed_bytes());
        if dry_run {
            outcome.packs_removed = plan.packs.iter().filter(|pack| pack.live_bytes == 0).count() as u64;
            outcome.packs_rewritten = plan.packs.len() as u64 - outcome.packs_removed;
            outcome.bytes_freed = plan.freed_bytes();
        } else {
            let report = self.store.gc(plan)?;
            outcome.packs_removed = report.packs_deleted - report.packs_rewritten;
            outcome.packs_rewritten = report.packs_rewritten;
            outcome.bytes_freed = report.bytes_deleted.saturating_sub(report.bytes_moved);
        }
        outcome.duration_seconds = clock::now().since(started).as_secs_f64();
        Ok(outcome)
    }

    /// Re-hashes packs, restore points and replicas; with `repair`, puts back what a replica still has.
    pub(crate) async fn verify(
        self: &Arc<Self>,
        plan: Option<PlanName>,
        repair: bool,
    ) -> Result<VerifyOutcome, DaemonError> {
        let site = self.clone();
        self.blocking("verification", move || site.verify_blocking(plan.as_ref(), repair)).await
    }

    fn verify_blocking(&self, plan: Option<&PlanName>, repair: bool) -> Result<VerifyOutcome, DaemonError> {
        let shown = plan.filter(|plan| self.plans.find(plan).is_some()).map(|plan| self.runtimes.of(plan));
        let activity = Activity::begin(CyclePhase::Verify);
        activity.enter(CyclePhase::Verify, self.store.usage().bytes);
        let _shown = shown.as_ref().map(|runtime| runtime.show(activity.clone()));
        let replica = |plan: &PlanName, volume: &_| self.place(plan, volume);
        let site = Verifier {
            store: &self.store,
            plans: &self.plans,
            book: self.net.book(),
            runtimes: Some(&self.runtimes),
            replica: &replica,
            manifests: &|plan| self.manifests(plan),
            may_write: &|plan, place, applied| {
                self.check_epoch_on_cluster(plan)?;
                self.check_alone(&*self.plans.get(plan)?, place)?;
                replicas::check_unused(plan, place, applied)
            },
        };
        site.verify(plan, repair)
    }
}

/// What verification works on, with or without a daemon.
struct Verifier<'a> {
    store: &'a Store,
    plans: &'a PlanBook,
    book: &'a PeerBook,
    /// Gates of a running daemon; `None` without one.
    runtimes: Option<&'a Runtimes>,
    replica: &'a dyn Fn(&PlanName, &backstay_types::VolumeName) -> std::path::PathBuf,
    /// Where the objects of a plan are.
    manifests: &'a dyn Fn(&PlanName) -> std::path::PathBuf,
    /// Refuses where workloads run on the replicas, and where somebody else has or writes the one at this place.
    may_write: &'a dyn Fn(&PlanName, &Path, &Applied) -> Result<(), DaemonError>,
}

impl Verifier<'_> {
    fn verify(&self, plan: Option<&PlanName>, repair: bool) -> Result<VerifyOutcome, DaemonError> {
        let started = clock::now();
        // Of a plan that was deleted the restore points may be left.
        if let Some(plan) = plan
            && self.store.newest(plan)?.is_none()
        {
            self.plans.get(plan)?;
        }
        let mut report = self.store.verify(plan, &mut |_| {})?;
        let found = damage_of(&report);
        if repair && !found.is_empty() {
            repair::from_replicas(self, &report)?;
            // A damaged pack is rewritten without what is broken in it.
            self.store.gc(self.store.gc_plan()?)?;
            report = self.store.verify(plan, &mut |_| {})?;
        }
        let left = damage_of(&report);
        let mut outcome = VerifyOutcome {
            packs: report.packs_checked,
            chunks: report.chunks_checked,
            bytes: report.bytes_checked,
            restore_points: report.points_checked,
            damaged: found
                .into_iter()
                .map(|damage| Damage { repaired: !left.iter().any(|l| l.name == damage.name), ..damage })
                .collect(),
            ..VerifyOutcome::default()
        };
        for record in self.plans.list() {
            if plan.is_none_or(|plan| *plan == record.name) {
                self.verify_replicas(&record.name, repair, &mut outcome)?;
            }
        }
        outcome.duration_seconds = clock::now().since(started).as_secs_f64();
        Ok(outcome)
    }
}

fn damage_of(report: &VerifyReport) -> Vec<Damage> {
    let damage = |kind: &str, name: String, detail: String, restore_points| Damage {
        kind: kind.into(),
        name,
        detail,
        restore_points,
        repaired: false,
    };
    // One pack is seldom damaged beside another; the points a pack takes down are those found damaged with it.
    let points =
        || report.damaged_points.iter().map(|point| format!("{}/{}", point.plan, point.id)).collect();
    let packs =
        report.damaged_packs.iter().map(|pack| damage("pack", pack.file.clone(), pack.why.clone(), points()));
    let unmended = report.damaged_files.iter().filter(|file| !file.mended);
    let files = unmended.map(|file| damage("file", file.file.clone(), file.why.clone(), Vec::new()));
    let lost = report.damaged_points.iter().map(|point| {
        damage("restorePoint", format!("{}/{}", point.plan, point.id), point.why.clone(), Vec::new())
    });
    packs.chain(files).chain(lost).collect()
}

/// `backstay verify --offline`: the same, without a daemon.
pub fn verify_offline(
    dir: &Path,
    plan: Option<&PlanName>,
    repair: bool,
) -> Result<VerifyOutcome, DaemonError> {
    let config = SiteConfig::load(dir, &Overrides::default())?;
    let store = Store::open(store_config(dir, &config))?;
    let book = PeerBook::open(&dir.join(layout::PAIRS))?;
    let keys = book.clone();
    store.set_key_source(move |pair| keys.hash_key(pair));
    let plans = PlanBook::open(&dir.join(layout::PLANS))?;
    let replica = |plan: &PlanName, volume: &backstay_types::VolumeName| {
        Places { dir, config: &config }.volume(plans.find(plan).as_deref(), plan, volume)
    };
    let manifests =
        |plan: &PlanName| Places { dir, config: &config }.manifests(plans.find(plan).as_deref(), plan);
    let may_write = |plan: &PlanName, place: &Path, applied: &Applied| {
        if plans.find(plan).is_some_and(|plan| plan.spec.covers_cluster()) {
            return Err(DaemonError::Decision {
                class: Class::Invalid,
                message: format!("repair the replicas of plan {plan}: its cluster is to be asked first"),
                hint: Some("give the command without `--offline`, with the daemon running".to_owned()),
            });
        }
        replicas::check_unused(plan, place, applied)
    };
    let site = Verifier {
        store: &store,
        plans: &plans,
        book: &book,
        runtimes: None,
        replica: &replica,
        manifests: &manifests,
        may_write: &may_write,
    };
    site.verify(plan, repair)
}

/// `backstay catalog rebuild`: makes the catalog anew from packs and restore-point files, without a daemon.
pub fn rebuild_catalog(dir: &Path) -> Result<RebuildOutcome, DaemonError> {
    let config = SiteConfig::load(dir, &Overrides::default())?;
    let report = Store::rebuild_catalog_with(store_config(dir, &config))?;
    let plans = PlanBook::open(&dir.join(layout::PLANS))?;
    let mut warnings = report.unreadable_points;
    warnings.extend(report.damaged_packs);
    if report.dangling_patches > 0 {
        warnings.push(format!("{} patches have lost their base", report.dangling_patches));
    }
    Ok(RebuildOutcome {
        packs: report.packs,
        chunks: report.chunks,
        restore_points: report.points,
        plans: plans.list().iter().map(|record| record.name.clone()).collect(),
        warnings,
    })
}
