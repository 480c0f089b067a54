//! The site as its custom resources see it: what `backstay_kube::control` asks, answered from the plan book, the store
//! and the runtimes.
//!
//! 1. Whatever changes something runs as a task of the daemon and goes on when its caller is dropped, as it is when
//!    the Lease is lost.
//! 2. A plan that a resource keeps is changed through that resource alone (test
//!    `plans_and_policies_come_from_resources_and_are_reported_there`): what the command line changed would be undone
//!    within a second.
//!
//! At a crash nothing is lost: the resources are compared with the book again.

mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backstay_engine::handover::Target;
use backstay_kube::Document;
use backstay_kube::control::{self, FailoverOrder, Host, HostError, Picture, PromotionDone};
use backstay_kube::crds::FailoverAction;
use backstay_kube::documents::Begins;
use backstay_types::plan::{PlanSpec, RuleSpec, SchedulePolicySpec};
use backstay_types::{Classify, PlanName, Time};

use crate::api::asked;
use crate::api_types::{DrillRequest, PromoteRequest};
use crate::audit::Actor;
use crate::site::Site;
use crate::{DaemonError, clock};

/// A cluster that is not configured yet may be after the next look.
const CONNECT_AGAIN: Duration = Duration::from_secs(10);

const POISONED: &str = "no holder of this lock panics";

/// Plans that resources keep, with `NAMESPACE/NAME` of each. Empty while this daemon does not hold the Lease, so that
/// an operator can act while the API server is away.
#[derive(Default)]
pub(crate) struct Keepers(Mutex<BTreeMap<PlanName, String>>);

impl Keepers {
    /// Refuses what a resource would undo.
    pub(crate) fn check(&self, plan: &PlanName) -> Result<(), DaemonError> {
        match self.0.lock().expect(POISONED).get(plan) {
            Some(resource) => {
                Err(DaemonError::KeptByResource { plan: plan.clone(), resource: resource.clone() })
            }
            None => Ok(()),
        }
    }
}

impl Site {
    /// Runs until the daemon stops.
    pub(crate) async fn run_controllers(self: Arc<Self>) {
        if !self.config.load().kubernetes.controllers {
            return self.stop.cancelled().await;
        }
        let host = Arc::new(SiteHost {
            identity: format!("{}-{:016x}", self.name, rand::random::<u64>()),
            site: self.clone(),
        });
        let mut told = None;
        while !self.stop.is_cancelled() {
            match self.cluster().await {
                Ok(cluster) => Box::pin(control::run(&cluster, host.clone(), self.stop.cancelled())).await,
                Err(error) => {
                    let text = error.to_string();
                    if told.as_ref() != Some(&text) {
                        tracing::warn!(class = error.class().label(), "no custom resources: {text}");
                        told = Some(text);
                    }
                    tokio::select! {
                        () = self.stop.cancelled() => {}
                        () = tokio::time::sleep(CONNECT_AGAIN) => {}
                    }
                }
            }
        }
    }

    /// Runs work to its end, whether or not somebody waits for it.
    async fn ordered<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, DaemonError>> + Send + 'static,
    ) -> Result<T, HostError> {
        let outcome = self.tasks.spawn(work).await;
        let outcome = outcome.map_err(|_| DaemonError::Worker { what: "what a custom resource asked for" });
        outcome.and_then(|outcome| outcome).map_err(|error| HostError::new(&error))
    }
}

/// What the controllers hold.
struct SiteHost {
    site: Arc<Site>,
    identity: String,
}

impl Host for SiteHost {
    fn identity(&self) -> String {
        self.identity.clone()
    }

    fn now(&self) -> Time {
        clock::now()
    }

    async fn look(&self, also: BTreeSet<PlanName>) -> Result<Picture, HostError> {
        let site = self.site.clone();
        let looked = self.site.blocking("looking at the site", move || Ok(site.picture(also))).await;
        looked.map_err(|error| HostError::new(&error))
    }

    async fn put_plan(&self, name: PlanName, spec: PlanSpec, begins: Begins) -> Result<(), HostError> {
        self.put(Document::Plan { name, spec: Box::new(spec), begins }).await
    }

    async fn delete_plan(&self, name: PlanName) -> Result<(), HostError> {
        let site = self.site.clone();
        let work = async move {
            site.delete_plan(&name, false).await?;
            site.record(&Actor::Resource, "planDelete", Some(&name), String::new(), None);
            Ok(())
        };
        self.site.ordered(work).await
    }

    async fn put_policy(&self, name: String, spec: SchedulePolicySpec) -> Result<(), HostError> {
        self.put(Document::SchedulePolicy { name, spec: Box::new(spec) }).await
    }

    async fn delete_policy(&self, name: String) -> Result<(), HostError> {
        let site = self.site.clone();
        self.site
            .blocking("deleting a policy", move || site.plans.policies().remove(&name))
            .await
            .map(drop)
            .map_err(|error| HostError::new(&error))
    }

    async fn put_rule(&self, name: String, spec: RuleSpec) -> Result<(), HostError> {
        self.put(Document::Rule { name, spec: Box::new(spec) }).await
    }

    async fn delete_rule(&self, name: String) -> Result<(), HostError> {
        let site = self.site.clone();
        self.site
            .blocking("deleting a rule", move || site.plans.rules().remove(&name))
            .await
            .map(drop)
            .map_err(|error| HostError::new(&error))
    }

    fn kept_by(&self, resources: BTreeMap<PlanName, String>) {
        *self.site.keepers.0.lock().expect(POISONED) = resources;
    }

    fn fail_over(
        &self,
        order: FailoverOrder,
    ) -> impl Future<Output = Result<PromotionDone, HostError>> + Send + 'static {
        let site = self.site.clone();
        async move {
            let worker = site.clone();
            let work = async move {
                let outcome = worker.carry_out_order(&order).await;
                // A dry run changes nothing, and every failover begins with one.
                if !order.dry_run {
                    let (action, detail) = told(&order);
                    worker.record(
                        &Actor::Resource,
                        action,
                        Some(&order.plan),
                        detail,
                        outcome.as_ref().err(),
                    );
                }
                outcome
            };
            site.ordered(work).await
        }
    }
}

impl Site {
    async fn carry_out_order(self: &Arc<Self>, order: &FailoverOrder) -> Result<PromotionDone, DaemonError> {
        let target = match order.action {
            FailoverAction::Promote => {
                return self.promote(&order.plan, promotion_of(order)).await.map(report::promotion);
            }
            FailoverAction::Drill if order.dry_run => {
                return self.drill_preview(&order.plan, order.restore_point).map(report::promotion);
            }
            FailoverAction::Drill => {
                let request = DrillRequest { restore_point: order.restore_point, keep: order.keep };
                return report::drill(self.drill(&order.plan, request).await?);
            }
            FailoverAction::Switchover => Target::Away,
            FailoverAction::Failback => Target::Home,
        };
        let done = match order.dry_run {
            true => self.handover_preview(&order.plan, target).await,
            false => self.hand_over(&order.plan, target).await,
        };
        done.map(report::promotion)
    }
}

fn promotion_of(order: &FailoverOrder) -> PromoteRequest {
    PromoteRequest {
        restore_point: order.restore_point,
        dry_run: order.dry_run,
        force: order.force,
        accept_partial: order.accept_partial,
        lease: None,
    }
}

/// What the audit log says about an order.
fn told(order: &FailoverOrder) -> (&'static str, String) {
    match order.action {
        FailoverAction::Promote => ("promote", asked(&promotion_of(order))),
        FailoverAction::Switchover => (Target::Away.command(), String::new()),
        FailoverAction::Failback => (Target::Home.command(), String::new()),
        FailoverAction::Drill => {
            ("drill", order.restore_point.map(|point| format!("of {point}")).unwrap_or_default())
        }
    }
}

impl SiteHost {
    async fn put(&self, document: Document) -> Result<(), HostError> {
        let site = self.site.clone();
        let work = async move {
            let detail = format!("{} {}", document.kind(), document.name());
            // What is refused is told by a condition, and asked again and again: not a line here each time.
            site.apply_checked(vec![document]).await?;
            site.record(&Actor::Resource, "planApply", None, detail, None);
            Ok(())
        };
        self.site.ordered(work).await
    }
}
