//! What a restore point promises about the moment it shows, and what that is derived from.
//!
//! The word itself is derived by one function, `backstay_engine::consistency::derive`. Here are only its terms.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a restore point promises about the moment it shows.
///
/// Variants stand in the order in which they came into the format; what is more than what is [`Consistency::reaches`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Consistency {
    /// All volumes are of one instant: what a power cut of the whole application could have left.
    Crash,
    /// As `Crash`, and the application's writers stood still.
    Application,
    /// Files were read one after the other, beside their writers.
    Fuzzy,
    /// Written by a site after it had lost the active role.
    Diverged,
    /// Each volume is of an instant of its own.
    CrashPerVolume,
    /// Made before the word was derived from what was seen: it may be anything.
    Unknown,
}

impl Consistency {
    /// Whether it promises at least `minimum`.
    pub fn reaches(self, minimum: MinimumConsistency) -> bool {
        let promised = match self {
            Consistency::Application => Some(MinimumConsistency::Application),
            Consistency::Crash => Some(MinimumConsistency::Crash),
            Consistency::CrashPerVolume => Some(MinimumConsistency::CrashPerVolume),
            Consistency::Fuzzy | Consistency::Diverged | Consistency::Unknown => None,
        };
        promised.unwrap_or(MinimumConsistency::Fuzzy) >= minimum
    }

    /// The word of a point that was made when every undisturbed reading was called `crash`.
    #[must_use]
    pub fn unless_assumed(self) -> Self {
        match self {
            Consistency::Crash | Consistency::Application => Consistency::Unknown,
            other => other,
        }
    }

    /// As it stands in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Consistency::Crash => "crash",
            Consistency::Application => "application",
            Consistency::Fuzzy => "fuzzy",
            Consistency::Diverged => "diverged",
            Consistency::CrashPerVolume => "crashPerVolume",
            Consistency::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Consistency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a restore point must at least promise, each more than the one before; a cycle that cannot keep it fails, naming the
/// volume. A plan that is made without it, and without `allowFuzzy`, keeps `crash`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "camelCase")]
pub enum MinimumConsistency {
    /// Files may be read one after the other, beside their writers.
    #[default]
    Fuzzy,
    /// Each volume is of an instant of its own.
    CrashPerVolume,
    /// All volumes are of one instant.
    Crash,
    /// All volumes are of one instant, and rules held every writer.
    Application,
}

impl MinimumConsistency {
    /// As it stands in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            MinimumConsistency::Fuzzy => "fuzzy",
            MinimumConsistency::CrashPerVolume => "crashPerVolume",
            MinimumConsistency::Crash => "crash",
            MinimumConsistency::Application => "application",
        }
    }
}

impl fmt::Display for MinimumConsistency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What one call of a way to take a volume's view takes at one instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Atomicity {
    /// Nothing: the source itself is read, for as long as that takes.
    None,
    /// One file after the other.
    File,
    /// The whole volume.
    Volume,
    /// The volume and all others of its group.
    Group,
}
