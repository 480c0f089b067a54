use backstay_types::frame::{Begin, Commit, Committed, Missing, Offer, Ready, Refused, SiteRole, Stored};
use backstay_types::point::{Consistency, CycleStats};
use backstay_types::{ChunkId, Class, Classify, Epoch, RestorePointId, SessionId, Time, limits};

use super::{
    Misuse, OFFER_IDS_FLUSH, PATIENCE, SLOTS_MAX, SendAction, SendError, SendEvent, SendSession, Violation,
};

const NOW: Time = Time(1_800_000_000_000);
const POINT: RestorePointId = RestorePointId { epoch: Epoch(2), number: 7 };

fn id(byte: u8) -> ChunkId {
    ChunkId([byte; 32])
}

fn commit() -> Box<Commit> {
    Box::new(Commit {
        batches: 0,
        snapshot_time: NOW,
        consistency: Consistency::Crash,
        volumes: Vec::new(),
        bundle: None,
        stats: CycleStats::default(),
    })
}

fn ready() -> SendEvent {
    SendEvent::Ready(Ready { has_parent: true, newest: None })
}

fn chunk(slot: u64, byte: u8) -> SendEvent {
    SendEvent::Chunk { slot, id: id(byte), len: 1000 }
}

fn missing(seq: u32, bits: &[u8]) -> SendEvent {
    SendEvent::Missing(Missing { seq, bits: bits.to_vec() })
}

fn stored(seq: u32, rejected: &[u32]) -> SendEvent {
    SendEvent::Stored(Stored { seq, rejected: rejected.to_vec() })
}

fn sealed(seq: u32, slots: &[u64]) -> SendEvent {
    SendEvent::BatchSealed { seq, slots: slots.to_vec() }
}

fn opened() -> SendSession {
    let begin =
        Begin { session: SessionId(1), plan: "shop".parse().expect("a name"), id: POINT, parent: None };
    SendSession::new(begin, NOW)
}

/// A session that has sent its `Begin`.
fn begun() -> SendSession {
    let mut session = opened();
    play(&mut session, []);
    session
}

fn play(session: &mut SendSession, events: impl IntoIterator<Item = SendEvent>) -> Vec<SendAction> {
    events.into_iter().for_each(|event| session.handle(event, NOW));
    std::iter::from_fn(|| session.poll_action()).collect()
}

/// A session with three chunks asked for and in batch 0.
fn sent() -> SendSession {
    let mut session = opened();
    play(
        &mut session,
        [
            ready(),
            chunk(0, 10),
            chunk(1, 11),
            chunk(2, 12),
            SendEvent::ProducerIdle,
            missing(0, &[0b111]),
            sealed(0, &[2, 0, 1]),
        ],
    );
    session
}

fn failure(session: &mut SendSession, event: SendEvent) -> SendError {
    let actions = play(session, [event]);
    match actions.as_slice() {
        [SendAction::Failed(error)] => {
            assert!(session.is_over() && !session.wants_more());
            assert_eq!(session.wake(), None);
            error.clone()
        }
        other => panic!("expected a failure, found {other:?}"),
    }
}

#[test]
fn chunks_gather_into_one_offer_until_the_producer_idles() {
    let mut session = opened();
    let actions = play(&mut session, [ready(), chunk(0, 10), chunk(1, 11)]);
    assert_eq!(actions.len(), 2, "begin and start alone: {actions:?}");
    match play(&mut session, [SendEvent::ProducerIdle]).as_slice() {
        [SendAction::SendOffer(offer)] => assert_eq!((offer.seq, &*offer.ids), (0, &[id(10), id(11)][..])),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_offer_leaves_at_its_count() {
    let mut session = opened();
    let number = |slot: usize| {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&slot.to_le_bytes());
        SendEvent::Chunk { slot: slot as u64, id: ChunkId(id), len: 1 }
    };
    play(&mut session, [ready()]);
    assert_eq!(play(&mut session, (0..OFFER_IDS_FLUSH - 1).map(number)), []);
    assert_eq!(play(&mut session, [number(OFFER_IDS_FLUSH)]).len(), 1);
}

#[test]
fn the_same_bytes_are_sent_once_while_they_are_on_their_way() {
    let mut session = opened();
    let actions = play(&mut session, [ready(), chunk(0, 10), chunk(1, 10), SendEvent::ProducerIdle]);
    assert_eq!(actions[2], SendAction::Release { slot: 1 });
    assert!(matches!(&actions[3], SendAction::SendOffer(offer) if offer.ids == [id(10)]));
    assert_eq!(session.progress().chunks_held, 1);
}

#[test]
fn a_rejected_patch_is_sent_whole_and_just_once() {
    let mut session = sent();
    // Position 1 of the batch is slot 0.
    let actions = play(&mut session, [stored(0, &[1])]);
    let again = SendAction::SendChunks { slots: vec![0], whole: true };
    let [first, second] = [2, 1].map(|slot| SendAction::Release { slot });
    assert_eq!(actions, [first, second, again, SendAction::SealBatch]);
    play(&mut session, [sealed(1, &[0])]);
    let error = failure(&mut session, stored(1, &[0]));
    assert_eq!(error, SendError::ChunkRejected { id: id(10) });
    assert_eq!(error.class(), Class::Corrupt);
}

#[test]
fn the_commit_waits_for_the_last_chunk_and_counts_the_batches() {
    let mut session = sent();
    assert_eq!(play(&mut session, [SendEvent::ScanDone(commit())]), []);
    let actions = play(&mut session, [stored(0, &[])]);
    assert!(
        matches!(actions.last(), Some(SendAction::SendCommit(commit)) if commit.batches == 1),
        "{actions:?}"
    );
    let committed = Committed { id: POINT, committed_time: NOW };
    assert_eq!(
        play(&mut session, [SendEvent::Committed(committed.clone())]),
        [SendAction::Finished(committed)]
    );
    assert!(session.is_over());
}

#[test]
fn an_empty_scan_commits_at_once() {
    let mut session = opened();
    let actions = play(&mut session, [ready(), SendEvent::ScanDone(commit())]);
    assert!(matches!(&actions[2], SendAction::SendCommit(commit) if commit.batches == 0));
}

#[test]
fn answers_to_what_was_not_asked_end_the_session() {
    let other = RestorePointId { number: 8, ..POINT };
    let committed = |id| SendEvent::Committed(Committed { id, committed_time: NOW });
    let cases: Vec<(SendEvent, Violation)> = vec![
        (missing(0, &[0b111]), Violation::OfferNotOpen { seq: 0 }),
        (missing(1, &[0]), Violation::OfferNotOpen { seq: 1 }),
        (stored(1, &[]), Violation::BatchNotOpen { seq: 1 }),
        (stored(0, &[3]), Violation::Rejection { seq: 0, position: 3 }),
        (stored(0, &[u32::MAX]), Violation::Rejection { seq: 0, position: u32::MAX }),
        (stored(0, &[1, 1]), Violation::Rejection { seq: 0, position: 1 }),
        (ready(), Violation::Unexpected { frame: "Ready" }),
        (committed(POINT), Violation::Unexpected { frame: "Committed" }),
    ];
    for (event, violation) in cases {
        let error = failure(&mut sent(), event);
        assert_eq!(error, SendError::Protocol(violation));
        assert_eq!(error.class(), Class::Corrupt);
    }
    let mut session = sent();
    play(&mut session, [stored(0, &[]), SendEvent::ScanDone(commit())]);
    let violation = Violation::OtherPoint { expected: POINT, found: other };
    assert_eq!(failure(&mut session, committed(other)), SendError::Protocol(violation));
}

#[test]
fn an_answer_of_another_length_ends_the_session() {
    for bits in [&[][..], &[0, 0], &[0b1000], &[0b1000_0000]] {
        let mut session = opened();
        play(&mut session, [ready(), chunk(0, 10), chunk(1, 11), chunk(2, 12), SendEvent::ProducerIdle]);
        let error = failure(&mut session, missing(0, bits));
        assert_eq!(error, SendError::Protocol(Violation::AnswerLength { seq: 0, expected: 3 }), "{bits:?}");
    }
}

#[test]
fn a_caller_that_breaks_the_contract_is_told() {
    let long = u32::try_from(limits::CHUNK_BYTES_MAX).expect("fits") + 1;
    let cases: Vec<(SendEvent, Misuse)> = vec![
        (chunk(0, 99), Misuse::SlotReused { slot: 0 }),
        (SendEvent::Chunk { slot: 9, id: id(9), len: 0 }, Misuse::ChunkLength { slot: 9, len: 0 }),
        (SendEvent::Chunk { slot: 9, id: id(9), len: long }, Misuse::ChunkLength { slot: 9, len: long }),
        (SendEvent::Chunk { slot: 9, id: id(10), len: 7 }, Misuse::ChunkLength { slot: 9, len: 7 }),
        (sealed(0, &[0]), Misuse::BatchOutOfTurn { seq: 0, expected: 1 }),
        (sealed(1, &[]), Misuse::BatchOutOfTurn { seq: 1, expected: 1 }),
        (sealed(1, &[0]), Misuse::SlotNotHandedOut { slot: 0 }),
        (sealed(1, &[77]), Misuse::SlotNotHandedOut { slot: 77 }),
    ];
    for (event, misuse) in cases {
        let error = failure(&mut sent(), event);
        assert_eq!(error, SendError::Misuse(misuse));
        assert_eq!(error.class(), Class::Bug);
    }
    assert!(matches!(failure(&mut begun(), chunk(0, 1)), SendError::Misuse(_)), "before Ready");
    let mut session = sent();
    play(&mut session, [SendEvent::ScanDone(commit())]);
    assert!(matches!(failure(&mut session, chunk(9, 1)), SendError::Misuse(_)), "after the end of the scan");
}

#[test]
fn refusals_keep_their_class_and_hint() {
    let refused = Refused {
        class: Class::Fenced.wire_code(),
        message: "epoch 2 is over".into(),
        hint: Some("step down".into()),
        epoch: Some(Epoch(3)),
    };
    let error = failure(&mut sent(), SendEvent::Refused(refused.clone()));
    assert_eq!((error.class(), error.hint()), (Class::Fenced, Some("step down".into())));
    let local = crate::role::Local { role: SiteRole::Active, epoch: Epoch(2) };
    assert_eq!(crate::role::on_refused(local, &refused), crate::role::News::StepDown { epoch: Epoch(3) });
}

#[test]
fn a_number_that_is_taken_is_reported_with_the_one_that_took_it() {
    let newest = RestorePointId { epoch: Epoch(2), number: 7 };
    let taken = SendEvent::Ready(Ready { has_parent: false, newest: Some(newest) });
    let error = failure(&mut begun(), taken);
    assert_eq!(error, SendError::NumberTaken { id: POINT, newest });
    assert!(error.class().retries());
}

#[test]
fn a_silent_peer_is_given_up_and_a_long_scan_is_not() {
    let mut session = opened();
    play(&mut session, [ready()]);
    assert_eq!(session.wake(), None, "the producer may take its time");
    session.handle(SendEvent::Tick, NOW.plus(PATIENCE).plus(PATIENCE));
    assert!(!session.is_over());
    let late = NOW.plus(PATIENCE);
    session.handle(chunk(0, 10), late);
    session.handle(SendEvent::ProducerIdle, late);
    assert_eq!(session.wake(), Some(late.plus(PATIENCE)), "counted from the offer on");
    session.handle(chunk(1, 11), late.plus(backstay_types::Span(5)));
    assert_eq!(session.wake(), Some(late.plus(PATIENCE)), "our own work is not the peer's answer");
    play(&mut session, []);
    session.handle(SendEvent::Tick, late.plus(PATIENCE));
    assert!(matches!(session.poll_action(), Some(SendAction::Failed(SendError::Silent { .. }))));
}

#[test]
fn nothing_follows_a_failure() {
    let mut session = sent();
    play(&mut session, [SendEvent::ConnectionLost]);
    assert_eq!(play(&mut session, [stored(0, &[]), SendEvent::ConnectionLost, ready()]), []);
}

/// A session whose producer makes chunks of one byte for as long as it may; each offer goes to `answer`.
fn fill(answer: impl Fn(&Offer) -> Option<SendEvent>) -> (SendSession, u64, usize) {
    let mut session = opened();
    play(&mut session, [ready()]);
    let (mut made, mut offers) = (0_u64, 0);
    while session.wants_more() {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&made.to_le_bytes());
        let actions = play(&mut session, [SendEvent::Chunk { slot: made, id: ChunkId(id), len: 1 }]);
        made += 1;
        for action in actions {
            let SendAction::SendOffer(offer) = action else { continue };
            offers += 1;
            let answers: Vec<SendEvent> = answer(&offer).into_iter().collect();
            assert!(
                !play(&mut session, answers).iter().any(|action| matches!(action, SendAction::Failed(_)))
            );
        }
    }
    (session, made, offers)
}

#[test]
fn slots_are_bounded_where_nothing_is_stored() {
    let all = |offer: &Offer| {
        let mut bits = vec![0xff; offer.ids.len().div_ceil(8)];
        if let Some(last) = bits.last_mut().filter(|_| !offer.ids.len().is_multiple_of(8)) {
            *last = (1 << (offer.ids.len() % 8)) - 1;
        }
        Some(missing(offer.seq, &bits))
    };
    let (_, made, _) = fill(all);
    assert_eq!(made, SLOTS_MAX as u64);
}

#[test]
fn open_offers_are_bounded_where_nothing_is_answered() {
    let (mut session, _, offers) = fill(|_| None);
    assert_eq!(offers, limits::OFFERS_OPEN_MAX);
    let bits = vec![0; OFFER_IDS_FLUSH / 8];
    let actions = play(&mut session, [missing(0, &bits)]);
    assert!(
        matches!(actions.last(), Some(SendAction::SendOffer(offer)) if offer.seq == 64),
        "room for the next"
    );
}
