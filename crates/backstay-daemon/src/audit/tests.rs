use std::fs;

use backstay_types::limits::MESSAGE_BYTES_MAX;

use super::*;

fn entry(at: i64) -> AuditEntry {
    AuditEntry::new(Time(at), &Actor::Uid(1000), "promote")
        .plan("shop".parse().expect("a name"))
        .detail("e1-000042, \"hash\":\"no\"\n")
}

fn log_with(records: i64) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("audit.log");
    let log = AuditLog::open(&path, Time(0)).expect("opens");
    for at in 1..=records {
        log.append(entry(at)).expect("appends");
    }
    (folder, path)
}

#[test]
fn records_come_back_and_the_chain_goes_on_after_reopening() {
    let (_folder, path) = log_with(2);
    let log = AuditLog::open(&path, Time(9)).expect("opens");
    let third = log.append(entry(3)).expect("appends");
    let page = log.read(None, None).expect("reads");
    assert_eq!(page.next, None);
    assert_eq!(page.items.iter().map(|r| r.seq).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(page.items[2], third);
    assert_eq!(page.items[2].previous, page.items[1].hash);
    assert_eq!(page.items[0].previous, GENESIS);
    assert_eq!(page.items[0].actor, "uid:1000");
    assert_eq!(log.verify().expect("whole"), 3);
    let since = log.read(Some(Time(2)), None).expect("reads");
    assert_eq!(since.items.iter().map(|r| r.seq).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(fs::metadata(&path).expect("exists").permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_torn_tail_is_cut_and_recorded() {
    let (_folder, path) = log_with(3);
    let whole = fs::read(&path).expect("reads");
    let third = whole[..whole.len() - 1].iter().rposition(|b| *b == b'\n').expect("lines") + 1;
    // Every length that a crash inside the third record can leave, but for the whole.
    for len in third + 1..whole.len() {
        fs::write(&path, &whole[..len]).expect("writes");
        let log = AuditLog::open(&path, Time(9)).expect("opens");
        assert_eq!(log.verify().expect("whole"), 3, "cut at {len}");
        let last = log.read(None, None).expect("reads").items.pop().expect("a record");
        assert_eq!((last.action.as_str(), last.actor.as_str()), ("auditRepair", "daemon"));
        assert!(last.detail.contains(&format!("cut {} bytes", len - third)), "{}", last.detail);
    }
    // A torn record longer than the one that tells of it.
    let long = format!("{}{{\"seq\":3,{}", String::from_utf8_lossy(&whole[..third]), "x".repeat(4000));
    fs::write(&path, long).expect("writes");
    assert_eq!(AuditLog::open(&path, Time(9)).expect("opens").verify().expect("whole"), 3);
    assert!(!fs::read_to_string(&path).expect("reads").contains("xxx"));
    // A record whose first sector never reached the disk.
    let mut zeroed = whole.clone();
    zeroed[third..third + 40].fill(0);
    fs::write(&path, &zeroed).expect("writes");
    assert_eq!(AuditLog::open(&path, Time(9)).expect("opens").verify().expect("whole"), 3);
    // Cut between records: nothing to repair.
    fs::write(&path, &whole[..third]).expect("writes");
    assert_eq!(AuditLog::open(&path, Time(9)).expect("opens").verify().expect("whole"), 2);
}

#[test]
fn a_log_is_checked_beside_its_daemon() {
    let (folder, path) = log_with(3);
    let whole = fs::read(&path).expect("reads");
    for len in 0..=whole.len() {
        fs::write(&path, &whole[..len]).expect("writes");
        let lines = whole[..len].iter().filter(|byte| **byte == b'\n').count() as u64;
        assert_eq!(verify_file(&path).expect("whole"), lines, "{len}");
        assert_eq!(fs::metadata(&path).expect("exists").len(), len as u64, "it was written to");
    }
    let missing = verify_file(&folder.path().join("none")).expect_err("nothing there");
    assert_eq!(missing.class(), Class::NotFound);
}

#[test]
fn a_torn_first_record_begins_again() {
    let (_folder, path) = log_with(1);
    let whole = fs::read(&path).expect("reads");
    fs::write(&path, &whole[..whole.len() / 2]).expect("writes");
    let log = AuditLog::open(&path, Time(9)).expect("opens");
    assert_eq!(log.verify().expect("whole"), 1);
}

#[test]
fn a_damaged_end_is_moved_aside_and_recorded() {
    let (folder, path) = log_with(3);
    let whole = fs::read_to_string(&path).expect("reads");
    // The last two records: more than one crash can tear.
    let damaged = whole.replacen("\"seq\":2", "\"seq\":7", 1).replacen("\"seq\":3", "\"seq\":8", 1);
    for bytes in [damaged.clone(), damaged.trim_end().to_owned()] {
        fs::write(&path, &bytes).expect("writes");
        let log = AuditLog::open(&path, Time(9)).expect("opens");
        assert_eq!(log.verify().expect("whole"), 1);
        assert!(log.read(None, None).expect("reads").items[0].detail.contains("audit.log.damaged-9"));
        let aside = folder.path().join("audit.log.damaged-9");
        assert_eq!(fs::read_to_string(aside).expect("kept"), bytes);
    }
}

#[test]
fn verify_names_the_first_broken_record() {
    let (_folder, path) = log_with(4);
    let text = fs::read_to_string(&path).expect("reads");
    let lines: Vec<&str> = text.lines().collect();
    let broken = |lines: &[String]| {
        fs::write(&path, lines.join("\n") + "\n").expect("writes");
        match AuditLog::open(&path, Time(9)).expect("opens").verify() {
            Err(error @ AuditError::Broken { seq, .. }) => {
                assert_eq!(error.class(), Class::Corrupt);
                seq
            }
            other => panic!("{other:?}"),
        }
    };
    let owned = |lines: &[&str]| lines.iter().map(|l| (*l).to_owned()).collect::<Vec<_>>();
    // Changed, removed, doubled, swapped.
    let mut changed = owned(&lines);
    changed[1] = changed[1].replace("shop", "shot");
    assert_eq!(broken(&changed), 2);
    assert_eq!(broken(&owned(&[lines[0], lines[2], lines[3]])), 2);
    assert_eq!(broken(&owned(&[lines[0], lines[0], lines[1], lines[2]])), 2);
    assert_eq!(broken(&owned(&[lines[1], lines[0], lines[2], lines[3]])), 1);
    // A record with a right hash of its own in the wrong chain.
    let (_, forged) = entry(7).seal(2, GENESIS);
    assert_eq!(broken(&owned(&[lines[0], forged.trim_end(), lines[2], lines[3]])), 2);
}

/// The format: others may check the chain with nothing but this.
#[test]
fn the_hash_covers_the_previous_hash_and_the_line_before_its_own() {
    let (_folder, path) = log_with(3);
    let mut previous = GENESIS.to_owned();
    for line in fs::read_to_string(&path).expect("reads").lines() {
        let (body, hash) = line.rsplit_once(",\"hash\":\"").expect("a hash");
        let expected = blake3::hash(format!("{previous}{body}").as_bytes()).to_hex().to_string();
        assert_eq!(hash, format!("{expected}\"}}"));
        previous = expected;
    }
}

#[test]
fn pages_join_without_a_gap() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("audit.log");
    let mut text = String::new();
    let mut previous = GENESIS.to_owned();
    // 1000 records of over 4 KiB are two pages and a bit; written directly, for 1000 syncs would be slow.
    for seq in 1..=1000 {
        let (record, line) = entry(0).detail("x".repeat(5000)).seal(seq, &previous);
        assert_eq!(record.detail.len(), MESSAGE_BYTES_MAX);
        previous = record.hash;
        text.push_str(&line);
    }
    fs::write(&path, text).expect("writes");
    let log = AuditLog::open(&path, Time(9)).expect("opens");
    let (mut seen, mut pages, mut after) = (0, 0, None);
    loop {
        let page = log.read(None, after).expect("reads");
        for record in &page.items {
            seen += 1;
            assert_eq!(record.seq, seen);
        }
        pages += 1;
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!((seen, pages), (1000, 3));
    assert!(matches!(log.read(None, Some(5)), Err(AuditError::Cursor { cursor: 5 })));
    assert!(matches!(log.read(None, Some(u64::MAX)), Err(AuditError::Cursor { .. })));
}

#[test]
fn the_longest_record_fits_its_line() {
    let worst = entry(0).detail("\u{1}".repeat(MESSAGE_BYTES_MAX));
    let (_, line) = worst.seal(u64::MAX, GENESIS);
    assert!(line.len() <= LINE_BYTES_MAX, "{}", line.len());
}

#[test]
fn a_failure_records_its_class_and_text() {
    let error = AuditError::Cursor { cursor: 5 };
    let (record, _) = entry(1).detail("asked").failed(&error).seal(1, GENESIS);
    assert_eq!(record.outcome, "invalid");
    assert!(record.detail.starts_with("asked: audit cursor 5"), "{}", record.detail);
}
