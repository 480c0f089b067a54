//! Sites on loopback, over real sockets.

mod hostile;
mod links;
mod pairing;
mod rotation;
mod transfer;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use backstay_types::frame::{Done, Frame};
use backstay_types::{SiteId, Span};
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::{Connection, Identity, Net, NetConfig, PeerBook, PeerRecord};

/// Longer than anything here takes on a busy machine; a test waits for a condition, never for this.
const LIMIT: Duration = Duration::from_secs(30);
const TTL: Span = Span::from_secs(900);

fn loopback() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

struct Site {
    dir: TempDir,
    net: Net,
}

impl Site {
    fn new(id: u8, name: &str) -> Self {
        Self::with(id, name, |_| {})
    }

    fn with(id: u8, name: &str, configure: impl FnOnce(&mut NetConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity::create(&dir.path().join("identity"), SiteId([id; 16]), name).unwrap();
        let book = PeerBook::open(&dir.path().join("pairs")).unwrap();
        let mut config = NetConfig::new(loopback());
        configure(&mut config);
        let net = Net::start(config, identity, book).unwrap();
        Self { dir, net }
    }

    /// The same site again, at the same port, with nothing kept but its files.
    async fn restart(self, configure: impl FnOnce(&mut NetConfig)) -> Self {
        let Self { dir, net } = self;
        let mut config = NetConfig::new(net.local_addr());
        drop(net);
        configure(&mut config);
        let identity = Identity::load(&dir.path().join("identity")).unwrap();
        // The socket goes with the last task of the old endpoint.
        let since = crate::clock::steady();
        loop {
            let book = PeerBook::open(&dir.path().join("pairs")).unwrap();
            match Net::start(config.clone(), identity.clone(), book) {
                Ok(net) => return Self { dir, net },
                Err(error) => assert!(since.elapsed() < LIMIT, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn key(&self) -> String {
        self.net.pair_key(Vec::new(), TTL, None).unwrap()
    }

    /// What is in its files, read anew.
    fn stored(&self) -> Vec<Arc<PeerRecord>> {
        PeerBook::open(&self.dir.path().join("pairs")).unwrap().list()
    }

    async fn connected(&self, record: &PeerRecord) -> Connection {
        self.net.wait_connection(record.pair, LIMIT).await.unwrap()
    }
}

/// Waits until a condition holds.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(LIMIT, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// Two sites, paired: the first made the key.
async fn pair() -> (Site, Site, Arc<PeerRecord>) {
    let (east, west) = (Site::new(1, "east"), Site::new(2, "west"));
    let record = west.net.join(&east.key(), None).await.unwrap();
    (east, west, record)
}

/// Answers every request of a site's peers with `Done`, for as long as the set lives.
fn answer_all(site: &Site) -> JoinSet<()> {
    let mut incoming = site.net.incoming().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        while let Some(mut request) = incoming.recv().await {
            // A peer that went away meanwhile is part of the tests.
            if request.control.send(&Frame::Done(Done {})).await.is_ok() {
                request.control.finish().unwrap();
            }
        }
    });
    tasks
}

/// One request and its answer.
async fn ask(connection: &Connection) -> Result<(), crate::StreamError> {
    let mut control = connection.open(Frame::Done(Done {})).await?;
    control.finish()?;
    assert_eq!(control.recv().await?, Some(Frame::Done(Done {})));
    assert_eq!(control.recv().await?, None);
    Ok(())
}

/// The two ends of one connection.
async fn ends(east: &Site, west: &Site, record: &PeerRecord) -> (Connection, Connection) {
    let mut requests = east.net.incoming().unwrap();
    let sending = west.connected(record).await;
    let _control = sending.open(Frame::Done(Done {})).await.unwrap();
    (sending, requests.recv().await.unwrap().connection)
}
