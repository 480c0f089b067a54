//! Whether two trees are the same, as rsync sees it, and copies to compare with.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

/// What rsync would do to make `b` equal to `a`: nothing, for equal trees. Contents by checksum, and every piece of
/// metadata: modes, owners, times, hard links, ACLs, extended attributes.
pub fn rsync_differences(a: &Path, b: &Path) -> String {
    let output = Command::new("rsync")
        .args(["-aHAXSn", "--delete", "--checksum", "--itemize-changes"])
        .args([with_slash(a), with_slash(b)])
        .output()
        .unwrap_or_else(|e| panic!("rsync is needed: {e}"));
    let said = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&said).into_owned();
    if output.status.success() { text } else { format!("rsync failed with {}\n{text}", output.status) }
}

/// Fails the test unless two folders, or two files, are the same.
#[track_caller]
pub fn assert_same(a: &Path, b: &Path) {
    if a.is_file() {
        let same = Command::new("cmp").args([a, b]).output().unwrap();
        assert!(same.status.success(), "{}", String::from_utf8_lossy(&same.stdout));
        return;
    }
    assert!(a.is_dir() && b.is_dir(), "not both folders: {} and {}", a.display(), b.display());
    let differences = rsync_differences(a, b);
    let first: Vec<_> = differences.lines().take(40).collect();
    assert!(
        differences.is_empty(),
        "{} and {} differ in {} places:\n{}",
        a.display(),
        b.display(),
        differences.lines().count(),
        first.join("\n")
    );
}

/// A full copy of a tree, to compare with later.
pub fn copy_tree(from: &Path, to: &Path) {
    let output =
        Command::new("rsync").arg("-aHAXS").args([with_slash(from), with_slash(to)]).output().unwrap();
    assert!(output.status.success(), "rsync: {}", String::from_utf8_lossy(&output.stderr));
}

/// One line for every file below a folder, with all that a change would show in; equal texts mean that nothing was
/// touched, not even a time.
pub fn fingerprint(dir: &Path) -> String {
    let output = Command::new("find")
        .arg(dir)
        .args(["-printf", "%P %y %m %U:%G %s %T@ %C@ %i %l\\n"])
        .output()
        .unwrap();
    let mut lines: Vec<_> = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
    lines.sort();
    lines.join("\n")
}

fn with_slash(path: &Path) -> OsString {
    let mut text = path.as_os_str().to_owned();
    text.push("/");
    text
}
