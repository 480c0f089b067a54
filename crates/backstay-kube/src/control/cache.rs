//! What the API server says now, kept by watches.
//!
//! 1. An object that does not fit its type spoils nothing for the others: objects are kept as they are, and read one
//!    by one by whoever acts on them.
//! 2. A server that goes away and returns costs a wait of at most 30 s; nothing is taken for deleted meanwhile.
//!
//! Bounds: plans and policies are a few dozen of some 4 KiB, restore points as many as retention keeps, some 2 KiB
//! each without their managed fields: a thousand of them are 2 MiB.

use std::sync::Arc;

use futures::StreamExt;
use kube::ResourceExt;
use kube::api::{ApiResource, DynamicObject};
use kube::client::Client;
use kube::core::CustomResourceExt;
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{Store, reflector};
use kube::runtime::{WatchStreamExt, watcher};
use tokio::task::JoinSet;

use super::write::Kind;
use crate::crds::{ClusterPair, Failover, ReplicationPlan, RestorePoint, Rule, SchedulePolicy};

/// Every kind that is watched.
pub(super) struct Cache {
    pub(super) plans: Watched,
    pub(super) policies: Watched,
    pub(super) rules: Watched,
    pub(super) pairs: Watched,
    pub(super) points: Watched,
    pub(super) failovers: Watched,
    /// The watches; they end with this value.
    _watches: JoinSet<()>,
}

/// The objects of one kind.
pub(super) struct Watched {
    pub(super) kind: Kind,
    store: Store<DynamicObject>,
}

impl Cache {
    /// Begins to watch.
    pub(super) fn start(client: &Client) -> Self {
        let mut watches = JoinSet::new();
        let mut watch = |resource: ApiResource, is_namespaced| {
            let kind = Kind::new(client, resource, is_namespaced);
            let writer = Writer::new(kind.resource.clone());
            let store = writer.as_reader();
            watches.spawn(follow(kind.clone(), writer));
            Watched { kind, store }
        };
        Self {
            plans: watch(ReplicationPlan::api_resource(), true),
            policies: watch(SchedulePolicy::api_resource(), false),
            rules: watch(Rule::api_resource(), true),
            pairs: watch(ClusterPair::api_resource(), false),
            points: watch(RestorePoint::api_resource(), true),
            failovers: watch(Failover::api_resource(), true),
            _watches: watches,
        }
    }

    /// Waits for the first list of every kind.
    pub(super) async fn ready(&self) {
        let of_operators = [&self.plans, &self.policies, &self.rules, &self.failovers];
        for watched in of_operators.into_iter().chain([&self.pairs, &self.points]) {
            // The writer lives as long as the watch, and the watch as long as `self`.
            drop(watched.store.wait_until_ready().await);
        }
    }
}

impl Watched {
    /// Every object, by namespace and name.
    pub(super) fn objects(&self) -> Vec<Arc<DynamicObject>> {
        let mut objects = self.store.state();
        objects.sort_by_key(|object| (object.namespace(), object.name_any()));
        objects
    }
}

async fn follow(kind: Kind, writer: Writer<DynamicObject>) {
    let events = watcher(kind.all(), watcher::Config::default()).default_backoff();
    let events = events.modify(|object| object.metadata.managed_fields = None);
    let mut events = std::pin::pin!(reflector(writer, events));
    let mut told = None;
    while let Some(event) = events.next().await {
        match event {
            Ok(_) => told = None,
            Err(error) => {
                let text = error.to_string();
                if told.as_ref() != Some(&text) {
                    tracing::warn!(kind = kind.resource.kind, "watch interrupted, tried again: {text}");
                    told = Some(text);
                }
            }
        }
    }
}
