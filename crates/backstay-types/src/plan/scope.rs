//! Which objects of a cluster a plan covers, and how they are changed on the way to the standby.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A selector over labels, as Kubernetes writes it; all of it must match.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LabelSelector {
    /// Labels and the value each must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: BTreeMap<String, String>,
    /// Further conditions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub match_expressions: Vec<LabelExpression>,
}

/// One condition on a label.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LabelExpression {
    /// The label.
    pub key: String,
    /// How it is compared.
    pub operator: LabelOperator,
    /// `In` and `NotIn`: the values.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

/// How a label is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LabelOperator {
    /// It has one of the values.
    In,
    /// It has none of the values, or is not there.
    NotIn,
    /// It is there.
    Exists,
    /// It is not there.
    DoesNotExist,
}

impl LabelSelector {
    /// Whether an object with these labels is selected; `value` answers with the value of a label.
    pub fn matches<'v>(&self, value: impl Fn(&str) -> Option<&'v str>) -> bool {
        let has = |(key, wanted): (&String, &String)| value(key) == Some(wanted);
        let holds = |expression: &LabelExpression| {
            let listed = |value: &str| expression.values.iter().any(|wanted| wanted == value);
            let found = value(&expression.key);
            match expression.operator {
                LabelOperator::In => found.is_some_and(listed),
                LabelOperator::NotIn => !found.is_some_and(listed),
                LabelOperator::Exists => found.is_some(),
                LabelOperator::DoesNotExist => found.is_none(),
            }
        };
        self.match_labels.iter().all(has) && self.match_expressions.iter().all(holds)
    }

    /// The selector as a query of the API has it: `app=web,tier in (a,b),!legacy`.
    pub fn to_query(&self) -> String {
        let equal = self.match_labels.iter().map(|(key, value)| format!("{key}={value}"));
        let conditions = self.match_expressions.iter().map(|expression| {
            let (key, values) = (&expression.key, expression.values.join(","));
            match expression.operator {
                LabelOperator::In => format!("{key} in ({values})"),
                LabelOperator::NotIn => format!("{key} notin ({values})"),
                LabelOperator::Exists => key.clone(),
                LabelOperator::DoesNotExist => format!("!{key}"),
            }
        });
        equal.chain(conditions).collect::<Vec<_>>().join(",")
    }

    /// Why the API would refuse it, if it would.
    pub(super) fn problem(&self) -> Option<String> {
        let is_part = |text: &str| {
            text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./".contains(&b)) && text.len() <= 317
        };
        let keys = self.match_labels.keys().chain(self.match_expressions.iter().map(|one| &one.key));
        let values =
            self.match_labels.values().chain(self.match_expressions.iter().flat_map(|one| &one.values));
        if let Some(bad) = keys.clone().find(|key| key.is_empty() || !is_part(key)) {
            return Some(format!("{bad:?} is no label"));
        }
        if let Some(bad) = values.clone().find(|value| !is_part(value)) {
            return Some(format!("{bad:?} is no value of a label"));
        }
        let counts = |one: &&LabelExpression| {
            matches!(one.operator, LabelOperator::In | LabelOperator::NotIn) == one.values.is_empty()
        };
        let wrong = self.match_expressions.iter().find(counts)?;
        Some(format!("{}: `values` are set if and only if the operator is In or NotIn", wrong.key))
    }
}

/// Kinds by group and name: `apps/Deployment`, `Secret` of the core group, `cert-manager.io/*`, `*/Database`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KindPattern {
    group: String,
    kind: String,
}

/// A text that names no kinds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected GROUP/KIND such as apps/Deployment, or a kind of the core group, found {text:?}")]
pub struct InvalidKindPattern {
    /// What was written.
    pub text: String,
}

impl KindPattern {
    /// Whether `kind` of `group` is meant.
    pub fn matches(&self, group: &str, kind: &str) -> bool {
        let one = |pattern: &str, text: &str| pattern == "*" || pattern == text;
        one(&self.group, group) && one(&self.kind, kind)
    }

    /// Whether it names one kind and not a family of them.
    pub fn is_exact(&self) -> bool {
        self.group != "*" && self.kind != "*"
    }
}

impl FromStr for KindPattern {
    type Err = InvalidKindPattern;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (group, kind) = text.split_once('/').unwrap_or(("", text));
        let is_group = group == "*"
            || group.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-".contains(&b));
        let is_kind =
            kind == "*" || (!kind.is_empty() && kind.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'));
        if !is_group || !is_kind || text == "*" {
            return Err(InvalidKindPattern { text: text.to_owned() });
        }
        Ok(Self { group: group.to_owned(), kind: kind.to_owned() })
    }
}

impl fmt::Display for KindPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.group.is_empty() {
            f.write_str(&self.kind)
        } else {
            write!(f, "{}/{}", self.group, self.kind)
        }
    }
}

impl Serialize for KindPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KindPattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for KindPattern {
    fn schema_name() -> Cow<'static, str> {
        "KindPattern".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        String::json_schema(generator)
    }
}

/// A change to objects on their way to the standby: exactly one of `jsonPatch` and `mergePatch`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TransformSpec {
    /// Kinds it is for, such as `apps/Deployment`; `*/*` for all.
    pub kind: KindPattern,
    /// Namespace on the standby; every namespace without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name, where `*` stands for any text and `?` for one character; every name without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Labels the object must have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
    /// JSON Patch (RFC 6902) as YAML or JSON text: a list of operations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub json_patch: Option<String>,
    /// JSON merge patch (RFC 7396) as YAML or JSON text: a mapping laid over the object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merge_patch: Option<String>,
    /// Leave an object as it is where the patch does not apply to it, rather than fail.
    #[serde(default)]
    pub optional: bool,
}

/// Volumes that stand in a pod itself; everything that is set must fit.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VolumePattern {
    /// What they are, as the pod has it: `hostPath`, `nfs`, `csi`; any without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Their name in the pod, where `*` stands for any text and `?` for one character; every name without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_match_and_print_as_the_api_has_them() {
        let selector: LabelSelector = serde_json::from_str(
            r#"{"matchLabels": {"app": "web"}, "matchExpressions": [
                {"key": "tier", "operator": "In", "values": ["a", "b"]},
                {"key": "legacy", "operator": "DoesNotExist"}]}"#,
        )
        .unwrap();
        assert_eq!(selector.to_query(), "app=web,tier in (a,b),!legacy");
        assert_eq!(selector.problem(), None);
        for (labels, expected) in [
            (&[("app", "web"), ("tier", "b")][..], true),
            (&[("app", "web"), ("tier", "c")], false),
            (&[("app", "web")], false),
            (&[("app", "web"), ("tier", "a"), ("legacy", "")], false),
        ] {
            let value = |key: &str| labels.iter().find(|(name, _)| *name == key).map(|(_, value)| *value);
            assert_eq!(selector.matches(value), expected, "{labels:?}");
        }
    }

    #[test]
    fn patterns_of_kinds() {
        for (text, group, kind, expected) in [
            ("apps/Deployment", "apps", "Deployment", true),
            ("apps/Deployment", "extensions", "Deployment", false),
            ("Secret", "", "Secret", true),
            ("Secret", "a.io", "Secret", false),
            ("a.io/*", "a.io", "X", true),
            ("*/Database", "b.io", "Database", true),
            ("*/*", "", "Pod", true),
        ] {
            let pattern: KindPattern = text.parse().unwrap();
            assert_eq!(pattern.to_string(), text);
            assert_eq!(pattern.matches(group, kind), expected, "{text}");
        }
        for bad in ["", "*", "apps/", "Apps/Deployment", "a/b/c", "De ployment"] {
            assert!(bad.parse::<KindPattern>().is_err(), "{bad}");
        }
    }
}
