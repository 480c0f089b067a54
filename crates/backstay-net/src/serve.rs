//! The tasks of a running network layer.
//!
//! ```text
//! run ─┬─ answer (one per incoming handshake) ─ serve
//!      └─ keep   (one per pair: dials, backs off) ─ serve (one per dialed connection) ─ one task per stream
//! ```
//! Every task belongs to the set of its parent: dropping `run` ends all of them and closes every connection.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use backstay_types::frame::{Frame, Refused};
use backstay_types::{Classify, PairId};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinError, JoinSet};

use crate::close::{CloseReason, code};
use crate::connection::{About, Connection};
use crate::control::{Control, StreamError};
use crate::core::Core;
use crate::dial::{self, DialError, Tried};
use crate::hello::HELLO_TIMEOUT;
use crate::inbox::ReceiveError;
use crate::link::{Backoff, Link};
use crate::net::Incoming;
use crate::tls::{ALPN_PAIR, Handshake};
use crate::{clock, pair, rotate, whereabouts};

/// Handshakes at a time; an honest site needs one per peer.
const HANDSHAKES_MAX: usize = 64;
/// From here on a client must show that it receives at the address it sends from.
const HANDSHAKES_BUSY: usize = 16;
/// How long a stream may take to say what it is for.
const FIRST_FRAME_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a connection is looked at for having outlived its use.
const IDLE_CHECK: Duration = Duration::from_secs(5);
/// A connection that lasted this long was a good one: the next attempt begins at once.
const GOOD: Duration = Duration::from_secs(5);

/// Runs until `stop` says so or the endpoint is closed.
pub(crate) async fn run(core: Arc<Core>, mut stop: watch::Receiver<bool>) {
    let mut changes = core.book.changes();
    let mut tasks = JoinSet::new();
    let mut keepers: HashMap<PairId, AbortHandle> = HashMap::new();
    let handshakes = Arc::new(());
    loop {
        core.cut_removed();
        keepers.retain(|pair, _| core.book.get(*pair).is_some());
        for record in core.book.list() {
            if let Some(link) = core.link(record.pair) {
                keepers.entry(record.pair).or_insert_with(|| tasks.spawn(keep(Arc::clone(&core), link)));
            }
        }
        tokio::select! {
            incoming = core.endpoint.accept() => {
                let Some(incoming) = incoming else { return };
                let under_way = Arc::strong_count(&handshakes) - 1;
                if under_way >= HANDSHAKES_MAX {
                    incoming.ignore();
                } else if under_way >= HANDSHAKES_BUSY && incoming.may_retry() {
                    // Fails only if the client has done so, which `may_retry` ruled out.
                    if incoming.retry().is_err() {
                        tracing::debug!("a client was asked twice to prove its address");
                    }
                } else {
                    tasks.spawn(answer(Arc::clone(&core), incoming, Arc::clone(&handshakes)));
                }
            }
            // The book lives in `core`, so this never fails.
            changed = changes.changed() => if changed.is_err() { return },
            Some(ended) = tasks.join_next() => report(ended),
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a network task panicked");
    }
}

/// Takes one incoming connection through its handshake, and then whatever it is for.
async fn answer(core: Arc<Core>, incoming: quinn::Incoming, handshake_under_way: Arc<()>) {
    let remote = incoming.remote_address();
    let open = core.window().is_open(clock::now());
    let config = if open { &core.answer_anybody } else { &core.answer_peers };
    let connecting = match incoming.accept_with(Arc::clone(config)) {
        Ok(connecting) => connecting,
        Err(error) => return tracing::debug!(%remote, %error, "an incoming connection failed at once"),
    };
    let quinn = match tokio::time::timeout(HELLO_TIMEOUT, connecting).await {
        Ok(Ok(quinn)) => quinn,
        Ok(Err(error)) => return tracing::debug!(%remote, %error, "an incoming connection was refused"),
        Err(_) => return tracing::debug!(%remote, "an incoming handshake took too long"),
    };
    let Some(handshake) = Handshake::of(&quinn) else {
        return quinn.close(code::PROTOCOL, b"no certificate authority was presented");
    };
    if handshake.alpn == ALPN_PAIR {
        return pair::serve(&core, quinn, handshake).await;
    }
    let Some(live) = welcome(&core, quinn, &handshake).await else { return };
    drop(handshake_under_way);
    serve(core, live).await;
}

/// Greets a peer that dialed us; closes upon anybody else.
async fn welcome(core: &Arc<Core>, quinn: quinn::Connection, handshake: &Handshake) -> Option<Live> {
    let remote = quinn.remote_address();
    let theirs = handshake.authority.fingerprint();
    let known = core.book.by_authority(&theirs);
    let known = known.and_then(|(record, _)| Some((core.link(record.pair)?, record)));
    let Some((link, record)) = known else {
        tracing::debug!(%remote, authority = %theirs, "refused a site that is not paired");
        quinn.close(code::STRANGER, b"the sites are not paired");
        return None;
    };
    let ours = handshake.server_name.as_deref().and_then(|name| core.identity.by_server_name(name));
    let Some(ours) = ours else {
        quinn.close(code::STRANGER, b"another authority was asked for");
        return None;
    };
    let accepted = tokio::time::timeout(HELLO_TIMEOUT, quinn.accept_bi()).await;
    let Ok(Ok(begun)) = accepted else {
        quinn.close(code::PROTOCOL, b"no greeting came");
        return None;
    };
    let version = core.greeting.versions.newest;
    let (ours, since) = (ours.fingerprint(), clock::steady());
    let about = About { record, version, dialed: false, theirs, ours, since };
    let greeted = dial::greet(core, &quinn, begun, about).await;
    let about = match greeted {
        Ok(about) => about,
        Err(error) => {
            dial::refuse(&quinn, &error);
            let why = DialError::Hello(error);
            failed(core, &link, link.attempt(), vec![Tried { endpoint: remote.to_string(), why }]);
            return None;
        }
    };
    let connection = Connection::new(quinn, about, core.book.clone(), link.bucket());
    Some(Live::new(link, connection))
}

/// Notes and, if it is news, logs a failed attempt.
fn failed(core: &Core, link: &Link, attempt: u64, tried: Vec<Tried>) {
    let peer = core.book.name_of(link.pair);
    let text = Tried::list(&tried);
    let class = Tried::telling(&tried).map_or("transient", |why| why.class().label());
    if link.failed(attempt, tried) {
        tracing::warn!(peer, pair = %link.pair, class, "failed to reach the peer: {text}");
    } else {
        tracing::debug!(peer, pair = %link.pair, class, "failed to reach the peer again: {text}");
    }
}

/// Keeps a connection to one peer.
async fn keep(core: Arc<Core>, link: Arc<Link>) {
    let mut serving = JoinSet::new();
    let mut backoff = Backoff::default();
    let mut good_since = None;
    if !link.is_lower() {
        // Two sites that see each other at the same moment: one goes first, and mostly the other need not.
        backoff.failed();
    }
    while link.until_needed().await {
        while let Some(ended) = serving.try_join_next() {
            report(ended);
        }
        if good_since.take().is_some_and(|since| clock::steady().saturating_duration_since(since) >= GOOD) {
            backoff.reset();
        }
        let record = core.book.get(link.pair);
        let Some(record) = record.filter(|record| !record.reached_at().is_empty()) else {
            // Only the peer can dial; look again when that changes.
            wait(&link, Duration::MAX).await;
            continue;
        };
        if wait(&link, backoff.delay(rand::random())).await {
            continue;
        }
        let attempt = link.attempt();
        backoff.failed();
        match dial::dial(&core, &link, &record).await {
            Ok(connection) => {
                good_since = Some(clock::steady());
                serving.spawn(serve(Arc::clone(&core), Live::new(Arc::clone(&link), connection)));
            }
            Err(tried) => failed(&core, &link, attempt, tried),
        }
    }
}

/// Waits for the time of the next attempt; true if there is nothing to attempt any more.
async fn wait(link: &Link, delay: Duration) -> bool {
    let mut watch = link.watch();
    let settled = watch.wait_for(|state| state.removed || !state.needs_connection());
    if delay.is_zero() {
        return false;
    }
    tokio::select! {
        () = tokio::time::sleep(delay) => false,
        () = link.kicked() => false,
        _ = settled => true,
    }
}

/// A connection that is in use; ended in any case, when it was closed and when its task is dropped.
struct Live {
    link: Arc<Link>,
    connection: Connection,
}

impl Live {
    fn new(link: Arc<Link>, connection: Connection) -> Self {
        link.add(&connection);
        Self { link, connection }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.connection.close(code::SHUTDOWN, "the site is shutting down");
        self.link.drop_connection(&self.connection);
    }
}

/// Takes the streams of one connection until it ends.
async fn serve(core: Arc<Core>, live: Live) {
    let Live { link, connection } = &live;
    let peer = connection.peer();
    tracing::info!(peer = %peer.name, remote = %connection.remote(), dialed = connection.about().dialed, "connected");
    let mut streams: JoinSet<Result<(), ReceiveError>> = JoinSet::new();
    {
        let (core, connection) = (Arc::clone(&core), connection.clone());
        streams.spawn(async move { Ok(whereabouts::tell(&core, &connection).await?) });
    }
    let mut idle = tokio::time::interval(IDLE_CHECK);
    let reason = loop {
        tokio::select! {
            opened = connection.quinn().accept_bi() => match opened {
                Ok((send, recv)) => {
                    let control = connection.control(send, recv);
                    streams.spawn(begin(Arc::clone(&core), connection.clone(), control));
                }
                Err(error) => break CloseReason::from(error),
            },
            opened = connection.quinn().accept_uni() => match opened {
                Ok(stream) => {
                    let connection = connection.clone();
                    streams.spawn(async move { connection.inbox().receive(stream).await });
                }
                Err(error) => break CloseReason::from(error),
            },
            Some(ended) = streams.join_next() => stream_ended(connection, ended),
            _ = idle.tick() => if link.is_superfluous(connection) {
                connection.close(code::SUPERSEDED, "another connection took over");
            },
        }
    };
    tracing::info!(peer = %peer.name, %reason, "connection ended");
}

fn stream_ended(connection: &Connection, ended: Result<Result<(), ReceiveError>, JoinError>) {
    match ended {
        // Given up or lost: the peer's business, and told to whoever waits for the session.
        Ok(Ok(()) | Err(ReceiveError::Stream(_))) => {}
        Ok(Err(error)) => {
            tracing::error!(peer = %connection.peer().name, %error, "failed to receive a batch");
            connection.close(code::PROTOCOL, &error.to_string());
        }
        Err(error) => report(Err(error)),
    }
}

/// Reads what a control stream is for and hands it over.
async fn begin(core: Arc<Core>, connection: Connection, mut control: Control) -> Result<(), ReceiveError> {
    let first = match tokio::time::timeout(FIRST_FRAME_TIMEOUT, control.recv()).await {
        Ok(Ok(Some(first))) => first,
        Ok(Ok(None)) => return Ok(()),
        Ok(Err(StreamError::Frame(error))) => {
            tracing::warn!(peer = %connection.peer().name, %error, "refused a request");
            control.send(&Frame::Refused(Refused::new(&error, None))).await?;
            control.refuse();
            return Ok(());
        }
        Ok(Err(error)) => return Err(error.into()),
        Err(_) => {
            control.refuse();
            return Ok(());
        }
    };
    let first = match first {
        Frame::Rotate(frame) => {
            rotate::answer(&core, &connection, control, frame).await;
            return Ok(());
        }
        Frame::Whereabouts(told) => {
            return Ok(whereabouts::hear(&core, &connection, control, told).await?);
        }
        first => first,
    };
    if core.incoming.send(Incoming { connection, control, first }).await.is_err() {
        tracing::debug!("nobody takes requests any more");
    }
    Ok(())
}
