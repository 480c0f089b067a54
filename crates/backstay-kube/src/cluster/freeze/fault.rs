//! Why an action failed, and what of it may be told.
//!
//! 1. A command's text is told to nobody. What it wrote to standard error is, shortened, unless its container has
//!    Secrets in its environment: then its exit code alone (test `nothing_is_told_of_a_container_with_secrets`).

use std::path::PathBuf;

use backstay_types::plan::{InvalidRule, OnError};
use backstay_types::{Class, Classify, Span};
use kube::core::response::Status;

use super::super::error::{ClusterError, class};
use super::record::Step;

/// What is told of standard error.
const STDERR_CHARS_MAX: usize = 200;

/// Why an application could not be frozen, or not be thawed.
#[derive(Debug, thiserror::Error)]
pub enum FreezeError {
    /// The pods could not be listed.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// A rule cannot be used.
    #[error("{field}: {source}")]
    Rule {
        /// Which of the plan's two.
        field: &'static str,
        /// What is wrong.
        source: InvalidRule,
    },
    /// A rule names a container that a pod of it has not.
    #[error("pod {pod} has no container {container}")]
    NoContainer {
        /// Namespace and name.
        pod: String,
        /// What the rule names.
        container: String,
    },
    /// More pods than can be held at once.
    #[error("the rules match {found} pods: at most {max} allowed")]
    TooManyPods {
        /// How many.
        found: usize,
        /// The limit.
        max: usize,
    },
    /// An action failed that must not. Everything was thawed.
    #[error("{action} in pod {pod}: {why}{}", and_more(*others))]
    Action {
        /// Which.
        action: String,
        /// Namespace and name.
        pod: String,
        /// What happened.
        why: String,
        /// Of what class.
        class: Class,
        /// What to do about it.
        hint: Option<String>,
        /// How many more failed.
        others: u64,
    },
    /// What is to be undone could not be recorded, or not be read back.
    #[error("{doing} {path:?}, the record of what is frozen: {source}")]
    Record {
        /// What was tried.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What happened.
        source: std::io::Error,
    },
}

fn and_more(others: u64) -> String {
    if others == 0 { String::new() } else { format!(" (and {others} more)") }
}

impl Classify for FreezeError {
    fn class(&self) -> Class {
        match self {
            FreezeError::Cluster(error) => error.class(),
            FreezeError::Rule { source, .. } => source.class(),
            FreezeError::NoContainer { .. } => Class::Invalid,
            FreezeError::TooManyPods { .. } => Class::LimitExceeded,
            FreezeError::Action { class, .. } => *class,
            FreezeError::Record { source, .. } => match source.kind() {
                std::io::ErrorKind::InvalidData => Class::Corrupt,
                _ => Class::Transient,
            },
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            FreezeError::Cluster(error) => error.hint(),
            FreezeError::Rule { source, .. } => source.hint(),
            FreezeError::NoContainer { .. } => {
                Some("correct `container` of the rule, or leave it out for the pod's first".to_owned())
            }
            FreezeError::TooManyPods { .. } => {
                Some("narrow `podSelector`, or run the action in one pod (`runInSinglePod`)".to_owned())
            }
            FreezeError::Action { hint, .. } => hint.clone(),
            FreezeError::Record { source, path, .. } => match source.kind() {
                std::io::ErrorKind::InvalidData => {
                    Some(format!("run the rule's post-actions by hand, then remove {}", path.display()))
                }
                _ => None,
            },
        }
    }
}

/// Why a command did not do what it should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum ExecError {
    #[error("the API server refused: {message}")]
    Refused { class: Class, message: String },
    #[error("the connection was lost: {why}")]
    Lost { why: String },
    #[error("it could not be started: {why}")]
    NotStarted { why: String },
    #[error("it did not {what} in {timeout}")]
    TimedOut { what: &'static str, timeout: Span },
    #[error("it ended with code {code}{}", told(stderr))]
    Failed { code: i32, stderr: Option<String> },
    #[error("it ended with code {code} before it held{}", told(stderr))]
    NeverHeld { code: i32, stderr: Option<String> },
    #[error("it let go before the snapshot was taken: code {code}{}", told(stderr))]
    LetGo { code: i32, stderr: Option<String> },
}

fn told(stderr: &Option<String>) -> String {
    match stderr.as_deref() {
        None => {
            ", and what it wrote is not told, since its container has Secrets in its environment or its files"
                .to_owned()
        }
        Some("") => String::new(),
        Some(text) => format!(": {text}"),
    }
}

impl ExecError {
    pub(super) fn refused(status: &Status) -> Self {
        ExecError::Refused { class: class(status), message: shorten(&status.message) }
    }

    /// Whether the command is known to have ended.
    pub(super) fn has_ended(&self) -> bool {
        !matches!(self, ExecError::Lost { .. } | ExecError::TimedOut { .. })
    }

    /// Whether the command may not have run, and may run if tried again.
    pub(super) fn may_retry(&self) -> bool {
        match self {
            ExecError::Lost { .. }
            | ExecError::NotStarted { .. }
            | ExecError::TimedOut { what: "start", .. } => true,
            ExecError::Refused { class, .. } => class.retries(),
            _ => false,
        }
    }
}

impl Classify for ExecError {
    fn class(&self) -> Class {
        match self {
            ExecError::Refused { class, .. } => *class,
            ExecError::Lost { .. } | ExecError::TimedOut { .. } | ExecError::NotStarted { .. } => {
                Class::Transient
            }
            ExecError::Failed { .. } | ExecError::NeverHeld { .. } | ExecError::LetGo { .. } => {
                Class::Incomplete
            }
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            ExecError::Refused { class: Class::Unauthorized, .. } => {
                "grant Backstay `get` and `create` on `pods/exec` in this namespace (config/deploy)"
            }
            ExecError::NotStarted { .. } => {
                "an image needs `sh`, `mkdir`, `mkfifo`, `rm` and `sleep` for a rule"
            }
            ExecError::TimedOut { .. } => "raise the action's `timeout`, or see what it waits for",
            ExecError::Failed { stderr: None, .. }
            | ExecError::NeverHeld { stderr: None, .. }
            | ExecError::LetGo { stderr: None, .. } => {
                "run the action's command with `kubectl exec` to see why"
            }
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

/// The beginning of a text, on one line.
pub(super) fn shorten(text: &str) -> String {
    let text = text.trim();
    let mut chars = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let short: String = chars.by_ref().take(STDERR_CHARS_MAX).collect();
    if chars.next().is_some() { format!("{short} …") } else { short }
}

/// When an action failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    /// Before the snapshot was taken: it shows an application that was not quiet.
    Before,
    /// After it.
    After,
}

/// An action that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) when: When,
    action: String,
    pod: String,
    on_error: OnError,
    error: ExecError,
}

impl Failure {
    pub(super) fn new(when: When, step: &Step, error: ExecError) -> Self {
        let (action, on_error) = (step.name.clone(), step.action.on_error);
        let pod = format!("{}/{}", step.place.namespace, step.place.pod);
        Self { when, action, pod, on_error, error }
    }

    /// Whether its command is known to have ended.
    pub(super) fn has_ended(&self) -> bool {
        self.error.has_ended()
    }

    /// Whether the cycle fails with it.
    pub(super) fn is_fatal(&self) -> bool {
        self.on_error == OnError::Fail
    }

    /// As the error of the whole freeze.
    pub(super) fn fatal(&self, others: u64) -> FreezeError {
        FreezeError::Action {
            action: self.action.clone(),
            pod: self.pod.clone(),
            why: self.error.to_string(),
            class: self.error.class(),
            hint: self.error.hint(),
            others,
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} in pod {}: {}", self.action, self.pod, self.error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_told_of_a_container_with_secrets() {
        let failed = |stderr: Option<&str>| ExecError::Failed { code: 1, stderr: stderr.map(shorten) };
        assert_eq!(failed(Some("")).to_string(), "it ended with code 1");
        assert_eq!(
            failed(Some("Access denied\nbye\n")).to_string(),
            "it ended with code 1: Access denied bye"
        );
        let private = failed(None);
        assert!(private.to_string().contains("is not told") && private.hint().is_some());
        let long = "x".repeat(5000);
        assert_eq!(failed(Some(&long)).to_string().chars().filter(|c| *c == 'x').count(), STDERR_CHARS_MAX);
    }

    #[test]
    fn what_was_not_delivered_is_tried_again() {
        let refused = |class| ExecError::Refused { class, message: String::new() };
        assert!(refused(Class::Transient).may_retry() && !refused(Class::Unauthorized).may_retry());
        assert!(ExecError::Lost { why: String::new() }.may_retry());
        assert!(!ExecError::Failed { code: 1, stderr: None }.may_retry());
    }
}
