//! Controllers for the custom resources: a site takes plans, policies and actions from them, and reports there.
//!
//! One pass a second compares what the site says ([`Host::look`]) with what the watches show, and writes the
//! difference. There is no queue and nothing to replay: a pass that fails is made good by the next, after a crash of
//! the daemon or of the API server as well. The pass is the limit of one status a second for each object, too.
//!
//! 1. Only the holder of the Lease acts, and it stops when it cannot renew it (`lease.rs`).
//! 2. A server that does not answer ends the pass; an object that is refused is told, and holds up no other.
//! 3. What stays the same is not written: `lag` and the like are shown in steps.
//!
//! Left to others: what a plan is and whether it is right (the daemon, by the same checks as for `plan apply`).

mod cache;
mod condition;
mod failovers;
mod host;
mod lease;
mod notice;
mod pairs;
mod plan_status;
mod plans;
mod points;
mod policies;
mod read;
mod rules;
mod standing;
mod status;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use backstay_types::{Classify, PlanName};
use k8s_openapi::api::core::v1::{Namespace, ObjectReference};
use kube::api::{DynamicObject, ObjectMeta, PostParams};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, ResourceExt};

use crate::cluster::Cluster;
use cache::Cache;
use failovers::Promotions;
pub use host::{
    CycleReport, FailoverOrder, Host, HostError, PairReport, Picture, PlanReport, PointReport, PromotionDone,
    StepReport,
};
use lease::Election;
use notice::Notice;
use plans::Refused;
use standing::{Grounds, Standing, is_accepted};
use status::Statuses;
use write::{Kind, WriteError, bounded};

/// Between two passes.
const PASS_EVERY: Duration = Duration::from_secs(1);
/// After a pass that the server did not answer.
const PASS_AGAIN: Duration = Duration::from_secs(3);

/// Where the daemon is at home if nothing says otherwise.
const DEFAULT_NAMESPACE: &str = "backstay-system";
/// Who writes; also the value of [`MANAGED_LABEL`].
const MANAGER: &str = "backstay";
const MANAGED_LABEL: &str = "app.kubernetes.io/managed-by";

/// Acts on the custom resources of a cluster whenever this process holds the Lease, until `stop` is ready.
pub async fn run<H: Host>(cluster: &Cluster, host: Arc<H>, stop: impl Future<Output = ()>) {
    let namespace = match cluster.own_namespace() {
        // What a client without a namespace of its own says.
        "default" => DEFAULT_NAMESPACE,
        own => own,
    };
    let mut stop = std::pin::pin!(stop);
    let mut election = Election::new(cluster.client(), namespace, host.identity());
    loop {
        let won = tokio::select! {
            () = &mut stop => return,
            won = win(cluster, namespace, &mut election, &*host) => won,
        };
        tracing::info!(namespace, "this daemon acts on the custom resources");
        let acting = async {
            let mut controller = Controller::start(cluster, namespace, host.clone());
            controller.act().await;
        };
        tokio::select! {
            () = &mut stop => break,
            () = election.hold(&*host, won) => {
                tracing::warn!("the controllers' Lease is lost: this daemon acts no more until it has it again");
            }
            () = acting => {}
        }
        host.kept_by(BTreeMap::new());
    }
    if let Err(error) = election.release().await {
        tracing::warn!("the controllers' Lease was not given back, and runs out by itself: {error}");
    }
}

/// Ends with the Lease in hand. A daemon outside of the cluster may be the first to need its namespace.
async fn win(
    cluster: &Cluster,
    namespace: &str,
    election: &mut Election,
    host: &impl Host,
) -> tokio::time::Instant {
    let namespaces: Api<Namespace> = Api::all(cluster.client().clone());
    if namespace == DEFAULT_NAMESPACE
        && let Ok(None) = bounded(namespaces.get_opt(namespace)).await
    {
        let metadata = ObjectMeta { name: Some(namespace.to_owned()), ..ObjectMeta::default() };
        let made = Namespace { metadata, ..Namespace::default() };
        if let Err(error) = bounded(namespaces.create(&PostParams::default(), &made)).await {
            tracing::warn!(namespace, "namespace not made: {error}");
        }
    }
    election.win(host).await
}

/// The holder of the Lease at work. Ends with the Lease; nothing of it has to be kept.
struct Controller<H: Host> {
    host: Arc<H>,
    namespace: String,
    cache: Cache,
    recorder: Recorder,
    statuses: Statuses,
    /// Resources that the site refused, by uid.
    refused: BTreeMap<String, Refused>,
    promotions: Promotions,
    /// Failures of single objects in the last pass, and in this one so far: each is logged once.
    told: BTreeMap<String, String>,
    failing: BTreeMap<String, String>,
}

impl<H: Host> Controller<H> {
    fn start(cluster: &Cluster, namespace: &str, host: Arc<H>) -> Self {
        let reporter =
            Reporter { controller: "backstay.dev/backstay".to_owned(), instance: Some(host.identity()) };
        Self {
            host,
            namespace: namespace.to_owned(),
            cache: Cache::start(cluster.client()),
            recorder: Recorder::new(cluster.client().clone(), reporter),
            statuses: Statuses::default(),
            refused: BTreeMap::new(),
            promotions: Promotions::default(),
            told: BTreeMap::new(),
            failing: BTreeMap::new(),
        }
    }

    async fn act(&mut self) {
        self.cache.ready().await;
        let mut told = None;
        loop {
            let pause = match self.pass().await {
                Ok(()) => {
                    told = None;
                    PASS_EVERY
                }
                Err(error) => {
                    if told.as_ref() != Some(&error) {
                        tracing::warn!("custom resources not brought up to date, tried again: {error}");
                        told = Some(error);
                    }
                    PASS_AGAIN
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Brings everything up to date once.
    async fn pass(&mut self) -> Result<(), String> {
        self.promotions.settle();
        let plans = self.cache.plans.objects();
        let points = self.cache.points.objects();
        let picture = self.host.look(points::plans_of(&points)).await.map_err(|error| error.told())?;
        let accepted = plans.iter().filter(|plan| is_accepted(&self.statuses.observed(plan)));
        let begun = picture.plans.values().filter_map(|report| report.resource.clone());
        let grounds = Grounds {
            own: &self.namespace,
            // Also where the status was not written any more.
            accepted: accepted.map(|plan| plans::uid(plan)).chain(begun).collect(),
            known: picture.plans.keys().map(PlanName::as_str).collect(),
        };
        let standing = Standing::new(&plans, &grounds);
        let outcome = self.parts(&standing, &picture).await;
        self.told = std::mem::take(&mut self.failing);
        let live = [&self.cache.policies, &self.cache.rules, &self.cache.pairs, &self.cache.failovers]
            .map(cache::Watched::objects);
        let live: BTreeSet<String> =
            live.iter().flatten().chain(&plans).chain(&points).map(|object| plans::uid(object)).collect();
        self.statuses.keep(&live);
        self.refused.retain(|uid, _| live.contains(uid));
        outcome.map_err(|error| error.to_string())
    }

    /// Takeovers before all else; policies and rules before the plans that name them.
    async fn parts(&mut self, standing: &Standing<'_>, picture: &Picture) -> Result<(), WriteError> {
        self.failovers(standing, picture).await?;
        self.policies(picture).await?;
        self.rules(picture).await?;
        self.plans(standing, picture).await?;
        self.pairs(picture).await?;
        self.points(standing, picture).await
    }

    /// Lets the others go on after a failure that is this object's own.
    fn tolerate(
        &mut self,
        kind: &str,
        object: &DynamicObject,
        outcome: Result<(), WriteError>,
    ) -> Result<(), WriteError> {
        let place = object.namespace().map_or_else(String::new, |namespace| format!("{namespace}/"));
        self.tolerate_named(format!("{kind} {place}{}", object.name_any()), outcome)
    }

    fn tolerate_named(&mut self, name: String, outcome: Result<(), WriteError>) -> Result<(), WriteError> {
        match outcome {
            Err(error @ WriteError::Api(kube::Error::Api(_))) => {
                let text = error.to_string();
                if self.told.get(&name) != Some(&text) {
                    tracing::warn!(class = error.class().label(), "{name} not brought up to date: {text}");
                }
                self.failing.insert(name, text);
                Ok(())
            }
            outcome => outcome,
        }
    }

    /// Publishes Events. One that is lost is lost: the status says the same.
    async fn publish(&self, kind: &Kind, object: &DynamicObject, notices: Vec<Notice>) {
        let reference = ObjectReference {
            api_version: Some(kind.resource.api_version.clone()),
            kind: Some(kind.resource.kind.clone()),
            name: Some(object.name_any()),
            namespace: object.namespace(),
            uid: object.uid(),
            ..ObjectReference::default()
        };
        for notice in notices {
            let event = Event {
                type_: if notice.is_warning { EventType::Warning } else { EventType::Normal },
                reason: notice.reason.to_owned(),
                note: Some(notice.note),
                action: notice.action.to_owned(),
                secondary: None,
            };
            if let Err(error) = bounded(self.recorder.publish(&event, &reference)).await {
                tracing::warn!(reason = event.reason, "Event not written: {error}");
            }
        }
    }
}

/// Whether an object is one of those we made.
fn is_managed(object: &DynamicObject) -> bool {
    object.labels().get(MANAGED_LABEL).is_some_and(|by| by == MANAGER)
}
