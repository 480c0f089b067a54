//! `backstay drill`

use backstay_daemon::api_types::{Changed, DrillReport, DrillRequest, List};
use backstay_types::Class;

use crate::args::DrillArgs;
use crate::client::Client;
use crate::failure::Failure;
use crate::{output, render};

pub(super) async fn run(client: &Client, args: &DrillArgs) -> Result<(), Failure> {
    let (plan, format) = (&args.plan, args.output.format);
    if args.history {
        let reports: List<DrillReport> = client.get(&format!("/plans/{plan}/drills")).await?;
        return output::show(format, &reports, |_| render::drills(&reports.items));
    }
    let path = format!("/plans/{plan}/drill");
    if args.clean {
        let removed: Changed = client.delete(&path).await?;
        let text = if removed.changed { "Removed what a drill had left." } else { "No drill left anything." };
        return output::show(format, &removed, |_| text.to_owned());
    }
    let request = DrillRequest { restore_point: args.restore_point, keep: args.keep };
    let report: DrillReport = client.post(&path, &request).await?;
    output::show(format, &report, |_| render::drill(&report))?;
    if report.passed {
        return Ok(());
    }
    // Not the exit code of the cause: the drill was carried out, and what it tells is no.
    let cause = report.error.as_ref();
    let message = cause.map_or_else(|| "it did not pass".to_owned(), |error| error.message.clone());
    let failure = Failure::new(Class::Incomplete, format!("drill of {plan}: {message}")).exits_with(1);
    Err(match cause.and_then(|error| error.hint.clone()) {
        Some(hint) => failure.hint(hint),
        None => failure.hint(format!("look at what was rehearsed: backstay drill {plan} --keep")),
    })
}
