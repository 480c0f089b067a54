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
    last: u64,
    sessions: HashMap<SessionId, Share>,
}

#[derive(Default)]
struct Share {
    payload: u64,
    wire: u64,
}

impl Meter {
    fn look(&mut self, total: u64) {
        let fresh = total.saturating_sub(self.last);
        self.last = total;
        let payload: u64 = self.sessions.values().map(|share| share.payload).sum();
        let count = self.sessions.len() as u64;
        let mut left = fresh;
        for share in self.sessions.values_mut() {
            let part = match payload {
                0 => fresh / count.max(1),
                _ => u64::try_from(u128::from(fresh) * u128::from(share.payload) / u128::from(payload)).unwrap_or(left),
            };
            let part = part.min(left);
            left -= part;
            share.wire += part;
            share.payload = 0;
        }
        if let Some(share) = self.sessions.values_mut().next() {
            share.wire += left;
        }
    }
}

/// One session's share; what it sends is told to it, and its end frees its place.
pub(crate) struct Metered {
    meters: Arc<Meters>,
    connection: Connection,
    session: SessionId,
}

fn total(connection: &Connection) -> u64 {
    let stats = connection.wire_stats();
    stats.tx_bytes + stats.rx_bytes
}

impl Metered {
    /// A session begins.
    pub(crate) fn begin(meters: &Arc<Meters>, connection: &Connection, session: SessionId) -> Self {
        let mut all = meters.0.lock().expect(POISONED);
        let meter = all.entry(connection.stable_id()).or_default();
        meter.look(total(connection));
        meter.sessions.insert(session, Share::default());
        Self { meters: meters.clone(), connection: connection.clone(), session }
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
    pub(crate) fn wire_bytes(&self) -> u64 {
        self.with(|meter| {
            meter.look(total(&self.connection));
            meter.sessions.get(&self.session).map_or(0, |share| share.wire)
        })
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
            meter.look(total(&self.connection));
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
        let mut meter = Meter::default();
        meter.look(1000);
        meter.sessions.insert(SessionId(1), Share::default());
        meter.look(1500);
        assert_eq!(meter.sessions[&SessionId(1)].wire, 500, "alone, all of it; nothing from before");
        meter.sessions.insert(SessionId(2), Share { payload: 300, wire: 0 });
        meter.sessions.get_mut(&SessionId(1)).expect("it is there").payload = 100;
        meter.look(1901);
        assert_eq!(meter.sessions[&SessionId(1)].wire + meter.sessions[&SessionId(2)].wire, 901);
        assert!(meter.sessions[&SessionId(2)].wire >= 300);
    }
}
