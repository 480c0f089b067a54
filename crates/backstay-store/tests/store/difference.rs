//! Diff: exactly what differs.

use backstay_store::{Change, ChangeKind, diff};

use crate::fixture::*;

fn changes(a: Option<&Volume>, b: Option<&Volume>) -> Vec<(String, ChangeKind, u64)> {
    let site = Site::new();
    let store = site.open();
    if let Some(a) = a {
        commit(&store, 1, None, a);
    }
    if let Some(b) = b {
        commit(&store, 2, None, b);
    }
    let reader = store.reader(PAIR);
    let mut found = Vec::new();
    let mut sink = |change: Change| found.push((change.path.to_string(), change.kind, change.bytes));
    diff(&reader, a.map(|v| &v.root), &reader, b.map(|v| &v.root), &mut sink).unwrap();
    found
}

#[test]
fn what_differs_is_said_and_nothing_else() {
    let files = some_files(1, 50);
    let old = volume(&files);
    assert!(changes(Some(&old), Some(&old)).is_empty());
    let mut new = files.clone();
    new.remove("dir0/file005");
    new.insert("dir2/added".into(), noise(50, 2500));
    let long = noise(51, 5 * CHUNK);
    let mut edited = long.clone();
    edited[2 * CHUNK + 5] ^= 1;
    let mut before = files;
    before.insert("dir1/edited".into(), long);
    new.insert("dir1/edited".into(), edited);
    let mut longer = before["dir3/file003"].clone();
    longer.truncate(CHUNK);
    new.insert("dir3/file003".into(), longer);
    let (old, new) = (volume(&before), volume(&new));
    let content = ChangeKind::Modified { content: true, metadata: false };
    assert_eq!(
        changes(Some(&old), Some(&new)),
        [
            ("dir0/file005".to_owned(), ChangeKind::Removed, before["dir0/file005"].len() as u64),
            ("dir1/edited".to_owned(), content, CHUNK as u64),
            ("dir2/added".to_owned(), ChangeKind::Added, 2500),
            ("dir3/file003".to_owned(), content, 0),
        ]
    );
    let all = changes(None, Some(&new));
    assert_eq!(all.len(), new.files.len());
    assert!(all.iter().all(|(_, kind, _)| *kind == ChangeKind::Added));
    assert_eq!(changes(Some(&new), None).len(), new.files.len());
}
