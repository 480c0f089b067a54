//! Every decoder, given bytes of a peer that means harm or of a disk that fails: it reads or it refuses; it never
//! panics, and never allocates by a length it was told.

#![allow(clippy::indexing_slicing, clippy::expect_used, reason = "a test may fail where it counts wrong")]

mod samples;

use backstay_types::frame::batch::{
    BATCH_HEADER_BYTES, BatchHeader, BatchReader, BatchRecord, BatchWriter, Codec, RECORD_HEADER_BYTES,
};
use backstay_types::frame::patch::{Patch, SECTOR_BYTES, sector_count};
use backstay_types::frame::{
    Frame, FrameError, HEADER_BYTES, Missing, Offer, QuerySectors, QueryTree, SectorRun, ToldSectors,
    ToldTree,
};
use backstay_types::manifest::{ManifestRoot, SegmentReader, decode_node};
use backstay_types::point::RestorePoint;
use backstay_types::{ChunkId, Class, Classify, Epoch, SessionId, limits};
use proptest::prelude::*;

/// Gives the bytes to every decoder.
fn decode_as_everything(bytes: &[u8]) {
    for kind in 0..=40 {
        drop(Frame::decode(kind, bytes));
    }
    if let Some((header, body)) = bytes.split_first_chunk::<HEADER_BYTES>()
        && let Ok((kind, _)) = Frame::decode_header(*header)
    {
        drop(Frame::decode(kind, body));
    }
    if let Some((header, records)) = bytes.split_first_chunk::<BATCH_HEADER_BYTES>()
        && let Ok(header) = BatchHeader::decode(header)
    {
        let mut reader = BatchReader::new(&header, records);
        while let Ok(Some(_)) = reader.next_record() {}
    }
    for raw_len in [0, 1, 4096, 70_000, limits::CHUNK_BYTES_MAX] {
        if let Some(patch) = Patch::decode(bytes, raw_len) {
            drop(Patch::apply(patch.bitmap, patch.lead, bytes, patch.sectors, raw_len));
        }
    }
    if let Ok(mut reader) = SegmentReader::new(bytes) {
        while let Ok(Some(_)) = reader.next_item() {}
    }
    drop(decode_node(bytes));
    drop(ManifestRoot::decode(bytes));
    drop(RestorePoint::decode(bytes));
}

fn samples() -> Vec<Vec<u8>> {
    let tree = samples::tree();
    let mut all: Vec<Vec<u8>> =
        samples::frames().iter().map(|frame| frame.encode().expect("it fits")).collect();
    all.extend(tree.segments.iter().map(|segment| segment[..segment.len().min(2000)].to_vec()));
    all.extend([
        samples::point().encode(),
        samples::batch(),
        samples::patch().encode(),
        tree.node,
        tree.root,
    ]);
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        decode_as_everything(&bytes);
    }

    #[test]
    fn damaged_samples_never_panic(
        which: usize,
        cut: usize,
        damage in proptest::collection::vec((any::<usize>(), prop_oneof![any::<u8>(), Just(0xff), Just(0)]), 0..8),
    ) {
        let all = samples();
        let mut bytes = all[which % all.len()].clone();
        if cut % 3 == 0 {
            bytes.truncate(cut / 3 % (bytes.len() + 1));
        }
        for (at, byte) in damage {
            let len = bytes.len().max(1);
            if let Some(place) = bytes.get_mut(at % len) {
                *place = byte;
            }
        }
        decode_as_everything(&bytes);
        // A frame without its header, as the stream reader gives it.
        decode_as_everything(bytes.get(HEADER_BYTES..).unwrap_or_default());
    }

    #[test]
    fn a_batch_is_read_as_it_was_written(
        chunks in proptest::collection::vec((any::<[u8; 32]>(), 0..=1_u32 << 20, 0_u8..3,
            proptest::collection::vec(any::<u8>(), 0..500)), 0..30),
        session: u64,
        seq: u32,
    ) {
        let records: Vec<BatchRecord<'_>> = chunks.iter().map(|(id, raw_len, codec, stored)| BatchRecord {
            id: ChunkId(*id),
            raw_len: *raw_len,
            codec: Codec::from_code(*codec).expect("one of three"),
            stored,
        }).collect();
        let mut writer = BatchWriter::new();
        for record in &records {
            writer.push(*record).expect("it fits");
        }
        prop_assert_eq!(writer.is_empty(), records.is_empty());
        let bytes = writer.finish(SessionId(session), seq);
        let (header, body) = bytes.split_first_chunk::<BATCH_HEADER_BYTES>().expect("a header");
        let header = BatchHeader::decode(header).expect("it decodes");
        prop_assert_eq!((header.session, header.seq, header.bytes as usize), (SessionId(session), seq, body.len()));
        let mut reader = BatchReader::new(&header, body);
        for record in &records {
            prop_assert_eq!(reader.next_record(), Ok(Some(*record)));
        }
        prop_assert_eq!(reader.next_record(), Ok(None));
        // One byte less or more is damage.
        let mut short = BatchReader::new(&header, &body[..body.len().saturating_sub(1)]);
        let longer = [body, &[0]].concat();
        let mut long = BatchReader::new(&header, &longer);
        for reader in [&mut short, &mut long] {
            let end = std::iter::from_fn(|| reader.next_record().transpose()).find(Result::is_err);
            prop_assert!(end.is_some() || body.is_empty());
        }
    }

    #[test]
    fn a_patch_rebuilds_its_chunk(
        base in proptest::collection::vec(any::<u8>(), 1..40_000),
        changes in proptest::collection::vec((any::<usize>(), any::<u8>()), 0..20),
        lead in 1_u16..=4096,
    ) {
        let mut chunk = base.clone();
        for (at, byte) in changes {
            let len = chunk.len();
            chunk[at % len] = byte;
        }
        // The sectors, cut by hand: the first is `lead` long.
        let first = usize::from(lead).min(chunk.len());
        let cut = |bytes: &[u8]| -> Vec<Vec<u8>> {
            std::iter::once(bytes[..first].to_vec())
                .chain(bytes[first..].chunks(SECTOR_BYTES).map(<[u8]>::to_vec))
                .collect()
        };
        let (old, new) = (cut(&base), cut(&chunk));
        prop_assert_eq!(new.len(), sector_count(chunk.len(), lead));
        let mut bitmap = vec![0_u8; new.len().div_ceil(8)];
        let mut sectors = Vec::new();
        for (index, (old, new)) in old.iter().zip(&new).enumerate() {
            if old != new {
                bitmap[index / 8] |= 1 << (index % 8);
                sectors.extend_from_slice(new);
            }
        }
        let patch = Patch { bases: vec![ChunkId([1; 32])], skip: 9, lead, bitmap: &bitmap, zstd: false, sectors: &sectors };
        let bytes = patch.encode();
        let read = Patch::decode(&bytes, chunk.len());
        prop_assert_eq!(read.as_ref(), Some(&patch));
        prop_assert_eq!(Patch::apply(&bitmap, lead, &base, &sectors, chunk.len()), Some(chunk.clone()));
        sectors.push(0);
        prop_assert_eq!(Patch::apply(&bitmap, lead, &base, &sectors, chunk.len()), None, "a sector too many");
    }

    #[test]
    fn a_point_with_a_byte_changed_is_refused(at: usize, bit in 0..8_u8) {
        let mut bytes = samples::point().encode();
        let len = bytes.len();
        bytes[at % len] ^= 1 << bit;
        prop_assert!(RestorePoint::decode(&bytes).is_err());
    }
}

#[test]
fn a_point_cut_short_or_with_more_behind_it_is_refused() {
    let bytes = samples::point().encode();
    for len in 0..bytes.len() {
        assert!(RestorePoint::decode(&bytes[..len]).is_err(), "{len} bytes");
    }
    assert!(RestorePoint::decode(&[&bytes[..], &[0]].concat()).is_err());
}

#[test]
fn frames_keep_their_limits() {
    let offer = |count| Frame::from(Offer { seq: 0, ids: vec![ChunkId([0; 32]); count] });
    let decode = |frame: &Frame| {
        let bytes = frame.encode().expect("below the frame limit");
        Frame::decode(frame.kind(), &bytes[HEADER_BYTES..])
    };
    assert_eq!(decode(&offer(limits::OFFER_IDS_MAX)), Ok(offer(limits::OFFER_IDS_MAX)));
    assert!(matches!(decode(&offer(limits::OFFER_IDS_MAX + 1)), Err(FrameError::Damaged { .. })));
    let too_long = Frame::from(Missing { seq: 0, bits: vec![0; limits::FRAME_BYTES_MAX] }).encode();
    assert_eq!(too_long.expect_err("too long").class(), Class::LimitExceeded);
    let max = u32::try_from(limits::FRAME_BYTES_MAX).expect("fits");
    for (len, ok) in [(0, true), (max, true), (max + 1, false), (u32::MAX, false)] {
        let [a, b, c, d] = len.to_le_bytes();
        assert_eq!(Frame::decode_header([18, a, b, c, d]).is_ok(), ok, "{len}");
    }
    assert_eq!(Frame::decode(200, &[]), Err(FrameError::UnknownKind { kind: 200 }));
}

/// Questions about a point that is shown, and the answers: each just within its limit, and just over it.
#[test]
fn what_a_standby_is_asked_and_tells_has_limits() {
    let plan = || "shop".parse().expect("a name");
    let query = |ids| QueryTree { plan: plan(), epoch: Epoch(2), ids: vec![ChunkId([1; 32]); ids] };
    let tree = |lens: Vec<u32>| ToldTree { lens, zstd: vec![0; 10] };
    let run = |ids, len| SectorRun { ids: vec![ChunkId([1; 32]); ids], skip: 0, len };
    let ask = |runs| QuerySectors { plan: plan(), epoch: Epoch(2), runs };
    let told = |sectors| ToldSectors { fingerprints: vec![[9; 8]; sectors] };
    let bytes = u32::try_from(limits::TREE_BYTES_MAX).expect("it fits");
    let sectors = u32::try_from(limits::SECTORS_MAX * SECTOR_BYTES).expect("it fits");
    let half = limits::SECTOR_IDS_MAX / 2;
    let cases: [(Frame, bool); 13] = [
        (query(limits::TREE_IDS_MAX).into(), true),
        (query(limits::TREE_IDS_MAX + 1).into(), false),
        (tree(vec![bytes / 2, bytes / 2]).into(), true),
        (tree(vec![bytes, 1]).into(), false),
        (tree(vec![u32::MAX; 3]).into(), false),
        (tree(vec![0; limits::TREE_IDS_MAX + 1]).into(), false),
        (ask(vec![run(half, 4096), run(half, 1)]).into(), true),
        (ask(vec![run(half, 4096), run(half + 1, 1)]).into(), false),
        (ask(vec![run(1, sectors)]).into(), true),
        (ask(vec![run(1, sectors), run(1, 1)]).into(), false),
        (ask(vec![run(0, 4096)]).into(), false),
        (told(limits::SECTORS_MAX).into(), true),
        (told(limits::SECTORS_MAX + 1).into(), false),
    ];
    for (frame, good) in cases {
        let bytes = frame.encode().expect("below the frame limit");
        let read = Frame::decode(frame.kind(), &bytes[HEADER_BYTES..]);
        assert_eq!(read.is_ok(), good, "{} {:?}", frame.name(), read.err());
        assert!(!good || read.as_ref() == Ok(&frame));
    }
}

#[test]
fn lengths_that_lie_are_refused_before_anything_is_allocated() {
    // Offer: seq 0, then 2^63 ids.
    let huge = [0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
    assert!(matches!(Frame::decode(18, &huge), Err(FrameError::Damaged { .. })));
    let mut header = [0; BATCH_HEADER_BYTES];
    header.copy_from_slice(&samples::batch()[..BATCH_HEADER_BYTES]);
    header[20..].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(BatchHeader::decode(&header).expect_err("too long").class(), Class::LimitExceeded);
    // A record that claims four gigabytes.
    let mut batch = samples::batch();
    let at = BATCH_HEADER_BYTES + RECORD_HEADER_BYTES - 5;
    batch[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    let (header, records) = batch.split_first_chunk::<BATCH_HEADER_BYTES>().expect("a header");
    let header = BatchHeader::decode(header).expect("it decodes");
    assert_eq!(
        BatchReader::new(&header, records).next_record().expect_err("damaged").class(),
        Class::Corrupt
    );
}

#[test]
fn a_batch_keeps_its_limits() {
    let stored = vec![0; limits::CHUNK_STORED_BYTES_MAX + 1];
    let record = |stored| BatchRecord { id: ChunkId([0; 32]), raw_len: 1, codec: Codec::Raw, stored };
    let mut writer = BatchWriter::new();
    assert_eq!(writer.push(record(&stored)).expect_err("too long").class(), Class::LimitExceeded);
    while !writer.is_full() {
        writer.push(record(&stored[1..])).expect("it fits");
    }
    assert!(writer.finish(SessionId(1), 0).len() <= BATCH_HEADER_BYTES + limits::BATCH_BYTES_MAX);
    let mut writer = BatchWriter::new();
    while !writer.is_full() {
        writer.push(record(&[])).expect("it fits");
    }
    let bytes = writer.finish(SessionId(1), 0);
    let header = BatchHeader::decode(bytes.first_chunk().expect("a header")).expect("within the limits");
    assert!(header.count as usize <= limits::BATCH_RECORDS_MAX);
}
