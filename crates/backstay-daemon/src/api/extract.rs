//! Bodies, queries and routes as handlers take them: what cannot be understood is told in the form of every error.

use axum::Json;
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use backstay_types::Class;
use serde::de::DeserializeOwned;

use super::Failed;
use crate::DaemonError;
use crate::api_types::{ErrorBody, ErrorInfo};

/// A JSON body.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Failed;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failed> {
        match Json::from_request(request, state).await {
            Ok(Json(value)) => Ok(Self(value)),
            Err(rejection) => Err(Failed(DaemonError::Request { message: rejection.body_text() })),
        }
    }
}

/// The part of an address after `?`.
pub(super) struct Asked<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = Failed;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failed> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(value)) => Ok(Self(value)),
            Err(rejection) => Err(Failed(DaemonError::Request { message: rejection.body_text() })),
        }
    }
}

/// An answer that no handler gave. Its class is not `notFound`: the route is missing, not a plan or a peer, most likely
/// because the caller is of another version.
pub(super) fn refusal(status: StatusCode, class: Class, message: String, hint: &str) -> Response {
    let error = ErrorInfo { class, message, hint: Some(hint.to_owned()) };
    (status, Json(ErrorBody { error })).into_response()
}

const ROUTES_HINT: &str = "/api/v1/openapi.json lists the routes of this version";

pub(super) async fn no_route(uri: Uri) -> Response {
    let message = format!("there is no route {}", uri.path());
    refusal(StatusCode::NOT_FOUND, Class::Incompatible, message, ROUTES_HINT)
}

pub(super) async fn no_method(method: Method, uri: Uri) -> Response {
    let message = format!("route {} does not take {method}", uri.path());
    refusal(StatusCode::METHOD_NOT_ALLOWED, Class::Incompatible, message, ROUTES_HINT)
}
