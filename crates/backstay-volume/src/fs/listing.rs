//! The names in one folder, sorted, in one allocation.

use std::os::fd::AsFd;

use rustix::fs::RawDir;
use rustix::io::Errno;

/// Names of a folder in byte order.
///
/// Memory: a name and 8 bytes each. A folder of a million names of 24 bytes takes 32 MB, the one place where a
/// walk's memory depends on its input; one listing is held per level.
pub(crate) struct Listing {
    bytes: Vec<u8>,
    /// Start and length of each name.
    names: Vec<(u32, u8)>,
    next: usize,
}

impl Listing {
    /// Reads a folder from its start, through an open handle that nobody else reads from.
    pub(crate) fn read(folder: impl AsFd, buffer: &mut Vec<u8>) -> rustix::io::Result<Self> {
        buffer.clear();
        buffer.reserve(GETDENTS_BYTES);
        let mut listing = Self { bytes: Vec::new(), names: Vec::new(), next: 0 };
        let mut raw = RawDir::new(folder, buffer.spare_capacity_mut());
        while let Some(item) = raw.next() {
            let item = item?;
            let name = item.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let start = u32::try_from(listing.bytes.len()).map_err(|_| Errno::OVERFLOW)?;
            let len = u8::try_from(name.len()).map_err(|_| Errno::NAMETOOLONG)?;
            listing.names.push((start, len));
            listing.bytes.extend_from_slice(name);
        }
        let bytes = &listing.bytes;
        listing.names.sort_unstable_by(|a, b| name_of(bytes, *a).cmp(name_of(bytes, *b)));
        Ok(listing)
    }

    /// The next name.
    pub(crate) fn next_name(&mut self) -> Option<&[u8]> {
        let name = *self.names.get(self.next)?;
        self.next += 1;
        Some(name_of(&self.bytes, name))
    }
}

/// One call returns some 1000 names.
const GETDENTS_BYTES: usize = 32 << 10;

fn name_of(bytes: &[u8], (start, len): (u32, u8)) -> &[u8] {
    let start = start as usize;
    bytes.get(start..start + usize::from(len)).unwrap_or_default()
}
