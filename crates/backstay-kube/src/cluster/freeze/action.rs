//! One action in one container, from its start to its end.
//!
//! 1. An action that does not do its part in time is ended, with its children, before anything else runs in its pod
//!    (test `an_action_that_takes_too_long_is_ended`).
//! 2. A background action held if its keeper let go of it when it was told to, and not before (test
//!    `a_lock_that_is_lost_before_the_snapshot_is_noticed`).

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use backstay_types::{Class, Span};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::exec::{Attached, Said};
use super::fault::{ExecError, Failure, When, shorten};
use super::record::{Place, Step};

const KEEPER: &str = include_str!("keeper.sh");
const STOP: &str = include_str!("stop.sh");

/// An application is not held longer, whatever becomes of us: a snapshot takes seconds.
const HOLD_MAX: Span = Span::from_secs(600);
/// A keeper takes two seconds from asking its command to end to killing it; the rest is the way there and back.
const END_WAIT: Duration = Duration::from_secs(10);
/// Tries of what must be delivered, over some eight seconds: an API server or a kubelet that restarts.
const TRIES: u32 = 6;
const BACKOFF: Duration = Duration::from_millis(250);

/// Starts a command in a container.
pub(super) type Start = Arc<
    dyn Fn(Place, Vec<String>) -> Pin<Box<dyn Future<Output = Result<Attached, ExecError>> + Send>>
        + Send
        + Sync,
>;

/// A name for the folder of a keeper that no other had.
pub(super) fn new_id() -> String {
    format!("backstay-{:016x}", rand::random::<u64>())
}

/// The word that the snapshot is taken, or that there will be none.
#[derive(Clone)]
pub(super) struct Thaw(pub(super) watch::Receiver<bool>);

impl Thaw {
    pub(super) async fn told(&mut self) {
        // Whoever could have told it is gone: that tells it too.
        drop(self.0.wait_for(|told| *told).await);
    }
}

/// What a step came to.
pub(super) enum Begun {
    /// It ended, and well.
    Done,
    /// It holds.
    Holding(Attached),
    /// The word to thaw came first.
    Stopped,
}

/// Runs a step until it has ended or holds.
pub(super) async fn begin(start: &Start, step: &Step, thaw: &mut Thaw) -> Result<Begun, ExecError> {
    let time = step.action.timeout();
    let deadline = Instant::now() + time.to_duration();
    let late = |what| ExecError::TimedOut { what, timeout: time };
    let mut attached =
        timeout_at(deadline, attach(start, step)).await.map_err(|_| late("start")).flatten()?;
    loop {
        let said = tokio::select! {
            biased;
            said = timeout_at(deadline, attached.next()) => said,
            () = thaw.told() => {
                end(&mut attached).await?;
                return Ok(Begun::Stopped);
            }
        };
        match said {
            Ok(said) => match said? {
                Said::Holding if step.action.background => return Ok(Begun::Holding(attached)),
                Said::Holding | Said::Released => {}
                Said::Ended(0) if !step.action.background => return Ok(Begun::Done),
                Said::Ended(code) => {
                    let stderr = stderr(attached, step).await;
                    return Err(match step.action.background {
                        true => ExecError::NeverHeld { code, stderr },
                        false => ExecError::Failed { code, stderr },
                    });
                }
            },
            Err(_) => {
                end(&mut attached).await?;
                return Err(late(if step.action.background { "hold" } else { "end" }));
            }
        }
    }
}

/// Holds until told to thaw, then lets go.
pub(super) async fn hold(step: &Step, mut attached: Attached, mut thaw: Thaw) -> Result<(), Failure> {
    let (said, is_asked) = tokio::select! {
        biased;
        said = change(&mut attached) => (said, false),
        () = thaw.told() => (ask_release(&mut attached).await, true),
    };
    let held = is_asked && matches!(said, Ok(Said::Released));
    let time = step.action.timeout();
    let end = match said {
        Ok(Said::Ended(code)) => Ok(code),
        Ok(_) => timeout(time.to_duration() + END_WAIT, until_end(&mut attached))
            .await
            .map_err(|_| ExecError::TimedOut { what: "end", timeout: time })
            .flatten(),
        Err(error) => Err(error),
    };
    let (when, error) = match end {
        Ok(0) if held => return Ok(()),
        Ok(code) => {
            let stderr = stderr(attached, step).await;
            match held {
                true => (When::After, ExecError::Failed { code, stderr }),
                false => (When::Before, ExecError::LetGo { code, stderr }),
            }
        }
        Err(error) => (if held { When::After } else { When::Before }, error),
    };
    Err(Failure::new(when, step, error))
}

/// Runs a step that must run, also where that takes a few tries. A container that is gone has nothing to thaw.
pub(super) async fn deliver(start: &Start, step: &Step) -> Result<(), ExecError> {
    persist(|| async {
        let (_never, word) = watch::channel(false);
        // Another folder for each try: the one before may not have ended yet.
        let step = Step { id: new_id(), ..step.clone() };
        begin(start, &step, &mut Thaw(word)).await.map(|_| ())
    })
    .await
}

/// Ends a background step that may still hold.
pub(super) async fn stop_left(start: &Start, step: &Step) -> Result<(), ExecError> {
    let seconds = step.action.timeout().to_duration() + END_WAIT;
    persist(|| async {
        let words = ["sh", "-c", STOP, "backstay", &step.id, &seconds.as_secs().to_string()];
        let command = words.map(str::to_owned).to_vec();
        let late = |_| ExecError::TimedOut { what: "end", timeout: step.action.timeout() };
        let attached = timeout(END_WAIT, start(step.place.clone(), command)).await.map_err(late).flatten();
        match timeout(seconds + END_WAIT, until_end(&mut attached?)).await.map_err(late).flatten()? {
            0 => Ok(()),
            code => Err(ExecError::Failed { code, stderr: Some(String::new()) }),
        }
    })
    .await
}

async fn persist<F: Future<Output = Result<(), ExecError>>>(
    attempt: impl Fn() -> F,
) -> Result<(), ExecError> {
    let mut wait = BACKOFF;
    for _ in 1..TRIES {
        match attempt().await {
            Err(ExecError::Refused { class: Class::NotFound, .. }) => return Ok(()),
            Err(error) if error.may_retry() => sleep(wait).await,
            outcome => return outcome,
        }
        wait *= 2;
    }
    attempt().await
}

async fn attach(start: &Start, step: &Step) -> Result<Attached, ExecError> {
    let action = &step.action;
    let most = if action.background { HOLD_MAX.to_duration() } else { END_WAIT };
    let most = (action.timeout().to_duration() + most).as_secs();
    let grace = action.timeout().to_duration().as_secs().max(1);
    let words =
        ["sh", "-c", KEEPER, "backstay", &step.id, &most.to_string(), &grace.to_string(), &action.value];
    start(step.place.clone(), words.map(str::to_owned).to_vec()).await
}

/// Stops it, and waits until it has ended.
async fn end(attached: &mut Attached) -> Result<(), ExecError> {
    drop(attached.stop().await);
    // Without an answer in time the caller's own outcome is what is told; the stream's end comes next.
    match timeout(END_WAIT, until_end(attached)).await {
        Ok(ended) => ended.map(|_| ()),
        Err(_) => Err(ExecError::Lost { why: "the keeper does not answer".to_owned() }),
    }
}

/// Tells it to let go, and hears what it says to that.
async fn ask_release(attached: &mut Attached) -> Result<Said, ExecError> {
    // A stream that takes no word has a last word to read, or ends.
    drop(attached.stop().await);
    let silent = |_| ExecError::Lost { why: "the keeper does not answer".to_owned() };
    timeout(END_WAIT, change(attached)).await.map_err(silent).flatten()
}

/// Until it says anything but that it holds.
async fn change(attached: &mut Attached) -> Result<Said, ExecError> {
    loop {
        match attached.next().await? {
            Said::Holding => {}
            said => return Ok(said),
        }
    }
}

async fn until_end(attached: &mut Attached) -> Result<i32, ExecError> {
    loop {
        if let Said::Ended(code) = attached.next().await? {
            return Ok(code);
        }
    }
}

/// What may be told of what it wrote. A child that goes on may keep the stream open: a second is enough for the rest.
async fn stderr(attached: Attached, step: &Step) -> Option<String> {
    if step.is_private {
        return None;
    }
    Some(shorten(&timeout(Duration::from_secs(1), attached.stderr()).await.unwrap_or_default()))
}
