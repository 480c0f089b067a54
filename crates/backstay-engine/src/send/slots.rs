//! The chunks in memory: one slot each, from being produced to being held by the receiver.

use std::collections::BTreeMap;

use backstay_types::ChunkId;

use super::Misuse;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Produced or offered.
    Known,
    /// With the encoder.
    HandedOut,
    /// In a batch that is not stored yet.
    Sealed,
}

#[derive(Debug)]
struct Slot {
    id: ChunkId,
    len: u32,
    state: State,
    /// Sent whole by request, so a patch cannot be to blame any more.
    whole: bool,
}

/// All slots of a session.
#[derive(Debug, Default)]
pub(super) struct Slots {
    slots: BTreeMap<u64, Slot>,
    by_id: BTreeMap<ChunkId, u64>,
    bytes: u64,
    handed_out: usize,
}

impl Slots {
    /// Adds a chunk; `false` if one with this id is here already, in another slot.
    pub(super) fn insert(&mut self, slot: u64, id: ChunkId, len: u32) -> Result<bool, Misuse> {
        if self.slots.contains_key(&slot) {
            return Err(Misuse::SlotReused { slot });
        }
        if let Some(twin) = self.by_id.get(&id).and_then(|twin| self.slots.get(twin)) {
            return if twin.len == len { Ok(false) } else { Err(Misuse::ChunkLength { slot, len }) };
        }
        self.by_id.insert(id, slot);
        self.slots.insert(slot, Slot { id, len, state: State::Known, whole: false });
        self.bytes += u64::from(len);
        Ok(true)
    }

    pub(super) fn id(&self, slot: u64) -> Option<ChunkId> {
        self.slots.get(&slot).map(|slot| slot.id)
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Length of all chunks in slots.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Slots with the encoder.
    pub(super) fn handed_out(&self) -> usize {
        self.handed_out
    }

    pub(super) fn hand_out(&mut self, slot: u64) {
        if let Some(slot) = self.slots.get_mut(&slot) {
            slot.state = State::HandedOut;
            self.handed_out += 1;
        }
    }

    /// The encoder put the chunk into a batch.
    pub(super) fn seal(&mut self, slot: u64) -> Result<(), Misuse> {
        match self.slots.get_mut(&slot) {
            Some(found) if found.state == State::HandedOut => {
                found.state = State::Sealed;
                self.handed_out -= 1;
                Ok(())
            }
            _ => Err(Misuse::SlotNotHandedOut { slot }),
        }
    }

    /// The receiver could not use the chunk as it was sent: it is to be sent whole. Its id, if it had been.
    pub(super) fn reopen_whole(&mut self, slot: u64) -> Result<Option<ChunkId>, Misuse> {
        let found = self.slots.get_mut(&slot).ok_or(Misuse::SlotNotHandedOut { slot })?;
        if found.whole {
            return Ok(Some(found.id));
        }
        found.whole = true;
        Ok(None)
    }

    /// The receiver has it.
    pub(super) fn remove(&mut self, slot: u64) {
        if let Some(slot) = self.slots.remove(&slot) {
            self.by_id.remove(&slot.id);
            self.bytes -= u64::from(slot.len);
        }
    }
}
