//! Mounts: which file system a path is on, and where on it.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use super::device::Devices;

/// A place on a file system, whatever it is mounted as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OnFileSystem {
    /// `major:minor`, as mounts say it.
    dev: String,
    path: PathBuf,
    /// Its source, such as `/dev/sdb1`: what a file system of many devices has under one number of its own.
    source: PathBuf,
}

impl OnFileSystem {
    pub(super) fn is_in(&self, root: &Self) -> bool {
        self.dev == root.dev && self.path.starts_with(&root.path)
    }

    pub(super) fn is_backed_by(&self, devices: &Devices) -> bool {
        is_backed_by(&self.dev, &self.source, devices)
    }
}

fn is_backed_by(dev: &str, source: &Path, devices: &Devices) -> bool {
    let source_is = || {
        source.is_absolute()
            && fs::metadata(source)
                .is_ok_and(|meta| meta.file_type().is_block_device() && devices.contains(meta.rdev()))
    };
    devices.contains_named(dev) || source_is()
}

/// One mount.
#[derive(Debug)]
pub(super) struct Mount {
    id: u64,
    dev: String,
    root: PathBuf,
    pub(super) at: PathBuf,
    source: PathBuf,
    pub(super) is_writable: bool,
}

impl Mount {
    pub(super) fn is_backed_by(&self, devices: &Devices) -> bool {
        is_backed_by(&self.dev, &self.source, devices)
    }

    fn on(&self, below: &Path) -> OnFileSystem {
        let path = if below.as_os_str().is_empty() { self.root.clone() } else { self.root.join(below) };
        OnFileSystem { dev: self.dev.clone(), path, source: self.source.clone() }
    }
}

/// The mounts that a process sees, in the order they were made.
#[derive(Debug)]
pub(super) struct Mounts(pub(super) Vec<Mount>);

impl Mounts {
    /// Reads `/proc/PID/mountinfo`.
    pub(super) fn of(file: &Path) -> io::Result<Self> {
        let text = fs::read(file)?;
        Ok(Self(text.split(|byte| *byte == b'\n').filter_map(parse).collect()))
    }

    /// Where a path is, by the mount that covers it.
    pub(super) fn locate(&self, path: &Path) -> Option<OnFileSystem> {
        // Of several at one place the last one covers the others.
        let covering = self.0.iter().filter(|mount| path.starts_with(&mount.at));
        let mount = covering.max_by_key(|mount| mount.at.as_os_str().len())?;
        path.strip_prefix(&mount.at).ok().map(|below| mount.on(below))
    }

    /// Where a file is that was opened through a mount, which may be covered by now.
    pub(super) fn locate_through(&self, id: u64, path: &Path) -> Option<OnFileSystem> {
        let mount = self.0.iter().find(|mount| mount.id == id)?;
        path.strip_prefix(&mount.at).ok().map(|below| mount.on(below))
    }
}

/// `36 35 98:0 /root /at rw,noatime shared:1 - ext3 /dev/root rw`.
fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let text = |field: &[u8]| std::str::from_utf8(field).ok().map(str::to_owned);
    let id = text(fields.next()?)?.parse().ok()?;
    let dev = text(fields.nth(1)?)?;
    let (root, at) = (path(fields.next()?), path(fields.next()?));
    let options = text(fields.next()?)?;
    let mut rest = fields.skip_while(|field| *field != b"-").skip(2);
    let source = path(rest.next()?);
    let of_all = text(rest.next().unwrap_or(b"rw"))?;
    let is_writable =
        [options, of_all].iter().all(|options| !options.split(',').any(|option| option == "ro"));
    Some(Mount { id, dev, root, at, source, is_writable })
}

/// Blanks and the like are written as `\040`.
fn path(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| *first == b'\\');
        let octal = octal.and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
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
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_and_places_found() {
        let text: &[u8] = b"22 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
            40 22 8:16 / /srv/a\\040b rw,noatime shared:7 master:2 - xfs /dev/sdb rw,attr2\n\
            41 40 8:16 /sub /mnt/x ro - xfs /dev/sdb rw\n\
            nonsense\n";
        let mounts = Mounts(text.split(|byte| *byte == b'\n').filter_map(parse).collect());
        assert_eq!(mounts.0.len(), 3);
        assert_eq!(mounts.0[1].at, Path::new("/srv/a b"));
        assert_eq!(mounts.0.iter().map(|mount| mount.is_writable).collect::<Vec<_>>(), [true, true, false]);
        let on = |path: &str| mounts.locate(Path::new(path)).unwrap();
        // The same file by two ways.
        assert_eq!(on("/srv/a b/sub/file"), on("/mnt/x/file"));
        assert!(on("/mnt/x/file").is_in(&on("/srv/a b/sub")));
        assert!(!on("/srv/a b/subtle").is_in(&on("/srv/a b/sub")));
        assert!(!on("/srv/other").is_in(&on("/srv/a b")));
        assert_eq!(mounts.locate_through(41, Path::new("/mnt/x/y")), Some(on("/srv/a b/sub/y")));
        assert_eq!(mounts.locate_through(41, Path::new("/elsewhere")), None);
    }
}
