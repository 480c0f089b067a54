//! Rules: an application's pods are quieted together, for as long as a snapshot takes.
//!
//! 1. What is to be undone is durable before the first pre-action starts, and stays so until it is undone
//!    (`freeze/record.rs`). After a crash [`Cluster::thaw_left_over`] undoes it; so does the next freeze.
//! 2. Every pod is frozen at the same time; the last of them says when all hold.
//! 3. Whatever fails, background actions end and post-actions run, in every pod.
//! 4. Writers count as stopped only if the rule says that it stops them, every action before the snapshot went well,
//!    and every lock was held until after it. One that flushes, such as a checkpoint, stops nobody.
//!
//! A background action lets go by itself when its stream ends, whatever ended it (`freeze/keeper.sh`): a daemon that
//! is killed does not leave a database locked until it is back. What is left to do then is the post-actions.

mod action;
mod choose;
mod exec;
mod fault;
mod left_over;
mod pod;
mod record;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use backstay_types::Span;
use backstay_types::plan::{LabelSelector, RuleSpec};
use k8s_openapi::api::core::v1::Pod;
use serde::Deserialize;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::error::ClusterError;
use super::request::{PageMeta, Pager, decode, escape};
use super::scope::{Scope, namespaces};
use super::{Cluster, request};
use action::{Start, Thaw, new_id};
use choose::{Chosen, Found, Side, choose, targets};
use fault::Failure;
pub use fault::FreezeError;
use pod::PodEnd;
use record::{PodSteps, Record};

/// Warnings that a report names.
const WARNINGS_MAX: usize = 100;

/// What to freeze.
#[derive(Debug, Clone, Copy)]
pub struct FreezeRequest<'r> {
    /// Whose pods: those of its namespaces that its selector matches.
    pub scope: &'r Scope,
    /// What runs before the snapshot.
    pub pre: Option<&'r RuleSpec>,
    /// What runs after it.
    pub post: Option<&'r RuleSpec>,
    /// File for what is to be undone; of this plan alone, in a folder that exists.
    pub record: &'r Path,
}

/// How a freeze went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FreezeReport {
    /// Pods that anything ran in.
    pub pods: usize,
    /// Whether no writer wrote while all held: the rule says that it stops them, and it ran in every pod.
    pub writers_stopped: bool,
    /// How long every pod held: what the snapshot took.
    pub held: Span,
    /// From the first action to the end of the last one: what the application felt.
    pub length: Span,
    /// Why it shows no more than that, and what failed without failing the cycle: the first hundred.
    pub warnings: Vec<String>,
}

/// Pods that are frozen. Dropped without [`Frozen::thaw`], as in a crash, background actions end, and the
/// post-actions wait for [`Cluster::thaw_left_over`].
#[derive(Debug)]
#[must_use = "an application is frozen until `thaw`"]
pub struct Frozen {
    pods: JoinSet<PodEnd>,
    count: usize,
    thaw: watch::Sender<bool>,
    record: Record,
    stops_writes: bool,
    warnings: Vec<String>,
    failures: Vec<Failure>,
    started: Instant,
    held: Instant,
}

impl Cluster {
    /// Runs the pre-actions and returns once all of them have ended or hold. On an error everything is thawed, or
    /// recorded for [`Cluster::thaw_left_over`].
    pub async fn freeze(&self, request: &FreezeRequest<'_>) -> Result<Frozen, FreezeError> {
        for (side, rule) in [(Side::Pre, request.pre), (Side::Post, request.post)] {
            let Some(rule) = rule else { continue };
            let after = if side == Side::Post { rule.validate_after() } else { Ok(()) };
            let invalid = |source| FreezeError::Rule { field: side.field(), source };
            rule.validate().and(after).map_err(invalid)?;
        }
        self.thaw_left_over(request.record).await?;
        let chosen = self.chosen(request).await?;
        let stops_writes = request.pre.is_some_and(|rule| rule.stops_writes);
        let frozen = Frozen::begin(&self.start(), chosen, stops_writes, Record::at(request.record)).await?;
        tracing::debug!(pods = frozen.count, "frozen");
        Ok(frozen)
    }

    /// How commands start in the containers of this cluster.
    fn start(&self) -> Start {
        let cluster = self.clone();
        Arc::new(move |place, command| {
            let cluster = cluster.clone();
            Box::pin(async move { cluster.exec(&place, command).await })
        })
    }

    async fn chosen(&self, request: &FreezeRequest<'_>) -> Result<Chosen, FreezeError> {
        let targets: Vec<_> = targets(request.pre, request.post).collect();
        if targets.is_empty() {
            return Ok(Chosen::default());
        }
        let names = namespaces(self, request.scope).await?.names;
        let mut found = Vec::new();
        for (side, index, target) in targets {
            let wanted = LabelSelector { match_labels: target.pod_selector.clone(), ..Default::default() };
            let selectors = [Some(&wanted), request.scope.selector.as_ref()];
            let queries = selectors.into_iter().flatten().map(LabelSelector::to_query);
            let query = queries.filter(|query| !query.is_empty()).collect::<Vec<_>>().join(",");
            let mut pods = Vec::new();
            for namespace in &names {
                pods.extend(self.pods(namespace, &query).await?);
            }
            found.push(Found { side, index, target, pods });
        }
        choose(&found, new_id)
    }

    async fn pods(&self, namespace: &str, selector: &str) -> Result<Vec<Pod>, ClusterError> {
        #[derive(Deserialize)]
        struct Page {
            #[serde(default)]
            metadata: PageMeta,
            items: Vec<Pod>,
        }
        let fatal = |error: super::error::RequestError| error.fatal(format!("list the pods of {namespace}"));
        let path = format!("/api/v1/namespaces/{}/pods", escape(namespace));
        let mut pager = Pager::new(path, Some(selector), request::JSON);
        let mut pods = Vec::new();
        while let Some(bytes) = pager.next(self).await.map_err(fatal)? {
            let page: Page = decode(&bytes).map_err(fatal)?;
            pager.seen(page.metadata, page.items.len(), bytes.len());
            pods.extend(page.items);
        }
        Ok(pods)
    }
}

impl Frozen {
    async fn begin(
        start: &Start,
        chosen: Chosen,
        stops_writes: bool,
        record: Record,
    ) -> Result<Self, FreezeError> {
        record.write(chosen.pods.iter().map(PodSteps::undo).collect()).await?;
        let (thaw, told) = watch::channel(false);
        // One message of each pod, so that none waits for us.
        let (ready, mut all_ready) = mpsc::channel(chosen.pods.len().max(1));
        let started = Instant::now();
        let mut frozen = Frozen {
            pods: JoinSet::new(),
            count: chosen.pods.len(),
            thaw,
            record,
            stops_writes,
            warnings: chosen.warnings,
            failures: Vec::new(),
            started,
            held: started,
        };
        for steps in chosen.pods {
            let (start, told, ready) = (start.clone(), Thaw(told.clone()), ready.clone());
            frozen.pods.spawn(pod::freeze(start, steps, told, ready));
        }
        drop(ready);
        while let Some(failures) = all_ready.recv().await {
            let is_fatal = failures.iter().any(Failure::is_fatal);
            frozen.failures.extend(failures);
            if is_fatal {
                // The others stop where they are.
                frozen.thaw.send_replace(true);
            }
        }
        frozen.held = Instant::now();
        if frozen.failures.iter().any(Failure::is_fatal) {
            return Err(frozen.abandon().await);
        }
        Ok(frozen)
    }

    /// Ends background actions, runs the post-actions, and tells how it went. An action that failed, and may not,
    /// is an error; what could not be undone is tried again by the next freeze.
    pub async fn thaw(mut self) -> Result<FreezeReport, FreezeError> {
        let held = self.held.elapsed();
        self.release().await?;
        if let Some(error) = fatal(&self.failures) {
            return Err(error);
        }
        let quiet =
            self.warnings.is_empty() && self.failures.iter().all(|one| one.when == fault::When::After);
        let failed = self.failures.iter().map(Failure::to_string);
        let report = FreezeReport {
            pods: self.count,
            writers_stopped: self.stops_writes && quiet,
            held: span(held),
            length: span(self.started.elapsed()),
            warnings: self.warnings.iter().cloned().chain(failed).take(WARNINGS_MAX).collect(),
        };
        Ok(report)
    }

    /// Thaws after a failure, which is what is told.
    async fn abandon(mut self) -> FreezeError {
        let released = self.release().await;
        match (fatal(&self.failures), released) {
            (Some(error), _) | (None, Err(error)) => error,
            (None, Ok(())) => ClusterError::Worker { what: "a freeze" }.into(),
        }
    }

    async fn release(&mut self) -> Result<(), FreezeError> {
        self.thaw.send_replace(true);
        let mut undone = Vec::new();
        while let Some(end) = self.pods.join_next().await {
            // The record still names what this pod has to undo.
            let end = end.map_err(|_| ClusterError::Worker { what: "the freeze of a pod" })?;
            self.failures.extend(end.failures);
            undone.push(end.undone);
        }
        self.record.write(undone).await
    }
}

fn fatal(failures: &[Failure]) -> Option<FreezeError> {
    let mut fatal = failures.iter().filter(|failure| failure.is_fatal());
    let first = fatal.next()?;
    Some(first.fatal(u64::try_from(fatal.count()).unwrap_or(u64::MAX)))
}

fn span(duration: Duration) -> Span {
    Span(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}
