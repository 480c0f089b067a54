//! Reaching a peer: its endpoints tried one after the other with a head start each, the first that answers wins.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use backstay_types::{Class, Classify};
use quinn::crypto::rustls::QuicClientConfig;
use tokio::task::JoinSet;

use crate::book::PeerRecord;
use crate::close::{CloseReason, code};
use crate::connection::{About, Connection};
use crate::core::Core;
use crate::hello::{HELLO_TIMEOUT, HelloError};
use crate::identity::{Authority, Fingerprint};
use crate::link::Link;
use crate::tls::{self, ALPN_PEER, ExpectedServer};
use crate::{clock, rotate};

/// A handshake takes two round trips; with lost packets on the slowest line we know, under this.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(8);
/// Names can be served by a slow server.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Addresses tried of one name.
const ADDRESSES_MAX: usize = 4;
/// How much later the next endpoint is tried while the one before has not answered.
const HEAD_START: Duration = Duration::from_millis(300);

/// Why one endpoint was not reached.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DialError {
    /// Its name has no address, or none that this site's socket can use.
    #[error("its name does not resolve: {why}")]
    Resolve {
        /// Why not.
        why: String,
    },
    /// No answer.
    #[error("no answer within {} s", CONNECT_TIMEOUT.as_secs())]
    TimedOut,
    /// The connection failed or was refused.
    #[error(transparent)]
    Closed(#[from] CloseReason),
    /// Another site answers.
    #[error("it presents authority {found}, expected {expected}")]
    OtherAuthority {
        /// The authority that was expected.
        expected: Fingerprint,
        /// The one that was met.
        found: Fingerprint,
    },
    /// The peer is there, but the two cannot talk.
    #[error(transparent)]
    Hello(#[from] HelloError),
    /// This side cannot dial.
    #[error("this side cannot dial: {why}")]
    Setup {
        /// Why not.
        why: String,
    },
}

impl Classify for DialError {
    fn class(&self) -> Class {
        match self {
            DialError::Resolve { .. } | DialError::TimedOut => Class::Transient,
            DialError::Closed(reason) => reason.class(),
            DialError::OtherAuthority { .. } => Class::Unauthorized,
            DialError::Hello(error) => error.class(),
            DialError::Setup { .. } => Class::Bug,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            DialError::Resolve { .. } | DialError::TimedOut => {
                Some("check that the daemon runs there, and that UDP passes".to_owned())
            }
            DialError::Closed(reason) => reason.hint(),
            DialError::OtherAuthority { .. } => Some(
                "another site answers there: check the endpoint, or pair again with a fresh key".to_owned(),
            ),
            DialError::Hello(error) => error.hint(),
            DialError::Setup { .. } => None,
        }
    }
}

/// One endpoint that was tried.
#[derive(Debug, Clone)]
pub struct Tried {
    /// The endpoint, `HOST:PORT`.
    pub endpoint: String,
    /// How it failed.
    pub why: DialError,
}

impl fmt::Display for Tried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.endpoint, self.why)
    }
}

impl Tried {
    pub(crate) fn list(tried: &[Tried]) -> String {
        match tried {
            [] => "no endpoint of it is known".to_owned(),
            tried => tried.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
        }
    }

    /// The failure that tells most: one that trying again will not mend, else the last.
    pub(crate) fn telling(tried: &[Tried]) -> Option<&DialError> {
        let lasting = tried.iter().find(|tried| !tried.why.class().retries());
        lasting.or(tried.last()).map(|tried| &tried.why)
    }
}

/// Whom to reach and as whom.
pub(crate) struct Target<'a> {
    pub(crate) expected: Fingerprint,
    pub(crate) ours: &'a Authority,
    pub(crate) alpn: &'a [u8],
}

/// Connects to one endpoint: the TLS handshake is done when this returns, except for the server's word on our
/// certificate, which comes with its first answer.
pub(crate) async fn connect(
    core: &Core,
    endpoint: &str,
    target: &Target<'_>,
) -> Result<quinn::Connection, DialError> {
    let setup = |why: String| DialError::Setup { why };
    let addresses = resolve(core, endpoint).await?;
    let leaf = target.ours.leaf().map_err(|error| setup(error.to_string()))?;
    let mut last = DialError::Resolve { why: "no address this site can use".to_owned() };
    for address in addresses {
        let expected = ExpectedServer::new(target.expected);
        let crypto = tls::client(Arc::clone(&leaf), Arc::clone(&expected), target.alpn);
        let crypto: QuicClientConfig = crypto.map_err(|error| setup(error.to_string()))?;
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        config.transport_config(Arc::clone(&core.transport));
        let connecting = core.endpoint.connect_with(config, address, &target.expected.server_name());
        let connecting = connecting.map_err(|error| setup(error.to_string()))?;
        last = match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(error)) => match expected.stranger() {
                Some(found) => DialError::OtherAuthority { expected: target.expected, found },
                None => DialError::Closed(error.into()),
            },
            Err(_) => DialError::TimedOut,
        };
    }
    Err(last)
}

async fn resolve(core: &Core, endpoint: &str) -> Result<Vec<SocketAddr>, DialError> {
    let fail = |why: String| DialError::Resolve { why };
    let found = tokio::time::timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host(endpoint)).await;
    let found = found.map_err(|_| fail("no answer".to_owned()))?.map_err(|error| fail(error.to_string()))?;
    // A socket of the older protocol cannot reach addresses of the newer one.
    Ok(found.filter(|address| address.is_ipv4() || core.local.is_ipv6()).take(ADDRESSES_MAX).collect())
}

/// Reaches a paired peer at any of its endpoints, greeting included.
pub(crate) async fn dial(
    core: &Arc<Core>,
    link: &Arc<Link>,
    record: &Arc<PeerRecord>,
) -> Result<Connection, Vec<Tried>> {
    let mut attempts = JoinSet::new();
    for (place, endpoint) in record.reached_at().into_iter().enumerate() {
        let (core, link, record) = (Arc::clone(core), Arc::clone(link), Arc::clone(record));
        let head_start = HEAD_START.saturating_mul(u32::try_from(place).unwrap_or(u32::MAX));
        attempts.spawn(async move {
            tokio::time::sleep(head_start).await;
            let reached = reach(&core, &link, &record, &endpoint).await;
            reached.map_err(|why| Tried { endpoint, why })
        });
    }
    let mut tried = Vec::new();
    while let Some(attempt) = attempts.join_next().await {
        match attempt {
            // Those still under way end with `attempts`.
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(failure)) => tried.push(failure),
            Err(error) => tracing::error!(%error, "a dialing task ended"),
        }
    }
    Err(tried)
}

async fn reach(
    core: &Arc<Core>,
    link: &Link,
    record: &Arc<PeerRecord>,
    endpoint: &str,
) -> Result<Connection, DialError> {
    let setup = |why: String| DialError::Setup { why };
    let expected =
        record.newest_ca().ok_or_else(|| setup("no authority is pinned".to_owned()))?.fingerprint();
    let ours = core.identity.authority(&record.our_ca).map_err(|error| setup(error.to_string()))?;
    let target = Target { expected, ours: &ours, alpn: ALPN_PEER };
    let quinn = connect(core, endpoint, &target).await?;
    let begun = quinn.open_bi().await.map_err(CloseReason::from)?;
    let about = About {
        record: Arc::clone(record),
        version: core.greeting.versions.newest,
        dialed: true,
        theirs: expected,
        ours: record.our_ca,
        since: clock::steady(),
    };
    let greeted = greet(core, &quinn, begun, about).await;
    let about = greeted.inspect_err(|error| refuse(&quinn, error))?;
    rotate::settle(core, &about).await.map_err(|error| setup(error.to_string()))?;
    Ok(Connection::new(quinn, about, core.book.clone(), link.bucket()))
}

/// Exchanges greetings on the first stream of a connection.
pub(crate) async fn greet(
    core: &Core,
    quinn: &quinn::Connection,
    (send, recv): (quinn::SendStream, quinn::RecvStream),
    mut about: About,
) -> Result<About, HelloError> {
    let mut control = crate::control::Control::new(send, recv, crate::connection::Busy::default());
    let greeting = &core.greeting;
    let version = greeting.exchange(&mut control, about.dialed, about.record.site).await;
    if version.is_err() && !about.dialed {
        // The other side shall read our answer before we close upon it.
        if tokio::time::timeout(HELLO_TIMEOUT, control.delivered()).await.is_err() {
            tracing::debug!("the other side did not take our greeting");
        }
    }
    // A connection that ended says more about why than its stream does.
    about.version = version.map_err(|error| match (error, quinn.close_reason()) {
        (HelloError::Stream(_), Some(reason)) => {
            HelloError::Stream(crate::control::StreamError::Lost { reason: reason.into() })
        }
        (error, _) => error,
    })?;
    Ok(about)
}

/// Closes upon a peer that cannot be talked to, with the reason.
pub(crate) fn refuse(quinn: &quinn::Connection, error: &HelloError) {
    let code = match error.class() {
        Class::Incompatible => code::INCOMPATIBLE,
        Class::Unauthorized => code::STRANGER,
        _ => code::PROTOCOL,
    };
    quinn.close(code, error.to_string().as_bytes());
}
