//! `backstay promote`, `switchover` and `failback`

use backstay_daemon::api_types::{List, PromoteRequest, PromotionReport, StepState};
use backstay_types::Class;

use crate::args::{HandoverArgs, PromoteArgs};
use crate::client::Client;
use crate::failure::Failure;
use crate::progress::{self, Watch};
use crate::{output, render};

pub(super) async fn run(client: &Client, args: &PromoteArgs) -> Result<(), Failure> {
    let request = PromoteRequest {
        restore_point: args.restore_point,
        dry_run: args.dry_run,
        force: args.force,
        accept_partial: args.accept_partial,
        lease: None,
    };
    let format = args.output.format;
    match &args.plan {
        Some(plan) => {
            let path = format!("/plans/{plan}/promote");
            let asked = client.post(&path, &request);
            let report: PromotionReport = progress::during(client, Watch::Plan(plan), asked).await?;
            output::show(format, &report, |_| render::promotion(&report))?;
            all_done(std::slice::from_ref(&report))
        }
        None => {
            let asked = client.post("/promote-all", &request);
            let reports: List<PromotionReport> = progress::during(client, Watch::Any, asked).await?;
            output::show(format, &reports, |_| render::promotions(&reports.items))?;
            all_done(&reports.items)
        }
    }
}

pub(super) async fn hand_over(client: &Client, command: &str, args: &HandoverArgs) -> Result<(), Failure> {
    let path = format!("/plans/{}/{command}", args.plan);
    let nothing = serde_json::json!({});
    let asked = client.post(&path, &nothing);
    let report: PromotionReport = progress::during(client, Watch::Plan(&args.plan), asked).await?;
    output::show(args.output.format, &report, |_| render::handover(&report))
}

/// A promotion that stopped at a step must not look like one that is over.
fn all_done(reports: &[PromotionReport]) -> Result<(), Failure> {
    let stopped = |report: &&PromotionReport| report.steps.iter().any(|step| step.state == StepState::Failed);
    let plans: Vec<_> = reports.iter().filter(stopped).map(|report| report.plan.as_str()).collect();
    if plans.is_empty() {
        return Ok(());
    }
    Err(Failure::new(
        Class::Incomplete,
        format!("promotion of {} stopped at a failed step", plans.join(", ")),
    )
    .hint("mend what the step names and give the same command again: it goes on where it stopped"))
}
