use backstay_types::frame::batch::{BatchReader, BatchRecord, BatchWriter, Codec};
use backstay_types::{ChunkId, SessionId};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::{BatchSendError, Congestion};

const SESSION: SessionId = SessionId(42);

/// A batch of some 2 MiB that does not compress, and its digest.
fn batch(seq: u32) -> (Vec<u8>, blake3::Hash) {
    let mut rng = SmallRng::seed_from_u64(u64::from(seq));
    let mut writer = BatchWriter::new();
    let mut digest = blake3::Hasher::new();
    let mut chunk = vec![0; 64 << 10];
    while !writer.is_full() {
        rng.fill_bytes(&mut chunk);
        digest.update(&chunk);
        let record =
            BatchRecord { id: ChunkId([0; 32]), raw_len: 64 << 10, codec: Codec::Raw, stored: &chunk };
        writer.push(record).unwrap();
    }
    (writer.finish(SESSION, seq), digest.finalize())
}

fn digest(batch: &crate::Batch) -> blake3::Hash {
    let mut digest = blake3::Hasher::new();
    let mut reader = BatchReader::new(&batch.header, &batch.records);
    while let Some(record) = reader.next_record().unwrap() {
        digest.update(record.stored);
    }
    digest.finalize()
}

async fn sixty_four_mebibytes(congestion: Congestion) {
    let east = Site::with(1, "east", |config| config.congestion = congestion);
    let west = Site::with(2, "west", |config| config.congestion = congestion);
    let record = west.net.join(&east.key(), None).await.unwrap();
    let (sending, receiving) = ends(&east, &west, &record).await;
    let mut batches = receiving.register(SESSION);
    let before = sending.wire_stats();
    let mut senders = JoinSet::new();
    let mut sent = Vec::new();
    for seq in 0..32 {
        let (bytes, hash) = batch(seq);
        sent.push(hash);
        let sending = sending.clone();
        senders.spawn(async move { sending.send_batch(bytes).await });
    }
    let mut total = 0;
    for _ in 0..32 {
        let batch = batches.recv().await.unwrap();
        assert_eq!(digest(&batch), sent[batch.header.seq as usize]);
        total += batch.records.len() as u64;
        assert!(receiving.inbox().held_bytes() <= 32 << 20);
    }
    while let Some(done) = senders.join_next().await {
        done.unwrap().unwrap();
    }
    assert!(total >= 64 << 20);
    let after = sending.wire_stats();
    let wire = after.tx_bytes - before.tx_bytes;
    println!("{congestion:?}: {total} bytes of batches, {wire} on the wire, {} lost", after.lost_packets);
    assert!(wire > total, "wire bytes count everything: {wire} for {total}");
    assert!(receiving.wire_stats().rx_bytes > total);
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_arrive_whole_whatever_controls_congestion() {
    for congestion in [Congestion::Bbr, Congestion::Cubic, Congestion::NewReno] {
        sixty_four_mebibytes(congestion).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_does_not_store_holds_at_most_its_room() {
    let (east, west, record) = pair().await;
    let (sending, receiving) = ends(&east, &west, &record).await;
    let mut batches = receiving.register(SESSION);
    let mut senders = JoinSet::new();
    for seq in 0..64 {
        let sending = sending.clone();
        senders.spawn(async move { sending.send_batch(batch(seq).0).await });
    }
    // Nothing is taken: room runs out, and with it what the sender may send.
    until("the room is used up", || receiving.inbox().held_bytes() > 28 << 20).await;
    let held = receiving.inbox().held_bytes();
    assert!(held <= 32 << 20, "{held}");
    // Requests still pass.
    let mut control = sending.open(Frame::Done(Done {})).await.unwrap();
    control.finish().unwrap();
    for _ in 0..64 {
        batches.recv().await.unwrap();
    }
    while let Some(done) = senders.join_next().await {
        done.unwrap().unwrap();
    }
}

#[tokio::test]
async fn batches_of_a_session_nobody_receives_are_refused_and_counted() {
    let (east, west, record) = pair().await;
    let (sending, receiving) = ends(&east, &west, &record).await;
    let error = sending.send_batch(batch(0).0).await.unwrap_err();
    assert!(matches!(error, BatchSendError::NotReceived { session: SESSION }), "{error}");
    assert_eq!(receiving.refused_batches(), 1);

    let first = receiving.register(SESSION);
    let mut second = receiving.register(SESSION);
    drop(first);
    sending.send_batch(batch(1).0).await.unwrap();
    assert_eq!(second.recv().await.unwrap().header.seq, 1);
    drop(second);
    assert!(sending.send_batch(batch(2).0).await.is_err());
}

#[tokio::test]
async fn a_batch_given_up_half_way_is_none() {
    let (east, west, record) = pair().await;
    let (sending, receiving) = ends(&east, &west, &record).await;
    let mut batches = receiving.register(SESSION);
    west.net.set_bandwidth(record.pair, Some(256 << 10)).unwrap();
    let half = tokio::time::timeout(Duration::from_millis(300), sending.send_batch(batch(0).0)).await;
    assert!(half.is_err(), "at 256 KiB a second, 2 MiB take longer");
    west.net.set_bandwidth(record.pair, None).unwrap();
    sending.send_batch(batch(1).0).await.unwrap();
    assert_eq!(batches.recv().await.unwrap().header.seq, 1);
    assert!(sending.is_live() && receiving.is_live());
    until("its room is free", || receiving.inbox().held_bytes() == 0).await;
}

#[tokio::test]
async fn a_bandwidth_limit_is_kept() {
    let (east, west, record) = pair().await;
    let (sending, receiving) = ends(&east, &west, &record).await;
    let mut batches = receiving.register(SESSION);
    west.net.set_bandwidth(record.pair, Some(4 << 20)).unwrap();
    let begin = crate::clock::steady();
    for seq in 0..2 {
        sending.send_batch(batch(seq).0).await.unwrap();
    }
    let took = crate::clock::steady() - begin;
    // 4 MiB at 4 MiB/s, less a burst of a quarter of a second and the last piece.
    assert!(took >= Duration::from_millis(700), "{took:?}");
    assert_eq!(batches.recv().await.unwrap().header.seq, 0);
}

#[tokio::test]
async fn the_end_of_a_connection_ends_its_sessions_and_fails_its_senders() {
    let (east, west, record) = pair().await;
    let (sending, receiving) = ends(&east, &west, &record).await;
    let mut batches = receiving.register(SESSION);
    sending.send_batch(batch(0).0).await.unwrap();
    west.net.remove(record.pair).await.unwrap();
    assert_eq!(batches.recv().await.unwrap().header.seq, 0, "what was complete is kept");
    assert!(batches.recv().await.is_none());
    assert!(receiving.register(SESSION).recv().await.is_none());
    assert!(matches!(sending.send_batch(batch(1).0).await, Err(BatchSendError::Stream(_))));
    assert!(matches!(sending.send_batch(vec![0; 100]).await, Err(BatchSendError::Batch(_))));
}
