//! The plan's own patches: JSON Patch and merge patch.

use backstay_types::plan::TransformSpec;
use serde_json::Value;

use super::{TransformError, TransformSpecError};
use crate::{ObjectId, yaml};

/// One patch and what it is for.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    index: usize,
    spec: TransformSpec,
    patch: Patch,
}

#[derive(Debug, Clone)]
enum Patch {
    Json(json_patch::Patch),
    Merge(Value),
}

impl Rule {
    pub(super) fn parse(index: usize, spec: &TransformSpec) -> Result<Self, TransformSpecError> {
        let error = |field, why| TransformSpecError { index, field, why };
        let patch = match (&spec.json_patch, &spec.merge_patch) {
            (Some(text), None) => {
                let value = one_document(text).map_err(|why| error("jsonPatch", why))?;
                let patch = serde_json::from_value(value);
                Patch::Json(patch.map_err(|why| error("jsonPatch", why.to_string()))?)
            }
            (None, Some(text)) => match one_document(text).map_err(|why| error("mergePatch", why))? {
                mapping @ Value::Object(_) => Patch::Merge(mapping),
                _ => return Err(error("mergePatch", "expected a mapping".to_owned())),
            },
            _ => {
                return Err(error(
                    "jsonPatch",
                    "expected exactly one of jsonPatch and mergePatch".to_owned(),
                ));
            }
        };
        Ok(Self { index, spec: spec.clone(), patch })
    }

    pub(super) fn apply(&self, object: &mut Value) -> Result<(), TransformError> {
        let id = ObjectId::of(object)?;
        if !self.is_for(&id, object) {
            return Ok(());
        }
        match self.patched(&id, object) {
            Ok(patched) => *object = patched,
            Err(TransformError::Patch { .. }) if self.spec.optional => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn is_for(&self, id: &ObjectId, object: &Value) -> bool {
        let label = |key: &str| object.pointer("/metadata/labels")?.get(key)?.as_str();
        self.spec.kind.matches(&id.kind.group, &id.kind.kind)
            && self.spec.namespace.as_ref().is_none_or(|wanted| id.namespace.as_ref() == Some(wanted))
            && self.spec.name.as_ref().is_none_or(|pattern| glob(pattern, &id.name))
            && self.spec.selector.as_ref().is_none_or(|selector| selector.matches(label))
    }

    fn patched(&self, id: &ObjectId, object: &Value) -> Result<Value, TransformError> {
        let mut patched = object.clone();
        match &self.patch {
            Patch::Json(patch) => {
                json_patch::patch(&mut patched, patch).map_err(|error| TransformError::Patch {
                    index: self.index,
                    object: id.to_string(),
                    path: error.path.to_string(),
                    why: error.kind.to_string(),
                })?;
            }
            Patch::Merge(patch) => json_patch::merge(&mut patched, patch),
        }
        let found = ObjectId::of(&patched)?;
        let is_same = found.kind == id.kind
            && found.name == id.name
            && found.namespace.is_some() == id.namespace.is_some();
        if is_same {
            Ok(patched)
        } else {
            let (object, found) = (id.to_string(), found.to_string());
            Err(TransformError::Identity { index: self.index, object, found })
        }
    }
}

fn one_document(text: &str) -> Result<Value, String> {
    let documents = yaml::parse::<Value>(text).map_err(|error| error.to_string())?;
    <[Value; 1]>::try_from(documents)
        .map(|[value]| value)
        .map_err(|documents| format!("expected one document, found {}", documents.len()))
}

/// Whether `text` fits `pattern`, where `*` is any text and `?` one character. Linear in both: a `*` that did not
/// fit is widened by one, and an earlier one never again.
pub(crate) fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut at, mut here) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while let Some(c) = text.get(here) {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at, here));
                at += 1;
                continue;
            }
            Some(p) if *p == '?' || p == c => {
                (at, here) = (at + 1, here + 1);
                continue;
            }
            _ => {}
        }
        let Some((star_at, start)) = star else { return false };
        star = Some((star_at, start + 1));
        (at, here) = (star_at + 1, start + 1);
    }
    pattern.iter().skip(at).all(|p| *p == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs() {
        for (pattern, text, expected) in [
            ("web", "web", true),
            ("web", "webs", false),
            ("web-*", "web-1", true),
            ("*-db-*", "shop-db-0", true),
            ("*-db", "shop-db-0", false),
            ("w?b", "wab", true),
            ("w?b", "wb", false),
            ("*a*a*b", "aaaaaaaaab", true),
            ("*", "", true),
            ("", "", true),
        ] {
            assert_eq!(glob(pattern, text), expected, "{pattern} {text}");
        }
    }
}
