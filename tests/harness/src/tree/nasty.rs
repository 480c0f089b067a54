//! Everything that copying tools get wrong, in one tree.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, Timespec, Timestamps, XattrFlags, mkdirat, mknodat, openat,
    setxattr, utimensat,
};

use crate::{is_root, skip};

/// Longest component of a path on Linux.
const NAME_MAX: usize = 255;
/// Length of the long path below the root of the tree.
const LONG_PATH: usize = 4000;

/// Builds the tree in an existing, empty folder; its largest file is an image of so many GiB, nearly all hole.
pub fn nasty(dir: &Path, sparse_gib: u64) {
    links(dir);
    names(dir);
    modes_and_empties(dir);
    sparse(dir, sparse_gib << 30);
    long_path(dir);
    attributes(dir);
    if is_root() {
        owners_and_devices(dir);
    } else {
        skip("nasty tree", "device nodes, foreign owners and capabilities need root");
    }
    dates(dir);
}

fn links(dir: &Path) {
    let sub = dir.join("links");
    fs::create_dir_all(sub.join("inner")).unwrap();
    fs::write(sub.join("first"), b"one file of four names").unwrap();
    for name in ["second", "inner/third", "../fourth-name"] {
        fs::hard_link(sub.join("first"), sub.join(name)).unwrap();
    }
    symlink("first", sub.join("to-file")).unwrap();
    symlink("inner", sub.join("to-folder")).unwrap();
    symlink("no/such/thing", sub.join("to-nowhere")).unwrap();
    symlink("/etc/passwd", sub.join("out-absolute")).unwrap();
    symlink("../../../../../../etc", sub.join("out-relative")).unwrap();
    symlink("loop", sub.join("loop")).unwrap();
    symlink("x".repeat(1000), sub.join("long-target")).unwrap();
    // A symbolic link with two names is an inode with two names too.
    fs::hard_link(sub.join("to-nowhere"), sub.join("to-nowhere-again")).unwrap();
    mknodat(CWD, sub.join("pipe"), FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
    fs::hard_link(sub.join("pipe"), sub.join("pipe-again")).unwrap();
}

fn names(dir: &Path) {
    let sub = dir.join("names");
    fs::create_dir(&sub).unwrap();
    let long = "n".repeat(NAME_MAX);
    let wide = "ü".repeat(NAME_MAX / 2);
    let names: [&[u8]; 12] = [
        b"not-utf8-\xff\xfe\x80.txt",
        b"\xc3\x28",
        b"new\nline",
        b"tab\tand \"quotes\" 'too'",
        b" leading and trailing ",
        b"-rf",
        b"*?[a]",
        b"back\\slash",
        b"...",
        b"\x01control\x7f",
        long.as_bytes(),
        wide.as_bytes(),
    ];
    for name in names {
        fs::write(sub.join(OsStr::from_bytes(name)), name).unwrap();
    }
    fs::create_dir(sub.join(OsStr::from_bytes(b"folder-\xff"))).unwrap();
    fs::write(sub.join(OsStr::from_bytes(b"folder-\xff")).join("inside"), b"x").unwrap();
    // Order: a folder's content sorts between names that byte order of whole paths would put elsewhere.
    fs::create_dir(sub.join("a")).unwrap();
    for name in ["a/x", "a.b", "a-b", "a0", "A"] {
        fs::write(sub.join(name), name).unwrap();
    }
}

fn modes_and_empties(dir: &Path) {
    let sub = dir.join("modes");
    fs::create_dir_all(sub.join("empty/inner")).unwrap();
    File::create(sub.join("empty-file")).unwrap();
    for mode in [0o0000, 0o0400, 0o4755, 0o2755, 0o6711, 0o1644, 0o0777, 0o7777] {
        let path = sub.join(format!("mode-{mode:04o}"));
        fs::write(&path, b"content").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    }
    for mode in [0o1777, 0o2775, 0o0000] {
        // A folder nobody may enter can be walked by root alone.
        if mode != 0 || is_root() {
            let path = sub.join(format!("folder-{mode:04o}"));
            fs::create_dir(&path).unwrap();
            fs::write(path.join("inside"), b"x").unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        }
    }
    if !is_root() {
        fs::remove_file(sub.join("mode-0000")).unwrap();
    }
}

fn sparse(dir: &Path, image_bytes: u64) {
    let sub = dir.join("sparse");
    fs::create_dir(&sub).unwrap();
    let image = File::create(sub.join("image")).unwrap();
    image.set_len(image_bytes).unwrap();
    for (at, byte) in
        [(0, 1), (image_bytes / 8 + 777, 2), (image_bytes / 2 - 100, 3), (image_bytes - 4096, 4)]
    {
        image.write_all_at(&[byte; 4096], at).unwrap();
    }
    // Nothing but a hole; data and then a hole; a hole and then data; zeros that are really written.
    File::create(sub.join("hole")).unwrap().set_len(1 << 20).unwrap();
    let head = File::create(sub.join("head")).unwrap();
    head.write_all_at(b"head", 0).unwrap();
    head.set_len((3 << 20) + 5).unwrap();
    File::create(sub.join("tail")).unwrap().write_all_at(b"tail", 5 << 20).unwrap();
    fs::write(sub.join("zeros"), vec![0; 300_000]).unwrap();
    fs::write(sub.join("one-byte"), b"1").unwrap();
}

/// Folder below folder by descriptors: no call sees more than one component.
fn long_path(dir: &Path) {
    fs::create_dir(dir.join("long")).unwrap();
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut folder = openat(CWD, dir.join("long"), flags, Mode::empty()).unwrap();
    let mut len = "long".len();
    // Leaves room for `/` and the file's own name.
    while len + 1 + NAME_MAX + 2 < LONG_PATH {
        let name = "d".repeat(NAME_MAX);
        mkdirat(&folder, &name, Mode::from_raw_mode(0o755)).unwrap();
        folder = openat(&folder, &name, flags, Mode::empty()).unwrap();
        len += 1 + NAME_MAX;
    }
    let name = "f".repeat(LONG_PATH - len - 1);
    let file = openat(&folder, &name, OFlags::CREATE | OFlags::WRONLY, Mode::from_raw_mode(0o644)).unwrap();
    File::from(file).write_all_at(b"the end of a path of 4000 bytes", 0).unwrap();
}

fn attributes(dir: &Path) {
    let sub = dir.join("attributes");
    fs::create_dir(&sub).unwrap();
    fs::write(sub.join("with-xattrs"), b"x").unwrap();
    let big = vec![7; 2000];
    for (name, value) in [("user.text", b"value".as_slice()), ("user.empty", b""), ("user.binary", &big)] {
        setxattr(sub.join("with-xattrs"), name, value, XattrFlags::empty()).unwrap();
        setxattr(&sub, name, value, XattrFlags::empty()).unwrap();
    }
    fs::write(sub.join("with-acl"), b"x").unwrap();
    fs::create_dir(sub.join("folder-acl")).unwrap();
    run("setfacl", &["-m", "u:1234:rw-,g:2345:r--,m::rw-"], &sub.join("with-acl"));
    run("setfacl", &["-m", "u:1234:rwx,d:u:1234:rwx,d:g:2345:r-x"], &sub.join("folder-acl"));
    fs::write(sub.join("folder-acl").join("inherits"), b"x").unwrap();
    if is_root() {
        fs::copy("/bin/true", sub.join("with-capability")).unwrap();
        run("setcap", &["cap_net_raw,cap_net_bind_service+ep"], &sub.join("with-capability"));
        setxattr(sub.join("with-xattrs"), "trusted.note", b"root's", XattrFlags::empty()).unwrap();
    }
}

fn owners_and_devices(dir: &Path) {
    let sub = dir.join("owners");
    fs::create_dir(&sub).unwrap();
    for (name, uid, gid) in
        [("high-ids", 100_000, 200_000), ("nobody", 65_534, 65_534), ("setuid-owned", 1000, 1000)]
    {
        fs::write(sub.join(name), name).unwrap();
        std::os::unix::fs::chown(sub.join(name), Some(uid), Some(gid)).unwrap();
    }
    // After the chown, which clears the bits.
    fs::set_permissions(sub.join("setuid-owned"), Permissions::from_mode(0o6755)).unwrap();
    symlink("nowhere", sub.join("owned-link")).unwrap();
    std::os::unix::fs::lchown(sub.join("owned-link"), Some(1000), Some(1001)).unwrap();
    let device = rustix::fs::makedev(1, 3);
    mknodat(CWD, sub.join("null"), FileType::CharacterDevice, Mode::from_raw_mode(0o666), device).unwrap();
    let device = rustix::fs::makedev(7, 99);
    mknodat(CWD, sub.join("block"), FileType::BlockDevice, Mode::from_raw_mode(0o660), device).unwrap();
}

/// Last, for making other entries changes their folders' times.
fn dates(dir: &Path) {
    let sub = dir.join("dates");
    fs::create_dir(&sub).unwrap();
    symlink("1969", sub.join("link")).unwrap();
    let dates =
        [("1969", -1, 999_999_999), ("1950", -631_152_000, 1), ("1970", 0, 0), ("2100", 4_102_444_800, 5)];
    for (name, seconds, nanos) in dates {
        fs::write(sub.join(name), name).unwrap();
        set_mtime(&sub.join(name), seconds, nanos);
    }
    set_mtime(&sub.join("link"), -86_400, 123_456_789);
    set_mtime(&sub, -1_000_000, 42);
    set_mtime(&dir.join("links"), 1_000_000_000, 7);
}

/// Sets a time without following a link.
fn set_mtime(path: &Path, seconds: i64, nanos: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn run(program: &str, args: &[&str], path: &Path) {
    let output = Command::new(program).args(args).arg(path).output();
    let output = output.unwrap_or_else(|e| panic!("{program} is needed: {e}"));
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}
