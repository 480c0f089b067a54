//! `ClusterPair`: one for each pair of the site, named as the peer. Pairs are made by `backstay pair join`, since a key
//! is a secret that is used once; a resource that somebody wrote by hand is told so.

use backstay_types::Time;
use backstay_types::frame::SiteRole;
use kube::ResourceExt;
use kube::api::DynamicObject;
use serde_json::json;

use super::condition::{Told, conditions, count};
use super::host::{Host, PairReport, Picture, PlanReport};
use super::write::WriteError;
use super::{Controller, MANAGED_LABEL, MANAGER, is_managed};
use crate::crds::{ClusterPairSpec, ClusterPairStatus};

/// `lastSeen` moves in steps of this while a peer is connected, and `roundTrip` with it.
const STEP_MILLIS: i64 = 60_000;

impl<H: Host> Controller<H> {
    pub(super) async fn pairs(&mut self, picture: &Picture) -> Result<(), WriteError> {
        let objects = self.cache.pairs.objects();
        for object in &objects {
            let name = object.name_any();
            let pair = picture.pairs.iter().find(|pair| pair.peer == name);
            let done = self.pair(object, pair, picture).await;
            self.tolerate("ClusterPair", object, done)?;
        }
        for pair in &picture.pairs {
            let spec = ClusterPairSpec { peer: pair.peer.clone(), endpoints: pair.endpoints.clone() };
            let spec = json!(spec);
            let object = objects.iter().find(|object| object.name_any() == pair.peer);
            if object.is_none_or(|object| object.data.get("spec") != Some(&spec)) {
                let labels = json!({MANAGED_LABEL: MANAGER});
                let made = self.cache.pairs.kind.apply(None, &pair.peer, &labels, &spec).await;
                self.tolerate_named(format!("ClusterPair {}", pair.peer), made)?;
            }
        }
        Ok(())
    }

    async fn pair(
        &mut self,
        object: &DynamicObject,
        pair: Option<&PairReport>,
        picture: &Picture,
    ) -> Result<(), WriteError> {
        if pair.is_none() && is_managed(object) {
            return self.cache.pairs.kind.delete(object).await;
        }
        let observed: ClusterPairStatus = self.statuses.observed(object);
        let status = status(&observed, pair, picture, object.metadata.generation, self.host.now());
        self.statuses.put(&self.cache.pairs.kind, object, &status).await.map(drop)
    }
}

fn status(
    observed: &ClusterPairStatus,
    pair: Option<&PairReport>,
    picture: &Picture,
    generation: Option<i64>,
    now: Time,
) -> ClusterPairStatus {
    let Some(pair) = pair else {
        let message = "this site has no such pair; make it with `backstay pair key` there and `backstay pair join` here";
        let told = Told::new("Connected", false, "NotPaired", message);
        let conditions = conditions(&observed.conditions, [told], generation, now);
        return ClusterPairStatus { conditions, ..ClusterPairStatus::default() };
    };
    let last_seen = pair.last_seen.map(|time| Time(time.0.div_euclid(STEP_MILLIS) * STEP_MILLIS).to_string());
    let stays = pair.is_connected && last_seen == observed.last_seen;
    let round_trip = match &observed.round_trip {
        Some(shown) if stays => Some(shown.clone()),
        _ => pair.round_trip.map(|length| length.to_string()),
    };
    let plans: Vec<_> = picture.plans.values().filter(|plan| plan.spec.pair == pair.peer).collect();
    ClusterPairStatus {
        conditions: conditions(&observed.conditions, [connected(pair), fenced(&plans)], generation, now),
        last_seen,
        round_trip,
        local_epoch: plans.iter().map(|plan| count(plan.epoch.0)).max(),
        peer_epoch: plans.iter().filter_map(|plan| plan.peer_epoch).map(|epoch| count(epoch.0)).max(),
    }
}

fn connected(pair: &PairReport) -> Told {
    match (pair.is_connected, pair.last_seen) {
        (true, _) => Told::new("Connected", true, "Connected", "a connection stands"),
        (false, Some(_)) => Told::new("Connected", false, "Lost", "there is no connection; it is made again"),
        (false, None) => Told::new("Connected", false, "NeverSeen", "the peer was not reached yet"),
    }
}

/// Whether a site of the pair has lost the active role of a plan and has not come back as standby.
fn fenced(plans: &[&PlanReport]) -> Told {
    if plans.iter().any(|plan| plan.role == SiteRole::Demoting) {
        return Told::new(
            "Fenced",
            true,
            "ThisSite",
            "the peer was promoted: this site is not active any more",
        );
    }
    if plans.iter().any(|plan| plan.promoted || plan.role == SiteRole::Promoting) {
        let message = "this site was promoted, and the peer has not come back as standby";
        return Told::new("Fenced", true, "Peer", message);
    }
    Told::new("Fenced", false, "NotFenced", "each plan is active on one side")
}

#[cfg(test)]
mod tests {
    use backstay_types::Span;

    use super::*;

    #[test]
    fn a_connection_that_stands_changes_nothing_for_a_minute() {
        let at = |millis: i64, rtt| PairReport {
            peer: "west".to_owned(),
            endpoints: Vec::new(),
            is_connected: true,
            last_seen: Some(Time(millis)),
            round_trip: Some(Span(rtt)),
        };
        let picture = Picture::default();
        let look = |observed: &ClusterPairStatus, pair: &PairReport| {
            status(observed, Some(pair), &picture, Some(1), pair.last_seen.unwrap())
        };
        let first = look(&ClusterPairStatus::default(), &at(600_000, 40));
        assert_eq!(look(&first, &at(659_999, 55)), first);
        let later = look(&first, &at(660_000, 55));
        assert_eq!(later.round_trip.as_deref(), Some("55ms"));
    }
}
