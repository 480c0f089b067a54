//! What can go wrong with an API server, and what of its words may be shown.
//!
//! 1. Nothing of a Secret's content is in a message: of an answer about a Secret, only fields and reasons are
//!    told (test `an_answer_about_a_secret_is_told_without_values`).

use backstay_types::{Class, Classify, Epoch, PlanName};
use kube::core::response::Status;

use super::ClusterOptions;
use crate::GroupKind;
use crate::hold::HoldSpecError;
use crate::transform::TransformSpecError;

/// Longest text of a server that is passed on.
const MESSAGE_CHARS_MAX: usize = 400;

/// Code of an answer that did not come in time.
pub(super) const TIMED_OUT: u16 = 408;

/// Why a whole run failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClusterError {
    /// The configuration cannot be used.
    #[error("read the configuration of the cluster ({place}): {why}")]
    Config {
        /// Where it was looked for.
        place: String,
        /// What is wrong.
        why: String,
    },
    /// No answer.
    #[error("{doing}: the API server does not answer: {why}")]
    Unreachable {
        /// What was tried.
        doing: String,
        /// What happened instead.
        why: String,
    },
    /// The server said no.
    #[error("{doing}: the API server refused: {message}")]
    Refused {
        /// What was tried.
        doing: String,
        /// What kind of refusal.
        class: Class,
        /// In its words.
        message: String,
    },
    /// An answer that is not what the API promises.
    #[error("{doing}: the answer cannot be understood: {why}")]
    Answer {
        /// What was tried.
        doing: String,
        /// What is wrong.
        why: String,
    },
    /// Too much of something.
    #[error("{what}: at most {max} allowed")]
    TooMuch {
        /// Of what.
        what: &'static str,
        /// The limit.
        max: usize,
    },
    /// A namespace of the plan is not there.
    #[error("namespace {namespace} does not exist")]
    NoNamespace {
        /// Its name.
        namespace: String,
    },
    /// A namespace of the plan is on its way out.
    #[error("namespace {namespace} is being deleted")]
    NamespaceEnding {
        /// Its name.
        namespace: String,
    },
    /// Nothing is selected.
    #[error("no namespace matches the plan's `namespaceSelector`")]
    NothingSelected,
    /// Another daemon has written at a higher epoch.
    #[error("{object} was written at epoch {found} of plan {plan}, and this daemon knows of epoch {ours}")]
    Superseded {
        /// The plan.
        plan: PlanName,
        /// The object.
        object: String,
        /// Its epoch.
        found: Epoch,
        /// The epoch known here.
        ours: Epoch,
    },
    /// A plan's holds cannot be used.
    #[error(transparent)]
    Holds(#[from] HoldSpecError),
    /// A plan's transforms cannot be used.
    #[error(transparent)]
    Transforms(#[from] TransformSpecError),
    /// A task of this process ended.
    #[error("{what} ended before it was done")]
    Worker {
        /// Which.
        what: &'static str,
    },
}

impl Classify for ClusterError {
    fn class(&self) -> Class {
        match self {
            ClusterError::Config { .. } => Class::Invalid,
            ClusterError::Unreachable { .. } => Class::Transient,
            ClusterError::Refused { class, .. } => *class,
            ClusterError::Answer { .. } => Class::Incompatible,
            ClusterError::TooMuch { .. } => Class::LimitExceeded,
            ClusterError::NoNamespace { .. }
            | ClusterError::NamespaceEnding { .. }
            | ClusterError::NothingSelected => Class::NotFound,
            ClusterError::Superseded { .. } => Class::Fenced,
            ClusterError::Holds(error) => error.class(),
            ClusterError::Transforms(error) => error.class(),
            ClusterError::Worker { .. } => Class::Bug,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            ClusterError::Config { .. } => {
                Some("check the kubeconfig and its context with `kubectl config view`".to_owned())
            }
            ClusterError::Unreachable { .. } => {
                Some("the next cycle tries again; check the address in the kubeconfig".to_owned())
            }
            ClusterError::Refused { class: Class::Unauthorized, .. } => {
                Some("grant Backstay's role on this cluster (config/deploy)".to_owned())
            }
            ClusterError::Answer { .. } => Some("Backstay needs Kubernetes 1.30 or newer".to_owned()),
            ClusterError::TooMuch { .. } => {
                Some("split the plan, or leave kinds out with `excludeResources`".to_owned())
            }
            ClusterError::Superseded { .. } => Some(
                "another daemon promoted the plan on this cluster: see that only one runs for it, with its site folder; if \
                 this is the one, `backstay promote PLAN --force` goes on above that epoch"
                    .to_owned(),
            ),
            ClusterError::NoNamespace { .. } => Some(
                "correct `namespaces`; a namespace that was deleted on purpose is taken out of the plan"
                    .to_owned(),
            ),
            ClusterError::NamespaceEnding { .. } => Some(
                "the standby keeps its copy, and a promotion brings it back; a namespace that was deleted on purpose is taken out of the plan"
                    .to_owned(),
            ),
            ClusterError::Holds(error) => error.hint(),
            ClusterError::Transforms(error) => error.hint(),
            ClusterError::Refused { .. } | ClusterError::NothingSelected | ClusterError::Worker { .. } => {
                None
            }
        }
    }
}

impl ClusterError {
    pub(super) fn config(options: &ClusterOptions, source: &dyn std::error::Error) -> Self {
        let place = options.kubeconfig.as_ref().map_or_else(
            || "$KUBECONFIG, home folder or service account".to_owned(),
            |path| path.display().to_string(),
        );
        Self::Config { place, why: chain(source) }
    }
}

/// Why one request failed.
#[derive(Debug, Clone)]
pub(super) enum RequestError {
    /// No answer, also after a few tries.
    Lost { why: String },
    /// An answer that says no.
    Status(Box<Status>),
    /// An answer that is not what the API promises.
    Answer { why: String },
    /// A longer answer than we read.
    TooLong,
}

impl RequestError {
    /// As the error of a whole run.
    pub(super) fn fatal(self, doing: impl Into<String>) -> ClusterError {
        let doing = doing.into();
        match self {
            RequestError::Lost { why } => ClusterError::Unreachable { doing, why },
            RequestError::Status(status) => {
                ClusterError::Refused { doing, class: class(&status), message: shorten(&status.message) }
            }
            RequestError::Answer { why } => ClusterError::Answer { doing, why },
            RequestError::TooLong => ClusterError::TooMuch {
                what: "bytes of one object or answer",
                max: super::request::ANSWER_BYTES_MAX,
            },
        }
    }

    /// An answer that did not come in time, in the form of one that says so.
    pub(super) fn slow(message: String) -> Self {
        let status = Status { code: TIMED_OUT, reason: "Timeout".to_owned(), message, ..Status::default() };
        RequestError::Status(Box::new(status))
    }

    pub(super) fn status(&self) -> Option<&Status> {
        match self {
            RequestError::Status(status) => Some(status),
            _ => None,
        }
    }

    pub(super) fn is_conflict(&self) -> bool {
        self.status().is_some_and(|status| status.code == 409)
    }

    pub(super) fn is_not_found(&self) -> bool {
        self.status().is_some_and(|status| status.code == 404)
    }
}

/// What kind of failure an answer is.
pub(super) fn class(status: &Status) -> Class {
    if is_terminating(status) {
        return Class::Busy;
    }
    match status.code {
        401 | 403 => Class::Unauthorized,
        404 | 410 => Class::NotFound,
        TIMED_OUT => Class::Transient,
        409 | 429 => Class::Busy,
        413 => Class::LimitExceeded,
        400..=499 => Class::Invalid,
        _ => Class::Transient,
    }
}

/// The same of a client's error.
pub(crate) fn error_class(error: &kube::Error) -> Class {
    match error {
        kube::Error::Api(status) => class(status),
        _ => Class::Transient,
    }
}

/// What a client's error says, on one line. Not for requests about Secrets.
pub(crate) fn error_text(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => shorten(&status.message),
        error => chain(error),
    }
}

/// Whether a namespace that is going away was in the way.
pub(super) fn is_terminating(status: &Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
}

/// Whether a webhook decided, or was to decide and is not there.
pub(super) fn is_webhook(status: &Status) -> bool {
    status.message.contains("admission webhook") || status.message.contains("failed calling webhook")
}

/// What an answer about an object of `kind` says, without a Secret's content.
pub(super) fn told(kind: &GroupKind, status: &Status) -> String {
    if !kind.is("", "Secret") {
        return shorten(&status.message);
    }
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let fields: Vec<_> =
        causes.map(|cause| format!("{} ({})", field_name(&cause.field), cause.reason)).collect();
    let mut text = format!("{} ({})", status.reason, status.code);
    if let Some(webhook) = webhook_name(&status.message) {
        text = format!("{text} by webhook {webhook}");
    }
    if fields.is_empty() { text } else { format!("{text}: {}", shorten(&fields.join(", "))) }
}

/// A field's path, up to the name of an entry: entries of `data` have names of the operator's choice.
fn field_name(field: &str) -> &str {
    field.split('[').next().unwrap_or_default()
}

/// The webhook an answer names: `admission webhook "a.b.c" denied the request: …`.
fn webhook_name(message: &str) -> Option<&str> {
    let (_, rest) = message.split_once("webhook \"")?;
    let (name, _) = rest.split_once('"')?;
    let is_name = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)) && name.len() <= 253;
    is_name.then_some(name)
}

/// The beginning of a text, on one line.
pub(super) fn shorten(text: &str) -> String {
    let mut chars = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let short: String = chars.by_ref().take(MESSAGE_CHARS_MAX).collect();
    if chars.next().is_some() { format!("{short} …") } else { short }
}

/// An error and what caused it, on one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        source = inner.source();
    }
    shorten(&text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(value: serde_json::Value) -> Status {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn an_answer_about_a_secret_is_told_without_values() {
        let invalid = status(json!({"code": 422, "reason": "Invalid",
            "message": "Secret \"s\" is invalid: data[hunter2]: Invalid value: \"hunter2\": no",
            "details": {"causes": [{"reason": "FieldValueInvalid", "message": "Invalid value: \"hunter2\"", "field": "data[hunter2]"}]}}));
        assert_eq!(told(&GroupKind::new("", "Secret"), &invalid), "Invalid (422): data (FieldValueInvalid)");
        let denied = status(json!({"code": 400, "reason": "BadRequest",
            "message": "admission webhook \"check.example.org\" denied the request: hunter2 is weak"}));
        let text = told(&GroupKind::new("", "Secret"), &denied);
        assert_eq!(text, "BadRequest (400) by webhook check.example.org");
        assert!(told(&GroupKind::new("", "Service"), &denied).contains("denied the request"));
    }

    #[test]
    fn classes_of_answers() {
        let terminating = json!({"code": 403, "reason": "Forbidden", "message": "…",
            "details": {"causes": [{"reason": "NamespaceTerminating", "message": "x", "field": "metadata.namespace"}]}});
        assert_eq!(class(&status(terminating)), Class::Busy);
        for (code, expected) in [
            (401, Class::Unauthorized),
            (404, Class::NotFound),
            (409, Class::Busy),
            (422, Class::Invalid),
            (500, Class::Transient),
        ] {
            assert_eq!(class(&status(json!({"code": code}))), expected, "{code}");
        }
    }
}
