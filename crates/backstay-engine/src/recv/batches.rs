//! Which batches came and which are stored. They come in any order.

use std::collections::BTreeMap;

use backstay_types::limits;

use super::RecvError;

/// All below `low` are stored; of the others, those that came, with their record count while they are not stored.
#[derive(Debug, Default)]
pub(super) struct Batches {
    low: u32,
    /// At most [`limits::BATCHES_OPEN_MAX`].
    above: BTreeMap<u32, Option<u32>>,
}

impl Batches {
    /// A batch of `count` records came.
    pub(super) fn arrived(&mut self, seq: u32, count: u32) -> Result<(), RecvError> {
        if count == 0 {
            return Err(RecvError::EmptyBatch { seq });
        }
        if seq < self.low || self.above.contains_key(&seq) {
            return Err(RecvError::BatchTwice { seq });
        }
        // One rule bounds both what is in work and how far a batch may run ahead of a missing one.
        if (seq - self.low) as usize >= limits::BATCHES_OPEN_MAX {
            return Err(RecvError::TooManyBatches { seq, oldest: self.low });
        }
        self.above.insert(seq, Some(count));
        Ok(())
    }

    /// A batch is stored. Returns its record count; `None` if it is not one being stored.
    pub(super) fn stored(&mut self, seq: u32) -> Option<u32> {
        let count = self.above.get_mut(&seq)?.take()?;
        while self.above.get(&self.low) == Some(&None) {
            self.above.remove(&self.low);
            self.low += 1;
        }
        Some(count)
    }

    /// One past the highest number that came.
    pub(super) fn end(&self) -> u32 {
        self.above.last_key_value().map_or(self.low, |(seq, _)| seq.saturating_add(1))
    }

    /// Whether exactly the first so many are stored.
    pub(super) fn all_stored(&self, count: u32) -> bool {
        self.low == count && self.above.is_empty()
    }

    /// How many are stored.
    pub(super) fn stored_count(&self) -> u32 {
        let above = self.above.values().filter(|count| count.is_none()).count();
        self.low.saturating_add(u32::try_from(above).unwrap_or(u32::MAX))
    }
}
