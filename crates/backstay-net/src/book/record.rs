//! What a site keeps of one peer.

use backstay_types::{ChunkParams, HashKey, PairId, PlanName, SiteId, Time};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use zeroize::Zeroize;

use crate::endpoint::ENDPOINTS_MAX;
use crate::identity::{CaCert, Fingerprint};

/// The old authority, the new one, and one more rotation begun before the last was done.
pub(crate) const PEER_CAS_MAX: usize = 3;

/// One peer. In its file: `hashKey` and certificates in base64, ids and fingerprints in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PeerRecord {
    /// The pair: drawn by the site that issued the key, the same on both sides.
    pub pair: PairId,
    /// The peer.
    pub site: SiteId,
    /// Its name: a DNS label.
    pub name: String,
    /// Where to reach it, `HOST:PORT`, best first. Empty if only it can dial us.
    pub endpoints: Vec<String>,
    /// Where it said last that it is reached, if that is news to `endpoints`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub told: Vec<String>,
    /// Its certificate authorities, oldest first; more than one only while they are being replaced.
    pub peer_cas: Vec<CaCert>,
    /// Which of our authorities it trusts: its leaf is what we present.
    pub our_ca: Fingerprint,
    /// The authority that takes over once the peer said that it trusts it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub our_next: Option<Fingerprint>,
    /// Key of every chunk id of this pair.
    #[serde(serialize_with = "write_key", deserialize_with = "read_key")]
    pub hash_key: HashKey,
    /// How this pair cuts data into chunks.
    pub params: ChunkParams,
    /// When the two sites were paired.
    pub paired_at: Time,
}

impl PeerRecord {
    /// Where to reach it: where it said last, then where it was known to be before, each once.
    pub fn reached_at(&self) -> Vec<String> {
        let mut all = self.told.clone();
        all.extend(self.endpoints.iter().filter(|endpoint| !self.told.contains(endpoint)).cloned());
        all
    }

    /// Whether it is known by this authority.
    pub(crate) fn pins(&self, authority: &Fingerprint) -> bool {
        self.peer_cas.iter().any(|ca| ca.fingerprint() == *authority)
    }

    /// Its newest authority, as a person compares it.
    pub fn fingerprint(&self) -> Option<Fingerprint> {
        self.newest_ca().map(CaCert::fingerprint)
    }

    /// The peer's newest authority: what it must show when we dial it.
    pub(crate) fn newest_ca(&self) -> Option<&CaCert> {
        self.peer_cas.last()
    }

    /// Our newest authority that the peer has, or is being told of.
    pub(crate) fn our_newest(&self) -> Fingerprint {
        self.our_next.unwrap_or(self.our_ca)
    }

    /// Whether we would present this authority of ours to the peer.
    pub(crate) fn names(&self, ours: &Fingerprint) -> bool {
        self.our_ca == *ours || self.our_next.as_ref() == Some(ours)
    }

    /// Trusts one more authority of the peer, as its newest.
    pub(crate) fn pin(&mut self, ca: CaCert) {
        self.peer_cas.retain(|other| other.fingerprint() != ca.fingerprint());
        // The first is what the peer uses now; what was announced in between was never completed.
        if self.peer_cas.len() >= PEER_CAS_MAX {
            self.peer_cas.remove(1);
        }
        self.peer_cas.push(ca);
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        self.name.parse::<PlanName>().map_err(|error| error.to_string())?;
        if self.peer_cas.is_empty() || self.peer_cas.len() > PEER_CAS_MAX {
            return Err(format!(
                "{} authorities of the peer: expected 1 to {PEER_CAS_MAX}",
                self.peer_cas.len()
            ));
        }
        for endpoints in [&self.endpoints, &self.told] {
            if endpoints.len() > ENDPOINTS_MAX {
                return Err(format!("{} endpoints: at most {ENDPOINTS_MAX} allowed", endpoints.len()));
            }
        }
        check_params(&self.params).map_err(str::to_owned)
    }
}

/// Bounds that chunk parameters of a peer must keep before anything is cut with them.
pub(crate) fn check_params(params: &ChunkParams) -> Result<(), &'static str> {
    let ChunkParams { min_bytes, avg_bytes, max_bytes, block_bytes, .. } = *params;
    let ordered = 64 <= min_bytes && min_bytes <= avg_bytes && avg_bytes <= max_bytes;
    let even = [min_bytes, avg_bytes, max_bytes].iter().all(|bytes| bytes % 2 == 0);
    let bounded = [max_bytes, block_bytes]
        .iter()
        .all(|bytes| *bytes as usize <= backstay_types::limits::CHUNK_BYTES_MAX);
    let aligned = block_bytes >= 4096 && block_bytes % 4096 == 0;
    if ordered && even && bounded && aligned { Ok(()) } else { Err("the chunk parameters are out of bounds") }
}

fn write_key<S: Serializer>(key: &HashKey, serializer: S) -> Result<S::Ok, S::Error> {
    let mut text = crate::base64::encode(&key.0);
    let written = serializer.serialize_str(&text);
    text.zeroize();
    written
}

fn read_key<'de, D: Deserializer<'de>>(deserializer: D) -> Result<HashKey, D::Error> {
    let mut text = String::deserialize(deserializer)?;
    let key = crate::base64::decode(&text).and_then(|bytes| bytes.try_into().ok());
    text.zeroize();
    key.map(HashKey).ok_or_else(|| de::Error::custom("hashKey: expected 32 bytes in base64"))
}
