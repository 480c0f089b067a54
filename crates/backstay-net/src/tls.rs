//! Who may talk to us, decided in the TLS 1.3 handshake.
//!
//! 1. A client must show a leaf of an authority that the book pins at that moment; nothing is cached, so a removed
//!    peer cannot even finish a handshake. While a pairing window is open, and only then, any authority may finish
//!    one, and `accept` gives such a client the pairing protocol or nothing.
//! 2. A server must show a leaf of the one authority the dialer expects, known by the SHA-256 of its public key.
//! 3. Handshakes are never resumed: resumption would skip 1 and 2.
//! 4. Which of our authorities we show: dialing, the one in the pair's record; answering, the one that the server
//!    name asks for.

mod verify;

use std::sync::Arc;

use quinn::crypto::rustls::{HandshakeData, QuicClientConfig, QuicServerConfig};
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, ServerConfig, version::TLS13};
use rustls_pki_types::CertificateDer;

use crate::book::PeerBook;
use crate::identity::{CaCert, Identity};
pub(crate) use verify::{ExpectedServer, KnownClients};

/// Paired sites.
pub(crate) const ALPN_PEER: &[u8] = b"backstay/1";
/// Two sites that are being paired.
pub(crate) const ALPN_PAIR: &[u8] = b"backstay-pair/1";

/// A TLS configuration that the library refuses: a broken assumption of ours.
#[derive(Debug, Clone, thiserror::Error)]
#[error("TLS cannot be set up: {why}")]
pub(crate) struct TlsSetupError {
    why: String,
}

impl TlsSetupError {
    fn new(error: impl std::error::Error) -> Self {
        Self { why: error.to_string() }
    }
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// How we answer. With `pairing`, the pairing protocol too, to anybody.
pub(crate) fn server(
    identity: &Identity,
    book: &PeerBook,
    pairing: bool,
) -> Result<QuicServerConfig, TlsSetupError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(TlsSetupError::new)?
        .with_client_cert_verifier(Arc::new(KnownClients::new(book.clone(), pairing)))
        .with_cert_resolver(Arc::new(ByServerName::new(identity)));
    config.alpn_protocols = vec![ALPN_PEER.to_vec()];
    if pairing {
        config.alpn_protocols.push(ALPN_PAIR.to_vec());
    }
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    QuicServerConfig::try_from(config).map_err(TlsSetupError::new)
}

/// How we dial: showing `leaf`, expecting `server`.
pub(crate) fn client(
    leaf: Arc<CertifiedKey>,
    server: Arc<ExpectedServer>,
    alpn: &[u8],
) -> Result<QuicClientConfig, TlsSetupError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(TlsSetupError::new)?
        .dangerous()
        .with_custom_certificate_verifier(server)
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(leaf)));
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    config.enable_early_data = false;
    QuicClientConfig::try_from(config).map_err(TlsSetupError::new)
}

/// Shows the leaf of the authority that the client asks for.
#[derive(Debug)]
pub(crate) struct ByServerName {
    identity: Identity,
}

impl ByServerName {
    pub(crate) fn new(identity: &Identity) -> Self {
        Self { identity: identity.clone() }
    }
}

impl ResolvesServerCert for ByServerName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let asked = hello.server_name().and_then(|name| self.identity.by_server_name(name));
        // A client that expects another authority is shown the one we have, so that it can say whom it met.
        let authority = asked.unwrap_or_else(|| self.identity.current());
        match authority.leaf() {
            Ok(leaf) => Some(leaf),
            Err(error) => {
                tracing::error!(%error, "failed to issue a certificate");
                None
            }
        }
    }
}

/// What a finished handshake says about the other end.
pub(crate) struct Handshake {
    /// The authority the other end presented; verified to have signed its leaf.
    pub(crate) authority: CaCert,
    /// The protocol agreed on.
    pub(crate) alpn: Vec<u8>,
    /// The server name the client asked for.
    pub(crate) server_name: Option<String>,
}

impl Handshake {
    /// Reads it from a connection; `None` if the other end presented no authority.
    pub(crate) fn of(connection: &quinn::Connection) -> Option<Self> {
        let chain = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
        let authority = CaCert::parse(chain.get(1)?.to_vec()).ok()?;
        let data = connection.handshake_data()?.downcast::<HandshakeData>().ok()?;
        Some(Self { authority, alpn: data.protocol?, server_name: data.server_name })
    }
}
