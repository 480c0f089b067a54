//! Whether a source was written while it was read, and passes over what was.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use backstay_types::plan::SnapshotKind;
use backstay_types::point::Atomicity;

use super::providers::{Mounted, site_on, subvolume};
use super::support::*;
use crate::quiet::is_before;
use crate::{Cancel, ParentUse, Progress, QuietLook, QuietMark, VolumeRead, snapshot};

/// Reads a volume as a cycle does, with `between` done while chunks are handed over.
fn read(site: &Site, between: impl FnMut(u64)) -> VolumeRead {
    // What was just written for the test is not of the moment of the mark.
    std::thread::sleep(Duration::from_millis(50));
    site.try_read_with(between).unwrap().read
}

fn look(read: &VolumeRead) -> QuietLook {
    read.look_again(&Cancel::new()).unwrap()
}

fn names(look: &QuietLook) -> Vec<String> {
    match look {
        QuietLook::Written(written) => written.paths.clone(),
        other => panic!("{other:?}"),
    }
}

/// Takes a further pass, and keeps what it hands over.
fn again(site: &Site, read: VolumeRead) -> VolumeRead {
    std::thread::sleep(Duration::from_millis(50));
    read.read_again(&mut Sink::new(&site.store), &Progress::new()).unwrap()
}

#[test]
fn a_look_finds_every_change() {
    let site = Site::new();
    let source = site.source();
    build_nasty_tree(&source, &mut seeded(1));
    let first = read(&site, |_| {});
    assert_eq!(look(&first), QuietLook::Quiet);
    assert_eq!((first.atomicity(), first.was_unchanged()), (Atomicity::None, false));
    drop(first);
    type Change<'a> = (&'a str, &'a dyn Fn(&Path));
    let changes: [Change; 7] = [
        ("written", &|root| fs::write(root.join("plain"), "other text").unwrap()),
        ("of the same size", &|root| {
            fs::OpenOptions::new()
                .write(true)
                .open(root.join("big"))
                .unwrap()
                .write_all_at(b"x", 99)
                .unwrap();
        }),
        ("new", &|root| fs::write(root.join("new"), "").unwrap()),
        ("gone", &|root| fs::remove_file(root.join("empty")).unwrap()),
        ("renamed", &|root| fs::rename(root.join("old"), root.join("older")).unwrap()),
        ("come and gone", &|root| {
            fs::write(root.join("tmp"), "").unwrap();
            fs::remove_file(root.join("tmp")).unwrap();
        }),
        ("mode", &|root| set_mode(&root.join("plain"), 0o600)),
    ];
    for (what, change) in changes {
        let first = read(&site, |_| {});
        assert_eq!(look(&first), QuietLook::Quiet, "before {what}");
        change(&source);
        assert!(!names(&look(&first)).is_empty(), "{what}");
        let second = again(&site, first);
        assert_eq!(look(&second), QuietLook::Quiet, "{what}");
        fs::remove_dir_all(site.replica()).unwrap_or(());
        site.apply(None, &second.volume.root);
        site.assert_replica(&second.volume.root);
    }
}

fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Python, which has mapped a file and dirtied a page of it, and stores to that page again when told.
struct Mapper {
    child: Child,
    tell: ChildStdin,
    told: BufReader<ChildStdout>,
}

impl Mapper {
    /// `None`, saying so, where there is no Python.
    fn start(path: &Path) -> Option<Self> {
        let script = "import mmap,sys\nf=open(sys.argv[1],'r+b')\nm=mmap.mmap(f.fileno(),0)\nm[5000]=2\nprint('dirty',flush=True)\n\
                  sys.stdin.readline()\nm[5001]=3\nprint('again',flush=True)\nsys.stdin.readline()\n";
        let mut command = Command::new("python3");
        command.args(["-c", script, path.to_str().unwrap()]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => {
                eprintln!("skipped: python3 maps the file: {error}");
                return None;
            }
        };
        let (tell, told) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut mapper = Self { child, tell, told };
        mapper.hear("dirty");
        Some(mapper)
    }

    fn hear(&mut self, expected: &str) {
        let mut line = String::new();
        self.told.read_line(&mut line).unwrap();
        assert_eq!(line.trim_end(), expected);
    }

    fn store_again(&mut self) {
        self.tell.write_all(b"\n").unwrap();
        self.hear("again");
    }
}

impl Drop for Mapper {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// A store to a page that is dirty already changes no time stamp, so pages are clean when a pass begins.
#[test]
fn a_mapped_write_is_seen() {
    let site = Site::new();
    let path = site.source().join("mapped");
    write(&path, vec![1; 1 << 20]);
    let Some(mut mapper) = Mapper::start(&path) else { return };
    let first = read(&site, |_| {});
    assert_eq!(look(&first), QuietLook::Quiet);
    mapper.store_again();
    assert_eq!(names(&look(&first)), ["mapped"]);
}

/// Its snapshot would write out as well, but only when it is taken, if it can be.
#[test]
fn a_subvolume_is_written_out_at_the_mark() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = Mounted::new(dir.path(), "btrfs") else { return };
    for provider in [SnapshotKind::Auto, SnapshotKind::Btrfs] {
        let site = site_on(&disk, provider, &format!("{provider:?}"));
        subvolume(&site.source());
        let path = site.source().join("mapped");
        write(&path, vec![1; 1 << 20]);
        let Some(mut mapper) = Mapper::start(&path) else { return };
        // More than a time stamp must lie before a mark.
        std::thread::sleep(Duration::from_millis(50));
        let mark = QuietMark::set(&site.spec).unwrap();
        mapper.store_again();
        let ctime = crate::fs::Stat::from(rustix::fs::stat(&path).unwrap()).ctime;
        assert!(!is_before(ctime, mark.since), "{provider:?}: {ctime:?}, marked {:?}", mark.since);
    }
}

/// What was read by a pass that was overtaken is in the manifest only where the next one found it unchanged.
#[test]
fn passes_never_mix() {
    let site = Site::new();
    let source = site.source();
    for n in 0..50 {
        write(&source.join(format!("m/{n}")), random_bytes(&mut seeded(n), 10_000));
    }
    write(&source.join("a"), "1");
    write(&source.join("z"), random_bytes(&mut seeded(77), 1 << 20));
    let mut written = false;
    let first = read(&site, |n| {
        if n > 20 && !written {
            written = true;
            fs::write(source.join("a"), "2").unwrap();
            fs::write(source.join("z"), "2").unwrap();
            fs::remove_file(source.join("m/7")).unwrap();
        }
    });
    assert!(written);
    // The first pass has `a` of before and `z` of after: it is no view of any moment.
    site.apply(None, &first.volume.root);
    let of = |name: &str| fs::read(site.replica().join(name)).unwrap();
    assert_eq!((of("a"), of("z")), (b"1".to_vec(), b"2".to_vec()));
    assert!(!names(&look(&first)).is_empty());
    let before = first.volume.root;
    let second = again(&site, first);
    assert_eq!(look(&second), QuietLook::Quiet);
    assert!(second.stats.bytes_scanned < 600_000 && !second.fuzzy, "{:?}", second.stats);
    site.apply(Some(&before), &second.volume.root);
    site.assert_replica(&second.volume.root);
    // Its state is the parent of the next cycle, and that of the first pass is gone.
    second.pending.adopt("e1-000001".parse().unwrap()).unwrap();
    assert_eq!(fs::read_dir(site.state_dir()).unwrap().count(), 2);
    site.age();
    let third = site.try_read().unwrap();
    assert!(third.read.was_unchanged() && third.wire == 0, "{} bytes", third.wire);
}

/// A failed or dropped pass leaves what the receiver acknowledged last.
#[test]
fn a_dropped_pass_leaves_the_parent() {
    let site = Site::new();
    write(&site.source().join("f"), "one");
    let (_, _) = site.cycle();
    write(&site.source().join("f"), "two");
    let first = read(&site, |_| {});
    write(&site.source().join("f"), "three");
    drop(again(&site, first));
    assert_eq!(site.sent().parent_id(), Some("e1-000001".parse().unwrap()));
    assert_eq!(fs::read_dir(site.state_dir()).unwrap().count(), 2, "the head and one state");
    site.age();
    write(&site.source().join("f"), "one");
    let (root, _) = site.cycle();
    site.apply(None, &root);
    site.assert_replica(&root);
}

#[test]
fn clones_of_a_tree_are_proven_by_its_original() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = Mounted::new(dir.path(), "xfs") else { return };
    // The second is the whole file system: its clones stand inside it, and change its root.
    for source in ["v", ""] {
        let mut site = Site::new();
        site.spec = tree_spec(&disk.0.join(source), SnapshotKind::Reflink);
        fs::create_dir_all(site.source()).unwrap();
        write(&site.source().join("a"), "1");
        write(&site.source().join("b"), random_bytes(&mut seeded(3), 1 << 20));
        let first = read(&site, |_| {});
        assert_eq!(first.atomicity(), Atomicity::File);
        assert_eq!(look(&first), QuietLook::Quiet, "{source:?}");
        write(&site.source().join("a"), "2");
        assert_eq!(names(&look(&first)), ["a"]);
        let second = again(&site, first);
        assert_eq!(look(&second), QuietLook::Quiet);
        fs::remove_dir_all(site.replica()).unwrap_or(());
        site.apply(None, &second.volume.root);
        assert_eq!(fs::read(site.replica().join("a")).unwrap(), b"2");
    }
}

/// Whoever writes while clones are made was not held.
#[test]
fn a_write_while_clones_are_made_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = Mounted::new(dir.path(), "xfs") else { return };
    let site = site_on(&disk, SnapshotKind::Reflink, "v");
    let path = site.source().join("busy");
    write(&path, "x");
    assert!(!read(&site, |_| {}).disturbed);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
            while !over.load(Ordering::Relaxed) {
                file.write_all(b"x").unwrap();
            }
        });
        let told = (0..500).any(|_| site.try_read().unwrap().read.disturbed);
        over.store(true, Ordering::Relaxed);
        assert!(told);
    });
}

#[test]
fn an_unchanged_image_that_is_cloned_is_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = Mounted::new(dir.path(), "xfs") else { return };
    let mut site = Site::new();
    let image = disk.0.join("disk.img");
    write(&image, random_bytes(&mut seeded(9), 4 << 20));
    (site.spec.path, site.spec.device) = (None, Some(image.clone()));
    site.spec.snapshot.provider = SnapshotKind::Auto;
    let (first, _) = site.cycle();
    site.age();
    let next = site.try_read().unwrap();
    assert_eq!(next.read.atomicity(), Atomicity::Volume);
    assert!(next.read.was_unchanged() && next.chunks == 0, "{} chunks", next.chunks);
    assert_eq!(next.read.volume.root, first);
    assert_eq!(look(&next.read), QuietLook::Quiet);
    drop(next);
    fs::OpenOptions::new().write(true).open(&image).unwrap().write_all_at(b"new", 70_000).unwrap();
    let next = read(&site, |_| {});
    assert!(next.stats.bytes_changed > 0);
    assert_eq!(look(&next), QuietLook::Quiet);
    fs::OpenOptions::new().write(true).open(&image).unwrap().write_all_at(b"newer", 70_000).unwrap();
    assert!(matches!(look(&next), QuietLook::Written(_)));
}

#[test]
fn tmpfs_tells_nothing() {
    let mut site = Site::new();
    let at = Path::new("/dev/shm");
    if !at.is_dir() {
        return eprintln!("skipped: there is no /dev/shm");
    }
    let dir = tempfile::tempdir_in(at).unwrap();
    site.spec = tree_spec(dir.path(), SnapshotKind::None);
    write(&site.source().join("f"), "x");
    assert!(QuietMark::set(&site.spec).unwrap().untold().is_some_and(|why| why.contains("mapping")));
    let first = read(&site, |_| {});
    assert!(matches!(look(&first), QuietLook::Untold(why) if why.contains("tmpfs")));
    first.pending.adopt("e1-000001".parse().unwrap()).unwrap();
    site.age();
    assert!(!site.try_read().unwrap().read.was_unchanged(), "it looks unchanged, and that proves nothing");
}

/// What one node has cached another has not written: it is written out before the counters are looked at.
#[test]
fn a_device_written_through_another_node_is_not_quiet() {
    let losetup = |args: &[&str]| Command::new("losetup").args(args).output();
    if !is_root() || !losetup(&["--version"]).is_ok_and(|o| o.status.success()) {
        return eprintln!("skipped: loop devices need root and losetup");
    }
    let mut site = Site::new();
    let image = site.dir.path().join("disk.img");
    write(&image, random_bytes(&mut seeded(3), 8 << 20));
    let output = losetup(&["--find", "--show", image.to_str().unwrap()]).unwrap();
    assert!(output.status.success(), "{output:?}");
    let device = std::path::PathBuf::from(String::from_utf8(output.stdout).unwrap().trim());
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        (site.spec.path, site.spec.device) = (None, Some(device.clone()));
        let number = rustix::fs::stat(&device).unwrap().st_rdev;
        let node = site.dir.path().join("node");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &node, rustix::fs::FileType::BlockDevice, mode, number).unwrap();
        let other = fs::OpenOptions::new().write(true).open(&node).unwrap();
        let first = read(&site, |_| {});
        assert_eq!(look(&first), QuietLook::Quiet);
        other.write_all_at(&[7; 4096], 4 << 20).unwrap();
        assert!(matches!(look(&first), QuietLook::Written(_)), "through another node");
        // While it is read: the two halves are of two moments.
        let mut written = false;
        let second = read(&site, |n| {
            if n == 3 && !written {
                written = true;
                other.write_all_at(&[8; 4096], 0).unwrap();
                other.write_all_at(&[8; 4096], 7 << 20).unwrap();
            }
        });
        assert!(written && !second.fuzzy, "nothing shows in the node itself");
        assert!(matches!(look(&second), QuietLook::Written(_)));
        drop(second);
        // Through the file behind it.
        let third = read(&site, |_| {});
        fs::OpenOptions::new().write(true).open(&image).unwrap().write_all_at(b"x", 100).unwrap();
        assert!(matches!(look(&third), QuietLook::Written(_)), "through its file");
    }));
    assert!(losetup(&["-d", device.to_str().unwrap()]).unwrap().status.success());
    result.unwrap();
}

/// A snapshot shows one instant by itself.
#[test]
fn snapshots_say_what_is_atomic() {
    let site = Site::new();
    write(&site.source().join("f"), "x");
    let taken = snapshot(&site.spec, &site.ctx, &site.sent(), ParentUse::Held).unwrap();
    assert_eq!(taken.atomicity(), Atomicity::None);
    let mut by_command = Site::new();
    by_command.spec.snapshot.provider = SnapshotKind::Command;
    by_command.spec.snapshot.create =
        Some(["sh", "-c", r#"echo "$BACKSTAY_SOURCE""#].map(str::to_owned).to_vec());
    for (atomic, expected) in [
        (None, Atomicity::Volume),
        (Some(backstay_types::plan::CommandAtomicity::Volume), Atomicity::Volume),
        (Some(backstay_types::plan::CommandAtomicity::Group), Atomicity::Group),
    ] {
        by_command.spec.snapshot.atomic = atomic;
        let (spec, ctx) = (&by_command.spec, &by_command.ctx);
        assert_eq!(snapshot(spec, ctx, &by_command.sent(), ParentUse::Held).unwrap().atomicity(), expected);
    }
}
