//! `Rule`: the book follows the resources. A rule that plans name stays until they name another.
//!
//! Only those in the daemon's namespace are taken: plans name a rule without its namespace, and its commands run in
//! the pods of every plan that names it, by the daemon's rights.

use backstay_types::plan::PlanSpec;
use kube::ResourceExt;
use kube::api::DynamicObject;

use super::condition::{Told, conditions, count};
use super::host::{Host, Picture, PlanReport};
use super::plans::refusal;
use super::write::WriteError;
use super::{Controller, read};
use crate::Document;
use crate::crds::RuleStatus;

/// Holds a resource until no plan names its rule.
const FINALIZER: &str = "backstay.dev/rule";

impl<H: Host> Controller<H> {
    pub(super) async fn rules(&mut self, picture: &Picture) -> Result<(), WriteError> {
        for object in self.cache.rules.objects() {
            let done = self.rule(&object, picture).await;
            self.tolerate("Rule", &object, done)?;
        }
        Ok(())
    }

    async fn rule(&mut self, object: &DynamicObject, picture: &Picture) -> Result<(), WriteError> {
        let is_taken = object.namespace().as_ref() == Some(&self.namespace);
        let name = Some(object.name_any()).filter(|_| is_taken);
        let names_it = |spec: &PlanSpec| spec.pre_exec_rule == name || spec.post_exec_rule == name;
        let users: Vec<&PlanReport> = picture
            .plans
            .values()
            .filter(|plan| is_taken && plan.is_ours() && names_it(&plan.spec))
            .collect();
        let told = if object.metadata.deletion_timestamp.is_some() {
            match self.rule_goes(object, users.len()).await? {
                Some(told) => told,
                None => return Ok(()),
            }
        } else if is_taken {
            self.take_rule(object, picture).await?
        } else {
            let message = format!("create it in {}, where the daemon is", self.namespace);
            Told::new("Ready", false, "OtherNamespace", message)
        };
        let observed: RuleStatus = self.statuses.observed(object);
        let status = RuleStatus {
            conditions: conditions(&observed.conditions, [told], object.metadata.generation, self.host.now()),
            plans: Some(count(users.len() as u64)),
            last_freeze: users.iter().filter_map(|plan| plan.last_freeze).max().map(|span| span.to_string()),
        };
        self.statuses.put(&self.cache.rules.kind, object, &status).await.map(drop)
    }

    async fn take_rule(&self, object: &DynamicObject, picture: &Picture) -> Result<Told, WriteError> {
        let kind = &self.cache.rules.kind;
        let (name, spec) = match read::document(&kind.resource.kind, object) {
            Ok(Document::Rule { name, spec }) => (name, *spec),
            Ok(Document::Plan { .. } | Document::SchedulePolicy { .. }) => return Ok(read::not_of_kind()),
            Err(error) => return Ok(refusal(&error)),
        };
        if !has_finalizer(object) {
            kind.set_finalizer(object, FINALIZER, true).await?;
        }
        if picture.rules.get(&name) != Some(&spec)
            && let Err(error) = self.host.put_rule(name, spec).await
        {
            return Ok(refusal(&error));
        }
        Ok(Told::new("Ready", true, "Accepted", "the rule is accepted"))
    }

    /// What to say of a rule that cannot go yet.
    async fn rule_goes(&self, object: &DynamicObject, users: usize) -> Result<Option<Told>, WriteError> {
        if users > 0 {
            let message = format!("it goes when none of the {users} plans that name it does any more");
            return Ok(Some(Told::new("Ready", false, "InUse", message)));
        }
        // One that was never taken has no finalizer of ours, and its name may be another's.
        if has_finalizer(object)
            && let Err(error) = self.host.delete_rule(object.name_any()).await
        {
            return Ok(Some(refusal(&error)));
        }
        self.cache.rules.kind.set_finalizer(object, FINALIZER, false).await?;
        Ok(None)
    }
}

fn has_finalizer(object: &DynamicObject) -> bool {
    object.finalizers().iter().any(|finalizer| finalizer == FINALIZER)
}
