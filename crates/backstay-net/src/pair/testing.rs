//! Keys that no issuer would make, and joiners that do not follow the rules; for tests.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use backstay_types::Time;

use super::key::{PairKey, Secret};
use super::message::{Answer, Join, Refusal, Talk};
use super::proof::{self, Exporter, Role};
use super::window::key_id;
use crate::core::Core;
use crate::dial::{self, Target};
use crate::identity::Authority;
use crate::tls::ALPN_PAIR;

pub(crate) fn expiry(key: &str) -> Time {
    PairKey::parse(key).unwrap().expires
}

pub(crate) fn with_expiry(key: &str, expires: Time) -> String {
    PairKey { expires, ..PairKey::parse(key).unwrap() }.to_text()
}

pub(crate) fn with_other_secret(key: &str) -> String {
    PairKey { secret: Secret::draw(), ..PairKey::parse(key).unwrap() }.to_text()
}

/// A joiner that holds the key and proves it for another session than the one it talks in, as somebody in the
/// middle would who passes a proof on. `same` is the honest joiner. True if it was let in.
pub(crate) async fn proves_for_another_session(core: &Core, key: &str, same: bool) -> bool {
    let key = PairKey::parse(key).unwrap();
    let ours: Arc<Authority> = core.identity.current();
    let target = Target { expected: key.authority, ours: &ours, alpn: ALPN_PAIR };
    let one = dial::connect(core, &key.endpoints.concat(), &target).await.unwrap();
    let two = dial::connect(core, &key.endpoints.concat(), &target).await.unwrap();
    let proved = Exporter::of(if same { &two } else { &one }).unwrap();
    let mut talk = Talk::new(two.open_bi().await.unwrap());
    let join = Join {
        key: key_id(&key.secret),
        proof: proof::prove(&key.secret, Role::Joiner, &proved),
        site: core.identity.site(),
        name: core.identity.name().to_owned(),
        endpoints: Vec::new(),
        port: core.local.port(),
    };
    talk.say(&join).await.unwrap();
    match talk.hear().await.unwrap() {
        Answer::Offer(offer) => {
            // The issuer's proof is for this session as well, and for its own role.
            let here = Exporter::of(&two).unwrap();
            assert!(proof::holds(&offer.proof, &key.secret, Role::Issuer, &here));
            assert!(!proof::holds(&offer.proof, &key.secret, Role::Joiner, &here));
            assert!(!proof::holds(&offer.proof, &key.secret, Role::Issuer, &Exporter::of(&one).unwrap()));
            true
        }
        Answer::Refused(refusal) => {
            assert_eq!(refusal, Refusal::Wrong);
            false
        }
    }
}
