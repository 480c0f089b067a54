//! Reading the log: its end, a page of it, all of it. Memory is bounded by one line, or one page.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;

use backstay_types::Time;
use serde::{Deserialize, Serialize};

use super::record::{AuditRecord, GENESIS};
use super::{AuditError, LINE_BYTES_MAX, Tail};

/// Lines of one page together; a record takes about three times its line in memory, so 6 MiB.
const PAGE_BYTES_MAX: usize = 2 << 20;

/// Some records of the log, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditPage {
    /// The records.
    pub items: Vec<AuditRecord>,
    /// Pass as `after` for the next page; `null` if this is the last.
    #[serde(default)]
    pub next: Option<u64>,
}

/// The end of the last whole record of a file of `size` bytes; `None` if the end is damaged in a way no crash leaves.
///
/// A crash tears the last record only: it has no newline, or, where the file system wrote the later sector first, it
/// has one but its content does not match its hash.
pub(super) fn last_whole(file: &File, size: u64) -> io::Result<Option<Tail>> {
    // Two lines hold a whole record before a torn one.
    let window = size.min(2 * LINE_BYTES_MAX as u64);
    let start = size - window;
    let mut bytes = vec![0; usize::try_from(window).unwrap_or_default()];
    file.read_exact_at(&mut bytes, start)?;
    let after_newline = |bytes: &[u8]| bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let mut end = after_newline(&bytes);
    let is_torn = end < bytes.len();
    for _ in 0..if is_torn { 1 } else { 2 } {
        let Some(line) = bytes.get(..end.saturating_sub(1)).filter(|_| end > 0) else { break };
        let begin = after_newline(line);
        if let Ok(record) = AuditRecord::parse(line.get(begin..).unwrap_or_default()) {
            return Ok(Some(Tail {
                len: start + end as u64,
                seq: record.seq,
                hash: record.hash,
                dirty: false,
            }));
        }
        end = begin;
    }
    Ok((end == 0 && start == 0).then(Tail::start))
}

/// The end of the last line that has a newline.
pub(super) fn last_newline(file: &File, size: u64) -> io::Result<u64> {
    let window = size.min(LINE_BYTES_MAX as u64);
    let start = size - window;
    let mut bytes = vec![0; usize::try_from(window).unwrap_or_default()];
    file.read_exact_at(&mut bytes, start)?;
    Ok(bytes.iter().rposition(|byte| *byte == b'\n').map_or(start, |at| start + at as u64 + 1))
}

/// Whole lines of the first `len` bytes from `offset` on, with where each begins.
struct Lines<R> {
    input: R,
    offset: u64,
    line: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    fn next(&mut self) -> io::Result<Option<(u64, &[u8])>> {
        self.line.clear();
        let limit = LINE_BYTES_MAX as u64 + 1;
        let read = (&mut self.input).take(limit).read_until(b'\n', &mut self.line)?;
        let begin = self.offset;
        self.offset += read as u64;
        let line = self.line.strip_suffix(b"\n").unwrap_or(&self.line);
        Ok((read > 0).then_some((begin, line)))
    }
}

/// Reads a file that appends may be growing, without moving a shared position.
struct At<'a> {
    file: &'a File,
    offset: u64,
    end: u64,
}

impl Read for At<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.offset).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.file.read_at(buffer.get_mut(..left).unwrap_or_default(), self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}

fn lines(file: &File, offset: u64, end: u64) -> Lines<BufReader<At<'_>>> {
    Lines { input: BufReader::new(At { file, offset, end }), offset, line: Vec::new() }
}

pub(super) fn page<F: FnOnce(io::Error) -> AuditError>(
    file: &File,
    len: u64,
    since: Option<Time>,
    after: Option<u64>,
    fail: impl Fn(&'static str) -> F,
) -> Result<AuditPage, AuditError> {
    let start = after.unwrap_or(0);
    if start > 0 {
        let mut before = [0];
        let in_file = start <= len;
        if in_file {
            file.read_exact_at(&mut before, start - 1).map_err(fail("read"))?;
        }
        if before != *b"\n" {
            return Err(AuditError::Cursor { cursor: start });
        }
    }
    let mut items = Vec::new();
    let mut bytes = 0;
    let mut lines = lines(file, start, len);
    while let Some((offset, line)) = lines.next().map_err(fail("read"))? {
        if bytes >= PAGE_BYTES_MAX {
            return Ok(AuditPage { items, next: Some(offset) });
        }
        // A damaged record is not hidden from a reader, but it is for `verify` to name it by number.
        let record = AuditRecord::parse(line).map_err(|why| {
            let seq = items.last().map_or(0, |last: &AuditRecord| last.seq) + 1;
            AuditError::Broken { seq, offset, why }
        })?;
        if since.is_none_or(|since| record.time >= since) {
            bytes += line.len();
            items.push(record);
        }
    }
    Ok(AuditPage { items, next: None })
}

pub(super) fn verify<F: FnOnce(io::Error) -> AuditError>(
    file: &File,
    len: u64,
    fail: impl Fn(&'static str) -> F,
) -> Result<u64, AuditError> {
    let mut lines = lines(file, 0, len);
    let mut seq = 0;
    let mut previous = GENESIS.to_owned();
    while let Some((offset, line)) = lines.next().map_err(fail("read"))? {
        seq += 1;
        let broken = |why| AuditError::Broken { seq, offset, why };
        let record = AuditRecord::parse(line).map_err(broken)?;
        if record.seq != seq {
            return Err(broken("its number does not follow the record before"));
        }
        if record.previous != previous {
            return Err(broken("it does not name the hash of the record before"));
        }
        previous = record.hash;
    }
    Ok(seq)
}
