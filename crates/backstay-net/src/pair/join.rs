//! The joining side.

use std::sync::Arc;

use backstay_types::SiteId;
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
///
/// With `replaces`, that site takes the place of the peer of this name.
pub(crate) async fn join(
    core: &Core,
    text: &str,
    replaces: Option<&str>,
) -> Result<Arc<PeerRecord>, PairError> {
    let key = PairKey::parse(text).map_err(|why| PairError::Malformed { why })?;
    if core.identity.authority(&key.authority).is_ok() {
        return Err(PairError::Own);
    }
    if clock::now() > key.expires {
        return Err(PairError::Expired { at: key.expires });
    }
    let replaced = match replaces {
        Some(name) => match core.book.last_named(name) {
            Some(replaced) => Some(replaced.site),
            None => {
                let name = name.to_owned();
                return Err(PairError::NothingToReplace { action: "join with the pair key", name });
            }
        },
        None => None,
    };
    let ours = known_by(core, &key);
    let (connection, endpoint) = reach(core, &key, &ours).await?;
    let joining = Joining { core, key: &key, ours: &ours, connection: &connection, endpoint, replaced };
    let paired = joining.run().await;
    connection.close(code::DONE, b"pairing is over");
    let record = paired?;
    tracing::info!(
        peer = %record.name, pair = %record.pair, site = %record.site,
        authority = record.fingerprint().map(tracing::field::display), "paired"
    );
    Ok(record)
}

/// The authority to present: that by which the issuer knows this site, if the two were paired before.
fn known_by(core: &Core, key: &PairKey) -> Arc<Authority> {
    let by_authority = core.book.by_authority(&key.authority).map(|(record, _)| record);
    let before = by_authority.or_else(|| core.book.last_named(&key.name));
    before
        .and_then(|record| core.identity.authority(&record.our_ca).ok())
        .unwrap_or_else(|| core.identity.current())
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
    /// The site whose place the issuer takes.
    replaced: Option<SiteId>,
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
        let (book, replaced) = (self.core.book.clone(), self.replaced);
        let record = blocking(move || book.insert_in_place_of(record, replaced)).await?;
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
        if let Some(before) = self.core.book.last_of_site(offer.site) {
            // It may present an authority that was made for another pair since; then it holds the key of this one.
            let same_pair = before.pair == offer.pair && before.hash_key == offer.hash_key;
            let known = before.pins(&theirs.fingerprint()) || same_pair;
            if !known && self.replaced != Some(offer.site) {
                return Err(PairError::NotThePeer {
                    issuer: self.key.name.clone(),
                    name: before.name.clone(),
                    found: theirs.fingerprint(),
                });
            }
        }
        let mut endpoints = vec![self.endpoint.clone()];
        endpoints.extend(self.key.endpoints.iter().filter(|other| **other != self.endpoint).cloned());
        Ok(PeerRecord {
            pair: offer.pair,
            site: offer.site,
            name: offer.name,
            endpoints,
            told: Vec::new(),
            peer_cas: vec![theirs],
            our_ca: self.ours.fingerprint(),
            our_next: None,
            hash_key: offer.hash_key,
            params: offer.params,
            paired_at: clock::now(),
        })
    }
}
