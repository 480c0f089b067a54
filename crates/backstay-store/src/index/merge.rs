//! Merging sorted runs into one stream of entries.

use backstay_types::PackId;

use super::Run;
use super::run::RunIter;
use crate::StoreError;
use crate::pack::Entry;

/// Merges runs, given oldest first; of one id the entry of the newest run stays. Entries `keep` refuses are
/// dropped first.
pub(crate) struct Merge<'a> {
    inputs: Vec<(RunIter<'a>, Option<Entry>)>,
    keep: &'a dyn Fn(PackId) -> bool,
    failed: Option<StoreError>,
}

impl<'a> Merge<'a> {
    pub(crate) fn new(runs: impl Iterator<Item = &'a Run>, keep: &'a dyn Fn(PackId) -> bool) -> Self {
        let mut merge = Self { inputs: runs.map(|run| (run.iter(), None)).collect(), keep, failed: None };
        (0..merge.inputs.len()).for_each(|input| merge.advance(input));
        merge
    }

    fn advance(&mut self, input: usize) {
        let Some((iter, head)) = self.inputs.get_mut(input) else { return };
        *head = None;
        for entry in iter {
            match entry {
                Ok(entry) if (self.keep)(entry.loc.pack) => {
                    *head = Some(entry);
                    return;
                }
                Ok(_) => {}
                Err(error) => {
                    self.failed = Some(error);
                    return;
                }
            }
        }
    }
}

impl Iterator for Merge<'_> {
    type Item = Result<Entry, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(error) = self.failed.take() {
            self.inputs.clear();
            return Some(Err(error));
        }
        let least = self.inputs.iter().filter_map(|(_, head)| head.map(|entry| entry.id)).min()?;
        let mut newest = None;
        for input in 0..self.inputs.len() {
            let head = self.inputs.get(input).and_then(|(_, head)| *head).filter(|entry| entry.id == least);
            if head.is_some() {
                newest = head;
                self.advance(input);
            }
        }
        newest.map(Ok)
    }
}
