//! A cluster, through its API server: capture and freeze on the active side; apply, hold and release on the standby.
//!
//! Speaks to the API server over a few dozen HTTP/1.1 connections and nothing between: no client-side rate limit
//! (priority and fairness are the server's), no retry layer that hides what happened, and nothing that logs a
//! request or an answer, since both may be Secrets.
//!
//! 1. A list is paged by bytes, and a page is bounded before it is read (`request.rs`).
//! 2. A server that does not answer is one transient error of the whole run, an object that is refused is one
//!    failure of that object (`error.rs`).
//!
//! At a crash nothing is left behind but objects, each whole: the next run goes on.

mod apply;
mod capture;
mod discovery;
mod drift;
mod drill;
mod edit;
mod error;
mod fault;
mod freeze;
mod home;
mod items;
mod let_go;
mod links;
mod live;
mod prepare;
mod probe;
mod ready;
mod release;
mod request;
mod running;
mod scope;
mod stand_still;
mod waiting;
mod write;

use std::path::PathBuf;
use std::time::Duration;

use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ClientBuilder, ConfigExt};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tower::{BoxError, ServiceExt};

pub use apply::{ApplyOptions, ApplyReport, LeftOfPlan};
pub use capture::{
    CAPTURE_RECORD_KEY, CaptureReport, Captured, FoundVolume, Missing, VolumeSource, volume_names, volumes_of,
};
pub use drift::Drift;
pub use drill::{DRILL_LABEL, Isolated, drill_name, isolate};
pub(crate) use edit::difference;
pub use error::ClusterError;
pub(crate) use error::{error_class, error_text};
pub use freeze::{FreezeError, FreezeReport, FreezeRequest, Frozen};
pub use prepare::VolumePlace;
pub use release::ReleaseReport;
pub use scope::Scope;

/// Field manager of everything Backstay writes.
pub const FIELD_MANAGER: &str = "backstay";

/// A server that does not take a connection in so long is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Which cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClusterOptions {
    /// A kubeconfig; without one, the service account of the pod, or what `KUBECONFIG` and the home folder say.
    pub kubeconfig: Option<PathBuf>,
    /// A context of it other than the current one.
    pub context: Option<String>,
}

/// A connection to an API server. Cheap to clone.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    /// Whether this process is a pod of it.
    is_pod: bool,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cluster")
    }
}

impl Cluster {
    /// Reads the configuration. Nothing is asked of the server yet, so that it may come up later.
    pub async fn connect(options: &ClusterOptions) -> Result<Self, ClusterError> {
        let config = config(options).await?;
        let client = client(&config).map_err(|source| ClusterError::config(options, &source))?;
        let is_pod = options.kubeconfig.is_none()
            && options.context.is_none()
            && std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
        Ok(Self { client, is_pod })
    }

    /// The namespace that Backstay runs in, if it runs in this cluster. A kubeconfig that names none means `default`,
    /// which is anybody's.
    pub(crate) fn home_namespace(&self) -> Option<&str> {
        let own = self.own_namespace();
        (self.is_pod || own != "default").then_some(own)
    }

    /// The namespace of this process: that of its service account, or the one its kubeconfig names.
    pub(crate) fn own_namespace(&self) -> &str {
        self.client.default_namespace()
    }

    /// The client, for those who watch objects or run commands in pods.
    pub fn client(&self) -> &Client {
        &self.client
    }
}

async fn config(options: &ClusterOptions) -> Result<Config, ClusterError> {
    let choice = KubeConfigOptions { context: options.context.clone(), ..KubeConfigOptions::default() };
    match &options.kubeconfig {
        Some(path) => {
            let kubeconfig =
                Kubeconfig::read_from(path).map_err(|source| ClusterError::config(options, &source))?;
            Config::from_custom_kubeconfig(kubeconfig, &choice)
                .await
                .map_err(|source| ClusterError::config(options, &source))
        }
        None if options.context.is_some() => {
            Config::from_kubeconfig(&choice).await.map_err(|source| ClusterError::config(options, &source))
        }
        None => Config::infer().await.map_err(|source| ClusterError::config(options, &source)),
    }
}

fn client(config: &Config) -> Result<Client, kube::Error> {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    // Small requests one after the other: waiting to fill a segment would cost 40 ms each.
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    let connector = config.rustls_https_connector_with_connector(connector)?;
    let http: HttpClient<_, Body> = HttpClient::builder(TokioExecutor::new()).build(connector);
    let http = http.map_err(BoxError::from);
    let namespace = config.default_namespace.clone();
    Ok(match config.auth_layer()? {
        Some(auth) => {
            ClientBuilder::new(http, namespace).with_layer(&auth).with_layer(&config.base_uri_layer()).build()
        }
        None => ClientBuilder::new(http, namespace).with_layer(&config.base_uri_layer()).build(),
    })
}
