//! The network layer of Backstay: identities, pairing, and connections between paired sites over QUIC.
//!
//! ```text
//! identity   who this site is: its certificate authorities and short-lived leaves
//! book       whom it is paired with
//! tls        who may talk to us, decided in the handshake
//! endpoint   the socket and the QUIC parameters
//! pair       the pair key and the exchange that makes two sites trust each other
//! dial, link, serve   reaching a peer, keeping a connection to it, taking its streams
//! connection, control, inbox, outbox   what happens on a connection
//! rotate     new certificate authorities with no gap
//! whereabouts  each side tells the other where it is
//! pinned     TLS over TCP to a server known by its fingerprint, for witnesses
//! net        all of it, as the daemon sees it
//! ```
//!
//! Nothing here knows what the frames mean, but `Hello`, `Rotate` and `Whereabouts`. Trust is read from the book at every handshake;
//! pending pair keys live in memory only. What survives a restart is in the files of `identity` and `book`.

mod base64;
mod book;
mod bucket;
mod clock;
mod close;
mod connection;
mod control;
mod core;
mod dial;
mod endpoint;
mod files;
mod hello;
mod identity;
mod inbox;
mod link;
mod net;
mod outbox;
mod pair;
mod pinned;
mod rotate;
mod serve;
#[cfg(test)]
mod tests;
mod tls;
mod whereabouts;

pub use book::{BookError, PeerBook, PeerRecord, RetiredPair};
pub use close::CloseReason;
pub use connection::{Connection, WireStats};
pub use control::{Control, ControlRecv, ControlSend, StreamError};
pub use dial::{DialError, Tried};
pub use endpoint::{Congestion, ENDPOINTS_MAX};
pub use hello::{HelloError, VersionRange};
pub use identity::{CaCert, Fingerprint, Identity, IdentityError, InvalidCa};
pub use inbox::{Batch, SessionBatches};
pub use net::{Incoming, Net, NetConfig, NetError, PeerStatus};
pub use outbox::BatchSendError;
pub use pair::{Joined, JoinedAs, PairError};
pub use pinned::{PinnedListener, PinnedStream, connect_pinned};
pub use rotate::RotateError;
