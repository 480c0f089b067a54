//! The keys this site has issued: which are good, and why the others are not. No IO; `now` is a parameter.
//!
//! 1. A key is good once, until it expires; its secret is forgotten with the first good proof.
//! 2. Five bad attempts close the window: every pending key is spent.
//! 3. A spent key is remembered until a while after its expiry, so that its second user is told what became of it;
//!    the window stays open that long for answers. Nothing outlives the process.

use std::collections::BTreeMap;

use backstay_types::{Span, Time};

use super::key::Secret;
use crate::identity::Fingerprint;

/// Bad attempts until the window closes.
pub(crate) const BAD_ATTEMPTS_MAX: u32 = 5;
/// Keys remembered; far more than a person issues within one key's life.
const KEYS_MAX: usize = 64;
/// How long a late joiner still gets an answer.
const MEMORY: Span = Span::from_secs(600);

/// What a joiner names its key by; tells nothing of the secret.
pub(crate) type KeyId = [u8; 16];

pub(crate) fn key_id(secret: &Secret) -> KeyId {
    let digest = blake3::derive_key("backstay 2026-01 pair key id", secret.bytes());
    let (id, _) = digest.split_first_chunk::<16>().expect("a digest of 32 bytes has a half");
    *id
}

/// Why a key opens nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spent {
    /// Not a key of this site, or a proof without its secret.
    Wrong,
    Expired,
    Used,
    /// After too many bad attempts.
    Closed,
}

enum State {
    Pending(Secret),
    Used,
    Closed,
}

struct Key {
    expires: Time,
    authority: Fingerprint,
    /// Name of the peer whose place the joiner takes.
    replaces: Option<String>,
    state: State,
}

/// The keys of this site.
#[derive(Default)]
pub(crate) struct Window {
    keys: BTreeMap<KeyId, Key>,
    bad: u32,
}

impl Window {
    /// Remembers a key; false if there are too many.
    pub(crate) fn issue(
        &mut self,
        secret: Secret,
        authority: Fingerprint,
        replaces: Option<String>,
        expires: Time,
        now: Time,
    ) -> bool {
        self.forget(now);
        if self.keys.len() >= KEYS_MAX {
            return false;
        }
        if !self.keys.values().any(Key::is_pending) {
            self.bad = 0;
        }
        self.keys
            .insert(key_id(&secret), Key { expires, authority, replaces, state: State::Pending(secret) });
        true
    }

    /// Whether strangers are answered.
    pub(crate) fn is_open(&mut self, now: Time) -> bool {
        self.forget(now);
        !self.keys.is_empty()
    }

    /// Whether a key that is still good names this authority.
    pub(crate) fn names(&self, authority: &Fingerprint) -> bool {
        self.keys.values().any(|key| key.is_pending() && key.authority == *authority)
    }

    /// Takes the secret of a key for the one who proves to hold it. It is spent then, unless `give_back` follows.
    pub(crate) fn take(
        &mut self,
        id: &KeyId,
        now: Time,
        proved: impl FnOnce(&Secret) -> bool,
    ) -> Result<Secret, Spent> {
        let spent = match self.keys.get_mut(id) {
            None => Spent::Wrong,
            Some(Key { state: State::Used, .. }) => Spent::Used,
            Some(Key { state: State::Closed, .. }) => Spent::Closed,
            Some(key) if now > key.expires => Spent::Expired,
            Some(key) => match std::mem::replace(&mut key.state, State::Used) {
                State::Pending(secret) if proved(&secret) => return Ok(secret),
                state => {
                    key.state = state;
                    Spent::Wrong
                }
            },
        };
        if spent == Spent::Wrong {
            self.bad_attempt();
        }
        Err(spent)
    }

    /// Whose place the joiner with this key takes.
    pub(crate) fn replaces(&self, id: &KeyId) -> Option<String> {
        self.keys.get(id).and_then(|key| key.replaces.clone())
    }

    /// Makes a taken key good again: it was not what failed.
    pub(crate) fn give_back(&mut self, secret: Secret) {
        if let Some(key) = self.keys.get_mut(&key_id(&secret)) {
            key.state = State::Pending(secret);
        }
    }

    /// Counts an attempt that was none.
    pub(crate) fn bad_attempt(&mut self) {
        self.bad = self.bad.saturating_add(1);
        if self.bad >= BAD_ATTEMPTS_MAX {
            for key in self.keys.values_mut().filter(|key| key.is_pending()) {
                key.state = State::Closed;
            }
        }
    }

    fn forget(&mut self, now: Time) {
        self.keys.retain(|_, key| now <= key.expires.plus(MEMORY));
    }
}

impl Key {
    fn is_pending(&self) -> bool {
        matches!(self.state, State::Pending(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time(1_000_000_000);
    const EXPIRES: Time = Time(1_000_900_000);
    const CA: Fingerprint = Fingerprint([1; 32]);

    fn window(keys: usize) -> (Window, Vec<KeyId>) {
        let mut window = Window::default();
        let secrets: Vec<Secret> = (0..keys).map(|_| Secret::draw()).collect();
        let ids = secrets.iter().map(key_id).collect();
        for secret in secrets {
            assert!(window.issue(secret, CA, None, EXPIRES, NOW));
        }
        (window, ids)
    }

    fn take(window: &mut Window, id: &KeyId, now: Time) -> Option<Spent> {
        window.take(id, now, |_| true).err()
    }

    #[test]
    fn a_key_is_good_once_and_until_it_expires() {
        let (mut window, ids) = window(2);
        assert_eq!(take(&mut window, &ids[0], EXPIRES), None);
        assert_eq!(take(&mut window, &ids[0], NOW), Some(Spent::Used));
        assert_eq!(take(&mut window, &ids[1], Time(EXPIRES.0 + 1)), Some(Spent::Expired));
        assert_eq!(take(&mut window, &[0; 16], NOW), Some(Spent::Wrong));
    }

    #[test]
    fn a_key_given_back_is_good_again() {
        let (mut window, ids) = window(1);
        let secret = window.take(&ids[0], NOW, |_| true).unwrap();
        window.give_back(secret);
        assert_eq!(take(&mut window, &ids[0], NOW), None);
    }

    #[test]
    fn the_fifth_bad_attempt_closes_the_window_and_a_fresh_key_opens_a_new_one() {
        let (mut window, ids) = window(1);
        for _ in 1..BAD_ATTEMPTS_MAX {
            assert_eq!(window.take(&ids[0], NOW, |_| false).err(), Some(Spent::Wrong));
        }
        assert!(window.keys.values().all(Key::is_pending));
        assert_eq!(take(&mut window, &[0; 16], NOW), Some(Spent::Wrong));
        assert_eq!(take(&mut window, &ids[0], NOW), Some(Spent::Closed));

        let fresh = Secret::draw();
        let id = key_id(&fresh);
        assert!(window.issue(fresh, CA, None, EXPIRES, NOW));
        assert_eq!(window.take(&id, NOW, |_| false).err(), Some(Spent::Wrong));
        assert_eq!(take(&mut window, &id, NOW), None);
        assert_eq!(take(&mut window, &ids[0], NOW), Some(Spent::Closed));
    }

    #[test]
    fn a_second_key_does_not_forgive_bad_attempts_on_the_first() {
        let (mut window, ids) = window(1);
        for _ in 1..BAD_ATTEMPTS_MAX {
            window.bad_attempt();
        }
        assert!(window.issue(Secret::draw(), CA, None, EXPIRES, NOW));
        window.bad_attempt();
        assert_eq!(take(&mut window, &ids[0], NOW), Some(Spent::Closed));
    }

    #[test]
    fn spent_keys_are_answered_for_a_while_and_then_the_window_shuts() {
        let (mut window, ids) = window(1);
        assert!(window.names(&CA));
        assert_eq!(take(&mut window, &ids[0], NOW), None);
        assert!(!window.names(&CA));
        assert!(window.is_open(EXPIRES.plus(MEMORY)));
        assert!(!window.is_open(Time(EXPIRES.plus(MEMORY).0 + 1)));
    }

    #[test]
    fn keys_are_bounded() {
        let (mut window, _) = window(KEYS_MAX);
        assert!(!window.issue(Secret::draw(), CA, None, EXPIRES, NOW));
    }
}
