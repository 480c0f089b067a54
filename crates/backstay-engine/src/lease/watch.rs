//! Who does not have the lease and may have to hold all the same: another process of the active side's machine.
//!
//! It asks nobody and decides by what whoever has the lease keeps on disk. If that has stood still it holds a little after
//! the other would have, whether the other is dead, stopped, or cannot write: the standby may take over by then.

use backstay_types::Span;

use super::{Kept, Mono, Terms};

/// One process's watch over a lease that another one has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watch {
    began: Mono,
}

impl Watch {
    /// Begins to watch.
    pub const fn new(now: Mono) -> Self {
        Self { began: now }
    }

    /// When what runs here has to be held from, by what is on disk; `None` while nothing binds this side. `after`: of the
    /// plan as it is now.
    ///
    /// Of a machine that was started anew nothing is known but that it has just begun.
    pub fn holds_at(self, kept: Kept, after: Span) -> Option<Mono> {
        let terms = Terms::new(kept.bound?.min(after));
        Some(kept.good.map_or(self.began.plus(terms.grace()), |good| good.plus(terms.watcher_holds_at())))
    }
}
