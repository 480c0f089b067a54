//! Plans and their peers: a plan belongs to a site, and follows it over pairs; and it follows the site that takes the
//! place of its peer.
//!
//! 1. The book of peers says who goes on for a pair that is over (`PeerBook::successor`); plans are brought after it. A
//!    crash between the two is made good at the next start (test `pairing_again`, a restart in each).
//! 2. Role, epoch and number of a plan stay: what the new peer lacks is sent, and nothing begins anew.

use std::sync::Arc;

use backstay_net::{Joined, JoinedAs, PeerRecord};
use backstay_types::PlanName;

use crate::DaemonError;
use crate::audit::Actor;
use crate::plans::PlanRecord;
use crate::site::Site;

impl Site {
    /// Takes note of those who join with keys of this site. Runs until the daemon stops.
    pub(crate) async fn run_joined(self: Arc<Self>) {
        let mut joined = self.net.joined();
        loop {
            tokio::select! {
                next = joined.recv() => match next {
                    Some(joined) => self.note_joined(joined),
                    None => return,
                },
                () = self.stop.cancelled() => return,
            }
        }
    }

    fn note_joined(self: &Arc<Self>, joined: Joined) {
        let Joined { record, known, noted } = joined;
        let known = match known {
            JoinedAs::New => "new".to_owned(),
            JoinedAs::Again => "paired before".to_owned(),
            JoinedAs::InPlaceOf(name) => format!("in the place of {name}"),
        };
        let fingerprint = record.fingerprint().map_or_else(|| "none".to_owned(), |print| print.to_string());
        let detail = format!("site {}, authority {fingerprint}, {known}", record.site);
        tracing::info!(peer = %record.name, "joined with a key of this site: {detail}");
        self.record(&Actor::Peer(record.name.clone()), "pairJoin", None, detail, None);
        self.limit_bandwidth();
        if let Err(error) = self.follow_peers() {
            tracing::error!(peer = %record.name, "plans do not go on with it yet: {error}");
        }
        self.wake.notify_one();
        if noted.send(()).is_err() {
            tracing::debug!("the joiner was told before");
        }
    }

    /// Brings every plan whose pair is over to the peer that goes on for it.
    pub(crate) fn follow_peers(&self) -> Result<(), DaemonError> {
        for record in self.plans.list() {
            let Some(peer) = self.goes_on_with(&record) else { continue };
            if (record.pair, record.peer_site) != (peer.pair, Some(peer.site)) {
                self.bind(&record.name, &peer)?;
            }
        }
        Ok(())
    }

    fn goes_on_with(&self, record: &PlanRecord) -> Option<Arc<PeerRecord>> {
        let book = self.net.book();
        let of_site = || record.peer_site.and_then(|site| book.successor_of_site(site));
        book.successor(record.pair).or_else(of_site)
    }

    fn bind(&self, plan: &PlanName, peer: &PeerRecord) -> Result<(), DaemonError> {
        let mut goes_on = false;
        self.plans.update(plan, |record| {
            goes_on = record.pair != peer.pair;
            (record.pair, record.peer_site) = (peer.pair, Some(peer.site));
            if record.home && goes_on {
                // In the words of this side's operator.
                record.spec.pair.clone_from(&peer.name);
            }
        })?;
        if goes_on {
            tracing::info!(%plan, peer = %peer.name, "the plan goes on with this peer");
        }
        Ok(())
    }

    /// Plans of a site that an older version left without the record of their pair: they belong to the peer that they
    /// name, and where they were shared by the peer, to the site that their restore points come from.
    pub(crate) fn adopt_orphans(&self) -> Result<(), DaemonError> {
        let book = self.net.book();
        for record in self.plans.list() {
            if record.peer_site.is_some() || book.of_pair(record.pair).is_some() {
                continue;
            }
            let named = record.home.then(|| book.by_name(&record.spec.pair)).flatten();
            let peer = match named {
                Some(named) => Some(named),
                None => self.origin_of(&record.name)?,
            };
            if let Some(peer) = peer {
                self.bind(&record.name, &peer)?;
            }
        }
        Ok(())
    }

    /// The peer that a plan's restore points come from.
    fn origin_of(&self, plan: &PlanName) -> Result<Option<Arc<PeerRecord>>, DaemonError> {
        let points = self.store.points(plan)?;
        let origins = points.iter().rev().map(|point| point.origin).filter(|origin| *origin != self.id);
        Ok(origins.filter_map(|origin| self.net.book().successor_of_site(origin)).next())
    }

    /// Has the plans of one peer go on with another, which is paired already.
    pub(super) async fn replace(
        self: &Arc<Self>,
        old: &str,
        new: &PeerRecord,
    ) -> Result<Vec<PlanName>, DaemonError> {
        let is_of_old = |record: &PlanRecord| {
            let known = self.net.book().name_of(record.pair);
            // One that has lost its pair to an older version is known by what its operator wrote.
            record.pair != new.pair
                && known.map_or(record.spec.pair == old && record.home, |name| name == old)
        };
        let moved: Vec<PlanName> = self
            .plans
            .list()
            .iter()
            .filter(|record| is_of_old(record))
            .map(|record| record.name.clone())
            .collect();
        if moved.is_empty() && self.net.book().last_named(old).is_none() {
            let known = self.net.peers().iter().map(|peer| peer.record.name.clone()).collect();
            return Err(DaemonError::PeerNotFound { peer: old.to_owned(), known });
        }
        self.net.replace(old, new.site).await?;
        for plan in &moved {
            self.bind(plan, new)?;
        }
        self.follow_peers()?;
        self.wake.notify_one();
        Ok(moved)
    }
}
