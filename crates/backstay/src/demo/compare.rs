//! Comparing two trees entry by entry and byte by byte.

use std::collections::BTreeSet;
use std::fs::{self, File, Metadata};
use std::io::{BufReader, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use backstay_types::Class;

use crate::failure::Failure;

/// What was compared.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Compared {
    pub(super) entries: u64,
    pub(super) bytes: u64,
}

/// Fails, naming the first path, if the trees differ in names, kinds, content, modes, owners or times.
pub(super) fn trees(a: &Path, b: &Path) -> Result<Compared, Failure> {
    let mut compared = Compared { entries: 0, bytes: 0 };
    let mut left = vec![PathBuf::new()];
    while let Some(path) = left.pop() {
        let (at_a, at_b) = (a.join(&path), b.join(&path));
        let (meta_a, meta_b) = (metadata(&at_a)?, metadata(&at_b)?);
        if facts(&meta_a) != facts(&meta_b) {
            return Err(differs(&path, "metadata"));
        }
        compared.entries += 1;
        if meta_a.is_dir() {
            let names = names(&at_a)?;
            if names != self::names(&at_b)? {
                return Err(differs(&path, "names"));
            }
            left.extend(names.into_iter().map(|name| path.join(name)));
        } else if meta_a.is_symlink() {
            let target = |path: &Path| fs::read_link(path).map_err(fail(path));
            if target(&at_a)? != target(&at_b)? {
                return Err(differs(&path, "target"));
            }
        } else {
            same_content(&at_a, &at_b)?.then_some(()).ok_or_else(|| differs(&path, "content"))?;
            compared.bytes += meta_a.len();
        }
    }
    Ok(compared)
}

/// The replicas of the sample's one Deployment, wherever below `folder` its file is.
pub(super) fn replicas(folder: &Path) -> Result<String, Failure> {
    let mut left = vec![folder.to_owned()];
    while let Some(path) = left.pop() {
        if metadata(&path)?.is_dir() {
            left.extend(names(&path)?.into_iter().map(|name| path.join(name)));
            continue;
        }
        let text = fs::read_to_string(&path).map_err(fail(&path))?;
        let is_it = text.lines().any(|line| line.trim() == "kind: Deployment");
        let found = text.lines().find_map(|line| line.trim().strip_prefix("replicas:"));
        if let (true, Some(found)) = (is_it, found) {
            return Ok(found.trim().to_owned());
        }
    }
    Err(Failure::new(Class::Incomplete, format!("no Deployment is below {}", folder.display())))
}

fn fail(path: &Path) -> impl FnOnce(std::io::Error) -> Failure + '_ {
    move |error| Failure::io(Class::Incomplete, "compare", path, &error)
}

fn differs(path: &Path, what: &str) -> Failure {
    Failure::new(Class::Corrupt, format!("{what} of {:?} differ between source and replica", path.display()))
}

fn metadata(path: &Path) -> Result<Metadata, Failure> {
    fs::symlink_metadata(path).map_err(fail(path))
}

/// Kind and mode, owner, size (of a folder it says nothing), time of the last change.
fn facts(meta: &Metadata) -> (u32, u32, u32, u64, i64, i64) {
    let size = if meta.is_dir() { 0 } else { meta.len() };
    (meta.mode(), meta.uid(), meta.gid(), size, meta.mtime(), meta.mtime_nsec())
}

fn names(folder: &Path) -> Result<BTreeSet<std::ffi::OsString>, Failure> {
    let entries = fs::read_dir(folder).map_err(fail(folder))?;
    entries.map(|entry| entry.map(|entry| entry.file_name()).map_err(fail(folder))).collect()
}

fn same_content(a: &Path, b: &Path) -> Result<bool, Failure> {
    let open = |path: &Path| File::open(path).map(BufReader::new).map_err(fail(path));
    let (mut left, mut right) = (open(a)?, open(b)?);
    let (mut of_a, mut of_b) = (Vec::new(), Vec::new());
    loop {
        of_a.clear();
        of_b.clear();
        left.by_ref().take(1 << 20).read_to_end(&mut of_a).map_err(fail(a))?;
        right.by_ref().take(1 << 20).read_to_end(&mut of_b).map_err(fail(b))?;
        if of_a != of_b {
            return Ok(false);
        }
        if of_a.is_empty() {
            return Ok(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::time::{Duration, SystemTime};

    use super::*;

    /// Two trees alike, with times alike.
    fn two() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let folder = tempfile::tempdir().expect("a folder");
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        for tree in [&a, &b] {
            fs::create_dir_all(tree.join("sub")).expect("makes");
            fs::write(tree.join("sub/file"), vec![7; (1 << 20) + 3]).expect("writes");
            symlink("sub", tree.join("link")).expect("links");
        }
        (folder, a, b)
    }

    /// Links cannot be given a time by the standard library: compare without them where times matter.
    fn same_times(trees: [&Path; 2]) {
        let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        for tree in trees {
            drop(fs::remove_file(tree.join("link")));
            for path in ["sub/file", "sub/elif", "sub/more", "sub", ""].map(|path| tree.join(path)) {
                if path.exists() {
                    File::open(path).and_then(|file| file.set_modified(then)).expect("sets");
                }
            }
        }
    }

    #[test]
    fn equal_trees_are_equal_and_every_difference_is_found() {
        type Change<'a> = (&'a str, &'a dyn Fn(&Path));
        let change: [Change<'_>; 5] = [
            ("content", &|b| {
                let mut bytes = fs::read(b.join("sub/file")).expect("reads");
                *bytes.last_mut().expect("bytes") = 8;
                fs::write(b.join("sub/file"), bytes).expect("writes");
            }),
            ("metadata", &|b| fs::write(b.join("sub/file"), b"short").expect("writes")),
            ("names", &|b| fs::write(b.join("sub/more"), b"").expect("writes")),
            ("names", &|b| fs::rename(b.join("sub/file"), b.join("sub/elif")).expect("renames")),
            ("metadata", &|b| {
                fs::set_permissions(b.join("sub/file"), fs::Permissions::from_mode(0o600)).expect("sets");
            }),
        ];
        for (what, change) in change {
            let (_folder, a, b) = two();
            same_times([&a, &b]);
            assert_eq!(trees(&a, &b).expect("equal"), Compared { entries: 3, bytes: (1 << 20) + 3 });
            change(&b);
            same_times([&a, &b]);
            let failure = trees(&a, &b).expect_err(what);
            assert!(failure.to_string().contains(what), "{failure}");
        }
    }

    #[test]
    fn a_link_elsewhere_is_found() {
        let (_folder, a, b) = two();
        fs::remove_file(b.join("link")).expect("removes");
        symlink("zub", b.join("link")).expect("links");
        assert!(trees(&a, &b).is_err());
    }
}
