//! The UDP socket and the QUIC parameters.
//!
//! Windows are sized for 1 Gbit/s × 200 ms = 25 MB in flight: a stream may have 32 MiB of it, a connection 64 MiB (two
//! round trips, so that credit never runs out), and as much may wait to be acknowledged on the sending side.
//!
//! A restarted daemon answers packets of connections it no longer knows with a stateless reset that the peer can
//! check, because both keys behind it come from the identity's secret. So a peer killed with SIGKILL is noticed at
//! its return and not by the idle timeout. Bytes that are no packet of ours are dropped unanswered.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use quinn::congestion::{BbrConfig, CubicConfig, NewRenoConfig};
use quinn::crypto::{CryptoError, HmacKey};
use quinn::{EndpointConfig, IdleTimeout, TransportConfig, VarInt};
use quinn_proto::HashedConnectionIdGenerator;
use rustix::net::sockopt;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::identity::Identity;

use backstay_types::limits::ENDPOINT_BYTES_MAX;
pub use backstay_types::limits::ENDPOINTS_MAX;

const STREAM_WINDOW_BYTES: u32 = 32 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 64 << 20;
/// A third of what is in flight: what arrives while a busy reader is away for some 60 ms.
const SOCKET_BUFFER_BYTES: usize = 8 << 20;
/// Three times what a sender keeps open at once, so that streams on their way out never hold up new ones.
const UNI_STREAMS_MAX: u32 = 48;
/// Requests of one peer at a time.
const BIDI_STREAMS_MAX: u32 = 64;
/// Long enough for a route to change; short enough that a lost peer is known before the next schedule tick.
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);
/// Three lost keep-alives in a row do not end a connection.
const KEEP_ALIVE: Duration = Duration::from_secs(4);

/// Congestion controller: how fast a sender may go, and what loss means to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Congestion {
    /// Loss halves the rate: fair, and slow on long lossy lines (5.5 of 50 Mbit/s at 80 ms and 0.1 % loss).
    Cubic,
    /// As `Cubic`, with slower recovery.
    NewReno,
    /// A model of the line; loss does not slow it (46 of 50 Mbit/s on the same line). The default: it alone fills a
    /// wide-area line. It re-sends more, which short streams (one per batch) keep bounded.
    #[default]
    Bbr,
}

/// Parameters of every connection.
pub(crate) fn transport(congestion: Congestion) -> Arc<TransportConfig> {
    let mut config = TransportConfig::default();
    config
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW_BYTES))
        .send_window(u64::from(CONNECTION_WINDOW_BYTES))
        .max_concurrent_uni_streams(VarInt::from_u32(UNI_STREAMS_MAX))
        .max_concurrent_bidi_streams(VarInt::from_u32(BIDI_STREAMS_MAX))
        .datagram_receive_buffer_size(None)
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(IdleTimeout::try_from(IDLE_TIMEOUT).ok());
    match congestion {
        Congestion::Cubic => config.congestion_controller_factory(Arc::new(CubicConfig::default())),
        Congestion::NewReno => config.congestion_controller_factory(Arc::new(NewRenoConfig::default())),
        Congestion::Bbr => config.congestion_controller_factory(Arc::new(BbrConfig::default())),
    };
    Arc::new(config)
}

/// Binds the socket and asks for large buffers; what was granted is logged.
pub(crate) fn bind(listen: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(listen)?;
    // With CAP_NET_ADMIN the system's ceiling does not bind; without, ask for what it allows.
    if sockopt::set_socket_recv_buffer_size_force(&socket, SOCKET_BUFFER_BYTES).is_err() {
        sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER_BYTES)?;
    }
    if sockopt::set_socket_send_buffer_size_force(&socket, SOCKET_BUFFER_BYTES).is_err() {
        sockopt::set_socket_send_buffer_size(&socket, SOCKET_BUFFER_BYTES)?;
    }
    // Linux reports twice what may be used; the other half is its own bookkeeping.
    let received = sockopt::socket_recv_buffer_size(&socket)? / 2;
    let sent = sockopt::socket_send_buffer_size(&socket)? / 2;
    let local = socket.local_addr()?;
    tracing::info!(%local, asked_bytes = SOCKET_BUFFER_BYTES, receive_bytes = received, send_bytes = sent, "socket buffers granted");
    if received < SOCKET_BUFFER_BYTES {
        tracing::info!("raise net.core.rmem_max and net.core.wmem_max for long fast lines");
    }
    Ok(socket)
}

/// The endpoint's own parameters.
pub(crate) fn config(identity: &Identity) -> EndpointConfig {
    let key = blake3::derive_key("backstay 2026-01 stateless reset", identity.reset_secret());
    let ids = blake3::derive_key("backstay 2026-01 connection ids", identity.reset_secret());
    let ids = ids.first_chunk::<8>().map_or(0, |first| u64::from_le_bytes(*first));
    let mut config = EndpointConfig::new(Arc::new(ResetKey(Zeroizing::new(key))));
    config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(ids)));
    config
}

/// Keyed BLAKE3 as the message authentication that QUIC wants for reset tokens.
struct ResetKey(Zeroizing<[u8; 32]>);

const RESET_SIGNATURE_BYTES: usize = 32;

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], out: &mut [u8]) {
        let digest = blake3::keyed_hash(&self.0, data);
        for (to, from) in out.iter_mut().zip(digest.as_bytes()) {
            *to = *from;
        }
    }

    fn signature_len(&self) -> usize {
        RESET_SIGNATURE_BYTES
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        let digest = blake3::keyed_hash(&self.0, data);
        if digest.as_bytes().ct_eq(signature).into() { Ok(()) } else { Err(CryptoError) }
    }
}

/// Whether a text has the form `HOST:PORT`.
pub(crate) fn is_endpoint(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let port_ok = port.parse::<u16>().is_ok_and(|port| port != 0);
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host_ok = match bracketed {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)),
    };
    text.len() <= ENDPOINT_BYTES_MAX && port_ok && host_ok
}

/// Where others most likely reach a socket bound to `local`: itself, or, bound to every address, the address from
/// which this host would reach far ones. No packet is sent to find out.
pub(crate) fn reachable(local: SocketAddr) -> Option<SocketAddr> {
    if !local.ip().is_unspecified() {
        return Some(local);
    }
    // Addresses set aside for documentation: routed like any far host, never one.
    let far = [
        (IpAddr::from(Ipv4Addr::UNSPECIFIED), IpAddr::from(Ipv4Addr::new(192, 0, 2, 1))),
        (IpAddr::from(Ipv6Addr::UNSPECIFIED), IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))),
    ];
    far.into_iter().filter(|(any, _)| any.is_ipv4() || local.is_ipv6()).find_map(|(any, far)| {
        let probe =
            UdpSocket::bind((any, 0)).and_then(|socket| socket.connect((far, 9)).map(|()| socket)).ok()?;
        let ip = probe.local_addr().ok()?.ip();
        (!ip.is_unspecified()).then(|| SocketAddr::new(ip, local.port()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_host_and_port() {
        for good in ["a:1", "10.0.0.1:7444", "west.example.org:7444", "[::1]:65535", "my_host-2:80"] {
            assert!(is_endpoint(good), "{good}");
        }
        let long = format!("{}:1", "a".repeat(ENDPOINT_BYTES_MAX));
        for bad in
            ["", "a", "a:", ":1", "a:0", "a:65536", "::1:80", "[::1]", "[x]:1", "a b:1", "http://a:1", &long]
        {
            assert!(!is_endpoint(bad), "{bad}");
        }
    }

    #[test]
    fn a_socket_bound_to_one_address_is_reached_there() {
        let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 7444));
        assert_eq!(reachable(local), Some(local));
        if let Some(guess) = reachable(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 7444))) {
            assert!(!guess.ip().is_unspecified() && guess.port() == 7444);
        }
    }

    #[test]
    fn reset_signatures_verify_and_differ_by_key() {
        let (one, two) = (ResetKey(Zeroizing::new([1; 32])), ResetKey(Zeroizing::new([2; 32])));
        let mut signature = [0; RESET_SIGNATURE_BYTES];
        one.sign(b"id", &mut signature);
        assert!(one.verify(b"id", &signature).is_ok());
        assert!(one.verify(b"other", &signature).is_err());
        assert!(two.verify(b"id", &signature).is_err());
    }
}
