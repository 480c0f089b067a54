//! Requests: one at a time, bounded in bytes and time, tried again where that can help.
//!
//! 1. Every request is safe to repeat: reads, server-side applies, deletions of one uid.
//! 2. No more than [`ANSWER_BYTES_MAX`] of an answer is read. A page that is longer is asked for again with fewer
//!    items; a page grows or shrinks towards [`PAGE_BYTES_TARGET`].

use std::time::Duration;

use http::{Method, Request, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use kube::client::Body;
use kube::core::response::Status;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Cluster;
use super::error::{RequestError, chain};

/// Longest answer that is read: twenty objects of etcd's largest.
pub(super) const ANSWER_BYTES_MAX: usize = 32 << 20;
/// What a page should weigh: some 25 MiB once parsed, four of them at once.
const PAGE_BYTES_TARGET: usize = 4 << 20;
/// Items of the first page, before anything is known of their size.
const PAGE_ITEMS_FIRST: usize = 200;
/// Items of a page at most.
const PAGE_ITEMS_MAX: usize = 2000;

/// A list of 2000 items from a busy server on a slow link.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// Tries of one request: over some two seconds, which a restarting proxy or leader needs.
const TRIES: u32 = 5;
/// Before the second try; doubled each time.
const BACKOFF: Duration = Duration::from_millis(125);
/// A server may ask for more patience; not for so much that a cycle hangs.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(5);

/// Asks for metadata only.
pub(super) const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
/// The same of a list.
pub(super) const METADATA_LIST: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
/// Whole objects.
pub(super) const JSON: &str = "application/json";

/// A request to be.
pub(super) struct Ask {
    pub(super) method: Method,
    /// With its query.
    pub(super) path: String,
    pub(super) accept: &'static str,
    pub(super) content_type: Option<&'static str>,
    pub(super) body: Vec<u8>,
}

impl Ask {
    pub(super) fn get(path: String, accept: &'static str) -> Self {
        Self { method: Method::GET, path, accept, content_type: None, body: Vec::new() }
    }
}

impl Cluster {
    /// The bytes of an answer that says yes.
    pub(super) async fn ask(&self, ask: &Ask) -> Result<Vec<u8>, RequestError> {
        let mut wait = BACKOFF;
        for attempt in 1.. {
            let error = match self.ask_once(ask).await {
                Ok(bytes) => return Ok(bytes),
                Err(error) => error,
            };
            let Some(asked) = retry_after(&error).filter(|_| attempt < TRIES) else { return Err(error) };
            tokio::time::sleep(wait.max(asked)).await;
            wait *= 2;
        }
        Err(RequestError::Lost { why: "no attempt was made".to_owned() })
    }

    /// An answer as a type.
    pub(super) async fn ask_for<T: DeserializeOwned>(&self, ask: &Ask) -> Result<T, RequestError> {
        decode(&self.ask(ask).await?)
    }

    async fn ask_once(&self, ask: &Ask) -> Result<Vec<u8>, RequestError> {
        let exchange = async {
            let mut request =
                Request::builder().method(&ask.method).uri(&ask.path).header(header::ACCEPT, ask.accept);
            if let Some(content_type) = ask.content_type {
                request = request.header(header::CONTENT_TYPE, content_type);
            }
            let answer = |error: http::Error| RequestError::Answer { why: error.to_string() };
            let request = request.body(Body::from(ask.body.clone())).map_err(answer)?;
            let response = self.client.send(request).await.map_err(|error| lost(&error))?;
            let code = response.status();
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
            let bytes = body.map_err(|error| {
                if error.is::<LengthLimitError>() { RequestError::TooLong } else { lost(&*error) }
            })?;
            let bytes = bytes.to_bytes().to_vec();
            if code.is_success() { Ok(bytes) } else { Err(refusal(code.as_u16(), &bytes)) }
        };
        match tokio::time::timeout(REQUEST_TIMEOUT, exchange).await {
            Ok(outcome) => outcome,
            // Not lost: one aggregated API that hangs is not the server that hangs. And not tried again: what took
            // a minute would take five.
            Err(_) => Err(RequestError::slow(format!("no answer in {REQUEST_TIMEOUT:?}"))),
        }
    }
}

pub(super) fn decode<'b, T: Deserialize<'b>>(bytes: &'b [u8]) -> Result<T, RequestError> {
    // The text of the error names types and places; the bytes may be a Secret.
    serde_json::from_slice(bytes).map_err(|error| RequestError::Answer {
        why: format!("line {}, column {}", error.line(), error.column()),
    })
}

fn lost(error: &(dyn std::error::Error + 'static)) -> RequestError {
    RequestError::Lost { why: chain(error) }
}

fn refusal(code: u16, bytes: &[u8]) -> RequestError {
    let mut status: Status = serde_json::from_slice(bytes).unwrap_or_else(|_| {
        // A proxy on the way, or an aggregated API: not in the API's form.
        Status { message: format!("HTTP status {code}"), ..Status::default() }
    });
    status.code = code;
    RequestError::Status(Box::new(status))
}

/// How long to wait at least before the same request may succeed, if it may.
fn retry_after(error: &RequestError) -> Option<Duration> {
    match error {
        RequestError::Lost { .. } => Some(Duration::ZERO),
        RequestError::Status(status) if matches!(status.code, 429 | 502 | 503 | 504) => {
            let asked = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
            Some(Duration::from_secs(asked.into()).min(RETRY_AFTER_MAX))
        }
        _ => None,
    }
}

/// How many items to ask for next.
#[derive(Debug, Clone, Copy)]
pub(super) struct PageSize(usize);

impl PageSize {
    pub(super) fn first() -> Self {
        Self(PAGE_ITEMS_FIRST)
    }

    pub(super) fn items(self) -> usize {
        self.0
    }

    /// After a page of so many items and bytes. Twice as many at most: sizes vary along a list.
    pub(super) fn after(self, items: usize, bytes: usize) -> Self {
        let fits = PAGE_BYTES_TARGET.saturating_mul(items.max(1)) / bytes.max(1);
        Self(fits.clamp(1, PAGE_ITEMS_MAX).min(self.0 * 2))
    }

    /// After one that was too long; none if it cannot be shorter.
    pub(super) fn shrunk(self) -> Option<Self> {
        (self.0 > 1).then_some(Self(self.0 / 4)).map(|size| Self(size.0.max(1)))
    }
}

/// How often a list begins again after the server forgot where it was.
const RESTARTS_MAX: u32 = 3;

/// A list, page by page.
#[derive(Clone)]
pub(super) struct Pager {
    path: String,
    query: String,
    accept: &'static str,
    size: PageSize,
    token: Option<String>,
    is_done: bool,
}

/// What a page says of the list.
#[derive(Debug, Default, Deserialize)]
pub(super) struct PageMeta {
    #[serde(default, rename = "continue")]
    pub(super) token: Option<String>,
}

impl Pager {
    /// The list at `path`, of objects that match a label selector.
    pub(super) fn new(path: String, selector: Option<&str>, accept: &'static str) -> Self {
        let query = selector.map_or_else(String::new, |query| format!("&labelSelector={}", escape(query)));
        Self { path, query, accept, size: PageSize::first(), token: None, is_done: false }
    }

    /// Only of objects whose fields match.
    pub(super) fn of_fields(mut self, selector: &str) -> Self {
        self.query.push_str(&format!("&fieldSelector={}", escape(selector)));
        self
    }

    /// The next page, if there is one. Call [`Pager::seen`] with what was in it.
    pub(super) async fn next(&mut self, cluster: &Cluster) -> Result<Option<Vec<u8>>, RequestError> {
        while !self.is_done {
            let token = self.token.as_ref();
            let token = token.map_or_else(String::new, |token| format!("&continue={}", escape(token)));
            let path = format!("{}?limit={}{}{token}", self.path, self.size.items(), self.query);
            match cluster.ask(&Ask::get(path, self.accept)).await {
                Ok(bytes) => return Ok(Some(bytes)),
                Err(RequestError::TooLong) => {
                    self.size = self.size.shrunk().ok_or(RequestError::TooLong)?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    pub(super) fn seen(&mut self, meta: PageMeta, items: usize, bytes: usize) {
        self.size = self.size.after(items, bytes);
        self.token = meta.token.filter(|token| !token.is_empty());
        self.is_done = self.token.is_none();
    }
}

#[derive(Deserialize)]
struct Objects {
    #[serde(default)]
    metadata: PageMeta,
    #[serde(default)]
    items: Option<Vec<Value>>,
}

impl Cluster {
    /// All objects of a list that is known to be short: of one namespace and one kind.
    pub(super) async fn list(&self, pager: Pager) -> Result<Vec<Value>, RequestError> {
        let mut restarts = 0;
        loop {
            match self.list_once(pager.clone()).await {
                Err(error) if is_expired(&error) && restarts < RESTARTS_MAX => restarts += 1,
                other => return other,
            }
        }
    }

    async fn list_once(&self, mut pager: Pager) -> Result<Vec<Value>, RequestError> {
        let mut all = Vec::new();
        while let Some(bytes) = pager.next(self).await? {
            let page: Objects = decode(&bytes)?;
            let items = page.items.unwrap_or_default();
            pager.seen(page.metadata, items.len(), bytes.len());
            all.extend(items);
        }
        Ok(all)
    }
}

/// Whether a list has to begin again: the server forgot where it was.
pub(super) fn is_expired(error: &RequestError) -> bool {
    error.status().is_some_and(|status| status.code == 410)
}

/// A part of a path or of a query.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_follows_the_size_of_what_is_listed() {
        let first = PageSize::first();
        assert_eq!(first.after(200, 200 << 10).items(), 400, "small items: twice as many at most");
        assert_eq!(first.after(200, 200 << 20).items(), 4, "items of 1 MiB: four of them");
        assert_eq!(first.after(0, 100).items(), 400);
        assert_eq!(PageSize(1500).after(1500, 1 << 20).items(), PAGE_ITEMS_MAX);
        assert_eq!(PageSize(3).shrunk().map(PageSize::items), Some(1));
        assert!(PageSize(1).shrunk().is_none());
    }

    #[test]
    fn names_are_escaped() {
        assert_eq!(escape("system:a b/c?é"), "system%3Aa%20b%2Fc%3F%C3%A9");
    }
}
