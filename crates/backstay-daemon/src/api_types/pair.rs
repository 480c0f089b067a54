//! The site itself and its pairs.

use backstay_types::frame::SiteRole;
use backstay_types::{PairId, PlanName, SiteId, Time};
use serde::{Deserialize, Serialize};

/// `GET /site`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SiteInfo {
    /// Its name.
    pub name: String,
    /// Its id, made once by `backstay init`.
    pub site_id: SiteId,
    /// Version of the program.
    pub version: String,
    /// Where it listens for peers.
    pub listen: String,
    /// Where peers are told to reach it.
    pub endpoints: Vec<String>,
    /// When the daemon started.
    pub started_time: Time,
}

/// `POST /pairs/key`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PairKeyRequest {
    /// Where the peer should connect, as `HOST:PORT`; empty for what `site.toml` advertises.
    #[serde(default)]
    pub endpoints: Vec<String>,
    /// How long the key can be used; 15 minutes without it.
    #[serde(default)]
    pub ttl_seconds: Option<u64>,
    /// The peer whose place the site that joins takes: its plans go on with the new one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<String>,
}

/// Answer to [`PairKeyRequest`]. The key is a secret until it is used.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PairKey {
    /// `bsk1_…`
    pub key: String,
    /// Where the other site will look for this one.
    #[serde(default)]
    pub endpoints: Vec<String>,
}

/// `POST /pairs/join`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JoinRequest {
    /// The key that `backstay pair key` printed on the other site.
    pub key: String,
    /// The peer whose place that site takes: its plans go on with the new one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<String>,
}

// Written by hand so that no key ends in a log.
impl std::fmt::Debug for PairKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PairKey(…)")
    }
}

impl std::fmt::Debug for JoinRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JoinRequest(…)")
    }
}

/// One pair, as this site sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pair {
    /// Name of the peer.
    pub name: String,
    /// Id of the pair.
    pub pair_id: PairId,
    /// Id of the peer.
    pub site_id: SiteId,
    /// Where the peer is reached; empty if it only ever connects to us.
    pub endpoints: Vec<String>,
    /// SHA-256 of the public key that it is known by: compare it with what the other side shows of itself.
    #[serde(default)]
    pub fingerprint: Option<String>,
    /// Whether a connection stands now.
    pub connected: bool,
    /// What the connection is like, if one stands.
    pub remote: Option<RemoteSite>,
    /// Smoothed round-trip time of the connection.
    pub round_trip_millis: Option<f64>,
    /// When the peer was last heard of.
    pub last_seen: Option<Time>,
}

/// `POST /pairs/PEER/set`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PairSetRequest {
    /// Where the peer is reached from now on, as `HOST:PORT`, best first.
    pub endpoints: Vec<String>,
}

/// `POST /pairs/PEER/replace`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PairReplaceRequest {
    /// The peer that takes its place.
    pub by: String,
}

/// Answer to [`PairReplaceRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Replaced {
    /// The plans that go on with the new peer.
    pub plans: Vec<PlanName>,
}

/// `DELETE /pairs/PEER`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Unpaired {
    /// Whether there was such a pair.
    pub changed: bool,
    /// The plans that have no peer now.
    #[serde(default)]
    pub plans: Vec<OrphanedPlan>,
}

/// A plan whose peer was removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OrphanedPlan {
    /// Its name.
    pub plan: PlanName,
    /// What this side is for it.
    pub role: SiteRole,
}

/// The far end of a connection that stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RemoteSite {
    /// Its address.
    pub address: String,
}
