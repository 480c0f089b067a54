//! `Rule`: the book follows the resources. A rule that plans name stays until they name another.
//!
//! Plans name a rule alone, without its namespace: of several resources of one name the oldest stands.

use std::collections::BTreeMap;
use std::sync::Arc;

use backstay_types::plan::PlanSpec;
use kube::ResourceExt;
use kube::api::DynamicObject;

use super::condition::{Told, conditions, count};
use super::host::{Host, Picture, PlanReport};
use super::plans::{refusal, uid};
use super::write::WriteError;
use super::{Controller, read};
use crate::Document;
use crate::crds::RuleStatus;

/// Holds a resource until no plan names its rule.
const FINALIZER: &str = "backstay.dev/rule";

impl<H: Host> Controller<H> {
    pub(super) async fn rules(&mut self, picture: &Picture) -> Result<(), WriteError> {
        let objects = self.cache.rules.objects();
        let standing = standing(&objects);
        for object in &objects {
            let stands = standing.get(&object.name_any()) == Some(&uid(object));
            let done = self.rule(object, stands, picture).await;
            self.tolerate("Rule", object, done)?;
        }
        Ok(())
    }

    async fn rule(
        &mut self,
        object: &DynamicObject,
        stands: bool,
        picture: &Picture,
    ) -> Result<(), WriteError> {
        let name = Some(object.name_any());
        let names_it = |spec: &PlanSpec| spec.pre_exec_rule == name || spec.post_exec_rule == name;
        let users: Vec<&PlanReport> =
            picture.plans.values().filter(|plan| stands && plan.is_ours() && names_it(&plan.spec)).collect();
        let told = if object.metadata.deletion_timestamp.is_some() {
            match self.rule_goes(object, stands, users.len()).await? {
                Some(told) => told,
                None => return Ok(()),
            }
        } else if stands {
            self.take_rule(object, picture).await?
        } else {
            let message = "an older Rule in another namespace has this name, by which plans know it";
            Told::new("Ready", false, "NameTaken", message)
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
        if !object.finalizers().iter().any(|finalizer| finalizer == FINALIZER) {
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
    async fn rule_goes(
        &self,
        object: &DynamicObject,
        stands: bool,
        users: usize,
    ) -> Result<Option<Told>, WriteError> {
        if users > 0 {
            let message = format!("it goes when none of the {users} plans that name it does any more");
            return Ok(Some(Told::new("Ready", false, "InUse", message)));
        }
        if stands && let Err(error) = self.host.delete_rule(object.name_any()).await {
            return Ok(Some(refusal(&error)));
        }
        self.cache.rules.kind.set_finalizer(object, FINALIZER, false).await?;
        Ok(None)
    }
}

/// The resource that stands for each name, by uid.
fn standing(objects: &[Arc<DynamicObject>]) -> BTreeMap<String, String> {
    let mut oldest: BTreeMap<String, &Arc<DynamicObject>> = BTreeMap::new();
    for object in objects {
        let entry = oldest.entry(object.name_any()).or_insert(object);
        if object.metadata.creation_timestamp < entry.metadata.creation_timestamp {
            *entry = object;
        }
    }
    oldest.into_iter().map(|(name, object)| (name, uid(object))).collect()
}
