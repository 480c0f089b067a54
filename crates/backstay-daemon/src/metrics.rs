//! Prometheus metrics. Labels are plan and peer names, error classes and fixed words: bounded, and never text
//! of an error.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use backstay_types::frame::SiteRole;
use backstay_types::{Class, PlanName};
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabel, EncodeLabelSet, LabelSetEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::DaemonError;
use crate::site::Site;

/// One label and its value; the name is fixed by the metric.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Label<const NAME: u8>(String);

const PLAN: u8 = 0;
const PEER: u8 = 1;
const CLASS: u8 = 2;
const DIRECTION: u8 = 3;
const RESULT: u8 = 4;

impl<const NAME: u8> EncodeLabelSet for Label<NAME> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), std::fmt::Error> {
        let name = match NAME {
            PLAN => "plan",
            PEER => "peer",
            CLASS => "class",
            DIRECTION => "direction",
            _ => "result",
        };
        EncodeLabel::encode(&(name, self.0.as_str()), encoder.encode_label())
    }
}

type Seconds = Gauge<f64, AtomicU64>;

/// Every metric of the daemon.
pub(crate) struct Metrics {
    registry: Registry,
    lag: Family<Label<PLAN>, Seconds>,
    rpo_target: Family<Label<PLAN>, Seconds>,
    last_success: Family<Label<PLAN>, Seconds>,
    cycle_duration: Family<Label<PLAN>, Histogram, fn() -> Histogram>,
    scanned: Family<Label<PLAN>, Counter>,
    wire: Family<Label<DIRECTION>, Counter>,
    chunks: Family<Label<RESULT>, Counter>,
    store_bytes: Gauge,
    restore_points: Family<Label<PLAN>, Gauge>,
    connected: Family<Label<PEER>, Gauge>,
    role: Family<Label<PLAN>, Gauge>,
    epoch: Family<Label<PLAN>, Gauge>,
    errors: Family<Label<CLASS>, Counter>,
    witness: Family<Label<PLAN>, Gauge>,
    apply_failed: Family<Label<PLAN>, Gauge>,
}

/// 0.1 s to 14 h, doubling.
fn cycle_buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.1, 2.0, 20))
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut all = Self {
            registry: Registry::with_prefix("backstay"),
            lag: Family::default(),
            rpo_target: Family::default(),
            last_success: Family::default(),
            cycle_duration: Family::new_with_constructor(cycle_buckets),
            scanned: Family::default(),
            wire: Family::default(),
            chunks: Family::default(),
            store_bytes: Gauge::default(),
            restore_points: Family::default(),
            connected: Family::default(),
            role: Family::default(),
            epoch: Family::default(),
            errors: Family::default(),
            witness: Family::default(),
            apply_failed: Family::default(),
        };
        let r = &mut all.registry;
        r.register("lag_seconds", "Now minus the snapshot time of the newest restore point", all.lag.clone());
        r.register("rpo_target_seconds", "The lag the operator wants to stay under", all.rpo_target.clone());
        let help = "Snapshot time of the newest acknowledged restore point";
        r.register("last_success_timestamp_seconds", help, all.last_success.clone());
        r.register("cycle_duration_seconds", "Length of successful cycles", all.cycle_duration.clone());
        r.register("scanned_bytes", "Bytes walked by cycles", all.scanned.clone());
        r.register("wire_bytes", "Bytes put on or taken from the network by cycles", all.wire.clone());
        r.register("chunks", "Chunks sent, found at the peer, or refused", all.chunks.clone());
        r.register("store_bytes", "Bytes of the store on disk", all.store_bytes.clone());
        r.register("restore_points", "Restore points held here", all.restore_points.clone());
        r.register("connected", "Whether a connection to the peer stands", all.connected.clone());
        r.register("role", "1 active, 0 standby, 2 demoting, 3 promoting", all.role.clone());
        r.register("epoch", "Epoch of the plan", all.epoch.clone());
        r.register("errors", "Failures by class", all.errors.clone());
        let help = "Whether the witness of automatic failover answered the last question";
        r.register("witness_reachable", help, all.witness.clone());
        let help = "Whether the standby failed to bring its replicas up, as it says or as the active side heard last";
        r.register("apply_failed", help, all.apply_failed.clone());
        all
    }

    pub(crate) fn count_error(&self, class: Class) {
        self.errors.get_or_create(&Label(class.label().to_owned())).inc();
    }

    pub(crate) fn count_chunks(&self, result: &'static str, count: u64) {
        self.chunks.get_or_create(&Label(result.to_owned())).inc_by(count);
    }

    pub(crate) fn count_wire(&self, direction: &'static str, bytes: u64) {
        self.wire.get_or_create(&Label(direction.to_owned())).inc_by(bytes);
    }

    pub(crate) fn cycle_done(&self, plan: &PlanName, seconds: f64, scanned: u64) {
        let label = Label(plan.to_string());
        self.cycle_duration.get_or_create(&label).observe(seconds);
        self.scanned.get_or_create(&label).inc_by(scanned);
    }
}

const fn role_value(role: SiteRole) -> i64 {
    match role {
        SiteRole::Standby => 0,
        SiteRole::Active => 1,
        SiteRole::Demoting => 2,
        SiteRole::Promoting => 3,
    }
}

fn gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

impl Site {
    /// All metrics as text, the gauges read now.
    pub(crate) fn metrics_text(self: &Arc<Self>) -> Result<String, DaemonError> {
        let metrics = &self.metrics;
        metrics.store_bytes.set(gauge(self.store.usage().bytes));
        for family in [&metrics.lag, &metrics.rpo_target, &metrics.last_success] {
            family.clear();
        }
        metrics.restore_points.clear();
        metrics.role.clear();
        metrics.epoch.clear();
        metrics.witness.clear();
        metrics.apply_failed.clear();
        metrics.connected.clear();
        for peer in self.net.peers() {
            metrics.connected.get_or_create(&Label(peer.record.name.clone())).set(i64::from(peer.connected));
        }
        for record in self.plans.list() {
            let label = Label(record.name.to_string());
            let status = self.plan_status(&record.name)?;
            if let Some(lag) = status.lag_seconds {
                metrics.lag.get_or_create(&label).set(lag);
                metrics.last_success.get_or_create(&label).set(crate::clock::now().0 as f64 / 1000.0 - lag);
            }
            if let Some(target) = status.rpo_target_seconds {
                metrics.rpo_target.get_or_create(&label).set(target);
            }
            if let Some(automatic) = &status.automatic_failover {
                metrics.witness.get_or_create(&label).set(i64::from(automatic.reachable));
            }
            let heard = status.standby.as_ref().is_some_and(|standby| standby.apply_error.is_some());
            let failed = heard || (record.state.role() == SiteRole::Standby && status.apply_error.is_some());
            metrics.apply_failed.get_or_create(&label).set(i64::from(failed));
            let held = self.store.points(&record.name)?.len();
            metrics.restore_points.get_or_create(&label).set(i64::try_from(held).unwrap_or(i64::MAX));
            metrics.role.get_or_create(&label).set(role_value(record.state.role()));
            metrics.epoch.get_or_create(&label).set(gauge(record.state.epoch().0));
        }
        let mut text = String::new();
        encode(&mut text, &metrics.registry)
            .map_err(|error| DaemonError::Request { message: format!("metrics do not encode: {error}") })?;
        Ok(text)
    }
}
