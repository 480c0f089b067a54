//! The network layer as the daemon sees it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use backstay_types::frame::Frame;
use backstay_types::{Class, Classify, PairId, SiteId, Span, Time};
use quinn::{Endpoint, ServerConfig, TokioRuntime};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::book::{BookError, PeerBook, PeerRecord};
use crate::close::code;
use crate::connection::Connection;
use crate::control::Control;
use crate::core::{Core, blocking};
use crate::dial::{DialError, Tried};
use crate::endpoint::{self, Congestion};
use crate::hello::{Greeting, VersionRange};
use crate::identity::Identity;
use crate::link::Link;
use crate::pair::{self, Joined, PairError};
use crate::rotate::{self, RotateError};
use crate::{clock, serve, tls};

/// Requests that wait for the daemon to take them; each is one frame (1 MiB at most).
const INCOMING_MAX: usize = 16;
/// Pairings that wait for the daemon to take note.
const JOINED_MAX: usize = 4;
/// How long requests and batches under way may go on when the site shuts down.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the new authorities may take to show up on a connection.
const ROTATED_TIMEOUT: Duration = Duration::from_secs(30);

/// Settings of the network layer.
#[derive(Debug, Clone)]
pub struct NetConfig {
    /// UDP address to listen at and dial from.
    pub listen: SocketAddr,
    /// Where others reach this site, `HOST:PORT`; if empty, peers use the address they see.
    pub advertise: Vec<String>,
    /// Congestion controller of what this site sends.
    pub congestion: Congestion,
    /// Wire versions to speak.
    pub versions: VersionRange,
}

impl NetConfig {
    /// Settings that fit most sites.
    pub fn new(listen: SocketAddr) -> Self {
        Self {
            listen,
            advertise: Vec::new(),
            congestion: Congestion::default(),
            versions: VersionRange::default(),
        }
    }
}

/// Why the network layer cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The socket cannot be used.
    #[error("listen at {listen}: {source}")]
    Listen {
        /// Where.
        listen: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// A name that others should reach this site by is none.
    #[error("advertise {endpoint:?}: expected HOST:PORT, at most {} of them", endpoint::ENDPOINTS_MAX)]
    Advertise {
        /// What was given.
        endpoint: String,
    },
    /// A place to reach a peer at that is none.
    #[error("set endpoint {endpoint:?}: expected HOST:PORT, at most {} of them", endpoint::ENDPOINTS_MAX)]
    Endpoint {
        /// What was given.
        endpoint: String,
    },
    /// TLS or QUIC refuse our own settings.
    #[error("set up TLS: {why}")]
    Setup {
        /// Why.
        why: String,
    },
    /// No connection to the peer.
    #[error("reach peer {peer}: {}", Tried::list(tried))]
    Unreachable {
        /// Its name.
        peer: String,
        /// What was tried last and how it failed.
        tried: Vec<Tried>,
    },
    /// The new authorities did not show up in time.
    #[error("see the new certificate authorities of peer {peer} in use: no connection within {} s", ROTATED_TIMEOUT.as_secs())]
    NotSettled {
        /// Its name.
        peer: String,
    },
    /// The pair was removed meanwhile.
    #[error("reach peer {peer}: the pair was removed")]
    Removed {
        /// Its name.
        peer: String,
    },
    /// The book of peers failed.
    #[error(transparent)]
    Book(#[from] BookError),
    /// Authorities were not replaced.
    #[error(transparent)]
    Rotate(#[from] RotateError),
}

impl Classify for NetError {
    fn class(&self) -> Class {
        match self {
            NetError::Listen { .. } | NetError::NotSettled { .. } => Class::Transient,
            NetError::Advertise { .. } | NetError::Endpoint { .. } => Class::Invalid,
            NetError::Setup { .. } => Class::Bug,
            NetError::Unreachable { tried, .. } => {
                Tried::telling(tried).map_or(Class::Transient, DialError::class)
            }
            NetError::Removed { .. } => Class::NotFound,
            NetError::Book(error) => error.class(),
            NetError::Rotate(error) => error.class(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            NetError::Listen { .. } => {
                Some("choose another address or port, or stop what uses it".to_owned())
            }
            NetError::Unreachable { tried, .. } => Tried::telling(tried).map_or_else(
                || Some("check that its daemon runs and can reach this site".to_owned()),
                DialError::hint,
            ),
            NetError::NotSettled { .. } => {
                Some("both are trusted; the old ones go with the next connection".to_owned())
            }
            NetError::Endpoint { .. } => {
                Some("such as west.example.com:7443 or [2001:db8::1]:7443".to_owned())
            }
            NetError::Advertise { .. } | NetError::Setup { .. } | NetError::Removed { .. } => None,
            NetError::Book(error) => error.hint(),
            NetError::Rotate(error) => error.hint(),
        }
    }
}

/// A request of a peer: a control stream and the frame that says what it is for.
#[derive(Debug)]
pub struct Incoming {
    /// The connection it came over; its batches come over the same.
    pub connection: Connection,
    /// The stream.
    pub control: Control,
    /// Its first frame.
    pub first: Frame,
}

/// What is known of one peer now.
#[derive(Debug, Clone)]
pub struct PeerStatus {
    /// What is kept of it.
    pub record: Arc<PeerRecord>,
    /// Whether there is a connection.
    pub connected: bool,
    /// Where it is.
    pub remote: Option<SocketAddr>,
    /// Round-trip time.
    pub rtt: Option<Duration>,
    /// When there last was a connection; now if there is one.
    pub last_seen: Option<Time>,
    /// How the last attempt to reach it failed, if none was made since.
    pub last_failure: Option<String>,
}

/// The network layer. Clones share it; when the last is dropped, every connection is closed.
#[derive(Clone)]
pub struct Net(Arc<Running>);

struct Running {
    core: Arc<Core>,
    stop: watch::Sender<bool>,
    tasks: Mutex<JoinSet<()>>,
    incoming: Mutex<Option<mpsc::Receiver<Incoming>>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.core.endpoint.close(code::SHUTDOWN, b"the site is shutting down");
    }
}

impl Net {
    /// Listens, and keeps a connection to every peer in the book. To be called inside a tokio runtime.
    pub fn start(config: NetConfig, identity: Identity, book: PeerBook) -> Result<Self, NetError> {
        let extra = config.advertise.get(endpoint::ENDPOINTS_MAX);
        if let Some(bad) = extra.or_else(|| config.advertise.iter().find(|name| !endpoint::is_endpoint(name)))
        {
            return Err(NetError::Advertise { endpoint: bad.clone() });
        }
        let (sender, incoming) = mpsc::channel(INCOMING_MAX);
        let core = Arc::new(start_core(config, identity, book, sender)?);
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        tasks.spawn(serve::run(Arc::clone(&core), stopped));
        let incoming = Mutex::new(Some(incoming));
        Ok(Self(Arc::new(Running { core, stop, tasks: Mutex::new(tasks), incoming })))
    }

    /// The address it listens at, with the port that was chosen if none was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.0.core.local
    }

    #[cfg(test)]
    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.0.core
    }

    /// The requests of all peers. There is one receiver: `None` from the second call on.
    pub fn incoming(&self) -> Option<mpsc::Receiver<Incoming>> {
        self.0.incoming.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The connection to a peer, if there is one.
    pub fn connection(&self, pair: PairId) -> Option<Connection> {
        self.0.core.link(pair)?.current()
    }

    /// The connection to a peer; dials at once and waits for up to `timeout` if there is none. A failure that waiting
    /// will not mend (no version in common, not trusted) is returned as soon as it is known.
    pub async fn wait_connection(&self, pair: PairId, timeout: Duration) -> Result<Connection, NetError> {
        let link = self.0.core.link(pair).ok_or_else(|| self.0.core.book.no_pair(pair))?;
        let any = |_: &Connection| true;
        self.wait_for(&link, timeout, any).await
    }

    async fn wait_for(
        &self,
        link: &Link,
        timeout: Duration,
        fits: impl Fn(&Connection) -> bool,
    ) -> Result<Connection, NetError> {
        let name = self.0.core.book.name_of(link.pair).unwrap_or_else(|| link.pair.to_string());
        let mut watch = link.watch();
        let begun = watch.borrow().attempts;
        let lower = link.is_lower();
        if watch.borrow().current(lower).is_none() {
            link.kick();
        }
        let lasting = |tried: &[Tried]| Tried::telling(tried).is_some_and(|why| !why.class().retries());
        let settled = watch.wait_for(|state| {
            state.removed
                || state.current(lower).is_some_and(&fits)
                || state.failure.as_ref().is_some_and(|(attempt, tried)| *attempt > begun && lasting(tried))
        });
        if tokio::time::timeout(timeout, settled).await.is_err() {
            tracing::debug!(peer = %name, "no connection in time");
        }
        let state = watch.borrow();
        match state.current(lower).filter(|connection| fits(connection)) {
            Some(connection) => Ok(connection.clone()),
            None if state.removed => Err(NetError::Removed { peer: name }),
            None => {
                let tried = state.failure.as_ref().map(|(_, tried)| tried.clone());
                let tried = tried.unwrap_or_else(|| self.unanswered(link.pair));
                Err(NetError::Unreachable { peer: name, tried })
            }
        }
    }

    /// The endpoints of a peer that have not answered yet.
    fn unanswered(&self, pair: PairId) -> Vec<Tried> {
        let endpoints = self.0.core.book.get(pair).map(|record| record.reached_at()).unwrap_or_default();
        endpoints.into_iter().map(|endpoint| Tried { endpoint, why: DialError::TimedOut }).collect()
    }

    /// Makes a pair key that is good once and for `ttl`, naming these endpoints or, if none, where this site knows to
    /// be reached. The text is a secret.
    ///
    /// With `replaces`, whoever joins takes the place of the peer of this name.
    pub fn pair_key(
        &self,
        endpoints: Vec<String>,
        ttl: Span,
        replaces: Option<String>,
    ) -> Result<String, PairError> {
        pair::issue(&self.0.core, pair::Issue { endpoints, ttl, replaces })
    }

    /// Where others reach this site, as far as it knows.
    pub fn own_endpoints(&self) -> Vec<String> {
        self.0.core.own_endpoints()
    }

    /// Pairs this site with the one that made the key. With `replaces`, that one takes the place of the peer of this name.
    pub async fn join(&self, key: &str, replaces: Option<&str>) -> Result<Arc<PeerRecord>, PairError> {
        let record = pair::join(&self.0.core, key, replaces).await?;
        // Of a pair that stood before, the next attempt might be half a minute away.
        if let Some(link) = self.0.core.link(record.pair) {
            link.kick();
        }
        Ok(record)
    }

    /// Those who join with keys of this site, from now on. There is one receiver: the last that asked.
    pub fn joined(&self) -> mpsc::Receiver<Joined> {
        let (sender, joined) = mpsc::channel(JOINED_MAX);
        self.0.core.tell_of_joined(sender);
        joined
    }

    /// Whom this site is paired with, and was.
    pub fn book(&self) -> &PeerBook {
        &self.0.core.book
    }

    /// Has a peer be reached at these endpoints, and no longer where it was known to be.
    pub async fn set_endpoints(
        &self,
        pair: PairId,
        endpoints: Vec<String>,
    ) -> Result<Arc<PeerRecord>, NetError> {
        let extra = endpoints.get(endpoint::ENDPOINTS_MAX);
        if let Some(bad) = extra.or_else(|| endpoints.iter().find(|name| !endpoint::is_endpoint(name))) {
            return Err(NetError::Endpoint { endpoint: bad.clone() });
        }
        let book = self.0.core.book.clone();
        let change = move |record: &mut PeerRecord| {
            record.endpoints = endpoints;
            record.told.clear();
        };
        let record = blocking(move || book.update(pair, change)).await?;
        if let Some(link) = self.0.core.link(pair) {
            link.kick();
        }
        Ok(record)
    }

    /// Has whatever was bound to peers of this name go on with another peer; they are cut off. Gives the pairs that are
    /// over.
    pub async fn replace(&self, name: &str, new: SiteId) -> Result<Vec<PairId>, NetError> {
        let (core, name) = (Arc::clone(&self.0.core), name.to_owned());
        let replaced = blocking(move || {
            let replaced = core.book.replace(&name, new);
            core.cut_removed();
            replaced
        });
        Ok(replaced.await?)
    }

    /// Replaces the certificate authorities of both sides of a pair, with no gap.
    pub async fn rotate(&self, pair: PairId) -> Result<Arc<PeerRecord>, NetError> {
        let core = &self.0.core;
        let link = core.link(pair).ok_or_else(|| core.book.no_pair(pair))?;
        let connection = self.wait_connection(pair, ROTATED_TIMEOUT).await?;
        let (ours, theirs) = rotate::announce(core, &connection).await?;
        link.want();
        let new =
            |connection: &Connection| (connection.about().ours, connection.about().theirs) == (ours, theirs);
        let mut watch = link.watch();
        let seen = watch.wait_for(|state| state.removed || state.live().any(new));
        let peer = connection.peer().name.clone();
        match tokio::time::timeout(ROTATED_TIMEOUT, seen).await {
            Ok(Ok(state)) if !state.removed => Ok(connection.peer()),
            Ok(_) => Err(NetError::Removed { peer }),
            Err(_) => Err(NetError::NotSettled { peer }),
        }
    }

    /// Forgets a peer and cuts it off: its connections are closed when this returns, and it cannot make another.
    pub async fn remove(&self, pair: PairId) -> Result<Arc<PeerRecord>, NetError> {
        let core = Arc::clone(&self.0.core);
        let removed = blocking(move || {
            let removed = core.book.remove(pair);
            // Also if the file could not be removed: in memory the pair is gone.
            core.cut_removed();
            removed
        });
        let record = removed.await?;
        tracing::info!(peer = %record.name, %pair, "pair removed");
        Ok(record)
    }

    /// Ends on disk what was removed and could not be written; the names of the peers that is done for now.
    pub async fn finish_removals(&self) -> Result<Vec<String>, NetError> {
        let core = Arc::clone(&self.0.core);
        let done = blocking(move || core.book.finish_removals()).await?;
        Ok(done.iter().map(|over| over.record.name.clone()).collect())
    }

    /// Limits what is sent to a peer in batches, in bytes per second; `None` lifts the limit.
    pub fn set_bandwidth(&self, pair: PairId, bytes_per_second: Option<u64>) -> Result<(), NetError> {
        let link = self.0.core.link(pair).ok_or_else(|| self.0.core.book.no_pair(pair))?;
        link.bucket().set(bytes_per_second);
        Ok(())
    }

    /// Every peer and how it is doing.
    pub fn peers(&self) -> Vec<PeerStatus> {
        let records = self.0.core.book.list();
        records
            .into_iter()
            .filter_map(|record| Some(status(&*self.0.core.link(record.pair)?, record)))
            .collect()
    }

    /// Stops: no new connections, up to 10 s for what is under way, then every connection is closed.
    pub async fn shutdown(&self) {
        let deadline = clock::steady() + DRAIN_TIMEOUT;
        let links = self.0.core.all_links();
        let busy = || links.iter().flat_map(|link| link.live()).any(|connection| !connection.is_idle());
        // Requests still come in over the connections there are; whoever serves them says that it stops.
        self.0.core.endpoint.set_server_config(None);
        while busy() && clock::steady() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.0.stop.send_replace(true);
        self.0.core.endpoint.close(code::SHUTDOWN, b"the site is shutting down");
        let mut tasks = std::mem::take(&mut *self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        tasks.shutdown().await;
        if tokio::time::timeout(DRAIN_TIMEOUT, self.0.core.endpoint.wait_idle()).await.is_err() {
            tracing::warn!("failed to say goodbye to every peer in time");
        }
    }
}

fn start_core(
    config: NetConfig,
    identity: Identity,
    book: PeerBook,
    incoming: mpsc::Sender<Incoming>,
) -> Result<Core, NetError> {
    let setup = |error: tls::TlsSetupError| NetError::Setup { why: error.to_string() };
    let transport = endpoint::transport(config.congestion);
    let answer = |pairing: bool| -> Result<Arc<ServerConfig>, NetError> {
        let crypto = tls::server(&identity, &book, pairing).map_err(setup)?;
        let mut server = ServerConfig::with_crypto(Arc::new(crypto));
        server.transport_config(Arc::clone(&transport));
        Ok(Arc::new(server))
    };
    let (answer_peers, answer_anybody) = (answer(false)?, answer(true)?);
    let listen = config.listen;
    let failed = |source| NetError::Listen { listen, source };
    let socket = endpoint::bind(listen).map_err(failed)?;
    let local = socket.local_addr().map_err(failed)?;
    let server = Some(ServerConfig::clone(&answer_peers));
    let endpoint = Endpoint::new(endpoint::config(&identity), server, socket, Arc::new(TokioRuntime));
    let endpoint = endpoint.map_err(failed)?;
    let greeting =
        Greeting { site: identity.site(), name: identity.name().to_owned(), versions: config.versions };
    Ok(Core {
        config,
        identity,
        book,
        greeting,
        endpoint,
        local,
        transport,
        answer_peers,
        answer_anybody,
        incoming,
        window: Mutex::default(),
        joined: Mutex::default(),
        links: Mutex::default(),
    })
}

fn status(link: &Link, record: Arc<PeerRecord>) -> PeerStatus {
    let watch = link.watch();
    let state = watch.borrow();
    let current = state.current(link.is_lower());
    PeerStatus {
        record,
        connected: current.is_some(),
        remote: current.map(Connection::remote),
        rtt: current.map(|connection| connection.wire_stats().rtt),
        last_seen: if current.is_some() { Some(clock::now()) } else { state.last_seen },
        last_failure: state.failure.as_ref().map(|(_, tried)| Tried::list(tried)),
    }
}
