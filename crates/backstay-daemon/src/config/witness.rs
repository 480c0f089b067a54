//! Where the witness of automatic failovers is.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use backstay_net::Fingerprint;
use backstay_types::plan::WitnessKind;

use super::keys::absolute;

/// The witness of a site: the same for both sites of a pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WitnessConfig {
    /// Where it is.
    pub url: WitnessUrl,
    /// File with the bearer token of a witness server.
    pub token_file: Option<PathBuf>,
    /// Kubeconfig of the third cluster.
    pub kubeconfig: Option<PathBuf>,
}

/// Where a witness is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WitnessUrl {
    /// `https://HOST:PORT#FINGERPRINT`: a `backstay witness`, as it says itself when it starts.
    Server {
        /// `HOST:PORT`.
        endpoint: String,
        /// Of its certificate authority.
        fingerprint: Fingerprint,
    },
    /// `kubernetes:NAMESPACE`: Leases in a namespace of a third cluster.
    Lease {
        /// The namespace.
        namespace: String,
    },
    /// `file:///FOLDER`: on storage that both sites share.
    File {
        /// The folder.
        folder: PathBuf,
    },
}

impl WitnessUrl {
    /// What a plan calls it.
    pub const fn kind(&self) -> WitnessKind {
        match self {
            WitnessUrl::Server { .. } => WitnessKind::Server,
            WitnessUrl::Lease { .. } => WitnessKind::Lease,
            WitnessUrl::File { .. } => WitnessKind::File,
        }
    }
}

impl fmt::Display for WitnessUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WitnessUrl::Server { endpoint, fingerprint } => write!(f, "https://{endpoint}#{fingerprint}"),
            WitnessUrl::Lease { namespace } => write!(f, "kubernetes:{namespace}"),
            WitnessUrl::File { folder } => write!(f, "file://{}", folder.display()),
        }
    }
}

impl FromStr for WitnessUrl {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if let Some(rest) = text.strip_prefix("https://") {
            let (endpoint, fingerprint) = rest.split_once('#').ok_or(())?;
            let endpoint = endpoint.trim_end_matches('/');
            let (host, port) = endpoint.rsplit_once(':').ok_or(())?;
            let host_fits = !host.is_empty() && host.chars().all(|c| c.is_ascii_graphic() && c != '/');
            if !host_fits || !port.parse::<u16>().is_ok_and(|port| port > 0) {
                return Err(());
            }
            let fingerprint = fingerprint.parse().map_err(|_| ())?;
            return Ok(WitnessUrl::Server { endpoint: endpoint.to_owned(), fingerprint });
        }
        if let Some(namespace) = text.strip_prefix("kubernetes:") {
            // A namespace is a DNS label, as a plan's name is.
            let namespace: backstay_types::PlanName = namespace.parse().map_err(|_| ())?;
            return Ok(WitnessUrl::Lease { namespace: namespace.to_string() });
        }
        let folder = text.strip_prefix("file://").and_then(absolute).ok_or(())?;
        Ok(WitnessUrl::File { folder })
    }
}
