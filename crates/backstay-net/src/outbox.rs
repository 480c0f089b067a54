//! Batches on their way out: one stream each, 16 streams and 32 MiB at a time, within the pair's bandwidth.

use std::sync::Arc;

use backstay_types::frame::batch::{BATCH_HEADER_BYTES, BatchError, BatchHeader};
use backstay_types::{Class, Classify, SessionId};
use bytes::Bytes;
use quinn::SendStream;
use tokio::sync::Semaphore;

use crate::bucket::Bucket;
use crate::close::code;
use crate::control::{StreamError, delivered};

const STREAMS_MAX: usize = 16;
/// One gigabit per second × 200 ms is 25 MB. Also what bounds this side's memory, once quinn has it.
const BYTES_MAX: usize = 32 << 20;
/// What is paid for at a time: small against any burst, large against the cost of asking.
const PIECE_BYTES: usize = 64 << 10;

/// Why a batch did not get to the peer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BatchSendError {
    /// It is not a batch.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// Its header and its length do not fit.
    #[error("send a batch: its header says {expected} bytes of records, there are {found}")]
    Length {
        /// What the header says.
        expected: usize,
        /// What follows it.
        found: usize,
    },
    /// The peer does not receive this session (any more).
    #[error("send a batch: the peer does not receive session {:016x}", session.0)]
    NotReceived {
        /// The session.
        session: SessionId,
    },
    /// The stream failed.
    #[error(transparent)]
    Stream(#[from] StreamError),
}

impl Classify for BatchSendError {
    fn class(&self) -> Class {
        match self {
            BatchSendError::Batch(_) | BatchSendError::Length { .. } => Class::Bug,
            BatchSendError::NotReceived { .. } => Class::Transient,
            BatchSendError::Stream(error) => error.class(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            BatchSendError::Stream(error) => error.hint(),
            _ => None,
        }
    }
}

pub(crate) struct Outbox {
    streams: Semaphore,
    bytes: Semaphore,
    bucket: Arc<Bucket>,
}

impl Outbox {
    pub(crate) fn new(bucket: Arc<Bucket>) -> Self {
        Self { streams: Semaphore::new(STREAMS_MAX), bytes: Semaphore::new(BYTES_MAX), bucket }
    }

    pub(crate) async fn send(&self, quinn: &quinn::Connection, batch: Vec<u8>) -> Result<(), BatchSendError> {
        let header = check(&batch)?;
        // The semaphores are never closed, so this never fails; and `check` keeps a batch far below 4 GiB.
        let size = u32::try_from(batch.len()).unwrap_or(u32::MAX);
        let _stream = self.streams.acquire().await;
        let _bytes = self.bytes.acquire_many(size).await;
        let mut stream = Unfinished(Some(quinn.open_uni().await.map_err(StreamError::from)?));
        let sent = stream.send(Bytes::from(batch), &self.bucket).await;
        match sent {
            Err(StreamError::Stopped { code }) if code == code::UNREGISTERED.into_inner() => {
                Err(BatchSendError::NotReceived { session: header.session })
            }
            sent => Ok(sent?),
        }
    }
}

fn check(batch: &[u8]) -> Result<BatchHeader, BatchSendError> {
    let header = batch.first_chunk::<BATCH_HEADER_BYTES>().ok_or(BatchError::Magic)?;
    let header = BatchHeader::decode(header)?;
    let found = batch.len() - BATCH_HEADER_BYTES;
    let expected = header.bytes as usize;
    if found != expected {
        return Err(BatchSendError::Length { expected, found });
    }
    Ok(header)
}

/// A stream that is reset if it is dropped before its end: half a batch must not look like a whole one.
struct Unfinished(Option<SendStream>);

impl Unfinished {
    async fn send(&mut self, batch: Bytes, bucket: &Bucket) -> Result<(), StreamError> {
        let Some(stream) = self.0.as_mut() else { return Err(StreamError::Ended) };
        let mut rest = batch;
        while !rest.is_empty() {
            let piece = rest.split_to(PIECE_BYTES.min(rest.len()));
            bucket.take(piece.len() as u64).await;
            stream.write_chunk(piece).await?;
        }
        stream.finish().map_err(|_| StreamError::Ended)?;
        delivered(stream).await?;
        self.0 = None;
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // Fails only if the stream or the connection is over, and then there is nothing to give up.
        if let Some(stream) = self.0.as_mut()
            && stream.reset(code::ABANDONED).is_err()
        {
            tracing::trace!("an abandoned batch had ended already");
        }
    }
}
