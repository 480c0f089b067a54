//! What this side tells of the restore point it shows, so that the active side can send against that one.
//!
//! 1. Only a standby tells, only the site it is paired with, and only at an epoch that is not over.
//! 2. What is told comes from the store, where the point is whole; chunks of other pairs are none of the peer's business.
//! 3. One answer of a plan is made at a time: a MiB of a manifest, or a chunk and the fingerprints of 256 MiB.

use std::sync::Arc;

use backstay_engine::role;
use backstay_store::ChunkReader;
use backstay_types::frame::{QuerySectors, QueryTree, ToldSectors, ToldTree};
use backstay_types::{ChunkId, Class, Classify, Epoch, PairId, PlanName, RestorePointId, limits};

use crate::DaemonError;
use crate::site::Site;

/// zstd level: names and times compress at any, ids at none.
const LEVEL: i32 = 1;

/// Why a side does not learn what its standby shows.
#[derive(Debug, thiserror::Error)]
pub enum TellError {
    /// More than one answer has room for.
    #[error("tell of a manifest: expected at most {max} bytes, found {bytes}", max = limits::TREE_BYTES_MAX)]
    TooMuch {
        /// Of the chunks asked for, those it came to.
        bytes: usize,
    },
    /// The standby shows a point that it does not list.
    #[error("learn of {point}: {peer} shows it and does not list it")]
    NotListed {
        /// The standby.
        peer: String,
        /// What it shows.
        point: RestorePointId,
    },
    /// An answer that is none to the question.
    #[error("learn what {peer} shows: {why}")]
    Answer {
        /// The standby.
        peer: String,
        /// What is wrong.
        why: &'static str,
    },
}

impl Classify for TellError {
    fn class(&self) -> Class {
        match self {
            TellError::TooMuch { .. } => Class::LimitExceeded,
            TellError::NotListed { .. } => Class::NotFound,
            TellError::Answer { .. } => Class::Corrupt,
        }
    }

    fn hint(&self) -> Option<String> {
        Some("check that both sites run a released version of backstay".to_owned())
    }
}

impl Site {
    /// Chunks of manifests.
    pub(crate) async fn told_tree(
        self: &Arc<Self>,
        pair: PairId,
        asked: QueryTree,
    ) -> Result<ToldTree, DaemonError> {
        let runtime = self.runtimes.of(&asked.plan);
        let _one = runtime.telling.lock().await;
        let reader = self.reader_for(pair, &asked.plan, asked.epoch)?;
        self.blocking("reading a manifest", move || tell_tree(&reader, &asked.ids)).await
    }

    /// What sectors are like.
    pub(crate) async fn told_sectors(
        self: &Arc<Self>,
        pair: PairId,
        asked: QuerySectors,
    ) -> Result<ToldSectors, DaemonError> {
        let runtime = self.runtimes.of(&asked.plan);
        let _one = runtime.telling.lock().await;
        let reader = self.reader_for(pair, &asked.plan, asked.epoch)?;
        let key = self.peer(pair)?.hash_key.clone();
        let work = move || {
            let mut fingerprints = Vec::new();
            for run in &asked.runs {
                let told = backstay_volume::fingerprint_run(&reader, &key, run)?;
                fingerprints.extend(told.into_iter().map(u64::to_le_bytes));
            }
            Ok(ToldSectors { fingerprints })
        };
        self.blocking("reading sectors", work).await
    }

    fn reader_for(&self, pair: PairId, plan: &PlanName, epoch: Epoch) -> Result<ChunkReader, DaemonError> {
        role::admit_question(self.plan_of(pair, plan).map(|record| record.state.local()), plan, epoch)?;
        Ok(self.store.reader(pair))
    }
}

fn tell_tree(reader: &ChunkReader, ids: &[ChunkId]) -> Result<ToldTree, DaemonError> {
    let (mut lens, mut chunks) = (Vec::with_capacity(ids.len()), Vec::new());
    for id in ids {
        let chunk = reader.shared(id)?;
        let bytes = chunks.len() + chunk.len();
        if bytes > limits::TREE_BYTES_MAX {
            return Err(TellError::TooMuch { bytes }.into());
        }
        lens.push(u32::try_from(chunk.len()).unwrap_or(u32::MAX));
        chunks.extend_from_slice(&chunk);
    }
    let zstd = zstd::bulk::compress(&chunks, LEVEL).map_err(|source| DaemonError::Encode { source })?;
    Ok(ToldTree { lens, zstd })
}
