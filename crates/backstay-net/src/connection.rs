//! One live connection to a paired site.
//!
//! What happens on it: control streams ([`Control`]), batches in bulk ([`Connection::send_batch`],
//! [`Connection::register`]), and the count of what it put on the wire. It is known to be with the pair it names: the
//! handshake checked the certificate, the greeting the site.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use backstay_types::frame::{Frame, WireVersion};
use backstay_types::{PairId, SessionId};
use quinn::VarInt;
use tokio::time::Instant;

use crate::book::{PeerBook, PeerRecord};
use crate::bucket::Bucket;
use crate::clock;
use crate::control::{Control, StreamError};
use crate::identity::Fingerprint;
use crate::inbox::{Inbox, SessionBatches};
use crate::outbox::{BatchSendError, Outbox};

/// Control streams go before batches: an answer must not wait behind 32 MiB.
const CONTROL_PRIORITY: i32 = 1;

/// A live connection. Clones share it.
#[derive(Clone)]
pub struct Connection(Arc<Shared>);

struct Shared {
    quinn: quinn::Connection,
    about: About,
    book: PeerBook,
    busy: Busy,
    inbox: Inbox,
    outbox: Outbox,
}

/// What is known of a connection from its beginning.
#[derive(Debug, Clone)]
pub(crate) struct About {
    pub(crate) record: Arc<PeerRecord>,
    pub(crate) version: WireVersion,
    /// Whether this side dialed.
    pub(crate) dialed: bool,
    /// The authority the peer presented.
    pub(crate) theirs: Fingerprint,
    /// The authority we presented.
    pub(crate) ours: Fingerprint,
    pub(crate) since: Instant,
}

/// Something that keeps a connection from being closed as idle.
#[derive(Debug, Clone, Default)]
pub(crate) struct Busy(Arc<()>);

/// What a connection put on the network and took from it, retransmissions and protocol included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WireStats {
    /// Bytes of UDP payload sent.
    pub tx_bytes: u64,
    /// Bytes of UDP payload received.
    pub rx_bytes: u64,
    /// Round-trip time.
    pub rtt: Duration,
    /// Packets sent and lost.
    pub lost_packets: u64,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("peer", &self.0.about.record.name)
            .field("remote", &self.remote())
            .field("dialed", &self.0.about.dialed)
            .finish_non_exhaustive()
    }
}

impl Connection {
    pub(crate) fn new(quinn: quinn::Connection, about: About, book: PeerBook, bucket: Arc<Bucket>) -> Self {
        let (busy, inbox, outbox) = (Busy::default(), Inbox::default(), Outbox::new(bucket));
        Self(Arc::new(Shared { quinn, about, book, busy, inbox, outbox }))
    }

    /// The pair it belongs to.
    pub fn pair(&self) -> PairId {
        self.0.about.record.pair
    }

    /// What is kept of the peer now; as it was when the connection began if the pair was removed since.
    pub fn peer(&self) -> Arc<PeerRecord> {
        self.0.book.get(self.pair()).unwrap_or_else(|| Arc::clone(&self.0.about.record))
    }

    /// Where the peer is.
    pub fn remote(&self) -> SocketAddr {
        self.0.quinn.remote_address()
    }

    /// The wire version both sides speak.
    pub fn version(&self) -> WireVersion {
        self.0.about.version
    }

    /// Opens a control stream; `first` says what it is for.
    pub async fn open(&self, first: Frame) -> Result<Control, StreamError> {
        let (send, recv) = self.0.quinn.open_bi().await?;
        let mut control = self.control(send, recv);
        control.send(&first).await?;
        Ok(control)
    }

    /// Sends a finished batch as a stream of its own, and waits until the peer's QUIC has all of it. At most 16
    /// batches and 32 MiB are under way at a time; more wait here. If it is dropped, the stream is given up.
    pub async fn send_batch(&self, batch: Vec<u8>) -> Result<(), BatchSendError> {
        let _busy = self.0.busy.clone();
        self.0.outbox.send(&self.0.quinn, batch).await
    }

    /// Begins to receive the batches of a session. Those that come while it is not registered are refused.
    pub fn register(&self, session: SessionId) -> SessionBatches {
        self.0.inbox.register(session, self.0.busy.clone())
    }

    /// Batches refused because their session was not registered.
    pub fn refused_batches(&self) -> u64 {
        self.0.inbox.refused()
    }

    /// What went over the wire since the connection began.
    pub fn wire_stats(&self) -> WireStats {
        let stats = self.0.quinn.stats();
        WireStats {
            tx_bytes: stats.udp_tx.bytes,
            rx_bytes: stats.udp_rx.bytes,
            rtt: self.0.quinn.rtt(),
            lost_packets: stats.path.lost_packets,
        }
    }

    /// A number that tells this connection from every other that lives at the same time.
    pub fn stable_id(&self) -> usize {
        self.0.quinn.stable_id()
    }

    /// Whether it has not ended.
    pub fn is_live(&self) -> bool {
        self.0.quinn.close_reason().is_none()
    }

    /// Waits until it has ended.
    pub async fn closed(&self) -> crate::close::CloseReason {
        self.0.quinn.closed().await.into()
    }

    /// Closes it as one whose peer is not heard any more; a peer that is there after all connects again.
    pub fn give_up(&self) {
        self.close(crate::close::code::SILENT, "nothing was heard");
    }

    pub(crate) fn about(&self) -> &About {
        &self.0.about
    }

    pub(crate) fn inbox(&self) -> &Inbox {
        &self.0.inbox
    }

    pub(crate) fn quinn(&self) -> &quinn::Connection {
        &self.0.quinn
    }

    pub(crate) fn is(&self, other: &Connection) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Nobody holds a stream, a session or a batch of it.
    pub(crate) fn is_idle(&self) -> bool {
        Arc::strong_count(&self.0.busy.0) == 1
    }

    pub(crate) fn control(&self, send: quinn::SendStream, recv: quinn::RecvStream) -> Control {
        // Fails only if the stream is over already; the next use of it says so.
        if send.set_priority(CONTROL_PRIORITY).is_err() {
            tracing::trace!("a control stream ended before it began");
        }
        Control::new(send, recv, self.0.busy.clone())
    }

    pub(crate) fn close(&self, code: VarInt, why: &str) {
        // Closed by the peer already, it keeps the peer's reason.
        if self.is_live() {
            self.0.quinn.close(code, why.as_bytes());
        }
        self.0.inbox.close();
    }

    pub(crate) fn age(&self) -> Duration {
        clock::steady().saturating_duration_since(self.0.about.since)
    }
}
