//! A `backstay witness`, asked over HTTP/1.1 and TLS: one connection a question, a few bytes each way.

use std::path::PathBuf;

use backstay_engine::lease::{LeaseRecord, Seen, Version};
use backstay_net::{Fingerprint, connect_pinned};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, IF_MATCH, IF_NONE_MATCH};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;

use super::serve::{LEASES_PATH, read_token};
use super::{LeaseId, Swapped, WitnessError};

/// Ours are below 500 bytes.
const ANSWER_BYTES_MAX: usize = 16 << 10;

/// A witness server, as a client sees it.
#[derive(Debug, Clone)]
pub(crate) struct ServerWitness {
    endpoint: String,
    fingerprint: Fingerprint,
    token_file: PathBuf,
}

impl ServerWitness {
    pub(crate) const fn new(endpoint: String, fingerprint: Fingerprint, token_file: PathBuf) -> Self {
        Self { endpoint, fingerprint, token_file }
    }

    pub(crate) async fn read(&self, id: &LeaseId) -> Result<Option<Seen>, WitnessError> {
        let (status, body) = self.ask(Method::GET, id, None, Bytes::new()).await?;
        match status {
            StatusCode::NOT_FOUND => Ok(None),
            StatusCode::OK => {
                serde_json::from_slice(&body).map(Some).map_err(|error| garbled(&error.to_string()))
            }
            other => Err(self.refused(other, &body)),
        }
    }

    pub(crate) async fn swap(
        &self,
        id: &LeaseId,
        over: Option<&Version>,
        record: &LeaseRecord,
    ) -> Result<Swapped, WitnessError> {
        let body = serde_json::to_vec(record).map_err(|error| garbled(&error.to_string()))?;
        let condition = match over {
            Some(version) => (IF_MATCH, format!("\"{}\"", version.0)),
            None => (IF_NONE_MATCH, "*".to_owned()),
        };
        let (status, body) = self.ask(Method::PUT, id, Some(condition), body.into()).await?;
        match status {
            StatusCode::OK => {
                let seen: Seen =
                    serde_json::from_slice(&body).map_err(|error| garbled(&error.to_string()))?;
                Ok(Swapped::To(seen.version))
            }
            StatusCode::PRECONDITION_FAILED => Ok(Swapped::Conflict),
            other => Err(self.refused(other, &body)),
        }
    }

    async fn ask(
        &self,
        method: Method,
        id: &LeaseId,
        condition: Option<(hyper::header::HeaderName, String)>,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), WitnessError> {
        let token = read_token(&self.token_file)?;
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{LEASES_PATH}/{}", id.as_str()))
            .header(HOST, &self.endpoint)
            .header(CONTENT_TYPE, "application/json")
            .header(AUTHORIZATION, format!("Bearer {token}"));
        if let Some((name, value)) = condition {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(body)).map_err(|error| garbled(&error.to_string()))?;
        let away = |why: String| WitnessError::Unreachable { endpoint: self.endpoint.clone(), why };
        let stream = connect_pinned(&self.endpoint, self.fingerprint).await;
        let stream = stream.map_err(|error| away(error.to_string()))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| away(error.to_string()))?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(|error| away(error.to_string()))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|error| away(error.to_string()))?;
            Ok((status, body.to_bytes()))
        };
        let mut exchange = std::pin::pin!(exchange);
        tokio::select! {
            answer = &mut exchange => answer,
            // The connection's end: what it brought is in the answer.
            _ = connection => exchange.await,
        }
    }

    fn refused(&self, status: StatusCode, body: &Bytes) -> WitnessError {
        let message: String = String::from_utf8_lossy(body).trim().chars().take(200).collect();
        WitnessError::Refused { endpoint: self.endpoint.clone(), status: status.as_u16(), message }
    }
}

fn garbled(why: &str) -> WitnessError {
    WitnessError::Garbled { why: why.to_owned() }
}
