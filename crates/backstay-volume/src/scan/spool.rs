//! The edit script between the two passes: a file of one byte for each entry that is kept, and a record for each
//! that is fresh.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::PathBuf;

use backstay_types::manifest::{Device, Entry, Mtime, NodeKind, RelPath, Xattr};
use rustix::fs::FileType;
use serde::{Deserialize, Serialize};

use crate::VolumeError;
use crate::fs::Stat;

const KEEP: u8 = 0;
const SKIP: u8 = 1;
const FRESH: u8 = 2;

/// One step of the script; the steps follow the parent's entries.
pub(crate) enum Op {
    /// Take the parent's entry as it is.
    Keep,
    /// Leave the parent's entry out.
    Skip,
    /// Take this entry.
    Fresh(Box<Fresh>),
}

/// An entry that is new or may have changed.
pub(crate) struct Fresh {
    pub(crate) entry: Entry,
    pub(crate) stat: Stat,
    /// The parent has an entry at this path, which is consumed.
    pub(crate) replaces: bool,
    /// Number of its clone, if its content was cloned.
    pub(crate) clone: Option<u64>,
    /// Content and attributes are known to be of one moment.
    pub(crate) settled: bool,
}

#[derive(Serialize, Deserialize)]
struct Record {
    path: Vec<u8>,
    kind: NodeKind,
    links: Option<u64>,
    mode: u16,
    uid: u32,
    gid: u32,
    mtime: Mtime,
    xattrs: Vec<Xattr>,
    dev: u64,
    ino: u64,
    nlink: u64,
    is_file: bool,
    size: u64,
    allocated: u64,
    ctime: Mtime,
    replaces: bool,
    clone: Option<u64>,
    settled: bool,
}

/// Writes a script.
pub(crate) struct SpoolWriter {
    path: PathBuf,
    file: BufWriter<File>,
}

impl SpoolWriter {
    pub(crate) fn create(path: PathBuf) -> Result<Self, VolumeError> {
        let file = File::create(&path).map_err(|source| VolumeError::io("write", &path, source))?;
        Ok(Self { file: BufWriter::with_capacity(256 << 10, file), path })
    }

    pub(crate) fn keep(&mut self) -> Result<(), VolumeError> {
        self.write(&[KEEP])
    }

    pub(crate) fn skip(&mut self) -> Result<(), VolumeError> {
        self.write(&[SKIP])
    }

    pub(crate) fn fresh(&mut self, fresh: &Fresh) -> Result<(), VolumeError> {
        let Fresh { entry, stat, replaces, clone, settled } = fresh;
        let record = Record {
            path: entry.path.as_bytes().to_vec(),
            kind: entry.kind.clone(),
            links: entry.links,
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime,
            xattrs: entry.xattrs.clone(),
            dev: stat.dev,
            ino: stat.ino,
            nlink: stat.nlink,
            is_file: stat.is_file(),
            size: stat.size,
            allocated: stat.allocated,
            ctime: stat.ctime,
            replaces: *replaces,
            clone: *clone,
            settled: *settled,
        };
        let bytes = postcard::to_extend(&record, Vec::new()).expect("a vector grows");
        let len = u32::try_from(bytes.len()).map_err(|_| self.fail(io::ErrorKind::InvalidData.into()))?;
        self.write(&[FRESH])?;
        self.write(&len.to_le_bytes())?;
        self.write(&bytes)
    }

    pub(crate) fn finish(mut self) -> Result<(), VolumeError> {
        self.file.flush().map_err(|source| self.fail(source))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), VolumeError> {
        self.file.write_all(bytes).map_err(|source| VolumeError::io("write", &self.path, source))
    }

    fn fail(&self, source: io::Error) -> VolumeError {
        VolumeError::io("write", &self.path, source)
    }
}

/// Reads a script back.
pub(crate) struct SpoolReader {
    path: PathBuf,
    file: BufReader<File>,
    record: Vec<u8>,
}

impl SpoolReader {
    pub(crate) fn open(path: PathBuf) -> Result<Self, VolumeError> {
        let file = File::open(&path).map_err(|source| VolumeError::io("read", &path, source))?;
        Ok(Self { file: BufReader::with_capacity(256 << 10, file), path, record: Vec::new() })
    }

    /// The next step; `None` at the end.
    pub(crate) fn next_op(&mut self) -> Result<Option<Op>, VolumeError> {
        let result = self.read_op();
        result.map_err(|source| VolumeError::io("read", &self.path, source))
    }

    fn read_op(&mut self) -> io::Result<Option<Op>> {
        let mut tag = [0];
        if self.file.read(&mut tag)? == 0 {
            return Ok(None);
        }
        match tag {
            [KEEP] => Ok(Some(Op::Keep)),
            [SKIP] => Ok(Some(Op::Skip)),
            _ => {
                let mut len = [0; 4];
                self.file.read_exact(&mut len)?;
                self.record.resize(u32::from_le_bytes(len) as usize, 0);
                self.file.read_exact(&mut self.record)?;
                let record: Record =
                    postcard::from_bytes(&self.record).map_err(|_| io::ErrorKind::InvalidData)?;
                let path = RelPath::parse(&record.path).map_err(|_| io::ErrorKind::InvalidData)?;
                Ok(Some(Op::Fresh(Box::new(record.into_fresh(path)))))
            }
        }
    }
}

impl Record {
    fn into_fresh(self, path: RelPath) -> Fresh {
        let stat = Stat {
            dev: self.dev,
            ino: self.ino,
            nlink: self.nlink,
            // The second pass asks only whether it is a regular file.
            file_type: if self.is_file { FileType::RegularFile } else { FileType::Unknown },
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            rdev: Device { major: 0, minor: 0 },
            size: self.size,
            allocated: self.allocated,
            mtime: self.mtime,
            ctime: self.ctime,
        };
        let entry = Entry {
            path,
            kind: self.kind,
            links: self.links,
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            mtime: self.mtime,
            xattrs: self.xattrs,
        };
        Fresh { entry, stat, replaces: self.replaces, clone: self.clone, settled: self.settled }
    }
}
