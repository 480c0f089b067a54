//! Fields that a plan cannot honour where it has no cluster to capture from or to apply to.
//!
//! A plan that says `excludeResources: [Secret]` and ships the Secrets all the same has told its operator something
//! untrue. New plans with such a field are refused; plans of before go on, and their site warns.

use super::{InvalidPlan, PlanSpec};

impl PlanSpec {
    /// The fields that are set and have no effect: all of these speak about objects of a cluster.
    pub fn unhonoured(&self) -> Vec<&'static str> {
        if self.covers_cluster() {
            return Vec::new();
        }
        let fields = [
            ("selector", self.selector.is_some()),
            ("includeResources", !self.include_resources.is_empty()),
            ("excludeResources", !self.exclude_resources.is_empty()),
            ("excludeVolumes", !self.exclude_volumes.is_empty()),
            ("namespaceMapping", !self.namespace_mapping.is_empty()),
            ("storageClassMapping", !self.storage_class_mapping.is_empty()),
            ("imageRegistryMapping", !self.image_registry_mapping.is_empty()),
            ("transforms", !self.transforms.is_empty()),
            ("purgeDeletedResources", self.purge_deleted_resources == Some(false)),
            ("purgeDeletedData", self.purge_deleted_data),
            ("waitReady", self.wait_ready.is_some()),
        ];
        fields.into_iter().filter(|(_, is_set)| *is_set).map(|(field, _)| field).collect()
    }

    /// Checks a plan that an operator applies now: as [`PlanSpec::validate`], and nothing in it is without effect.
    pub fn validate_applied(&self) -> Result<(), InvalidPlan> {
        self.validate()?;
        match self.unhonoured().first() {
            Some(field) => Err(InvalidPlan::Unhonoured { field }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_without_a_cluster_names_what_it_cannot_honour() {
        let plan = |covers: &str, field: &str| -> PlanSpec {
            serde_json::from_str(&format!("{{\"pair\": \"west\", {covers}, {field}}}")).unwrap()
        };
        for (name, value) in [
            ("selector", "{\"matchLabels\": {\"app\": \"web\"}}"),
            ("includeResources", "[\"apps/Deployment\"]"),
            ("excludeResources", "[\"Secret\"]"),
            ("excludeVolumes", "[{\"kind\": \"hostPath\"}]"),
            ("namespaceMapping", "{\"a\": \"b\"}"),
            ("storageClassMapping", "{\"a\": \"b\"}"),
            ("imageRegistryMapping", "{\"a\": \"b\"}"),
            ("transforms", "[{\"kind\": \"Service\", \"mergePatch\": \"{}\"}]"),
            ("purgeDeletedResources", "false"),
            ("purgeDeletedData", "true"),
            ("waitReady", "\"10s\""),
        ] {
            let field = format!("\"{name}\": {value}");
            for covers in [
                "\"manifests\": {\"path\": \"/k8s\"}",
                "\"volumes\": [{\"name\": \"data\", \"path\": \"/data\"}]",
            ] {
                let spec = plan(covers, &field);
                assert_eq!(spec.validate(), Ok(()), "plans of before go on: {name}");
                assert_eq!(spec.unhonoured(), [name]);
                let error = spec.validate_applied().unwrap_err();
                assert!(error.to_string().starts_with(&format!("`{name}`")), "{error}");
            }
            assert_eq!(plan("\"namespaces\": [\"a\"]", &field).validate_applied(), Ok(()), "{name}");
        }
        let spec = plan("\"manifests\": {\"path\": \"/k8s\"}", "\"purgeDeletedResources\": true");
        assert_eq!(spec.validate_applied(), Ok(()));
    }
}
