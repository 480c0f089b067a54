//! Who acts: one daemon at a time, by a Lease.
//!
//! 1. Nobody compares clocks of two machines: a candidate waits until it has seen a Lease unchanged for its whole
//!    length by its own clock.
//! 2. A holder that could not renew stops [`GIVE_UP`] after its last success, well before anybody else may begin.
//!
//! At a crash the Lease runs out; at a stop it is given back, and the next daemon begins at once.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::time::Instant;

use super::host::Host;
use super::write::{WriteError, bounded};

/// Name of the Lease.
const NAME: &str = "backstay-controllers";
/// A holder that says nothing for so long is gone.
const LENGTH: Duration = Duration::from_secs(15);
/// A holder that could not renew for so long stops: 5 s before anybody else may begin.
const GIVE_UP: Duration = Duration::from_secs(10);
/// Between two renewals, and between two looks at somebody else's Lease.
const RETRY: Duration = Duration::from_secs(2);

/// One candidate.
pub(super) struct Election {
    api: Api<Lease>,
    identity: String,
    /// The Lease of somebody else, and since when it has been as it is.
    seen: Option<(Option<String>, Instant)>,
    /// The last failure that was logged: a server that is down for an hour is one line.
    told: Option<String>,
}

impl Election {
    pub(super) fn new(client: &Client, namespace: &str, identity: String) -> Self {
        Self { api: Api::namespaced(client.clone(), namespace), identity, seen: None, told: None }
    }

    /// Ends when this candidate holds the Lease; says when it was renewed last.
    pub(super) async fn win(&mut self, host: &impl Host) -> Instant {
        loop {
            let asked = Instant::now();
            match bounded(self.try_once(host)).await {
                Ok(true) => return asked,
                Ok(false) => self.told = None,
                Err(error) => self.tell(&error),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Renews; ends when the Lease is lost.
    pub(super) async fn hold(&mut self, host: &impl Host, mut renewed: Instant) {
        loop {
            tokio::time::sleep(RETRY).await;
            let asked = Instant::now();
            match tokio::time::timeout_at(renewed + GIVE_UP, self.try_once(host)).await {
                Ok(Ok(true)) => renewed = asked,
                Ok(Ok(false)) => return,
                Ok(Err(error)) => self.tell(&error.into()),
                Err(_) => return,
            }
            if renewed.elapsed() >= GIVE_UP {
                return;
            }
        }
    }

    /// Gives the Lease back.
    pub(super) async fn release(&mut self) -> Result<(), WriteError> {
        bounded(async {
            let Some(mut lease) = self.api.get_opt(NAME).await? else { return Ok(()) };
            let Some(spec) = lease.spec.as_mut().filter(|spec| holder(spec) == self.identity) else {
                return Ok(());
            };
            spec.holder_identity = None;
            self.api.replace(NAME, &PostParams::default(), &lease).await.map(drop)
        })
        .await
    }

    /// Whether this candidate holds the Lease after one try.
    async fn try_once(&mut self, host: &impl Host) -> Result<bool, kube::Error> {
        let now = Timestamp::from_millisecond(host.now().0).unwrap_or(Timestamp::UNIX_EPOCH);
        let Some(mut lease) = self.api.get_opt(NAME).await? else {
            return self.settle(self.api.create(&PostParams::default(), &self.fresh(now)).await);
        };
        let spec = lease.spec.get_or_insert_default();
        let is_mine = holder(spec) == self.identity;
        if !is_mine {
            if !holder(spec).is_empty() && !self.has_run_out(lease.metadata.resource_version.as_ref(), spec) {
                return Ok(false);
            }
            spec.holder_identity = Some(self.identity.clone());
            spec.acquire_time = Some(MicroTime(now));
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0).saturating_add(1));
        }
        spec.renew_time = Some(MicroTime(now));
        spec.lease_duration_seconds = Some(seconds(LENGTH));
        // Carries the version that was read: whoever was quicker wins.
        self.settle(self.api.replace(NAME, &PostParams::default(), &lease).await)
    }

    fn settle(&self, outcome: Result<Lease, kube::Error>) -> Result<bool, kube::Error> {
        match outcome {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn has_run_out(&mut self, version: Option<&String>, spec: &LeaseSpec) -> bool {
        match &self.seen {
            Some((seen, since)) if seen.as_ref() == version => {
                let length = u64::try_from(spec.lease_duration_seconds.unwrap_or(0)).unwrap_or(0);
                since.elapsed() > Duration::from_secs(length).max(LENGTH)
            }
            _ => {
                self.seen = Some((version.cloned(), Instant::now()));
                false
            }
        }
    }

    fn fresh(&self, now: Timestamp) -> Lease {
        Lease {
            metadata: ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.identity.clone()),
                acquire_time: Some(MicroTime(now)),
                renew_time: Some(MicroTime(now)),
                lease_duration_seconds: Some(seconds(LENGTH)),
                lease_transitions: Some(0),
                ..LeaseSpec::default()
            }),
        }
    }

    fn tell(&mut self, error: &WriteError) {
        let text = error.to_string();
        if self.told.as_ref() != Some(&text) {
            tracing::warn!("the controllers' Lease was not renewed: {text}");
            self.told = Some(text);
        }
    }
}

fn holder(spec: &LeaseSpec) -> &str {
    spec.holder_identity.as_deref().unwrap_or_default()
}

fn seconds(length: Duration) -> i32 {
    i32::try_from(length.as_secs()).unwrap_or(i32::MAX)
}
