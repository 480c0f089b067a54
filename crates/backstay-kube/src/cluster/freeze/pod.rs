//! One pod: its actions before the snapshot in order, holding, and its actions after.
//!
//! 1. What is to run after the snapshot runs once for every pod that was begun with, whatever went wrong before
//!    (test `a_failure_in_one_pod_thaws_all`).

use backstay_types::plan::OnError;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::action::{Begun, Start, Thaw, begin, deliver, hold, stop_left};
use super::fault::{Failure, When};
use super::record::{PodSteps, Step};

/// What thawing a pod came to.
#[derive(Debug, Default)]
pub(super) struct PodEnd {
    pub(super) failures: Vec<Failure>,
    /// What may still have to be undone: it could not be delivered.
    pub(super) undone: PodSteps,
}

/// Freezes a pod, says so with what failed in `ready`, and thaws it when told.
pub(super) async fn freeze(
    start: Start,
    steps: PodSteps,
    mut thaw: Thaw,
    ready: mpsc::Sender<Vec<Failure>>,
) -> PodEnd {
    let mut holds = JoinSet::new();
    let mut unsure = Vec::new();
    let mut failures = Vec::new();
    for step in steps.pre {
        match begin(&start, &step, &mut thaw).await {
            Ok(Begun::Done) => {}
            Ok(Begun::Holding(attached)) => {
                let thaw = thaw.clone();
                holds.spawn(async move {
                    let outcome = hold(&step, attached, thaw).await;
                    (step, outcome)
                });
            }
            Ok(Begun::Stopped) => break,
            Err(error) => {
                let is_last = step.action.on_error == OnError::Fail;
                let has_ended = error.has_ended();
                failures.push(Failure::new(When::Before, &step, error));
                if step.action.background && !has_ended {
                    unsure.push(step);
                }
                if is_last {
                    break;
                }
            }
        }
    }
    let is_heard = ready.send(failures).await.is_ok();
    // All are ready when nobody can say so any more.
    drop(ready);
    if is_heard {
        thaw.told().await;
    }
    let mut end = PodEnd::default();
    while let Some(held) = holds.join_next().await {
        let (step, outcome) = held.expect("a hold neither panics nor is aborted");
        if let Err(failure) = outcome {
            if !failure.has_ended() {
                unsure.push(step);
            }
            end.failures.push(failure);
        }
    }
    self::thaw(&start, unsure, steps.post, end).await
}

/// Ends what may still hold, then runs what runs after the snapshot.
pub(super) async fn thaw(start: &Start, unsure: Vec<Step>, post: Vec<Step>, mut end: PodEnd) -> PodEnd {
    for step in unsure {
        if let Err(error) = stop_left(start, &step).await {
            end.failures.push(Failure::new(When::After, &step, error));
            end.undone.pre.push(step);
        }
    }
    for step in post {
        if let Err(error) = deliver(start, &step).await {
            let is_undone = error.may_retry();
            end.failures.push(Failure::new(When::After, &step, error));
            if is_undone {
                end.undone.post.push(step);
            }
        }
    }
    end
}
