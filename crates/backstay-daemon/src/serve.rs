//! Starting and stopping the daemon.
//!
//! Order: configuration, the store with its lock (a second daemon of one site fails here), identity and pairs,
//! the socket, then the tasks. The parent ends when an essential task does.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use backstay_net::{Identity, Net, NetConfig, PeerBook};
use backstay_store::{Store, StoreConfig};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::{self, Api};
use crate::audit::AuditLog;
use crate::config::{Overrides, SiteConfig};
use crate::init::SiteFile;
use crate::metrics::Metrics;
use crate::plans::PlanBook;
use crate::site::{Site, layout};
use crate::{DaemonError, clock, files, private, reserve};

/// After this long, work that does not stop by itself is left to resume at the next start.
const STOP_WITHIN: Duration = Duration::from_secs(20);

/// How to start the daemon.
#[derive(Debug, Clone, Default)]
pub struct ServeOptions {
    /// The state folder.
    pub dir: PathBuf,
    /// Settings from the command line.
    pub overrides: Overrides,
}

/// Runs the daemon until SIGTERM or SIGINT, or until an essential part of it fails.
pub async fn serve(options: ServeOptions) -> Result<(), DaemonError> {
    let config = SiteConfig::load(&options.dir, &options.overrides)?;
    private::set_umask();
    private::tighten(&options.dir)?;
    let site = open(&options, config)?;
    let listeners = api::bind(&site.dir, &site.config.load()).await?;
    let api = Api { site: site.clone(), started: clock::now() };
    site.resume()?;
    tracing::info!(site = %site.name, listen = %site.net.local_addr(), "ready");

    // A task, not a branch below: at the stop it gives its Lease back.
    let controllers = site.tasks.spawn(site.clone().run_controllers());
    let outcome = tokio::select! {
        served = listeners.serve(api, site.stop.clone()) => {
            served.map_err(|source| DaemonError::io("serve", &site.dir.join(layout::SOCKET), source))
        }
        () = site.clone().run_schedule() => Err(DaemonError::Worker { what: "the schedule clock" }),
        () = site.clone().run_incoming() => Err(DaemonError::Worker { what: "accepting from peers" }),
        () = site.clone().run_joined() => Err(DaemonError::Worker { what: "taking note of new peers" }),
        () = site.clone().run_greeting() => Err(DaemonError::Worker { what: "greeting peers" }),
        () = site.clone().run_automatic() => Err(DaemonError::Worker { what: "automatic failover" }),
        () = site.clone().run_reserve() => Err(DaemonError::Worker { what: "the reserve" }),
        () = site.clone().run_signs() => Err(DaemonError::Worker { what: "looking for signs of peers" }),
        () = site.clone().run_upkeep() => Err(DaemonError::Worker { what: "upkeep" }),
        _ = controllers => Err(DaemonError::Worker { what: "the controllers" }),
        signal = wait_for_stop(&site, &options) => signal,
    };
    tracing::info!("stopping");
    site.stop.cancel();
    site.runtimes.stop_all();
    site.tasks.close();
    if tokio::time::timeout(STOP_WITHIN, site.tasks.wait()).await.is_err() {
        tracing::warn!("work under way was cut off; it resumes at the next start");
    }
    site.net.shutdown().await;
    files::remove(&site.dir.join(layout::SOCKET))?;
    outcome
}

fn open(options: &ServeOptions, config: SiteConfig) -> Result<Arc<Site>, DaemonError> {
    let dir = options.dir.clone();
    // A catalog that is opened writes, and so does the audit log.
    reserve::make_room(&dir);
    let store = Store::open(store_config(&dir, &config))?;
    let site_file = files::read_json::<SiteFile>(&dir.join(layout::SITE))?;
    let id = site_file.ok_or_else(|| DaemonError::NotASite { dir: dir.clone() })?.site_id;
    let identity = Identity::load(&dir.join(layout::IDENTITY))?;
    let book = PeerBook::open(&dir.join(layout::PAIRS))?;
    // Asked when a key is needed: a pair may be made, or made again, while the daemon runs.
    let keys = book.clone();
    store.set_key_source(move |pair| keys.hash_key(pair));
    let net = Net::start(net_config(&config), identity, book)?;
    let site = Arc::new(Site {
        id,
        name: config.name.clone(),
        plans: PlanBook::open(&dir.join(layout::PLANS))?,
        audit: AuditLog::open(&dir.join(layout::AUDIT), clock::now())?,
        config: ArcSwap::from_pointee(config),
        store,
        net,
        metrics: Metrics::new(),
        meters: Arc::default(),
        runtimes: crate::runtime::Runtimes::default(),
        cluster: crate::clusters::ClusterSlot::default(),
        keepers: crate::controllers::Keepers::default(),
        drills: crate::drill::Drills::default(),
        leases: crate::automatic::Leases::default(),
        signs: crate::signs::Signs::open(&dir)?,
        tasks: TaskTracker::new(),
        stop: CancellationToken::new(),
        cycles: tokio::sync::Semaphore::new(crate::site::CYCLES_MAX),
        wake: tokio::sync::Notify::new(),
        dir,
    });
    site.adopt_orphans()?;
    site.follow_peers()?;
    site.limit_bandwidth();
    Ok(site)
}

/// Settings of the store.
pub(crate) fn store_config(dir: &std::path::Path, config: &SiteConfig) -> StoreConfig {
    let mut store = StoreConfig::new(dir);
    if let Some(path) = &config.store_path {
        store.store_dir = Some(path.clone());
    }
    store
}

fn net_config(config: &SiteConfig) -> NetConfig {
    let mut net = NetConfig::new(config.listen);
    net.advertise.clone_from(&config.advertise);
    net.congestion = config.congestion;
    net
}

/// Waits for the order to stop; re-reads the configuration on SIGHUP.
async fn wait_for_stop(site: &Arc<Site>, options: &ServeOptions) -> Result<(), DaemonError> {
    let on = |kind| {
        signal(kind).map_err(|source: io::Error| DaemonError::io("watch signals of", &site.dir, source))
    };
    let (mut term, mut int, mut hup) =
        (on(SignalKind::terminate())?, on(SignalKind::interrupt())?, on(SignalKind::hangup())?);
    loop {
        tokio::select! {
            _ = term.recv() => return Ok(()),
            _ = int.recv() => return Ok(()),
            _ = hup.recv() => site.reload(options),
        }
    }
}

impl Site {
    fn reload(&self, options: &ServeOptions) {
        match SiteConfig::load(&options.dir, &options.overrides) {
            Ok(config) => {
                self.config.store(Arc::new(config));
                self.cluster.forget();
                self.limit_bandwidth();
                self.wake.notify_one();
                tracing::info!(
                    "site.toml read again; listen addresses, paths and what the controllers use change with a restart"
                );
            }
            Err(error) => tracing::error!("site.toml not taken over: {error}"),
        }
    }

    /// Sets the bandwidth limit of every pair.
    pub(crate) fn limit_bandwidth(&self) {
        let limit = self.config.load().bandwidth_bytes_per_second();
        for peer in self.net.peers() {
            if let Err(error) = self.net.set_bandwidth(peer.record.pair, limit) {
                tracing::warn!(peer = %peer.record.name, "bandwidth not limited: {error}");
            }
        }
    }

    /// Goes on with what a stop or a crash cut off.
    fn resume(self: &Arc<Self>) -> Result<(), DaemonError> {
        self.clear_drills_soon()?;
        self.release_snapshots_soon();
        for record in self.plans.list() {
            self.thaw_left_over_soon(&record);
            if record.state.promotion().is_some() {
                self.finish_promotion_soon(record.name.clone());
            } else if record.state.active_until().is_some() {
                self.step_down_soon(record.name.clone());
            } else if record.state.handover().is_some() {
                self.resume_handover_soon(record.name.clone());
            } else if record.state.role() == backstay_types::frame::SiteRole::Standby {
                self.apply_newest_soon(record.name.clone());
            }
        }
        Ok(())
    }
}
