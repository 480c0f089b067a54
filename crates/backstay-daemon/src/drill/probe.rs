//! Probes: what must be so for a drill to pass.
//!
//! Each is tried until it passes or its time is up; all are tried, so that a report tells everything there is to mend,
//! and a last probe can stop what a first one started. What a command has left running when its time is up, or when the
//! daemon stops, is killed with it.

mod command;
mod http;
mod tcp;

use std::ffi::OsString;
use std::time::Duration;

use backstay_types::plan::{HttpProbe, ProbeSpec};

use super::{DrillError, Rehearsal};
use crate::api_types::ProbeReport;
use crate::{DaemonError, clock};

/// Pause before a probe is tried again.
const AGAIN: Duration = Duration::from_millis(500);

/// What is kept of what a probe says: enough for the line that matters.
const MESSAGE_BYTES_MAX: usize = 1024;

impl Rehearsal {
    pub(super) async fn probe(&mut self) -> Result<(), DaemonError> {
        let spec = self.spec();
        for probe in &spec.probes {
            let report = self.try_probe(probe, spec.timeout_of(probe).to_duration()).await?;
            tracing::info!(probe = %report.name, passed = report.passed, tries = report.tries, "probed");
            self.probes.push(report);
        }
        let failed = || self.probes.iter().filter(|report| !report.passed);
        match failed().next() {
            None => Ok(()),
            Some(first) => Err(DrillError::Probes {
                plan: self.drill.plan.clone(),
                failed: failed().count(),
                all: self.probes.len(),
                first: format!("{}: {}", first.name, first.message),
            }
            .into()),
        }
    }

    /// Tries a probe until it passes or its time is up.
    async fn try_probe(&self, probe: &ProbeSpec, time: Duration) -> Result<ProbeReport, DaemonError> {
        let started = clock::now();
        let (mut tries, mut last) = (0, "it gave no answer in its time".to_owned());
        let until_it_passes = async {
            loop {
                tries += 1;
                match self.look(probe).await {
                    Ok(said) => return said,
                    Err(why) => last = why,
                }
                tokio::time::sleep(AGAIN).await;
            }
        };
        let outcome = tokio::select! {
            outcome = tokio::time::timeout(time, until_it_passes) => outcome,
            () = self.site.stop.cancelled() => return Err(DrillError::Stopped.into()),
        };
        let passed = outcome.is_ok();
        let mut message = outcome.unwrap_or(last);
        message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
        let duration_seconds = clock::now().since(started).as_secs_f64();
        Ok(ProbeReport { name: probe.name.clone(), passed, tries, duration_seconds, message })
    }

    /// Looks once: what it said, or why it did not pass.
    async fn look(&self, probe: &ProbeSpec) -> Result<String, String> {
        match probe {
            ProbeSpec { command: Some(argv), .. } => {
                if !self.site.config.load().drill_commands {
                    return Err(
                        "commands are not run here: set `drill.commands = true` in site.toml".to_owned()
                    );
                }
                command::run(argv, &self.environment(), &self.folder).await
            }
            ProbeSpec { tcp: Some(address), .. } => tcp::connect(address).await.map(|_| String::new()),
            ProbeSpec { http: Some(HttpProbe { url: Some(url), status, .. }), .. } => {
                http::get(url).await.and_then(|found| judged(found, *status))
            }
            ProbeSpec { http: Some(HttpProbe { service: Some(service), status, .. }), .. } => {
                self.ask_service(service).await.and_then(|found| judged(found, *status))
            }
            ProbeSpec { exec: Some(exec), .. } => self.exec_in_pods(exec).await,
            // A plan is checked when it is applied, and what its peer shares is checked as well.
            _ => Err("it says nothing to look at".to_owned()),
        }
    }

    /// What commands find in their environment.
    fn environment(&self) -> Vec<(String, OsString)> {
        let mut variables = vec![
            ("BACKSTAY_PLAN".to_owned(), self.drill.plan.as_str().into()),
            ("BACKSTAY_RESTORE_POINT".to_owned(), self.drill.restore_point.to_string().into()),
            ("BACKSTAY_DRILL_FOLDER".to_owned(), self.folder.clone().into()),
        ];
        variables.extend(self.volumes.iter().map(|volume| {
            let name = volume.name.as_str().to_ascii_uppercase().replace('-', "_");
            (format!("BACKSTAY_DRILL_VOLUME_{name}"), volume.path.clone().into())
        }));
        variables
    }
}

/// Whether a status is the one that was expected.
fn judged(found: u16, expected: Option<u16>) -> Result<String, String> {
    let said = format!("status {found}");
    match expected {
        Some(expected) if found == expected => Ok(said),
        None if (200..400).contains(&found) => Ok(said),
        Some(expected) => Err(format!("status: expected {expected}, found {found}")),
        None => Err(format!("status: expected 200 to 399, found {found}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_judged() {
        for (found, expected, passes) in [
            (200, None, true),
            (399, None, true),
            (400, None, false),
            (500, Some(500), true),
            (200, Some(204), false),
        ] {
            assert_eq!(judged(found, expected).is_ok(), passes, "{found} {expected:?}");
        }
        const { assert!(MESSAGE_BYTES_MAX <= backstay_types::limits::MESSAGE_BYTES_MAX) }
    }
}
