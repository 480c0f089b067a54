//! What every task of the network layer shares.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use backstay_types::PairId;
use quinn::{Endpoint, ServerConfig, TransportConfig};
use tokio::sync::mpsc;

use crate::book::{PeerBook, PeerRecord};
use crate::endpoint;
use crate::hello::Greeting;
use crate::identity::Identity;
use crate::link::Link;
use crate::net::{Incoming, NetConfig};
use crate::pair::{Joined, Window};

pub(crate) struct Core {
    pub(crate) config: NetConfig,
    pub(crate) identity: Identity,
    pub(crate) book: PeerBook,
    pub(crate) greeting: Greeting,
    pub(crate) endpoint: Endpoint,
    pub(crate) local: SocketAddr,
    pub(crate) transport: Arc<TransportConfig>,
    /// How we answer while no pairing window is open …
    pub(crate) answer_peers: Arc<ServerConfig>,
    /// … and while one is.
    pub(crate) answer_anybody: Arc<ServerConfig>,
    pub(crate) incoming: mpsc::Sender<Incoming>,
    pub(crate) window: Mutex<Window>,
    pub(crate) joined: Mutex<Option<mpsc::Sender<Joined>>>,
    pub(crate) links: Mutex<HashMap<PairId, Arc<Link>>>,
}

impl Core {
    pub(crate) fn window(&self) -> MutexGuard<'_, Window> {
        // Every change of it is one call that leaves it whole.
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whoever wants to know of those who join.
    pub(crate) fn joined(&self) -> Option<mpsc::Sender<Joined>> {
        self.joined.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn tell_of_joined(&self, listener: mpsc::Sender<Joined>) {
        *self.joined.lock().unwrap_or_else(PoisonError::into_inner) = Some(listener);
    }

    fn links(&self) -> MutexGuard<'_, HashMap<PairId, Arc<Link>>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The link of a pair; `None` if there is no such pair.
    pub(crate) fn link(&self, pair: PairId) -> Option<Arc<Link>> {
        let mut links = self.links();
        // Asked under the lock: `reconcile` cannot take the link out between.
        let record = self.book.get(pair)?;
        let new = || Arc::new(Link::new(pair, self.identity.site(), record.site));
        Some(Arc::clone(links.entry(pair).or_insert_with(new)))
    }

    /// Cuts off every peer that is not in the book any more.
    pub(crate) fn cut_removed(&self) {
        let mut links = self.links();
        links.retain(|pair, link| {
            let kept = self.book.get(*pair).is_some();
            if !kept {
                link.remove();
            }
            kept
        });
    }

    pub(crate) fn all_links(&self) -> Vec<Arc<Link>> {
        self.links().values().cloned().collect()
    }

    /// Where others reach this site, as far as it knows.
    pub(crate) fn own_endpoints(&self) -> Vec<String> {
        if self.config.advertise.is_empty() {
            endpoint::reachable(self.local).map(|address| address.to_string()).into_iter().collect()
        } else {
            self.config.advertise.clone()
        }
    }

    /// Whether a pair or a pair key needs this authority of ours.
    pub(crate) fn needs_authority(&self, fingerprint: &crate::identity::Fingerprint) -> bool {
        // That of a pair that is over shows who this site is if the two are paired again.
        let named = |record: &PeerRecord| record.names(fingerprint);
        self.book.list().iter().any(|record| named(record))
            || self.book.retired().iter().any(|over| named(&over.record))
            || self.window().names(fingerprint)
    }
}

/// Runs what waits for the disk off the runtime's threads.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Blocking work is only cancelled while the runtime is being dropped, and this task with it.
            Err(_) => std::future::pending().await,
        },
    }
}
