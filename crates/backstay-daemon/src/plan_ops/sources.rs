//! Whether the sources that a plan names can be what it says. Volumes may be unmounted and mounted later, so a cycle
//! looks again; what is plainly wrong is told when the plan is applied.

use std::fs;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use backstay_types::PlanName;
use backstay_types::plan::PlanSpec;

use crate::DaemonError;
use crate::site::Site;
use crate::spot::{Mounts, Spot};

impl Site {
    pub(crate) fn check_sources(&self, plan: &PlanName, spec: &PlanSpec) -> Result<(), DaemonError> {
        let mounts =
            Mounts::read().map_err(|error| unusable(plan, Path::new("/proc/self/mountinfo"), error))?;
        let mut volumes: Vec<(&Path, Spot)> = Vec::new();
        for volume in &spec.volumes {
            let source = match (&volume.path, &volume.device) {
                (Some(path), _) => folder(plan, path)?,
                (None, Some(device)) => image(plan, device)?,
                (None, None) => continue,
            };
            self.check_place(plan, source)?;
            let spot = mounts.spot(source).map_err(|error| unusable(plan, source, error))?;
            for (other, taken) in &volumes {
                if let Some(how) = spot.meets(taken) {
                    return Err(DaemonError::VolumesMeet {
                        plan: plan.clone(),
                        path: source.to_owned(),
                        other: (*other).to_owned(),
                        how,
                    });
                }
            }
            volumes.push((source, spot));
        }
        if let Some(manifests) = &spec.manifests {
            self.check_place(plan, folder(plan, &manifests.path)?)?;
        }
        self.chained_to(plan, spec).map(drop)
    }

    /// A volume that holds the site itself would grow with each cycle that ships it.
    pub(crate) fn check_place(&self, plan: &PlanName, source: &Path) -> Result<(), DaemonError> {
        if self.is_replica(source)? {
            return Ok(());
        }
        self.refuse_own(source).map_err(|error| match error {
            DaemonError::OwnFolder { path, own, how } => {
                DaemonError::SourceOwn { plan: plan.clone(), path, own, how }
            }
            other => other,
        })
    }
}

fn folder<'p>(plan: &PlanName, path: &'p Path) -> Result<&'p Path, DaemonError> {
    let meta = fs::metadata(path).map_err(|error| unusable(plan, path, error))?;
    if meta.is_dir() { Ok(path) } else { Err(wrong_kind(plan, path, "a folder")) }
}

fn image<'p>(plan: &PlanName, path: &'p Path) -> Result<&'p Path, DaemonError> {
    let kind = fs::metadata(path).map_err(|error| unusable(plan, path, error))?.file_type();
    let fits = kind.is_file() || kind.is_block_device();
    if fits { Ok(path) } else { Err(wrong_kind(plan, path, "a block device or an image file")) }
}

fn unusable(plan: &PlanName, path: &Path, source: std::io::Error) -> DaemonError {
    DaemonError::Source { plan: plan.clone(), path: path.to_owned(), source }
}

fn wrong_kind(plan: &PlanName, path: &Path, expected: &'static str) -> DaemonError {
    DaemonError::SourceKind { plan: plan.clone(), path: path.to_owned(), expected }
}
