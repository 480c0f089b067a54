//! What a site tells about its plans and pairs.

use std::collections::{BTreeMap, BTreeSet};

use backstay_engine::retention;
use backstay_types::frame::{Proposals, SiteRole};
use backstay_types::plan::Schedule;
use backstay_types::point::RestorePoint;
use backstay_types::{PlanName, Time};

use crate::api_types::{
    ErrorInfo, LastDrill, Pair, PlanDetail, PlanStatus, PlanSummary, ProposedStatus, RemoteSite,
    RestorePointInfo, SiteInfo,
};
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
            endpoints: peer.record.reached_at(),
            fingerprint: peer.record.fingerprint().map(|authority| authority.to_string()),
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
            role: record.state.role(),
            epoch: record.state.epoch(),
            schedule: self
                .schedule_of(&record.name, &record.spec)
                .ok()
                .flatten()
                .map(|schedule| words(&schedule)),
            suspended: record.spec.suspend,
            ended: record.state.ended(),
        };
        self.plans.list().iter().map(|record| summary(record)).collect()
    }

    /// A plan with what the operator wrote.
    pub(crate) fn plan_detail(&self, name: &PlanName) -> Result<PlanDetail, DaemonError> {
        let record = self.plans.get(name)?;
        Ok(PlanDetail {
            name: record.name.clone(),
            role: record.state.role(),
            epoch: record.state.epoch(),
            peer: self.peer_label(&record),
            spec: record.spec.clone(),
            proposed: self.proposed_changes(name)?,
        })
    }

    pub(crate) fn peer_label(&self, record: &PlanRecord) -> String {
        let book = self.net.book();
        match (book.get(record.pair), book.name_of(record.pair)) {
            (Some(peer), _) => peer.name.clone(),
            (None, Some(name)) => format!("{name} (removed)"),
            (None, None) if record.home => format!("{} (removed)", record.spec.pair),
            (None, None) => "(removed)".to_owned(),
        }
    }

    /// How a plan is doing.
    pub(crate) fn plan_status(&self, name: &PlanName) -> Result<PlanStatus, DaemonError> {
        let record = self.plans.get(name)?;
        let runtime = self.runtimes.of(name);
        let newest = self.newest_known(&record)?;
        let shown = match record.state.role() {
            SiteRole::Active => Applied::default(),
            _ => self.plans.applied(name)?,
        };
        let offered = || crate::plan_ops::check_not_offered(&record).err();
        let offered = || offered().map(|error| ErrorInfo::new(&error));
        let leap = || leap_of(&record).map(|error| ErrorInfo::new(&error));
        Ok(PlanStatus {
            plan: name.clone(),
            role: record.state.role(),
            epoch: record.state.epoch(),
            peer: self.peer_label(&record),
            connected: self.net.connection(record.pair).is_some(),
            lag_seconds: newest.as_ref().map(|point| clock::now().since(point.snapshot_time).as_secs_f64()),
            rpo_target_seconds: record.spec.rpo_target.map(backstay_types::Span::as_secs_f64),
            last_restore_point: newest.map(|point| point.id),
            applied_restore_point: shown.point,
            next_run: runtime.next_run(),
            cycle: runtime.activity().map(|activity| activity.view()),
            last_cycle: runtime.last(),
            apply_error: runtime.apply_error().or_else(offered).or_else(leap),
            replica_warning: shown.warning,
            standby: runtime.standby().filter(|_| record.state.role() == SiteRole::Active),
            promotion_error: runtime.promotion_error().filter(|_| record.state.role() == SiteRole::Promoting),
            ended: record.state.ended(),
            objects: shown.cluster,
            last_drill: self.drills_of(name)?.last().map(LastDrill::from),
            suspended: record.spec.suspend,
            minimum_consistency: Some(record.minimum()),
            automatic_failover: self.automatic_status(&record),
            hold: self.hold_status(&record)?,
            proposed: self.proposed_status(&record)?,
            peer_proposed: peer_proposed(runtime.peer_proposals()),
        })
    }

    /// The newest restore point that either side has, as far as this one knows. A side that became active knows those
    /// of before, until its own cycles make some.
    pub(crate) fn newest_known(&self, record: &PlanRecord) -> Result<Option<RestorePoint>, DaemonError> {
        let held = self.store.newest(&record.name)?;
        let sent = match record.state.role() {
            SiteRole::Active => self.plans.last_success(&record.name)?.map(|last| last.point),
            _ => None,
        };
        Ok(held.into_iter().chain(sent).max_by_key(|point| point.id))
    }

    /// The restore points of a plan: those here, and on the active side those of its peer.
    pub(crate) async fn restore_points(&self, name: &PlanName) -> Result<Vec<RestorePointInfo>, DaemonError> {
        let own = self.store.points(name)?;
        let here: BTreeSet<_> = own.iter().map(|point| point.id).collect();
        let (points, verdicts) = match self.plans.find(name) {
            Some(record) => {
                let points = match record.state.role() {
                    SiteRole::Active => self.merged_with_peers(&record, own).await?,
                    _ => own,
                };
                let times: Vec<_> = points.iter().map(|point| (point.id, point.snapshot_time)).collect();
                let in_use = self.points_in_use(name)?;
                (points, Some(retention::verdicts(&times, &record.spec.retention, &in_use)))
            }
            // Without its plan no rule lets a point go.
            None if !here.is_empty() => (own, None),
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
            let damaged = here.contains(&point.id) && self.store.damage(name, point.id)?.is_some();
            Ok(RestorePointInfo::new(point, held_by.unwrap_or_default(), damaged))
        };
        points.iter().map(info).collect()
    }

    /// The peer's points and those of before this side became active. Without the peer these alone, if there are any.
    async fn merged_with_peers(
        &self,
        record: &PlanRecord,
        own: Vec<RestorePoint>,
    ) -> Result<Vec<RestorePoint>, DaemonError> {
        let theirs = match self.ask_points(record.pair, &record.name).await {
            Err(error) if !own.is_empty() => {
                tracing::warn!(plan = %record.name, "restore points of the peer not listed: {error}");
                Vec::new()
            }
            asked => asked?,
        };
        let all: BTreeMap<_, _> = theirs.into_iter().chain(own).map(|point| (point.id, point)).collect();
        Ok(all.into_values().collect())
    }

    /// Refuses a plan without a restore point here, and says where there are some.
    pub(crate) fn must_have_points(&self, name: &PlanName) -> Result<(), DaemonError> {
        if self.store.newest(name)?.is_some() {
            return Ok(());
        }
        let record = self.plans.get(name)?;
        Err(match record.state.role() {
            SiteRole::Active => {
                DaemonError::PointsElsewhere { plan: name.clone(), peer: self.peer_label(&record) }
            }
            _ => DaemonError::NoRestorePoint { plan: name.clone() },
        })
    }
}

/// What the operator has to decide about a plan whose peer claims an epoch that is not believed.
pub(crate) fn leap_of(record: &PlanRecord) -> Option<DaemonError> {
    let (plan, epoch) = (record.name.clone(), record.state.epoch());
    record.state.leap().map(|claimed| DaemonError::EpochLeap { plan, epoch, claimed })
}

fn peer_proposed(told: Proposals) -> Option<ProposedStatus> {
    let Proposals { fields, withheld } = told;
    let waits = !fields.is_empty() || !withheld.is_empty();
    waits.then_some(ProposedStatus { fields, since: None, epoch: None, withheld })
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
