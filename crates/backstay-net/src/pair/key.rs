//! The text of a pair key.
//!
//! `bsk1_` and, in URL-safe base64: site name, endpoints, SHA-256 of the authority's public key, the one-time secret,
//! expiry (postcard), then four bytes of checksum. A cut or mistyped key is so found out where it is typed, before
//! anything is dialed. The whole text is a secret.

use std::fmt;

use backstay_types::{PlanName, Time};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use crate::base64;
use crate::endpoint::{ENDPOINTS_MAX, is_endpoint};
use crate::identity::Fingerprint;

const PREFIX: &str = "bsk1_";
const CHECKSUM_BYTES: usize = 4;
/// 8 endpoints × 261 bytes, a name, two digests and a time, under 2.4 KiB, in base64 under 3.2 KiB.
const TEXT_BYTES_MAX: usize = 4096;

/// The one-time secret of a key.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Secret([u8; 32]);

impl Secret {
    pub(crate) fn draw() -> Self {
        Self(rand::random())
    }

    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What a pair key says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PairKey {
    /// Name of the site that issued it.
    pub(crate) name: String,
    /// Where that site is reached.
    pub(crate) endpoints: Vec<String>,
    /// Its authority: SHA-256 of the public key.
    #[serde(with = "digest")]
    pub(crate) authority: Fingerprint,
    pub(crate) secret: Secret,
    pub(crate) expires: Time,
}

/// In a key the digest is 32 bytes, not text.
mod digest {
    use super::{Deserialize, Fingerprint, Serialize};
    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(
        fingerprint: &Fingerprint,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        fingerprint.0.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Fingerprint, D::Error> {
        <[u8; 32]>::deserialize(deserializer).map(Fingerprint)
    }
}

impl PairKey {
    /// The text to hand over.
    pub(crate) fn to_text(&self) -> String {
        // Extending a vector cannot fail; postcard's error type covers other sinks.
        let body = postcard::to_extend(self, Vec::new()).expect("a vector grows");
        let mut body = Zeroizing::new(body);
        let sum = checksum(&body);
        body.extend_from_slice(&sum);
        format!("{PREFIX}{}", base64::encode_key(&body))
    }

    /// Reads a key; says what is wrong with it without repeating any of it. Blanks and line ends, as terminals and
    /// mail put them in, do not matter.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        let text: Zeroizing<String> = Zeroizing::new(text.split_whitespace().collect());
        if text.is_empty() {
            return Err("it is empty");
        }
        if text.len() > TEXT_BYTES_MAX {
            return Err("it is too long");
        }
        let body = text.strip_prefix(PREFIX).ok_or("it does not begin with bsk1_")?;
        let body = base64::decode_key(body).ok_or("it is cut short or mistyped")?;
        let body = Zeroizing::new(body);
        let (body, sum) = body.split_last_chunk::<CHECKSUM_BYTES>().ok_or("it is cut short")?;
        if checksum(body) != *sum {
            return Err("it is cut short or mistyped");
        }
        match postcard::take_from_bytes::<Self>(body) {
            Ok((key, [])) => key.check(),
            _ => Err("its fields do not decode"),
        }
    }

    fn check(self) -> Result<Self, &'static str> {
        let endpoints_ok = self.endpoints.iter().all(|endpoint| is_endpoint(endpoint));
        if self.name.parse::<PlanName>().is_err() {
            return Err("the site name in it is none");
        }
        if self.endpoints.is_empty() || self.endpoints.len() > ENDPOINTS_MAX || !endpoints_ok {
            return Err("the endpoints in it are none");
        }
        Ok(self)
    }
}

fn checksum(body: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut hasher = blake3::Hasher::new_derive_key("backstay 2026-01 pair key checksum");
    hasher.update(PREFIX.as_bytes());
    hasher.update(body);
    let [a, b, c, d, ..] = *hasher.finalize().as_bytes();
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> PairKey {
        PairKey {
            name: "east".to_owned(),
            endpoints: vec!["10.0.0.1:7444".to_owned(), "east.example.org:7444".to_owned()],
            authority: Fingerprint([7; 32]),
            secret: Secret([9; 32]),
            expires: Time(1_800_000_000_000),
        }
    }

    #[test]
    fn a_key_round_trips_also_wrapped_over_lines() {
        let text = key().to_text();
        let safe = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        assert!(text.starts_with("bsk1_") && text.bytes().all(safe), "{text}");
        let (head, tail) = text.split_at(40);
        for typed in [text.clone(), format!(" {head}\r\n  {tail}\n")] {
            let read = PairKey::parse(&typed).unwrap();
            assert_eq!((read.name, read.endpoints), (key().name, key().endpoints));
            assert_eq!((read.authority, read.expires), (key().authority, key().expires));
            assert_eq!(read.secret.bytes(), key().secret.bytes());
        }
    }

    #[test]
    fn every_truncation_and_every_mistyped_letter_is_found() {
        let text = key().to_text();
        for end in 0..text.len() {
            assert!(PairKey::parse(&text[..end]).is_err(), "cut at {end}");
        }
        for at in 0..text.len() {
            let other = if text.as_bytes()[at] == b'A' { "B" } else { "A" };
            let mut typo = text.clone();
            typo.replace_range(at..=at, other);
            assert!(PairKey::parse(&typo).is_err(), "letter {at}");
        }
        assert!(PairKey::parse(&"x".repeat(TEXT_BYTES_MAX + 1)).is_err());
    }

    #[test]
    fn the_secret_is_not_printed() {
        let printed = format!("{:?}", key());
        assert!(!printed.contains("9, 9"), "{printed}");
    }
}
