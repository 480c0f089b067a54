//! `backstay status`

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use backstay_daemon::api_types::{List, PlanStatus};
use backstay_types::{Class, PlanName};

use crate::args::StatusArgs;
use crate::client::Client;
use crate::failure::Failure;
use crate::output::{self, Format};
use crate::render;

/// How often `--watch` asks. The daemon answers from memory.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// Clears the screen and goes to its first corner.
const CLEAR: &str = "\x1b[2J\x1b[H";

pub(super) async fn run(client: &Client, args: &StatusArgs) -> Result<(), Failure> {
    if !args.watch {
        return output::print(&text(client, args).await?);
    }
    let mut shown = String::new();
    loop {
        let text = match text(client, args).await {
            Ok(text) => text,
            // A daemon that restarts is what one watches for; anything else does not go away by waiting.
            Err(failure) if failure.class() == Class::Transient => failure.to_string(),
            Err(failure) => return Err(failure),
        };
        if text != shown {
            redraw(&text)?;
            shown = text;
        }
        tokio::time::sleep(WATCH_EVERY).await;
    }
}

async fn text(client: &Client, args: &StatusArgs) -> Result<String, Failure> {
    match &args.plan {
        Some(plan) => one(client, plan, args.output.format).await,
        None => {
            let all: List<PlanStatus> = client.get("/status").await?;
            output::render(args.output.format, &all, |wide| render::statuses(&all.items, wide))
        }
    }
}

async fn one(client: &Client, plan: &PlanName, format: Format) -> Result<String, Failure> {
    let status: PlanStatus = client.get(&format!("/plans/{plan}/status")).await?;
    output::render(format, &status, |_| render::status(&status))
}

/// On a terminal in place; elsewhere one after the other.
fn redraw(text: &str) -> Result<(), Failure> {
    if io::stdout().is_terminal() {
        // A terminal that has gone fails the print below.
        drop(io::stdout().write_all(CLEAR.as_bytes()));
    }
    output::print(text)
}
