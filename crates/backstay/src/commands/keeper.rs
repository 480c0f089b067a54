//! `backstay keeper`, and the guard that it starts.

use std::path::Path;

use backstay_daemon::DaemonError;
use backstay_daemon::config::{Overrides, SiteConfig};
use backstay_types::Class;

use crate::failure::Failure;
use crate::logging;

pub(super) fn keep(site: &Path) -> Result<(), Failure> {
    run(site, backstay_daemon::run_keeper(site))
}

pub(super) fn guard(site: &Path) -> Result<(), Failure> {
    run(site, backstay_daemon::run_guard(site))
}

fn run(site: &Path, work: impl Future<Output = Result<(), DaemonError>>) -> Result<(), Failure> {
    // Settings that do not read keep a daemon from starting, and must not keep this from holding.
    match SiteConfig::load(site, &Overrides::default()) {
        Ok(config) => logging::start(&config)?,
        Err(_) => logging::start_plain()?,
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime =
        runtime.map_err(|error| Failure::new(Class::Transient, format!("start the runtime: {error}")))?;
    let outcome = runtime.block_on(work);
    // A hold under way is a command that goes on by itself; the guard is there for what is left of it.
    runtime.shutdown_background();
    Ok(outcome?)
}
