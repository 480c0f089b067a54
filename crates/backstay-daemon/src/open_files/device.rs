//! Block devices, and what the kernel itself makes of a volume: mounts, loop devices, device mappings.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{major, minor};

use super::mount::Mounts;
use super::{Counts, Kind, Target, User};

/// A block device with its partitions.
#[derive(Debug)]
pub(super) struct Devices {
    /// `major:minor` of each.
    names: BTreeSet<String>,
}

impl Devices {
    pub(super) fn of(rdev: u64) -> Self {
        let whole = name(rdev);
        let folder = Path::new("/sys/dev/block").join(&whole);
        let parts = entries(&folder).into_iter().filter(|part| part.join("partition").exists());
        let parts = parts.filter_map(|part| fs::read_to_string(part.join("dev")).ok());
        let names = parts.map(|text| text.trim().to_owned()).chain([whole]).collect();
        Self { names }
    }

    pub(super) fn contains(&self, rdev: u64) -> bool {
        self.names.contains(&name(rdev))
    }

    pub(super) fn contains_named(&self, dev: &str) -> bool {
        self.names.contains(dev)
    }
}

fn name(rdev: u64) -> String {
    format!("{}:{}", major(rdev), minor(rdev))
}

/// Adds what the kernel has made of the volumes.
pub(super) fn find(
    targets: &[Target],
    own: &Mounts,
    counts: Counts,
    found: &mut Vec<User>,
) -> io::Result<()> {
    let mut add = |who: String, what: String, writes: bool| {
        if writes || counts == Counts::Everybody {
            found.push(User { pid: None, who, what });
        }
    };
    for target in targets {
        let path = target.path.display();
        match &target.kind {
            // Whatever is written there would be hidden below it.
            Kind::Tree => {
                let inside = |at: &Path| at != target.path && at.starts_with(&target.path);
                for mount in own.0.iter().filter(|mount| inside(&mount.at)) {
                    add("a file system".to_owned(), format!("is mounted on {}", mount.at.display()), true);
                }
            }
            Kind::Device(devices) => {
                for mount in own.0.iter().filter(|mount| mount.is_backed_by(devices)) {
                    let what = format!("is mounted on {}", mount.at.display());
                    add(format!("the file system of {path}"), what, mount.is_writable);
                }
                for (who, writes) in devices.names.iter().flat_map(|name| holders(name)) {
                    add(format!("the device {who}"), format!("is made of {path}"), writes);
                }
            }
            Kind::File { .. } => {}
        }
    }
    for (device, backing, writes) in loops() {
        // Only what is there now: a file that was deleted is no volume.
        let (on, meta) = (own.locate(&backing), fs::metadata(&backing).ok());
        if targets.iter().any(|target| target.holds(on.as_ref(), meta.as_ref())) {
            add(format!("the loop device {device}"), format!("is made of {}", backing.display()), writes);
        }
    }
    Ok(())
}

/// Devices that are made of one, with whether they can be written.
fn holders(device: &str) -> Vec<(String, bool)> {
    let holder = |path: PathBuf| {
        let mapped = fs::read_to_string(path.join("dm/name")).map(|name| name.trim().to_owned());
        let kernel = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        (mapped.unwrap_or(kernel), !is_read_only(&path))
    };
    entries(&Path::new("/sys/dev/block").join(device).join("holders")).into_iter().map(holder).collect()
}

/// Loop devices in use: their name, the file they are made of, and whether they can be written.
fn loops() -> Vec<(String, PathBuf, bool)> {
    let of = |path: PathBuf| {
        let backing = fs::read_to_string(path.join("loop/backing_file")).ok()?;
        let name = path.file_name()?.to_string_lossy().into_owned();
        Some((name, PathBuf::from(backing.trim_end_matches('\n')), !is_read_only(&path)))
    };
    entries(Path::new("/sys/block")).into_iter().filter_map(of).collect()
}

fn is_read_only(device: &Path) -> bool {
    fs::read_to_string(device.join("ro")).is_ok_and(|text| text.trim() == "1")
}

/// None where there is no such folder: the kernel shows what there is.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let list = |entries: fs::ReadDir| entries.filter_map(Result::ok).map(|entry| entry.path()).collect();
    fs::read_dir(folder).map_or_else(|_| Vec::new(), list)
}
