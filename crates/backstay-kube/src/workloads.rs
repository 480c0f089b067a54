//! Which objects of a bundle run something by themselves, and go on to do so: without one of them a takeover starts
//! nothing. Jobs and bare pods come and go, and what another object makes is not counted beside it.

use crate::folder::CapturedObject;

/// `<group>_<kind>`, as in the key of an object.
const KINDS: [&str; 10] = [
    "_ReplicationController",
    "apps_DaemonSet",
    "apps_Deployment",
    "apps_StatefulSet",
    "apps.kruise.io_CloneSet",
    "apps.kruise.io_DaemonSet",
    "apps.kruise.io_StatefulSet",
    "apps.openshift.io_DeploymentConfig",
    "argoproj.io_Rollout",
    "batch_CronJob",
];

/// How many of them there are.
pub fn count_workloads(objects: &[CapturedObject]) -> u64 {
    let is_workload = |object: &&CapturedObject| {
        let kind = object.key.components().nth(1);
        KINDS.iter().any(|known| kind == Some(known.as_bytes()))
    };
    objects.iter().filter(is_workload).count() as u64
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::object::Scopes;
    use crate::{ObjectId, canonical};

    #[test]
    fn what_runs_for_good_is_counted() {
        let object = |api: &str, kind: &str| {
            let object =
                json!({"apiVersion": api, "kind": kind, "metadata": {"name": "a", "namespace": "shop"}});
            let key = ObjectId::of(&object).unwrap().key(&Scopes::default()).unwrap();
            CapturedObject { key, bytes: canonical::to_bytes(&object) }
        };
        let objects = [
            object("apps/v1", "Deployment"),
            object("batch/v1", "CronJob"),
            object("batch/v1", "Job"),
            object("v1", "Pod"),
            object("v1", "Deployment"),
            object("v1", "ConfigMap"),
        ];
        assert_eq!(count_workloads(&objects), 2);
    }
}
