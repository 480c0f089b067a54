//! One request by HTTP.

use bytes::Bytes;
use http_body_util::Empty;
use hyper::header::{HOST, HeaderValue, USER_AGENT};
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;

use super::tcp;

/// The status of the answer to a request. What else is answered is not read.
pub(super) async fn get(url: &str) -> Result<u16, String> {
    let fail = |error: &dyn std::fmt::Display| format!("ask {url}: {error}");
    let uri: Uri = url.parse().map_err(|error| fail(&error))?;
    let authority = uri.authority().ok_or_else(|| fail(&"it names no host"))?;
    let stream =
        tcp::connect(&format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80))).await?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.map_err(|error| fail(&error))?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::get(path)
        .header(HOST, authority.as_str())
        .header(USER_AGENT, HeaderValue::from_static("backstay-drill"))
        .body(Empty::<Bytes>::new())
        .map_err(|error| fail(&error))?;
    let answer = async {
        let answer = sender.send_request(request).await.map(|answer| answer.status().as_u16());
        // Without it the connection has nothing to wait for.
        drop(sender);
        answer.map_err(|error| fail(&error))
    };
    // The connection does its work while it is polled; how it ends says nothing about the answer.
    let (answer, _ended) = tokio::join!(answer, connection);
    answer
}
