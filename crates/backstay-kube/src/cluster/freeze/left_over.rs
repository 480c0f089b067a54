//! What a crash left frozen.

use std::path::Path;

use k8s_openapi::api::core::v1::Pod;
use tokio::task::JoinSet;

use super::super::Cluster;
use super::super::error::ClusterError;
use super::super::request::{Ask, JSON, escape};
use super::choose::runs;
use super::fatal;
use super::fault::FreezeError;
use super::pod::{PodEnd, thaw};
use super::record::{PodSteps, Record, Step};

impl Cluster {
    /// Undoes what a freeze that never ended left behind: ends its background actions and runs its post-actions, in
    /// the containers that still run. Tells in how many pods; without a record, none. To be called when a daemon
    /// starts; what fails for want of an answer stays recorded.
    pub async fn thaw_left_over(&self, record: &Path) -> Result<usize, FreezeError> {
        let record = Record::at(record);
        let pods = record.read().await?;
        if pods.is_empty() {
            return Ok(0);
        }
        let mut tasks: JoinSet<PodEnd> = JoinSet::new();
        let mut count = 0;
        for steps in pods {
            let steps = self.still_there(steps).await?;
            if steps.is_empty() {
                continue;
            }
            count += 1;
            let start = self.start();
            tasks.spawn(async move { thaw(&start, steps.pre, steps.post, PodEnd::default()).await });
        }
        let (mut undone, mut failures) = (Vec::new(), Vec::new());
        while let Some(end) = tasks.join_next().await {
            let end = end.map_err(|_| ClusterError::Worker { what: "the thaw of a pod" })?;
            undone.push(end.undone);
            failures.extend(end.failures);
        }
        record.write(undone).await?;
        failures.iter().filter(|one| !one.is_fatal()).for_each(|one| tracing::warn!("thawing: {one}"));
        fatal(&failures).map_or(Ok(count), Err)
    }

    /// Those steps whose containers run, and are those that were frozen.
    async fn still_there(&self, steps: PodSteps) -> Result<PodSteps, ClusterError> {
        let Some(place) = steps.pre.first().or(steps.post.first()).map(|step| &step.place) else {
            return Ok(steps);
        };
        let (namespace, name) = (escape(&place.namespace), escape(&place.pod));
        let ask = Ask::get(format!("/api/v1/namespaces/{namespace}/pods/{name}"), JSON);
        let pod = match self.ask_for::<Pod>(&ask).await {
            // It is being killed, on a node that may be gone for good: nothing of it is to be thawed.
            Ok(pod) if pod.metadata.deletion_timestamp.is_some() => return Ok(PodSteps::default()),
            Ok(pod) => pod,
            Err(error) if error.is_not_found() => return Ok(PodSteps::default()),
            Err(error) => return Err(error.fatal(format!("read pod {}/{}", place.namespace, place.pod))),
        };
        let is_there = |step: &Step| {
            pod.metadata.uid.as_deref() == Some(&step.place.uid) && runs(&pod, &step.place.container)
        };
        let keep = |steps: Vec<Step>| steps.into_iter().filter(is_there).collect();
        Ok(PodSteps { pre: keep(steps.pre), post: keep(steps.post) })
    }
}
