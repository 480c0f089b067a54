//! Two whole clusters with one node each, `ka` and `kb`, joined by a link that can be slow or cut.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{FlockOperation, flock};

use super::{Cluster, script};
use crate::SiteOptions;
use crate::cli::run;

/// The link between the sites.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Link {
    /// As fast as the machine.
    Fast,
    /// A wide-area link.
    Wan {
        /// One way.
        delay_ms: u32,
        /// Share of packets lost, 0 to 1.
        loss: f64,
        /// Of each direction; 0 for no limit.
        mbit: u32,
    },
    /// Cut: packets vanish.
    Down,
}

impl Link {
    fn arguments(self) -> Vec<String> {
        match self {
            Link::Fast => vec!["veth".to_owned()],
            Link::Wan { delay_ms, loss, mbit } => {
                vec!["wan".to_owned(), format!("{delay_ms}ms"), loss.to_string(), mbit.to_string()]
            }
            Link::Down => vec!["down".to_owned()],
        }
    }
}

/// The pair, which ends with this value.
#[derive(Debug)]
pub struct NodePair {
    /// The site whose node address is 10.231.1.1.
    pub ka: Cluster,
    /// The site whose node address is 10.231.2.1.
    pub kb: Cluster,
    lab: PathBuf,
    /// Held for as long as the pair stands: namespaces and addresses are the machine's.
    _alone: File,
}

impl NodePair {
    /// Brings both clusters up, and waits until their nodes are ready.
    #[track_caller]
    pub fn start(link: Link) -> NodePair {
        let alone = File::create(std::env::temp_dir().join("backstay-kube-lab.lock")).unwrap();
        flock(&alone, FlockOperation::LockExclusive).unwrap();
        let lab = std::env::temp_dir().join("backstay-kube-lab");
        let site = |name: &str| Cluster::new(lab.join(name), Some(name.to_owned()));
        // Before it is up, so that what failed to come up is taken down too.
        let pair = NodePair { ka: site("ka"), kb: site("kb"), lab: lab.clone(), _alone: alone };
        pair.lab("pair.sh", [OsStr::new("up")].into_iter().chain(link.arguments().iter().map(OsStr::new)));
        pair
    }

    /// A site beside a cluster of the pair. All are in the network of `ka`, from where both servers are reached.
    pub fn beside(&self, cluster: &Cluster) -> SiteOptions {
        let wrapper = ["nsenter", "--net=/run/netns/ka"].map(str::to_owned).to_vec();
        SiteOptions { wrapper, ..cluster.beside() }
    }

    /// Changes or cuts the link, under load as well.
    #[track_caller]
    pub fn set_link(&self, link: Link) {
        self.lab("link.sh", link.arguments());
    }

    /// A power cut of a site: its node with all pods, and its control plane.
    #[track_caller]
    pub fn crash(&self, site: &Cluster) {
        self.crash_node(site);
        self.lab("control-plane.sh", [site.dir().as_os_str(), OsStr::new("crash")]);
    }

    /// A power cut of a node alone.
    #[track_caller]
    pub fn crash_node(&self, site: &Cluster) {
        self.lab("node.sh", [site.dir().as_os_str(), OsStr::new("crash")]);
    }

    /// Brings back what crashed, on the same data.
    #[track_caller]
    pub fn bring_back(&self, site: &Cluster) {
        self.lab("control-plane.sh", [site.dir().as_os_str(), OsStr::new("up")]);
        self.lab("node.sh", [site.dir().as_os_str(), OsStr::new("up")]);
    }

    /// A folder for the volumes of a site, whose mounts spread to pods; it is removed with the pair.
    pub fn volumes(&self, site: &Cluster) -> PathBuf {
        let path = site.dir().join("volumes");
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    #[track_caller]
    fn lab<S: AsRef<OsStr>>(&self, name: &str, args: impl IntoIterator<Item = S>) {
        run(lab_command(&self.lab, name, args)).ok();
    }
}

impl Drop for NodePair {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.ka.show_logs();
            self.kb.show_logs();
        }
        let down = run(lab_command(&self.lab, "pair.sh", ["down"]));
        if down.code != 0 {
            eprintln!("{down}");
        }
    }
}

fn lab_command<S: AsRef<OsStr>>(lab: &Path, name: &str, args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(script(name));
    command.env("BACKSTAY_KUBE_LAB", lab).args(args);
    command
}
