//! What the kernel knows of a block device: which it is, and what was written to it since it was attached.

use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fs::SeekFrom;
use serde::{Deserialize, Serialize};

use crate::VolumeError;

/// Names that outlive a restart, of device mapper, SCSI, NVMe and virtual disks; those of a partition are its disk's.
const NAMES: [&str; 8] = [
    "dm/uuid",
    "wwid",
    "device/wwid",
    "serial",
    "../wwid",
    "../device/wwid",
    "../serial",
    "loop/backing_file",
];

/// Fields of `stat`: requests and sectors, written and discarded.
const WRITES: [usize; 4] = [4, 6, 11, 13];

/// A device as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Device {
    name: Option<String>,
    /// The start of the machine, the attachment since, and how much was written.
    #[serde(default)]
    written: Option<(String, String, String)>,
}

impl Device {
    pub(super) fn of(major: u32, minor: u32) -> Device {
        let folder = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
        let read = |name: &str| {
            let text = std::fs::read_to_string(folder.join(name)).ok()?;
            Some(text.trim().to_owned()).filter(|text| !text.is_empty())
        };
        let name = NAMES.iter().find_map(|name| read(name));
        let partition = read("partition");
        let name = name.map(|name| format!("{name} {}", partition.unwrap_or_default()));
        let start = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
        let attached = read("diskseq").or_else(|| read("../diskseq"));
        let written = read("stat").and_then(|stat| {
            let fields: Vec<_> = stat.split_whitespace().collect();
            let of_interest = WRITES.iter().map(|field| fields.get(*field).copied());
            of_interest.collect::<Option<Vec<_>>>().map(|fields| fields.join(" "))
        });
        let written = match (start, attached, written) {
            (Some(start), Some(attached), Some(written)) => {
                Some((start.trim().to_owned(), attached, written))
            }
            _ => None,
        };
        Device { name, written }
    }

    /// Whether `now` is the same device, and nobody wrote to it; else why that is not known.
    pub(super) fn untouched(&self, now: &Device) -> Result<(), &'static str> {
        match (&self.written, &now.written) {
            _ if self.name != now.name => Err("it is another device"),
            (Some((start, attached, written)), Some(now)) if *start == now.0 && *attached == now.1 => {
                if *written == now.2 {
                    Ok(())
                } else {
                    Err("it was written to")
                }
            }
            (Some(_), Some(_)) => Err("it was attached anew"),
            _ => Err("what was written to it is not known"),
        }
    }
}

/// Length of a device.
pub(super) fn size(path: &Path) -> Result<u64, VolumeError> {
    let file = File::open(path).map_err(|source| VolumeError::io("open", path, source))?;
    rustix::fs::seek(&file, SeekFrom::End(0))
        .map_err(|source| VolumeError::io("find the size of", path, source))
}
