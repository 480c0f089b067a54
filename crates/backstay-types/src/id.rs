//! Identifiers. Each is a type of its own, so that one cannot be passed for another, and none can hold a value
//! that would be unsafe in a path.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::limits;

/// A name or an id that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// Not a DNS label.
    #[error(
        "name {name:?}: expected 1 to {max} characters of a-z, 0-9 and '-', not at either end",
        max = limits::NAME_BYTES_MAX
    )]
    Label {
        /// What was given.
        name: String,
    },
    /// Not of the form of a restore point id.
    #[error("restore point id {text:?}: expected the form e3-000042")]
    RestorePoint {
        /// What was given.
        text: String,
    },
    /// Not hexadecimal of the right length.
    #[error("id {text:?}: expected {expected} hexadecimal digits")]
    Hex {
        /// What was given.
        text: String,
        /// How many digits the id has.
        expected: usize,
    },
}

fn parse_label(name: &str) -> Result<String, InvalidName> {
    let bytes = name.as_bytes();
    let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
    let ends = [bytes.first(), bytes.last()];
    let ends_ok = ends.iter().all(|b| b.is_some_and(|b| *b != b'-'));
    if bytes.len() > limits::NAME_BYTES_MAX || !ends_ok || !bytes.iter().all(inner) {
        return Err(InvalidName::Label { name: name.to_owned() });
    }
    Ok(name.to_owned())
}

fn hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

fn unhex<const N: usize>(text: &str) -> Result<[u8; N], InvalidName> {
    let bad = || InvalidName::Hex { text: text.to_owned(), expected: 2 * N };
    if text.len() != 2 * N || !text.is_ascii() {
        return Err(bad());
    }
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let pair = std::str::from_utf8(pair).map_err(|_| bad())?;
        *byte = u8::from_str_radix(pair, 16).map_err(|_| bad())?;
    }
    Ok(out)
}

macro_rules! text_serde {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    };
}

macro_rules! label {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                parse_label(text).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        text_serde!($name);
    };
}

label! {
    /// Name of a plan: a DNS label, so that it can stand in a path and in a Kubernetes object name.
    PlanName
}
label! {
    /// Name of a volume inside its plan.
    VolumeName
}

macro_rules! binary_id {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub [u8; $len]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                hex(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                unhex(text).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() { serializer.collect_str(self) } else { self.0.serialize(serializer) }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
                } else {
                    <[u8; $len]>::deserialize(deserializer).map(Self)
                }
            }
        }
    };
}

binary_id! {
    /// A site: random, made once by `backstay init`, and kept when its certificates are rotated.
    SiteId, 16
}
binary_id! {
    /// A pair of sites: random, made by the site that issued the pair key.
    PairId, 16
}
binary_id! {
    /// A chunk: BLAKE3 of its bytes, keyed with the pair's hashing key.
    ChunkId, 32
}

/// Fencing token of a plan; grows by one at every promotion. The first is 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch of a plan that was never promoted.
    pub const FIRST: Epoch = Epoch(1);

    /// The epoch after this one.
    pub const fn next(self) -> Epoch {
        Epoch(self.0.saturating_add(1))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A restore point of one plan: the epoch it was made in and its number, which grows over all epochs.
/// Text form: `e3-000042`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RestorePointId {
    /// Epoch of the plan when the snapshot was taken.
    pub epoch: Epoch,
    /// Number within the plan, from 1.
    pub number: u64,
}

impl fmt::Display for RestorePointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // `pad` keeps the width and alignment a table asks for.
        f.pad(&format!("e{}-{:06}", self.epoch, self.number))
    }
}

impl FromStr for RestorePointId {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let bad = || InvalidName::RestorePoint { text: text.to_owned() };
        let digits = |part: &str| {
            let ok = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
            if ok { part.parse::<u64>().map_err(|_| bad()) } else { Err(bad()) }
        };
        let (epoch, number) = text.strip_prefix('e').and_then(|rest| rest.split_once('-')).ok_or_else(bad)?;
        let id = Self { epoch: Epoch(digits(epoch)?), number: digits(number)? };
        // One text per id: the id is a file name, and two names of one point would be two points.
        if id.to_string() == text { Ok(id) } else { Err(bad()) }
    }
}

impl Serialize for RestorePointId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            (self.epoch.0, self.number).serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for RestorePointId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
        } else {
            let (epoch, number) = <(u64, u64)>::deserialize(deserializer)?;
            Ok(Self { epoch: Epoch(epoch), number })
        }
    }
}

/// A pack of a store: numbered from 1, never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PackId(pub u32);

impl fmt::Display for PackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// One transfer over one connection: drawn at random by the sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SessionId(pub u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dns_labels() {
        let longest = "a".repeat(limits::NAME_BYTES_MAX);
        for good in ["a", "shop", "shop-2", "0", longest.as_str()] {
            assert!(good.parse::<PlanName>().is_ok(), "{good}");
        }
        let too_long = "a".repeat(limits::NAME_BYTES_MAX + 1);
        for bad in ["", "-a", "a-", "A", "a/b", "..", "a b", "ä", too_long.as_str()] {
            assert!(bad.parse::<PlanName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_restore_point_id_has_one_text() {
        let id = RestorePointId { epoch: Epoch(3), number: 42 };
        assert_eq!(id.to_string(), "e3-000042");
        assert_eq!("e3-000042".parse(), Ok(id));
        for bad in ["e3-42", "e03-000042", "3-000042", "e3", "e-1", "e3-00004x", "e3-+00042"] {
            assert!(bad.parse::<RestorePointId>().is_err(), "{bad}");
        }
    }
}
