//! One certificate authority of this site, and the short-lived certificates it signs.
//!
//! 1. The private key is in memory and in one 0600 file, together with its certificate, so that no crash parts
//!    the two. It is never printed.
//! 2. Leaf certificates and their keys live in memory only; a leaf is replaced when half of its life is over.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use backstay_types::Time;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, date_time_ymd,
};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

use super::fingerprint::Fingerprint;
use crate::clock;
use crate::tls::provider;

/// A leaf is good for a day …
const LEAF_LIFE: Duration = Duration::from_secs(24 * 3600);
/// … and, for peers whose clock is behind, a day back.
const SKEW: Duration = Duration::from_secs(24 * 3600);
/// The authority itself is replaced by `pair rotate`, not by time.
const AUTHORITY_LIFE: Duration = Duration::from_secs(20 * 365 * 24 * 3600);

/// Why a certificate cannot be made or read. Never holds key material.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthorityError {
    #[error("certificate cannot be made: {0}")]
    Make(#[from] rcgen::Error),
    #[error("key cannot be used: {0}")]
    Key(#[from] rustls::Error),
    #[error("file does not hold a certificate and its key")]
    Pem,
    #[error(transparent)]
    Invalid(#[from] super::fingerprint::InvalidCa),
    #[error("certificate and key do not belong together")]
    Mismatch,
}

/// A certificate authority with its key.
pub(crate) struct Authority {
    fingerprint: Fingerprint,
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    leaf: Mutex<Option<Leaf>>,
}

struct Leaf {
    key: Arc<CertifiedKey>,
    renew_at: Time,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Authority").field(&self.fingerprint).finish()
    }
}

impl Authority {
    /// A new one, and the text of the file that keeps it.
    pub(crate) fn generate(name: &str) -> Result<(Self, Zeroizing<String>), AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.not_before = date_time_ymd(1970, 1, 1) + since_epoch(clock::now()).saturating_sub(SKEW);
        params.not_after = date_time_ymd(1970, 1, 1) + since_epoch(clock::now()) + AUTHORITY_LIFE;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(DnType::CommonName, format!("backstay site {name}"));
        let certificate = params.self_signed(&key)?;
        let text = Zeroizing::new(format!("{}{}", certificate.pem(), *Zeroizing::new(key.serialize_pem())));
        Ok((Self::new(certificate.der().clone(), Issuer::new(params, key))?, text))
    }

    /// Reads what `generate` gave.
    pub(crate) fn parse(text: &str) -> Result<Self, AuthorityError> {
        let certificate = CertificateDer::from_pem_slice(text.as_bytes()).map_err(|_| AuthorityError::Pem)?;
        let key = PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|_| AuthorityError::Pem)?;
        let key = KeyPair::try_from(&key)?;
        let spki = rcgen::PublicKeyData::subject_public_key_info(&key);
        if Fingerprint::of_key(&spki)? != Fingerprint::of(&certificate)? {
            return Err(AuthorityError::Mismatch);
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
        Self::new(certificate, issuer)
    }

    fn new(
        certificate: CertificateDer<'static>,
        issuer: Issuer<'static, KeyPair>,
    ) -> Result<Self, AuthorityError> {
        Ok(Self { fingerprint: Fingerprint::of(&certificate)?, certificate, issuer, leaf: Mutex::new(None) })
    }

    pub(crate) fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    pub(crate) fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The certificate to present now, with its key and the authority's certificate behind it.
    pub(crate) fn leaf(&self) -> Result<Arc<CertifiedKey>, AuthorityError> {
        self.leaf_at(clock::now())
    }

    fn leaf_at(&self, now: Time) -> Result<Arc<CertifiedKey>, AuthorityError> {
        // What is inside is only ever replaced whole, so a panic elsewhere cannot have left it half-made.
        let mut leaf = self.leaf.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(leaf) = leaf.as_ref().filter(|leaf| now < leaf.renew_at) {
            return Ok(Arc::clone(&leaf.key));
        }
        let key = Arc::new(self.issue(now)?);
        let half = i64::try_from(LEAF_LIFE.as_millis() / 2).unwrap_or(i64::MAX);
        *leaf = Some(Leaf { key: Arc::clone(&key), renew_at: Time(now.0.saturating_add(half)) });
        Ok(key)
    }

    fn issue(&self, now: Time) -> Result<CertifiedKey, AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.not_before = date_time_ymd(1970, 1, 1) + since_epoch(now).saturating_sub(SKEW);
        params.not_after = date_time_ymd(1970, 1, 1) + since_epoch(now) + LEAF_LIFE;
        params.subject_alt_names = vec![SanType::DnsName(self.fingerprint.server_name().try_into()?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.distinguished_name.push(DnType::CommonName, "backstay site");
        let leaf = params.signed_by(&key, &self.issuer)?;
        let chain = vec![leaf.der().clone(), self.certificate.clone()];
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Ok(CertifiedKey::from_der(chain, key, &provider())?)
    }
}

fn since_epoch(now: Time) -> Duration {
    now.since(Time(0)).to_duration()
}

#[cfg(test)]
mod tests {
    use super::*;
    use backstay_types::Span;

    #[test]
    fn an_authority_survives_its_file_and_a_leaf_is_renewed_at_half_of_its_life() {
        let (made, text) = Authority::generate("east").unwrap();
        let read = Authority::parse(&text).unwrap();
        assert_eq!(made.fingerprint(), read.fingerprint());
        assert_eq!(made.certificate(), read.certificate());

        let now = clock::now();
        let first = read.leaf_at(now).unwrap();
        let half = Span::from_secs(LEAF_LIFE.as_secs() / 2);
        assert!(Arc::ptr_eq(&first, &read.leaf_at(Time(now.plus(half).0 - 1)).unwrap()));
        assert!(!Arc::ptr_eq(&first, &read.leaf_at(now.plus(half)).unwrap()));
    }

    #[test]
    fn a_damaged_file_is_refused() {
        let (_, one) = Authority::generate("east").unwrap();
        let (_, two) = Authority::generate("east").unwrap();
        let (certificate, _) = one.split_once("-----BEGIN PRIVATE").unwrap();
        let (_, key) = two.split_once("-----BEGIN PRIVATE").unwrap();
        let mixed = format!("{certificate}-----BEGIN PRIVATE{key}");
        assert!(matches!(Authority::parse(&mixed), Err(AuthorityError::Mismatch)));
        assert!(matches!(Authority::parse(certificate), Err(AuthorityError::Pem)));
        assert!(matches!(Authority::parse(""), Err(AuthorityError::Pem)));
    }
}
