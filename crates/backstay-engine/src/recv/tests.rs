use backstay_types::frame::{Begin, Commit, Committed, Offer, Ready, Refused, SiteRole};
use backstay_types::point::{Consistency, CycleStats};
use backstay_types::{ChunkId, Class, Classify, Epoch, RestorePointId, SessionId, Time, limits};

use super::{COMMIT_PATIENCE, RecvAction, RecvError, RecvEvent, RecvSession, bits};
use crate::role::{Local, Refusal};

const NOW: Time = Time(1_800_000_000_000);
const POINT: RestorePointId = RestorePointId { epoch: Epoch(2), number: 7 };
const SESSION: SessionId = SessionId(11);
const STANDBY: Local = Local { role: SiteRole::Standby, epoch: Epoch(2) };

fn begin() -> Begin {
    Begin { session: SESSION, plan: "shop".parse().expect("a name"), id: POINT, parent: None }
}

fn opened() -> RecvSession {
    let (mut session, _) = RecvSession::open(begin(), Some(STANDBY), None).expect("admitted");
    play(&mut session, []);
    session
}

fn play(session: &mut RecvSession, events: impl IntoIterator<Item = RecvEvent>) -> Vec<RecvAction> {
    events.into_iter().for_each(|event| session.handle(event, NOW));
    std::iter::from_fn(|| session.poll_action()).collect()
}

fn offer(seq: u32, count: u8) -> RecvEvent {
    RecvEvent::Offer(Offer { seq, ids: (0..count).map(|byte| ChunkId([byte; 32])).collect() })
}

fn lacks(seq: u32, missing: &[bool]) -> RecvEvent {
    RecvEvent::MissingKnown { seq, missing: missing.to_vec() }
}

fn batch(seq: u32, count: u32) -> RecvEvent {
    RecvEvent::Batch { session: SESSION, seq, count }
}

fn stored(seq: u32, rejected: &[u32]) -> RecvEvent {
    RecvEvent::BatchStored { seq, rejected: rejected.to_vec() }
}

fn commit(batches: u32) -> RecvEvent {
    RecvEvent::Commit(Box::new(Commit {
        batches,
        snapshot_time: NOW,
        consistency: Consistency::Crash,
        volumes: Vec::new(),
        bundle: None,
        stats: CycleStats::default(),
    }))
}

/// A session that asked for `count` chunks.
fn asked(count: u8) -> RecvSession {
    let mut session = opened();
    play(&mut session, [offer(0, count), lacks(0, &vec![true; usize::from(count)])]);
    session
}

fn refusal(session: &mut RecvSession, event: RecvEvent) -> RecvError {
    match play(session, [event]).as_slice() {
        [RecvAction::Refuse { error, refused }] => {
            assert!(session.is_over());
            assert_eq!(refused.class, error.class().wire_code());
            error.clone()
        }
        other => panic!("expected a refusal, found {other:?}"),
    }
}

#[test]
fn the_parent_is_looked_for_before_the_sender_is_told() {
    let parent = RestorePointId { number: 6, ..POINT };
    let begin = Begin { parent: Some(parent), ..begin() };
    let (mut session, _) = RecvSession::open(begin, Some(STANDBY), Some(parent)).expect("admitted");
    assert_eq!(play(&mut session, []), [RecvAction::CheckParent(parent)]);
    let ready = Ready { has_parent: false, newest: Some(parent) };
    let actions = play(&mut session, [RecvEvent::ParentChecked { held: false }]);
    assert_eq!(actions, [RecvAction::AnswerReady(ready)]);
}

#[test]
fn a_fenced_sender_gets_no_session() {
    let newer = Local { epoch: Epoch(3), ..STANDBY };
    let refusal = RecvSession::open(begin(), Some(newer), None).expect_err("refused");
    assert!(matches!(refusal, Refusal::OldEpoch { theirs: Epoch(2), ours: Epoch(3), .. }));
    assert_eq!(refusal.to_frame().epoch, Some(Epoch(3)));
}

#[test]
fn the_commit_waits_for_its_batches() {
    let mut session = asked(3);
    assert!(
        !has_commit(&play(&mut session, [batch(1, 1), stored(1, &[]), commit(2)])),
        "batch 0 is on its way"
    );
    assert!(!has_commit(&play(&mut session, [batch(0, 2)])), "and then being stored");
    assert!(has_commit(&play(&mut session, [stored(0, &[])])));
    let committed = Committed { id: POINT, committed_time: NOW };
    let actions = play(&mut session, [RecvEvent::PointCommitted(committed.clone())]);
    assert_eq!(actions, [RecvAction::AnswerCommitted(committed)]);
    assert!(session.is_over());
}

fn has_commit(actions: &[RecvAction]) -> bool {
    actions.iter().any(|action| matches!(action, RecvAction::CommitPoint(_)))
}

#[test]
fn a_commit_without_a_chunk_that_was_asked_for_is_refused() {
    let mut session = asked(3);
    play(&mut session, [batch(0, 2), stored(0, &[])]);
    assert_eq!(refusal(&mut session, commit(1)), RecvError::ChunksMissing { chunks: 1 });
    let mut session = asked(3);
    play(&mut session, [batch(0, 3), stored(0, &[2])]);
    assert_eq!(
        refusal(&mut session, commit(1)),
        RecvError::ChunksMissing { chunks: 1 },
        "a patch never sent whole"
    );
}

#[test]
fn more_chunks_than_asked_for_are_refused() {
    let mut session = asked(3);
    play(&mut session, [batch(0, 2)]);
    let error = refusal(&mut session, batch(1, 2));
    assert_eq!((error.class(), error), (Class::Corrupt, RecvError::UnaskedChunks { seq: 1 }));
    assert_eq!(refusal(&mut opened(), batch(0, 1)), RecvError::UnaskedChunks { seq: 0 }, "before any offer");
    let mut session = asked(2);
    play(&mut session, [batch(0, 2), stored(0, &[1])]);
    assert_eq!(play(&mut session, [batch(1, 1)]).len(), 1, "a rejected patch may come again");
}

#[test]
fn open_offers_are_bounded() {
    let mut session = opened();
    let max = u32::try_from(limits::OFFERS_OPEN_MAX).expect("fits");
    play(&mut session, (0..max).map(|seq| offer(seq, 1)));
    assert!(!session.is_over());
    let error = refusal(&mut session, offer(max, 1));
    assert_eq!((error.class(), error), (Class::LimitExceeded, RecvError::TooManyOffers));
}

#[test]
fn batches_ahead_of_a_missing_one_are_bounded() {
    let mut session = opened();
    let max = u32::try_from(limits::BATCHES_OPEN_MAX).expect("fits");
    for seq in 0..3 {
        play(&mut session, [offer(seq, 200), lacks(seq, &[true; 200])]);
    }
    play(&mut session, (1..max).flat_map(|seq| [batch(seq, 1), stored(seq, &[])]));
    assert!(!session.is_over());
    let error = refusal(&mut session, batch(max, 1));
    assert_eq!(
        (error.class(), error),
        (Class::LimitExceeded, RecvError::TooManyBatches { seq: max, oldest: 0 })
    );
}

#[test]
fn frames_out_of_order_are_refused() {
    let unexpected = |frame| RecvError::Unexpected { frame };
    let mut session = opened();
    assert_eq!(refusal(&mut session, offer(1, 1)), RecvError::OfferOutOfTurn { expected: 0, found: 1 });
    assert_eq!(refusal(&mut opened(), offer(0, 0)), RecvError::EmptyOffer { seq: 0 });
    assert_eq!(refusal(&mut asked(1), offer(0, 1)), RecvError::OfferOutOfTurn { expected: 1, found: 0 });
    assert_eq!(refusal(&mut asked(1), batch(0, 0)), RecvError::EmptyBatch { seq: 0 });
    let other = RecvEvent::Batch { session: SessionId(12), seq: 0, count: 1 };
    assert_eq!(refusal(&mut asked(1), other), unexpected("batch"));
    let mut session = asked(3);
    play(&mut session, [batch(0, 1), stored(0, &[])]);
    assert_eq!(refusal(&mut session, batch(0, 1)), RecvError::BatchTwice { seq: 0 });
    let mut session = asked(3);
    play(&mut session, [batch(1, 1)]);
    assert_eq!(refusal(&mut session, batch(1, 1)), RecvError::BatchTwice { seq: 1 });
    let mut session = opened();
    play(&mut session, [offer(0, 1)]);
    assert_eq!(refusal(&mut session, commit(0)), unexpected("Commit"), "an offer is not answered");
    let mut session = asked(2);
    play(&mut session, [commit(1)]);
    assert_eq!(refusal(&mut session, offer(1, 1)), unexpected("Offer"), "after the commit");
    let mut session = asked(2);
    play(&mut session, [commit(1)]);
    assert_eq!(refusal(&mut session, batch(1, 1)), unexpected("batch"), "past the commit's count");
}

#[test]
fn a_commit_that_does_not_fit_what_came_is_refused() {
    for batches in [0, 1, 5, u32::MAX] {
        let mut session = asked(3);
        play(&mut session, [batch(1, 1)]);
        let error = refusal(&mut session, commit(batches));
        assert_eq!(error, RecvError::BatchCount { announced: batches, found: 2 }, "{batches}");
    }
}

#[test]
fn a_promotion_here_ends_the_session() {
    let mut session = asked(3);
    assert_eq!(play(&mut session, [RecvEvent::EpochSeen(Epoch(2))]), [], "the epoch it was admitted with");
    let error = refusal(&mut session, RecvEvent::EpochSeen(Epoch(3)));
    assert_eq!(error.class(), Class::Fenced);
    assert_eq!(error.to_frame().epoch, Some(Epoch(3)));
    assert_eq!(play(&mut session, [batch(0, 3), commit(1)]), [], "and nothing follows");
}

#[test]
fn a_store_that_fails_is_told_in_its_own_words() {
    let full = Refused {
        class: 1,
        message: "store: no space left".into(),
        hint: Some("free some".into()),
        epoch: None,
    };
    let error = refusal(&mut asked(1), RecvEvent::StoreFailed(full.clone()));
    assert_eq!(error, RecvError::Store(full.clone()));
    assert_eq!(
        (error.class(), error.hint(), error.to_frame()),
        (Class::Transient, Some("free some".into()), full)
    );
}

#[test]
fn a_commit_whose_batches_do_not_come_is_given_up() {
    let mut session = asked(1);
    assert_eq!(session.wake(), None, "a sender may scan for hours");
    play(&mut session, [commit(1)]);
    let late = NOW.plus(COMMIT_PATIENCE);
    assert_eq!(session.wake(), Some(late));
    session.handle(RecvEvent::Tick, Time(late.0 - 1));
    assert!(!session.is_over());
    session.handle(RecvEvent::Tick, late);
    match session.poll_action() {
        Some(RecvAction::Refuse { error, .. }) => assert!(error.class().retries(), "{error}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn bits_are_packed_lowest_first() {
    let mut missing = vec![false; 11];
    missing[0] = true;
    missing[7] = true;
    missing[9] = true;
    assert_eq!(bits(&missing), [0b1000_0001, 0b10]);
    let frame = backstay_types::frame::Missing { seq: 0, bits: bits(&missing) };
    for (index, missing) in missing.iter().enumerate() {
        assert_eq!(frame.contains(index), *missing, "{index}");
    }
}
