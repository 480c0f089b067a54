//! Real Kubernetes: control planes on loopback that start in seconds, and a pair of whole clusters with nodes.
//!
//! The programs are those of `scripts/kube-assets.sh`, whose folder `KUBEBUILDER_ASSETS` names; how each is started is
//! told once, in `scripts/kube-lab`, for the tests and for people alike. A test asks [`can_run`] or [`can_run_nodes`]
//! first, and returns where this machine cannot.
//!
//! Invariants:
//! 1. Everything a [`ControlPlane`] or a [`NodePair`] started ends with it, also when the test panics.
//! 2. A component that is killed is killed as a crash would: by SIGKILL, its state left as it was.
//! 3. Only one [`NodePair`] stands on a machine; the next one waits for it.

mod cluster;
mod control_plane;
mod node_pair;
mod render;

use std::path::{Path, PathBuf};

pub use cluster::Cluster;
pub use control_plane::{Component, ControlPlane, ControlPlaneOptions};
pub use node_pair::{Link, NodePair};
pub use render::{helm, kustomize};

/// Whether control planes can run here; if not, says so and counts `test` as skipped.
pub fn can_run(test: &str) -> bool {
    has_programs(test, &["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl"])
}

/// Whether charts and overlays can be rendered here, and tried on control planes.
pub fn can_deploy(test: &str) -> bool {
    can_run(test) && has_programs(test, &["helm"])
}

/// Whether nodes with pods can run here; if not, says so and counts `test` as skipped.
pub fn can_run_nodes(test: &str) -> bool {
    if !crate::is_root() {
        crate::skip(test, "nodes with pods need root");
        return false;
    }
    can_run(test) && has_programs(test, &["kubelet", "kube-proxy", "containerd", "runc", "images.tar", "wan"])
}

fn has_programs(test: &str, programs: &[&str]) -> bool {
    let Some(assets) = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from) else {
        crate::skip(test, "BACKSTAY_KUBE_TESTS=1 scripts/test.sh runs it");
        return false;
    };
    let missing: Vec<_> = programs.iter().filter(|program| !assets.join(program).is_file()).collect();
    if !missing.is_empty() {
        crate::skip(test, &format!("{} lacks {missing:?}", assets.display()));
    }
    missing.is_empty()
}

/// A program of `KUBEBUILDER_ASSETS`.
fn asset(program: &str) -> PathBuf {
    Path::new(&std::env::var_os("KUBEBUILDER_ASSETS").expect("a test asks kube::can_run first")).join(program)
}

/// A script of `scripts/kube-lab`.
fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/kube-lab").join(name)
}
