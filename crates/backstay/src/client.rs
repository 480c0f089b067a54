//! Talking to the running daemon: HTTP/1.1 over `DIR/api.sock`, one connection a request.
//!
//! No request has a time limit of its own: a sync takes as long as it takes. A daemon that dies closes the connection,
//! which ends the request with a failure that says so.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use backstay_daemon::api_types::{API_PREFIX, ErrorBody, SOCKET_NAME};
use backstay_daemon::config;
use backstay_types::Class;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::failure::Failure;

/// Largest answer that is read: a page of 10 000 differences with long paths is under 50 MB.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// The daemon of one site.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    dir: PathBuf,
}

impl Client {
    pub(crate) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.request(Method::GET, path, Bytes::new()).await
    }

    pub(crate) async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.request(Method::DELETE, path, Bytes::new()).await
    }

    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        let body = serde_json::to_vec(body).map_err(|error| {
            Failure::new(Class::Invalid, format!("the request cannot be sent as JSON: {error}"))
        })?;
        self.request(Method::POST, path, body.into()).await
    }

    async fn request<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, Failure> {
        let request = Request::builder()
            .method(method)
            .uri(format!("{API_PREFIX}{path}"))
            .header(HOST, "backstay")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| Failure::new(Class::Invalid, format!("request {path}: {error}")))?;
        let (status, body) = self.exchange(request).await?;
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|error| {
                Failure::new(
                    Class::Incompatible,
                    format!("the daemon's answer to {path} is not understood: {error}"),
                )
                .hint("run the daemon and the command line in the same version")
            });
        }
        match serde_json::from_slice::<ErrorBody>(&body) {
            Ok(body) => Err(Failure::told(body.error)),
            Err(_) => {
                let text = String::from_utf8_lossy(&body);
                let text = text.chars().take(200).collect::<String>();
                let class = if status.as_u16() == 404 { Class::Incompatible } else { Class::Bug };
                Err(Failure::new(class, format!("the daemon answered {path} with {status}: {text}")))
            }
        }
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), Failure> {
        let stream = TokioIo::new(self.connect().await?);
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(stream).await.map_err(|error| self.broken(&error))?;
        let ask = async move {
            let response = sender.send_request(request).await.map_err(|error| self.broken(&error))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
            Ok((status, body.map_err(|error| self.broken(&*error))?.to_bytes()))
        };
        // The connection ends once `ask` has dropped its sender; what breaks it fails `ask` as well.
        let (answer, _) = tokio::join!(ask, connection);
        answer
    }

    async fn connect(&self) -> Result<UnixStream, Failure> {
        let socket = self.dir.join(SOCKET_NAME);
        let error = match UnixStream::connect(&socket).await {
            Ok(stream) => return Ok(stream),
            Err(error) => error,
        };
        let dir = self.dir.display();
        let is_site = self.dir.join(config::FILE_NAME).try_exists();
        Err(match error.kind() {
            ErrorKind::PermissionDenied => {
                Failure::new(Class::Unauthorized, format!("the socket {} is not yours to open", socket.display()))
                    .hint("run as the user the daemon runs as")
            }
            ErrorKind::NotFound if matches!(is_site, Ok(false)) => {
                Failure::new(Class::NotFound, format!("there is no site in {dir}")).hint(format!(
                    "name the site's folder with --site or BACKSTAY_SITE, or make one: `backstay init --site {dir} --name NAME`"
                ))
            }
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
                Failure::new(Class::Transient, format!("the daemon of {dir} is not running"))
                    .hint(format!("start it: `backstay serve --site {dir}`"))
            }
            _ => Failure::new(Class::Transient, format!("connect to {}: {error}", socket.display())),
        })
    }

    fn broken(&self, error: &(dyn std::error::Error + 'static)) -> Failure {
        let dir = self.dir.display();
        Failure::new(Class::Transient, format!("the daemon of {dir} broke off: {error}")).hint(format!(
            "if it stopped, start it and ask again: `backstay serve --site {dir}`; work that was under way resumes"
        ))
    }
}
