//! Signs of life: when each peer was last heard, kept across restarts, so that a takeover can say from when it counts what
//! was lost.
//!
//! 1. A sign is a byte that arrived; a connection that stands and is silent is none.
//! 2. What is on disk is at most [`WRITE_EVERY`] behind: after a crash of this side as well the loss is counted from there.
//!    Nobody but the report of a promotion relies on it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backstay_types::{PairId, Time};

use crate::plans::PlanRecord;
use crate::site::{Site, layout};
use crate::{DaemonError, clock, files};

/// An idle connection is heard every few seconds; a look more often would find nothing new.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// One synced write of a small file.
const WRITE_EVERY: backstay_types::Span = backstay_types::Span(10_000);

const POISONED: &str = "no holder of this lock panics";

/// The last sign of each peer.
pub(crate) struct Signs(Mutex<BTreeMap<PairId, Sign>>);

#[derive(Default)]
struct Sign {
    time: Option<Time>,
    written: Option<Time>,
    /// Bytes that had arrived on the connection by then.
    bytes: u64,
}

impl Signs {
    /// Reads what was kept.
    pub(crate) fn open(dir: &Path) -> Result<Self, DaemonError> {
        let kept: BTreeMap<PairId, Time> = files::read_json(&dir.join(layout::SIGNS))?.unwrap_or_default();
        let sign = |time| Sign { time: Some(time), written: Some(time), bytes: 0 };
        Ok(Self(Mutex::new(kept.into_iter().map(|(pair, time)| (pair, sign(time))).collect())))
    }

    /// When a peer was last heard.
    pub(crate) fn last(&self, pair: PairId) -> Option<Time> {
        self.0.lock().expect(POISONED).get(&pair)?.time
    }

    /// Notes how many bytes of a peer have arrived by now. Fewer than before are those of a new connection.
    fn note(&self, pair: PairId, bytes: u64, now: Time) {
        let mut signs = self.0.lock().expect(POISONED);
        let sign = signs.entry(pair).or_default();
        if bytes != sign.bytes {
            sign.bytes = bytes;
            sign.time = Some(now);
        }
    }

    /// What is to be written, if it is time.
    fn to_write(&self, now: Time) -> Option<BTreeMap<PairId, Time>> {
        let mut signs = self.0.lock().expect(POISONED);
        let is_due = |sign: &Sign| {
            sign.time != sign.written && sign.written.is_none_or(|written| now.since(written) >= WRITE_EVERY)
        };
        if !signs.values().any(is_due) {
            return None;
        }
        signs.values_mut().for_each(|sign| sign.written = sign.time);
        Some(signs.iter().filter_map(|(pair, sign)| Some((*pair, sign.time?))).collect())
    }
}

impl Site {
    /// Runs until the daemon stops.
    pub(crate) async fn run_signs(self: Arc<Self>) {
        while !self.stop.is_cancelled() {
            self.look_for_signs();
            if let Some(signs) = self.signs.to_write(clock::now()) {
                let site = self.clone();
                let write = move || files::write_json(&site.dir.join(layout::SIGNS), &signs);
                if let Err(error) = self.blocking("noting when peers were heard", write).await {
                    tracing::warn!("{error}");
                }
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// When the other side of a plan was last heard: a restore point that was received is a sign that stays.
    pub(crate) fn last_sign(&self, record: &PlanRecord) -> Result<Option<Time>, DaemonError> {
        let points = self.store.points(&record.name)?;
        let received = points.iter().filter(|point| point.pair == record.pair && point.origin != self.id);
        let received = received.map(|point| point.committed_time).max();
        Ok(self.signs.last(record.pair).max(received))
    }

    /// Looks at every connection now.
    pub(crate) fn look_for_signs(&self) {
        for peer in self.net.peers() {
            let pair = peer.record.pair;
            if let Some(connection) = self.net.connection(pair) {
                self.signs.note(pair, connection.wire_stats().rx_bytes, clock::now());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_no_sign_and_a_restart_forgets_little() {
        let work = tempfile::tempdir().expect("a folder");
        let pair = PairId([7; 16]);
        let signs = Signs::open(work.path()).expect("nothing kept");
        assert_eq!(signs.last(pair), None);
        signs.note(pair, 100, Time(1_000));
        signs.note(pair, 100, Time(2_000));
        assert_eq!(signs.last(pair), Some(Time(1_000)));
        let first = signs.to_write(Time(2_000)).expect("the first is written at once");
        files::write_json(&work.path().join(layout::SIGNS), &first).expect("written");
        signs.note(pair, 150, Time(3_000));
        assert_eq!(signs.to_write(Time(3_000)), None, "not each time");
        assert!(signs.to_write(Time(11_000)).is_some());
        // A new connection counts from nothing.
        signs.note(pair, 20, Time(12_000));
        assert_eq!(signs.last(pair), Some(Time(12_000)));
        assert_eq!(Signs::open(work.path()).expect("kept").last(pair), Some(Time(1_000)));
    }
}
