//! Disk images and database files: one large file whose sectors change.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rand::RngExt as _;

use super::random_bytes;
use crate::Rng;

/// What databases and file systems write at once.
const SECTOR: u64 = 4096;

/// A file of so many MiB that does not compress.
pub fn random_image(path: &Path, mib: u64, rng: &mut Rng) {
    let mut file = File::create(path).unwrap();
    for _ in 0..mib {
        file.write_all(&random_bytes(rng, 1 << 20)).unwrap();
    }
}

/// Rewrites so many sectors at random places; gives the bytes written.
pub fn rewrite_sectors(path: &Path, sectors: u64, rng: &mut Rng) -> u64 {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    let count = file.metadata().unwrap().len() / SECTOR;
    for _ in 0..sectors {
        let at = rng.random_range(0..count) * SECTOR;
        file.write_all_at(&random_bytes(rng, SECTOR as usize), at).unwrap();
    }
    sectors * SECTOR
}
