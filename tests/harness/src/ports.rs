//! Addresses on loopback that nothing else of this process was given.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::{Mutex, PoisonError};

static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
static GIVEN_TCP: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// Ports that the kernel does not choose by itself, so that no client's connection holds the one of a server that is
/// down and will be started again.
const TCP_PORTS: std::ops::Range<u16> = 10_000..30_000;

/// A free UDP address on 127.0.0.1. The kernel may offer a port again once it was closed, so those given out are
/// remembered.
pub fn free_address() -> SocketAddr {
    for _ in 0..1000 {
        let address = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        if GIVEN.lock().unwrap_or_else(PoisonError::into_inner).insert(address.port()) {
            return address;
        }
    }
    panic!("no free UDP port on 127.0.0.1");
}

/// A free TCP port of 127.0.0.1, for a server that may be killed and started again.
pub(crate) fn free_tcp_port() -> u16 {
    let mut given = GIVEN_TCP.lock().unwrap_or_else(PoisonError::into_inner);
    // Another process of tests looks elsewhere first.
    let first = usize::try_from(std::process::id()).unwrap() * 131 % TCP_PORTS.len();
    TCP_PORTS
        .skip(first)
        .chain(TCP_PORTS)
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok() && given.insert(*port))
        .expect("a free TCP port on 127.0.0.1")
}
