//! The running site: what every part of the daemon shares.

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use backstay_net::{Net, PeerRecord};
use backstay_store::Store;
#[cfg(doc)]
use backstay_types::limits;
use backstay_types::{PairId, PlanName, SiteId, VolumeName};
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::DaemonError;
use crate::audit::{Actor, AuditLog};
use crate::clusters::ClusterSlot;
use crate::config::SiteConfig;
use crate::controllers::Keepers;
use crate::drill::Drills;
use crate::meter::Meters;
use crate::metrics::Metrics;
use crate::plans::PlanBook;
use crate::runtime::Runtimes;

/// Folders and files of a site, by name.
pub(crate) mod layout {
    pub(crate) const CONFIG: &str = "site.toml";
    pub(crate) const SITE: &str = "site.json";
    pub(crate) const SOCKET: &str = "api.sock";
    pub(crate) const IDENTITY: &str = "identity";
    pub(crate) const PAIRS: &str = "pairs";
    pub(crate) const PLANS: &str = "plans";
    pub(crate) const SENT: &str = "sent";
    pub(crate) const REPLICAS: &str = "replicas";
    pub(crate) const MANIFESTS: &str = "manifests";
    pub(crate) const DRILLS: &str = "drills";
    pub(crate) const AUDIT: &str = "audit.log";
    pub(crate) const SIGNS: &str = "signs.json";
    pub(crate) const RESERVE: &str = "reserve";
}

/// Cycles at once: each holds up to [`limits::SEND_WINDOW_BYTES`] and its encoded batches, about 80 MiB, and a
/// daemon is to stay under 256 MiB.
pub(crate) const CYCLES_MAX: usize = 2;

/// A running site.
pub(crate) struct Site {
    pub(crate) dir: PathBuf,
    pub(crate) id: SiteId,
    pub(crate) name: String,
    pub(crate) config: ArcSwap<SiteConfig>,
    pub(crate) plans: PlanBook,
    pub(crate) store: Store,
    pub(crate) net: Net,
    pub(crate) audit: AuditLog,
    pub(crate) metrics: Metrics,
    pub(crate) meters: Arc<Meters>,
    pub(crate) runtimes: Runtimes,
    /// The cluster beside the site, once it was asked for.
    pub(crate) cluster: ClusterSlot,
    /// Plans that custom resources keep.
    pub(crate) keepers: Keepers,
    /// Drills under way.
    pub(crate) drills: Drills,
    /// The leases of automatic failover.
    pub(crate) leases: crate::automatic::Leases,
    /// When each peer was last heard.
    pub(crate) signs: crate::signs::Signs,
    /// Room for [`CYCLES_MAX`] cycles, scheduled or asked for.
    pub(crate) cycles: Semaphore,
    /// Every task of the daemon; shutdown waits for them.
    pub(crate) tasks: TaskTracker,
    /// Cancelled when the daemon stops.
    pub(crate) stop: CancellationToken,
    /// Wakes the schedule clock when a plan has changed.
    pub(crate) wake: Notify,
}

impl Site {
    /// Where the sender's own state of a volume is.
    pub(crate) fn sent(&self, plan: &PlanName, volume: &VolumeName) -> PathBuf {
        self.dir.join(layout::SENT).join(plan.as_str()).join(volume.as_str())
    }

    /// Where the sender's own state of a plan's objects is; no volume has such a name.
    pub(crate) fn sent_objects(&self, plan: &PlanName) -> PathBuf {
        self.dir.join(layout::SENT).join(plan.as_str()).join("_objects")
    }

    /// A peer by name.
    pub(crate) fn peer_named(&self, name: &str) -> Result<Arc<PeerRecord>, DaemonError> {
        let peers = self.net.peers();
        let known = || peers.iter().map(|peer| peer.record.name.clone()).collect();
        peers
            .iter()
            .find(|peer| peer.record.name == name)
            .map(|peer| peer.record.clone())
            .ok_or_else(|| DaemonError::PeerNotFound { peer: name.to_owned(), known: known() })
    }

    /// A peer by pair.
    pub(crate) fn peer(&self, pair: PairId) -> Result<Arc<PeerRecord>, DaemonError> {
        let book = self.net.book();
        book.get(pair).ok_or_else(|| DaemonError::PeerRemoved { peer: book.name_of(pair) })
    }

    /// A peer by pair, whether that stands or is over: of one that is over the key is still good.
    pub(crate) fn last_peer(&self, pair: PairId) -> Result<Arc<PeerRecord>, DaemonError> {
        self.net.book().of_pair(pair).ok_or(DaemonError::PeerRemoved { peer: None })
    }

    /// Who is at the other end of a pair, for the audit log.
    pub(crate) fn actor_of(&self, pair: PairId) -> Actor {
        Actor::Peer(self.net.book().name_of(pair).unwrap_or_else(|| "unknown".to_owned()))
    }

    /// Runs blocking work off the runtime threads.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce() -> Result<T, DaemonError> + Send + 'static,
    ) -> Result<T, DaemonError> {
        let span = tracing::Span::current();
        let task = self.tasks.spawn_blocking(move || span.in_scope(work));
        task.await.map_err(|_| DaemonError::Worker { what })?
    }
}
