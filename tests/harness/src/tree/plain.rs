//! Ordinary trees: many small files, and a copy of this machine's own files.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use rand::{Rng as _, RngExt as _};

use crate::Rng;

/// Files in one folder of [`small_files`].
const FILES_PER_FOLDER: usize = 250;

/// Bytes that no compression shortens.
pub fn random_bytes(rng: &mut Rng, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    rng.fill_bytes(&mut bytes);
    bytes
}

/// Text that compresses as logs and source code do.
pub fn words(rng: &mut Rng, len: usize) -> Vec<u8> {
    const WORDS: [&str; 16] = [
        "replica", "volume", "commit", "the", "of", "restore", "point", "chunk", "peer", "standby", "active",
        "a", "epoch", "lag", "order", "promote",
    ];
    let mut bytes = Vec::with_capacity(len + 16);
    while bytes.len() < len {
        let word = WORDS[rng.random_range(0..WORDS.len())];
        write!(bytes, "{word} {} ", rng.random_range(0..1000)).unwrap();
    }
    bytes.truncate(len);
    bytes
}

/// So many files of 0 to 8 KiB, 250 to a folder, two levels deep.
pub fn small_files(dir: &Path, count: usize, rng: &mut Rng) {
    for start in (0..count).step_by(FILES_PER_FOLDER) {
        let number = start / FILES_PER_FOLDER;
        let folder = dir.join(format!("part{:02}", number % 50)).join(format!("folder{number:05}"));
        fs::create_dir_all(&folder).unwrap();
        for file in start..count.min(start + FILES_PER_FOLDER) {
            let len = rng.random_range(0..8192);
            fs::write(folder.join(format!("file{file:07}.txt")), words(rng, len)).unwrap();
        }
    }
}

/// A copy of real files of this machine, up to about so many bytes: programs, libraries, documents, with their
/// links and owners.
pub fn system_copy(dir: &Path, bytes: u64) {
    let sources = ["/usr/bin", "/usr/lib", "/usr/share", "/usr/include"];
    let budget = bytes / sources.len() as u64;
    fs::create_dir_all(dir).unwrap();
    for source in sources.map(Path::new).into_iter().filter(|source| source.is_dir()) {
        let found = Command::new("find").arg(source).args(["-xdev", "-printf", "%s %P\\0"]).output().unwrap();
        let mut left = budget;
        let mut chosen = Vec::new();
        for record in found.stdout.split(|byte| *byte == 0).filter(|record| !record.is_empty()) {
            let space = record.iter().position(|byte| *byte == b' ').unwrap();
            let size: u64 = std::str::from_utf8(&record[..space]).unwrap().parse().unwrap();
            if size <= left {
                left -= size;
                chosen.extend_from_slice(&record[space + 1..]);
                chosen.push(0);
            }
        }
        let to = dir.join(source.file_name().unwrap());
        let mut rsync = Command::new("rsync")
            .args(["-aHAX", "--from0", "--files-from=-"])
            .args([source, to.as_path()])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        rsync.stdin.take().unwrap().write_all(&chosen).unwrap();
        assert!(rsync.wait().unwrap().success(), "cannot copy {}", source.display());
    }
}

/// Lengths of all files below a folder together.
pub fn total_bytes(dir: &Path) -> u64 {
    let found = Command::new("find").arg(dir).args(["-type", "f", "-printf", "%s\\n"]).output().unwrap();
    String::from_utf8(found.stdout).unwrap().lines().map(|line| line.parse::<u64>().unwrap()).sum()
}
