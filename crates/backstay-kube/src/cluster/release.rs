//! Release: at promotion, every object of a restore point gets its original values, wave by wave, and what was
//! deferred is created.
//!
//! 1. What is written is what was captured, but for the plan's transforms: nothing is computed from what the
//!    standby shows (test suite `kube`, `one_of_everything_stays_held_and_comes_back`).
//! 2. Repeating a release, or going on with one that was killed, writes only what is not released yet.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::task::spawn_blocking;

use super::Cluster;
use super::apply::ApplyOptions;
use super::error::ClusterError;
use super::items::{Items, Waves};
use super::prepare::{Prepare, Purpose};
use super::write::Tally;
use crate::failure::Failures;
use crate::folder::CapturedObject;
use crate::wave::{ReleasePlan, Wave};

/// What a release did. Every object is released, created, already as it should be, shared or failed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReleaseReport {
    /// Objects given their originals back.
    pub released: u64,
    /// Objects that had waited, or were not there.
    pub created: u64,
    /// Objects that run nothing, or that an earlier run had released.
    pub already: u64,
    /// Objects that the standby has its own of.
    pub shared: u64,
    /// Waves that were run.
    pub waves: Vec<i32>,
    /// What an operator should know and nothing failed for.
    pub warnings: Vec<String>,
    /// Objects that could not be released.
    pub failures: Failures,
}

impl Cluster {
    /// The waves in which the objects of a restore point will be released. Asks nothing of the cluster.
    pub async fn release_plan(
        objects: &Arc<Vec<CapturedObject>>,
        options: &ApplyOptions<'_>,
    ) -> Result<ReleasePlan, ClusterError> {
        let mut prepare = Prepare::new(options, Purpose::Run)?;
        let objects = objects.clone();
        let items = spawn_blocking(move || {
            prepare.learn(&objects);
            Items::of(&prepare, &objects)
        });
        let items = items.await.map_err(|_| ClusterError::Worker { what: "preparing the objects" })?;
        let mut waves: BTreeMap<i32, Vec<String>> = BTreeMap::new();
        for ((number, _), group) in items.groups(Waves::Release) {
            waves.entry(number).or_default().extend(group.into_iter().map(|item| item.slot.to_string()));
        }
        let waves = waves.into_iter().map(|(number, objects)| Wave { number, objects }).collect();
        Ok(ReleasePlan { waves, warnings: Vec::new(), failures: items.failures })
    }

    /// Releases the objects of a restore point. A failed object stays as it was and is named; the others go on.
    pub async fn release(
        &self,
        objects: &Arc<Vec<CapturedObject>>,
        options: &ApplyOptions<'_>,
    ) -> Result<ReleaseReport, ClusterError> {
        let (writer, items) = self.prepared(objects, Prepare::new(options, Purpose::Run)?).await?;
        let mut waves = Vec::new();
        for ((wave, _), group) in items.groups(Waves::Release) {
            writer.group(group).await?;
            if waves.last() != Some(&wave) {
                waves.push(wave);
            }
        }
        writer.rebind().await?;
        writer.forget_waiting().await?;
        let tally = std::mem::take(&mut *writer.tally());
        Ok(ReleaseReport::of(tally, waves))
    }
}

impl ReleaseReport {
    pub(super) fn of(tally: Tally, waves: Vec<i32>) -> Self {
        Self {
            released: tally.changed + tally.recreated,
            created: tally.created,
            already: tally.unchanged,
            shared: tally.shared,
            waves,
            warnings: tally.warnings,
            failures: tally.failures,
        }
    }
}
