//! Batches on their way in.
//!
//! 1. A connection keeps at most 32 MiB of batches: a stream is not read before there is room for all of it, and the
//!    room is held until the [`Batch`] is dropped. What waits unread is bounded by the QUIC windows.
//! 2. Batches of a session that is not registered are refused and counted.
//! 3. What is given up half-way is dropped; what ends early or does not parse ends the connection: TLS keeps bytes
//!    whole, so it is a broken peer.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use backstay_types::SessionId;
use backstay_types::frame::batch::{BATCH_HEADER_BYTES, BatchError, BatchHeader};
use quinn::{ReadExactError, RecvStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::close::code;
use crate::connection::Busy;
use crate::control::StreamError;

/// Memory for batches of one connection.
const BYTES_MAX: usize = 32 << 20;
/// Any batch takes up at least this much of it, so that tiny ones are bounded too: 32 MiB / 64 KiB = 512.
const BATCH_BYTES_MIN: u32 = 64 << 10;
/// As many batches as room is given out for: handing one over never waits.
const BATCHES_MAX: usize = BYTES_MAX / (64 << 10);

/// A received batch. Drop it when its records are stored: that makes room for the next.
#[derive(Debug)]
pub struct Batch {
    /// Its header; lengths checked.
    pub header: BatchHeader,
    /// Its records, as [`backstay_types::frame::batch::BatchReader`] reads them.
    pub records: Vec<u8>,
    _room: OwnedSemaphorePermit,
}

/// A stream that brought no batch.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReceiveError {
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error(transparent)]
    Batch(#[from] BatchError),
    #[error("batch ended early or has bytes behind its end")]
    Length,
}

impl From<ReadExactError> for ReceiveError {
    fn from(error: ReadExactError) -> Self {
        match error {
            ReadExactError::FinishedEarly(_) => ReceiveError::Length,
            ReadExactError::ReadError(error) => ReceiveError::Stream(error.into()),
        }
    }
}

pub(crate) struct Inbox {
    sessions: Arc<Mutex<Sessions>>,
    room: Arc<Semaphore>,
    refused: AtomicU64,
}

#[derive(Default)]
struct Sessions {
    open: HashMap<SessionId, mpsc::Sender<Batch>>,
    closed: bool,
}

impl Default for Inbox {
    fn default() -> Self {
        Self {
            sessions: Arc::default(),
            room: Arc::new(Semaphore::new(BYTES_MAX)),
            refused: AtomicU64::new(0),
        }
    }
}

/// The batches of one session, in the order they were complete. Dropping it ends the registration.
#[derive(Debug)]
pub struct SessionBatches {
    session: SessionId,
    batches: mpsc::Receiver<Batch>,
    sessions: Arc<Mutex<Sessions>>,
    _busy: Busy,
}

impl std::fmt::Debug for Sessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sessions").field("open", &self.open.len()).field("closed", &self.closed).finish()
    }
}

fn lock(sessions: &Mutex<Sessions>) -> std::sync::MutexGuard<'_, Sessions> {
    // Changed by single calls only: a panic elsewhere leaves it whole.
    sessions.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SessionBatches {
    /// The next batch; `None` when the connection has ended. May be dropped and called again.
    pub async fn recv(&mut self) -> Option<Batch> {
        self.batches.recv().await
    }
}

impl Drop for SessionBatches {
    fn drop(&mut self) {
        self.batches.close();
        let mut sessions = lock(&self.sessions);
        // Registered anew under the same id, it belongs to the newer one.
        if sessions.open.get(&self.session).is_some_and(mpsc::Sender::is_closed) {
            sessions.open.remove(&self.session);
        }
    }
}

impl Inbox {
    pub(crate) fn register(&self, session: SessionId, busy: Busy) -> SessionBatches {
        let (sender, batches) = mpsc::channel(BATCHES_MAX);
        let mut sessions = lock(&self.sessions);
        if !sessions.closed {
            sessions.open.insert(session, sender);
        }
        drop(sessions);
        SessionBatches { session, batches, sessions: Arc::clone(&self.sessions), _busy: busy }
    }

    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    #[cfg(test)]
    pub(crate) fn held_bytes(&self) -> usize {
        BYTES_MAX - self.room.available_permits()
    }

    /// Ends every session's batches, after those that are there.
    pub(crate) fn close(&self) {
        let mut sessions = lock(&self.sessions);
        sessions.closed = true;
        sessions.open.clear();
    }

    fn session(&self, session: SessionId) -> Option<mpsc::Sender<Batch>> {
        lock(&self.sessions).open.get(&session).cloned()
    }

    /// Receives one batch from its stream and hands it to its session.
    pub(crate) async fn receive(&self, mut stream: RecvStream) -> Result<(), ReceiveError> {
        let mut header = [0; BATCH_HEADER_BYTES];
        stream.read_exact(&mut header).await?;
        let header = BatchHeader::decode(&header)?;
        let Some(session) = self.session(header.session) else {
            self.refuse(&mut stream);
            return Ok(());
        };
        // Never closed, so never an error; and a session that ends meanwhile frees what it holds.
        let room = Arc::clone(&self.room).acquire_many_owned(header.bytes.max(BATCH_BYTES_MIN)).await;
        let Ok(room) = room else { return Ok(()) };
        if session.is_closed() {
            self.refuse(&mut stream);
            return Ok(());
        }
        let mut records = vec![0; header.bytes as usize];
        stream.read_exact(&mut records).await?;
        if stream.read_chunk(1, true).await.map_err(StreamError::from)?.is_some() {
            return Err(ReceiveError::Length);
        }
        if session.send(Batch { header, records, _room: room }).await.is_err() {
            self.refuse(&mut stream);
        }
        Ok(())
    }

    fn refuse(&self, stream: &mut RecvStream) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        // Fails only if the stream is over, and with it the batch.
        if stream.stop(code::UNREGISTERED).is_err() {
            tracing::trace!("a refused batch had ended already");
        }
    }
}
