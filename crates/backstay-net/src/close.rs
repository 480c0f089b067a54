//! Why connections and streams end: our codes on the wire, and what the QUIC library reports, as one error type.

use backstay_types::{Class, Classify};
use quinn::{ConnectionError, VarInt};

/// Codes of closed connections; never reused.
pub(crate) mod code {
    use quinn::VarInt;

    /// The daemon stops.
    pub(crate) const SHUTDOWN: VarInt = VarInt::from_u32(1);
    /// The pair was removed.
    pub(crate) const REMOVED: VarInt = VarInt::from_u32(2);
    /// No common wire version.
    pub(crate) const INCOMPATIBLE: VarInt = VarInt::from_u32(3);
    /// Not a paired site.
    pub(crate) const STRANGER: VarInt = VarInt::from_u32(4);
    /// Another connection of the pair took over.
    pub(crate) const SUPERSEDED: VarInt = VarInt::from_u32(5);
    /// What was sent makes no sense.
    pub(crate) const PROTOCOL: VarInt = VarInt::from_u32(6);
    /// All said (pairing).
    pub(crate) const DONE: VarInt = VarInt::from_u32(7);
    /// Not a packet came for longer than could be waited.
    pub(crate) const SILENT: VarInt = VarInt::from_u32(8);

    /// Codes of stopped streams: a batch of a session that is not registered.
    pub(crate) const UNREGISTERED: VarInt = VarInt::from_u32(16);
    /// A stream whose first frame did not come.
    pub(crate) const REFUSED: VarInt = VarInt::from_u32(17);
    /// A stream given up half-way.
    pub(crate) const ABANDONED: VarInt = VarInt::from_u32(18);
}

/// How a connection ended, or why it never began.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// Nothing was heard for the idle timeout.
    #[error("nothing was heard for too long")]
    TimedOut,
    /// The peer restarted.
    #[error("the peer restarted")]
    Restarted,
    /// The peer's daemon stopped.
    #[error("the peer is shutting down")]
    ShutDown,
    /// This side closed it.
    #[error("this side closed the connection")]
    Local,
    /// Another connection of the pair took over.
    #[error("another connection of the pair took over")]
    Superseded,
    /// The peer does not trust us (any more).
    #[error("the peer does not trust this site: {why}")]
    Untrusted {
        /// In the words of the peer.
        why: String,
    },
    /// The peer found no common wire version.
    #[error("the peer found no wire version in common: {why}")]
    Incompatible {
        /// In the words of the peer.
        why: String,
    },
    /// What answers is no Backstay peer.
    #[error("what answers there does not speak to paired sites: {why}")]
    NotAPeer {
        /// In the words of the TLS or QUIC library.
        why: String,
    },
    /// Something was sent that makes no sense.
    #[error("the peer found an error of protocol: {why}")]
    Protocol {
        /// In the words of the peer.
        why: String,
    },
    /// A failure of QUIC itself.
    #[error("the connection failed: {why}")]
    Failed {
        /// In the words of the QUIC library.
        why: String,
    },
}

impl Classify for CloseReason {
    fn class(&self) -> Class {
        match self {
            CloseReason::Untrusted { .. } => Class::Unauthorized,
            CloseReason::Incompatible { .. } | CloseReason::NotAPeer { .. } => Class::Incompatible,
            _ => Class::Transient,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            CloseReason::Untrusted { .. } => Some(
                "if the peer removed the pair, pair again with a fresh key; if not, compare the clocks"
                    .to_owned(),
            ),
            CloseReason::NotAPeer { .. } => Some("check host and port of the endpoint".to_owned()),
            _ => None,
        }
    }
}

/// TLS alerts as QUIC carries them: 0x100 plus the alert.
const CRYPTO: std::ops::RangeInclusive<u64> = 0x100..=0x1ff;
const ALERT_NO_APPLICATION_PROTOCOL: u64 = 0x100 + 120;

impl From<ConnectionError> for CloseReason {
    fn from(error: ConnectionError) -> Self {
        let why = error.to_string();
        match error {
            ConnectionError::TimedOut => CloseReason::TimedOut,
            ConnectionError::Reset => CloseReason::Restarted,
            ConnectionError::LocallyClosed => CloseReason::Local,
            ConnectionError::VersionMismatch => CloseReason::NotAPeer { why },
            ConnectionError::CidsExhausted | ConnectionError::TransportError(_) => {
                CloseReason::Failed { why }
            }
            ConnectionError::ConnectionClosed(close) => match u64::from(close.error_code) {
                ALERT_NO_APPLICATION_PROTOCOL => CloseReason::NotAPeer { why },
                alert if CRYPTO.contains(&alert) => CloseReason::Untrusted { why },
                _ => CloseReason::Failed { why },
            },
            ConnectionError::ApplicationClosed(close) => {
                by_code(close.error_code, String::from_utf8_lossy(&close.reason).into_owned())
            }
        }
    }
}

fn by_code(found: VarInt, why: String) -> CloseReason {
    match found {
        code::SHUTDOWN => CloseReason::ShutDown,
        code::REMOVED | code::STRANGER => CloseReason::Untrusted { why },
        code::INCOMPATIBLE => CloseReason::Incompatible { why },
        code::SUPERSEDED => CloseReason::Superseded,
        code::SILENT => CloseReason::TimedOut,
        code::PROTOCOL => CloseReason::Protocol { why },
        other => CloseReason::Failed { why: format!("closed with code {other}: {why}") },
    }
}
