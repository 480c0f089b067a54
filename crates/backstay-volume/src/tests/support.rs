//! A store in memory, a site that sends into it, and trees to send.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard};

use backstay_types::frame::patch::{Patch, SECTOR_BYTES};
use backstay_types::manifest::{Cursor, Entry, Extent, FetchChunk, Item, NodeKind, VolumeKind};
use backstay_types::plan::{SnapshotKind, SnapshotSpec, VolumeSpec};
use backstay_types::{ChunkId, ChunkParams, Class, Classify, Epoch, HashKey, RestorePointId};
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, makedev};

use crate::{
    ApplyReport, Cancel, ChunkSink, Comparison, Look, Mark, Mismatch, ParentUse, PatchBase, Progress,
    SentState, Shown, SinkClosed, VolumeContext, VolumeError, VolumeRead, VolumeStats, apply, snapshot,
    verify_replica,
};

/// Chunks by id; the receiver's store.
#[derive(Default)]
pub(super) struct Store {
    chunks: Mutex<HashMap<ChunkId, Vec<u8>>>,
}

#[derive(Debug, thiserror::Error)]
#[error("chunk {0} is not in the store")]
pub(super) struct Missing(pub(super) ChunkId);

impl Classify for Missing {
    fn class(&self) -> Class {
        Class::Corrupt
    }
}

impl Store {
    pub(super) fn lock(&self) -> MutexGuard<'_, HashMap<ChunkId, Vec<u8>>> {
        self.chunks.lock().unwrap()
    }

    pub(super) fn put(&self, key: &HashKey, bytes: Vec<u8>) -> ChunkId {
        let id = key.chunk_id(&bytes);
        self.lock().insert(id, bytes);
        id
    }
}

impl FetchChunk for Store {
    type Error = Missing;
    fn fetch(&self, id: &ChunkId) -> Result<Vec<u8>, Missing> {
        self.lock().get(id).cloned().ok_or(Missing(*id))
    }
}

/// Takes chunks as a receiver does: what it has it does not take again, and a patch is rebuilt from its base.
pub(super) struct Sink<'a> {
    pub(super) store: &'a Store,
    key: HashKey,
    /// Bytes that would cross the wire: whole chunks, and the changed sectors of patches.
    pub(super) wire: u64,
    pub(super) patches: u64,
    pub(super) chunks: u64,
    pub(super) on_chunk: Box<dyn FnMut(u64) + 'a>,
}

impl<'a> Sink<'a> {
    pub(super) fn new(store: &'a Store) -> Self {
        Self { store, key: key(), wire: 0, patches: 0, chunks: 0, on_chunk: Box::new(|_| {}) }
    }
}

impl ChunkSink for Sink<'_> {
    fn chunk(&mut self, id: ChunkId, bytes: Vec<u8>, base: Option<PatchBase>) -> Result<(), SinkClosed> {
        assert_eq!(self.key.chunk_id(&bytes), id, "the id is that of the bytes");
        self.chunks += 1;
        (self.on_chunk)(self.chunks);
        if self.store.lock().contains_key(&id) {
            return Ok(());
        }
        match base {
            None => self.wire += bytes.len() as u64,
            Some(base) => {
                let (rebuilt, sectors) = rebuild(self.store, &base, &bytes);
                assert_eq!(rebuilt.as_deref(), Some(bytes.as_slice()), "the patch rebuilds the chunk");
                self.wire += sectors as u64;
                self.patches += 1;
            }
        }
        self.store.lock().insert(id, bytes);
        Ok(())
    }
}

/// What a receiver makes of a patch, and the bytes of its changed sectors.
fn rebuild(store: &Store, base: &PatchBase, bytes: &[u8]) -> (Option<Vec<u8>>, usize) {
    let whole: Vec<u8> =
        base.bases.iter().flat_map(|id| store.fetch(id).expect("the base is there")).collect();
    let range = &whole[base.skip as usize..];
    let (mut sectors, mut at, mut bit) = (Vec::new(), 0, 0);
    while at < bytes.len() {
        let len = if bit == 0 { usize::from(base.lead) } else { SECTOR_BYTES }.min(bytes.len() - at);
        if base.bitmap[bit / 8] & (1 << (bit % 8)) != 0 {
            sectors.extend_from_slice(&bytes[at..at + len]);
        }
        at += len;
        bit += 1;
    }
    let len = sectors.len();
    let patch = Patch {
        bases: base.bases.clone(),
        skip: base.skip,
        lead: base.lead,
        bitmap: &base.bitmap,
        zstd: false,
        sectors: &sectors,
    };
    let encoded = patch.encode();
    let patch = Patch::decode(&encoded, bytes.len()).expect("a patch decodes");
    (Patch::apply(patch.bitmap, patch.lead, range, patch.sectors, bytes.len()), len)
}

pub(super) fn key() -> HashKey {
    HashKey([7; 32])
}

pub(super) fn params() -> ChunkParams {
    ChunkParams::with_seed(42)
}

pub(super) fn context() -> VolumeContext {
    VolumeContext {
        plan: "shop".parse().unwrap(),
        key: key(),
        params: params(),
        allow_fuzzy: false,
        allow_empty: false,
    }
}

pub(super) fn tree_spec(path: &Path, provider: SnapshotKind) -> VolumeSpec {
    VolumeSpec {
        name: "data".parse().unwrap(),
        path: Some(path.to_owned()),
        device: None,
        snapshot: SnapshotSpec { provider, ..SnapshotSpec::default() },
    }
}

/// The differences of a replica that is compared.
pub(super) fn compared(
    store: &Store,
    root: &ChunkId,
    kind: VolumeKind,
    target: &Path,
    look: Look<'_>,
) -> Vec<Mismatch> {
    match verify_replica(store, root, kind, target, look).unwrap() {
        Comparison::Made(found) => found,
        Comparison::NotMade { why } => panic!("not compared: {why}"),
    }
}

/// A volume with its sent state and a store, in a temporary folder.
pub(super) struct Site {
    pub(super) dir: tempfile::TempDir,
    pub(super) spec: VolumeSpec,
    pub(super) ctx: VolumeContext,
    pub(super) store: Store,
    number: Cell<u64>,
    /// What the last apply that was finished left.
    pub(super) mark: RefCell<Option<Mark>>,
}

/// What one cycle did.
pub(super) struct Cycle {
    pub(super) read: VolumeRead,
    pub(super) wire: u64,
    pub(super) patches: u64,
    pub(super) chunks: u64,
}

/// What one adopted cycle did.
pub(super) struct Done {
    pub(super) stats: VolumeStats,
    pub(super) fuzzy: bool,
    pub(super) wire: u64,
    pub(super) patches: u64,
    pub(super) chunks: u64,
}

impl Site {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("source")).unwrap();
        let spec = tree_spec(&dir.path().join("source"), SnapshotKind::None);
        Self {
            spec,
            dir,
            ctx: context(),
            store: Store::default(),
            number: Cell::new(0),
            mark: RefCell::new(None),
        }
    }

    pub(super) fn source(&self) -> PathBuf {
        self.spec.path.clone().or(self.spec.device.clone()).unwrap()
    }

    pub(super) fn replica(&self) -> PathBuf {
        self.dir.path().join("replica")
    }

    pub(super) fn state_dir(&self) -> PathBuf {
        self.dir.path().join("sent")
    }

    pub(super) fn sent(&self) -> SentState {
        SentState::open(&self.state_dir()).unwrap()
    }

    /// Reads the volume; does not adopt.
    pub(super) fn try_read(&self) -> Result<Cycle, VolumeError> {
        self.try_read_with(|_| {})
    }

    pub(super) fn try_read_with(&self, on_chunk: impl FnMut(u64)) -> Result<Cycle, VolumeError> {
        self.try_read_against(ParentUse::Held, on_chunk)
    }

    pub(super) fn try_read_against(
        &self,
        parent: ParentUse,
        on_chunk: impl FnMut(u64),
    ) -> Result<Cycle, VolumeError> {
        let mut sink = Sink::new(&self.store);
        sink.on_chunk = Box::new(on_chunk);
        let scanned = snapshot(&self.spec, &self.ctx, &self.sent(), parent)?.scan(&Cancel::new())?;
        let read = scanned.read(&mut sink, &Progress::new())?;
        Ok(Cycle { read, wire: sink.wire, patches: sink.patches, chunks: sink.chunks })
    }

    /// Reads and adopts. Returns the root and what was done.
    pub(super) fn cycle(&self) -> (ChunkId, Done) {
        self.number.set(self.number.get() + 1);
        let id = RestorePointId { epoch: Epoch(1), number: self.number.get() };
        let Cycle { read, wire, patches, chunks } = self.try_read().unwrap();
        read.pending.adopt(id).unwrap();
        assert!(read.warning.is_none());
        (read.volume.root, Done { stats: read.stats, fuzzy: read.fuzzy, wire, patches, chunks })
    }

    pub(super) fn apply(&self, from: Option<&ChunkId>, to: &ChunkId) -> ApplyReport {
        self.try_apply(from, to, &Progress::new()).unwrap()
    }

    pub(super) fn try_apply(
        &self,
        from: Option<&ChunkId>,
        to: &ChunkId,
        progress: &Progress,
    ) -> Result<ApplyReport, VolumeError> {
        let mark = self.mark.borrow().clone();
        let shown = from.map(|root| Shown { root, mark: mark.as_ref().expect("an apply was finished") });
        let report = apply(&self.store, shown, to, VolumeKind::Directory, &self.replica(), progress)?;
        *self.mark.borrow_mut() = report.mark.clone();
        Ok(report)
    }

    /// Checks the replica against the manifest and, by another program, against the source.
    pub(super) fn assert_replica(&self, root: &ChunkId) {
        self.assert_replica_of(root, &self.source());
    }

    /// The same, against a copy of the source.
    pub(super) fn assert_replica_of(&self, root: &ChunkId, source: &Path) {
        let found = compared(&self.store, root, VolumeKind::Directory, &self.replica(), Look::default());
        assert_eq!(found, Vec::new());
        assert_rsync_equal(source, &self.replica());
    }

    /// Makes everything so old that the stat cache trusts it.
    pub(super) fn age(&self) {
        age(&self.state_dir());
    }
}

/// Moves the scan's start of adopted state into the future, which is the same as waiting.
fn age(dir: &Path) {
    SentState::open(dir).unwrap().pretend_scanned_later(10).unwrap();
}

/// Path, size and length of the extents of every file of a manifest.
pub(super) fn sizes(store: &Store, root: &ChunkId) -> Vec<(String, u64, u64)> {
    let mut cursor = Cursor::open(store, root).unwrap();
    let mut files: Vec<(String, u64, u64)> = Vec::new();
    while let Some(item) = cursor.next_item().unwrap() {
        match item {
            Item::Entry(Entry { path, kind: NodeKind::File { size }, .. }) => {
                files.push((path.to_string(), size, 0));
            }
            Item::Entry(_) => {}
            Item::Extents(extents) => {
                files.last_mut().unwrap().2 += extents.iter().map(Extent::len).sum::<u64>();
            }
        }
    }
    files
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Says that a test did not run. `scripts/test.sh` counts these from the file that `BACKSTAY_SKIPS` names.
pub(super) fn skip(why: &str) {
    eprintln!("skipped: {why}");
    if let Some(path) = std::env::var_os("BACKSTAY_SKIPS") {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        writeln!(file, "backstay-volume: {why}").unwrap();
    }
}

/// `rsync` with every fidelity option finds nothing to do. Without it on the machine, only our own check was made.
pub(super) fn assert_rsync_equal(source: &Path, replica: &Path) {
    let output = Command::new("rsync")
        .args(["-aHAXSn", "--delete", "--checksum", "--itemize-changes", "--specials", "--devices"])
        .arg(slash(source))
        .arg(slash(replica))
        .output();
    match output {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned()
                + &String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && text.is_empty(), "rsync found differences:\n{text}");
        }
        Err(error) => eprintln!("rsync is not installed ({error}): compared with our own check only"),
    }
}

fn slash(path: &Path) -> PathBuf {
    path.join("")
}

pub(super) fn write(path: &Path, bytes: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

pub(super) fn random_bytes(rng: &mut StdRng, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    rng.fill_bytes(&mut bytes);
    bytes
}

pub(super) fn seeded(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

pub(super) fn set_mtime(path: &Path, secs: i64, nanos: i64) {
    let time = Timespec { tv_sec: secs, tv_nsec: nanos };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// A tree with everything that a naive copy loses.
pub(super) fn build_nasty_tree(root: &Path, rng: &mut StdRng) {
    write(&root.join("plain"), "some text\n");
    write(&root.join("empty"), "");
    write(&root.join("big"), random_bytes(rng, 3 << 20));
    write(&root.join("zeros"), vec![0; 1 << 20]);
    fs::create_dir(root.join("empty folder")).unwrap();
    write(&root.join("mode 0000"), "secret");
    fs::set_permissions(root.join("mode 0000"), fs::Permissions::from_mode(0o0)).unwrap();
    write(&root.join("setuid"), "#!/bin/sh\n");
    fs::set_permissions(root.join("setuid"), fs::Permissions::from_mode(0o6755)).unwrap();
    write(&root.join("old"), "before the epoch");
    set_mtime(&root.join("old"), -86_400 * 365 * 20, 123_456_789);
    write(&root.join("odd names").join(OsStr::from_bytes(b"not utf-8 \xff\xfe\x80 \n tab\t")), "bytes");
    write(&root.join("odd names").join("n".repeat(255)), "long name");
    build_links(root);
    build_sparse(root);
    build_deep(root);
    rustix::fs::mknodat(CWD, root.join("pipe"), FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
    rustix::fs::mknodat(CWD, root.join("socket"), FileType::Socket, Mode::from_raw_mode(0o600), 0).unwrap();
    set_xattr(&root.join("plain"), "user.note", b"value with \0 and \xff");
    set_xattr(&root.join("odd names"), "user.folder", b"");
    acl(&["-m", "u:12345:rw,g:54321:r"], &root.join("plain"));
    acl(&["-m", "u:12345:rwx,d:u:12345:rwx"], &root.join("empty folder"));
    fs::create_dir_all(root.join("inherits/inner")).unwrap();
    acl(&["-m", "d:u:4711:rwx"], &root.join("inherits"));
    // Files below a folder with a default ACL that do not have it themselves.
    write(&root.join("inherits/inner/file"), "x");
    if is_root() {
        build_privileged(root);
    }
    set_mtime(&root.join("empty folder"), 1_000_000_000, 1);
}

fn build_links(root: &Path) {
    write(&root.join("links/first"), "one inode, three names");
    fs::hard_link(root.join("links/first"), root.join("links/second")).unwrap();
    fs::hard_link(root.join("links/first"), root.join("a third name")).unwrap();
    symlink("nowhere at all", root.join("links/dangling")).unwrap();
    symlink("/etc/passwd", root.join("links/outward")).unwrap();
    symlink("../../..", root.join("links/upward")).unwrap();
    symlink("first", root.join("links/inward")).unwrap();
    set_mtime(&root.join("links/dangling"), 999_999_999, 5);
    fs::hard_link(root.join("links/dangling"), root.join("links/dangling again")).unwrap();
    rustix::fs::mknodat(CWD, root.join("a pipe"), FileType::Fifo, Mode::from_raw_mode(0o604), 0).unwrap();
    fs::hard_link(root.join("a pipe"), root.join("links/pipe")).unwrap();
    fs::hard_link(root.join("a pipe"), root.join("links/pipe again")).unwrap();
}

/// `rsync` reads holes as zeros, so the file is small enough to be read often.
const SPARSE_BYTES: u64 = 64 << 20;

fn build_sparse(root: &Path) {
    let file = fs::File::create(root.join("sparse")).unwrap();
    file.set_len(SPARSE_BYTES).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"data in the middle", SPARSE_BYTES / 2 + 12_345)
        .unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"tail", SPARSE_BYTES - 4).unwrap();
}

/// A path of 4,000 bytes; `rsync` and `cp` go up to 4,096 with the root's own.
fn build_deep(root: &Path) {
    build_deeper(root, "d", 19, &"b".repeat(4000 - 19 * 201));
}

/// A file below so many folders of 200 characters, made without naming the whole path in one call.
pub(super) fn build_deeper(root: &Path, letter: &str, levels: usize, file: &str) {
    let name = letter.repeat(200);
    let mut folder = rustix::fs::open(root, rustix::fs::OFlags::DIRECTORY, Mode::empty()).unwrap();
    for _ in 0..levels {
        rustix::fs::mkdirat(&folder, &name, Mode::from_raw_mode(0o755)).unwrap();
        folder = rustix::fs::openat(&folder, &name, rustix::fs::OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
    let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY;
    let file = rustix::fs::openat(&folder, file, flags, Mode::from_raw_mode(0o644)).unwrap();
    rustix::io::write(&file, b"deep down").unwrap();
}

fn build_privileged(root: &Path) {
    write(&root.join("owned"), "by someone else");
    std::os::unix::fs::chown(root.join("owned"), Some(12_345), Some(54_321)).unwrap();
    std::os::unix::fs::lchown(root.join("links/dangling"), Some(1), Some(2)).unwrap();
    let mode = Mode::from_raw_mode(0o620);
    rustix::fs::mknodat(CWD, root.join("char"), FileType::CharacterDevice, mode, makedev(1, 3)).unwrap();
    rustix::fs::mknodat(CWD, root.join("block"), FileType::BlockDevice, mode, makedev(7, 200)).unwrap();
    set_xattr(&root.join("plain"), "trusted.secret", b"root only");
    let link = root.join("links/outward");
    rustix::fs::lsetxattr(&link, "trusted.link", b"on a link", rustix::fs::XattrFlags::empty()).unwrap();
    write(&root.join("capable"), "binary");
    // cap_net_raw+ep, version 2.
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    set_xattr(&root.join("capable"), "security.capability", &capability);
}

pub(super) fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::setxattr(path, name, value, rustix::fs::XattrFlags::empty()).unwrap();
}

fn acl(args: &[&str], path: &Path) {
    match Command::new("setfacl").args(args).arg(path).status() {
        Ok(status) => assert!(status.success()),
        Err(error) => eprintln!("setfacl is not installed ({error}): no ACLs in this run"),
    }
}

/// Random changes of every kind, by seed.
pub(super) fn mutate(root: &Path, rng: &mut StdRng, round: u32) {
    for step in 0..30 {
        let folder = root.join(format!("f{}", rng.random_range(0..6)));
        let path = folder.join(format!("n{}", rng.random_range(0..12)));
        let other = root.join(format!("f{}/n{}", rng.random_range(0..6), rng.random_range(0..12)));
        // Folders may have become something else.
        if !folder.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
            remove_any(&folder);
            fs::create_dir(&folder).unwrap();
        }
        let meta = path.symlink_metadata().ok();
        match rng.random_range(0..13) {
            0 | 1 => {
                remove_any(&path);
                let len = rng.random_range(0..400_000);
                write(&path, random_bytes(rng, len));
            }
            2 if meta.as_ref().is_some_and(|meta| meta.is_file() && meta.len() > 0) => {
                overwrite_some(&path, rng)
            }
            3 if meta.as_ref().is_some_and(|meta| meta.is_file()) => {
                let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
                file.set_len(rng.random_range(0..300_000)).unwrap();
            }
            4 => remove_any(&path),
            5 if step % 2 == 0 => {
                remove_any(&path);
                rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
            }
            5 => {
                remove_any(&path);
                symlink(format!("target {round} {step}"), &path).unwrap();
            }
            6 => {
                remove_any(&path);
                write(&path.join("inner/deep"), format!("{round} {step}"));
            }
            7 if other.symlink_metadata().is_ok_and(|meta| !meta.is_dir()) && other != path => {
                remove_any(&path);
                if other.symlink_metadata().is_ok() {
                    fs::hard_link(&other, &path).unwrap();
                }
            }
            8 if meta.is_some() && path != other && !other.starts_with(&path) => {
                remove_any(&other);
                if other.parent().is_some_and(Path::is_dir) {
                    fs::rename(&path, &other).unwrap();
                }
            }
            9 if meta.as_ref().is_some_and(|meta| !meta.is_symlink()) => {
                fs::set_permissions(&path, fs::Permissions::from_mode(0o700 | rng.random_range(0..0o100)))
                    .unwrap();
            }
            10 if meta.as_ref().is_some_and(|meta| meta.is_file() || meta.is_dir()) => {
                set_xattr(&path, "user.round", format!("{round} {step}").as_bytes());
            }
            11 => {
                remove_any(&path);
                let file = fs::File::create(&path).unwrap();
                file.set_len(1 << 20).unwrap();
                let at = rng.random_range(0..1 << 20);
                std::os::unix::fs::FileExt::write_all_at(&file, b"island", at).unwrap();
            }
            12 if rng.random_range(0..8) == 0 => {
                remove_any(&folder);
                write(&folder, "a file where a folder was");
            }
            _ => {}
        }
    }
}

fn overwrite_some(path: &Path, rng: &mut StdRng) {
    let len = fs::metadata(path).unwrap().len();
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    let at = rng.random_range(0..len);
    let bytes = random_bytes(rng, 3000);
    std::os::unix::fs::FileExt::write_all_at(&file, &bytes, at).unwrap();
}

pub(super) fn remove_any(path: &Path) {
    match path.symlink_metadata() {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path).unwrap(),
        Ok(_) => fs::remove_file(path).unwrap(),
        Err(_) => {}
    }
}

/// Copies a tree exactly.
pub(super) fn copy_tree(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg("--sparse=always").arg(from).arg(to).status().unwrap();
    assert!(status.success());
}
