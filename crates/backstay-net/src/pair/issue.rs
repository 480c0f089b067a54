//! The issuing side: making keys, and answering those who join.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use backstay_types::{ChunkParams, Classify, HashKey, PairId, SiteId, Span};
use quinn::Connection;
use tokio::sync::oneshot;

use super::PairError;
use super::key::{PairKey, Secret};
use super::message::{Answer, Join, MessageError, Offer, Outcome, Refusal, Stored, Talk};
use super::proof::{self, Exporter, Role};
use super::window::Spent;
use crate::book::{BookError, PeerRecord};
use crate::clock;
use crate::close::code;
use crate::core::{Core, blocking};
use crate::endpoint::{self, ENDPOINTS_MAX};
use crate::hello::HELLO_TIMEOUT;
use crate::tls::Handshake;

/// How long the daemon may take to take note of a new peer; a file for each plan that goes on with it.
const NOTED_TIMEOUT: Duration = Duration::from_secs(10);

/// How a site that joined is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JoinedAs {
    /// It was not known.
    New,
    /// It was paired before, showed an authority it is known by, and takes nobody else's place.
    Again,
    /// The operator said that it takes the place of the peer of this name, whether it was paired before or not.
    InPlaceOf(String),
}

/// Somebody has used a key of this site.
#[derive(Debug)]
pub struct Joined {
    /// The peer, durable.
    pub record: Arc<PeerRecord>,
    /// What it was before.
    pub known: JoinedAs,
    /// The joiner is told that it is paired when this is answered or dropped.
    pub noted: oneshot::Sender<()>,
}

/// What a key is made for.
#[derive(Debug, Clone)]
pub(crate) struct Issue {
    pub(crate) endpoints: Vec<String>,
    pub(crate) ttl: Span,
    /// The peer whose place the joiner takes.
    pub(crate) replaces: Option<String>,
}

/// Makes a key and opens the window for it.
pub(crate) fn issue(core: &Core, asked: Issue) -> Result<String, PairError> {
    let Issue { endpoints, ttl, replaces } = asked;
    if let Some(name) = replaces.as_ref().filter(|name| core.book.last_named(name).is_none()) {
        return Err(PairError::NothingToReplace { action: "make a pair key", name: name.clone() });
    }
    let endpoints = if endpoints.is_empty() { core.own_endpoints() } else { endpoints };
    if let Some(bad) = endpoints.iter().find(|endpoint| !endpoint::is_endpoint(endpoint)) {
        return Err(PairError::Endpoint { endpoint: bad.clone() });
    }
    if let Some(extra) = endpoints.get(ENDPOINTS_MAX) {
        return Err(PairError::Endpoint { endpoint: extra.clone() });
    }
    if endpoints.is_empty() {
        return Err(PairError::NoEndpoint);
    }
    let now = clock::now();
    let (secret, expires) = (Secret::draw(), now.plus(ttl));
    let authority = core.identity.fingerprint();
    if !core.window().issue(secret.clone(), authority, replaces, expires, now) {
        return Err(PairError::TooManyKeys);
    }
    tracing::info!(%expires, "pair key made");
    let name = core.identity.name().to_owned();
    Ok(PairKey { name, endpoints, authority, secret, expires }.to_text())
}

/// Answers one joiner on a connection with the pairing protocol.
pub(crate) async fn serve(core: &Core, connection: Connection, handshake: Handshake) {
    let remote = connection.remote_address();
    match answer(core, &connection, handshake).await {
        Ok(Some(record)) => tracing::info!(
            peer = %record.name, pair = %record.pair, site = %record.site, %remote,
            authority = record.fingerprint().map(tracing::field::display), "paired"
        ),
        Ok(None) => {}
        Err(error) => {
            core.window().bad_attempt();
            tracing::warn!(%remote, %error, "failed to talk to a joiner");
        }
    }
    // The joiner has the last message and closes; a joiner that does not is closed upon.
    if tokio::time::timeout(HELLO_TIMEOUT, connection.closed()).await.is_err() {
        connection.close(code::DONE, b"pairing is over");
    }
}

async fn answer(
    core: &Core,
    connection: &Connection,
    handshake: Handshake,
) -> Result<Option<Arc<PeerRecord>>, MessageError> {
    let remote = connection.remote_address();
    let accepted = tokio::time::timeout(HELLO_TIMEOUT, connection.accept_bi()).await;
    let accepted = accepted.map_err(|_| MessageError::Timeout)?;
    let mut talk = Talk::new(accepted.map_err(crate::control::StreamError::from)?);
    let join: Join = talk.hear().await?;
    let Considered { record, offer, known, replaced } = match consider(core, connection, handshake, join) {
        Ok(agreed) => agreed,
        Err(refusal) => {
            tracing::warn!(%remote, ?refusal, "refused a joiner");
            talk.say(&Answer::Refused(refusal)).await?;
            talk.finish().await;
            return Ok(None);
        }
    };
    // From here on the joiner is who it should be: what fails is no bad attempt.
    let settled = async {
        talk.say(&Answer::Offer(offer)).await?;
        let Stored {} = talk.hear().await?;
        let book = core.book.clone();
        let stored = blocking(move || book.insert_in_place_of(record, replaced)).await;
        if let Ok(record) = &stored {
            note(core, record, known).await;
        }
        let outcome =
            stored.as_ref().map_or_else(|error| Outcome::Failed(error.to_string()), |_| Outcome::Done);
        talk.say(&outcome).await?;
        talk.finish().await;
        Ok::<_, MessageError>(stored)
    };
    match settled.await {
        Ok(Ok(record)) => Ok(Some(record)),
        Ok(Err(error)) => {
            tracing::error!(%remote, %error, class = error.class().label(), "failed to store a pair");
            Ok(None)
        }
        Err(error) => {
            tracing::warn!(%remote, %error, "a pairing broke off: a fresh key repeats it");
            Ok(None)
        }
    }
}

/// Waits, within bounds, until the daemon knows of the peer: what the joiner does next may need that.
async fn note(core: &Core, record: &Arc<PeerRecord>, known: JoinedAs) {
    let Some(listener) = core.joined() else { return };
    let (noted, wait) = oneshot::channel();
    if listener.send(Joined { record: Arc::clone(record), known, noted }).await.is_err() {
        return;
    }
    if tokio::time::timeout(NOTED_TIMEOUT, wait).await.is_err() {
        tracing::warn!(peer = %record.name, "paired, and the daemon is slow to take note of it");
    }
}

/// What was decided on a joiner.
struct Considered {
    record: PeerRecord,
    offer: Offer,
    known: JoinedAs,
    /// The site whose place it takes.
    replaced: Option<SiteId>,
}

/// Decides on a joiner; spends the key if it proved its secret.
fn consider(
    core: &Core,
    connection: &Connection,
    handshake: Handshake,
    join: Join,
) -> Result<Considered, Refusal> {
    let exporter = Exporter::of(connection).ok_or_else(|| Refusal::Failed("no exporter".to_owned()))?;
    let proved = |secret: &Secret| proof::holds(&join.proof, secret, Role::Joiner, &exporter);
    let taken = core.window().take(&join.key, clock::now(), proved);
    let secret = taken.map_err(|spent| match spent {
        Spent::Wrong => Refusal::Wrong,
        Spent::Expired => Refusal::Expired,
        Spent::Used => Refusal::Used,
        Spent::Closed => Refusal::Closed,
    })?;
    if join.site == core.identity.site() {
        return Err(Refusal::Failed("a site cannot be paired with itself".to_owned()));
    }
    let replaces = core.window().replaces(&join.key);
    let agreed = agree(core, connection.remote_address(), handshake, &join, replaces);
    // Not the key's fault: once that is set right it is good again.
    let (record, known, replaced) = agreed.inspect_err(|_| core.window().give_back(secret.clone()))?;
    let offer = Offer {
        proof: proof::prove(&secret, Role::Issuer, &exporter),
        pair: record.pair,
        site: core.identity.site(),
        name: core.identity.name().to_owned(),
        hash_key: record.hash_key.clone(),
        params: record.params,
    };
    Ok(Considered { record, offer, known, replaced })
}

/// The record of a joiner that holds a good key: of the pair that it had before if it is who it was.
fn agree(
    core: &Core,
    remote: SocketAddr,
    handshake: Handshake,
    join: &Join,
    replaces: Option<String>,
) -> Result<(PeerRecord, JoinedAs, Option<SiteId>), Refusal> {
    let book = &core.book;
    let replaced = match &replaces {
        Some(name) => Some(book.last_named(name).ok_or(Refusal::NothingToReplace)?.site),
        None => None,
    };
    let presented = handshake.authority.fingerprint();
    let before = book.last_of_site(join.site);
    let again = match before {
        Some(before) if before.pins(&presented) => Some(before),
        // The site id alone is the joiner's word, and plans and restore points are bound to it.
        Some(_) if replaced != Some(join.site) => return Err(Refusal::OtherAuthority),
        _ => None,
    };
    let other = book.by_authority(&presented).filter(|(other, _)| other.site != join.site);
    if let Some((other, _)) = other {
        return Err(Refusal::Failed(format!("its certificate authority is that of peer {}", other.name)));
    }
    let (pair, hash_key, params) = match &again {
        Some(before) => (before.pair, before.hash_key.clone(), before.params),
        None => (PairId(rand::random()), HashKey(rand::random()), ChunkParams::with_seed(rand::random())),
    };
    let our_ca = handshake.server_name.and_then(|name| core.identity.by_server_name(&name));
    let record = PeerRecord {
        pair,
        site: join.site,
        endpoints: endpoints_of(join, remote),
        told: Vec::new(),
        name: join.name.clone(),
        peer_cas: vec![handshake.authority],
        our_ca: our_ca.unwrap_or_else(|| core.identity.current()).fingerprint(),
        our_next: None,
        hash_key,
        params,
        paired_at: clock::now(),
    };
    book.check(&record, replaced).map_err(|error| match error {
        BookError::NameTaken { .. } => Refusal::NameTaken,
        other => Refusal::Failed(other.to_string()),
    })?;
    let known = match (replaces, again) {
        // Of its own place it is what it was.
        (_, Some(_)) if replaced.is_none_or(|replaced| replaced == join.site) => JoinedAs::Again,
        (Some(name), _) => JoinedAs::InPlaceOf(name),
        (None, _) => JoinedAs::New,
    };
    Ok((record, known, replaced))
}

fn endpoints_of(join: &Join, seen: SocketAddr) -> Vec<String> {
    if join.endpoints.is_empty() {
        vec![SocketAddr::new(seen.ip().to_canonical(), join.port).to_string()]
    } else {
        join.endpoints.clone()
    }
}
