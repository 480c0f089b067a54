//! Proof that both ends of one TLS session hold the key's secret.
//!
//! Each end sends keyed BLAKE3 over its role and the session's exporter value. The exporter differs in every session,
//! and between the two sessions of somebody in the middle, so a proof is good nowhere else; the role keeps one end
//! from sending the other's back. Nothing of the secret can be learned from a proof.

use quinn::Connection;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::key::Secret;

const LABEL: &[u8] = b"EXPORTER-backstay-pair";

/// Which end proves.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Role {
    Joiner = 1,
    Issuer = 2,
}

/// What one TLS session has in common at both ends and with no other session.
#[derive(Clone, Copy)]
pub(crate) struct Exporter([u8; 32]);

impl Exporter {
    /// The value of this connection; `None` if its session cannot give one.
    pub(crate) fn of(connection: &Connection) -> Option<Self> {
        let mut value = [0; 32];
        connection.export_keying_material(&mut value, LABEL, b"").ok()?;
        Some(Self(value))
    }
}

/// The proof of one end.
pub(crate) fn prove(secret: &Secret, role: Role, exporter: &Exporter) -> [u8; 32] {
    let key = Zeroizing::new(blake3::derive_key("backstay 2026-01 pairing proof", secret.bytes()));
    let mut hasher = blake3::Hasher::new_keyed(&key);
    hasher.update(&[role as u8]);
    hasher.update(&exporter.0);
    *hasher.finalize().as_bytes()
}

/// Whether the other end's proof holds; takes the same time whatever it is.
pub(crate) fn holds(proof: &[u8; 32], secret: &Secret, role: Role, exporter: &Exporter) -> bool {
    prove(secret, role, exporter).ct_eq(proof).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_holds_for_its_secret_role_and_session_only() {
        let (secret, here, there) = (Secret::draw(), Exporter([1; 32]), Exporter([2; 32]));
        let proof = prove(&secret, Role::Joiner, &here);
        assert!(holds(&proof, &secret, Role::Joiner, &here));
        assert!(!holds(&proof, &secret, Role::Joiner, &there));
        assert!(!holds(&proof, &secret, Role::Issuer, &here));
        assert!(!holds(&proof, &Secret::draw(), Role::Joiner, &here));
    }
}
