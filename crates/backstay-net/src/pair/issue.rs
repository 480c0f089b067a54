//! The issuing side: making keys, and answering those who join.

use std::net::SocketAddr;
use std::sync::Arc;

use backstay_types::{ChunkParams, Classify, HashKey, PairId, Span};
use quinn::Connection;

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

/// Makes a key and opens the window for it.
pub(crate) fn issue(core: &Core, endpoints: Vec<String>, ttl: Span) -> Result<String, PairError> {
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
    if !core.window().issue(secret.clone(), authority, expires, now) {
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
        Ok(Some(record)) => tracing::info!(peer = %record.name, pair = %record.pair, %remote, "paired"),
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
    let (record, offer) = match consider(core, connection, handshake, join) {
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
        let stored = blocking(move || book.insert(record)).await;
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

/// Decides on a joiner; spends the key if it proved its secret.
fn consider(
    core: &Core,
    connection: &Connection,
    handshake: Handshake,
    join: Join,
) -> Result<(PeerRecord, Offer), Refusal> {
    let exporter = Exporter::of(connection).ok_or_else(|| Refusal::Failed("no exporter".to_owned()))?;
    let proved = |secret: &Secret| proof::holds(&join.proof, secret, Role::Joiner, &exporter);
    let taken = core.window().take(&join.key, clock::now(), proved);
    let secret = taken.map_err(|spent| match spent {
        Spent::Wrong => Refusal::Wrong,
        Spent::Expired => Refusal::Expired,
        Spent::Used => Refusal::Used,
        Spent::Closed => Refusal::Closed,
    })?;
    let our_ca = handshake.server_name.and_then(|name| core.identity.by_server_name(&name));
    let our_ca = our_ca.unwrap_or_else(|| core.identity.current()).fingerprint();
    let record = PeerRecord {
        pair: PairId(rand::random()),
        site: join.site,
        endpoints: endpoints_of(&join, connection.remote_address()),
        name: join.name,
        peer_cas: vec![handshake.authority],
        our_ca,
        our_next: None,
        hash_key: HashKey(rand::random()),
        params: ChunkParams::with_seed(rand::random()),
        paired_at: clock::now(),
    };
    if record.site == core.identity.site() {
        return Err(Refusal::Failed("a site cannot be paired with itself".to_owned()));
    }
    if let Err(error) = core.book.check(&record) {
        // Not the key's fault: once the name is free it is good again.
        core.window().give_back(secret);
        return Err(match error {
            BookError::NameTaken { .. } => Refusal::NameTaken,
            other => Refusal::Failed(other.to_string()),
        });
    }
    let offer = Offer {
        proof: proof::prove(&secret, Role::Issuer, &exporter),
        pair: record.pair,
        site: core.identity.site(),
        name: core.identity.name().to_owned(),
        hash_key: record.hash_key.clone(),
        params: record.params,
    };
    Ok((record, offer))
}

fn endpoints_of(join: &Join, seen: SocketAddr) -> Vec<String> {
    if join.endpoints.is_empty() {
        vec![SocketAddr::new(seen.ip().to_canonical(), join.port).to_string()]
    } else {
        join.endpoints.clone()
    }
}
