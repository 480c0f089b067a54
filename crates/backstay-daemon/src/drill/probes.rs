//! The probes of a drill. All are tried, so that a report tells everything there is to mend, and a last one can stop what
//! a first one started.

use std::ffi::OsString;

use super::{DrillError, Rehearsal};
use crate::DaemonError;
use crate::probe::{Needs, Prober};

impl Rehearsal {
    pub(super) async fn probe(&mut self) -> Result<(), DaemonError> {
        let spec = self.spec();
        let prober = Prober {
            needs: self.needs(),
            environment: self.environment(),
            folder: self.folder.clone(),
            pods: self.pods().await?,
        };
        for probe in &spec.probes {
            let tried = prober.try_probe(probe, spec.timeout_of(probe).to_duration(), &self.site.stop).await;
            self.probes.push(tried.map_err(|_| DrillError::Stopped)?);
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

    /// Pods and services of a drill are copies in namespaces of their own, whoever says what is asked of them.
    fn needs(&self) -> Needs {
        let config = self.site.config.load();
        let is_ours = self.site.plans.find(&self.drill.plan).is_some_and(|record| record.home);
        Needs {
            command: (!config.drill_commands).then_some("drill.commands"),
            address: (!is_ours && !config.drill_network).then_some("drill.network"),
            ..Needs::default()
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
