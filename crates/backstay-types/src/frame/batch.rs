//! Batches: chunks in bulk, each batch a one-way stream of its own. No serde here.
//!
//! ```text
//! batch  = magic "BSB1" · session u64 · seq u32 · count u32 · bytes u32 · records
//! record = id 32 · raw_len u32 · stored_len u32 · codec u8 · stored bytes
//! ```
//! All numbers little-endian; `bytes` is the length of all records.

use crate::{ChunkId, Class, Classify, SessionId, limits};

const MAGIC: &[u8; 4] = b"BSB1";
/// Length of a batch header.
pub const BATCH_HEADER_BYTES: usize = 4 + 8 + 4 + 4 + 4;
/// Length of a record header.
pub const RECORD_HEADER_BYTES: usize = 32 + 4 + 4 + 1;

/// How the bytes of a chunk are stored, in batches and in packs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Codec {
    /// As they are.
    Raw = 0,
    /// One zstd frame.
    Zstd = 1,
    /// A patch: see [`crate::frame::patch`].
    Patch = 2,
}

impl Codec {
    /// The codec of a code.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Codec::Raw),
            1 => Some(Codec::Zstd),
            2 => Some(Codec::Patch),
            _ => None,
        }
    }
}

/// Header of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    /// The session it belongs to.
    pub session: SessionId,
    /// Its number within the session, from 0.
    pub seq: u32,
    /// How many records.
    pub count: u32,
    /// Length of all records.
    pub bytes: u32,
}

/// One chunk of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchRecord<'a> {
    /// Its id.
    pub id: ChunkId,
    /// Its length before encoding.
    pub raw_len: u32,
    /// How it is encoded.
    pub codec: Codec,
    /// Its encoded bytes.
    pub stored: &'a [u8],
}

/// Why a batch cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// Not a batch.
    #[error("batch header does not have the magic of a batch")]
    Magic,
    /// A length is over its limit.
    #[error("batch {what} is {found}: at most {max} allowed")]
    Limit {
        /// Which length.
        what: &'static str,
        /// What was found.
        found: u64,
        /// The limit.
        max: u64,
    },
    /// Records do not fill the batch exactly.
    #[error("batch record {index} is damaged")]
    Damaged {
        /// Its position.
        index: u32,
    },
}

impl Classify for BatchError {
    fn class(&self) -> Class {
        match self {
            BatchError::Limit { .. } => Class::LimitExceeded,
            BatchError::Magic | BatchError::Damaged { .. } => Class::Corrupt,
        }
    }
}

fn limit(what: &'static str, found: usize, max: usize) -> Result<(), BatchError> {
    if found <= max { Ok(()) } else { Err(BatchError::Limit { what, found: found as u64, max: max as u64 }) }
}

impl BatchHeader {
    /// Reads a header. To be checked before the records are read.
    pub fn decode(header: &[u8; BATCH_HEADER_BYTES]) -> Result<Self, BatchError> {
        let mut fields = Fields(header);
        if fields.take::<4>() != Some(*MAGIC) {
            return Err(BatchError::Magic);
        }
        let read = |fields: &mut Fields<'_>| {
            Some(Self {
                session: SessionId(u64::from_le_bytes(fields.take()?)),
                seq: u32::from_le_bytes(fields.take()?),
                count: u32::from_le_bytes(fields.take()?),
                bytes: u32::from_le_bytes(fields.take()?),
            })
        };
        let header = read(&mut fields).ok_or(BatchError::Magic)?;
        limit("length", header.bytes as usize, limits::BATCH_BYTES_MAX)?;
        limit("record count", header.count as usize, limits::BATCH_RECORDS_MAX)?;
        Ok(header)
    }
}

struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*first)
    }

    fn slice(&mut self, len: usize) -> Option<&'a [u8]> {
        let (first, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(first)
    }
}

/// Fills one batch.
pub struct BatchWriter {
    bytes: Vec<u8>,
    count: u32,
}

impl Default for BatchWriter {
    fn default() -> Self {
        Self { bytes: vec![0; BATCH_HEADER_BYTES], count: 0 }
    }
}

impl BatchWriter {
    /// A batch with nothing in it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether nothing was pushed.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether it holds enough to be sent.
    pub fn is_full(&self) -> bool {
        self.bytes.len() >= limits::BATCH_BYTES_TARGET || self.count as usize >= limits::BATCH_RECORDS_MAX
    }

    /// Adds a chunk. The batch must not be full and the chunk not over its limit.
    pub fn push(&mut self, record: BatchRecord<'_>) -> Result<(), BatchError> {
        limit("chunk", record.stored.len(), limits::CHUNK_STORED_BYTES_MAX)?;
        limit("length", self.bytes.len() - BATCH_HEADER_BYTES, limits::BATCH_BYTES_TARGET)?;
        limit("record count", self.count as usize + 1, limits::BATCH_RECORDS_MAX)?;
        // Checked just above to be far below 4 GiB.
        let stored_len = u32::try_from(record.stored.len()).unwrap_or(u32::MAX);
        self.bytes.extend_from_slice(&record.id.0);
        self.bytes.extend_from_slice(&record.raw_len.to_le_bytes());
        self.bytes.extend_from_slice(&stored_len.to_le_bytes());
        self.bytes.push(record.codec as u8);
        self.bytes.extend_from_slice(record.stored);
        self.count += 1;
        Ok(())
    }

    /// The bytes to send.
    pub fn finish(mut self, session: SessionId, seq: u32) -> Vec<u8> {
        let records = u32::try_from(self.bytes.len() - BATCH_HEADER_BYTES).unwrap_or(u32::MAX);
        let mut header = Vec::with_capacity(BATCH_HEADER_BYTES);
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(&session.0.to_le_bytes());
        header.extend_from_slice(&seq.to_le_bytes());
        header.extend_from_slice(&self.count.to_le_bytes());
        header.extend_from_slice(&records.to_le_bytes());
        if let Some(place) = self.bytes.get_mut(..BATCH_HEADER_BYTES) {
            place.copy_from_slice(&header);
        }
        self.bytes
    }
}

/// Reads the records of a batch.
pub struct BatchReader<'a> {
    fields: Fields<'a>,
    index: u32,
    count: u32,
}

impl<'a> BatchReader<'a> {
    /// Records that follow `header`.
    pub fn new(header: &BatchHeader, records: &'a [u8]) -> Self {
        Self { fields: Fields(records), index: 0, count: header.count }
    }

    /// The next record; `None` at the end.
    pub fn next_record(&mut self) -> Result<Option<BatchRecord<'a>>, BatchError> {
        let damaged = BatchError::Damaged { index: self.index };
        if self.index == self.count {
            return if self.fields.0.is_empty() { Ok(None) } else { Err(damaged) };
        }
        let read = |fields: &mut Fields<'a>| {
            let id = ChunkId(fields.take()?);
            let raw_len = u32::from_le_bytes(fields.take()?);
            let stored_len = u32::from_le_bytes(fields.take()?);
            let [codec] = fields.take()?;
            let codec = Codec::from_code(codec)?;
            Some(BatchRecord { id, raw_len, codec, stored: fields.slice(stored_len as usize)? })
        };
        let record = read(&mut self.fields).ok_or(damaged)?;
        limit("chunk", record.raw_len as usize, limits::CHUNK_BYTES_MAX)?;
        limit("stored chunk", record.stored.len(), limits::CHUNK_STORED_BYTES_MAX)?;
        self.index += 1;
        Ok(Some(record))
    }
}
