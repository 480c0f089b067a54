//! Which modification times a file system can hold.

use backstay_types::manifest::Mtime;
use serde::{Deserialize, Serialize};

/// Coarseness of times that file systems have, in nanoseconds: NTFS, SMB and NFS, ext4 with small inodes, FAT.
const GRANULES: [u32; 4] = [100, 1_000, 1_000_000, 1_000_000_000];

/// What a file system makes of times. It is learnt from those it did not keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TimesHeld {
    granule_nanos: u32,
    /// First and last second that it has.
    first: i64,
    last: i64,
}

impl Default for TimesHeld {
    /// Every time.
    fn default() -> Self {
        Self { granule_nanos: 1, first: i64::MIN, last: i64::MAX }
    }
}

impl TimesHeld {
    /// A time as the file system holds it.
    pub(crate) fn held(&self, time: Mtime) -> Mtime {
        if time.secs > self.last {
            return Mtime { secs: self.last, nanos: 0 };
        }
        if time.secs < self.first {
            return Mtime { secs: self.first, nanos: 0 };
        }
        Mtime { secs: time.secs, nanos: time.nanos - time.nanos % self.granule_nanos.max(1) }
    }

    /// Learns from what became of a time that was set. Whether it became another one.
    pub(crate) fn learn(&mut self, set: Mtime, found: Mtime) -> bool {
        if found == set {
            return false;
        }
        if found.secs < set.secs {
            self.last = self.last.min(found.secs);
        } else if found.secs > set.secs {
            self.first = self.first.max(found.secs);
        } else if let Some(granule) = GRANULES.into_iter().find(|g| set.nanos - set.nanos % g == found.nanos)
        {
            self.granule_nanos = self.granule_nanos.max(granule);
        }
        true
    }
}
