//! What is in the root of a volume without being its content: what file systems, desktops and mount helpers leave there.

use backstay_types::manifest::RelPath;

/// Names of the root, whole.
const NAMES: [&[u8]; 8] = [
    b"lost+found",
    b".snapshots",
    b".snapshot",
    b".not-mounted",
    b".Trashes",
    b".fseventsd",
    b".Spotlight-V100",
    b"System Volume Information",
];

/// Beginnings of names of the root: trash folders end in the number of their user.
const BEGINNINGS: [&[u8]; 1] = [b".Trash-"];

/// Whether an entry is no content of a volume: its root, and what others leave there. What is below counts, such as
/// what a check of the file system found and put into `lost+found`; but for trash, which was deleted.
pub(super) fn is_leftover(path: &RelPath) -> bool {
    let mut parts = path.components();
    let Some(first) = parts.next() else { return true };
    if BEGINNINGS.iter().any(|beginning| first.starts_with(beginning)) {
        return true;
    }
    parts.next().is_none() && NAMES.contains(&first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_the_root_are_left_over() {
        let path = |text: &str| RelPath::parse(text.as_bytes()).unwrap();
        assert!(is_leftover(&RelPath::root()));
        for name in ["lost+found", ".Trash-0", ".Trash-1000/files/a", ".snapshots", ".not-mounted"] {
            assert!(is_leftover(&path(name)), "{name}");
        }
        for name in ["a", "lost+found/#12", "a/lost+found", "data/.Trash-0", ".Trash", ".snapshots/1"] {
            assert!(!is_leftover(&path(name)), "{name}");
        }
    }
}
