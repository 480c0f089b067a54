//! Two paired sites on this machine.

use std::time::Duration;

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

    /// A path for the test's own files.
    pub fn work(&self, name: &str) -> std::path::PathBuf {
        self.work.path().join(name)
    }
}
