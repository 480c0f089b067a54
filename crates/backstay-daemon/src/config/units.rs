//! Sizes and rates as people write them. Whole numbers with a unit, no spaces, one canonical spelling each.

use std::fmt;
use std::str::FromStr;

/// A text that is not a size or a rate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?}: expected {expected}")]
pub struct InvalidUnit {
    /// What was given.
    text: String,
    /// What fits.
    expected: &'static str,
}

/// A number of bytes: `256MiB`, `1GiB`, `500MB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// Largest first in each family, so that the first that divides a value is its spelling.
const SIZES: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1000),
    ("B", 1),
];

/// A number of bits a second: `50Mbit/s`; bytes are accepted too: `6MB/s`, `6MiB/s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate(u64);

const RATES: [(&str, u64); 11] = [
    ("Gbit/s", 1_000_000_000),
    ("Mbit/s", 1_000_000),
    ("kbit/s", 1000),
    ("bit/s", 1),
    ("GiB/s", 8 << 30),
    ("MiB/s", 8 << 20),
    ("KiB/s", 8 << 10),
    ("GB/s", 8_000_000_000),
    ("MB/s", 8_000_000),
    ("kB/s", 8000),
    ("B/s", 8),
];

impl Rate {
    /// A rate of so many bits a second.
    pub const fn from_bits_per_second(bits: u64) -> Self {
        Self(bits)
    }

    /// In bytes a second.
    pub const fn bytes_per_second(self) -> u64 {
        self.0 / 8
    }
}

fn parse(text: &str, units: &[(&str, u64)], expected: &'static str) -> Result<u64, InvalidUnit> {
    let bad = || InvalidUnit { text: text.to_owned(), expected };
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit).ok_or_else(bad)?;
    number.parse::<u64>().ok().and_then(|number| number.checked_mul(*factor)).ok_or_else(bad)
}

fn print(value: u64, units: &[(&str, u64)], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let fits = |(_, factor): &&(&str, u64)| value > 0 && value.is_multiple_of(*factor);
    match units.iter().find(fits).or(units.last()) {
        Some((unit, factor)) => write!(f, "{}{unit}", value / factor),
        None => write!(f, "{value}"),
    }
}

impl FromStr for ByteSize {
    type Err = InvalidUnit;
    fn from_str(text: &str) -> Result<Self, InvalidUnit> {
        parse(text, &SIZES, "a size such as 256MiB or 1GiB").map(Self)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        print(self.0, &SIZES, f)
    }
}

impl FromStr for Rate {
    type Err = InvalidUnit;
    fn from_str(text: &str) -> Result<Self, InvalidUnit> {
        parse(text, &RATES, "a rate such as 50Mbit/s or 6MB/s").map(Self)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Bit units alone: the first four.
        print(self.0, RATES.first_chunk::<4>().map_or(&RATES[..], |bits| &bits[..]), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_at_their_bounds() {
        for (text, bytes, spelling) in [
            ("0B", 0, "0B"),
            ("1B", 1, "1B"),
            ("1023B", 1023, "1023B"),
            ("1024B", 1024, "1KiB"),
            ("256MiB", 256 << 20, "256MiB"),
            ("1000kB", 1_000_000, "1MB"),
            ("1536MiB", 1536 << 20, "1536MiB"),
            ("18446744073709551615B", u64::MAX, "18446744073709551615B"),
        ] {
            let size: ByteSize = text.parse().expect(text);
            assert_eq!((size.0, size.to_string().as_str()), (bytes, spelling));
            assert_eq!(size.to_string().parse(), Ok(size));
        }
        for bad in ["", "1", "MiB", "-1B", "1.5GiB", "1 MiB", "1mib", "18446744073709551616B", "16777216TiB"]
        {
            assert!(bad.parse::<ByteSize>().is_err(), "{bad}");
        }
    }

    #[test]
    fn rates_are_bits() {
        for (text, bytes, spelling) in [
            ("50Mbit/s", 6_250_000, "50Mbit/s"),
            ("8bit/s", 1, "8bit/s"),
            ("1500kbit/s", 187_500, "1500kbit/s"),
            ("6MB/s", 6_000_000, "48Mbit/s"),
            ("1KiB/s", 1024, "8192bit/s"),
        ] {
            let rate: Rate = text.parse().expect(text);
            assert_eq!((rate.bytes_per_second(), rate.to_string().as_str()), (bytes, spelling));
            assert_eq!(rate.to_string().parse(), Ok(rate));
        }
        for bad in ["", "50", "50Mb", "50Mbps", "50Mbit", "99999999999Gbit/s"] {
            assert!(bad.parse::<Rate>().is_err(), "{bad}");
        }
    }
}
