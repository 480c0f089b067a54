//! Lists, a few at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use backstay_types::Class;
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, spawn_blocking};

use super::page::{Batch, Context, Pick};
use super::{BUNDLE_BYTES_MAX, LISTS_MAX, Missing, Run};
use crate::cluster::Cluster;
use crate::cluster::discovery::Resource;
use crate::cluster::error::{ClusterError, RequestError, class, told};
use crate::cluster::request::{JSON, Pager, is_expired};
use crate::skip::WAITING_LABEL;

/// How often a list begins again after the server forgot where it was.
const RESTARTS_MAX: u32 = 3;

/// One list: of a kind, in a namespace or in all.
type Wanted = (Resource, Option<String>, Pick);

/// What became of one.
enum Listed {
    Batch(Box<Batch>),
    Missing(Missing),
}

impl Run<'_> {
    /// Reads lists and takes in what is in them.
    pub(super) async fn lists(&mut self, wanted: Vec<Wanted>) -> Result<(), ClusterError> {
        let room = Arc::new(Semaphore::new(LISTS_MAX));
        let selector = self.scope.selector.as_ref().map(|selector| selector.to_query());
        let mut tasks = JoinSet::new();
        for (resource, namespace, pick) in wanted {
            let list = List {
                cluster: self.cluster.clone(),
                selector: match pick {
                    Pick::Namespaces => selector.clone(),
                    Pick::Waiting => Some(WAITING_LABEL.to_owned()),
                    Pick::Needed | Pick::Followed | Pick::Whole => None,
                },
                context: Arc::new(self.context(pick)),
                bytes: self.bytes.clone(),
                resource,
                namespace,
            };
            let room = room.clone();
            tasks.spawn(async move {
                let _place = room.acquire().await;
                list.read().await
            });
        }
        while let Some(outcome) = tasks.join_next().await {
            match outcome.map_err(|_| ClusterError::Worker { what: "a list" })?? {
                Listed::Batch(batch) => self.merge(*batch),
                Listed::Missing(missing) => self.report.missing.push(missing),
            }
        }
        Ok(())
    }
}

struct List {
    cluster: Cluster,
    resource: Resource,
    namespace: Option<String>,
    selector: Option<String>,
    context: Arc<Context>,
    bytes: Arc<AtomicUsize>,
}

impl List {
    async fn read(&self) -> Result<Listed, ClusterError> {
        let mut restarts = 0;
        loop {
            match self.pages().await? {
                Ok(batch) => return Ok(Listed::Batch(Box::new(batch))),
                Err(error) if is_expired(&error) && restarts < RESTARTS_MAX => restarts += 1,
                Err(error) => return self.failed(error),
            }
        }
    }

    async fn pages(&self) -> Result<Result<Batch, RequestError>, ClusterError> {
        let path = self.resource.path(self.namespace.as_deref());
        let mut pager = Pager::new(path, self.selector.as_deref(), JSON);
        let mut all = Batch::default();
        loop {
            let page = match pager.next(&self.cluster).await {
                Ok(Some(page)) => page,
                Ok(None) => return Ok(Ok(all)),
                Err(error) => {
                    // What was read is read again, or not at all.
                    self.bytes.fetch_sub(all.bytes(), Ordering::Relaxed);
                    return Ok(Err(error));
                }
            };
            let bytes = page.len();
            let (resource, context) = (self.resource.clone(), self.context.clone());
            let parsed = spawn_blocking(move || Batch::read(&page, &resource, &context)).await;
            let (meta, items, batch) = match parsed.map_err(|_| ClusterError::Worker { what: "a page" })? {
                Ok(parsed) => parsed,
                Err(error) => return Ok(Err(error)),
            };
            let total = self.bytes.fetch_add(batch.bytes(), Ordering::Relaxed) + batch.bytes();
            if total > BUNDLE_BYTES_MAX {
                return Err(ClusterError::TooMuch {
                    what: "bytes of captured objects",
                    max: BUNDLE_BYTES_MAX,
                });
            }
            pager.seen(meta, items, bytes);
            all.extend(batch);
        }
    }

    /// A kind that cannot be listed is missing; a server that is not there, or does not work, ends the capture.
    fn failed(&self, error: RequestError) -> Result<Listed, ClusterError> {
        let kind = &self.resource.kind;
        let missing = |class, why| {
            Ok(Listed::Missing(Missing {
                group: kind.group.clone(),
                version: self.resource.version.clone(),
                kind: Some(kind.kind.clone()),
                class,
                why,
            }))
        };
        match &error {
            RequestError::Status(status) if status.code == 403 || status.code == 405 => {
                missing(Class::Unauthorized, told(kind, status))
            }
            // One aggregated API, or a webhook that should convert.
            RequestError::Status(status) if !kind.is_built_in() && status.code != 401 => {
                missing(class(status), told(kind, status))
            }
            _ => Err(error.fatal(format!("list {} of the cluster", self.resource.plural))),
        }
    }
}
