//! Invariant 2: `kill -9` of either daemon at any moment costs time, never data.
//!
//! Every synced state of the source is kept as a copy under its number, so that what a promotion gives can be
//! compared with the restore point it names. Promotions in the middle of the run are tried on a copy of the
//! standby's folder as the kill left it; the pair itself goes on.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use backstay_tests::{Pair, Plan, Rng, Site, assert_same, copy_tree, env_or, seed, tree};
use rand::RngExt as _;

/// One plan under fire.
struct Campaign {
    pair: Pair,
    source: PathBuf,
    rng: Rng,
    /// Copies of the source: the state a restore point must hold, by the id its sync reported.
    acked: BTreeMap<String, PathBuf>,
    /// Copies of states whose sync did not report back: a restore point of it may exist or not.
    unanswered: Vec<PathBuf>,
    /// How long an undisturbed cycle takes here.
    cycle: Duration,
    states: u32,
}

impl Campaign {
    fn start() -> Campaign {
        let mut rng = seed("kill");
        let pair = Pair::start();
        let source = pair.source("source");
        tree::small_files(&source.join("small"), env_or("BACKSTAY_KILL_FILES", 1500), &mut rng);
        tree::random_image(&source.join("database"), 24, &mut rng);
        pair.east.apply(&Plan::new("shop").volume("data", &source).keep(400).yaml()).ok();
        for site in [&pair.east, &pair.west] {
            // A link that dies under a cycle is worth an ERROR of the cycle that failed; anything else is not.
            site.allow_errors("cycle");
            site.allow_errors("peer");
        }
        let mut campaign = Campaign {
            pair,
            source,
            rng,
            acked: BTreeMap::new(),
            unanswered: Vec::new(),
            cycle: Duration::from_secs(1),
            states: 0,
        };
        campaign.sync_undisturbed();
        campaign
    }

    /// Changes the source and keeps a copy of it.
    fn next_state(&mut self) -> PathBuf {
        if self.states > 0 {
            tree::mutate(&self.source.join("small"), 60, &mut self.rng);
            tree::rewrite_sectors(&self.source.join("database"), 400, &mut self.rng);
        }
        self.states += 1;
        let copy = self.pair.work(&format!("state{}", self.states));
        copy_tree(&self.source, &copy);
        copy
    }

    /// A cycle that nobody disturbs must succeed, also the first after a kill.
    fn sync_undisturbed(&mut self) {
        let copy = self.next_state();
        self.pair.wait_connected();
        let start = Instant::now();
        let point = self.pair.east.sync("shop");
        self.cycle = start.elapsed();
        self.acked.insert(point["id"].as_str().unwrap().to_owned(), copy);
    }

    /// A cycle during which one daemon dies at a random moment.
    fn sync_and_kill(&mut self) {
        let copy = self.next_state();
        let mut command = self.pair.east.command(["sync", "shop", "-o", "json"]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let micros = self.cycle.as_micros() as u64 * 12 / 10;
        std::thread::sleep(Duration::from_micros(self.rng.random_range(0..micros)));
        let receiver = self.rng.random();
        if receiver {
            self.pair.west.kill();
        } else {
            self.pair.east.kill();
        }
        if self.rng.random_range(0..3) == 0 {
            self.promote_a_copy_of_the_standby(receiver, &copy);
        }
        if receiver {
            self.pair.west.serve();
        } else if !self.pair.east.is_running() {
            self.pair.east.serve();
        }
        let output = child.wait_with_output().unwrap();
        if output.status.success() {
            let point: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            self.acked.insert(point["id"].as_str().unwrap().to_owned(), copy);
        } else {
            self.unanswered.push(copy);
        }
    }

    /// Disaster at this very moment: the active side is gone too, and the standby, as it lies on disk, takes over.
    fn promote_a_copy_of_the_standby(&mut self, receiver_is_down: bool, newest: &std::path::Path) {
        if receiver_is_down {
            self.pair.east.kill();
        } else {
            self.pair.west.kill();
        }
        let mut clone = Site::clone_of(&self.pair.west);
        clone.allow_errors("");
        clone.serve();
        let report = clone.promote("shop", &[]);
        let id = report["restorePoint"].as_str().unwrap();
        let last_acked = self.acked.keys().next_back().unwrap();
        assert!(id >= last_acked.as_str(), "{last_acked} was acked, {id} was promoted");
        let replica = clone.replica("shop", "data");
        match self.acked.get(id) {
            Some(copy) => assert_same(copy, &replica),
            None => assert_is_one_of(&replica, self.unanswered.iter().map(PathBuf::as_path).chain([newest])),
        }
        clone.cli(["verify"]).ok();
        clone.kill();
        if receiver_is_down {
            self.pair.east.serve();
        } else {
            self.pair.west.serve();
        }
    }
}

fn assert_is_one_of<'a>(replica: &std::path::Path, states: impl Iterator<Item = &'a std::path::Path>) {
    let mut told = Vec::new();
    for state in states {
        let differences = backstay_tests::rsync_differences(state, replica);
        if differences.is_empty() {
            return;
        }
        told.push(format!("{}: {} differences", state.display(), differences.lines().count()));
    }
    panic!("{} is a mix of restore points:\n{}", replica.display(), told.join("\n"));
}

/// Ten random kills, or `BACKSTAY_KILLS`: the next cycle always succeeds, nothing acked is lost, `verify` is clean,
/// every restore point restores to its state, and promotion gives the newest exactly.
#[test]
fn killed_daemons_lose_nothing() {
    let mut campaign = Campaign::start();
    for _ in 0..env_or("BACKSTAY_KILLS", 10) {
        campaign.sync_and_kill();
        if campaign.rng.random() {
            campaign.sync_undisturbed();
        }
    }
    campaign.sync_undisturbed();
    let ids = campaign.pair.west.restore_point_ids("shop");
    for id in campaign.acked.keys() {
        assert!(ids.contains(id), "{id} was acked and is gone; left are {ids:?}");
    }
    campaign.pair.west.cli(["verify"]).ok();
    for (id, copy) in &campaign.acked {
        let to = campaign.pair.work(&format!("restored-{id}"));
        let args =
            ["restore", "shop", "--restore-point", id, "--volume", "data", "--to", to.to_str().unwrap()];
        campaign.pair.west.cli(args).ok();
        assert_same(copy, &to);
        std::fs::remove_dir_all(&to).unwrap();
    }
    let (newest, copy) = campaign.acked.last_key_value().unwrap();
    let report = campaign.pair.take_over("shop");
    assert_eq!(report["restorePoint"], newest.as_str(), "{report}");
    assert_same(copy, &campaign.pair.west.replica("shop", "data"));
}

/// What arrived before a kill is not sent again: a first sync that is cut short resumes.
#[test]
fn a_cut_first_sync_resumes_where_it_was() {
    let mut pair = Pair::start();
    let mut rng = seed("resume");
    let source = pair.source("source");
    for file in 0..6 {
        tree::random_image(&source.join(format!("part{file}")), 48, &mut rng);
    }
    pair.east.allow_errors("");
    pair.west.allow_errors("");
    pair.east.apply(&Plan::new("shop").volume("data", &source).yaml()).ok();
    let mut command = pair.east.command(["sync", "shop"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let packs = pair.west.dir().join("store/packs");
    backstay_tests::eventually("160 MB have arrived", Duration::from_secs(120), || {
        packs.is_dir() && tree::total_bytes(&packs) > 160_000_000
    });
    pair.west.kill();
    pair.west.serve();
    child.wait().unwrap();
    pair.wait_connected();
    let point = pair.east.sync("shop");
    let wire = point["wireBytes"].as_u64().unwrap();
    assert!(wire < 180_000_000, "302 MB in all, 160 MB were there: {point}");
    pair.take_over("shop");
    assert_same(&source, &pair.west.replica("shop", "data"));
}
