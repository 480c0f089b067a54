//! Neighbours: the plans of this site whose places meet, and what they may do to each other.
//!
//! 1. No two plans have places that meet, unless the one is a *chain* over the other: it reads, where it was made, what is
//!    the other's replica here (test `two_plans_over_one_source_are_refused`).
//! 2. Nothing is applied to a place that another plan has as well, however that came about: a plan of an earlier release,
//!    a changed site.toml, a chain whose other side was promoted (test `nothing_is_applied_to_a_place_of_two_plans`).
//! 3. A chain reads no replica that is being written: its cycle waits for the apply, and fails beside one that was cut
//!    off. It holds up no promotion: that one stops the cycle (test `a_chain_goes_from_site_to_site`).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use backstay_types::frame::SiteRole;
use backstay_types::plan::PlanSpec;
use backstay_types::{PlanName, VolumeName};

use crate::DaemonError;
use crate::places::Places;
use crate::plans::PlanRecord;
use crate::runtime::PlanRuntime;
use crate::site::{Site, layout};
use crate::spot::{Mounts, Spot};

/// A place of a plan on this site.
pub(crate) struct Owned {
    pub(crate) plan: Arc<PlanRecord>,
    pub(crate) path: PathBuf,
    spot: Spot,
}

impl Site {
    /// Refuses sources that another plan of this site has as well, unless they are its replicas; gives the plans whose
    /// replicas they are.
    pub(crate) fn chained_to(
        &self,
        plan: &PlanName,
        spec: &PlanSpec,
    ) -> Result<BTreeSet<PlanName>, DaemonError> {
        let sources = sources_of(&Mounts::read().map_err(mounts_unread)?, spec)?;
        let mut chained = BTreeSet::new();
        for owned in self.places_of_others(plan)? {
            for (path, spot) in &sources {
                match spot.meets(&owned.spot) {
                    Some(how) if how == "holds" || owned.plan.home => {
                        return Err(plans_meet(plan, path, &owned, how));
                    }
                    Some(_) => {
                        chained.insert(owned.plan.name.clone());
                    }
                    None => {}
                }
            }
        }
        Ok(chained)
    }

    /// Refuses to write to a place that another plan has as well, unless that one only reads it.
    pub(crate) fn check_alone(&self, record: &PlanRecord, place: &Path) -> Result<(), DaemonError> {
        let spot = spot_of(&Mounts::read().map_err(mounts_unread)?, place)?;
        for owned in self.places_of_others(&record.name)? {
            let only_reads = self.is_chain(&owned, record);
            if let Some(how) = spot.meets(&owned.spot).filter(|_| !only_reads) {
                return Err(plans_meet(&record.name, place, &owned, how));
            }
        }
        Ok(())
    }

    /// Refuses to make this side the standby of a chain: what it reads is written by another plan.
    pub(crate) fn check_can_follow(&self, record: &PlanRecord) -> Result<(), DaemonError> {
        if !record.home {
            return Ok(());
        }
        self.places_of(record).into_iter().try_for_each(|place| self.check_alone(record, &place))
    }

    /// Whether a place is that of a chain over `record`: made over its replica, and never written. One in the site's own
    /// folder for replicas cannot be anything else, also if an earlier release made it.
    fn is_chain(&self, owned: &Owned, record: &PlanRecord) -> bool {
        let replicas = self.dir.join(layout::REPLICAS).join(record.name.as_str());
        !record.home
            && owned.plan.home
            && (owned.plan.chained.contains(&record.name) || owned.path.starts_with(replicas))
    }

    /// The plans whose replicas here are what `record` reads, in the order of their names.
    fn links_of(&self, record: &PlanRecord) -> Vec<Arc<PlanRecord>> {
        let known = record.chained.iter().filter_map(|name| self.plans.find(name));
        known.filter(|link| record.home && !link.home).collect()
    }

    /// Stops the cycles that read the replicas of `record`: what it is about to do does not wait for them.
    pub(crate) fn stop_readers(&self, record: &PlanRecord) {
        for other in self.plans.list().iter().filter(|other| other.chained.contains(&record.name)) {
            if let Some(activity) = self.runtimes.of(&other.name).activity() {
                tracing::info!(plan = %other.name, "its cycle is stopped: it reads what plan {} promotes", record.name);
                activity.progress.cancel();
            }
        }
    }

    fn places_of_others(&self, plan: &PlanName) -> Result<Vec<Owned>, DaemonError> {
        let mounts = Mounts::read().map_err(mounts_unread)?;
        let mut all = Vec::new();
        for record in self.plans.list().into_iter().filter(|record| record.name != *plan) {
            for path in self.places_of(&record) {
                // The broken disk of one plan stops no other.
                let spot = spot_of(&mounts, &path).unwrap_or_else(|error| {
                    tracing::warn!(plan = %record.name, "compared by its name alone: {error}");
                    Spot::by_name(&path)
                });
                all.push(Owned { spot, plan: record.clone(), path });
            }
        }
        Ok(all)
    }

    /// Every place that a plan has here.
    fn places_of(&self, record: &PlanRecord) -> Vec<PathBuf> {
        let config = self.config.load();
        let places = Places { dir: &self.dir, config: &config };
        let of_volume = |name: &VolumeName| places.volume(Some(record), &record.name, name);
        let listed = record.spec.volumes.iter().map(|volume| of_volume(&volume.name));
        let claimed = record.claims.keys().map(of_volume);
        let manifests = record.spec.manifests.as_ref().map(|_| places.manifests(Some(record), &record.name));
        listed.chain(claimed).chain(manifests).collect()
    }
}

/// Refuses plans of one call that meet each other: they are stored one after the other, all or none.
pub(crate) fn check_apart<'d>(
    plans: impl Iterator<Item = (&'d PlanName, &'d PlanSpec)>,
) -> Result<(), DaemonError> {
    let mounts = Mounts::read().map_err(mounts_unread)?;
    let mut seen: Vec<(&PlanName, Vec<(&PathBuf, Spot)>)> = Vec::new();
    for (plan, spec) in plans {
        let sources = sources_of(&mounts, spec)?;
        for (other, others) in seen.iter().filter(|(other, _)| *other != plan) {
            for (path, spot) in &sources {
                let met = others.iter().find_map(|(there, taken)| Some((*there, spot.meets(taken)?)));
                if let Some((other_path, how)) = met {
                    let (plan, path) = (plan.clone(), path.to_path_buf());
                    let (other, other_path) = ((*other).clone(), other_path.clone());
                    return Err(DaemonError::PlansMeet { plan, path, other, other_path, how });
                }
            }
        }
        seen.push((plan, sources));
    }
    Ok(())
}

/// The sources of a plan that is made here, as it would be.
fn sources_of<'s>(mounts: &Mounts, spec: &'s PlanSpec) -> Result<Vec<(&'s PathBuf, Spot)>, DaemonError> {
    let volumes = spec.volumes.iter().filter_map(|volume| volume.path.as_ref().or(volume.device.as_ref()));
    let all = volumes.chain(spec.manifests.as_ref().map(|folder| &folder.path));
    all.map(|path| Ok((path, spot_of(mounts, path)?))).collect()
}

/// The gates of what a chain reads.
pub(crate) struct Links(Vec<(Arc<PlanRecord>, Arc<PlanRuntime>)>);

impl Links {
    pub(crate) fn of(site: &Site, record: &PlanRecord) -> Self {
        let links = site.links_of(record).into_iter();
        Self(links.map(|link| (link.clone(), site.runtimes.of(&link.name))).collect())
    }

    /// Waits until none of them is being written, and keeps it so.
    pub(crate) async fn shut(
        &self,
        site: &Site,
        plan: &PlanName,
    ) -> Result<Vec<tokio::sync::MutexGuard<'_, ()>>, DaemonError> {
        let mut gates = Vec::with_capacity(self.0.len());
        for (link, runtime) in &self.0 {
            gates.push(runtime.apply.lock().await);
            let is_active =
                site.plans.find(&link.name).is_some_and(|link| link.state.role() == SiteRole::Active);
            if !is_active && site.plans.applied(&link.name)?.target.is_some() {
                return Err(DaemonError::HalfApplied { plan: plan.clone(), other: link.name.clone() });
            }
        }
        Ok(gates)
    }
}

fn plans_meet(plan: &PlanName, path: &Path, owned: &Owned, how: &'static str) -> DaemonError {
    DaemonError::PlansMeet {
        plan: plan.clone(),
        path: path.to_owned(),
        other: owned.plan.name.clone(),
        other_path: owned.path.clone(),
        how,
    }
}

fn spot_of(mounts: &Mounts, path: &Path) -> Result<Spot, DaemonError> {
    mounts.spot(path).map_err(|source| DaemonError::io("resolve", path, source))
}

fn mounts_unread(source: std::io::Error) -> DaemonError {
    DaemonError::io("read", Path::new("/proc/self/mountinfo"), source)
}
