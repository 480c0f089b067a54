//! Where the admin API listens.
//!
//! The socket is 0600: whoever may open it is the site's operator. A TCP address needs a bearer token.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::extract::{ConnectInfo, Request, connect_info::Connected};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::serve::IncomingStream;
use backstay_types::Class;
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;

use super::extract::refusal;
use super::{Api, router};
use crate::DaemonError;
use crate::audit::Actor;
use crate::config::SiteConfig;
use crate::site::layout;

/// Listeners that were bound.
pub(crate) struct Listeners {
    socket: UnixListener,
    tcp: Option<(TcpListener, Arc<str>)>,
}

/// User id of the process at the other end of the socket, if the kernel tells.
#[derive(Clone, Copy)]
struct PeerUser(Option<u32>);

impl Connected<IncomingStream<'_, UnixListener>> for PeerUser {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Self(stream.io().peer_cred().ok().map(|credentials| credentials.uid()))
    }
}

/// Binds the socket of the site and, if configured, the TCP address.
pub(crate) async fn bind(dir: &Path, config: &SiteConfig) -> Result<Listeners, DaemonError> {
    let path = dir.join(layout::SOCKET);
    // The store's lock says that no other daemon runs here: a socket that is left over is from one that died.
    crate::files::remove(&path)?;
    let socket = UnixListener::bind(&path).map_err(|source| DaemonError::io("listen on", &path, source))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))
        .map_err(|source| DaemonError::io("restrict", &path, source))?;
    let tcp = match (&config.admin_listen, &config.admin_token_file) {
        (Some(address), Some(file)) => {
            let token = std::fs::read_to_string(file)
                .map_err(|source| DaemonError::TokenFile { path: file.clone(), source })?;
            let token: Arc<str> = token.trim().into();
            if token.len() < 16 {
                return Err(DaemonError::Request {
                    message: format!("{file:?}: expected a token of 16 characters or more"),
                });
            }
            let listener = TcpListener::bind(address).await;
            let listener =
                listener.map_err(|source| DaemonError::Listen { address: address.to_string(), source })?;
            Some((listener, token))
        }
        _ => None,
    };
    Ok(Listeners { socket, tcp })
}

impl Listeners {
    /// Serves until `stop`; requests under way are finished.
    pub(crate) async fn serve(self, api: Api, stop: CancellationToken) -> std::io::Result<()> {
        let routes = router(api);
        let local = routes.clone().layer(middleware::from_fn(name_local_actor));
        let local = local.into_make_service_with_connect_info::<PeerUser>();
        let stopped = stop.clone();
        let socket = axum::serve(self.socket, local).with_graceful_shutdown(stopped.cancelled_owned());
        let tcp = async {
            match self.tcp {
                Some((listener, token)) => {
                    let routes: Router = routes.layer(middleware::from_fn(move |request, next| {
                        check_token(token.clone(), request, next)
                    }));
                    axum::serve(listener, routes).with_graceful_shutdown(stop.cancelled_owned()).await
                }
                None => Ok(()),
            }
        };
        let (socket, tcp) = tokio::join!(socket.into_future(), tcp);
        socket.and(tcp)
    }
}

async fn name_local_actor(mut request: Request, next: Next) -> Response {
    let user = request.extensions().get::<ConnectInfo<PeerUser>>().and_then(|user| user.0.0);
    match user {
        Some(uid) => {
            request.extensions_mut().insert(Actor::Uid(uid));
            next.run(request).await
        }
        None => {
            let message = "the socket does not tell who asks".to_owned();
            refusal(StatusCode::FORBIDDEN, Class::Unauthorized, message, "ask over the socket of the site")
        }
    }
}

async fn check_token(token: Arc<str>, mut request: Request, next: Next) -> Response {
    let open = matches!(request.uri().path(), "/healthz" | "/readyz");
    let given = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    // Digests of equal length compare without telling how much of the token was right.
    let right = given.is_some_and(|given| blake3::hash(given) == blake3::hash(token.as_bytes()));
    if !open && !right {
        let message = "a bearer token is needed".to_owned();
        let hint = "send `Authorization: Bearer TOKEN` with the token of `admin.tokenFile`";
        return refusal(StatusCode::UNAUTHORIZED, Class::Unauthorized, message, hint);
    }
    request.extensions_mut().insert(Actor::Token);
    next.run(request).await
}
