//! `SchedulePolicy`: the book follows the resources. A policy that plans name stays until they name another.

use backstay_types::plan::PlanSpec;
use kube::ResourceExt;
use kube::api::DynamicObject;

use super::condition::{Told, conditions, count};
use super::host::{Host, Picture};
use super::plans::refusal;
use super::write::WriteError;
use super::{Controller, read};
use crate::Document;
use crate::crds::SchedulePolicyStatus;

/// Holds a resource until no plan names its policy.
const FINALIZER: &str = "backstay.dev/policy";

impl<H: Host> Controller<H> {
    pub(super) async fn policies(&mut self, picture: &Picture) -> Result<(), WriteError> {
        for object in self.cache.policies.objects() {
            let done = self.policy(&object, picture).await;
            self.tolerate("SchedulePolicy", &object, done)?;
        }
        Ok(())
    }

    async fn policy(&mut self, object: &DynamicObject, picture: &Picture) -> Result<(), WriteError> {
        let name = object.name_any();
        let names_it = |spec: &PlanSpec| spec.schedule_policy.as_ref() == Some(&name);
        let users = picture.plans.values().filter(|plan| plan.is_ours() && names_it(&plan.spec)).count();
        let told = if object.metadata.deletion_timestamp.is_some() {
            match self.policy_goes(object, users).await? {
                Some(told) => told,
                None => return Ok(()),
            }
        } else {
            self.take_policy(object, picture).await?
        };
        let observed: SchedulePolicyStatus = self.statuses.observed(object);
        let now = self.host.now();
        let status = SchedulePolicyStatus {
            conditions: conditions(&observed.conditions, [told], object.metadata.generation, now),
            plans: Some(count(users as u64)),
        };
        self.statuses.put(&self.cache.policies.kind, object, &status).await.map(drop)
    }

    async fn take_policy(&self, object: &DynamicObject, picture: &Picture) -> Result<Told, WriteError> {
        let (name, spec) = match read::document(&self.cache.policies.kind.resource.kind, object) {
            Ok(Document::SchedulePolicy { name, spec }) => (name, *spec),
            Ok(Document::Plan { .. } | Document::Rule { .. }) => return Ok(read::not_of_kind()),
            Err(error) => return Ok(refusal(&error)),
        };
        let kind = &self.cache.policies.kind;
        if !object.finalizers().iter().any(|finalizer| finalizer == FINALIZER) {
            kind.set_finalizer(object, FINALIZER, true).await?;
        }
        if picture.policies.get(&name) != Some(&spec)
            && let Err(error) = self.host.put_policy(name, spec).await
        {
            return Ok(refusal(&error));
        }
        Ok(Told::new("Ready", true, "Accepted", "the policy is accepted"))
    }

    /// What to say of a policy that cannot go yet.
    async fn policy_goes(&self, object: &DynamicObject, users: usize) -> Result<Option<Told>, WriteError> {
        if users > 0 {
            let message = format!("it goes when none of the {users} plans that name it does any more");
            return Ok(Some(Told::new("Ready", false, "InUse", message)));
        }
        // One that was never taken has no finalizer of ours, and its name may be the command line's.
        let was_taken = object.finalizers().iter().any(|finalizer| finalizer == FINALIZER);
        if was_taken && let Err(error) = self.host.delete_policy(object.name_any()).await {
            return Ok(Some(refusal(&error)));
        }
        self.cache.policies.kind.set_finalizer(object, FINALIZER, false).await?;
        Ok(None)
    }
}
