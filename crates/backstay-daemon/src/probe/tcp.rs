//! Connecting to an address.

use tokio::net::TcpStream;

/// Connects to `HOST:PORT`.
pub(super) async fn connect(address: &str) -> Result<TcpStream, String> {
    TcpStream::connect(address).await.map_err(|error| format!("connect to {address}: {error}"))
}
