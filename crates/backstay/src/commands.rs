//! One function per command: ask, then print.

mod drill;
mod keeper;
mod offline;
mod pair;
mod plan;
mod point;
mod promote;
mod status;
mod sync;
mod upkeep;
mod witness;

use std::future::Future;

use backstay_types::Class;
use clap::CommandFactory as _;

use crate::args::{Cli, Command};
use crate::client::Client;
use crate::failure::Failure;
use crate::{demo, output};

/// Runs the command to its end.
pub(crate) fn run(cli: Cli) -> Result<(), Failure> {
    let client = Client::new(&cli.site);
    match cli.command {
        Command::Init(args) => offline::init(&cli.site, &args),
        Command::Serve(args) => offline::serve(cli.site, args),
        Command::Pair(command) => block_on(pair::run(&client, command)),
        Command::Plan(command) => block_on(plan::run(&client, command)),
        Command::Sync(args) => block_on(sync::run(&client, &args)),
        Command::Status(args) => block_on(status::run(&client, &args)),
        Command::RestorePoints(args) => block_on(point::list(&client, &args)),
        Command::Diff(args) => block_on(point::diff(&client, &args)),
        Command::Restore(args) => block_on(point::restore(&client, args)),
        Command::Promote(args) => block_on(promote::run(&client, &args)),
        Command::Switchover(args) => block_on(promote::hand_over(&client, "switchover", &args)),
        Command::Failback(args) => block_on(promote::hand_over(&client, "failback", &args)),
        Command::Drill(args) => block_on(drill::run(&client, &args)),
        Command::Verify(args) if args.offline => offline::verify(&cli.site, &args),
        Command::Verify(args) => block_on(upkeep::verify(&client, &args)),
        Command::Gc(args) => block_on(upkeep::gc(&client, &args)),
        Command::Catalog(command) => offline::catalog(&cli.site, &command),
        Command::Audit(args) if args.verify => offline::audit_verify(&cli.site, &args),
        Command::Audit(args) => block_on(upkeep::audit(&client, &args)),
        Command::Witness(args) => witness::run(args),
        Command::Keeper => keeper::keep(&cli.site),
        Command::KeeperGuard => keeper::guard(&cli.site),
        Command::Crds => output::print(&backstay_kube::crds::all_yaml()),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "backstay", &mut script);
            output::print(&String::from_utf8_lossy(&script))
        }
        Command::Demo(args) => demo::run(&args),
    }
}

/// Runs a request on this thread: one connection needs no more.
fn block_on(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime =
        runtime.map_err(|error| Failure::new(Class::Transient, format!("start the runtime: {error}")))?;
    runtime.block_on(work)
}
