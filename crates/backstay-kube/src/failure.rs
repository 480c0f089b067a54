//! Failures of single objects: one does not stop the others, and all are counted.

use backstay_types::{Class, Classify};

/// Failures that a report names; the rest are counted.
const FAILURES_NAMED_MAX: usize = 100;

/// An object that could not be written or released.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectFailure {
    /// Its key.
    pub key: String,
    /// What kind of failure.
    pub class: Class,
    /// What went wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// The first failures by name, and the number of all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Failures {
    /// The first hundred.
    pub named: Vec<ObjectFailure>,
    /// All.
    pub count: u64,
}

impl Failures {
    /// Takes note of one.
    pub(crate) fn add(&mut self, key: String, error: &impl Classify) {
        self.count += 1;
        if self.named.len() < FAILURES_NAMED_MAX {
            let (class, message, hint) = (error.class(), error.to_string(), error.hint());
            self.named.push(ObjectFailure { key, class, message, hint });
        }
    }

    /// Takes note of those of another report.
    pub(crate) fn extend(&mut self, other: Self) {
        self.count += other.count;
        let room = FAILURES_NAMED_MAX.saturating_sub(self.named.len());
        self.named.extend(other.named.into_iter().take(room));
    }
}
