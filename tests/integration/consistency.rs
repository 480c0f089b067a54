//! What a restore point is called, against writers that tell: n goes to `a`, is synced, then to `z`, for ever. At every
//! instant `z` is `a` or one less, so whatever is called `crash` must show that.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use backstay_tests::{FileSystem, LoopFs, Pair, Plan, is_root, seed, skip, tree};
use serde_json::Value;

/// Cycles beside a writer.
const ROUNDS: usize = 6;

/// Writes until it is dropped.
struct Writer(Arc<AtomicBool>, Option<std::thread::JoinHandle<()>>);

impl Writer {
    fn start(a: PathBuf, z: PathBuf, rest: Duration) -> Writer {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let open =
            |path: &Path| fs::OpenOptions::new().create(true).truncate(false).write(true).open(path).unwrap();
        let (a, z) = (open(&a), open(&z));
        for file in [&a, &z] {
            file.write_all_at(b"00000000", 0).unwrap();
            file.sync_data().unwrap();
        }
        let work = move || {
            for n in 1_u64.. {
                if told.load(Ordering::Relaxed) {
                    return;
                }
                for file in [&a, &z] {
                    file.write_all_at(format!("{n:08}").as_bytes(), 0).unwrap();
                    file.sync_data().unwrap();
                }
                std::thread::sleep(rest);
            }
        };
        Writer(stop, Some(std::thread::spawn(work)))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        if let Some(thread) = self.1.take() {
            thread.join().unwrap();
        }
    }
}

fn number(path: &Path) -> i64 {
    fs::read_to_string(path).unwrap().trim().parse().unwrap()
}

/// The two numbers of a restore point, of the volumes they are in.
fn numbers(pair: &Pair, point: &Value, [a, z]: [&str; 2]) -> (i64, i64) {
    let id = point["id"].as_str().unwrap();
    let of = |volume: &str, file: &str| {
        let to = pair.work(&format!("{id}-{volume}-{file}"));
        let target = to.to_str().unwrap();
        pair.west.cli(["restore", "shop", "--restore-point", id, "--volume", volume, "--to", target]).ok();
        number(&to.join(file))
    };
    (of(a, "a"), of(z, "z"))
}

fn shows_an_instant((a, z): (i64, i64)) -> bool {
    z == a || z == a - 1
}

/// `a` and `z`, with much between them to be read.
fn fill(folder: &Path) {
    tree::small_files(&folder.join("m"), 400, &mut seed("between"));
    tree::random_image(&folder.join("n"), 8, &mut seed("between"));
}

fn volume(name: &str, path: &Path, provider: &str) -> String {
    format!("{{name: {name}, path: {path:?}, snapshot: {{provider: {provider}}}}}")
}

/// Cycles beside a writer, each with the least word `least`. What is committed must keep its word; returns the words.
fn beside_a_writer(
    pair: &Pair,
    plan: &Plan,
    least: &str,
    volumes: [&str; 2],
    writer: &Writer,
) -> Vec<String> {
    assert!(!writer.0.load(Ordering::Relaxed));
    pair.east.apply(&plan.clone().field(&format!("minimumConsistency: {least}")).yaml()).ok();
    let mut words = Vec::new();
    for _ in 0..ROUNDS {
        let point = pair.east.sync("shop");
        let word = point["consistency"].as_str().unwrap().to_owned();
        let shown = numbers(pair, &point, volumes);
        if word == "crash" || word == "application" {
            assert!(shows_an_instant(shown), "{} is called {word} and shows {shown:?}", point["id"]);
        }
        words.push(word);
    }
    words
}

/// A cycle that cannot keep `crash` fails, and says what to do.
fn is_refused(pair: &Pair, plan: &Plan, words: &[&str]) {
    pair.east.allow_errors("");
    let before = pair.west.restore_point_ids("shop");
    pair.east.apply(&plan.clone().yaml()).ok();
    let refused = pair.east.cli(["sync", "shop"]).refused(&[7], words);
    assert!(refused.stderr.contains("minimumConsistency"), "{}", refused.stderr);
    assert_eq!(pair.west.restore_point_ids("shop"), before);
}

/// After a writer has stopped, the same plan commits, and calls it what it is.
fn is_crash_when_quiet(pair: &Pair, plan: &Plan, volumes: [&str; 2]) {
    pair.east.apply(&plan.clone().yaml()).ok();
    for _ in 0..2 {
        let point = pair.east.sync("shop");
        assert_eq!(point["consistency"], "crash");
        let (a, z) = numbers(pair, &point, volumes);
        assert_eq!(a, z);
    }
}

#[test]
fn a_tree_read_in_place() {
    let pair = Pair::start();
    let source = pair.source("source");
    fill(&source);
    let plan = Plan::new("shop").raw_volume(&volume("data", &source, "none")).keep(50);
    let writer = Writer::start(source.join("a"), source.join("z"), Duration::ZERO);
    let words = beside_a_writer(&pair, &plan, "fuzzy", ["data"; 2], &writer);
    assert!(words.contains(&"fuzzy".to_owned()), "{words:?}");
    is_refused(&pair, &plan, &["volume data", "written while it was read"]);
    drop(writer);
    is_crash_when_quiet(&pair, &plan, ["data"; 2]);
    // A writer that rests now and then leaves moments that are found.
    let writer = Writer::start(source.join("a"), source.join("z"), Duration::from_millis(1500));
    let point =
        backstay_tests::eventually_some("a pass in which nobody wrote", Duration::from_secs(60), || {
            let out = pair.east.cli(["sync", "shop", "-o", "json"]);
            (out.code == 0).then(|| out.json())
        });
    assert_eq!(point["consistency"], "crash");
    assert!(shows_an_instant(numbers(&pair, &point, ["data"; 2])));
    drop(writer);
}

#[test]
fn a_tree_of_clones() {
    let disk = match LoopFs::mount(FileSystem::Xfs, 400) {
        Ok(disk) => disk,
        Err(reason) => return skip("consistency::a_tree_of_clones", &reason),
    };
    let pair = Pair::start();
    let source = disk.path().join("volume");
    fs::create_dir(&source).unwrap();
    fill(&source);
    let plan = Plan::new("shop").raw_volume(&volume("data", &source, "reflink")).keep(50);
    let writer = Writer::start(source.join("a"), source.join("z"), Duration::ZERO);
    beside_a_writer(&pair, &plan, "fuzzy", ["data"; 2], &writer);
    is_refused(&pair, &plan, &["volume data", "written while it was read"]);
    drop(writer);
    is_crash_when_quiet(&pair, &plan, ["data"; 2]);
}

fn subvolume(path: &Path) {
    let made = Command::new("btrfs").args(["-q", "subvolume", "create"]).arg(path).status().unwrap();
    assert!(made.success());
}

#[test]
fn one_snapshot_of_one_volume() {
    let disk = match LoopFs::mount(FileSystem::Btrfs, 400) {
        Ok(disk) => disk,
        Err(reason) => return skip("consistency::one_snapshot_of_one_volume", &reason),
    };
    let pair = Pair::start();
    let source = disk.path().join("volume");
    subvolume(&source);
    fill(&source);
    let plan = Plan::new("shop").raw_volume(&volume("data", &source, "auto")).keep(50);
    let writer = Writer::start(source.join("a"), source.join("z"), Duration::ZERO);
    let words = beside_a_writer(&pair, &plan, "crash", ["data"; 2], &writer);
    assert_eq!(words, ["crash"; ROUNDS]);
}

#[test]
fn two_snapshots_of_two_volumes() {
    let disk = match LoopFs::mount(FileSystem::Btrfs, 400) {
        Ok(disk) => disk,
        Err(reason) => return skip("consistency::two_snapshots_of_two_volumes", &reason),
    };
    let pair = Pair::start();
    let [one, two] = ["one", "two"].map(|name| disk.path().join(name));
    for source in [&one, &two] {
        subvolume(source);
        fill(source);
    }
    let plan = Plan::new("shop")
        .raw_volume(&volume("one", &one, "btrfs"))
        .raw_volume(&volume("two", &two, "btrfs"))
        .keep(50);
    let writer = Writer::start(one.join("a"), two.join("z"), Duration::ZERO);
    let words = beside_a_writer(&pair, &plan, "crashPerVolume", ["one", "two"], &writer);
    assert_eq!(words, ["crashPerVolume"; ROUNDS]);
    let status = pair.east.status("shop");
    assert_eq!(status["lastCycle"]["consistency"], "crashPerVolume");
    assert!(status["lastCycle"]["belowCrash"].as_str().unwrap().starts_with("volume one: "), "{status}");
    is_refused(&pair, &plan, &["crashPerVolume", "volume one"]);
    drop(writer);
    is_crash_when_quiet(&pair, &plan, ["one", "two"]);
}

/// A device that is written through a second node, while it is read and while it is not.
#[test]
fn a_device_with_a_second_node() {
    let losetup = |args: &[&str]| Command::new("losetup").args(args).output().unwrap();
    if !is_root() {
        return skip("consistency::a_device_with_a_second_node", "loop devices need root");
    }
    let pair = Pair::start();
    let image = pair.work("image");
    tree::random_image(&image, 64, &mut seed("device"));
    let output = losetup(&["--find", "--show", image.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    let device = PathBuf::from(String::from_utf8(output.stdout).unwrap().trim());
    let node = pair.work("node");
    let number = std::os::unix::fs::MetadataExt::rdev(&fs::metadata(&device).unwrap());
    let (major, minor) = (number >> 8 & 0xfff, number & 0xff | number >> 12 & 0xfff00);
    let made = Command::new("mknod").arg(&node).args(["b", &major.to_string(), &minor.to_string()]).status();
    assert!(made.unwrap().success());
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let plan = Plan::new("shop").device("data", &device);
        pair.east.apply(&plan.yaml()).ok();
        assert_eq!(pair.east.sync("shop")["consistency"], "crash", "nobody writes");
        let stop = Arc::new(AtomicBool::new(false));
        let writer = {
            let (stop, node) = (Arc::clone(&stop), node.clone());
            std::thread::spawn(move || {
                let file = fs::OpenOptions::new().write(true).open(node).unwrap();
                for n in 0_u64.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    file.write_all_at(&n.to_le_bytes(), n % 4096 * 16384).unwrap();
                    std::thread::sleep(Duration::from_millis(1));
                }
            })
        };
        is_refused(&pair, &plan, &["volume data"]);
        pair.east.apply(&plan.clone().field("minimumConsistency: fuzzy").yaml()).ok();
        assert_eq!(pair.east.sync("shop")["consistency"], "fuzzy");
        stop.store(true, Ordering::Relaxed);
        writer.join().unwrap();
        pair.east.apply(&plan.clone().field("minimumConsistency: crash").yaml()).ok();
        assert_eq!(pair.east.sync("shop")["consistency"], "crash");
    }));
    assert!(losetup(&["-d", device.to_str().unwrap()]).status.success());
    result.unwrap();
}

/// Nothing tells of writes to a tmpfs: the plan is told at once, and not tried again and again.
#[test]
fn a_tree_that_nothing_tells_of() {
    let pair = Pair::start();
    let Ok(dir) = tempfile::tempdir_in("/dev/shm") else {
        return skip("consistency::a_tree_that_nothing_tells_of", "there is no /dev/shm");
    };
    fs::write(dir.path().join("f"), "x").unwrap();
    pair.east.allow_errors("");
    let plan = Plan::new("shop").volume("data", dir.path());
    pair.east.apply(&plan.yaml()).ok();
    pair.east.cli(["sync", "shop"]).refused(&[2], &["volume data", "tmpfs", "minimumConsistency: fuzzy"]);
    pair.east.apply(&plan.field("allowFuzzy: true").yaml()).ok();
    assert_eq!(pair.east.sync("shop")["consistency"], "fuzzy");
}

/// Folders that come and go, names that are a file and then a folder: 25 cycles, and none fails.
#[test]
fn folders_that_come_and_go() {
    let pair = Pair::start();
    let source = pair.source("source");
    tree::small_files(&source.join("calm"), 100, &mut seed("churn"));
    let stop = Arc::new(AtomicBool::new(false));
    let churn = {
        let (stop, source) = (Arc::clone(&stop), source.clone());
        std::thread::spawn(move || {
            for n in 0_u64.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let folder = source.join(format!("d{}", n % 30));
                fs::create_dir_all(folder.join("deep")).unwrap();
                fs::write(folder.join("deep/f"), n.to_le_bytes()).unwrap();
                let either = source.join(format!("either{}", n % 5));
                fs::write(&either, "a file").unwrap();
                fs::remove_file(&either).unwrap();
                fs::create_dir(&either).unwrap();
                fs::rename(&either, source.join("renamed")).unwrap();
                fs::remove_dir(source.join("renamed")).unwrap();
                fs::remove_dir_all(source.join(format!("d{}", (n + 15) % 30))).unwrap_or(());
            }
        })
    };
    let plan =
        Plan::new("shop").raw_volume(&volume("data", &source, "none")).field("minimumConsistency: fuzzy");
    pair.east.apply(&plan.yaml()).ok();
    for _ in 0..25 {
        pair.east.sync("shop");
    }
    stop.store(true, Ordering::Relaxed);
    churn.join().unwrap();
    let point = pair.east.sync("shop");
    assert_eq!(point["consistency"], "crash");
    let to = pair.work("restored");
    pair.west.cli(["restore", "shop", "--to", to.to_str().unwrap()]).ok();
    backstay_tests::assert_same(&source, &to);
}

/// A plan that was made before there was a word to choose accepts everything, and says what it gets.
#[test]
fn a_plan_of_before_keeps_what_it_accepted() {
    let mut pair = Pair::start();
    let source = pair.source("source");
    fill(&source);
    let plan = Plan::new("shop").raw_volume(&volume("data", &source, "none"));
    pair.east.apply(&plan.yaml()).ok();
    pair.east.sync("shop");
    // As the earlier release left it: no word in the plan, and `crash` of what was assumed.
    pair.east.terminate();
    let file = pair.east.dir().join("plans/shop/plan.json");
    let mut record: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(record.as_object_mut().unwrap().remove("minimum"), Some("crash".into()));
    fs::write(&file, record.to_string()).unwrap();
    let file = pair.east.dir().join("plans/shop/last-success.json");
    let mut last: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    last.as_object_mut().unwrap().remove("derived").unwrap();
    fs::write(&file, last.to_string()).unwrap();
    pair.east.serve();
    pair.wait_connected();
    let writer = Writer::start(source.join("a"), source.join("z"), Duration::ZERO);
    let point = pair.east.sync("shop");
    assert_eq!(point["consistency"], "fuzzy");
    let told = pair.east.cli(["status", "shop"]).ok().stdout;
    assert!(told.contains("fuzzy: volume data: it was written while it was read"), "{told}");
    // Applied again without the word, it stays as it is.
    pair.east.apply(&plan.clone().keep(7).yaml()).ok();
    pair.east.sync("shop");
    drop(writer);
}
