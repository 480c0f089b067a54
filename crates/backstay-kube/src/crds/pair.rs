//! `ClusterPair`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Two sites that trust each other. Made by `backstay pair join`; its name is the name of the peer.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema, CustomResource)]
#[kube(
    group = "backstay.dev",
    version = "v1alpha1",
    kind = "ClusterPair",
    plural = "clusterpairs",
    shortname = "bspair",
    category = "backstay",
    status = "ClusterPairStatus",
    derive = "PartialEq",
    doc = "Two sites that trust each other.",
    printcolumn(name = "Peer", type_ = "string", json_path = ".spec.peer"),
    printcolumn(
        name = "Connected",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Connected\")].status"
    ),
    printcolumn(
        name = "Fenced",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Fenced\")].status"
    ),
    printcolumn(name = "RTT", type_ = "string", json_path = ".status.roundTrip", priority = "1"),
    printcolumn(name = "Last seen", type_ = "date", json_path = ".status.lastSeen"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct ClusterPairSpec {
    /// Name of the other site.
    #[schemars(length(min = 1, max = 63))]
    pub peer: String,
    /// Where it is reached, `host:port`, tried in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<String>,
}

/// What is known of the peer.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterPairStatus {
    /// `Connected`, `Fenced`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// When the peer was last heard, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<String>,
    /// Round trip, such as `180ms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round_trip: Option<String>,
    /// Highest epoch of a shared plan here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_epoch: Option<i64>,
    /// Highest epoch of a shared plan on the peer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_epoch: Option<i64>,
}
