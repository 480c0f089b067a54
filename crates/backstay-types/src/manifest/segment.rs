//! Segments: self-contained pieces of a manifest, cut where the content says.

use serde::{Deserialize, Serialize};

use super::{Entry, Extent, InvalidPath, Mtime, NodeKind, RelPath, Xattr};
use crate::limits;

/// First byte of every segment: the format version.
const SEGMENT_VERSION: u8 = 1;

/// A segment is cut after a record whose anchor has these bits zero: one record in 256 past the minimum size.
const ANCHOR_MASK: u64 = 0xff;

/// Records as they are stored.
#[derive(Serialize, Deserialize)]
enum Record {
    Entry(EntryRecord),
    /// The file at this path began in an earlier segment; its extents go on. Neither its size nor where it goes on
    /// is said, so that a file that grows, or into which something is inserted, keeps its later segments.
    Continued(Vec<u8>),
    Extents(Vec<Extent>),
}

#[derive(Serialize, Deserialize)]
struct EntryRecord {
    /// Bytes of the path shared with the entry before it in this segment.
    shared: u32,
    suffix: Vec<u8>,
    kind: NodeKind,
    links: Option<u64>,
    mode: u16,
    uid: u32,
    gid: u32,
    mtime: Mtime,
    xattrs: Vec<Xattr>,
}

/// Why a segment cannot be read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SegmentError {
    /// Another version of the format.
    #[error("manifest segment version: expected {SEGMENT_VERSION}, found {found}")]
    Version {
        /// What was found.
        found: u8,
    },
    /// Not decodable.
    #[error("manifest segment is damaged at byte {at}: {why}")]
    Damaged {
        /// Offset of the record.
        at: usize,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A path that must not be used.
    #[error("manifest segment: {0}")]
    Path(#[from] InvalidPath),
    /// An entry that no segment can hold.
    #[error("entry {path} has {bytes} bytes of attributes: at most {max} allowed", max = limits::XATTRS_BYTES_MAX)]
    Oversized {
        /// Its path.
        path: String,
        /// What it needs.
        bytes: usize,
    },
    /// Entries must ascend.
    #[error("entry {path} is out of order")]
    OutOfOrder {
        /// Its path.
        path: String,
    },
}

/// Writes entries into segments.
///
/// Push entries in path order, each file followed by its extents; take a finished segment whenever a push
/// returns one; `finish` gives the last.
#[derive(Default)]
pub struct SegmentWriter {
    bytes: Vec<u8>,
    /// The entry being written, to be repeated if a segment ends inside it.
    current: Option<Entry>,
    /// Extents of the record being gathered. Where it ends depends on the extents alone, never on how many a caller
    /// pushes at once.
    part: Vec<Extent>,
    /// A segment ended after the last record; the next record must open a new one.
    ended: bool,
    /// Path of the last entry record in this segment, for prefix sharing.
    previous: RelPath,
}

impl SegmentWriter {
    /// A writer with nothing in it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an entry. Returns the segment that ended before it, if one did.
    pub fn entry(&mut self, entry: Entry) -> Result<Option<Vec<u8>>, SegmentError> {
        if self.current.as_ref().is_some_and(|current| current.path >= entry.path) {
            return Err(SegmentError::OutOfOrder { path: entry.path.to_string() });
        }
        let attributes = entry.xattrs.iter().map(|x| x.name.len() + x.value.len()).sum::<usize>();
        if attributes > limits::XATTRS_BYTES_MAX {
            return Err(SegmentError::Oversized { path: entry.path.to_string(), bytes: attributes });
        }
        // At most one segment ends here: gathering a part has rolled the one before.
        self.put_part();
        let done = self.roll();
        let record = Record::Entry(self.record(&entry));
        self.put(&record, anchor_of_path(&entry.path));
        self.previous = entry.path.clone();
        self.current = Some(entry);
        Ok(done)
    }

    /// Adds extents of the entry pushed last, in as many calls as there are. Returns the segments that ended on the
    /// way.
    pub fn extents(&mut self, extents: &[Extent]) -> Vec<Vec<u8>> {
        let mut done = Vec::new();
        for extent in extents {
            done.extend(self.roll());
            self.part.push(*extent);
            let anchored = anchor_of_extent(extent) & ANCHOR_MASK == 0;
            if anchored || self.part.len() >= limits::RECORD_EXTENTS_MAX {
                self.put_part();
            }
        }
        done
    }

    /// Writes the extents gathered.
    fn put_part(&mut self) {
        let part = std::mem::take(&mut self.part);
        let Some(last) = part.last() else { return };
        if self.bytes.is_empty() {
            self.reopen();
        }
        let anchor = anchor_of_extent(last);
        self.put(&Record::Extents(part), anchor);
    }

    /// The last segment, if there is anything in it.
    pub fn finish(mut self) -> Option<Vec<u8>> {
        self.put_part();
        self.ended = true;
        self.roll()
    }

    /// Takes the finished segment, if the last record ended one.
    fn roll(&mut self) -> Option<Vec<u8>> {
        if !self.ended {
            return None;
        }
        self.ended = false;
        self.previous = RelPath::root();
        let bytes = std::mem::take(&mut self.bytes);
        (!bytes.is_empty()).then_some(bytes)
    }

    /// Opens a new segment inside a file: repeats its path.
    fn reopen(&mut self) {
        let Some(Entry { path, .. }) = &self.current else { return };
        let path = path.clone();
        self.put(&Record::Continued(path.as_bytes().to_vec()), 1);
        self.previous = path;
    }

    fn record(&self, entry: &Entry) -> EntryRecord {
        let (old, new) = (self.previous.as_bytes(), entry.path.as_bytes());
        let shared = old.iter().zip(new).take_while(|(a, b)| a == b).count();
        EntryRecord {
            shared: u32::try_from(shared).unwrap_or(u32::MAX),
            suffix: new.get(shared..).unwrap_or_default().to_vec(),
            kind: entry.kind.clone(),
            links: entry.links,
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime,
            xattrs: entry.xattrs.clone(),
        }
    }

    fn put(&mut self, record: &Record, anchor: u64) {
        if self.bytes.is_empty() {
            self.bytes.push(SEGMENT_VERSION);
        }
        let bytes = std::mem::take(&mut self.bytes);
        // Extending a vector cannot fail; postcard's error type covers other sinks.
        self.bytes = postcard::to_extend(record, bytes).expect("a vector grows");
        let full = self.bytes.len() >= limits::SEGMENT_BYTES_MAX;
        self.ended = full || (self.bytes.len() >= limits::SEGMENT_BYTES_MIN && anchor & ANCHOR_MASK == 0);
    }
}

/// Where to cut must depend on the record alone, never on what stands before it.
fn anchor_of_path(path: &RelPath) -> u64 {
    let digest = blake3::hash(path.as_bytes());
    first_eight(digest.as_bytes())
}

fn anchor_of_extent(extent: &Extent) -> u64 {
    match extent {
        Extent::Data { id, .. } => first_eight(&id.0),
        Extent::Hole { .. } => 1,
    }
}

fn first_eight(bytes: &[u8; 32]) -> u64 {
    bytes.first_chunk::<8>().map_or(0, |first| u64::from_le_bytes(*first))
}

/// One item of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SegmentItem {
    /// An entry begins.
    Entry(Entry),
    /// The file of the segment before goes on.
    Continued {
        /// Its path again; everything else stands in the segment it began in.
        path: RelPath,
    },
    /// Extents of the entry before, in order.
    Extents(Vec<Extent>),
}

/// Reads one segment. Every length is checked against what is left before anything is allocated.
pub struct SegmentReader<'a> {
    all: &'a [u8],
    rest: &'a [u8],
    previous: RelPath,
    first: bool,
}

impl<'a> SegmentReader<'a> {
    /// Checks the version.
    pub fn new(bytes: &'a [u8]) -> Result<Self, SegmentError> {
        match bytes.split_first() {
            Some((&SEGMENT_VERSION, rest)) => {
                Ok(Self { all: bytes, rest, previous: RelPath::root(), first: true })
            }
            Some((&found, _)) => Err(SegmentError::Version { found }),
            None => Err(SegmentError::Damaged { at: 0, why: "it is empty" }),
        }
    }

    /// The next item; `None` at the end.
    pub fn next_item(&mut self) -> Result<Option<SegmentItem>, SegmentError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let at = self.all.len() - self.rest.len();
        let damaged = |why| SegmentError::Damaged { at, why };
        let (record, rest) = postcard::take_from_bytes::<Record>(self.rest)
            .map_err(|_| damaged("a record does not decode"))?;
        self.rest = rest;
        let first = std::mem::replace(&mut self.first, false);
        let item = match record {
            Record::Entry(record) => SegmentItem::Entry(self.rebuild(record, first, at)?),
            Record::Continued(path) if first => {
                self.previous = RelPath::parse(&path)?;
                SegmentItem::Continued { path: self.previous.clone() }
            }
            Record::Continued(_) => return Err(damaged("a continued entry is not at the start")),
            Record::Extents(_) if first => return Err(damaged("extents without an entry")),
            Record::Extents(extents) => {
                let bad = |e: &Extent| match e {
                    Extent::Data { len, .. } => *len == 0 || *len as usize > limits::CHUNK_BYTES_MAX,
                    Extent::Hole { len } => *len == 0,
                };
                if extents.is_empty() || extents.len() > limits::RECORD_EXTENTS_MAX || extents.iter().any(bad)
                {
                    return Err(damaged("an extent is out of bounds"));
                }
                SegmentItem::Extents(extents)
            }
        };
        Ok(Some(item))
    }

    fn rebuild(&mut self, record: EntryRecord, first: bool, at: usize) -> Result<Entry, SegmentError> {
        let damaged = |why| SegmentError::Damaged { at, why };
        let shared = self
            .previous
            .as_bytes()
            .get(..record.shared as usize)
            .ok_or(damaged("a path shares more than there is"))?;
        let path = RelPath::parse(&[shared, &record.suffix].concat())?;
        if !first && path <= self.previous {
            return Err(SegmentError::OutOfOrder { path: path.to_string() });
        }
        if record.mode > 0o7777 || record.mtime.nanos >= 1_000_000_000 {
            return Err(damaged("a mode or a time is out of range"));
        }
        let is_alone = matches!(record.kind, NodeKind::Directory | NodeKind::HardLink { .. });
        if is_alone && record.links.is_some() {
            return Err(damaged("a folder or a further link is the first of several hard links"));
        }
        let attributes = record.xattrs.iter().map(|x| x.name.len() + x.value.len()).sum::<usize>();
        if attributes > limits::XATTRS_BYTES_MAX {
            return Err(SegmentError::Oversized { path: path.to_string(), bytes: attributes });
        }
        self.previous = path.clone();
        Ok(Entry {
            path,
            kind: record.kind,
            links: record.links,
            mode: record.mode,
            uid: record.uid,
            gid: record.gid,
            mtime: record.mtime,
            xattrs: record.xattrs,
        })
    }
}

#[cfg(test)]
mod tests;
