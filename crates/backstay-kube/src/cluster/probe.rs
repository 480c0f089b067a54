//! Looking at what was started: commands in its pods, and requests to its Services through the API server.

use std::collections::BTreeMap;

use backstay_types::plan::{ExecProbe, ServicePort};
use http::Request;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, AttachParams, AttachedProcess, ListParams};
use kube::client::Body;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::error::ClusterError;
use super::scope::{Scope, namespaces};
use super::{Cluster, error_text};

/// What is kept of what a command says.
const OUTPUT_BYTES_MAX: usize = 1024;
/// Pods of one probe: each is asked in turn.
const PODS_MAX: u32 = 64;
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

impl Cluster {
    /// The names of the namespaces of a scope.
    pub async fn namespaces_of(&self, scope: &Scope) -> Result<Vec<String>, ClusterError> {
        Ok(namespaces(self, scope).await?.names.into_iter().collect())
    }

    /// Runs a command in the pods of these namespaces that a probe selects: the beginning of what the last one said, or
    /// why it did not pass.
    pub async fn exec_in_pods(&self, namespaces: &[String], probe: &ExecProbe) -> Result<String, String> {
        let mut said = None;
        for namespace in namespaces {
            let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
            let params = ListParams::default().labels(&selector(&probe.pod_selector)).limit(PODS_MAX);
            let found = pods.list(&params).await.map_err(|error| error_text(&error))?;
            for pod in found.items.iter().filter(|pod| is_live(pod)) {
                said = Some(exec(&pods, pod, probe).await?);
            }
        }
        said.ok_or_else(|| "no pod matches podSelector and runs".to_owned())
    }

    /// The status that a Service in a namespace answers with.
    pub async fn ask_service(&self, namespace: &str, service: &ServicePort) -> Result<u16, String> {
        let (name, port) = (&service.name, service.port);
        let path = service.path.as_deref().unwrap_or("/");
        let uri = format!("/api/v1/namespaces/{namespace}/services/{name}:{port}/proxy{path}");
        let fail = |error: &dyn std::fmt::Display| format!("ask {name}:{port} of {namespace}: {error}");
        let request = Request::get(uri).body(Body::empty()).map_err(|error| fail(&error))?;
        let answer = self.client.send(request).await.map_err(|error| fail(&error_text(&error)))?;
        Ok(answer.status().as_u16())
    }
}

fn selector(labels: &BTreeMap<String, String>) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

fn is_live(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    phase == Some("Running") && pod.metadata.deletion_timestamp.is_none()
}

async fn exec(pods: &Api<Pod>, pod: &Pod, probe: &ExecProbe) -> Result<String, String> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let annotated = pod.metadata.annotations.iter().find_map(|all| all.get(DEFAULT_CONTAINER));
    let first = pod.spec.iter().flat_map(|spec| &spec.containers).map(|container| &container.name).next();
    let container = probe.container.as_ref().or(annotated).or(first);
    let params = AttachParams::default().stdin(false).stdout(true).stderr(true);
    let params = container.iter().fold(params, |params, container| params.container(container.as_str()));
    let fail = |error: &dyn std::fmt::Display| format!("pod {name}: {error}");
    let mut process =
        pods.exec(name, &probe.command, &params).await.map_err(|error| fail(&error_text(&error)))?;
    let (said, complained) = tokio::join!(head(process.stdout()), head(process.stderr()));
    let status = ended(&mut process).await.ok_or_else(|| fail(&"the connection was lost"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    match status.status.as_deref() {
        Some("Success") => Ok(text(&said)),
        _ => {
            let words = if complained.is_empty() { text(&said) } else { text(&complained) };
            Err(fail(&format!("{}: {words}", status.message.unwrap_or_default())))
        }
    }
}

async fn ended(
    process: &mut AttachedProcess,
) -> Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Status> {
    process.take_status()?.await
}

/// Reads to the end, and keeps the beginning.
async fn head(from: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let (mut kept, mut piece) = (Vec::new(), [0; 1024]);
    let Some(mut from) = from else { return kept };
    while let Ok(len @ 1..) = from.read(&mut piece).await {
        let room = OUTPUT_BYTES_MAX.saturating_sub(kept.len());
        kept.extend(piece.iter().take(len.min(room)));
    }
    kept
}
