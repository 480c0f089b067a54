//! Promote hooks: what the plan has done once a takeover has started everything.
//!
//! The application runs by then: a hook that fails is told, and holds nothing up.

use std::ffi::OsString;

use backstay_engine::promotion::PromotionPlan;
use backstay_kube::cluster::Scope;
use backstay_types::limits;

use crate::DaemonError;
use crate::plans::PlanRecord;
use crate::probe::{Needs, Pods, Prober};
use crate::site::Site;

impl Site {
    pub(super) async fn run_hooks(&self, plan: &mut PromotionPlan) -> Result<(), DaemonError> {
        let record = self.plans.get(&plan.plan)?;
        if record.spec.promote_hooks.is_empty() {
            return Ok(());
        }
        let prober = Prober {
            needs: self.needs_of_hooks(&record),
            environment: environment(plan),
            folder: self.plans.plan_folder(&plan.plan),
            pods: self.pods_of(&record).await?,
        };
        for hook in &record.spec.promote_hooks {
            let time = hook.timeout.unwrap_or(limits::DRILL_TIMEOUT_DEFAULT).to_duration();
            let tried = prober.try_probe(hook, time, &self.stop).await;
            let report = tried.map_err(|_| DaemonError::Stopping { what: "the promotion" })?;
            if !report.passed {
                plan.warnings.push(format!("hook {}: {}", report.name, report.message));
            }
        }
        Ok(())
    }

    fn needs_of_hooks(&self, record: &PlanRecord) -> Needs {
        let config = self.config.load();
        let network = (!record.home && !config.promote_network).then_some("promote.network");
        Needs {
            command: (!config.promote_commands).then_some("promote.commands"),
            address: network,
            exec: (!record.home && !config.promote_commands).then_some("promote.commands"),
            service: network,
        }
    }

    /// The pods of a plan over namespaces, by the names that those have here.
    async fn pods_of(&self, record: &PlanRecord) -> Result<Option<Pods>, DaemonError> {
        let Some(mut scope) = Scope::of(&record.spec) else { return Ok(None) };
        let names = if record.home { Default::default() } else { record.spec.namespace_mapping.clone() };
        for name in &mut scope.namespaces {
            if let Some(here) = names.get(name) {
                here.clone_into(name);
            }
        }
        let cluster = self.cluster().await?;
        let namespaces = cluster.namespaces_of(&scope).await?;
        Ok(Some(Pods { cluster, namespaces, names }))
    }
}

/// What commands find in their environment.
fn environment(plan: &PromotionPlan) -> Vec<(String, OsString)> {
    vec![
        ("BACKSTAY_PLAN".to_owned(), plan.plan.as_str().into()),
        ("BACKSTAY_RESTORE_POINT".to_owned(), plan.restore_point.to_string().into()),
        ("BACKSTAY_EPOCH".to_owned(), plan.epoch.to_string().into()),
    ]
}
