//! Processes: what they have open, by `/proc`.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::mount::Mounts;
use super::{Counts, NAMED_MAX, Target, User};

/// Ways a file is opened, of `open(2)`.
const ACCESS: u32 = 0o3;
const READ_ONLY: u32 = 0o0;
const PATH_ONLY: u32 = 0o10_000_000;

/// What the kernel appends to the name of a file that has none any more.
const DELETED: &[u8] = b" (deleted)";

/// Adds the processes, one line each, up to as many as are named.
pub(super) fn find(
    targets: &[Target],
    counts: Counts,
    skip: &BTreeSet<u32>,
    found: &mut Vec<User>,
) -> io::Result<()> {
    let mut looker = Looker { targets, counts, mounts: BTreeMap::new() };
    for entry in fs::read_dir("/proc")? {
        if found.len() >= NAMED_MAX {
            return Ok(());
        }
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if !skip.contains(&pid) {
            found.extend(looker.look(pid));
        }
    }
    Ok(())
}

struct Looker<'t> {
    targets: &'t [Target],
    counts: Counts,
    /// What each mount namespace, with each root, sees: read once.
    mounts: BTreeMap<(PathBuf, PathBuf), Rc<Mounts>>,
}

impl Looker<'_> {
    /// The first thing of a volume that a process has, if it has one. One that ends meanwhile has none.
    fn look(&mut self, pid: u32) -> Option<User> {
        let process = Path::new("/proc").join(pid.to_string());
        let mounts = self.mounts_of(&process)?;
        let what = self
            .open_file(&process, &mounts)
            .or_else(|| self.mapping(&process, &mounts))
            .or_else(|| self.place(&process, &mounts))?;
        let who = fs::read_to_string(process.join("comm")).unwrap_or_default();
        Some(User { pid: Some(pid), who: who.trim().to_owned(), what })
    }

    fn mounts_of(&mut self, process: &Path) -> Option<Rc<Mounts>> {
        let namespace = fs::read_link(process.join("ns/mnt")).ok()?;
        let root = fs::read_link(process.join("root")).ok()?;
        let key = (namespace, root);
        if let Some(known) = self.mounts.get(&key) {
            return Some(known.clone());
        }
        let mounts = Rc::new(Mounts::of(&process.join("mountinfo")).ok()?);
        self.mounts.insert(key, mounts.clone());
        Some(mounts)
    }

    fn open_file(&self, process: &Path, mounts: &Mounts) -> Option<String> {
        for entry in fs::read_dir(process.join("fd")).ok()?.filter_map(Result::ok) {
            let link = entry.path();
            let Ok(path) = fs::read_link(&link) else { continue };
            // Neither a pipe nor a socket.
            if !path.is_absolute() || is_gone(&path, || fs::metadata(&link).ok()) {
                continue;
            }
            let Some(opened) = Opened::of(&process.join("fdinfo").join(entry.file_name())) else { continue };
            if opened.flags & PATH_ONLY != 0 || (self.counts != Counts::Everybody && !opened.writes()) {
                continue;
            }
            let on = mounts.locate_through(opened.mount, &path).or_else(|| mounts.locate(&path));
            let meta = self.needs_meta().then(|| fs::metadata(&link).ok()).flatten();
            if self.targets.iter().any(|target| target.holds(on.as_ref(), meta.as_ref())) {
                let how = if opened.writes() { "open for writing" } else { "open" };
                return Some(format!("{} {how}", path.display()));
            }
        }
        None
    }

    /// A mapping that is shared and written needs no open file any more.
    fn mapping(&self, process: &Path, mounts: &Mounts) -> Option<String> {
        let text = fs::read(process.join("maps")).ok()?;
        let mut last: &[u8] = b"";
        for line in text.split(|byte| *byte == b'\n') {
            let Some((rights, path)) = mapped(line) else { continue };
            let writes = matches!(rights, [_, b'w', _, b's']);
            if !writes && (self.counts != Counts::Everybody || path == last) {
                continue;
            }
            last = path;
            let path = PathBuf::from(OsString::from_vec(path.to_vec()));
            // As the process sees it, which may have a root of its own.
            let seen = || fs::metadata(process.join("root").join(path.strip_prefix("/").ok()?)).ok();
            if path.as_os_str().as_bytes().ends_with(DELETED) {
                continue;
            }
            let on = mounts.locate(&path);
            let meta = self.needs_meta().then(seen).flatten();
            if self.targets.iter().any(|target| target.holds(on.as_ref(), meta.as_ref())) {
                let how = if writes { "mapped for writing" } else { "mapped" };
                return Some(format!("{} {how}", path.display()));
            }
        }
        None
    }

    /// Its working folder, root or program.
    fn place(&self, process: &Path, mounts: &Mounts) -> Option<String> {
        if self.counts != Counts::Everybody {
            return None;
        }
        let kinds = [("cwd", "as its working folder"), ("root", "as its root"), ("exe", "as its program")];
        for (name, how) in kinds {
            let link = process.join(name);
            let Ok(path) = fs::read_link(&link) else { continue };
            if path == Path::new("/") || is_gone(&path, || fs::metadata(&link).ok()) {
                continue;
            }
            let on = mounts.locate(&path);
            if self.targets.iter().any(|target| target.holds(on.as_ref(), None)) {
                return Some(format!("{} {how}", path.display()));
            }
        }
        None
    }

    fn needs_meta(&self) -> bool {
        self.targets.iter().any(Target::needs_meta)
    }
}

/// Whether a link of `/proc` leads to a file without a name: nothing that is applied reaches it.
fn is_gone(path: &Path, meta: impl FnOnce() -> Option<fs::Metadata>) -> bool {
    path.as_os_str().as_bytes().ends_with(DELETED) && meta().is_none_or(|meta| meta.nlink() == 0)
}

/// How a file was opened.
struct Opened {
    flags: u32,
    mount: u64,
}

impl Opened {
    fn of(fdinfo: &Path) -> Option<Self> {
        let text = fs::read_to_string(fdinfo).ok()?;
        let of = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
        Some(Self {
            flags: u32::from_str_radix(of("flags:")?, 8).ok()?,
            mount: of("mnt_id:").and_then(|id| id.parse().ok()).unwrap_or_default(),
        })
    }

    const fn writes(&self) -> bool {
        self.flags & ACCESS != READ_ONLY
    }
}

/// `7f00-7f01 rw-s 00000000 08:01 1234   /path`: rights and path of a mapping of a file.
fn mapped(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut fields = line.splitn(6, |byte| *byte == b' ');
    let rights = fields.nth(1)?;
    let path = fields.nth(3)?.trim_ascii_start();
    path.starts_with(b"/").then_some((rights, path))
}
