//! Each site tells the other where it is reached, on every connection: so one that has moved is found as long as either
//! can still dial the other.
//!
//! 1. Where a peer is says nothing about who it is: whoever answers there must show the pinned authority.
//! 2. What is told is added to what was known before, and replaces what was told before (test
//!    `a_site_that_moves_is_found_from_then_on`).

use std::net::SocketAddr;
use std::sync::Arc;

use backstay_types::frame::{Done, Frame, Refused, Whereabouts};
use backstay_types::{Class, Classify};

use crate::book::BookError;
use crate::connection::Connection;
use crate::control::{Control, StreamError};
use crate::core::{Core, blocking};
use crate::endpoint;
use crate::hello::HELLO_TIMEOUT;

/// What cannot be taken for a place.
#[derive(Debug, thiserror::Error)]
#[error("endpoint {endpoint:?}: expected HOST:PORT")]
struct NoEndpoint {
    endpoint: String,
}

impl Classify for NoEndpoint {
    fn class(&self) -> Class {
        Class::Invalid
    }
}

/// Tells the peer where this site is reached. One that does not know the question goes without.
pub(crate) async fn tell(core: &Core, connection: &Connection) -> Result<(), StreamError> {
    let told = Whereabouts { endpoints: core.config.advertise.clone(), port: core.local.port() };
    let exchange = async {
        let mut control = connection.open(Frame::Whereabouts(told)).await?;
        control.finish()?;
        control.recv().await
    };
    match tokio::time::timeout(HELLO_TIMEOUT, exchange).await {
        Ok(Ok(Some(Frame::Done(_)))) => Ok(()),
        Ok(Ok(answer)) => {
            let answer = answer.as_ref().map_or("nothing", Frame::name);
            tracing::debug!(peer = %connection.peer().name, answer, "the peer does not take note of where this site is");
            Ok(())
        }
        Ok(Err(error)) => Err(error),
        Err(_) => {
            tracing::debug!(peer = %connection.peer().name, "the peer is slow to take note of where this site is");
            Ok(())
        }
    }
}

/// Takes note of where the peer is reached.
pub(crate) async fn hear(
    core: &Arc<Core>,
    connection: &Connection,
    mut control: Control,
    told: Whereabouts,
) -> Result<(), StreamError> {
    let answer = match note(core, connection, told).await {
        Ok(()) => Frame::Done(Done {}),
        Err(error) => {
            tracing::warn!(peer = %connection.peer().name, %error, "not noted where the peer is");
            Frame::Refused(Refused::new(&*error, None))
        }
    };
    control.send(&answer).await?;
    control.finish()
}

async fn note(
    core: &Arc<Core>,
    connection: &Connection,
    told: Whereabouts,
) -> Result<(), Box<dyn Classify + Send + Sync>> {
    if let Some(bad) = told.endpoints.iter().find(|name| !endpoint::is_endpoint(name)) {
        return Err(Box::new(NoEndpoint { endpoint: bad.clone() }));
    }
    let reached = if told.endpoints.is_empty() {
        vec![SocketAddr::new(connection.remote().ip().to_canonical(), told.port).to_string()]
    } else {
        told.endpoints
    };
    let (book, pair) = (core.book.clone(), connection.pair());
    let noted: Result<(), BookError> = blocking(move || {
        let Some(record) = book.get(pair) else { return Ok(()) };
        let is_known = reached.iter().all(|endpoint| record.endpoints.contains(endpoint));
        let told = if is_known { Vec::new() } else { reached };
        if record.told != told {
            tracing::info!(peer = %record.name, endpoints = told.join(" "), "the peer tells where it is reached");
            book.update(pair, |record| record.told = told)?;
        }
        Ok(())
    })
    .await;
    noted.map_err(|error| Box::new(error) as _)
}
