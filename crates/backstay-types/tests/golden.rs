//! Golden bytes of every format that is written to disk or to the wire.
//!
//! A difference here means that sites of two releases would not understand each other, or a store would not open:
//! such a change needs a new version, and the old bytes stay readable. `BACKSTAY_BLESS=1` writes the files anew.

#![allow(clippy::indexing_slicing, clippy::expect_used, reason = "a test may fail where it counts wrong")]

mod samples;

use std::path::PathBuf;

use backstay_types::frame::batch::{BATCH_HEADER_BYTES, BatchHeader, BatchReader};
use backstay_types::frame::patch::Patch;
use backstay_types::frame::{Frame, HEADER_BYTES};
use backstay_types::manifest::{ManifestRoot, SegmentReader, decode_node};
use backstay_types::point::{Consistency, RestorePoint};
use backstay_types::{ChunkId, HashKey};

/// The bytes on file, after a comparison with those made now.
fn golden(name: &str, made: &[u8]) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.bin"));
    if std::env::var_os("BACKSTAY_BLESS").is_some() {
        std::fs::write(&path, made).expect("the folder is writable");
    }
    let kept = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let differs = kept.iter().zip(made).position(|(kept, made)| kept != made);
    assert!(
        kept == made,
        "{name}: {} bytes on file, {} made, first difference at {differs:?}",
        kept.len(),
        made.len()
    );
    kept
}

#[test]
fn frames() {
    let mut kinds = std::collections::BTreeSet::new();
    for frame in samples::frames() {
        let name = format!("frame-v1-{:02}-{}", frame.kind(), frame.name().to_lowercase());
        let bytes = golden(&name, &frame.encode().expect("a sample fits"));
        let (header, body) = bytes.split_first_chunk::<HEADER_BYTES>().expect("a header");
        let (kind, len) = Frame::decode_header(*header).expect("it decodes");
        assert_eq!(len, body.len(), "{name}");
        assert_eq!(Frame::decode(kind, body).as_ref(), Ok(&frame), "{name}");
        assert!(kinds.insert(kind), "one sample a kind");
    }
    // A kind without a sample would be a format without a guard.
    for kind in 0..=u8::MAX {
        let known =
            !matches!(Frame::decode(kind, &[]), Err(backstay_types::frame::FrameError::UnknownKind { .. }));
        assert_eq!(known, kinds.contains(&kind), "kind {kind}");
    }
}

#[test]
fn restore_point() {
    let point = samples::point();
    let bytes = golden("point-v2", &point.encode());
    assert_eq!(RestorePoint::decode(&bytes), Ok(point));
}

/// What was called `crash` or `application` was assumed; what was called less was seen.
#[test]
fn points_of_version_1_promise_nothing() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/point-v1.bin");
    let bytes = std::fs::read(path).expect("it is kept");
    assert_eq!(RestorePoint::decode(&bytes), Ok(samples::point()), "its word is `fuzzy`");
    let words = [
        (Consistency::Crash, Consistency::Unknown),
        (Consistency::Application, Consistency::Unknown),
        (Consistency::Fuzzy, Consistency::Fuzzy),
        (Consistency::Diverged, Consistency::Diverged),
    ];
    for (written, read) in words {
        let mut bytes = RestorePoint { consistency: written, ..samples::point() }.encode();
        bytes[4] = 1;
        let end = bytes.len() - 4;
        let crc = crc32c::crc32c(&bytes[..end]);
        bytes[end..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(RestorePoint::decode(&bytes).map(|point| point.consistency), Ok(read));
    }
}

/// The names of words are in JSON for good, and their order in postcard.
#[test]
fn words_of_consistency() {
    let words = ["crash", "application", "fuzzy", "diverged", "crashPerVolume", "unknown"];
    for (number, word) in words.iter().enumerate() {
        let read: Consistency = serde_json::from_value((*word).into()).expect("a word");
        assert_eq!(read.as_str(), *word);
        let body = postcard::to_extend(&read, Vec::new()).expect("a vector grows");
        assert_eq!(usize::from(body[0]), number, "{word}");
    }
}

#[test]
fn batch() {
    let bytes = golden("batch-v1", &samples::batch());
    let (header, records) = bytes.split_first_chunk::<BATCH_HEADER_BYTES>().expect("a header");
    let header = BatchHeader::decode(header).expect("it decodes");
    assert_eq!((header.session.0, header.seq, header.count), (0x0102_0304_0506_0708, 9, 3));
    let mut reader = BatchReader::new(&header, records);
    let mut read = Vec::new();
    while let Some(record) = reader.next_record().expect("it decodes") {
        read.push(record);
    }
    assert_eq!(read, samples::records(&samples::patch().encode()));
}

#[test]
fn patch() {
    let patch = samples::patch();
    let bytes = golden("patch-v1", &patch.encode());
    assert_eq!(Patch::decode(&bytes, samples::PATCH_RAW_LEN).as_ref(), Some(&patch));
}

#[test]
fn manifest() {
    let tree = samples::tree();
    let segment = golden("segment-v1", &tree.segments[0]);
    let continued = golden("segment-v1-continued", &tree.segments[1]);
    for segment in [segment, continued] {
        let mut reader = SegmentReader::new(&segment).expect("it decodes");
        let mut items = 0;
        while reader.next_item().expect("it decodes").is_some() {
            items += 1;
        }
        assert!(items > 1);
    }
    let node = golden("node-v1", &tree.node);
    assert_eq!(decode_node(&node).expect("it decodes").len(), tree.segments.len());
    let root = golden("root-v1", &tree.root);
    assert_eq!(ManifestRoot::decode(&root).expect("it decodes").nodes.len(), 1);
}

#[test]
fn chunk_ids() {
    let id: ChunkId =
        "27617f8d105c56a35efce1e311bc44d44762f144dadcb2a4d518144ae194fea6".parse().expect("an id");
    assert_eq!(HashKey([7; 32]).chunk_id(b"backstay"), id);
}
