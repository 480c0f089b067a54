//! Paths into an object: JSON pointers, where `*` stands for every item of a list, and edits at a path that can be
//! taken back exactly.

use serde_json::{Map, Value};

/// A path that may name several places: a JSON pointer whose `*` matches every item of a list.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Pattern(Vec<String>);

impl Pattern {
    /// Parses `/spec/replicas` or `/spec/nodeSets/*/count`; `None` if it is not a JSON pointer to something inside.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let tokens: Vec<String> = text.strip_prefix('/')?.split('/').map(unescape).collect::<Option<_>>()?;
        tokens.iter().all(|token| !token.is_empty()).then_some(Self(tokens))
    }

    /// A JSONPath without list notation, as `specReplicasPath` has it: `.spec.replicas`.
    pub(crate) fn from_json_path(text: &str) -> Option<Self> {
        let tokens: Vec<String> = text.strip_prefix('.')?.split('.').map(str::to_owned).collect();
        tokens.iter().all(|token| !token.is_empty() && !token.contains('[')).then_some(Self(tokens))
    }

    /// The first component.
    pub(crate) fn root(&self) -> &str {
        self.0.first().map_or("", String::as_str)
    }

    /// Every place of `object` that this names. A list that a `*` stands for must exist; a field need not.
    pub(crate) fn expand(&self, object: &Value) -> Vec<String> {
        let mut places = vec![(String::new(), Some(object))];
        for token in &self.0 {
            let mut next = Vec::with_capacity(places.len());
            for (path, value) in places {
                match (token.as_str(), value) {
                    ("*", Some(Value::Array(items))) => {
                        next.extend(
                            items.iter().enumerate().map(|(at, item)| (format!("{path}/{at}"), Some(item))),
                        );
                    }
                    ("*", _) => {}
                    (name, value) => {
                        let inner = value.and_then(|value| value.get(name));
                        next.push((format!("{path}/{}", escape(name)), inner));
                    }
                }
            }
            places = next;
        }
        places.into_iter().map(|(path, _)| path).collect()
    }
}

/// A token of a JSON pointer as text: `~` and `/` are escaped.
pub(crate) fn escape(token: &str) -> String {
    token.replace('~', "~0").replace('/', "~1")
}

fn unescape(token: &str) -> Option<String> {
    let mut out = String::with_capacity(token.len());
    let mut chars = token.chars();
    while let Some(c) = chars.next() {
        match c {
            '~' => out.push(match chars.next()? {
                '0' => '~',
                '1' => '/',
                _ => return None,
            }),
            c => out.push(c),
        }
    }
    Some(out)
}

/// The parent of a pointer and its last token, unescaped.
fn split(path: &str) -> Option<(&str, String)> {
    let (parent, token) = path.rsplit_once('/')?;
    Some((parent, unescape(token)?))
}

/// Something on the way to a place is not a mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Blocked {
    /// Pointer of what is in the way.
    pub(crate) at: String,
}

/// Sets the value at `path`, making missing mappings on the way. Answers with what was there before, and with
/// how many mappings were made.
pub(crate) fn set(object: &mut Value, path: &str, value: Value) -> Result<(Option<Value>, usize), Blocked> {
    let (parent, name) = split(path).ok_or_else(|| Blocked { at: path.to_owned() })?;
    let (map, made) = make(object, parent)?;
    Ok((map.insert(name, value), made))
}

fn make<'v>(object: &'v mut Value, path: &str) -> Result<(&'v mut Map<String, Value>, usize), Blocked> {
    let mut made = 0;
    let mut here = object;
    let mut at = String::new();
    for token in path.split('/').skip(1) {
        let name = unescape(token).ok_or_else(|| Blocked { at: path.to_owned() })?;
        at.push('/');
        at.push_str(token);
        here = match here {
            Value::Object(map) => {
                // A null is an absent field to the API server, but putting it back must give null again, so it
                // is never replaced on the way.
                made += usize::from(!map.contains_key(&name));
                map.entry(name).or_insert_with(|| Value::Object(Map::new()))
            }
            Value::Array(items) => {
                let index: usize = name.parse().map_err(|_| Blocked { at: at.clone() })?;
                items.get_mut(index).ok_or_else(|| Blocked { at: at.clone() })?
            }
            _ => return Err(Blocked { at }),
        };
    }
    match here {
        Value::Object(map) => Ok((map, made)),
        _ => Err(Blocked { at: path.to_owned() }),
    }
}

/// Copies what is at `path` into `to`, at the same path; or the first list on the way there, which is one value to
/// many.
pub(crate) fn copy(from: &Value, path: &str, to: &mut Value) {
    let ends = path.match_indices('/').skip(1).map(|(end, _)| end).chain([path.len()]);
    let lists = ends.filter_map(|end| path.split_at_checked(end).map(|(prefix, _)| prefix));
    let mut places = lists.filter(|prefix| from.pointer(prefix).is_some_and(Value::is_array));
    let place = places.next().unwrap_or(path);
    if let Some(value) = from.pointer(place).cloned() {
        let copied = set(to, place, value);
        debug_assert!(copied.is_ok(), "the way to {place} is made of mappings");
    }
}

/// Removes the value at `path`, if it is there.
pub(crate) fn remove(object: &mut Value, path: &str) -> Option<Value> {
    let (parent, name) = split(path)?;
    object.pointer_mut(parent)?.as_object_mut()?.remove(&name)
}

/// The `made` innermost ancestors of `path`, innermost first.
pub(crate) fn ancestors(path: &str, made: usize) -> impl Iterator<Item = &str> {
    std::iter::successors(path.rsplit_once('/'), |(parent, _)| parent.rsplit_once('/'))
        .map(|(parent, _)| parent)
        .take_while(|parent| !parent.is_empty())
        .take(made)
}

/// Removes the mapping at `path` if it is empty.
pub(crate) fn prune(object: &mut Value, path: &str) {
    if object.pointer(path).and_then(Value::as_object).is_some_and(Map::is_empty) {
        remove(object, path);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use serde_json::json;

    use super::*;

    #[test]
    fn a_star_names_every_item() {
        let object = json!({"spec": {"sets": [{"count": 1}, {}, {"count": 3}]}});
        let places = |text| Pattern::parse(text).unwrap().expand(&object);
        assert_eq!(
            places("/spec/sets/*/count"),
            ["/spec/sets/0/count", "/spec/sets/1/count", "/spec/sets/2/count"]
        );
        assert_eq!(places("/spec/none/*/count"), [""; 0]);
        assert_eq!(places("/spec/none/count"), ["/spec/none/count"]);
        assert_eq!(places("/metadata/annotations/a.b~1c"), ["/metadata/annotations/a.b~1c"]);
        for bad in ["", "spec", "/", "/a//b", "/a/", "/a~2b", "/a~"] {
            assert_eq!(Pattern::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_copy_takes_a_list_as_a_whole() {
        let from = json!({"spec": {"replicas": 0, "other": 1, "sets": [{"count": 0, "name": "a"}]}, "data": {"a/b": 1}});
        let mut to = json!({});
        ["/spec/replicas", "/spec/sets/0/count", "/data/a~1b", "/spec/none"]
            .iter()
            .for_each(|path| copy(&from, path, &mut to));
        assert_eq!(
            to,
            json!({"spec": {"replicas": 0, "sets": [{"count": 0, "name": "a"}]}, "data": {"a/b": 1}})
        );
    }

    #[test]
    fn a_set_can_be_taken_back() {
        let before = json!({"a": {"list": [{}]}});
        for path in ["/a/list/0/x/y", "/a/x", "/b/c/d"] {
            let mut object = before.clone();
            let (was, made) = set(&mut object, path, json!(1)).unwrap();
            assert_eq!(was, None);
            assert_eq!(object.pointer(path), Some(&json!(1)));
            remove(&mut object, path);
            ancestors(path, made).for_each(|path| prune(&mut object, path));
            assert_eq!(object, before, "{path}");
        }
        for path in ["/a/list/5/x", "/a/list/x/y", "/a/list/x"] {
            assert!(set(&mut before.clone(), path, json!(1)).is_err(), "{path}");
        }
    }
}
