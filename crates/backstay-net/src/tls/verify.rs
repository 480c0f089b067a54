//! The two certificate verifiers. Both leave chain, validity and signatures to the TLS library's own verifiers and
//! decide one thing: which single authority those may trust.

use std::sync::{Arc, OnceLock};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::provider;
use crate::book::PeerBook;
use crate::identity::Fingerprint;

fn unknown_issuer() -> Error {
    Error::InvalidCertificate(CertificateError::UnknownIssuer)
}

/// The authority a peer presents: behind its leaf, and nothing else.
fn presented<'a>(rest: &'a [CertificateDer<'a>]) -> Result<(&'a CertificateDer<'a>, Fingerprint), Error> {
    let [authority] = rest else { return Err(unknown_issuer()) };
    let fingerprint = Fingerprint::of(authority);
    fingerprint.map(|found| (authority, found)).map_err(|_| CertificateError::BadEncoding.into())
}

fn only(authority: CertificateDer<'_>) -> Result<Arc<RootCertStore>, Error> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.into_owned())?;
    Ok(Arc::new(roots))
}

/// Clients whose authority the book pins; with `anybody`, any client whose leaf its own authority signed.
#[derive(Debug)]
pub(crate) struct KnownClients {
    book: PeerBook,
    anybody: bool,
    provider: Arc<CryptoProvider>,
}

impl KnownClients {
    pub(crate) fn new(book: PeerBook, anybody: bool) -> Self {
        Self { book, anybody, provider: provider() }
    }
}

impl ClientCertVerifier for KnownClients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let (authority, fingerprint) = presented(rest)?;
        let roots = match self.book.by_authority(&fingerprint) {
            Some((_, pinned)) => only(CertificateDer::from(pinned.der()))?,
            None if self.anybody => only(authority.clone())?,
            None => return Err(unknown_issuer()),
        };
        let webpki = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&self.provider)).build();
        webpki.map_err(|error| Error::General(error.to_string()))?.verify_client_cert(leaf, &[], now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, leaf, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The one server a dialer expects.
#[derive(Debug)]
pub(crate) struct ExpectedServer {
    authority: Fingerprint,
    met: OnceLock<Fingerprint>,
    provider: Arc<CryptoProvider>,
}

impl ExpectedServer {
    pub(crate) fn new(authority: Fingerprint) -> Arc<Self> {
        Arc::new(Self { authority, met: OnceLock::new(), provider: provider() })
    }

    /// The authority that was met instead, if one was.
    pub(crate) fn stranger(&self) -> Option<Fingerprint> {
        self.met.get().copied()
    }
}

impl ServerCertVerifier for ExpectedServer {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let (authority, fingerprint) = presented(rest)?;
        if fingerprint != self.authority {
            // One handshake, one server: the first answer is the only one.
            self.met.get_or_init(|| fingerprint);
            return Err(unknown_issuer());
        }
        let roots = only(authority.clone())?;
        let webpki = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&self.provider)).build();
        webpki.map_err(|error| Error::General(error.to_string()))?.verify_server_cert(
            leaf,
            &[],
            name,
            ocsp,
            now,
        )
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, leaf, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
