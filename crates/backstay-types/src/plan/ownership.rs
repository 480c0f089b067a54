//! Ownership: which fields of a plan its active side may change, and which belong to the operator of the site where it
//! was made.
//!
//! 1. Every field is in the one table below: a field that is missing there does not compile.
//! 2. What says where something is read, written or run, what of a cluster is touched, or what starts by itself, is the
//!    operator's, whoever is active (test `places_stay_whatever_is_shared`).
//!
//! Left to the daemon: what is done with a difference (it is kept as *proposed*), and the policy behind a schedule.

use super::PlanSpec;

/// Who says what a field is on the site where the plan was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// Each side for itself, and neither learns of the other's.
    Side,
    /// That site's operator alone; what the other side says is a proposal.
    Operator,
    /// Whichever side is active.
    ActiveSide,
}

macro_rules! fields {
    ($($owner:ident $field:ident $name:literal,)*) => {
        /// Every field of a plan, as it stands in JSON, and whose it is.
        pub const OWNERS: &[(&str, Owner)] = &[$(($name, Owner::$owner),)*];

        impl PlanSpec {
            /// This plan as it becomes where it was made when the active side shares `shared`: what is the operator's
            /// stays.
            #[must_use]
            pub fn with_shared(&self, shared: &PlanSpec) -> PlanSpec {
                PlanSpec { $($field: fields!(@pick $owner, self.$field, shared.$field).clone(),)* }
            }

            /// This plan with what is the operator's taken from `proposed`.
            #[must_use]
            pub fn with_accepted(&self, proposed: &PlanSpec) -> PlanSpec {
                let taken = proposed.with_shared(self);
                PlanSpec { pair: self.pair.clone(), ..taken }
            }

            /// Fields of the operator that `shared` says something else of.
            pub fn proposed_by(&self, shared: &PlanSpec) -> Vec<&'static str> {
                let mut fields = Vec::new();
                $(if Owner::$owner == Owner::Operator && self.$field != shared.$field {
                    fields.push($name);
                })*
                fields
            }
        }
    };
    (@pick ActiveSide, $own:expr, $shared:expr) => { $shared };
    (@pick $owner:ident, $own:expr, $shared:expr) => { $own };
}

fields! {
    // The name of the peer is this side's own word.
    Side pair "pair",
    // When, how long and how far behind: nothing here is read, written or run elsewhere for it.
    ActiveSide schedule "schedule",
    ActiveSide schedule_policy "schedulePolicy",
    ActiveSide retention "retention",
    ActiveSide rpo_target "rpoTarget",
    ActiveSide suspend "suspend",
    // Both sides must say the same of a lease, or one takes over while the other does not renew.
    ActiveSide automatic_failover "automaticFailover",
    // Commands.
    Operator pre_exec_rule "preExecRule",
    Operator post_exec_rule "postExecRule",
    Operator drill "drill",
    Operator promote_hooks "promoteHooks",
    Operator hold "hold",
    Operator wait_ready "waitReady",
    // Places.
    Operator volumes "volumes",
    Operator manifests "manifests",
    // What of the cluster is read, and after a failover written and deleted.
    Operator namespaces "namespaces",
    Operator namespace_selector "namespaceSelector",
    Operator selector "selector",
    Operator include_resources "includeResources",
    Operator exclude_resources "excludeResources",
    Operator exclude_volumes "excludeVolumes",
    // Where objects go: turned round, they name the namespaces that are written at home.
    Operator namespace_mapping "namespaceMapping",
    Operator storage_class_mapping "storageClassMapping",
    Operator image_registry_mapping "imageRegistryMapping",
    Operator transforms "transforms",
    // What is deleted, what may be emptied, how good a point must be, and what runs on a standby.
    Operator purge_deleted_resources "purgeDeletedResources",
    Operator purge_deleted_data "purgeDeletedData",
    Operator allow_fuzzy "allowFuzzy",
    Operator minimum_consistency "minimumConsistency",
    Operator allow_empty "allowEmpty",
    Operator start_applications "startApplications",
    Operator holds "holds",
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn plan(text: &str) -> PlanSpec {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn every_field_is_named_as_it_is_written() {
        let schema = serde_json::to_value(schemars::schema_for!(PlanSpec)).unwrap();
        let written: BTreeSet<String> = schema["properties"].as_object().unwrap().keys().cloned().collect();
        let named: BTreeSet<String> = OWNERS.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(named, written);
    }

    #[test]
    fn places_stay_whatever_is_shared() {
        let own = plan(
            r#"{"pair": "west", "volumes": [{"name": "data", "path": "/srv/data"}],
                "namespaces": ["shop"], "rpoTarget": "20m"}"#,
        );
        let shared = plan(
            r#"{"pair": "east", "suspend": true, "allowFuzzy": true, "retention": {"last": 3},
                "volumes": [{"name": "data", "path": "/etc",
                    "snapshot": {"provider": "command", "create": ["/bin/sh"]}}],
                "namespaces": ["shop", "kube-system"]}"#,
        );
        let now = own.with_shared(&shared);
        assert_eq!(
            (now.pair.as_str(), &now.volumes, &now.namespaces),
            ("west", &own.volumes, &own.namespaces)
        );
        assert!(now.suspend && !now.allow_fuzzy && now.rpo_target.is_none());
        assert_eq!(now.retention.last, 3);
        assert_eq!(now.proposed_by(&shared), ["volumes", "namespaces", "allowFuzzy"]);

        let accepted = now.with_accepted(&shared);
        assert_eq!((accepted.pair.as_str(), &accepted.volumes), ("west", &shared.volumes));
        assert!(accepted.suspend && accepted.allow_fuzzy);
        assert_eq!(accepted.proposed_by(&shared), Vec::<&str>::new());
    }
}
