//! Spot: where on which disk a path is, so that two paths can be compared whatever they are called.
//!
//! 1. Links are resolved, and a bind mount is the folder that it shows (test `a_bind_mount_is_what_it_shows`).
//! 2. A hard link to an image is the image; two nodes of one device are one device; a device holds the folders that are
//!    mounted from it.
//!
//! A path that changes between this look and its use is the operator's own doing.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use crate::own_folders::{meets, resolve};

const MOUNTS: &str = "/proc/self/mountinfo";

/// A path, and what it is on its disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Spot {
    resolved: PathBuf,
    /// The file system by its number, and the path on it.
    on_disk: Option<(String, PathBuf)>,
    /// Device and number of what is there, if something is.
    inode: Option<(u64, u64)>,
    /// The device that it is a node of.
    node: Option<u64>,
}

/// What is mounted where, as the kernel says.
pub(crate) struct Mounts(Vec<Mount>);

struct Mount {
    disk: String,
    root: PathBuf,
    at: PathBuf,
}

impl Mounts {
    pub(crate) fn read() -> io::Result<Self> {
        // A mount point may have any name.
        Ok(Self(fs::read(MOUNTS)?.split(|byte| *byte == b'\n').filter_map(parse).collect()))
    }

    /// Where a path is, links resolved.
    pub(crate) fn spot(&self, path: &Path) -> io::Result<Spot> {
        let resolved = resolve(path)?;
        let meta = match fs::metadata(&resolved) {
            Ok(meta) => Some(meta),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                None
            }
            Err(error) => return Err(error),
        };
        // Of mounts over each other the last is the one that is seen.
        let holding = self.0.iter().filter(|mount| resolved.starts_with(&mount.at));
        let mount = holding.max_by_key(|mount| mount.at.components().count());
        let on_disk = mount.and_then(|mount| {
            let rest = resolved.strip_prefix(&mount.at).ok()?;
            Some((mount.disk.clone(), mount.root.join(rest)))
        });
        Ok(Spot {
            on_disk,
            inode: meta.as_ref().map(|meta| (meta.dev(), meta.ino())),
            node: meta.filter(|meta| meta.file_type().is_block_device()).map(|meta| meta.rdev()),
            resolved,
        })
    }
}

impl Spot {
    /// A path that cannot be looked at, by its name alone.
    pub(crate) fn by_name(path: &Path) -> Self {
        Self { resolved: path.to_owned(), on_disk: None, inode: None, node: None }
    }

    /// How this meets another, to complete "THIS … OTHER"; `None` if they have nothing in common.
    pub(crate) fn meets(&self, other: &Spot) -> Option<&'static str> {
        if self.inode.is_some() && self.inode == other.inode || self.node.is_some() && self.node == other.node
        {
            return Some("is");
        }
        let by_disk = || match (&self.on_disk, &other.on_disk) {
            (Some((one, here)), Some((two, there))) if one == two => meets(here, there),
            _ => None,
        };
        meets(&self.resolved, &other.resolved).or_else(by_disk).or_else(|| self.by_device(other))
    }

    fn by_device(&self, other: &Spot) -> Option<&'static str> {
        let holds = |node: &Spot, folder: &Spot| {
            node.node.is_some() && node.node == folder.inode.map(|(device, _)| device)
        };
        match (holds(self, other), holds(other, self)) {
            (true, _) => Some("holds"),
            (_, true) => Some("lies in"),
            _ => None,
        }
    }
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime …`: number of the file system, its part that is shown, and where.
fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ').skip(2);
    let (disk, root, at) = (fields.next()?, fields.next()?, fields.next()?);
    let disk = std::str::from_utf8(disk).ok()?.to_owned();
    Some(Mount { disk, root: unescaped(root), at: unescaped(at) })
}

/// Blanks, tabs, line ends and backslashes are written as three octal digits.
fn unescaped(text: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, after @ ..] = rest {
        let code = after.get(..3).filter(|_| *first == b'\\').and_then(|code| std::str::from_utf8(code).ok());
        match code.and_then(|code| u8::from_str_radix(code, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounts(lines: &str) -> Mounts {
        Mounts(lines.lines().map(str::as_bytes).filter_map(parse).collect())
    }

    #[test]
    fn a_bind_mount_is_what_it_shows() {
        let mounts = mounts(
            "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 8:1 /srv/data/a /bind rw - ext4 /dev/sda1 rw\n3 1 8:2 / /other\\040disk rw - xfs x rw",
        );
        let spot = |path: &str| mounts.spot(Path::new(path)).expect("it is somewhere");
        for (one, other, how) in [
            ("/bind", "/srv/data", Some("lies in")),
            ("/srv/data", "/bind", Some("holds")),
            ("/bind/deep", "/srv/data/a/deep", Some("is")),
            ("/bind/a", "/srv/data/a/b", None),
            ("/other disk/srv/data", "/srv/data", None),
            ("/srv/data2", "/srv/data", None),
        ] {
            assert_eq!(spot(one).meets(&spot(other)), how, "{one} {other}");
        }
    }

    #[test]
    fn a_hard_link_and_a_link_are_the_image() {
        let work = tempfile::tempdir().expect("a folder");
        let path = |name: &str| work.path().join(name);
        fs::write(path("disk.img"), "x").expect("written");
        fs::hard_link(path("disk.img"), path("hard")).expect("linked");
        std::os::unix::fs::symlink(path("disk.img"), path("soft")).expect("linked");
        fs::write(path("other.img"), "x").expect("written");
        let mounts = Mounts::read().expect("the kernel tells");
        let spot = |name: &str| mounts.spot(&path(name)).expect("it is there");
        assert_eq!(spot("hard").meets(&spot("disk.img")), Some("is"));
        assert_eq!(spot("soft").meets(&spot("disk.img")), Some("is"));
        assert_eq!(spot("other.img").meets(&spot("disk.img")), None);
    }
}
