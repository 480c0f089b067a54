//! A document against the schema of its kind: the same schema that the custom resources carry, so that a plan is
//! accepted here if and only if it is accepted there.
//!
//! Covers what derived schemas of our own types use: objects, lists, enumerations, bounds of integers, and
//! `anyOf` with null for optional fields. Formats of strings are left to the types, which parse them.

use serde_json::{Map, Value};

use super::Problem;
use super::tree::{Node, Tree};
use crate::object::type_name;

/// A problem and the line it is on.
pub(super) type Found = (u64, Problem);

/// Checks `node`, which stands at `at` (such as `spec.schedule`), against `schema`.
pub(super) fn check(node: &Node, at: &str, schema: &Value) -> Result<(), Found> {
    let schema = not_null(schema);
    let nullable = accepts(schema, "null") || schema.get("nullable") == Some(&Value::Bool(true));
    match &node.tree {
        Tree::Scalar(Value::Null) if nullable => Ok(()),
        Tree::Mapping(fields) if accepts(schema, "object") => check_fields(node.line, fields, at, schema),
        Tree::List(items) if accepts(schema, "array") => {
            let item_schema = schema.get("items").unwrap_or(&Value::Null);
            items
                .iter()
                .enumerate()
                .try_for_each(|(index, item)| check(item, &format!("{at}[{index}]"), item_schema))
        }
        Tree::Scalar(value) if scalar_fits(value, schema) => check_scalar(node.line, value, at, schema),
        _ => {
            let problem =
                Problem::Type { at: at.to_owned(), expected: expected(schema), found: found(&node.tree) };
            Err((node.line, problem))
        }
    }
}

fn check_fields(line: u64, fields: &[(String, u64, Node)], at: &str, schema: &Value) -> Result<(), Found> {
    let none = Map::new();
    let known = schema.get("properties").and_then(Value::as_object).unwrap_or(&none);
    for (name, key_line, node) in fields {
        match known.get(name) {
            Some(field) => check(node, &join(at, name), field)?,
            None if known.is_empty() => {}
            None => {
                let nearest = nearest(name, known.keys().map(String::as_str));
                let problem = Problem::UnknownField { field: name.clone(), at: at.to_owned(), nearest };
                return Err((*key_line, problem));
            }
        }
    }
    let required = schema.get("required").and_then(Value::as_array).into_iter().flatten();
    let missing =
        required.filter_map(Value::as_str).find(|name| !fields.iter().any(|(field, ..)| field == name));
    match missing {
        Some(field) => Err((line, Problem::Missing { field: field.to_owned(), at: at.to_owned() })),
        None => Ok(()),
    }
}

fn check_scalar(line: u64, value: &Value, at: &str, schema: &Value) -> Result<(), Found> {
    let choices = choices(schema);
    if let (Some(text), false) = (value.as_str(), choices.is_empty())
        && !choices.iter().any(|choice| choice == text)
    {
        let nearest = nearest(text, choices.iter().map(String::as_str));
        let problem = Problem::Choice {
            at: at.to_owned(),
            expected: choices.join(", "),
            found: text.to_owned(),
            nearest,
        };
        return Err((line, problem));
    }
    let bounds = [("minimum", "at least"), ("maximum", "at most")];
    for (name, word) in bounds {
        let Some((bound, number)) = schema.get(name).zip(value.as_f64()) else { continue };
        let is_out = match (name, bound.as_f64()) {
            ("minimum", Some(min)) => number < min,
            (_, Some(max)) => number > max,
            _ => false,
        };
        if is_out {
            let message = format!("expected {word} {bound}, found {value}");
            return Err((line, Problem::Value { at: at.to_owned(), message }));
        }
    }
    Ok(())
}

/// The branch of an optional field's schema that says what it is.
fn not_null(schema: &Value) -> &Value {
    let branches = schema.get("anyOf").and_then(Value::as_array);
    let is_null = |branch: &&Value| branch.get("type").and_then(Value::as_str) == Some("null");
    branches.and_then(|branches| branches.iter().find(|branch| !is_null(branch))).unwrap_or(schema)
}

/// Whether a schema has `kind` among its types. One without any, or made of choices, is told by what it has.
fn accepts(schema: &Value, kind: &str) -> bool {
    match schema.get("type") {
        Some(Value::String(only)) => only == kind,
        Some(Value::Array(types)) => types.iter().any(|one| one == kind),
        _ => kind == "object" && schema.get("properties").is_some(),
    }
}

fn scalar_fits(value: &Value, schema: &Value) -> bool {
    match value {
        Value::String(_) => accepts(schema, "string") || !choices(schema).is_empty(),
        Value::Bool(_) => accepts(schema, "boolean"),
        Value::Number(number) => {
            accepts(schema, "number") || (accepts(schema, "integer") && !number.is_f64())
        }
        _ => false,
    }
}

/// The texts that an enumeration allows.
fn choices(schema: &Value) -> Vec<String> {
    let texts = |schema: &Value| -> Vec<String> {
        let listed = schema.get("enum").and_then(Value::as_array).into_iter().flatten();
        listed.chain(schema.get("const")).filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let branches = schema.get("oneOf").and_then(Value::as_array).into_iter().flatten();
    let mut all = texts(schema);
    all.extend(branches.flat_map(texts));
    all
}

fn expected(schema: &Value) -> &'static str {
    // The one pattern of our schemas; a number without a unit is what people try first.
    if schema.get("pattern").and_then(Value::as_str).is_some_and(|pattern| pattern.contains("d|h|m|s|ms")) {
        return "a duration such as 15m";
    }
    let names = [
        ("object", "a mapping"),
        ("array", "a list"),
        ("integer", "a whole number"),
        ("number", "a number"),
        ("boolean", "true or false"),
    ];
    names.iter().find(|(kind, _)| accepts(schema, kind)).map_or("text", |(_, name)| name)
}

fn found(tree: &Tree) -> String {
    match tree {
        Tree::Mapping(_) => "a mapping".to_owned(),
        Tree::List(_) => "a list".to_owned(),
        Tree::Scalar(Value::Null) => type_name(&Value::Null).to_owned(),
        Tree::Scalar(value) => value.to_string(),
    }
}

/// A field's place in the document.
pub(super) fn join(at: &str, name: &str) -> String {
    if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") }
}

/// The known name that is closest to what was written, if any is close: up to a third of its letters differ.
pub(super) fn nearest<'k>(name: &str, known: impl Iterator<Item = &'k str>) -> Option<String> {
    let lower = name.to_lowercase();
    let distance = |known: &str| strsim::damerau_levenshtein(&lower, &known.to_lowercase());
    let (distance, nearest) = known.map(|known| (distance(known), known)).min()?;
    (distance <= 1 + name.len() / 3).then(|| nearest.to_owned())
}
