//! Addresses on loopback that no other site of this process was given.

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Mutex, PoisonError};

static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

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
