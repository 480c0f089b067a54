//! What a site tells about its plans and pairs.

use backstay_engine::retention;
use backstay_types::frame::SiteRole;
use backstay_types::plan::Schedule;
use backstay_types::point::RestorePoint;
use backstay_types::{PlanName, Time};

use crate::api_types::{Pair, PlanDetail, PlanStatus, PlanSummary, RemoteSite, RestorePointInfo, SiteInfo};
use crate::plans::{Applied, PlanRecord};
use crate::site::Site;
use crate::{DaemonError, clock};

impl Site {
    /// The site itself.
    pub(crate) fn site_info(&self, started_time: Time) -> SiteInfo {
        SiteInfo {
            name: self.name.clone(),
            site_id: self.id,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            listen: self.net.local_addr().to_string(),
            endpoints: self.config.load().advertise.clone(),
            started_time,
        }
    }

    /// Every pair.
    pub(crate) fn pairs(&self) -> Vec<Pair> {
        let pair = |peer: backstay_net::PeerStatus| Pair {
            name: peer.record.name.clone(),
            pair_id: peer.record.pair,
            site_id: peer.record.site,
            endpoints: peer.record.endpoints.clone(),
            connected: peer.connected,
            remote: peer.remote.map(|address| RemoteSite { address: address.to_string() }),
            round_trip_millis: peer.rtt.map(|rtt| rtt.as_secs_f64() * 1000.0),
            last_seen: peer.last_seen,
        };
        self.net.peers().into_iter().map(pair).collect()
    }

    /// One row for each plan.
    pub(crate) fn plan_summaries(&self) -> Vec<PlanSummary> {
        let summary = |record: &PlanRecord| PlanSummary {
            name: record.name.clone(),
            peer: self.peer_label(record),
            role: record.role,
            epoch: record.epoch,
            schedule: self
                .schedule_of(&record.name, &record.spec)
                .ok()
                .flatten()
                .map(|schedule| words(&schedule)),
            suspended: record.spec.suspend,
        };
        self.plans.list().iter().map(|record| summary(record)).collect()
    }

    /// A plan with what the operator wrote.
    pub(crate) fn plan_detail(&self, name: &PlanName) -> Result<PlanDetail, DaemonError> {
        let record = self.plans.get(name)?;
        Ok(PlanDetail {
            name: record.name.clone(),
            role: record.role,
            epoch: record.epoch,
            peer: self.peer_label(&record),
            spec: record.spec.clone(),
        })
    }

    fn peer_label(&self, record: &PlanRecord) -> String {
        self.peer(record.pair).map_or_else(|_| "(removed)".to_owned(), |peer| peer.name.clone())
    }

    /// How a plan is doing.
    pub(crate) fn plan_status(&self, name: &PlanName) -> Result<PlanStatus, DaemonError> {
        let record = self.plans.get(name)?;
        let runtime = self.runtimes.of(name);
        let (last, shown) = if record.role == SiteRole::Active && !record.promoted {
            let last = self.plans.last_success(name)?;
            (last.map(|last| (last.point, last.snapshot_time)), Applied::default())
        } else {
            let newest = self.store.newest(name)?;
            (newest.map(|point| (point.id, point.snapshot_time)), self.plans.applied(name)?)
        };
        Ok(PlanStatus {
            plan: name.clone(),
            role: record.role,
            epoch: record.epoch,
            peer: self.peer_label(&record),
            connected: self.net.connection(record.pair).is_some(),
            lag_seconds: last.map(|(_, snapshot)| clock::now().since(snapshot).as_secs_f64()),
            rpo_target_seconds: record.spec.rpo_target.map(backstay_types::Span::as_secs_f64),
            last_restore_point: last.map(|(id, _)| id),
            applied_restore_point: shown.point,
            next_run: runtime.next_run(),
            cycle: runtime.activity().map(|activity| activity.view()),
            last_cycle: runtime.last(),
            apply_error: runtime.apply_error(),
            objects: shown.cluster,
            suspended: record.spec.suspend,
            automatic_failover: self.automatic_status(&record),
        })
    }

    /// The restore points of a plan: the standby's own, or on the active side those of its peer.
    pub(crate) async fn restore_points(&self, name: &PlanName) -> Result<Vec<RestorePointInfo>, DaemonError> {
        let own = self.store.points(name)?;
        let is_own = !own.is_empty();
        let (points, verdicts) = match self.plans.find(name) {
            Some(record) => {
                let from_peer = !is_own && record.role == SiteRole::Active;
                let points = if from_peer { self.ask_points(record.pair, name).await? } else { own };
                let times: Vec<_> = points.iter().map(|point| (point.id, point.snapshot_time)).collect();
                let in_use = self.points_in_use(name)?;
                (points, Some(retention::verdicts(&times, &record.spec.retention, &in_use)))
            }
            // Without its plan no rule lets a point go.
            None if is_own => (own, None),
            None => return Err(self.plans.unknown(name)),
        };
        let info = |point: &RestorePoint| {
            let held_by = match &verdicts {
                Some(verdicts) => {
                    let verdict = verdicts.iter().find(|verdict| verdict.id == point.id);
                    verdict.map(|verdict| verdict.rules.iter().map(ToString::to_string).collect())
                }
                None => Some(vec!["plan deleted".to_owned()]),
            };
            // Damage is known where the point is.
            let damaged = is_own && self.store.damage(name, point.id)?.is_some();
            Ok(RestorePointInfo::new(point, held_by.unwrap_or_default(), damaged))
        };
        points.iter().map(info).collect()
    }

    /// Refuses a plan without a restore point here, and says where there are some.
    pub(crate) fn must_have_points(&self, name: &PlanName) -> Result<(), DaemonError> {
        if self.store.newest(name)?.is_some() {
            return Ok(());
        }
        let record = self.plans.get(name)?;
        Err(match record.role {
            SiteRole::Active => {
                DaemonError::PointsElsewhere { plan: name.clone(), peer: self.peer_label(&record) }
            }
            _ => DaemonError::NoRestorePoint { plan: name.clone() },
        })
    }
}

/// A schedule in words.
fn words(schedule: &Schedule) -> String {
    let zone = schedule.time_zone.as_deref().unwrap_or("UTC");
    let parts = [
        schedule.interval.map(|interval| format!("every {interval}")),
        schedule.cron.as_ref().map(|cron| format!("cron {cron} {zone}")),
        schedule.daily.as_ref().map(|daily| format!("daily {} {zone}", daily.time)),
        schedule.weekly.as_ref().map(|weekly| format!("{} {} {zone}", weekly.day, weekly.time)),
        schedule
            .monthly
            .as_ref()
            .map(|monthly| format!("monthly on {} {} {zone}", monthly.date, monthly.time)),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}
