//! The harness itself: a comparison that sees nothing would prove nothing.

use std::fs;

use backstay_tests::{assert_same, copy_tree, rsync_differences, seed, tree};

/// The nasty tree survives rsync's own copy, and the comparison is clean over it.
#[test]
fn a_copy_of_the_nasty_tree_is_the_same() {
    let work = tempfile::tempdir().unwrap();
    let (a, b) = (work.path().join("a"), work.path().join("b"));
    fs::create_dir(&a).unwrap();
    tree::nasty(&a, 1);
    copy_tree(&a, &b);
    assert_same(&a, &b);
}

/// Each of many seeded changes shows; the same seed makes the same changes.
#[test]
fn a_changed_tree_differs_and_a_seed_repeats() {
    let work = tempfile::tempdir().unwrap();
    let (a, b, c) = (work.path().join("a"), work.path().join("b"), work.path().join("c"));
    tree::small_files(&a, 600, &mut seed("harness"));
    copy_tree(&a, &b);
    copy_tree(&a, &c);
    tree::mutate(&a, 80, &mut seed("changes"));
    tree::mutate(&c, 80, &mut seed("changes"));
    assert!(rsync_differences(&a, &b).lines().count() > 40);
    // Contents and names are equal; times of the changes are not.
    let names = |dir| {
        let find =
            std::process::Command::new("find").arg(dir).args(["-printf", "%P %y %s\\n"]).output().unwrap();
        let mut lines: Vec<_> = String::from_utf8(find.stdout).unwrap().lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(
        names(&a).into_iter().filter(|line| !line.contains(" d ")).collect::<Vec<_>>(),
        names(&c).into_iter().filter(|line| !line.contains(" d ")).collect::<Vec<_>>()
    );
}
