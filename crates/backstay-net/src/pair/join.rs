//! The joining side.

use std::sync::Arc;

use quinn::Connection;

use super::PairError;
use super::key::PairKey;
use super::message::{Answer, Join, Offer, Outcome, Stored, Talk};
use super::proof::{self, Exporter, Role};
use super::window::key_id;
use crate::book::PeerRecord;
use crate::clock;
use crate::close::{CloseReason, code};
use crate::core::{Core, blocking};
use crate::dial::{self, DialError, Tried};
use crate::identity::Authority;
use crate::tls::{ALPN_PAIR, Handshake};

/// Pairs this site with the one that made the key.
pub(crate) async fn join(core: &Core, text: &str) -> Result<Arc<PeerRecord>, PairError> {
    let key = PairKey::parse(text).map_err(|why| PairError::Malformed { why })?;
    if core.identity.authority(&key.authority).is_ok() {
        return Err(PairError::Own);
    }
    if clock::now() > key.expires {
        return Err(PairError::Expired { at: key.expires });
    }
    let ours = core.identity.current();
    let (connection, endpoint) = reach(core, &key, &ours).await?;
    let paired = Joining { core, key: &key, ours: &ours, connection: &connection, endpoint }.run().await;
    connection.close(code::DONE, b"pairing is over");
    let record = paired?;
    tracing::info!(peer = %record.name, pair = %record.pair, "paired");
    Ok(record)
}

/// Connects to the first endpoint of the key that answers as the key says.
async fn reach(core: &Core, key: &PairKey, ours: &Authority) -> Result<(Connection, String), PairError> {
    let target = dial::Target { expected: key.authority, ours, alpn: ALPN_PAIR };
    let mut tried = Vec::new();
    for endpoint in &key.endpoints {
        match dial::connect(core, endpoint, &target).await {
            Ok(connection) => return Ok((connection, endpoint.clone())),
            Err(why) => tried.push(Tried { endpoint: endpoint.clone(), why }),
        }
    }
    // Whoever answered, even wrongly, tells more than those who did not.
    let told = tried.iter().find_map(|Tried { endpoint, why }| match why {
        DialError::OtherAuthority { expected, found } => {
            Some(PairError::OtherAuthority { endpoint: endpoint.clone(), expected: *expected, found: *found })
        }
        DialError::Closed(reason @ (CloseReason::NotAPeer { .. } | CloseReason::Untrusted { .. })) => {
            Some(PairError::NoWindow { endpoint: endpoint.clone(), reason: reason.clone() })
        }
        _ => None,
    });
    Err(told.unwrap_or(PairError::Unreachable { issuer: key.name.clone(), tried }))
}

struct Joining<'a> {
    core: &'a Core,
    key: &'a PairKey,
    ours: &'a Authority,
    connection: &'a Connection,
    endpoint: String,
}

impl Joining<'_> {
    async fn run(self) -> Result<Arc<PeerRecord>, PairError> {
        let exporter = Exporter::of(self.connection);
        let exporter = exporter.ok_or_else(|| PairError::Broken { why: "no exporter".to_owned() })?;
        let stream = self.connection.open_bi().await;
        let mut talk = Talk::new(stream.map_err(|error| PairError::Broken { why: error.to_string() })?);
        let offer = self.introduce(&mut talk, &exporter).await?;
        if !proof::holds(&offer.proof, &self.key.secret, Role::Issuer, &exporter) {
            return Err(PairError::Unproved { issuer: self.key.name.clone() });
        }
        let record = self.record(offer)?;
        let book = self.core.book.clone();
        let record = blocking(move || book.insert(record)).await?;
        let unconfirmed = |why: String| PairError::Unconfirmed { issuer: self.key.name.clone(), why };
        talk.say(&Stored {}).await.map_err(|error| unconfirmed(error.to_string()))?;
        match talk.hear().await {
            Ok(Outcome::Done) => Ok(record),
            Ok(Outcome::Failed(why)) => Err(unconfirmed(why)),
            Err(error) => Err(unconfirmed(error.to_string())),
        }
    }

    async fn introduce(&self, talk: &mut Talk, exporter: &Exporter) -> Result<Offer, PairError> {
        let join = Join {
            key: key_id(&self.key.secret),
            proof: proof::prove(&self.key.secret, Role::Joiner, exporter),
            site: self.core.identity.site(),
            name: self.core.identity.name().to_owned(),
            endpoints: self.core.config.advertise.clone(),
            port: self.core.local.port(),
        };
        talk.say(&join).await.map_err(|error| PairError::broken(&error))?;
        match talk.hear().await.map_err(|error| PairError::broken(&error))? {
            Answer::Offer(offer) => Ok(offer),
            Answer::Refused(refusal) => Err(PairError::refused(refusal, &self.key.name, self.key.expires)),
        }
    }

    fn record(&self, offer: Offer) -> Result<PeerRecord, PairError> {
        // Verified in the handshake to be the authority that the key names.
        let handshake = Handshake::of(self.connection);
        let theirs =
            handshake.ok_or_else(|| PairError::Broken { why: "no certificate".to_owned() })?.authority;
        let mut endpoints = vec![self.endpoint.clone()];
        endpoints.extend(self.key.endpoints.iter().filter(|other| **other != self.endpoint).cloned());
        Ok(PeerRecord {
            pair: offer.pair,
            site: offer.site,
            name: offer.name,
            endpoints,
            peer_cas: vec![theirs],
            our_ca: self.ours.fingerprint(),
            our_next: None,
            hash_key: offer.hash_key,
            params: offer.params,
            paired_at: clock::now(),
        })
    }
}
