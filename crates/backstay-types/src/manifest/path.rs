//! Paths inside a volume: relative, in bytes (they need not be UTF-8), and safe by construction.

use std::cmp::Ordering;
use std::fmt;

use crate::limits;

/// A path of a manifest: components joined with `/`; empty for the root of the volume.
///
/// Ordered component by component, which is the order of a depth-first walk with sorted folders.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct RelPath(Vec<u8>);

/// A path that must not be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPath {
    /// Longer than the limit.
    #[error("path of {bytes} bytes: at most {max} allowed", max = limits::PATH_BYTES_MAX)]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// A component that is empty, `.`, `..`, too long or holds NUL.
    #[error("path {path:?}: component {component:?} is not a file name")]
    Component {
        /// The whole path, lossily.
        path: String,
        /// The component, lossily.
        component: String,
    },
}

impl RelPath {
    /// The root of the volume.
    pub const fn root() -> Self {
        Self(Vec::new())
    }

    /// Checks a path.
    pub fn parse(bytes: &[u8]) -> Result<Self, InvalidPath> {
        if bytes.len() > limits::PATH_BYTES_MAX {
            return Err(InvalidPath::TooLong { bytes: bytes.len() });
        }
        if bytes.is_empty() {
            return Ok(Self::root());
        }
        for component in bytes.split(|b| *b == b'/') {
            check_component(component, bytes)?;
        }
        Ok(Self(bytes.to_vec()))
    }

    /// Reads the printed form of a path: `\\`, `\n`, `\r`, `\t`, `\u{7f}` and `\xff` stand for one character or
    /// byte each. Any other backslash is refused.
    pub fn parse_escaped(text: &str) -> Result<Self, InvalidPath> {
        if text == "." {
            return Ok(Self::root());
        }
        let bytes = unescape(text).ok_or_else(|| component_error(text.as_bytes(), text.as_bytes()))?;
        Self::parse(&bytes)
    }

    /// This path with one more component.
    pub fn join(&self, name: &[u8]) -> Result<Self, InvalidPath> {
        let mut path = Vec::with_capacity(self.0.len() + 1 + name.len());
        path.extend_from_slice(&self.0);
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        if path.len() > limits::PATH_BYTES_MAX {
            return Err(InvalidPath::TooLong { bytes: path.len() });
        }
        if name.contains(&b'/') {
            return Err(component_error(name, &path));
        }
        check_component(name, &path)?;
        Ok(Self(path))
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether this is the root of the volume.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The components, from the root down.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|b| *b == b'/').filter(|component| !component.is_empty())
    }

    /// The folder this path is in, and its name there; `None` for the root.
    pub fn split(&self) -> Option<(RelPath, &[u8])> {
        if self.is_root() {
            return None;
        }
        match self.0.iter().rposition(|b| *b == b'/') {
            Some(at) => {
                let (parent, name) = self.0.split_at(at);
                Some((Self(parent.to_vec()), name.get(1..).unwrap_or_default()))
            }
            None => Some((Self::root(), &self.0)),
        }
    }

    /// Whether `self` is `ancestor` or below it.
    pub fn starts_with(&self, ancestor: &RelPath) -> bool {
        ancestor.is_root()
            || self
                .0
                .strip_prefix(ancestor.0.as_slice())
                .is_some_and(|rest| matches!(rest.first(), None | Some(b'/')))
    }
}

fn component_error(component: &[u8], path: &[u8]) -> InvalidPath {
    InvalidPath::Component {
        path: String::from_utf8_lossy(path).into_owned(),
        component: String::from_utf8_lossy(component).into_owned(),
    }
}

fn check_component(component: &[u8], path: &[u8]) -> Result<(), InvalidPath> {
    let ok = !component.is_empty()
        && component.len() <= limits::COMPONENT_BYTES_MAX
        && component != b"."
        && component != b".."
        && !component.contains(&0);
    if ok { Ok(()) } else { Err(component_error(component, path)) }
}

fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((plain, after)) = rest.split_once('\\') {
        bytes.extend_from_slice(plain.as_bytes());
        let mut characters = after.chars();
        rest = match characters.next()? {
            kind @ ('\\' | 'n' | 'r' | 't') => {
                bytes.push(match kind {
                    'n' => b'\n',
                    'r' => b'\r',
                    't' => b'\t',
                    _ => b'\\',
                });
                characters.as_str()
            }
            'x' => {
                let (digits, after) = characters.as_str().split_at_checked(2)?;
                bytes.push(u8::from_str_radix(digits, 16).ok()?);
                after
            }
            'u' => {
                let (digits, after) = characters.as_str().strip_prefix('{')?.split_once('}')?;
                let character = char::from_u32(u32::from_str_radix(digits, 16).ok()?)?;
                bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                after
            }
            _ => return None,
        };
    }
    bytes.extend_from_slice(rest.as_bytes());
    Some(bytes)
}

impl Ord for RelPath {
    fn cmp(&self, other: &Self) -> Ordering {
        // A separator sorts before every byte of a name, so that a folder's content directly follows it.
        let key = |b: &u8| if *b == b'/' { 0 } else { u16::from(*b) + 1 };
        self.0.iter().map(key).cmp(other.0.iter().map(key))
    }
}

impl PartialOrd for RelPath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Printable form, which [`RelPath::parse_escaped`] reads: bytes that are not UTF-8, control characters and the
/// backslash itself are escaped.
impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() {
            return f.write_str(".");
        }
        for part in self.0.utf8_chunks() {
            for c in part.valid().chars() {
                if c.is_control() || c == '\\' {
                    write!(f, "{}", c.escape_default())?
                } else {
                    write!(f, "{c}")?
                }
            }
            part.invalid().iter().try_for_each(|b| write!(f, "\\x{b:02x}"))?;
        }
        Ok(())
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RelPath({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsafe_paths_are_refused() {
        let long = [b'a'; limits::COMPONENT_BYTES_MAX + 1];
        for bad in [&b"/"[..], b"/etc", b"a//b", b"a/", b"..", b"a/../b", b"./a", b"a\0b", &long] {
            assert!(RelPath::parse(bad).is_err(), "{bad:?}");
        }
        assert!(RelPath::root().join(b"a/b").is_err());
        assert!(RelPath::root().join(b"..").is_err());
        assert!(RelPath::parse(&long[1..]).is_ok());
        let deep = vec![&b"a"[..]; limits::PATH_BYTES_MAX / 2].join(&b'/');
        assert!(RelPath::parse(&deep).is_ok());
        assert!(RelPath::parse(&[&deep[..], b"/b"].concat()).is_err());
    }

    #[test]
    fn the_printed_form_is_read_back() {
        let every_byte: Vec<u8> = (1..=255).filter(|byte| *byte != b'/').collect();
        let (one, two) = every_byte.split_at(127);
        let nasty = [
            b"a\nb",
            &b"a\\nb"[..],
            b"\\",
            b"tab\t",
            b"\x7f\x1b",
            b"caf\xe9",
            b"a/\xff/b",
            "\u{85}ä".as_bytes(),
        ];
        for name in nasty.into_iter().chain([one, two]) {
            let path = RelPath::parse(name).expect("a path");
            let printed = path.to_string();
            assert!(!printed.contains(char::is_control), "{printed:?}");
            assert_eq!(RelPath::parse_escaped(&printed), Ok(path), "{printed}");
        }
        assert_eq!(RelPath::parse_escaped("."), Ok(RelPath::root()));
        for bad in [
            "a\\",
            "a\\q",
            "\\x4",
            "\\xg0",
            "\\u{110000}",
            "\\u{41",
            "\\u41",
            "a\\x00",
            "\\x2e\\x2e",
            "a/../b",
        ] {
            assert!(RelPath::parse_escaped(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn order_is_that_of_a_sorted_walk() {
        let sorted = ["", "a", "a/b", "a/b/c", "a!", "a-b", "aa", "b"];
        for pair in sorted.windows(2) {
            let [x, y] = pair else { unreachable!() };
            let [left, right] = [x, y].map(|text| RelPath::parse(text.as_bytes()).expect(text));
            assert!(left < right, "{x} < {y}");
        }
    }
}
