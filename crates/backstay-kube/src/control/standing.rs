//! Which `ReplicationPlan` stands for the plan of its name: the book of a site has one plan of a name, whatever the
//! namespaces.
//!
//! 1. Of several resources of one name, the one that the site took the plan from stands for it, then one in the daemon's
//!    namespace, then the oldest.
//! 2. For a plan that the book has already, of the command line or of the peer, only a resource in the daemon's namespace
//!    may come to stand: whoever may write in another could take it over, or delete it (test
//!    `a_plan_of_the_command_line_is_taken_over_in_the_daemon_s_namespace_alone`).
//! 3. That the site took a plan from a resource is read from the book, and from its status, which who writes resources does
//!    not write; never from finalizers or labels.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use backstay_types::PlanName;
use kube::ResourceExt;
use kube::api::DynamicObject;

use super::condition::{Told, is_true};
use super::plans::{FINALIZER, MIRROR_LABEL};
use crate::crds::PlanStatus;

/// Which resource stands for each plan.
pub(super) struct Standing<'a> {
    /// Every resource, and whether it stands for the plan of its name.
    pub(super) resources: Vec<(&'a Arc<DynamicObject>, bool)>,
    pub(super) names: BTreeMap<String, &'a Arc<DynamicObject>>,
}

/// What decides besides the resources themselves.
pub(super) struct Grounds<'g> {
    /// The daemon's namespace.
    pub(super) own: &'g str,
    /// Uids of resources that the site took a plan from.
    pub(super) accepted: BTreeSet<String>,
    /// The plans of the book.
    pub(super) known: BTreeSet<&'g str>,
}

impl Grounds<'_> {
    fn is_own(&self, object: &DynamicObject) -> bool {
        object.namespace().as_deref() == Some(self.own)
    }

    fn is_accepted(&self, object: &DynamicObject) -> bool {
        object.uid().is_some_and(|uid| self.accepted.contains(&uid))
    }

    /// Smaller stands before greater.
    fn rank(&self, object: &DynamicObject) -> impl Ord + use<> {
        let created = object.creation_timestamp().map(|time| time.0);
        (!self.is_accepted(object), !self.is_own(object), created, object.namespace())
    }

    fn may_stand(&self, object: &DynamicObject) -> bool {
        self.is_own(object) || self.is_accepted(object) || !self.known.contains(object.name_any().as_str())
    }
}

impl<'a> Standing<'a> {
    pub(super) fn new(objects: &'a [Arc<DynamicObject>], grounds: &Grounds<'_>) -> Self {
        let mut names: BTreeMap<String, &'a Arc<DynamicObject>> = BTreeMap::new();
        for object in objects.iter().filter(|object| grounds.may_stand(object)) {
            let name = object.name_any();
            match names.get(&name) {
                Some(other) if grounds.rank(other) <= grounds.rank(object) => {}
                _ => drop(names.insert(name, object)),
            }
        }
        let stands = |object: &Arc<DynamicObject>| {
            names.get(&object.name_any()).is_some_and(|standing| standing.uid() == object.uid())
        };
        let resources = objects.iter().map(|object| (object, stands(object))).collect();
        Self { resources, names }
    }

    /// The resource that stands for a plan.
    pub(super) fn of(&self, plan: &PlanName) -> Option<&'a Arc<DynamicObject>> {
        self.names.get(plan.as_str()).copied()
    }

    /// What a resource is told that does not stand for the plan of its name.
    pub(super) fn taken(&self, name: &str, own: &str) -> Told {
        let message = match self.names.get(name).and_then(|other| other.namespace()) {
            Some(other) => {
                format!("the plan {name} is that of namespace {other}; give this one another name")
            }
            None => format!(
                "there is a plan {name} already, and not by a resource of this namespace: create it in {own} to take that one \
                 over, or give this one another name"
            ),
        };
        Told::new("Ready", false, "NameTaken", message)
    }
}

/// Whether the site took a plan from the resource with this status. Daemons that did not write so yet told it by role and
/// condition.
pub(super) fn is_accepted(status: &PlanStatus) -> bool {
    let is_active = || status.role.as_deref() == Some("active") && is_true(&status.conditions, "Ready");
    status.accepted.unwrap_or_else(is_active)
}

pub(super) fn has_finalizer(object: &DynamicObject) -> bool {
    object.finalizers().iter().any(|finalizer| finalizer == FINALIZER)
}

pub(super) fn is_mirror(object: &DynamicObject) -> bool {
    object.labels().contains_key(MIRROR_LABEL)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn resource(namespace: &str, created: &str, finalizers: &[&str]) -> Arc<DynamicObject> {
        let object = json!({
            "apiVersion": "backstay.dev/v1alpha1", "kind": "ReplicationPlan", "spec": {},
            "metadata": {"name": "shop", "namespace": namespace, "uid": namespace, "creationTimestamp": created,
                "finalizers": finalizers},
        });
        Arc::new(serde_json::from_value(object).unwrap())
    }

    fn stands(objects: &[Arc<DynamicObject>], accepted: &[&str], is_known: bool) -> Option<String> {
        let accepted = accepted.iter().map(|uid| (*uid).to_owned()).collect();
        let known = is_known.then_some("shop").into_iter().collect();
        let standing = Standing::new(objects, &Grounds { own: "home", accepted, known });
        let count = standing.resources.iter().filter(|(_, stands)| *stands).count();
        let found = standing.of(&"shop".parse().unwrap()).map(|object| object.namespace().unwrap());
        assert_eq!(count, usize::from(found.is_some()));
        found
    }

    const OLD: &str = "2026-01-01T00:00:00Z";
    const NEW: &str = "2026-01-02T00:00:00Z";

    #[test]
    fn of_one_name_the_accepted_one_stands_then_that_of_the_daemon_then_the_oldest() {
        let of =
            |objects: &[Arc<DynamicObject>], accepted: &[&str]| stands(objects, accepted, false).unwrap();
        assert_eq!(of(&[resource("a", NEW, &[]), resource("b", OLD, &[])], &[]), "b");
        assert_eq!(of(&[resource("b", OLD, &[]), resource("a", NEW, &[])], &["a"]), "a");
        assert_eq!(of(&[resource("b", OLD, &[]), resource("a", OLD, &[])], &[]), "a");
        assert_eq!(of(&[resource("b", OLD, &[]), resource("home", NEW, &[])], &[]), "home");
        // Whoever writes a resource writes its finalizers as well.
        assert_eq!(of(&[resource("b", OLD, &[]), resource("a", NEW, &[FINALIZER])], &[]), "b");
    }

    #[test]
    fn a_plan_of_the_command_line_is_taken_over_in_the_daemon_s_namespace_alone() {
        let tenant = resource("tenant", OLD, &[FINALIZER]);
        assert_eq!(stands(std::slice::from_ref(&tenant), &[], true), None);
        assert_eq!(stands(&[tenant.clone(), resource("home", NEW, &[])], &[], true).as_deref(), Some("home"));
        // One that the site took it from keeps it, whatever comes later.
        assert_eq!(
            stands(&[tenant, resource("home", NEW, &[])], &["tenant"], true).as_deref(),
            Some("tenant")
        );
    }

    #[test]
    fn acceptance_is_read_from_what_only_we_write() {
        let status = |role: &str, accepted: Option<bool>| PlanStatus {
            role: Some(role.to_owned()),
            accepted,
            ..PlanStatus::default()
        };
        assert!(is_accepted(&status("standby", Some(true))));
        assert!(!is_accepted(&status("standby", None)) && !is_accepted(&status("active", None)));
    }
}
