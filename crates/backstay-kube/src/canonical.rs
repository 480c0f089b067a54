//! One text per JSON value: keys sorted, no spaces. Two captures of an unchanged object are equal bytes, so the
//! object is one chunk that the standby already has.
//!
//! Keys are sorted here and not left to the map type: whether `serde_json` keeps maps sorted depends on a feature
//! that any crate of the build may switch.

use serde_json::Value;

/// The canonical bytes of a value.
pub fn to_bytes(value: &Value) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    write(value, &mut out);
    out
}

fn write(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_unstable_by_key(|(key, _)| *key);
            out.push(b'{');
            for (index, (key, value)) in entries.into_iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_string(key, out);
                out.push(b':');
                write(value, out);
            }
            out.push(b'}');
        }
        Value::Array(items) => {
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write(item, out);
            }
            out.push(b']');
        }
        Value::String(text) => write_string(text, out),
        Value::Null | Value::Bool(_) | Value::Number(_) => {
            out.extend_from_slice(value.to_string().as_bytes())
        }
    }
}

fn write_string(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, text).expect("a string is JSON and a vector takes every write");
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_are_sorted_at_every_depth_and_text_is_json() {
        let value = json!({"b": {"z": [1, {"y": null, "x": "é\n\""}], "a": 1.5}, "a": -1});
        assert_eq!(
            to_bytes(&value),
            "{\"a\":-1,\"b\":{\"a\":1.5,\"z\":[1,{\"x\":\"é\\n\\\"\",\"y\":null}]}}".as_bytes()
        );
        assert_eq!(serde_json::from_slice::<Value>(&to_bytes(&value)).expect("JSON"), value);
    }
}
