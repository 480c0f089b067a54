//! Extended attributes: ACLs and capabilities are such attributes.
//!
//! There are no calls for a name relative to a folder; for what cannot be opened (links, pipes, sockets, devices)
//! the path goes through `/proc/self/fd/N`, which resolves to the open folder and nothing else.

use std::os::fd::{AsFd, AsRawFd};

use backstay_types::manifest::Xattr;
use rustix::io::Errno;

/// Largest list and largest value the kernel gives.
const XATTR_BYTES_MAX: usize = 64 << 10;

/// Reads attributes, sorted by name, with buffers that are used again.
pub(crate) struct XattrReader {
    list: Vec<u8>,
    value: Vec<u8>,
}

impl XattrReader {
    pub(crate) fn new() -> Self {
        Self { list: vec![0; XATTR_BYTES_MAX], value: vec![0; XATTR_BYTES_MAX] }
    }

    /// Of something open.
    pub(crate) fn of_fd(&mut self, fd: impl AsFd) -> rustix::io::Result<Vec<Xattr>> {
        let fd = fd.as_fd();
        let len = listed(rustix::fs::flistxattr(fd, self.list.as_mut_slice()))?;
        self.collect(len, |name, value| rustix::fs::fgetxattr(fd, name, value))
    }

    /// Of a name in an open folder; links are not followed.
    pub(crate) fn of_name(&mut self, folder: impl AsFd, name: &[u8]) -> rustix::io::Result<Vec<Xattr>> {
        let path = proc_path(folder, name);
        let len = listed(rustix::fs::llistxattr(path.as_slice(), self.list.as_mut_slice()))?;
        self.collect(len, |name, value| rustix::fs::lgetxattr(path.as_slice(), name, value))
    }

    fn collect(
        &mut self,
        len: usize,
        get: impl Fn(&[u8], &mut [u8]) -> rustix::io::Result<usize>,
    ) -> rustix::io::Result<Vec<Xattr>> {
        let Self { list, value } = self;
        let names = list.get(..len).unwrap_or_default().split(|b| *b == 0);
        let mut found = Vec::new();
        for name in names.filter(|name| is_replicated(name)) {
            match get(name, value) {
                Ok(len) => found.push(Xattr {
                    name: name.to_vec(),
                    value: value.get(..len).unwrap_or_default().to_vec(),
                }),
                // Removed since it was listed.
                Err(Errno::NODATA) => {}
                Err(error) => return Err(error),
            }
        }
        found.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }
}

/// A file system without attributes has none.
fn listed(result: rustix::io::Result<usize>) -> rustix::io::Result<usize> {
    match result {
        Err(Errno::OPNOTSUPP) => Ok(0),
        other => other,
    }
}

/// `system.*` names are views that file systems make of their own data (NFS and CIFS ACLs); of them only POSIX
/// ACLs can be set elsewhere. `trusted.SGI_*` is how XFS shows the same ACLs a second time, as it stores them.
fn is_replicated(name: &[u8]) -> bool {
    let is_view = name.starts_with(b"system.") && !name.starts_with(b"system.posix_acl_");
    !name.is_empty() && !is_view && !name.starts_with(b"trusted.SGI_")
}

/// Makes the attributes of something open equal to `wanted`, which is sorted by name.
pub(crate) fn make_fd_equal(
    reader: &mut XattrReader,
    fd: impl AsFd,
    wanted: &[Xattr],
) -> rustix::io::Result<()> {
    let fd = fd.as_fd();
    let found = reader.of_fd(fd)?;
    for xattr in surplus(&found, wanted) {
        removed(rustix::fs::fremovexattr(fd, xattr.name.as_slice()))?;
    }
    for xattr in wanted.iter().filter(|xattr| !found.contains(xattr)) {
        set_on_fd(fd, xattr)?;
    }
    Ok(())
}

/// The same for a name in an open folder; links are not followed.
pub(crate) fn make_name_equal(
    reader: &mut XattrReader,
    folder: impl AsFd,
    name: &[u8],
    wanted: &[Xattr],
) -> rustix::io::Result<()> {
    let folder = folder.as_fd();
    let found = reader.of_name(folder, name)?;
    let path = proc_path(folder, name);
    for xattr in surplus(&found, wanted) {
        removed(rustix::fs::lremovexattr(path.as_slice(), xattr.name.as_slice()))?;
    }
    for xattr in wanted.iter().filter(|xattr| !found.contains(xattr)) {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::lsetxattr(path.as_slice(), xattr.name.as_slice(), &xattr.value, flags)?;
    }
    Ok(())
}

pub(crate) fn set_on_fd(fd: impl AsFd, xattr: &Xattr) -> rustix::io::Result<()> {
    rustix::fs::fsetxattr(fd, xattr.name.as_slice(), &xattr.value, rustix::fs::XattrFlags::empty())
}

/// A security label that the system gives every file cannot be taken away.
fn surplus<'a>(found: &'a [Xattr], wanted: &'a [Xattr]) -> impl Iterator<Item = &'a Xattr> {
    let is_wanted = |xattr: &&Xattr| wanted.iter().any(|other| other.name == xattr.name);
    found.iter().filter(move |xattr| !is_wanted(xattr) && xattr.name != b"security.selinux")
}

fn removed(result: rustix::io::Result<()>) -> rustix::io::Result<()> {
    match result {
        Err(Errno::NODATA) => Ok(()),
        other => other,
    }
}

/// The path of a name in an open folder, for calls that take nothing else.
pub(crate) fn proc_path(folder: impl AsFd, name: &[u8]) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}/", folder.as_fd().as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    path
}
