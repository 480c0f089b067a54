//! `backstay witness`: leases over HTTPS, for those who have the token.
//!
//! `GET /v1/leases/ID` gives version and record; `PUT` with `If-Match: "VERSION"`, or `If-None-Match: *`, swaps. It tells
//! no time and decides nothing.
//!
//! 1. Nothing is answered before it is durable ([`LeaseFolder`]); after a crash the folder is all there is to it.
//! 2. Bounded: leases and their size, connections, and the time of each.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path as Named, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use backstay_engine::lease::{LeaseRecord, Seen, Version};
use backstay_net::{Fingerprint, Identity, PinnedListener, PinnedStream};
use backstay_types::{Class, Classify, SiteId};
use tokio::signal::unix::{SignalKind, signal};

use super::folder::LeaseFolder;
use super::{LeaseId, Swapped, WitnessError};

/// Where leases are.
pub(super) const LEASES_PATH: &str = "/v1/leases";
/// A record is below 300 bytes.
const BODY_BYTES_MAX: usize = 4 << 10;
/// A question that takes longer is one whose asker has given up.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// The shortest token.
const TOKEN_BYTES_MIN: usize = 16;

/// How to run a witness.
#[derive(Debug, Clone)]
pub struct WitnessOptions {
    /// Its folder: leases, identity, token.
    pub dir: PathBuf,
    /// Where it listens.
    pub listen: SocketAddr,
    /// File with its token; `DIR/token`, made at the first start, without it.
    pub token_file: Option<PathBuf>,
}

/// Runs a witness until SIGTERM or SIGINT. `ready` is told where it listens and what it is known by.
pub async fn serve(
    options: WitnessOptions,
    ready: impl FnOnce(SocketAddr, Fingerprint, &Path),
) -> Result<(), WitnessError> {
    let identity = open(&options.dir)?;
    let token_file = match &options.token_file {
        Some(path) => path.clone(),
        None => own_token(&options.dir)?,
    };
    let token: Arc<str> = read_token(&token_file)?.into();
    let failed = |source| WitnessError::Listen { address: options.listen.to_string(), source };
    let listener = PinnedListener::bind(options.listen, &identity).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let mut term = signal(SignalKind::terminate()).map_err(failed)?;
    let mut int = signal(SignalKind::interrupt()).map_err(failed)?;
    ready(address, identity.fingerprint(), &token_file);
    tracing::info!(listen = %address, fingerprint = %identity.fingerprint(), "witness ready");
    let stop = async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    };
    let served = axum::serve(Listener(listener), router(LeaseFolder::new(options.dir.clone()), token));
    served.with_graceful_shutdown(stop).await.map_err(failed)
}

/// The folder of a witness, made at its first start.
fn open(dir: &Path) -> Result<Identity, WitnessError> {
    let home = dir.join("identity");
    std::fs::create_dir_all(dir)
        .and_then(|()| std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)))
        .map_err(|source| WitnessError::Io { action: "make folder", path: dir.to_owned(), source })?;
    if home.exists() {
        return Ok(Identity::load(&home)?);
    }
    Ok(Identity::create(&home, SiteId(rand::random()), "witness")?)
}

/// The token beside the leases, made if it is not there.
fn own_token(dir: &Path) -> Result<PathBuf, WitnessError> {
    let path = dir.join("token");
    if !path.exists() {
        let token = format!("{:032x}{:032x}\n", rand::random::<u128>(), rand::random::<u128>());
        crate::files::write(&path, token.as_bytes())
            .map_err(|error| WitnessError::Token { path: path.clone(), why: error.to_string() })?;
    }
    Ok(path)
}

/// A token from its file.
pub(super) fn read_token(path: &Path) -> Result<String, WitnessError> {
    let bad = |why: String| WitnessError::Token { path: path.to_owned(), why };
    let text = std::fs::read_to_string(path).map_err(|error| bad(error.to_string()))?;
    let token = text.trim();
    let fits = token.len() >= TOKEN_BYTES_MIN && token.bytes().all(|b| b.is_ascii_graphic());
    fits.then(|| token.to_owned())
        .ok_or_else(|| bad(format!("expected {TOKEN_BYTES_MIN} printable characters or more")))
}

struct Listener(PinnedListener);

impl axum::serve::Listener for Listener {
    type Io = PinnedStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (PinnedStream, SocketAddr) {
        self.0.accept().await
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

fn router(folder: LeaseFolder, token: Arc<str>) -> Router {
    Router::new()
        .route(&format!("{LEASES_PATH}/{{id}}"), get(read).put(swap))
        .layer(middleware::from_fn(move |request, next| admit(token.clone(), request, next)))
        .route("/healthz", get(|| async { "ok\n" }))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(folder)
}

/// Lets those in who have the token, for a while.
async fn admit(token: Arc<str>, request: Request, next: Next) -> Response {
    let given = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    // Digests of equal length compare without telling how much of the token was right.
    if !given.is_some_and(|given| blake3::hash(given) == blake3::hash(token.as_bytes())) {
        return (StatusCode::UNAUTHORIZED, "the token is not that of this witness\n").into_response();
    }
    let within = tokio::time::timeout(ANSWER_WITHIN, next.run(request)).await;
    within.unwrap_or_else(|_| (StatusCode::SERVICE_UNAVAILABLE, "not in time\n").into_response())
}

/// An error on its way out.
struct Failed(WitnessError);

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        let status = match self.0.class() {
            Class::Transient | Class::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Class::LimitExceeded => StatusCode::INSUFFICIENT_STORAGE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        tracing::warn!(class = self.0.class().label(), "{}", self.0);
        (status, format!("{}\n", self.0)).into_response()
    }
}

/// What a question was answered with, if not with what was asked for.
fn no(status: StatusCode, why: &'static str) -> Response {
    (status, why).into_response()
}

const BAD_ID: &str = "that is no id of a lease\n";

async fn read(State(folder): State<LeaseFolder>, Named(id): Named<String>) -> Response {
    let Some(id) = LeaseId::parse(&id) else { return no(StatusCode::BAD_REQUEST, BAD_ID) };
    match folder.read(id).await {
        Ok(Some(seen)) => Json(seen).into_response(),
        Ok(None) => no(StatusCode::NOT_FOUND, "there is no such lease\n"),
        Err(error) => Failed(error).into_response(),
    }
}

async fn swap(
    State(folder): State<LeaseFolder>,
    Named(id): Named<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let Some(id) = LeaseId::parse(&id) else { return no(StatusCode::BAD_REQUEST, BAD_ID) };
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let over = match (text(header::IF_MATCH), text(header::IF_NONE_MATCH)) {
        (Some(version), None) => Some(Version(version.trim_matches('"').to_owned())),
        (None, Some("*")) => None,
        _ => {
            let needed = "expected `If-Match: \"VERSION\"` or `If-None-Match: *`\n";
            return no(StatusCode::PRECONDITION_REQUIRED, needed);
        }
    };
    let record: LeaseRecord = match serde_json::from_slice(&body) {
        Ok(record) => record,
        Err(error) => return (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    };
    let is_new = over.is_none();
    match folder.swap(id.clone(), over, record.clone()).await {
        Ok(Swapped::To(version)) => {
            let LeaseRecord { holder, epoch, released, .. } = record;
            if is_new || released {
                tracing::info!(lease = id.as_str(), %holder, %epoch, released, "lease");
            }
            Json(Seen { version, record }).into_response()
        }
        Ok(Swapped::Conflict) => no(StatusCode::PRECONDITION_FAILED, "another version is there\n"),
        Err(error) => Failed(error).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::client::ServerWitness;
    use super::super::tests::record;
    use super::*;

    /// A client and a server over a real socket: what is swapped is read, over another version nothing is, and without
    /// the token nobody is answered.
    #[tokio::test]
    async fn a_client_swaps_and_reads() {
        let home = tempfile::tempdir().expect("a folder");
        let identity = open(home.path()).expect("made");
        let token_file = own_token(home.path()).expect("made");
        let token: Arc<str> = read_token(&token_file).expect("read").into();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = PinnedListener::bind(any, &identity).await.expect("bound");
        let endpoint = listener.local_addr().expect("bound").to_string();
        let routes = router(LeaseFolder::new(home.path().to_owned()), token);
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(axum::serve(Listener(listener), routes).into_future());

        let again = open(home.path()).expect("there");
        assert_eq!(again.fingerprint(), identity.fingerprint(), "a witness stays who it is");
        let client = ServerWitness::new(endpoint.clone(), identity.fingerprint(), token_file);
        let id = LeaseId::parse("00ff-shop").expect("an id");
        assert_eq!(client.read(&id).await.expect("asked"), None);
        let Swapped::To(first) = client.swap(&id, None, &record(1)).await.expect("asked") else {
            panic!("nothing was there")
        };
        assert_eq!(client.swap(&id, None, &record(2)).await.expect("asked"), Swapped::Conflict);
        let Swapped::To(second) = client.swap(&id, Some(&first), &record(2)).await.expect("asked") else {
            panic!("it was there")
        };
        assert_eq!(client.swap(&id, Some(&first), &record(3)).await.expect("asked"), Swapped::Conflict);
        let seen = client.read(&id).await.expect("asked").expect("there");
        assert_eq!((seen.version, seen.record), (second, record(2)));

        let wrong = home.path().join("wrong");
        std::fs::write(&wrong, "sixteen or more letters".replace(' ', "-")).expect("written");
        let stranger = ServerWitness::new(endpoint, identity.fingerprint(), wrong);
        let error = stranger.read(&id).await.expect_err("refused");
        assert_eq!(error.class(), Class::Unauthorized);
        assert!(error.hint().is_some_and(|hint| hint.contains("witness.tokenFile")));
    }
}
