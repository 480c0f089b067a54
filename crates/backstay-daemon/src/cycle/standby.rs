//! The standby of a plan, asked about the restore point it shows. Every question may come twice, and is small enough that
//! its answer fits a frame; a peer that restarts in between is asked again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use backstay_net::StreamError;
use backstay_types::frame::{Frame, QuerySectors, QueryTree, SectorRun, ToldTree};
use backstay_types::manifest::SegmentRef;
use backstay_types::point::RestorePoint;
use backstay_types::{Classify, PairId, RestorePointId, SessionId, limits};
use backstay_volume::{Elsewhere, VolumeError};
use tokio::runtime::Handle;
use tokio::task::{JoinError, JoinSet};
use tracing::Instrument;

use crate::DaemonError;
use crate::meter::{Metered, Wire};
use crate::plans::PlanRecord;
use crate::site::Site;
use crate::tell::TellError;

const POISONED: &str = "no holder of this lock panics";

/// Questions under way at once: their answers, a MiB each at most, keep a link of 100 Mbit/s and 200 ms busy.
const ASKED_AT_ONCE: usize = 4;

/// More often than a pair has connections.
const ASKED_AGAIN: usize = 5;

/// The standby. Its calls as [`Elsewhere`] block.
pub(super) struct Standby {
    site: Arc<Site>,
    record: Arc<PlanRecord>,
    peer: String,
    /// What went over the connections that were asked over.
    meters: Mutex<Vec<Metered>>,
}

impl Standby {
    pub(super) fn new(site: &Arc<Site>, record: &Arc<PlanRecord>) -> Result<Self, DaemonError> {
        let peer = site.peer(record.pair)?.name.clone();
        Ok(Self { site: site.clone(), record: record.clone(), peer, meters: Mutex::default() })
    }

    /// The restore point that it shows.
    pub(super) async fn point(&self, shown: RestorePointId) -> Result<RestorePoint, DaemonError> {
        self.meter();
        let points = self.site.ask_points(self.record.pair, &self.record.name).await?;
        let is_it = |point: &RestorePoint| {
            point.id == shown && point.plan == self.record.name && point.pair == self.record.pair
        };
        let not_listed = TellError::NotListed { peer: self.peer.clone(), point: shown };
        points.into_iter().find(is_it).ok_or(not_listed.into())
    }

    /// Bytes on the wire for what was asked so far.
    pub(super) fn wire(&self) -> Wire {
        let meters = self.meters.lock().expect(POISONED);
        meters.iter().map(Metered::wire).fold(Wire::default(), Wire::and)
    }

    fn meter(&self) {
        let Some(connection) = self.site.net.connection(self.record.pair) else { return };
        let mut meters = self.meters.lock().expect(POISONED);
        if meters.last().is_none_or(|meter| !meter.is_of(&connection)) {
            meters.push(Metered::begin(&self.site.meters, &connection, SessionId(rand::random())));
        }
    }

    /// Asks all of it, and gives the answers in order.
    fn ask_all(&self, questions: Vec<Frame>) -> Result<Vec<Frame>, DaemonError> {
        self.meter();
        let work = async {
            let mut asking = JoinSet::new();
            let mut answers = BTreeMap::new();
            let mut keep = |answered: Result<(usize, Result<Frame, DaemonError>), JoinError>| {
                let (number, answer) =
                    answered.map_err(|_| DaemonError::Worker { what: "asking the standby" })?;
                answers.insert(number, answer?);
                Ok::<_, DaemonError>(())
            };
            for (number, question) in questions.into_iter().enumerate() {
                while asking.len() >= ASKED_AT_ONCE
                    && let Some(answered) = asking.join_next().await
                {
                    keep(answered)?;
                }
                let (site, pair) = (self.site.clone(), self.record.pair);
                let ask = async move { (number, ask_patiently(&site, pair, question).await) };
                asking.spawn(ask.in_current_span());
            }
            while let Some(answered) = asking.join_next().await {
                keep(answered)?;
            }
            Ok(answers.into_values().collect())
        };
        Handle::current().block_on(async {
            tokio::select! {
                answers = work => answers,
                () = self.site.stop.cancelled() => Err(DaemonError::Stopping { what: "the cycle" }),
            }
        })
    }

    fn ask_tree(&self, wanted: &[SegmentRef]) -> Result<Vec<Vec<u8>>, DaemonError> {
        let max = Size { ids: limits::TREE_IDS_MAX, answer: limits::TREE_BYTES_MAX };
        let groups = grouped(wanted, max, |chunk| Size { ids: 1, answer: chunk.len as usize });
        let question = |group: &[SegmentRef]| {
            let ids = group.iter().map(|chunk| chunk.id).collect();
            QueryTree { plan: self.record.name.clone(), epoch: self.record.state.epoch(), ids }.into()
        };
        let answers = self.ask_all(groups.iter().map(|group| question(group)).collect())?;
        let mut chunks = Vec::with_capacity(wanted.len());
        for answer in answers {
            let Frame::ToldTree(told) = answer else {
                return Err(self.site.unexpected(self.record.pair, &answer));
            };
            chunks.extend(self.unpacked(&told)?);
        }
        Ok(chunks)
    }

    fn unpacked(&self, told: &ToldTree) -> Result<Vec<Vec<u8>>, DaemonError> {
        let wrong = |why| TellError::Answer { peer: self.peer.clone(), why };
        let bytes = zstd::bulk::decompress(&told.zstd, told.bytes())
            .map_err(|_| wrong("the chunks do not decompress"))?;
        let mut rest = bytes.as_slice();
        let mut chunks = Vec::with_capacity(told.lens.len());
        for len in &told.lens {
            let cut = rest.split_at_checked(*len as usize);
            let (chunk, later) = cut.ok_or_else(|| wrong("the chunks are shorter than they say"))?;
            chunks.push(chunk.to_vec());
            rest = later;
        }
        Ok(chunks)
    }

    fn ask_sectors(&self, runs: &[SectorRun]) -> Result<Vec<u64>, DaemonError> {
        let max = Size { ids: limits::SECTOR_IDS_MAX, answer: limits::SECTORS_MAX };
        let groups = grouped(runs, max, |run| Size { ids: run.ids.len(), answer: run.sectors() });
        let question = |group: &[SectorRun]| {
            let (plan, epoch) = (self.record.name.clone(), self.record.state.epoch());
            QuerySectors { plan, epoch, runs: group.to_vec() }.into()
        };
        let answers = self.ask_all(groups.iter().map(|group| question(group)).collect())?;
        let mut fingerprints = Vec::new();
        for answer in answers {
            let Frame::ToldSectors(told) = answer else {
                return Err(self.site.unexpected(self.record.pair, &answer));
            };
            fingerprints.extend(told.fingerprints.into_iter().map(u64::from_le_bytes));
        }
        Ok(fingerprints)
    }
}

impl Elsewhere for Standby {
    fn tree(&self, wanted: &[SegmentRef]) -> Result<Vec<Vec<u8>>, VolumeError> {
        self.ask_tree(wanted).map_err(untold)
    }

    fn sectors(&self, runs: &[SectorRun]) -> Result<Vec<u64>, VolumeError> {
        self.ask_sectors(runs).map_err(untold)
    }
}

/// Asks again when the connection is lost: each that the peer left behind when it was killed is found out by a question.
async fn ask_patiently(site: &Site, pair: PairId, question: Frame) -> Result<Frame, DaemonError> {
    for _ in 1..ASKED_AGAIN {
        match site.ask(pair, question.clone()).await {
            Err(DaemonError::Stream(StreamError::Lost { reason })) if reason.class().retries() => {}
            outcome => return outcome,
        }
    }
    site.ask(pair, question).await
}

fn untold(error: DaemonError) -> VolumeError {
    VolumeError::Untold { class: error.class(), source: Box::new(error) }
}

/// Of a question and its answer.
#[derive(Clone, Copy)]
struct Size {
    ids: usize,
    answer: usize,
}

/// Cuts a list into questions, each within `max` or of one item.
fn grouped<T>(mut items: &[T], max: Size, size_of: impl Fn(&T) -> Size) -> Vec<&[T]> {
    let mut groups = Vec::new();
    while !items.is_empty() {
        let mut sum = Size { ids: 0, answer: 0 };
        let fits = |item: &&T| {
            let size = size_of(item);
            sum = Size { ids: sum.ids + size.ids, answer: sum.answer + size.answer };
            sum.ids <= max.ids && sum.answer <= max.answer
        };
        let count = items.iter().take_while(fits).count().max(1);
        let (group, rest) = items.split_at(count);
        groups.push(group);
        items = rest;
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_keep_within_their_limits_and_lose_nothing() {
        let max = Size { ids: 3, answer: 10 };
        let cut = |items: &[usize]| {
            let groups = grouped(items, max, |len| Size { ids: 1, answer: *len });
            groups.into_iter().map(<[usize]>::to_vec).collect::<Vec<_>>()
        };
        assert_eq!(cut(&[]), Vec::<Vec<usize>>::new());
        assert_eq!(cut(&[1, 1, 1, 1]), [vec![1, 1, 1], vec![1]]);
        assert_eq!(cut(&[5, 5, 1]), [vec![5, 5], vec![1]]);
        assert_eq!(cut(&[11, 2, 9]), [vec![11], vec![2], vec![9]], "one that is too large goes alone");
    }
}
