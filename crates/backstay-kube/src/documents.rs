//! Plans, schedule policies and rules as YAML: several documents a file, checked against the schemas of the custom
//! resources.
//!
//! 1. What is accepted has no field that was not understood, anywhere (test `an_unknown_field_is_named`).
//! 2. An error says file, document, line, field and what was expected (tests `wrong_types_say_what_was_expected`).
//! 3. The same text is accepted with and without a cluster: the schemas are those in `config/crds`.

mod check;
mod tree;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::LazyLock;

use backstay_types::plan::{InvalidPlan, InvalidRule, PlanSpec, RuleSpec, SchedulePolicySpec};
use backstay_types::{Class, Classify, Epoch, PlanName, limits};
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::hold::{HoldSpecError, HoldTable};
use crate::transform::{TransformSpecError, Transforms};
use crate::{crds, yaml};
use check::{check, join, nearest};
use tree::{Node, Tree};

/// One document of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// A `ReplicationPlan`.
    Plan {
        /// Its name.
        name: PlanName,
        /// What it protects, valid in itself.
        spec: Box<PlanSpec>,
        /// What it may go on from.
        begins: Begins,
    },
    /// A `SchedulePolicy`.
    SchedulePolicy {
        /// Its name.
        name: String,
        /// Its schedule.
        spec: Box<SchedulePolicySpec>,
    },
    /// A `Rule`.
    Rule {
        /// Its name.
        name: String,
        /// What it runs, valid in itself.
        spec: Box<RuleSpec>,
    },
}

/// What a plan that is not known here yet may go on from: something that an earlier one of its name has left.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Begins {
    /// Uid of the resource that it is begun by.
    pub resource: Option<String>,
    /// Objects that were written at this epoch are the application itself: [`ADOPT_ANNOTATION`].
    pub adopt: Option<Epoch>,
    /// Its resource was told that the plan is active here at this epoch, and at no other may it be again.
    pub told: Option<Epoch>,
}

/// Annotation of a plan: the epoch at which the objects that it finds were written.
pub const ADOPT_ANNOTATION: &str = "backstay.dev/adopt";

impl Document {
    /// Its kind, as `kind` has it.
    pub fn kind(&self) -> &'static str {
        match self {
            Document::Plan { .. } => PLAN,
            Document::SchedulePolicy { .. } => POLICY,
            Document::Rule { .. } => RULE,
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        match self {
            Document::Plan { name, .. } => name.as_str(),
            Document::SchedulePolicy { name, .. } | Document::Rule { name, .. } => name,
        }
    }
}

const PLAN: &str = "ReplicationPlan";
const POLICY: &str = "SchedulePolicy";
const RULE: &str = "Rule";

/// What is wrong with a document, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("read {file}{place}: {problem}")]
pub struct DocumentError {
    /// Name of the file, as the caller gave it.
    pub file: String,
    /// Where in it.
    pub place: Place,
    /// What.
    pub problem: Box<Problem>,
}

/// A place in a file; zero where it is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Which document, from 1.
    pub document: usize,
    /// Which line of the file, from 1.
    pub line: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, number) in [("document", self.document.to_string()), ("line", self.line.to_string())] {
            if number != "0" {
                write!(f, ", {what} {number}")?;
            }
        }
        Ok(())
    }
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// More than a plan may be.
    #[error("{bytes} bytes: at most {max} allowed", max = limits::PLAN_BYTES_MAX)]
    TooLarge {
        /// How many.
        bytes: usize,
    },
    /// Not YAML.
    #[error("{message}")]
    Yaml {
        /// What the parser says.
        message: String,
    },
    /// Nothing in it.
    #[error("it holds no documents")]
    NoDocuments,
    /// Not of this product's API.
    #[error("apiVersion: expected {expected}, found {found}", expected = crds::API_VERSION)]
    ApiVersion {
        /// What it says.
        found: String,
    },
    /// A kind that is not applied this way.
    #[error("kind: expected {PLAN}, {POLICY} or {RULE}, found {found}{}", did_you_mean(nearest))]
    Kind {
        /// What it says.
        found: String,
        /// The one that was probably meant.
        nearest: Option<String>,
    },
    /// A field that does not exist.
    #[error("unknown field `{field}` in {}{}", place_of(at), did_you_mean(nearest))]
    UnknownField {
        /// The field.
        field: String,
        /// What it is in.
        at: String,
        /// The one that was probably meant.
        nearest: Option<String>,
    },
    /// A field that must be there.
    #[error("missing field `{field}` in {}", place_of(at))]
    Missing {
        /// The field.
        field: String,
        /// What it should be in.
        at: String,
    },
    /// A value of another type.
    #[error("{}: expected {expected}, found {found}", place_of(at))]
    Type {
        /// The field.
        at: String,
        /// What it should be.
        expected: &'static str,
        /// What it is.
        found: String,
    },
    /// A text that is none of the choices.
    #[error("{at}: expected one of {expected}, found {found:?}{}", did_you_mean(nearest))]
    Choice {
        /// The field.
        at: String,
        /// The choices.
        expected: String,
        /// What it is.
        found: String,
        /// The one that was probably meant.
        nearest: Option<String>,
    },
    /// A value of the right type that cannot be used.
    #[error("{at}: {message}")]
    Value {
        /// The field.
        at: String,
        /// What is wrong.
        message: String,
    },
    /// A plan that contradicts itself.
    #[error("spec: {0}")]
    Plan(InvalidPlan),
    /// A rule that cannot be used.
    #[error("spec.{0}")]
    Rule(InvalidRule),
    /// A hold that cannot be used.
    #[error("spec.{0}")]
    Hold(HoldSpecError),
    /// A transform that cannot be used.
    #[error("spec.{0}")]
    Transform(TransformSpecError),
    /// Two documents of one kind and name.
    #[error("{kind} {name} is document {first} already")]
    Twice {
        /// Kind.
        kind: &'static str,
        /// Name.
        name: String,
        /// The earlier document.
        first: usize,
    },
}

fn did_you_mean(nearest: &Option<String>) -> String {
    nearest.as_ref().map_or_else(String::new, |nearest| format!(", did you mean `{nearest}`?"))
}

fn place_of(at: &str) -> &str {
    if at.is_empty() { "the document" } else { at }
}

impl Classify for DocumentError {
    fn class(&self) -> Class {
        match *self.problem {
            Problem::TooLarge { .. } => Class::LimitExceeded,
            _ => Class::Invalid,
        }
    }

    fn hint(&self) -> Option<String> {
        match &*self.problem {
            Problem::Hold(error) => error.hint(),
            Problem::Transform(error) => error.hint(),
            Problem::Plan(error) => error.hint(),
            Problem::Rule(error) => error.hint(),
            Problem::NoDocuments => {
                Some(format!("a document begins with `apiVersion: {}` and `kind: {PLAN}`", crds::API_VERSION))
            }
            Problem::Twice { .. } => Some("leave one of them out, or give it another name".to_owned()),
            Problem::Yaml { .. } => {
                Some("check the line, and the one before it, for indentation and quotes".to_owned())
            }
            Problem::ApiVersion { .. }
            | Problem::UnknownField { .. }
            | Problem::Missing { .. }
            | Problem::Type { .. }
            | Problem::Choice { .. }
            | Problem::Value { .. } => {
                Some("`backstay crds` prints every field with what it means".to_owned())
            }
            Problem::TooLarge { .. } | Problem::Kind { .. } => None,
        }
    }
}

/// Reads every document of a text; `file` names it in errors. Empty documents are left out and
/// not counted; a text with no other is an error.
pub fn parse(file: &str, text: &str) -> Result<Vec<Document>, DocumentError> {
    let error = |document, line, problem| DocumentError {
        file: file.to_owned(),
        place: Place { document, line },
        problem: Box::new(problem),
    };
    if text.len() > limits::PLAN_BYTES_MAX {
        return Err(error(0, 0, Problem::TooLarge { bytes: text.len() }));
    }
    let nodes: Vec<Node> =
        yaml::parse(text).map_err(|yaml| error(0, yaml.line, Problem::Yaml { message: yaml.message }))?;
    if nodes.is_empty() {
        return Err(error(0, 0, Problem::NoDocuments));
    }
    let mut documents = Vec::with_capacity(nodes.len());
    let mut names: BTreeMap<(&'static str, String), usize> = BTreeMap::new();
    for (index, node) in nodes.iter().enumerate() {
        let number = index + 1;
        let document = parse_one(node).map_err(|(line, problem)| error(number, line, problem))?;
        let (kind, name) = (document.kind(), document.name().to_owned());
        if let Some(first) = names.insert((kind, name.clone()), number) {
            return Err(error(number, node.line, Problem::Twice { kind, name, first }));
        }
        documents.push(document);
    }
    Ok(documents)
}

fn parse_one(node: &Node) -> Result<Document, check::Found> {
    if !matches!(node.tree, Tree::Mapping(_)) {
        check(node, "", &top_schema("", &Value::Null))?;
    }
    let text = |field: &str| {
        let missing = || (node.line, Problem::Missing { field: field.to_owned(), at: String::new() });
        let value = node.get(field).ok_or_else(missing)?;
        let wrong = || {
            let (at, found) = (field.to_owned(), value.value().to_string());
            (value.line, Problem::Type { at, expected: "text", found })
        };
        Ok((value.line, value.text().ok_or_else(wrong)?))
    };
    let (line, api_version) = text("apiVersion")?;
    if api_version != crds::API_VERSION {
        return Err((line, Problem::ApiVersion { found: api_version.to_owned() }));
    }
    let (line, kind) = text("kind")?;
    match kind {
        PLAN => plan(node),
        POLICY => policy(node),
        RULE => rule(node),
        other => {
            let nearest = nearest(other, [PLAN, POLICY, RULE].into_iter());
            Err((line, Problem::Kind { found: other.to_owned(), nearest }))
        }
    }
}

fn plan(node: &Node) -> Result<Document, check::Found> {
    static SCHEMA: LazyLock<Value> = LazyLock::new(|| top_schema(PLAN, &schema_of::<PlanSpec>()));
    check(node, "", &SCHEMA)?;
    let spec: PlanSpec = spec(node)?;
    let line = node.get("spec").map_or(0, |spec| spec.line);
    spec.validate_applied()
        .map_err(|invalid| (plan_line(node, &invalid).unwrap_or(line), Problem::Plan(invalid)))?;
    let holds = node.get("spec").and_then(|spec| spec.get("holds")).map_or(line, |holds| holds.line);
    HoldTable::new(&spec.holds).map_err(|error| (holds, Problem::Hold(error)))?;
    let transforms = node.get("spec").and_then(|spec| spec.get("transforms"));
    Transforms::new(&spec).map_err(|error| {
        let line = transforms.and_then(|list| list.item(error.index)).map_or(line, |item| item.line);
        (line, Problem::Transform(error))
    })?;
    let begins = Begins { adopt: adopted_epoch(node)?, ..Begins::default() };
    Ok(Document::Plan { name: name(node)?, spec: Box::new(spec), begins })
}

fn adopted_epoch(node: &Node) -> Result<Option<Epoch>, check::Found> {
    let annotations = node.get("metadata").and_then(|metadata| metadata.get("annotations"));
    let Some(adopt) = annotations.and_then(|annotations| annotations.get(ADOPT_ANNOTATION)) else {
        return Ok(None);
    };
    let epoch = adopt.text().and_then(|text| text.parse().ok()).map(Epoch);
    let at = || format!("metadata.annotations.{ADOPT_ANNOTATION}");
    let wrong =
        || (adopt.line, Problem::Value { at: at(), message: "expected an epoch, such as \"3\"".to_owned() });
    epoch.map(Some).ok_or_else(wrong)
}

fn policy(node: &Node) -> Result<Document, check::Found> {
    static SCHEMA: LazyLock<Value> = LazyLock::new(|| top_schema(POLICY, &schema_of::<SchedulePolicySpec>()));
    check(node, "", &SCHEMA)?;
    let spec: SchedulePolicySpec = spec(node)?;
    Ok(Document::SchedulePolicy { name: name(node)?.to_string(), spec: Box::new(spec) })
}

fn rule(node: &Node) -> Result<Document, check::Found> {
    static SCHEMA: LazyLock<Value> = LazyLock::new(|| top_schema(RULE, &schema_of::<RuleSpec>()));
    check(node, "", &SCHEMA)?;
    let spec: RuleSpec = spec(node)?;
    let line = node.get("spec").map_or(0, |spec| spec.line);
    spec.validate().map_err(|invalid| (line, Problem::Rule(invalid)))?;
    Ok(Document::Rule { name: name(node)?.to_string(), spec: Box::new(spec) })
}

/// The line of the field, or of the volume, that a plan contradicts itself in.
fn plan_line(node: &Node, invalid: &InvalidPlan) -> Option<u64> {
    if let InvalidPlan::Unhonoured { field } = invalid {
        return node.get("spec")?.get(field).map(|value| value.line);
    }
    let name = match invalid {
        InvalidPlan::TwoVolumes { name }
        | InvalidPlan::Source { name }
        | InvalidPlan::SnapshotCommand { name } => name,
        _ => return None,
    };
    let Tree::List(volumes) = &node.get("spec")?.get("volumes")?.tree else { return None };
    let named = |volume: &&Node| volume.get("name").and_then(Node::text) == Some(name.as_str());
    volumes.iter().rfind(named).map(|volume| volume.line)
}

/// The same for every kind: it is an object name in a cluster and a file name without one.
fn name(node: &Node) -> Result<PlanName, check::Found> {
    let name = node.get("metadata").and_then(|metadata| metadata.get("name"));
    let (line, text) = name.map_or((0, ""), |name| (name.line, name.text().unwrap_or_default()));
    text.parse().map_err(|error: backstay_types::InvalidName| {
        (line, Problem::Value { at: "metadata.name".to_owned(), message: error.to_string() })
    })
}

/// Reads the spec into its type, which parses texts such as durations.
fn spec<T: DeserializeOwned>(node: &Node) -> Result<T, check::Found> {
    let Some(spec) = node.get("spec") else {
        return Err((node.line, Problem::Missing { field: "spec".to_owned(), at: String::new() }));
    };
    serde_path_to_error::deserialize(spec.value()).map_err(|error| {
        let (mut here, mut at) = (spec, "spec".to_owned());
        for segment in error.path() {
            let (next, place) = match segment {
                serde_path_to_error::Segment::Seq { index } => (here.item(*index), format!("{at}[{index}]")),
                serde_path_to_error::Segment::Map { key } => (here.get(key), join(&at, key)),
                _ => break,
            };
            let Some(next) = next else { break };
            (here, at) = (next, place);
        }
        (here.line, Problem::Value { at, message: error.inner().to_string() })
    })
}

/// The schema of a spec, with everything in one piece.
fn schema_of<T: JsonSchema>() -> Value {
    SchemaSettings::draft2020_12()
        .with(|settings| settings.inline_subschemas = true)
        .into_generator()
        .into_root_schema_for::<T>()
        .to_value()
}

/// The schema of a whole document. `status` and what the API server adds to `metadata` are accepted, so that
/// what `kubectl get -o yaml` prints can be applied.
fn top_schema(kind: &str, spec: &Value) -> Value {
    let any = || serde_json::json!({"type": "object"});
    let text = || serde_json::json!({"type": "string"});
    serde_json::json!({
        "type": "object",
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "properties": {
            "apiVersion": text(),
            "kind": {"type": "string", "enum": [kind]},
            "metadata": {
                "type": "object",
                "required": ["name"],
                "properties": {
                    "name": text(), "namespace": text(), "labels": any(), "annotations": any(),
                    "uid": text(), "resourceVersion": text(), "creationTimestamp": text(),
                    "generation": {"type": "integer"}, "managedFields": {"type": "array", "items": any()},
                    "finalizers": {"type": "array", "items": text()},
                    "ownerReferences": {"type": "array", "items": any()},
                },
            },
            "spec": spec,
            "status": any(),
        },
    })
}

#[cfg(test)]
mod tests;
