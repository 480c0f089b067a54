//! Error classes: one table from a class to everything that depends on it.

use serde::{Deserialize, Serialize};

/// What kind of failure an error is. Every public error of the workspace answers with one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Class {
    /// May go away by itself: a lost link, a peer that restarts, a full disk.
    Transient,
    /// Somebody else holds what is needed; try later.
    Busy,
    /// Not who it claims to be, or not allowed.
    Unauthorized,
    /// Refused because of role or epoch.
    Fenced,
    /// Data is damaged: a digest, a checksum or a structure does not match.
    Corrupt,
    /// A named limit was exceeded.
    LimitExceeded,
    /// The other side speaks another version or has other parameters.
    Incompatible,
    /// Bad input from the operator.
    Invalid,
    /// What was asked for does not exist.
    NotFound,
    /// Part of the work could not be done; nothing incomplete was committed.
    Incomplete,
    /// A broken assumption of our own.
    Bug,
}

impl Class {
    /// Every class, in wire-code order.
    pub const ALL: [Class; 11] = [
        Class::Transient,
        Class::Busy,
        Class::Unauthorized,
        Class::Fenced,
        Class::Corrupt,
        Class::LimitExceeded,
        Class::Incompatible,
        Class::Invalid,
        Class::NotFound,
        Class::Incomplete,
        Class::Bug,
    ];

    /// The row of the table for this class.
    const fn row(self) -> (u8, bool, u8, &'static str, &'static str) {
        // (wire code, retried by itself, exit code, metric label, condition reason)
        match self {
            Class::Transient => (1, true, 5, "transient", "Transient"),
            Class::Busy => (2, true, 1, "busy", "Busy"),
            Class::Unauthorized => (3, false, 4, "unauthorized", "Unauthorized"),
            Class::Fenced => (4, false, 4, "fenced", "Fenced"),
            Class::Corrupt => (5, false, 6, "corrupt", "Corrupt"),
            Class::LimitExceeded => (6, false, 1, "limit_exceeded", "LimitExceeded"),
            Class::Incompatible => (7, false, 1, "incompatible", "Incompatible"),
            Class::Invalid => (8, false, 2, "invalid", "Invalid"),
            Class::NotFound => (9, false, 3, "not_found", "NotFound"),
            Class::Incomplete => (10, true, 7, "incomplete", "Incomplete"),
            Class::Bug => (11, false, 1, "bug", "Bug"),
        }
    }

    /// Code in frames; never reused for another class.
    pub const fn wire_code(self) -> u8 {
        self.row().0
    }

    /// The class of a wire code; an unknown code from a newer peer is `Incompatible`.
    pub fn from_wire_code(code: u8) -> Class {
        Class::ALL.into_iter().find(|class| class.wire_code() == code).unwrap_or(Class::Incompatible)
    }

    /// Whether the schedule tries again by itself, with backoff.
    pub const fn retries(self) -> bool {
        self.row().1
    }

    /// Exit code of the command line.
    pub const fn exit_code(self) -> u8 {
        self.row().2
    }

    /// Value of the `class` metric label.
    pub const fn label(self) -> &'static str {
        self.row().3
    }

    /// Name in JSON, as serde writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Class::LimitExceeded => "limitExceeded",
            Class::NotFound => "notFound",
            // One word: the label is the name.
            one_word => one_word.label(),
        }
    }

    /// Constant reason of a condition.
    pub const fn reason(self) -> &'static str {
        self.row().4
    }
}

/// An error that knows its class and, where one helps, what to do next.
pub trait Classify: std::error::Error {
    /// The class of this failure.
    fn class(&self) -> Class;

    /// What the operator can do about it.
    fn hint(&self) -> Option<String> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wire_codes_are_distinct_and_round_trip() {
        for class in Class::ALL {
            assert_eq!(Class::from_wire_code(class.wire_code()), class);
        }
        assert_eq!(Class::from_wire_code(0), Class::Incompatible);
        assert_eq!(Class::from_wire_code(200), Class::Incompatible);
    }

    #[test]
    fn the_name_is_what_json_has() {
        for class in Class::ALL {
            assert_eq!(serde_json::to_value(class).expect("JSON"), class.name());
        }
    }
}
