//! Why one object could not be brought to the standby, and what to do about it.

use backstay_types::{Class, Classify};
use kube::core::response::Status;

use super::error::{class, is_terminating, is_webhook, told};
use crate::hold::HoldError;
use crate::transform::TransformError;
use crate::{GroupKind, ObjectError};

/// A failure of one object.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("its content is not JSON")]
    Json,
    #[error(transparent)]
    Object(#[from] ObjectError),
    #[error("its key does not fit its content, {id}")]
    Key { id: String },
    #[error("the restore point has it twice")]
    Twice,
    #[error("cannot be held: {0}")]
    Hold(#[from] HoldError),
    #[error(transparent)]
    Transform(#[from] TransformError),
    #[error("metadata.{field} is not a mapping")]
    Mark { field: &'static str },
    #[error("the standby serves no {kind}")]
    NoKind { kind: GroupKind },
    #[error("the standby serves {kind} at {served}, not at {version}")]
    NoVersion { kind: GroupKind, version: String, served: String },
    #[error("the standby's {kind} cannot be listed: {why}")]
    Unreadable { kind: GroupKind, why: String },
    #[error("it exists on the standby and was not made by Backstay")]
    Foreign,
    #[error("it belongs to plan {plan}")]
    OtherPlan { plan: String },
    #[error("namespace {namespace} is being deleted")]
    Terminating { namespace: String },
    #[error("it is being deleted on the standby")]
    Deleting,
    #[error(
        "it changed in a field that cannot be changed, and its deletion waits for finalizers: {finalizers}"
    )]
    Stuck { finalizers: String },
    #[error("it changed in a field that cannot be changed, and it is not deleted for that: {message}")]
    Immutable { message: String },
    #[error("the definition was not accepted in {seconds} s: {why}")]
    NotEstablished { seconds: u64, why: String },
    #[error("the API server refused: {message}")]
    Refused { class: Class, message: String, webhook: bool },
    #[error("the answer cannot be understood: {why}")]
    Answer { why: String },
    #[error("it cannot be held, and there is no namespace to keep it in")]
    NoNamespace,
    #[error("it stays Pending: its volume {volume} is {phase} for another claim")]
    Unbound { volume: String, phase: String },
    #[error("it is larger than the API server takes")]
    TooLong,
}

impl Fault {
    /// An answer about an object of `kind`.
    pub(super) fn refused(kind: &GroupKind, namespace: Option<&str>, status: &Status) -> Self {
        if is_terminating(status) {
            return Fault::Terminating { namespace: namespace.unwrap_or_default().to_owned() };
        }
        Fault::Refused { class: class(status), message: told(kind, status), webhook: is_webhook(status) }
    }
}

impl Classify for Fault {
    fn class(&self) -> Class {
        match self {
            Fault::Json | Fault::Key { .. } | Fault::Twice => Class::Corrupt,
            Fault::Object(error) => error.class(),
            Fault::Hold(error) => error.class(),
            Fault::Transform(error) => error.class(),
            Fault::NoKind { .. } | Fault::NoVersion { .. } | Fault::Answer { .. } => Class::Incompatible,
            Fault::Unreadable { .. } | Fault::NotEstablished { .. } => Class::Transient,
            Fault::Mark { .. }
            | Fault::Foreign
            | Fault::OtherPlan { .. }
            | Fault::Immutable { .. }
            | Fault::Unbound { .. }
            | Fault::NoNamespace => Class::Invalid,
            Fault::Terminating { .. } | Fault::Deleting | Fault::Stuck { .. } => Class::Busy,
            Fault::Refused { class, .. } => *class,
            Fault::TooLong => Class::LimitExceeded,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Fault::Object(error) => return error.hint(),
            Fault::Hold(error) => return error.hint(),
            Fault::Transform(error) => return error.hint(),
            Fault::NoKind { .. } => {
                "install its definition on the standby, or leave the kind out with `excludeResources`"
            }
            Fault::NoVersion { .. } => "bring the definition on the standby to the version of the source",
            Fault::Foreign => {
                "delete or rename it on the standby, or hand it over by labelling it backstay.dev/plan=<plan>"
            }
            Fault::OtherPlan { .. } => "protect it by one of the two plans only",
            Fault::Terminating { .. } => {
                "the next cycle tries again; see what keeps the namespace with `kubectl describe namespace`"
            }
            Fault::Deleting | Fault::Stuck { .. } => {
                "the next cycle tries again; see who should remove the finalizers"
            }
            Fault::Immutable { .. } => {
                "it holds data: delete it on the standby by hand, and the next cycle makes it anew"
            }
            Fault::Refused { webhook: true, .. } => {
                "a webhook of the standby decides: start its backend, or exempt Backstay or the namespace from it"
            }
            Fault::Refused { class: Class::Unauthorized, .. } => {
                "grant Backstay's role on the standby (config/deploy)"
            }
            Fault::Unbound { .. } => {
                "see to the volume on the standby: what its claimRef names must be this claim, or nothing"
            }
            Fault::NoNamespace => "take the plan's Namespaces out of `excludeResources`",
            Fault::Unreadable { .. } => "the next cycle tries again once its API answers",
            _ => return None,
        };
        Some(hint.to_owned())
    }
}
