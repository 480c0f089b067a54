//! Commands that need no daemon, and the daemon itself.

use std::path::{Path, PathBuf};

use backstay_daemon::audit;
use backstay_daemon::config::{Overrides, SiteConfig};
use backstay_daemon::{InitResult, ServeOptions};
use backstay_types::Class;

use super::upkeep;
use crate::args::{AuditArgs, CatalogCommand, InitArgs, ServeArgs, VerifyArgs};
use crate::failure::Failure;
use crate::{logging, output, render};

pub(super) fn init(dir: &Path, args: &InitArgs) -> Result<(), Failure> {
    let make = if args.if_missing { backstay_daemon::init_if_missing } else { backstay_daemon::init };
    let report = make(dir, args.name.as_str(), args.listen)?;
    output::show(args.output.format, &report, |_| {
        let dir = dir.display();
        let done = match report.result {
            InitResult::Created => "made",
            InitResult::Unchanged => "was there already",
        };
        format!("Site {} {done} in {dir}.\nNext: backstay serve --site {dir}", args.name)
    })
}

pub(super) fn serve(dir: PathBuf, args: ServeArgs) -> Result<(), Failure> {
    let mut overrides = Overrides::default();
    for (key, value) in args.settings {
        overrides.set(key, value);
    }
    let config = SiteConfig::load(&dir, &overrides)?;
    if args.print_config {
        return output::print(&config.to_effective_toml());
    }
    logging::start(&config)?;
    // Some tasks sync small files; with two workers, two slow disks would hold up the network.
    let workers = std::thread::available_parallelism().map_or(4, |cores| cores.get().max(4));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build();
    let runtime =
        runtime.map_err(|error| Failure::new(Class::Transient, format!("start the runtime: {error}")))?;
    let outcome = runtime.block_on(Box::pin(backstay_daemon::serve(ServeOptions { dir, overrides })));
    // What still runs was told to stop and was waited for; a crash at any point is provided for.
    runtime.shutdown_background();
    Ok(outcome?)
}

pub(super) fn verify(dir: &Path, args: &VerifyArgs) -> Result<(), Failure> {
    let outcome = backstay_daemon::verify_offline(dir, args.plan.as_ref(), args.repair)?;
    upkeep::show_verified(args.output.format, &outcome)
}

pub(super) fn catalog(dir: &Path, command: &CatalogCommand) -> Result<(), Failure> {
    let CatalogCommand::Rebuild { output } = command;
    let outcome = backstay_daemon::rebuild_catalog(dir)?;
    output::show(output.format, &outcome, |_| render::rebuilt(&outcome))
}

pub(super) fn audit_verify(dir: &Path, args: &AuditArgs) -> Result<(), Failure> {
    let records = audit::verify_file(&dir.join(audit::FILE_NAME))?;
    let report = serde_json::json!({"records": records, "whole": true});
    output::show(args.output.format, &report, |_| format!("{records} records, the chain is whole"))
}
