//! YAML in and out, as Kubernetes reads it.
//!
//! Reading follows `kubectl`: YAML 1.1 booleans and octal numbers (`defaultMode: 0644` is 420), last of all a
//! string. A file is bounded before it is parsed, and the parser has budgets against alias bombs. Messages never
//! quote the text, which may be a Secret.
//!
//! Writing quotes everything that any YAML 1.1 or 1.2 reader could take for something else (test
//! `text_survives_a_round_trip`).

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_saphyr::options::DuplicateKeyPolicy;
use serde_saphyr::{Options, budget, options, ser_options};

/// Nesting of mappings and lists. Deeper than any Kubernetes schema, and a stack of a few dozen KiB.
const DEPTH_MAX: usize = 64;
/// Documents of one file: no folder needs more than one file of so many.
const DOCUMENTS_MAX: usize = 100_000;

/// A text that is not YAML, or more than the budget allows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct YamlError {
    /// Line, from 1; 0 if the parser does not know.
    pub(crate) line: u64,
    /// What is wrong.
    pub(crate) message: String,
}

/// How much one parse may use, for a text of so many bytes.
///
/// A node costs at least two bytes of text, and all aliases together may at most replay a million events
/// (some 100 MiB at the worst; the 16 MiB file they are in is read by one caller at a time).
fn parse_options(bytes: usize) -> Options {
    let nodes = bytes.max(1024);
    options! {
        budget: budget! {
            max_depth: DEPTH_MAX,
            max_documents: DOCUMENTS_MAX,
            max_nodes: nodes,
            max_events: nodes.saturating_mul(2),
            max_recorded_anchor_events: 100_000,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 200_000,
        },
        duplicate_keys: DuplicateKeyPolicy::Error,
        legacy_octal_numbers: true,
        with_snippet: false,
    }
}

/// Every document of a text; empty ones are left out.
pub(crate) fn parse<T: DeserializeOwned>(text: &str) -> Result<Vec<T>, YamlError> {
    serde_saphyr::from_multiple_with_options(text, parse_options(text.len())).map_err(|error| YamlError {
        line: error.location().map_or(0, |location| location.line()),
        message: without_place(&error.without_snippet().to_string()),
    })
}

/// The first line of a parser's message, without the place, which the caller names in its own way.
fn without_place(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    let message = line.split_once(" at line ").map_or(line, |(message, _)| message);
    // Advice to programmers follows some messages.
    message.split_once(", set ").map_or(message, |(message, _)| message).to_owned()
}

/// A value as YAML, in block style.
pub(crate) fn emit(value: &Value) -> Result<String, YamlError> {
    emit_any(value)
}

/// Anything serializable as YAML, in block style.
pub(crate) fn emit_any<T: Serialize>(value: &T) -> Result<String, YamlError> {
    let options = ser_options! { folded_wrap_chars: usize::MAX };
    serde_saphyr::to_string_with_options(value, options)
        .map_err(|error| YamlError { line: 0, message: error.to_string() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn one(text: &str) -> Value {
        parse::<Value>(text).unwrap().remove(0)
    }

    #[test]
    fn scalars_are_read_as_kubectl_reads_them() {
        let value = one(
            "mode: 0644\nhex: 0x1F\nyes: on\nquoted: \"on\"\nport: 80\nname: 1.2.3\nnone: ~\nempty:\nfloat: 1.5\n",
        );
        assert_eq!(value["mode"], json!(420));
        assert_eq!(value["hex"], json!(31));
        assert_eq!(value["yes"], json!(true));
        assert_eq!(value["quoted"], json!("on"));
        assert_eq!(value["name"], json!("1.2.3"));
        assert_eq!(value["empty"], Value::Null);
        assert_eq!(value["float"], json!(1.5));
    }

    #[test]
    fn bombs_are_refused() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..9 {
            let refs = vec![format!("*a{}", level - 1); 10].join(", ");
            text.push_str(&format!("a{level}: &a{level} [{refs}]\n"));
        }
        assert!(parse::<Value>(&text).is_err());
        assert!(parse::<Value>(&"[".repeat(5000)).is_err());
        assert!(parse::<Value>("a: 1\na: 2\n").is_err());
    }

    #[test]
    fn an_error_names_the_line_and_never_the_text() {
        let error = parse::<Value>("data:\n  password: hunter2\n  : [\n").unwrap_err();
        assert!(error.line >= 3, "{error:?}");
        assert!(!error.message.contains("hunter2"), "{error:?}");
        let twice = parse::<Value>("a: 1\na: 2\n").unwrap_err();
        assert_eq!((twice.line, twice.message.as_str()), (2, "duplicate mapping key: a"));
    }

    fn json_value() -> impl Strategy<Value = Value> {
        let text = prop_oneof![
            any::<String>(),
            "[ -~\n]{0,40}",
            "[a-z:#&*!|>'\"%@`,\\[\\]{} \t\n-]{0,12}",
            "([0-9_:.eExXoO+-]|on|off|yes|no|y|n|null|true|~|inf|nan|2001-01-01){1,6}",
        ];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            (-1e9..1e9f64).prop_map(Value::from),
            text.clone().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 6, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::btree_map(text.clone(), inner, 0..5)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn text_survives_a_round_trip(value in json_value()) {
            let value = json!({"apiVersion": "v1", "data": value});
            let text = emit(&value).unwrap();
            prop_assert_eq!(one(&text), value, "{}", text);
        }
    }
}
