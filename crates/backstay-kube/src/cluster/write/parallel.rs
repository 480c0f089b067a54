//! Many small pieces of work, a bounded number at once.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::task::JoinSet;

use crate::cluster::error::ClusterError;

/// Does `work` for every item, `at_once` of them at a time. The first error ends it; what is under way is dropped.
pub(in crate::cluster) async fn parallel<T, F, W>(
    items: Vec<T>,
    at_once: usize,
    work: W,
) -> Result<(), ClusterError>
where
    T: Send + 'static,
    F: Future<Output = Result<(), ClusterError>> + Send,
    W: Fn(T) -> F + Clone + Send + 'static,
{
    let workers = at_once.min(items.len());
    let queue = Arc::new(Mutex::new(items.into_iter()));
    let mut tasks: JoinSet<Result<(), ClusterError>> = JoinSet::new();
    for _ in 0..workers {
        let (queue, work) = (queue.clone(), work.clone());
        tasks.spawn(async move {
            loop {
                let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some(item) = next else { return Ok(()) };
                work(item).await?;
            }
        });
    }
    while let Some(outcome) = tasks.join_next().await {
        outcome.map_err(|_| ClusterError::Worker { what: "a writer" })??;
    }
    Ok(())
}
