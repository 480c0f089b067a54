//! Reports of promotions.

use backstay_daemon::api_types::PromotionReport;
use backstay_types::point::Consistency;

use crate::output::{or_dash, seconds, table, time, word};

pub(crate) fn promotion(report: &PromotionReport) -> String {
    // Without a step there was nothing to promote, and the warnings say why.
    if report.steps.is_empty() {
        let why = report.warnings.join("; ");
        return format!("{}: {}.", report.plan, if why.is_empty() { "nothing to do" } else { &why });
    }
    let steps = report
        .steps
        .iter()
        .map(|step| [step.name.clone(), word(&step.state), or_dash(step.duration_seconds, seconds)]);
    let mut lines = vec![table("", ["step", "state", "time"], steps), String::new()];
    lines.push(if report.dry_run {
        format!(
            "Dry run, nothing was done. {} would be promoted to epoch {} at {}{}: RPO {}{}.",
            report.plan,
            report.epoch,
            report.restore_point,
            promised(report.consistency),
            seconds(report.rpo_seconds),
            counted(report),
        )
    } else {
        format!(
            "{} promoted to epoch {} at {}{}: RPO {}{}, RTO {}.",
            report.plan,
            report.epoch,
            report.restore_point,
            promised(report.consistency),
            seconds(report.rpo_seconds),
            counted(report),
            or_dash(report.rto_seconds, seconds),
        )
    });
    lines.extend(report.waves.iter().cloned());
    lines.extend(report.warnings.iter().map(|warning| format!("warning: {warning}")));
    lines.join("\n")
}

/// Until when the loss is counted.
fn counted(report: &PromotionReport) -> String {
    report
        .rpo_counted_from
        .map_or_else(String::new, |from| format!(" (counted from {}, {})", from.reason, time(from.time)))
}

/// ` (crash)`, beside the point of a report.
pub(super) fn promised(consistency: Option<Consistency>) -> String {
    consistency.map(|word| format!(" ({word})")).unwrap_or_default()
}

pub(crate) fn handover(report: &PromotionReport) -> String {
    if report.steps.is_empty() {
        return report.warnings.join("\n");
    }
    let steps = report
        .steps
        .iter()
        .map(|step| [step.name.clone(), word(&step.state), or_dash(step.duration_seconds, seconds)]);
    let mut lines = vec![table("", ["step", "state", "time"], steps), String::new()];
    // Said only where it was looked for.
    let lost = if report.nothing_lost { "nothing lost, " } else { "" };
    lines.push(format!(
        "{} handed over at epoch {} with {}: {lost}{} from the hold to the other side's word that it runs.",
        report.plan,
        report.epoch,
        report.restore_point,
        or_dash(report.rto_seconds, seconds),
    ));
    lines.extend(report.warnings.iter().map(|warning| format!("warning: {warning}")));
    lines.join("\n")
}

pub(crate) fn promotions(reports: &[PromotionReport]) -> String {
    if reports.is_empty() {
        return "This site is the standby of no plan; nothing to promote.".to_owned();
    }
    reports.iter().map(promotion).collect::<Vec<_>>().join("\n\n")
}
