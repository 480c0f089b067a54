//! A witness in a third cluster: one Lease for each plan, replaced only over the version that was seen.
//!
//! 1. The API server compares: a replace carries uid and resource version, so that it fails if anybody wrote in between,
//!    or deleted it and made it anew.
//! 2. What counts is in one annotation; the holder stands in the Lease's own field as well, for people. No time is
//!    written: nobody compares clocks.

use std::collections::BTreeMap;
use std::path::PathBuf;

use backstay_types::{Class, Classify};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::OnceCell;

use crate::cluster::{Cluster, ClusterError, ClusterOptions, error_class, error_text};

/// The record, as JSON.
const RECORD: &str = "backstay.dev/lease";
/// Before the id, in the name of the Lease.
const NAME_PREFIX: &str = "backstay-";

/// Why a lease was not read or swapped.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// The cluster's configuration.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The API server refused, or did not answer.
    #[error("{action} Lease {name} of the witness: {message}")]
    Api {
        /// What was tried.
        action: &'static str,
        /// On which.
        name: String,
        /// What kind of failure.
        class: Class,
        /// In its words.
        message: String,
    },
    /// It is not one of ours, or is damaged.
    #[error("read Lease {name} of the witness: {why}")]
    Damaged {
        /// Which.
        name: String,
        /// What is wrong.
        why: String,
    },
}

impl Classify for LeaseError {
    fn class(&self) -> Class {
        match self {
            LeaseError::Cluster(error) => error.class(),
            LeaseError::Api { class, .. } => *class,
            LeaseError::Damaged { .. } => Class::Corrupt,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            LeaseError::Cluster(error) => error.hint(),
            LeaseError::Api { class: Class::Unauthorized, .. } => Some(
                "the user of `witness.kubeconfig` needs get, create and update on leases.coordination.k8s.io in the \
                 namespace of `witness.url`"
                    .to_owned(),
            ),
            LeaseError::Api { class: Class::NotFound, .. } => {
                Some("make the namespace that `witness.url` names".to_owned())
            }
            LeaseError::Api { .. } => None,
            LeaseError::Damaged { name, .. } => {
                Some(format!("delete Lease {name}: the active side makes it anew"))
            }
        }
    }
}

/// Leases in one namespace of a cluster.
pub struct LeaseWitness {
    options: ClusterOptions,
    namespace: String,
    api: OnceCell<Api<Lease>>,
}

impl std::fmt::Debug for LeaseWitness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LeaseWitness").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

impl LeaseWitness {
    /// Connects when it is first asked.
    pub fn new(kubeconfig: Option<PathBuf>, namespace: String) -> Self {
        let options = ClusterOptions { kubeconfig, context: None };
        Self { options, namespace, api: OnceCell::new() }
    }

    /// A record with its version, if there is one.
    pub async fn read<T: DeserializeOwned>(&self, id: &str) -> Result<Option<(String, T)>, LeaseError> {
        let name = format!("{NAME_PREFIX}{id}");
        let found = self.api().await?.get_opt(&name).await;
        let Some(lease) = found.map_err(|error| api_error("read", &name, &error))? else { return Ok(None) };
        let damaged = |why: String| LeaseError::Damaged { name: name.clone(), why };
        let text = lease.metadata.annotations.as_ref().and_then(|all| all.get(RECORD));
        let text = text.ok_or_else(|| damaged(format!("expected the annotation {RECORD}")))?;
        let record = serde_json::from_str(text).map_err(|error| damaged(error.to_string()))?;
        Ok(Some((version(&lease).ok_or_else(|| damaged("expected a uid and a version".to_owned()))?, record)))
    }

    /// Replaces the version `over`, or makes the record without one. Gives the new version; `None` if another is there.
    pub async fn swap<T: Serialize>(
        &self,
        id: &str,
        over: Option<&str>,
        record: &T,
        holder: String,
    ) -> Result<Option<String>, LeaseError> {
        let name = format!("{NAME_PREFIX}{id}");
        let damaged = |why: String| LeaseError::Damaged { name: name.clone(), why };
        let text = serde_json::to_string(record).map_err(|error| damaged(error.to_string()))?;
        let (uid, resource_version) = match over {
            Some(over) => match over.split_once('/') {
                Some((uid, version)) => (Some(uid.to_owned()), Some(version.to_owned())),
                None => return Ok(None),
            },
            None => (None, None),
        };
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                uid,
                resource_version,
                annotations: Some(BTreeMap::from([(RECORD.to_owned(), text)])),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec { holder_identity: Some(holder), ..LeaseSpec::default() }),
        };
        let api = self.api().await?;
        let outcome = match over {
            Some(_) => api.replace(&name, &PostParams::default(), &lease).await,
            None => api.create(&PostParams::default(), &lease).await,
        };
        match outcome {
            Ok(lease) => {
                version(&lease).map(Some).ok_or_else(|| damaged("expected a uid and a version".to_owned()))
            }
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(None),
            // Deleted since it was seen; without the namespace nothing can be made either, and that is told.
            Err(kube::Error::Api(status)) if status.code == 404 && over.is_some() => Ok(None),
            Err(error) => Err(api_error("write", &name, &error)),
        }
    }

    async fn api(&self) -> Result<&Api<Lease>, LeaseError> {
        let connect = || async {
            let cluster = Cluster::connect(&self.options).await?;
            Ok(Api::namespaced(cluster.client().clone(), &self.namespace))
        };
        self.api.get_or_try_init(connect).await
    }
}

/// What a state of the Lease is called: the object, and its version.
fn version(lease: &Lease) -> Option<String> {
    let metadata = &lease.metadata;
    Some(format!("{}/{}", metadata.uid.as_ref()?, metadata.resource_version.as_ref()?))
}

fn api_error(action: &'static str, name: &str, error: &kube::Error) -> LeaseError {
    LeaseError::Api { action, name: name.to_owned(), class: error_class(error), message: error_text(error) }
}
