//! Replacing the certificate authorities of a pair with no gap.
//!
//! ```text
//! A: makes A2, notes it as next            Rotate(A2)  →
//! B: trusts A1 and A2; makes B2, notes it  ←  Rotated(B2)
//! A: trusts B1 and B2; presents A2         Done  →
//! B: presents B2                           ←  Done
//! both dial anew; who meets A2 and B2 at the two ends forgets the other's old one (`settle`)
//! ```
//! 1. A side presents a new authority only after the other said it trusts it, and forgets an old one only after a
//!    handshake showed that the other presents its new one and asks for ours.
//! 2. Every arrow is preceded by a durable record, so a crash anywhere leaves a pair that connects, and rotating again
//!    completes it. Both sides may rotate at once.
//! 3. Connections made before go on until they are idle; new requests use the new one.
//!
//! Guarded by `tests/rotation.rs`.

use std::sync::Arc;
use std::time::Duration;

use backstay_types::frame::{Done, Frame, Refused, Rotate, Rotated};
use backstay_types::{Class, Classify, PairId};

use crate::book::{BookError, PeerRecord};
use crate::connection::{About, Connection};
use crate::control::{Control, StreamError};
use crate::core::{Core, blocking};
use crate::identity::{CaCert, Fingerprint, Identity, IdentityError, InvalidCa};

/// How long one step of the other side may take; it makes a key and syncs its disk.
const STEP_TIMEOUT: Duration = Duration::from_secs(20);

/// Why authorities were not replaced. The pair works on; rotating again completes it.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    /// The exchange failed.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// The peer answered something else.
    #[error("rotate: expected {expected}, found {found}")]
    Unexpected {
        /// What should have come.
        expected: &'static str,
        /// What came.
        found: &'static str,
    },
    /// The peer refused.
    #[error("rotate: the peer refuses: {message}")]
    Refused {
        /// The class of its refusal.
        class: Class,
        /// Its words.
        message: String,
    },
    /// The peer did not answer.
    #[error("rotate: no answer within {} s", STEP_TIMEOUT.as_secs())]
    Timeout,
    /// The announced authority belongs to another pair.
    #[error("rotate: authority {fingerprint} belongs to another pair")]
    Taken {
        /// The authority.
        fingerprint: Fingerprint,
    },
    /// The announced authority does not parse.
    #[error(transparent)]
    InvalidCa(#[from] InvalidCa),
    /// The pair cannot be stored.
    #[error(transparent)]
    Book(#[from] BookError),
    /// The new authority cannot be made.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

impl Classify for RotateError {
    fn class(&self) -> Class {
        match self {
            RotateError::Stream(error) => error.class(),
            RotateError::Unexpected { .. } => Class::Incompatible,
            RotateError::Refused { class, .. } => *class,
            RotateError::Timeout => Class::Transient,
            RotateError::Taken { .. } => Class::Invalid,
            RotateError::InvalidCa(_) => Class::Corrupt,
            RotateError::Book(error) => error.class(),
            RotateError::Identity(error) => error.class(),
        }
    }

    fn hint(&self) -> Option<String> {
        Some("the pair works on as it was; run backstay pair rotate again".to_owned())
    }
}

/// Announces a new authority and takes the peer's; what this side then presents and expects.
pub(crate) async fn announce(
    core: &Arc<Core>,
    connection: &Connection,
) -> Result<(Fingerprint, Fingerprint), RotateError> {
    let pair = connection.pair();
    let ours = next_authority(core, pair, None).await?;
    let first = Frame::Rotate(Rotate { ca_der: ours.der().to_vec() });
    let mut control = connection.open(first).await?;
    let theirs = match hear(&mut control, "Rotated").await? {
        Frame::Rotated(rotated) => CaCert::parse(rotated.ca_der)?,
        other => return Err(RotateError::Unexpected { expected: "Rotated", found: other.name() }),
    };
    let (new, ours) = (theirs.fingerprint(), ours.fingerprint());
    check_free(core, pair, &new)?;
    update(core, pair, move |record| {
        record.pin(theirs);
        record.our_ca = ours;
        record.our_next = None;
    })
    .await?;
    control.send(&Frame::Done(Done {})).await?;
    match hear(&mut control, "Done").await? {
        Frame::Done(_) => Ok((ours, new)),
        other => Err(RotateError::Unexpected { expected: "Done", found: other.name() }),
    }
}

/// Answers an announcement.
pub(crate) async fn answer(core: &Arc<Core>, connection: &Connection, mut control: Control, frame: Rotate) {
    let peer = connection.peer();
    match accept(core, connection, &mut control, frame).await {
        Ok(ours) => {
            tracing::info!(peer = %peer.name, authority = %ours, "certificate authorities replaced");
            if let Some(link) = core.link(connection.pair()) {
                link.want();
            }
        }
        Err(error) => {
            tracing::warn!(peer = %peer.name, %error, class = error.class().label(), "failed to replace certificate authorities");
            let refused = Frame::Refused(Refused::new(&error, None));
            if let Err(error) = control.send(&refused).await {
                tracing::debug!(%error, "failed to tell the peer");
            }
        }
    }
}

async fn accept(
    core: &Arc<Core>,
    connection: &Connection,
    control: &mut Control,
    frame: Rotate,
) -> Result<Fingerprint, RotateError> {
    let pair = connection.pair();
    let theirs = CaCert::parse(frame.ca_der)?;
    check_free(core, pair, &theirs.fingerprint())?;
    let ours = next_authority(core, pair, Some(theirs)).await?;
    control.send(&Frame::Rotated(Rotated { ca_der: ours.der().to_vec() })).await?;
    match hear(control, "Done").await? {
        Frame::Done(_) => {}
        other => return Err(RotateError::Unexpected { expected: "Done", found: other.name() }),
    }
    let ours = ours.fingerprint();
    update(core, pair, move |record| {
        record.our_ca = ours;
        record.our_next = None;
    })
    .await?;
    control.send(&Frame::Done(Done {})).await?;
    control.finish()?;
    Ok(ours)
}

/// Pins the peer's new authority, if it announced one, and notes ours that comes next; durable when it returns.
/// What an earlier, broken-off rotation noted is used again.
async fn next_authority(
    core: &Arc<Core>,
    pair: PairId,
    theirs: Option<CaCert>,
) -> Result<CaCert, RotateError> {
    let core = Arc::clone(core);
    blocking(move || {
        let record = core.book.get(pair).ok_or_else(|| core.book.no_pair(pair))?;
        let repeated = theirs.is_some() && record.newest_ca() == theirs.as_ref();
        let next = if repeated || record.our_next.is_some() {
            record.our_newest()
        } else {
            unused(&core.identity, &record)?
        };
        let ours = core.identity.authority(&next)?;
        core.book.update(pair, |record| {
            if let Some(theirs) = theirs {
                record.pin(theirs);
            }
            record.our_next = (next != record.our_ca).then_some(next);
        })?;
        Ok(CaCert::parse(ours.certificate().to_vec())?)
    })
    .await
}

/// An authority that this pair has not used: one made for another pair's rotation, or a new one.
fn unused(identity: &Identity, record: &PeerRecord) -> Result<Fingerprint, IdentityError> {
    let current = identity.fingerprint();
    if current == record.our_ca {
        identity.renew().map(|authority| authority.fingerprint())
    } else {
        Ok(current)
    }
}

fn check_free(core: &Core, pair: PairId, fingerprint: &Fingerprint) -> Result<(), RotateError> {
    match core.book.by_authority(fingerprint) {
        Some((other, _)) if other.pair != pair => Err(RotateError::Taken { fingerprint: *fingerprint }),
        _ => Ok(()),
    }
}

async fn hear(control: &mut Control, expected: &'static str) -> Result<Frame, RotateError> {
    match tokio::time::timeout(STEP_TIMEOUT, control.recv()).await {
        Ok(Ok(Some(Frame::Refused(refused)))) => Err(RotateError::Refused {
            class: Class::from_wire_code(refused.class),
            message: refused.message,
        }),
        Ok(Ok(Some(frame))) => Ok(frame),
        Ok(Ok(None)) => Err(RotateError::Unexpected { expected, found: "the end of the stream" }),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(RotateError::Timeout),
    }
}

async fn update(
    core: &Arc<Core>,
    pair: PairId,
    change: impl FnOnce(&mut PeerRecord) + Send + 'static,
) -> Result<Arc<PeerRecord>, BookError> {
    let book = core.book.clone();
    blocking(move || book.update(pair, change)).await
}

/// After a greeting: if both ends showed their newest authorities, the old ones are done with.
pub(crate) async fn settle(core: &Core, about: &About) -> Result<(), RotateError> {
    let Some(record) = core.book.get(about.record.pair) else { return Ok(()) };
    let newest = record.newest_ca().map(CaCert::fingerprint) == Some(about.theirs)
        && record.our_newest() == about.ours;
    if !newest || (record.peer_cas.len() == 1 && record.our_next.is_none()) {
        return Ok(());
    }
    let (book, identity, about) = (core.book.clone(), core.identity.clone(), about.clone());
    let settled = blocking(move || {
        book.update(about.record.pair, |record| {
            // Another rotation may have begun since the record was looked at.
            if record.newest_ca().map(CaCert::fingerprint) == Some(about.theirs)
                && record.our_newest() == about.ours
            {
                record.peer_cas.retain(|ca| ca.fingerprint() == about.theirs);
                record.our_ca = about.ours;
                record.our_next = None;
            }
        })
        .map(|record| (record, identity))
    });
    let (_, identity) = settled.await?;
    let needed = |fingerprint: &Fingerprint| core.needs_authority(fingerprint);
    identity.retire(needed)?;
    Ok(())
}
