//! The certificate of an authority, and what it is known by: SHA-256 of its public key (SubjectPublicKeyInfo, DER).

use std::fmt;
use std::str::FromStr;

use rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::server::ParsedCertificate;
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use backstay_types::ChunkId;

/// SHA-256 of the public key of a certificate authority. Text form: 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint(pub [u8; 32]);

/// A certificate or a fingerprint that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("certificate authority does not parse: {why}")]
pub struct InvalidCa {
    /// What is wrong.
    pub(crate) why: String,
}

impl Fingerprint {
    /// The fingerprint of a certificate's public key.
    pub(crate) fn of(certificate: &CertificateDer<'_>) -> Result<Self, InvalidCa> {
        let parsed =
            ParsedCertificate::try_from(certificate).map_err(|error| InvalidCa { why: error.to_string() })?;
        Self::of_key(&parsed.subject_public_key_info())
    }

    /// The fingerprint of a public key.
    pub(crate) fn of_key(key: &[u8]) -> Result<Self, InvalidCa> {
        // SHA-256 comes from the TLS library that is there anyway.
        let suite = TLS13_AES_128_GCM_SHA256.tls13();
        let digest = suite.map(|suite| suite.common.hash_provider.hash(key));
        let digest = digest.and_then(|digest| digest.as_ref().try_into().ok());
        digest.map(Self).ok_or_else(|| InvalidCa { why: "SHA-256 is not 32 bytes".to_owned() })
    }

    /// The TLS server name under which a site shows the certificate of this authority. Half of the digest is
    /// enough to choose by; trust compares all of it.
    pub(crate) fn server_name(&self) -> String {
        let (half, _) = self.0.split_at(16);
        let hex = half.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
        format!("{hex}.backstay.internal")
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

impl FromStr for Fingerprint {
    type Err = InvalidCa;
    fn from_str(text: &str) -> Result<Self, InvalidCa> {
        // The same 32 bytes in hexadecimal as a chunk id; one parser is enough.
        text.parse::<ChunkId>().map(|id| Self(id.0)).map_err(|error| InvalidCa { why: error.to_string() })
    }
}

impl Serialize for Fingerprint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Fingerprint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// The certificate of a certificate authority, known to parse. Text form: base64 of its DER.
#[derive(Clone, PartialEq, Eq)]
pub struct CaCert {
    der: CertificateDer<'static>,
    fingerprint: Fingerprint,
}

/// Ours take under 600 bytes.
const DER_BYTES_MAX: usize = 16 << 10;

impl CaCert {
    /// Reads a certificate.
    pub fn parse(der: Vec<u8>) -> Result<Self, InvalidCa> {
        if der.len() > DER_BYTES_MAX {
            return Err(InvalidCa { why: format!("{} bytes: at most {DER_BYTES_MAX} allowed", der.len()) });
        }
        let der = CertificateDer::from(der);
        Ok(Self { fingerprint: Fingerprint::of(&der)?, der })
    }

    /// The certificate.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// What it is known by.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }
}

impl fmt::Debug for CaCert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CaCert").field(&self.fingerprint).finish()
    }
}

impl Serialize for CaCert {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&crate::base64::encode(&self.der))
    }
}

impl<'de> Deserialize<'de> for CaCert {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let der = crate::base64::decode(&String::deserialize(deserializer)?);
        Self::parse(der.ok_or_else(|| de::Error::custom("not base64"))?).map_err(de::Error::custom)
    }
}
