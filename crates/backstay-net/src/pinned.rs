//! TLS over TCP for a server that is known by the fingerprint of its own authority, as peers are: what a witness speaks.
//!
//! 1. A client talks to nobody but the server whose fingerprint it was given.
//! 2. The server asks for no certificate: who may do what is decided above, by a token.
//! 3. Handshakes are few at a time and short: a client that connects and says nothing holds up nobody.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::server::NoServerSessionStorage;
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::ServerName;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::identity::{Fingerprint, Identity};
use crate::tls::{ByServerName, ExpectedServer, provider};

/// A handshake is one round trip.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(5);
/// Handshakes under way at once; each holds a socket and about 20 KiB.
const HANDSHAKES_MAX: usize = 64;
/// After a failure to accept, such as for want of file descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// The server's side of a connection.
pub type PinnedStream = tokio_rustls::server::TlsStream<TcpStream>;

/// A listener that shows the certificate of an identity.
pub struct PinnedListener {
    tcp: TcpListener,
    acceptor: TlsAcceptor,
    handshakes: JoinSet<Option<(PinnedStream, SocketAddr)>>,
}

fn setup(error: impl std::error::Error) -> io::Error {
    io::Error::other(format!("TLS cannot be set up: {error}"))
}

impl PinnedListener {
    /// Listens for clients that expect this identity.
    pub async fn bind(address: SocketAddr, identity: &Identity) -> io::Result<Self> {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(setup)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(ByServerName::new(identity)));
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        let tcp = TcpListener::bind(address).await?;
        Ok(Self { tcp, acceptor: TlsAcceptor::from(Arc::new(config)), handshakes: JoinSet::new() })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// The next client that finished its handshake.
    pub async fn accept(&mut self) -> (PinnedStream, SocketAddr) {
        loop {
            tokio::select! {
                accepted = self.tcp.accept(), if self.handshakes.len() < HANDSHAKES_MAX => match accepted {
                    Ok((stream, from)) => self.begin(stream, from),
                    Err(error) => {
                        tracing::warn!("a connection was not accepted: {error}");
                        tokio::time::sleep(ACCEPT_AGAIN).await;
                    }
                },
                Some(done) = self.handshakes.join_next() => {
                    if let Ok(Some(client)) = done {
                        return client;
                    }
                }
            }
        }
    }

    fn begin(&mut self, stream: TcpStream, from: SocketAddr) {
        let handshake = self.acceptor.accept(stream);
        self.handshakes.spawn(async move {
            match tokio::time::timeout(HANDSHAKE_WITHIN, handshake).await {
                Ok(Ok(stream)) => Some((stream, from)),
                Ok(Err(error)) => {
                    tracing::debug!(%from, "handshake failed: {error}");
                    None
                }
                Err(_) => None,
            }
        });
    }
}

/// Connects to the server of a fingerprint at `HOST:PORT`.
pub async fn connect_pinned(
    endpoint: &str,
    server: Fingerprint,
) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let expected = ExpectedServer::new(server);
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(setup)?
        .dangerous()
        .with_custom_certificate_verifier(expected.clone())
        .with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    let name = ServerName::try_from(server.server_name()).map_err(setup)?;
    let stream = TcpStream::connect(endpoint).await?;
    stream.set_nodelay(true)?;
    let connected = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    connected.map_err(|error| match expected.stranger() {
        Some(found) => io::Error::other(format!("expected the server {server}, found {found}")),
        None => error,
    })
}

#[cfg(test)]
mod tests {
    use backstay_types::SiteId;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn only_the_expected_server_is_talked_to() {
        let home = tempfile::tempdir().expect("a folder");
        let make =
            |name: &str| Identity::create(&home.path().join(name), SiteId([1; 16]), name).expect("made");
        let (ours, other) = (make("ours"), make("other"));
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut listener = PinnedListener::bind(any, &ours).await.expect("bound");
        let endpoint = listener.local_addr().expect("bound").to_string();
        // Somebody who connects and says nothing holds up nobody.
        let _silent = TcpStream::connect(&endpoint).await.expect("connected");
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let (mut stream, _) = listener.accept().await;
            stream.write_all(b"hello").await.expect("written");
            stream.shutdown().await.expect("closed");
        });
        let error = connect_pinned(&endpoint, other.fingerprint()).await.expect_err("another server");
        assert!(error.to_string().contains("expected the server"), "{error}");
        let mut stream = connect_pinned(&endpoint, ours.fingerprint()).await.expect("connected");
        let mut heard = String::new();
        stream.read_to_string(&mut heard).await.expect("read");
        assert_eq!(heard, "hello");
        tasks.join_all().await;
    }
}
