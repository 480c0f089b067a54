//! What `config/deploy` and `config/helm/backstay` install: both the same, accepted by a real API server, with roles
//! that allow what the product does and no more.
//!
//! That the roles suffice is shown by every test of `objects`: its rig captures as the installed sender and applies
//! as the installed receiver.

mod image;
mod render;
mod roles;

use std::path::{Path, PathBuf};

use backstay_tests::kube::{self, ControlPlane};
use serde_json::Value;
use tempfile::TempDir;

/// Where the daemon is installed.
const NAMESPACE: &str = "backstay-system";
const ROLES: [&str; 3] = ["sender", "receiver", "both"];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The documents of a rendered text.
fn documents(yaml: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(yaml).unwrap()
}

/// An overlay as it is.
fn overlay(role: &str) -> Vec<Value> {
    documents(&kube::kustomize(&repository().join("config/deploy/overlays").join(role)))
}

/// An operator's own kustomization over an overlay, as docs/kubernetes.md has it, with further components.
fn overlay_with(role: &str, components: &[&str], settings: &[&str]) -> Vec<Value> {
    let home = TempDir::new().unwrap();
    let copied = std::process::Command::new("cp")
        .arg("-r")
        .args(["crds", "deploy"].map(|folder| repository().join("config").join(folder)))
        .arg(home.path())
        .status();
    assert!(copied.unwrap().success());
    let own = serde_json::json!({
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [format!("../deploy/overlays/{role}")],
        "components": components.iter().map(|one| format!("../deploy/components/{one}")).collect::<Vec<_>>(),
        "configMapGenerator": [
            {"name": "backstay", "namespace": NAMESPACE, "behavior": "merge", "literals": settings},
        ],
    });
    let folder = home.path().join("own");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("kustomization.yaml"), own.to_string()).unwrap();
    documents(&kube::kustomize(&folder))
}

/// The chart with some values, definitions included.
fn chart(values: &[&str]) -> Vec<Value> {
    documents(&helm_template(values).ok().stdout)
}

fn helm_template(values: &[&str]) -> backstay_tests::Output {
    let chart = repository().join("config/helm/backstay");
    let mut args: Vec<String> =
        ["template", "backstay", chart.to_str().unwrap(), "--namespace", NAMESPACE, "--include-crds"]
            .map(str::to_owned)
            .to_vec();
    for value in values {
        args.extend(["--set-json".to_owned(), (*value).to_owned()]);
    }
    kube::helm(args)
}

fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// `Kind namespace/name`.
fn name_of(document: &Value) -> String {
    let [kind, namespace, name] =
        ["/kind", "/metadata/namespace", "/metadata/name"].map(|at| text(document, at));
    format!("{kind} {namespace}/{name}")
}

#[track_caller]
fn find<'d>(documents: &'d [Value], kind: &str, name: &str) -> &'d Value {
    let is = |one: &&Value| text(one, "/kind") == kind && text(one, "/metadata/name") == name;
    documents.iter().find(is).unwrap_or_else(|| panic!("no {kind} {name} was rendered"))
}

/// Gives a cluster the service account of the daemon with its roles. Answers the account's kubeconfig.
pub(crate) fn account(plane: &ControlPlane, rendered: &[Value]) -> PathBuf {
    // Of a chart it is made by `helm install --create-namespace`.
    let namespace =
        serde_json::json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    let rendered = [&[namespace], rendered].concat();
    let kinds = ["Namespace", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"];
    install(plane, &rendered, &kinds);
    plane.cluster().kubeconfig_of(NAMESPACE, "backstay")
}

/// The account of an overlay.
pub(crate) fn account_of(plane: &ControlPlane, role: &str) -> PathBuf {
    account(plane, &overlay(role))
}

/// Installs these kinds of what was rendered.
fn install(plane: &ControlPlane, rendered: &[Value], kinds: &[&str]) {
    let wanted = in_one(rendered.iter().filter(|one| kinds.contains(&text(one, "/kind"))));
    let file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
    std::fs::write(file.path(), wanted).unwrap();
    let path = file.path().to_str().unwrap();
    plane.cluster().kubectl(["apply", "--server-side", "-f", path]).ok();
    if kinds.contains(&"CustomResourceDefinition") {
        plane
            .cluster()
            .kubectl(["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"])
            .ok();
    }
}

/// Several documents as one text.
fn in_one<'v>(documents: impl Iterator<Item = &'v Value>) -> String {
    documents.map(|one| format!("---\n{one}\n")).collect()
}
