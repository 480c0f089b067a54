//! Shares the bytes a connection put on the network among the sessions that ran over it.
//!
//! QUIC counts per connection, an operator asks per cycle. Bytes between two looks are divided by the payload
//! each session sent in between, equally if none sent any; the sum over all sessions is never more than the
//! connection's own count.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use backstay_net::Connection;
use backstay_types::SessionId;

const POISONED: &str = "no holder of this lock panics";

/// The meters of all live connections that have sessions.
#[derive(Default)]
pub(crate) struct Meters(Mutex<HashMap<usize, Meter>>);

#[derive(Default)]
struct Meter {
    last: Wire,
    sessions: HashMap<SessionId, Share>,
}

#[derive(Default)]
struct Share {
    payload: u64,
    wire: Wire,
}

/// Bytes put on and taken from the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Wire {
    pub(crate) sent: u64,
    pub(crate) received: u64,
}

impl Wire {
    /// Both directions together.
    pub(crate) const fn total(self) -> u64 {
        self.sent.saturating_add(self.received)
    }

    fn since(self, earlier: Self) -> Self {
        let (sent, received) =
            (self.sent.saturating_sub(earlier.sent), self.received.saturating_sub(earlier.received));
        Self { sent, received }
    }

    /// Both together.
    pub(crate) const fn and(self, other: Self) -> Self {
        Self { sent: self.sent + other.sent, received: self.received + other.received }
    }

    /// The part of it that `weight` of `all` is due.
    fn part(self, weight: u64, all: u64) -> Self {
        let part = |bytes: u64| {
            u64::try_from(u128::from(bytes) * u128::from(weight) / u128::from(all.max(1))).unwrap_or(bytes)
        };
        Self { sent: part(self.sent), received: part(self.received) }
    }
}

impl Meter {
    fn look(&mut self, now: Wire) {
        let fresh = now.since(self.last);
        self.last = now;
        let payload: u64 = self.sessions.values().map(|share| share.payload).sum();
        let count = self.sessions.len() as u64;
        let mut left = fresh;
        for share in self.sessions.values_mut() {
            let part = if payload == 0 { fresh.part(1, count) } else { fresh.part(share.payload, payload) };
            left = left.since(part);
            share.wire = share.wire.and(part);
            share.payload = 0;
        }
        // What rounding left over.
        if let Some(share) = self.sessions.values_mut().next() {
            share.wire = share.wire.and(left);
        }
    }
}

/// One session's share; what it sends is told to it, and its end frees its place.
pub(crate) struct Metered {
    meters: Arc<Meters>,
    connection: Connection,
    session: SessionId,
    /// What came before on behalf of the same cycle.
    earlier: Wire,
}

fn wire_of(connection: &Connection) -> Wire {
    let stats = connection.wire_stats();
    Wire { sent: stats.tx_bytes, received: stats.rx_bytes }
}

impl Metered {
    /// A session begins.
    pub(crate) fn begin(meters: &Arc<Meters>, connection: &Connection, session: SessionId) -> Self {
        let mut all = meters.0.lock().expect(POISONED);
        let meter = all.entry(connection.stable_id()).or_default();
        meter.look(wire_of(connection));
        meter.sessions.insert(session, Share::default());
        Self { meters: meters.clone(), connection: connection.clone(), session, earlier: Wire::default() }
    }

    /// Counts what was on the wire before as well.
    pub(crate) fn after(mut self, earlier: Wire) -> Self {
        self.earlier = earlier;
        self
    }

    /// Whether it is this connection that is metered.
    pub(crate) fn is_of(&self, connection: &Connection) -> bool {
        self.connection.stable_id() == connection.stable_id()
    }

    /// Payload handed to the connection.
    pub(crate) fn sent(&self, bytes: u64) {
        self.with(|meter| {
            if let Some(share) = meter.sessions.get_mut(&self.session) {
                share.payload += bytes;
            }
        });
    }

    /// Bytes on the wire for this session so far.
    pub(crate) fn wire(&self) -> Wire {
        let since = self.with(|meter| {
            meter.look(wire_of(&self.connection));
            meter.sessions.get(&self.session).map_or_else(Wire::default, |share| share.wire)
        });
        since.and(self.earlier)
    }

    fn with<T: Default>(&self, look: impl FnOnce(&mut Meter) -> T) -> T {
        let mut all = self.meters.0.lock().expect(POISONED);
        all.get_mut(&self.connection.stable_id()).map(look).unwrap_or_default()
    }
}

impl Drop for Metered {
    fn drop(&mut self) {
        let mut all = self.meters.0.lock().expect(POISONED);
        let id = self.connection.stable_id();
        if let Some(meter) = all.get_mut(&id) {
            meter.look(wire_of(&self.connection));
            meter.sessions.remove(&self.session);
            if meter.sessions.is_empty() {
                all.remove(&id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_follow_payload_and_add_up() {
        let wire = |sent| Wire { sent, received: 0 };
        let mut meter = Meter::default();
        meter.look(wire(1000));
        meter.sessions.insert(SessionId(1), Share::default());
        meter.look(wire(1500));
        assert_eq!(meter.sessions[&SessionId(1)].wire, wire(500), "alone, all of it; nothing from before");
        meter.sessions.insert(SessionId(2), Share { payload: 300, wire: Wire::default() });
        meter.sessions.get_mut(&SessionId(1)).expect("it is there").payload = 100;
        meter.look(wire(1901));
        let shares = [1, 2].map(|id| meter.sessions[&SessionId(id)].wire.sent);
        assert_eq!(shares.iter().sum::<u64>(), 901);
        assert!(shares[1] >= 300);
    }
}
