//! Seeded changes of a tree, of every kind that a change detector can miss.

use std::fs::{self, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use rand::RngExt as _;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags, setxattr, utimensat};

use super::{random_bytes, words};
use crate::Rng;

/// Kinds of change.
const KINDS: u32 = 15;

/// Makes so many changes.
pub fn mutate(dir: &Path, changes: usize, rng: &mut Rng) {
    let mut tree = Tree::read(dir);
    for _ in 0..changes {
        // A change whose victim an earlier one took away looks for another.
        while !tree.change(rng) {}
    }
}

struct Tree {
    root: PathBuf,
    files: Vec<PathBuf>,
    folders: Vec<PathBuf>,
    made: u32,
}

impl Tree {
    fn read(root: &Path) -> Tree {
        let mut tree =
            Tree { root: root.to_owned(), files: Vec::new(), folders: vec![root.to_owned()], made: 0 };
        let mut next = 0;
        while let Some(folder) = tree.folders.get(next).cloned() {
            next += 1;
            let mut entries: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap()).collect();
            entries.sort_by_key(fs::DirEntry::file_name);
            for entry in entries {
                let kind = entry.file_type().unwrap();
                if kind.is_dir() {
                    tree.folders.push(entry.path());
                } else if kind.is_file() {
                    tree.files.push(entry.path());
                }
            }
        }
        tree
    }

    fn new_path(&mut self, rng: &mut Rng) -> PathBuf {
        self.made += 1;
        let folder = loop {
            let folder = &self.folders[rng.random_range(0..self.folders.len())];
            if folder.is_dir() && !folder.is_symlink() {
                break folder.clone();
            }
        };
        folder.join(format!("new-{}-{:08x}", self.made, rng.random::<u32>()))
    }

    /// One change; false if its victim is gone.
    fn change(&mut self, rng: &mut Rng) -> bool {
        let kind = rng.random_range(0..KINDS);
        if kind <= 2 || self.files.is_empty() {
            return self.create(kind, rng);
        }
        let victim = rng.random_range(0..self.files.len());
        let path = self.files[victim].clone();
        let Ok(metadata) = fs::symlink_metadata(&path) else {
            self.files.swap_remove(victim);
            return false;
        };
        if !metadata.is_file() {
            return false;
        }
        match kind {
            3 => fs::remove_file(&path).unwrap(),
            4 => {
                let to = self.new_path(rng);
                fs::rename(&path, &to).unwrap();
                self.files.push(to);
            }
            5 => return self.move_folder(rng),
            6 => append(&path, rng),
            7 | 8 => overwrite(&path, &metadata, kind == 8, rng),
            9 => {
                let file = OpenOptions::new().write(true).open(&path).unwrap();
                file.set_len(rng.random_range(0..=metadata.len() + 5000)).unwrap();
            }
            10 => {
                fs::set_permissions(&path, Permissions::from_mode(rng.random_range(0o400..=0o777))).unwrap()
            }
            11 => touch(
                &path,
                rng.random_range(-1_000_000_000..2_000_000_000),
                rng.random_range(0..1_000_000_000),
            ),
            12 => {
                let to = self.new_path(rng);
                fs::hard_link(&path, &to).unwrap();
                self.files.push(to);
            }
            13 => {
                let value = rng.random::<u64>().to_string();
                setxattr(&path, "user.changed", value.as_bytes(), XattrFlags::empty()).unwrap();
            }
            _ => self.change_type(&path, rng),
        }
        true
    }

    fn create(&mut self, kind: u32, rng: &mut Rng) -> bool {
        let path = self.new_path(rng);
        match kind {
            0 => {
                fs::create_dir(&path).unwrap();
                self.folders.push(path);
            }
            1 => symlink(format!("target-{}", rng.random::<u16>()), &path).unwrap(),
            _ => {
                let len = rng.random_range(0..200_000);
                let content = if rng.random() { random_bytes(rng, len) } else { words(rng, len) };
                fs::write(&path, content).unwrap();
                self.files.push(path);
            }
        }
        true
    }

    /// Renames a folder with all that is in it, never below itself and never the root.
    fn move_folder(&mut self, rng: &mut Rng) -> bool {
        let from = self.folders[rng.random_range(0..self.folders.len())].clone();
        let to = self.new_path(rng);
        if from == self.root || to.starts_with(&from) || !from.is_dir() {
            return false;
        }
        fs::rename(&from, &to).unwrap();
        *self = Tree { made: self.made, ..Tree::read(&self.root) };
        true
    }

    /// The same name, another thing.
    fn change_type(&mut self, path: &Path, rng: &mut Rng) {
        fs::remove_file(path).unwrap();
        if rng.random() {
            symlink("became-a-link", path).unwrap();
        } else {
            fs::create_dir(path).unwrap();
            fs::write(path.join("inside"), b"became a folder").unwrap();
            self.folders.push(path.to_owned());
        }
    }
}

fn append(path: &Path, rng: &mut Rng) {
    let len = fs::metadata(path).unwrap().len();
    let more = rng.random_range(1..50_000);
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(&random_bytes(rng, more), len).unwrap();
}

/// Writes over ranges, keeping the length. With `stealthy`, the modification time is put back, so that only the
/// change time tells.
fn overwrite(path: &Path, metadata: &fs::Metadata, stealthy: bool, rng: &mut Rng) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    for _ in 0..rng.random_range(1..5) {
        let at = rng.random_range(0..=metadata.len());
        let len = rng.random_range(0..=(metadata.len() - at).min(20_000));
        file.write_all_at(&random_bytes(rng, len as usize), at).unwrap();
    }
    if stealthy {
        touch(path, metadata.mtime(), metadata.mtime_nsec());
    }
}

fn touch(path: &Path, seconds: i64, nanos: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}
