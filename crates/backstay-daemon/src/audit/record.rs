//! One record and its line.
//!
//! A line is `BODY,"hash":"HEX"}` where `BODY` is the record's JSON object up to its last field but one, and `HEX` is
//! BLAKE3 over the previous record's hash in hexadecimal, followed by `BODY`. The hash covers bytes as they stand in
//! the file, so a later version may add fields.

use std::fmt;

use backstay_types::{Classify, PlanName, Time, limits};
use serde::{Deserialize, Serialize};

/// `previous` of the first record.
pub(super) const GENESIS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

const HASH_FIELD: &str = ",\"hash\":\"";

/// Who did something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Actor {
    /// A local user, known by the socket's peer credentials.
    Uid(u32),
    /// Who holds the admin token.
    Token,
    /// The site at the other end of a pair.
    Peer(String),
    /// A custom resource of the cluster beside the site.
    Resource,
    /// The daemon by itself.
    Daemon,
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Actor::Uid(uid) => write!(f, "uid:{uid}"),
            Actor::Token => f.write_str("token"),
            Actor::Peer(name) => write!(f, "peer:{name}"),
            Actor::Resource => f.write_str("resource"),
            Actor::Daemon => f.write_str("daemon"),
        }
    }
}

/// What is to be recorded. Ends as `done` unless [`AuditEntry::failed`] says otherwise.
#[derive(Debug, Clone)]
pub struct AuditEntry {
    time: Time,
    actor: String,
    action: &'static str,
    plan: Option<PlanName>,
    detail: String,
    outcome: &'static str,
}

impl AuditEntry {
    /// Somebody did something: `action` is a constant such as `promote` or `pairJoin`.
    pub fn new(time: Time, actor: &Actor, action: &'static str) -> Self {
        Self { time, actor: actor.to_string(), action, plan: None, detail: String::new(), outcome: "done" }
    }

    /// The plan it was done to.
    #[must_use]
    pub fn plan(mut self, plan: PlanName) -> Self {
        self.plan = Some(plan);
        self
    }

    /// More about it: names and ids, never a secret. Cut at 4 KiB.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into();
        let cut = self.detail.floor_char_boundary(limits::MESSAGE_BYTES_MAX);
        self.detail.truncate(cut);
        self
    }

    /// It failed: the outcome is the error's class, and its text is added to the detail.
    #[must_use]
    pub fn failed(mut self, error: &dyn Classify) -> Self {
        self.outcome = error.class().name();
        let detail = std::mem::take(&mut self.detail);
        let separator = if detail.is_empty() { "" } else { ": " };
        self.detail(format!("{detail}{separator}{error}"))
    }

    /// The record with this number after the one with this hash, and its line.
    pub(super) fn seal(self, seq: u64, previous: &str) -> (AuditRecord, String) {
        let body = Body {
            seq,
            time: self.time,
            actor: &self.actor,
            action: self.action,
            plan: self.plan.as_ref(),
            detail: &self.detail,
            outcome: self.outcome,
            previous,
        };
        let mut line = serde_json::to_string(&body).expect("strings and numbers are JSON");
        line.pop();
        let hash = chain(previous, &line);
        line.push_str(HASH_FIELD);
        line.push_str(&hash);
        line.push_str("\"}\n");
        let record = AuditRecord {
            seq,
            time: self.time,
            actor: self.actor,
            action: self.action.to_owned(),
            plan: self.plan,
            detail: self.detail,
            outcome: self.outcome.to_owned(),
            previous: previous.to_owned(),
            hash,
        };
        (record, line)
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    seq: u64,
    time: Time,
    actor: &'a str,
    action: &'a str,
    plan: Option<&'a PlanName>,
    detail: &'a str,
    outcome: &'a str,
    previous: &'a str,
}

fn chain(previous: &str, body: &str) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(previous.as_bytes()).update(body.as_bytes());
    hasher.finalize().to_hex().to_string()
}

/// One record of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditRecord {
    /// Number, from 1, without gaps.
    pub seq: u64,
    /// When it was recorded.
    pub time: Time,
    /// `uid:1000`, `token`, `peer:NAME` or `daemon`.
    pub actor: String,
    /// What was done.
    pub action: String,
    /// To which plan, if to one.
    pub plan: Option<PlanName>,
    /// More about it.
    pub detail: String,
    /// `done`, or the class of the failure.
    pub outcome: String,
    /// Hash of the record before.
    pub previous: String,
    /// Hash of this one.
    pub hash: String,
}

impl AuditRecord {
    /// Reads a line without its newline and checks its own hash, but not that it follows the record before.
    pub(super) fn parse(line: &[u8]) -> Result<Self, &'static str> {
        let line = std::str::from_utf8(line).map_err(|_| "it is not text")?;
        let record: AuditRecord = serde_json::from_str(line).map_err(|_| "it is not a record")?;
        // The hash is the last field, so the last occurrence is the field and not text inside another one.
        let (body, _) = line.rsplit_once(HASH_FIELD).ok_or("its hash is not its last field")?;
        if chain(&record.previous, body) != record.hash {
            return Err("its content does not match its hash");
        }
        Ok(record)
    }
}
