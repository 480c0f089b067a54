//! What the kernel knows of a block device: which it is, and what was written to it since it was attached.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::SeekFrom;
use serde::{Deserialize, Serialize};

use crate::VolumeError;
use crate::fs::safe;
use crate::quiet;

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

/// A device as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Device {
    name: Option<String>,
    /// The start of the machine, the attachment since, and the sectors written and discarded. An earlier release put the
    /// number of requests before each of the two.
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
        let written = read("stat").and_then(|stat| quiet::sectors(&stat));
        let written = written.map(|[written, discarded]| format!("{written} {discarded}"));
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
                if sectors(written) == sectors(&now.2) {
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

/// The sectors of a note. Requests are left out: an empty one, such as the flush that a reader asks for, counts as a write
/// (test `what_a_reader_flushes_is_no_write`).
fn sectors(note: &str) -> Vec<&str> {
    match note.split(' ').collect::<Vec<_>>()[..] {
        [_, written, _, discarded] => vec![written, discarded],
        ref fields => fields.to_vec(),
    }
}

/// Length of a device.
pub(super) fn size(device: &OwnedFd, shown: &Path) -> Result<u64, VolumeError> {
    let file = File::open(safe::path_of(device)).map_err(|source| VolumeError::io("open", shown, source))?;
    rustix::fs::seek(&file, SeekFrom::End(0))
        .map_err(|source| VolumeError::io("find the size of", shown, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_reader_flushes_is_no_write() {
        let with = |note: &str| Device {
            name: Some("disk".to_owned()),
            written: Some(("start".to_owned(), "7".to_owned(), note.to_owned())),
        };
        let now = with("800 64");
        assert_eq!(with("800 64").untouched(&now), Ok(()));
        assert_eq!(with("15 800 2 64").untouched(&now), Ok(()), "the note of an earlier release");
        for other in ["808 64", "800 72", "15 808 2 64", "15 800 2 72"] {
            assert_eq!(with(other).untouched(&now), Err("it was written to"), "{other}");
        }
    }
}
