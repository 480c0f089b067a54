//! Two paired sites on this machine.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::{Site, SiteOptions, eventually};

/// Which of the two makes the key that they are paired with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyOf {
    /// The active side.
    East,
    /// The standby.
    West,
}

/// The active site `east`, its peer `west`, and a folder for sources and saved copies.
#[derive(Debug)]
pub struct Pair {
    /// The active side of the plans that tests make.
    pub east: Site,
    /// The standby side.
    pub west: Site,
    work: tempfile::TempDir,
}

impl Pair {
    /// Two running, paired and connected sites.
    pub fn start() -> Pair {
        Pair::with(SiteOptions::default(), SiteOptions::default())
    }

    /// The same, with a key of this side.
    pub fn start_with_key_of(issuer: KeyOf) -> Pair {
        let pair = Pair::unpaired(SiteOptions::default(), SiteOptions::default());
        pair.join_with_key_of(issuer);
        pair
    }

    /// The same, made as told.
    pub fn with(east: SiteOptions, west: SiteOptions) -> Pair {
        let pair = Pair::unpaired(east, west);
        pair.join();
        pair
    }

    fn unpaired(east: SiteOptions, west: SiteOptions) -> Pair {
        let mut east = Site::init("east", east);
        let mut west = Site::init("west", west);
        east.serve();
        west.serve();
        let work = tempfile::Builder::new().prefix("backstay-work-").tempdir().unwrap();
        crate::rig::let_pass(work.path());
        Pair { east, west, work }
    }

    /// Starts a keeper beside each daemon.
    pub fn keep(&mut self) {
        self.east.keep();
        self.west.keep();
    }

    /// Pairs the sites with a new key of the standby.
    pub fn join(&self) {
        self.join_with_key_of(KeyOf::West);
    }

    /// Pairs the sites with a new key of this side.
    pub fn join_with_key_of(&self, issuer: KeyOf) {
        let (issuer, joiner) = match issuer {
            KeyOf::East => (&self.east, &self.west),
            KeyOf::West => (&self.west, &self.east),
        };
        let endpoint = issuer.listen().to_string();
        let key = issuer.cli(["pair", "key", "--endpoint", &endpoint]).ok().stdout;
        joiner.cli(["pair", "join", key.trim()]).ok();
        self.wait_connected();
    }

    /// Waits until both sites see each other.
    pub fn wait_connected(&self) {
        for (site, peer) in [(&self.east, &self.west), (&self.west, &self.east)] {
            let what = format!("{} is connected to {}", site.name(), peer.name());
            eventually(&what, Duration::from_secs(60), || {
                let pairs = site.cli(["pair", "list", "-o", "json"]).ok().items();
                pairs.iter().any(|pair| pair["name"] == peer.name() && pair["connected"] == true)
            });
        }
    }

    /// Disaster: the active side is gone without a word, and the standby takes over. Gives the report.
    #[track_caller]
    pub fn take_over(&mut self, plan: &str) -> Value {
        if self.east.is_running() {
            self.east.kill();
        }
        self.west.promote(plan, &[])
    }

    /// A folder for sources, made.
    pub fn source(&self, name: &str) -> PathBuf {
        let path = self.work(name);
        fs::create_dir(&path).unwrap();
        path
    }

    /// A path for the test's own files.
    pub fn work(&self, name: &str) -> PathBuf {
        self.work.path().join(name)
    }
}
