//! The record of what an object was before it was held: one annotation, as JSON.
//!
//! ```text
//! backstay.dev/held: {"v":1,"fields":[{"path":"/spec/replicas","was":3},{"path":"/spec/suspend","absent":true}]}
//! ```
//!
//! `made` counts the mappings that had to be made around a field; they go again with it if nothing else moved in.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::{HELD_ANNOTATION, HoldError, pointer};

const VERSION: u8 = 1;

/// Where the record is, as a JSON pointer.
const RECORD: &str = "/metadata/annotations/backstay.dev~1held";

/// What the held fields of one object were.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    v: u8,
    fields: Vec<Field>,
    /// Mappings made around the annotation itself.
    #[serde(default, skip_serializing_if = "is_zero")]
    made: usize,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Field {
    path: String,
    /// The original value; a `null` that was written out is `Some(Null)`.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    was: Option<Value>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    absent: bool,
    #[serde(default, skip_serializing_if = "is_zero")]
    made: usize,
}

fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(made: &usize) -> bool {
    *made == 0
}

impl Record {
    /// A record of nothing.
    pub(super) fn new() -> Self {
        Self { v: VERSION, fields: Vec::new(), made: 0 }
    }

    /// Reads the record of an object, if it has one.
    pub(super) fn read(object: &Value) -> Result<Option<Self>, HoldError> {
        let Some(text) = object.pointer(RECORD) else { return Ok(None) };
        let damaged = |why: String| HoldError::Record { annotation: HELD_ANNOTATION, why };
        let text = text.as_str().ok_or_else(|| damaged("it is not a string".to_owned()))?;
        let record: Self = serde_json::from_str(text).map_err(|error| damaged(error.to_string()))?;
        if record.v != VERSION {
            return Err(damaged(format!("version: expected {VERSION}, found {}", record.v)));
        }
        match record.fields.iter().find(|field| field.was.is_some() == field.absent) {
            Some(field) => Err(damaged(format!("{}: expected one of `was` and `absent`", field.path))),
            None => Ok(Some(record)),
        }
    }

    /// Sets a field to its held value and notes what it was, unless that was noted before.
    pub(super) fn set(&mut self, object: &mut Value, path: &str, held: &Value) -> Result<(), HoldError> {
        let (was, made) = pointer::set(object, path, held.clone())
            .map_err(|blocked| HoldError::Shape { path: path.to_owned(), at: blocked.at })?;
        if !self.fields.iter().any(|field| field.path == path) {
            self.fields.push(Field { path: path.to_owned(), absent: was.is_none(), was, made });
        }
        Ok(())
    }

    /// The fields it is about.
    pub(super) fn paths(&self) -> impl Iterator<Item = &str> {
        self.fields.iter().map(|field| field.path.as_str())
    }

    /// Writes the record into its object.
    pub(super) fn write(mut self, object: &mut Value) -> Result<(), HoldError> {
        let blocked =
            |blocked: pointer::Blocked| HoldError::Shape { path: RECORD.to_owned(), at: blocked.at };
        let first = object.pointer(RECORD).is_none();
        let (_, made) = pointer::set(object, RECORD, Value::Null).map_err(blocked)?;
        if first {
            self.made = made;
        }
        let text = serde_json::to_string(&self).expect("a record is JSON");
        pointer::set(object, RECORD, Value::String(text)).map_err(blocked)?;
        Ok(())
    }

    /// Puts every field back and removes the record.
    pub(super) fn undo(self, object: &mut Value) -> Result<(), HoldError> {
        let mut made_around: Vec<&str> = pointer::ancestors(RECORD, self.made).collect();
        for field in &self.fields {
            match &field.was {
                Some(was) => {
                    pointer::set(object, &field.path, was.clone())
                        .map_err(|blocked| HoldError::Shape { path: field.path.clone(), at: blocked.at })?;
                }
                None => {
                    pointer::remove(object, &field.path);
                    made_around.extend(pointer::ancestors(&field.path, field.made));
                }
            }
        }
        pointer::remove(object, RECORD);
        // Innermost first; a mapping that holds something else by now stays.
        made_around.sort_by_key(|path| std::cmp::Reverse(path.matches('/').count()));
        made_around.into_iter().for_each(|path| pointer::prune(object, path));
        Ok(())
    }
}
