//! Two paired sites on this machine.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::{Site, SiteOptions, eventually};

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

    /// The same, made as told.
    pub fn with(east: SiteOptions, west: SiteOptions) -> Pair {
        let mut east = Site::init("east", east);
        let mut west = Site::init("west", west);
        east.serve();
        west.serve();
        let work = tempfile::Builder::new().prefix("backstay-work-").tempdir().unwrap();
        let pair = Pair { east, west, work };
        pair.join();
        pair
    }

    /// Starts a keeper beside each daemon.
    pub fn keep(&mut self) {
        self.east.keep();
        self.west.keep();
    }

    /// Pairs the sites with a new key.
    pub fn join(&self) {
        let endpoint = self.west.listen().to_string();
        let key = self.west.cli(["pair", "key", "--endpoint", &endpoint]).ok().stdout;
        self.east.cli(["pair", "join", key.trim()]).ok();
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
