//! Manifests as the tools of the ecosystem render them.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use crate::Output;
use crate::cli::run;

/// Runs helm with settings and caches of its own, in a folder that goes with it.
pub fn helm<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Output {
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new(super::asset("helm"));
    for variable in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
        command.env(variable, home.path());
    }
    command.args(args);
    run(command)
}

/// What `kubectl kustomize FOLDER` prints.
#[track_caller]
pub fn kustomize(folder: &Path) -> String {
    let mut command = Command::new(super::asset("kubectl"));
    command.arg("kustomize").arg(folder);
    run(command).ok().stdout
}
