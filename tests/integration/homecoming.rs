//! A side that comes home after both have written: pages travel as pages, whoever wrote them.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use backstay_tests::{Pair, Plan, Rng, assert_same, copy_tree, eventually, eventually_some, seed, tree};
use serde_json::Value;

const MIB: u64 = 256;
const SECTOR: u64 = 4096;
const SECTORS: u64 = MIB * 256;
/// Pages that each side writes after the split.
const PAGES: u64 = 500;

/// What comes on top of the pages whatever their number: 4 096 chunks of 64 KiB at 36 bytes are 150 KiB of manifest, which
/// comes here once and goes back once. The 30 % of each page are for 17 fingerprints, an id that is offered, the header of
/// a patch, and packets.
const OVERHEAD: u64 = 320 << 10;

/// A plan of one large file, with one side lost and both written to since.
struct Split {
    pair: Pair,
    source: PathBuf,
    kept: PathBuf,
}

/// Writes one page of every 131, so far from the first of them: `shifts` of the even and of the odd ones.
fn write_pages(file: &Path, shifts: [u64; 2], rng: &mut Rng) {
    let file = OpenOptions::new().write(true).open(file).unwrap();
    for (page, shift) in (0..PAGES).zip(shifts.into_iter().cycle()) {
        let at = (page * (SECTORS / PAGES) + shift) * SECTOR;
        file.write_all_at(&tree::random_bytes(rng, SECTOR as usize), at).unwrap();
    }
}

impl Split {
    /// `device`: the file is an image by itself, not one in a folder.
    fn new(name: &str, device: bool) -> Split {
        let mut rng = seed(name);
        let mut pair = Pair::start();
        let source = pair.source("source");
        tree::random_image(&source.join("db"), MIB, &mut rng);
        let plan = Plan::new("shop");
        let plan =
            if device { plan.device("data", &source.join("db")) } else { plan.volume("data", &source) };
        pair.east.apply(&plan.yaml()).ok();
        pair.east.sync("shop");
        pair.take_over("shop");
        let split = Split { kept: pair.work("kept"), source, pair };
        write_pages(&split.source.join("db"), [3, 3], &mut rng);
        copy_tree(&split.source, &split.kept);
        // Every other one so near that both are in one chunk.
        write_pages(&split.file_there(), [68, 5], &mut rng);
        split
    }

    /// The file on the side that took over.
    fn file_there(&self) -> PathBuf {
        let replica = self.pair.west.replica("shop", "data");
        if replica.is_dir() { replica.join("db") } else { replica }
    }

    /// The lost side is back, and has stepped down.
    fn come_back(&mut self) {
        self.pair.east.serve();
        self.wait_standby();
    }

    fn wait_standby(&self) {
        eventually("east is the standby", Duration::from_secs(60), || {
            self.pair.east.status("shop")["role"] == "standby"
        });
    }

    /// East shows `point`, byte for byte, and what it had written is there to be taken out.
    fn assert_home(&self, point: &Value) {
        eventually("east shows what west sent", Duration::from_secs(60), || {
            self.pair.east.status("shop")["appliedRestorePoint"] == point["id"]
        });
        let (here, there) = (fs::read(self.source.join("db")).unwrap(), fs::read(self.file_there()).unwrap());
        assert!(here == there, "the file differs");
        let points = self.pair.east.restore_points("shop");
        let diverged: Vec<_> = points.iter().filter(|point| point["consistency"] == "diverged").collect();
        assert_eq!(diverged.len(), 1, "{points:?}");
        let (id, out) = (diverged[0]["id"].as_str().unwrap(), self.pair.work("out"));
        let to = out.to_str().unwrap();
        self.pair.east.cli(["restore", "shop", "--restore-point", id, "--volume", "data", "--to", to]).ok();
        if out.join("db").is_file() {
            assert_same(&self.kept, &out);
        } else {
            assert!(
                fs::read(self.kept.join("db")).unwrap() == fs::read(out).unwrap(),
                "what was kept differs"
            );
        }
        self.pair.east.cli(["verify"]).ok();
    }
}

fn assert_pages_travelled(point: &Value, tries: u64) {
    let (wire, pages) = (point["wireBytes"].as_u64().unwrap(), 2 * PAGES * SECTOR);
    println!("{wire} bytes on the wire for {pages} bytes of pages");
    assert!(wire < pages * 13 / 10 + tries * OVERHEAD, "{wire} bytes for {pages} bytes of pages: {point}");
}

/// Pages of a file that either side wrote: each travels once, alone.
#[test]
fn pages_written_on_both_sides_travel_as_pages() {
    for device in [false, true] {
        let mut split = Split::new("both sides", device);
        split.come_back();
        let point = split.pair.west.sync("shop");
        assert_pages_travelled(&point, 1);
        split.assert_home(&point);
        // From then on it is a plan like any other.
        write_pages(&split.file_there(), [9, 9], &mut seed("after"));
        let point = split.pair.west.sync("shop");
        assert!(point["wireBytes"].as_u64().unwrap() < PAGES * SECTOR * 13 / 10 + OVERHEAD, "{point}");
    }
}

/// Either daemon is killed while the one asks what the other shows: the state that was being made is not used, and what
/// follows is as if it had not been.
#[test]
fn a_killed_exchange_begins_again() {
    for victim in ["west", "east"] {
        let mut split = Split::new("killed exchange", false);
        split.pair.east.allow_errors("");
        split.pair.west.allow_errors("");
        split.come_back();
        let mut command = split.pair.west.command(["sync", "shop", "-o", "json"]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let sent = split.pair.west.dir().join("sent/shop/data");
        wait_closely("west has begun to make its state", || {
            sent.read_dir().is_ok_and(|mut items| items.next().is_some())
        });
        assert!(!sent.join("current").exists(), "the exchange was over before it could be disturbed");
        if victim == "west" {
            split.pair.west.restart();
            assert!(!sent.join("current").exists(), "a state that was half made is used");
        } else {
            split.pair.east.restart();
        }
        let output = child.wait_with_output().unwrap();
        let point = if output.status.success() {
            serde_json::from_slice(&output.stdout).unwrap()
        } else {
            split.pair.wait_connected();
            eventually_some("the same command is carried out", Duration::from_secs(60), || {
                let again = split.pair.west.cli(["sync", "shop", "-o", "json"]);
                (again.code == 0).then(|| again.json())
            })
        };
        println!("{victim} was killed");
        assert_pages_travelled(&point, 2);
        split.assert_home(&point);
    }
}

/// As `eventually`, for conditions that last milliseconds.
fn wait_closely(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(60), "waited in vain for: {what}");
        std::thread::sleep(Duration::from_micros(200));
    }
}
