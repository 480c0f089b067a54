//! Reports of drills.

use backstay_daemon::api_types::{DrillReport, ProbeReport};

use super::promotion::promised;
use crate::output::{or_dash, seconds, table, time, word};

pub(crate) fn drill(report: &DrillReport) -> String {
    let steps = report
        .steps
        .iter()
        .map(|step| [step.name.clone(), word(&step.state), or_dash(step.duration_seconds, seconds)]);
    let mut lines = vec![table("", ["step", "state", "time"], steps), String::new()];
    if !report.probes.is_empty() {
        lines.extend([
            table("", ["probe", "passed", "tries", "time", ""], report.probes.iter().map(probe)),
            String::new(),
        ]);
    }
    lines.push(format!(
        "Drill {} of {} at {}{} {}: RPO {}, RTO {}.",
        report.number,
        report.plan,
        report.restore_point,
        promised(report.consistency),
        if report.passed { "passed" } else { "FAILED" },
        seconds(report.rpo_seconds),
        or_dash(report.rto_seconds, seconds),
    ));
    if report.kept {
        let more = if report.namespaces.is_empty() {
            String::new()
        } else {
            format!(" and {}", report.namespaces.join(", "))
        };
        lines.push(format!(
            "Kept in {}{more}. Remove with: backstay drill {} --clean",
            report.folder.display(),
            report.plan
        ));
    }
    lines.extend(report.warnings.iter().map(|warning| format!("warning: {warning}")));
    lines.join("\n")
}

fn probe(probe: &ProbeReport) -> [String; 5] {
    let first = probe.message.lines().next().unwrap_or_default().to_owned();
    let passed = if probe.passed { "yes" } else { "NO" };
    [
        probe.name.to_string(),
        passed.to_owned(),
        probe.tries.to_string(),
        seconds(probe.duration_seconds),
        first,
    ]
}

pub(crate) fn drills(reports: &[DrillReport]) -> String {
    let rows = reports.iter().map(|report| {
        [
            report.number.to_string(),
            time(report.time),
            report.restore_point.to_string(),
            if report.passed { "yes" } else { "NO" }.to_owned(),
            seconds(report.rpo_seconds),
            or_dash(report.rto_seconds, seconds),
            report.error.as_ref().map(|error| error.message.clone()).unwrap_or_default(),
        ]
    });
    table(
        "No drills yet. Rehearse a takeover, on the standby: backstay drill PLAN",
        ["drill", "time", "restore point", "passed", "rpo", "rto", "why not"],
        rows,
    )
}
