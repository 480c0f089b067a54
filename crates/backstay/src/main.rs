//! The command line of Backstay; as `kubectl-backstay` on the path it is `kubectl backstay`.
//!
//! Reads arguments, runs one command, prints its result on standard output, and everything else on standard error: a
//! failure as `error: …` and `hint: …`, with the exit code of its class.

mod args;
mod client;
mod commands;
mod demo;
mod failure;
mod logging;
mod output;
mod progress;
mod render;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, FromArgMatches as _};

use crate::args::Cli;
use crate::failure::Failure;

fn main() -> ExitCode {
    let cli = match parse(std::env::args_os().collect()) {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    match commands::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            failure.exit_code()
        }
    }
}

/// Reads the arguments; on a usage error or a request for help, prints and gives the exit code.
fn parse(arguments: Vec<OsString>) -> Result<Cli, ExitCode> {
    let command = Cli::command().bin_name(called_as(arguments.first()));
    let parsed = command.try_get_matches_from(arguments).and_then(|matches| Cli::from_arg_matches(&matches));
    parsed.map_err(|error| {
        if error.use_stderr() && error.kind() != ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
            let failure = Failure::usage(&error.render().to_string());
            eprintln!("{failure}");
            return failure.exit_code();
        }
        // Help. Where the terminal has gone there is nobody to tell; the exit code still does.
        drop(error.print());
        if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS }
    })
}

/// How the person called us, for help texts.
fn called_as(program: Option<&OsString>) -> &'static str {
    let name = program.map(Path::new).and_then(Path::file_name).and_then(|name| name.to_str());
    if name.is_some_and(|name| name.starts_with("kubectl-backstay")) {
        "kubectl backstay"
    } else {
        "backstay"
    }
}
