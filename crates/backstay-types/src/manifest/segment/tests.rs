use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::ChunkId;

fn path(text: &str) -> RelPath {
    RelPath::parse(text.as_bytes()).expect(text)
}

fn entry(text: &str, kind: NodeKind) -> Entry {
    Entry {
        path: path(text),
        kind,
        links: None,
        mode: 0o644,
        uid: 1000,
        gid: 1000,
        mtime: Mtime { secs: -5, nanos: 999_999_999 },
        xattrs: vec![Xattr { name: b"user.note".to_vec(), value: vec![0, 255] }],
    }
}

fn file(text: &str, size: u64) -> Entry {
    entry(text, NodeKind::File { size })
}

/// A chunk of 64 KiB with an id that is as random as a real one.
fn chunk(number: u64) -> Extent {
    Extent::Data { id: ChunkId(*blake3::hash(&number.to_le_bytes()).as_bytes()), len: 64 << 10 }
}

fn size_of(extents: &[Extent]) -> u64 {
    extents.iter().map(Extent::len).sum()
}

/// Writes files with their extents.
fn write(files: &[(Entry, Vec<Extent>)]) -> Vec<Vec<u8>> {
    let mut writer = SegmentWriter::new();
    let mut segments = Vec::new();
    for (entry, extents) in files {
        segments.extend(writer.entry(entry.clone()).expect("in order"));
        segments.extend(writer.extents(extents));
    }
    segments.extend(writer.finish());
    segments
}

fn read(segment: &[u8]) -> Result<Vec<SegmentItem>, SegmentError> {
    let mut reader = SegmentReader::new(segment)?;
    let mut items = Vec::new();
    while let Some(item) = reader.next_item()? {
        items.push(item);
    }
    Ok(items)
}

/// What the segments say: entries with all their extents, continued ones joined.
fn join(segments: &[Vec<u8>]) -> Vec<(Entry, Vec<Extent>)> {
    let mut files: Vec<(Entry, Vec<Extent>)> = Vec::new();
    for item in segments.iter().flat_map(|segment| read(segment).expect("it decodes alone")) {
        match item {
            SegmentItem::Entry(entry) => files.push((entry, Vec::new())),
            SegmentItem::Continued { path } => {
                assert_eq!(files.last().expect("a file is open").0.path, path);
            }
            SegmentItem::Extents(extents) => files.last_mut().expect("an entry").1.extend(extents),
        }
    }
    files
}

fn changed(before: &[Vec<u8>], after: &[Vec<u8>]) -> usize {
    let before: BTreeSet<&Vec<u8>> = before.iter().collect();
    after.iter().filter(|segment| !before.contains(segment)).count()
}

#[test]
fn a_long_file_continues_in_the_next_segment() {
    let extents: Vec<Extent> = (0..20_000).map(chunk).collect();
    let files = vec![(file("big", size_of(&extents)), extents), (entry("small", NodeKind::Fifo), vec![])];
    let segments = write(&files);
    assert!(segments.len() > 10, "{} segments", segments.len());
    for segment in &segments[1..] {
        assert!(matches!(read(segment).expect("alone")[0], SegmentItem::Continued { .. }));
    }
    for segment in &segments {
        // A record of 512 extents may begin just below the limit.
        assert!(segment.len() <= limits::SEGMENT_BYTES_MAX + 512 * 40, "{} bytes", segment.len());
    }
    assert_eq!(join(&segments), files);
}

#[test]
fn an_insertion_changes_few_segments() {
    let tree = |numbers: std::ops::Range<u64>| -> Vec<(Entry, Vec<Extent>)> {
        numbers.map(|number| (file(&format!("dir/{number:08}"), 65_536), vec![chunk(number)])).collect()
    };
    let before = write(&tree(0..30_000));
    assert!(before.len() > 50, "{} segments", before.len());
    let mut files = tree(0..30_000);
    files.insert(0, (file("a/new file at the very front", 65_536), vec![chunk(77)]));
    files.insert(15_000, (file("dir/00014998.new", 65_536), vec![chunk(78)]));
    let after = write(&files);
    let changed = changed(&before, &after);
    assert!((1..=6).contains(&changed), "{changed} of {} changed", after.len());
    let gone = write(&tree(500..30_000));
    assert!(super::tests::changed(&before, &gone) <= 3);
}

#[test]
fn a_page_rewritten_in_a_large_file_changes_few_segments() {
    let extents: Vec<Extent> = (0..100_000).map(chunk).collect();
    let before = write(&[(file("database", size_of(&extents)), extents.clone())]);
    let mut extents = extents;
    extents[70_000] = chunk(1 << 40);
    let mut touched = file("database", size_of(&extents));
    touched.mtime.secs += 60;
    let after = write(&[(touched, extents)]);
    let changed = changed(&before, &after);
    // The one with the time and the one with the page; two if the page held, or makes, a place to cut.
    assert!((2..=4).contains(&changed), "{changed} of {} changed", after.len());
}

#[test]
fn a_large_file_that_grows_keeps_its_segments() {
    let grown: Vec<Extent> = (0..100_000).map(chunk).collect();
    let (kept, added) = grown.split_at(90_000);
    let inserted = [&[chunk(1 << 40)], kept].concat();
    let before = write(&[(file("log", size_of(kept)), kept.to_vec())]);
    for (what, extents, new) in [("appended", &grown, added.len()), ("inserted", &inserted, 1)] {
        let after = write(&[(file("log", size_of(extents)), extents.clone())]);
        let changed = changed(&before, &after);
        // The first has the size; the last was cut off by the end of the file.
        let most = 3 + after.len() * new / extents.len() * 2;
        assert!(changed <= most, "{what}: {changed} of {} changed", after.len());
    }
}

#[test]
fn how_many_extents_are_pushed_at_once_does_not_matter() {
    let extents: Vec<Extent> = (0..5_000).map(chunk).collect();
    let entry = file("big", size_of(&extents));
    let at_once = write(&[(entry.clone(), extents.clone())]);
    for group in [1, 7, 512, 4_999] {
        let mut writer = SegmentWriter::new();
        let mut segments: Vec<Vec<u8>> = writer.entry(entry.clone()).expect("in order").into_iter().collect();
        extents.chunks(group).for_each(|group| segments.extend(writer.extents(group)));
        segments.extend(writer.finish());
        assert!(segments == at_once, "in groups of {group}");
    }
}

#[test]
fn a_path_out_of_order_is_refused() {
    let mut writer = SegmentWriter::new();
    writer.entry(entry("b", NodeKind::Fifo)).expect("the first");
    for late in ["b", "a", "a/z"] {
        let error = writer.entry(entry(late, NodeKind::Fifo)).expect_err(late);
        assert_eq!(error, SegmentError::OutOfOrder { path: late.to_owned() });
    }
    // A writer that does not care: the records of two segments in one.
    let [first, second] = ["b", "a"].map(|name| write(&[(entry(name, NodeKind::Fifo), vec![])]).remove(0));
    let joined = [&first[..], &second[1..]].concat();
    assert_eq!(read(&joined), Err(SegmentError::OutOfOrder { path: "a".to_owned() }));
    let twice = [&first[..], &first[1..]].concat();
    assert_eq!(read(&twice), Err(SegmentError::OutOfOrder { path: "b".to_owned() }));
}

#[test]
fn records_that_no_writer_of_ours_makes_are_refused() {
    let record =
        |record: &Record| postcard::to_extend(record, vec![SEGMENT_VERSION]).expect("a vector grows");
    let good = || EntryRecord {
        shared: 0,
        suffix: b"a".to_vec(),
        kind: NodeKind::File { size: 9 },
        links: None,
        mode: 0,
        uid: 0,
        gid: 0,
        mtime: Mtime { secs: 0, nanos: 0 },
        xattrs: vec![],
    };
    let extents = |extent| Record::Extents(vec![extent]);
    let id = ChunkId([0; 32]);
    let long = u32::try_from(limits::CHUNK_BYTES_MAX).expect("fits") + 1;
    let behind =
        |extents: &Record| postcard::to_extend(extents, record(&Record::Entry(good()))).expect("grows");
    read(&record(&Record::Entry(good()))).expect("the base is good");
    read(&behind(&extents(Extent::Hole { len: 9 }))).expect("and so are its extents");
    for (what, bytes) in [
        ("no bytes", vec![]),
        ("another version", vec![SEGMENT_VERSION + 1]),
        ("a shared prefix of nothing", record(&Record::Entry(EntryRecord { shared: 1, ..good() }))),
        ("a path upwards", record(&Record::Entry(EntryRecord { suffix: b"../a".to_vec(), ..good() }))),
        ("an absolute path", record(&Record::Entry(EntryRecord { suffix: b"/a".to_vec(), ..good() }))),
        ("a mode", record(&Record::Entry(EntryRecord { mode: 0o10000, ..good() }))),
        (
            "nanoseconds",
            record(&Record::Entry(EntryRecord { mtime: Mtime { secs: 0, nanos: 1_000_000_000 }, ..good() })),
        ),
        (
            "links of a folder",
            record(&Record::Entry(EntryRecord { kind: NodeKind::Directory, links: Some(1), ..good() })),
        ),
        (
            "links of a further link",
            record(&Record::Entry(EntryRecord {
                kind: NodeKind::HardLink { group: 1 },
                links: Some(1),
                ..good()
            })),
        ),
        ("continued upwards", record(&Record::Continued(b"../a".to_vec()))),
        ("continued in the middle", behind(&Record::Continued(b"a".to_vec()))),
        ("extents first", record(&extents(Extent::Hole { len: 9 }))),
        ("no extents", behind(&Record::Extents(vec![]))),
        ("an empty hole", behind(&extents(Extent::Hole { len: 0 }))),
        ("an empty chunk", behind(&extents(Extent::Data { id, len: 0 }))),
        ("a chunk too long", behind(&extents(Extent::Data { id, len: long }))),
        (
            "too many extents",
            behind(&Record::Extents(vec![Extent::Hole { len: 1 }; limits::RECORD_EXTENTS_MAX + 1])),
        ),
    ] {
        assert!(read(&bytes).is_err(), "{what}");
    }
}

#[test]
fn attributes_are_bounded() {
    let mut big = entry("a", NodeKind::Directory);
    big.xattrs = vec![Xattr { name: b"user.x".to_vec(), value: vec![0; limits::XATTRS_BYTES_MAX - 6] }];
    let segments = write(&[(big.clone(), vec![])]);
    assert_eq!(join(&segments), [(big.clone(), vec![])]);
    assert!(segments[0].len() <= limits::CHUNK_BYTES_MAX);
    big.xattrs[0].value.push(0);
    assert!(matches!(SegmentWriter::new().entry(big), Err(SegmentError::Oversized { .. })));
}

/// What several names may share, but for files.
fn any_special() -> impl Strategy<Value = NodeKind> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..200).prop_map(|target| NodeKind::Symlink { target }),
        Just(NodeKind::Fifo),
        Just(NodeKind::Socket),
        any::<(u32, u32)>()
            .prop_map(|(major, minor)| NodeKind::CharDevice(super::super::Device { major, minor })),
        any::<(u32, u32)>()
            .prop_map(|(major, minor)| NodeKind::BlockDevice(super::super::Device { major, minor })),
    ]
}

fn any_extents() -> impl Strategy<Value = Vec<Extent>> {
    let extent = prop_oneof![
        (any::<[u8; 32]>(), 1..=1_u32 << 20).prop_map(|(id, len)| Extent::Data { id: ChunkId(id), len }),
        (1_u64..1 << 40).prop_map(|len| Extent::Hole { len }),
    ];
    proptest::collection::vec(extent, 0..600)
}

/// A file with its extents, or anything else; the first of several hard links, or not.
fn any_content() -> impl Strategy<Value = (NodeKind, Option<u64>, Vec<Extent>)> {
    let file = any_extents().prop_map(|extents| (NodeKind::File { size: size_of(&extents) }, extents));
    let linkable = prop_oneof![file, any_special().prop_map(|kind| (kind, Vec::new()))];
    let alone =
        prop_oneof![Just(NodeKind::Directory), any::<u64>().prop_map(|group| NodeKind::HardLink { group })];
    prop_oneof![
        4 => (linkable, any::<Option<u64>>()).prop_map(|((kind, extents), links)| (kind, links, extents)),
        1 => alone.prop_map(|kind| (kind, None, Vec::new())),
    ]
}

fn any_entry() -> impl Strategy<Value = (Entry, Vec<Extent>)> {
    let component = proptest::collection::vec(prop_oneof![1_u8..=46, 48_u8..=255], 1..40)
        .prop_filter("a name", |name| name != b"." && name != b"..");
    let path = proptest::collection::vec(component, 0..5).prop_map(|parts| parts.join(&b'/'));
    let xattr =
        (proptest::collection::vec(any::<u8>(), 0..30), proptest::collection::vec(any::<u8>(), 0..30));
    let xattrs = proptest::collection::vec(xattr.prop_map(|(name, value)| Xattr { name, value }), 0..3);
    (path, any_content(), 0..=0o7777_u16, any::<(u32, u32, i64)>(), 0..1_000_000_000_u32, xattrs).prop_map(
        |(path, (kind, links, extents), mode, (uid, gid, secs), nanos, xattrs)| {
            let path = RelPath::parse(&path).expect("a path");
            (Entry { path, kind, links, mode, uid, gid, mtime: Mtime { secs, nanos }, xattrs }, extents)
        },
    )
}

proptest! {
    #[test]
    fn what_is_written_is_read(files in proptest::collection::vec(any_entry(), 0..40)) {
        let mut files = files;
        files.sort_by(|(a, _), (b, _)| a.path.cmp(&b.path));
        files.dedup_by(|(a, _), (b, _)| a.path == b.path);
        prop_assert_eq!(join(&write(&files)), files);
    }

    #[test]
    fn random_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let with_version = [&[SEGMENT_VERSION][..], &bytes].concat();
        for bytes in [&bytes, &with_version] {
            // A reader stops at the first error and gets through whatever else it is given.
            drop(read(bytes));
        }
    }
}
