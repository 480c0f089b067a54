//! The witness: a register for each plan, changed only over the version that was seen (compare and swap).
//!
//! Three kinds, one answer: a `backstay witness` ([`client`], [`serve`]), Leases in a third cluster, a folder on shared
//! storage ([`folder`]). None is asked to tell the time, and none is trusted with more than who holds a lease.
//!
//! 1. A swap that was acknowledged is durable, and happened over exactly the version that was named.
//! 2. No version is ever used twice.

mod client;
mod error;
mod folder;
mod serve;

use std::sync::Arc;

use backstay_engine::lease::{Answer, Ask, Seen, Version};
use backstay_kube::lease::LeaseWitness;
use backstay_types::{PairId, PlanName};

pub use error::WitnessError;
pub use serve::{WitnessOptions, serve as serve_witness};

use crate::config::{WitnessConfig, WitnessUrl};
use client::ServerWitness;
use folder::LeaseFolder;

/// Name of a record: the pair and the plan, so that no two pairs share one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LeaseId(String);

/// 32 of the pair, a dash and 63 of the plan.
const ID_BYTES_MAX: usize = 96;

impl LeaseId {
    /// That of a plan.
    pub(crate) fn of(pair: PairId, plan: &PlanName) -> Self {
        Self(format!("{pair}-{plan}"))
    }

    /// One that somebody sent: nothing that could leave a folder.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let good = !text.is_empty() && text.len() <= ID_BYTES_MAX && text.bytes().all(fits);
        good.then(|| Self(text.to_owned()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// How a swap ended, if that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Swapped {
    /// The record's version now.
    To(Version),
    /// Another version is there than the one that was named.
    Conflict,
}

/// The witness of this site.
#[derive(Debug, Clone)]
pub(crate) enum Witness {
    Server(ServerWitness),
    Lease(Arc<LeaseWitness>),
    Folder(LeaseFolder),
}

impl Witness {
    pub(crate) fn new(config: &WitnessConfig) -> Self {
        match &config.url {
            WitnessUrl::Server { endpoint, fingerprint } => Self::Server(ServerWitness::new(
                endpoint.clone(),
                *fingerprint,
                config.token_file.clone().unwrap_or_default(),
            )),
            WitnessUrl::Lease { namespace } => {
                Self::Lease(Arc::new(LeaseWitness::new(config.kubeconfig.clone(), namespace.clone())))
            }
            WitnessUrl::File { folder } => Self::Folder(LeaseFolder::new(folder.clone())),
        }
    }

    /// Carries a question.
    pub(crate) async fn ask(&self, id: &LeaseId, question: Ask) -> Result<Answer, WitnessError> {
        match question {
            Ask::Read => self.read(id).await.map(Answer::Read),
            Ask::Swap { over, record } => {
                let outcome = match self {
                    Self::Server(server) => server.swap(id, over.as_ref(), &record).await?,
                    Self::Lease(lease) => {
                        let over = over.as_ref().map(|version| version.0.as_str());
                        let holder = record.holder.to_string();
                        let swapped = lease.swap(id.as_str(), over, &record, holder).await?;
                        swapped.map_or(Swapped::Conflict, |version| Swapped::To(Version(version)))
                    }
                    Self::Folder(folder) => folder.clone().swap(id.clone(), over, record).await?,
                };
                Ok(match outcome {
                    Swapped::To(version) => Answer::Swapped(version),
                    Swapped::Conflict => Answer::Conflict,
                })
            }
        }
    }

    async fn read(&self, id: &LeaseId) -> Result<Option<Seen>, WitnessError> {
        match self {
            Self::Server(server) => server.read(id).await,
            Self::Lease(lease) => {
                let found = lease.read(id.as_str()).await?;
                Ok(found.map(|(version, record)| Seen { version: Version(version), record }))
            }
            Self::Folder(folder) => folder.clone().read(id.clone()).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use backstay_engine::lease::LeaseRecord;
    use backstay_types::{Epoch, SiteId, Span};

    /// A record as a site that renews it would send it.
    pub(super) fn record(beats: u64) -> LeaseRecord {
        LeaseRecord {
            plan: "shop".parse().expect("a name"),
            holder: SiteId([1; 16]),
            epoch: Epoch(1),
            after: Span(5000),
            beats,
            released: false,
            guarded: false,
        }
    }
}
