//! Reversed: a plan as its other side writes it, for the way back.
//!
//! 1. What comes back is what went: reversing twice gives the same plan (test `reversing_twice_changes_nothing`).
//! 2. A plan whose way back is not clear has none: two names that become one, or a patch, whose effect nobody can
//!    take off an object again, is an error and never a guess (test `what_cannot_be_reversed_is_named`).
//!
//! Left to the daemon is what each side has of its own: what it calls its peer (`pair`), and where its volumes and
//! its manifest folder are. A `namespaceSelector` stays as it is: the labels of namespaces replicate with them.

use std::collections::BTreeMap;

use super::PlanSpec;
use super::drill::renamed;
use crate::{Class, Classify};

/// Why a plan cannot be reversed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Irreversible {
    /// Two names become one, and nobody can tell which it was.
    #[error("`{field}` sends {first} and {second} to {target}, so there is no way back from {target}")]
    NotOneToOne {
        /// Which mapping.
        field: &'static str,
        /// The one name.
        first: String,
        /// The other.
        second: String,
        /// What both become.
        target: String,
    },
    /// What a patch took off an object is not in the object.
    #[error("the plan has {count} `transforms`, which cannot be taken back")]
    Transforms {
        /// How many.
        count: usize,
    },
}

impl Classify for Irreversible {
    fn class(&self) -> Class {
        Class::Invalid
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Irreversible::NotOneToOne { field, .. } => {
                format!("give each entry of `{field}` a target of its own")
            }
            Irreversible::Transforms { .. } => {
                "what differs between the sites belongs into a mapping, or into objects labelled \
                 backstay.dev/exclude that each site has of its own"
                    .to_owned()
            }
        })
    }
}

impl PlanSpec {
    /// The plan as it is when the other side sends: namespaces by their names over there, and every mapping turned
    /// round. Refused for a plan with `transforms`, and for mappings that are not one-to-one.
    ///
    /// An image that names no registry comes back with the name of the one it stood for: `nginx` as
    /// `docker.io/library/nginx`.
    pub fn reversed(&self) -> Result<PlanSpec, Irreversible> {
        if !self.transforms.is_empty() {
            return Err(Irreversible::Transforms { count: self.transforms.len() });
        }
        let there = |name: &String| self.namespace_mapping.get(name).unwrap_or(name).clone();
        Ok(PlanSpec {
            namespaces: self.namespaces.iter().map(there).collect(),
            drill: self.drill.as_ref().map(|drill| drill.renamed(there)),
            promote_hooks: renamed(&self.promote_hooks, there),
            namespace_mapping: inverted("namespaceMapping", &self.namespace_mapping)?,
            storage_class_mapping: inverted("storageClassMapping", &self.storage_class_mapping)?,
            image_registry_mapping: inverted("imageRegistryMapping", &self.image_registry_mapping)?,
            ..self.clone()
        })
    }
}

fn inverted(
    field: &'static str,
    mapping: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, Irreversible> {
    // A slash at the end of a registry says nothing.
    let same = |text: &str| text.trim_end_matches('/').to_owned();
    let mut sources: BTreeMap<String, &String> = BTreeMap::new();
    for (source, target) in mapping {
        if let Some(first) = sources.insert(same(target), source) {
            let (first, second, target) = (first.clone(), source.clone(), target.clone());
            return Err(Irreversible::NotOneToOne { field, first, second, target });
        }
    }
    Ok(mapping.iter().map(|(source, target)| (target.clone(), source.clone())).collect())
}

#[cfg(test)]
mod tests {
    use proptest::collection::btree_map;
    use proptest::prelude::*;

    use super::*;

    fn map(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
        entries.iter().map(|(from, to)| ((*from).to_owned(), (*to).to_owned())).collect()
    }

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn names_are_those_of_the_other_side() {
        let spec = PlanSpec {
            pair: "west".to_owned(),
            namespaces: names(&["shop", "bank"]),
            namespace_mapping: map(&[("shop", "shop-dr"), ("ops", "ops-dr")]),
            storage_class_mapping: map(&[("fast", "slow"), ("slow", "fast")]),
            image_registry_mapping: map(&[("docker.io", "m.io/hub")]),
            ..PlanSpec::default()
        };
        let back = spec.reversed().unwrap();
        assert_eq!(back.namespaces, names(&["shop-dr", "bank"]));
        assert_eq!(back.namespace_mapping, map(&[("shop-dr", "shop"), ("ops-dr", "ops")]));
        assert_eq!(back.storage_class_mapping, spec.storage_class_mapping);
        assert_eq!(back.image_registry_mapping, map(&[("m.io/hub", "docker.io")]));
        assert_eq!(back.pair, "west");
        assert_eq!(back.validate(), Ok(()));
    }

    #[test]
    fn what_cannot_be_reversed_is_named() {
        let two = |entries| PlanSpec { image_registry_mapping: map(entries), ..PlanSpec::default() };
        let error = two(&[("a.io", "m.io"), ("b.io", "m.io/")]).reversed().unwrap_err();
        assert_eq!(
            error.to_string(),
            "`imageRegistryMapping` sends a.io and b.io to m.io/, so there is no way back from m.io/"
        );
        assert!(error.hint().is_some());
        let classes = PlanSpec {
            storage_class_mapping: map(&[("fast", "local"), ("slow", "local")]),
            ..PlanSpec::default()
        };
        let field = |error| match error {
            Irreversible::NotOneToOne { field, .. } => field,
            Irreversible::Transforms { .. } => "transforms",
        };
        assert_eq!(field(classes.reversed().unwrap_err()), "storageClassMapping");
        let patched: PlanSpec = serde_json::from_str(
            r#"{"pair": "west", "namespaces": ["shop"], "transforms": [{"kind": "Service", "mergePatch": "{}"}]}"#,
        )
        .unwrap();
        assert_eq!(patched.reversed(), Err(Irreversible::Transforms { count: 1 }));
    }

    /// Mappings of distinct names to distinct names.
    fn mapping() -> impl Strategy<Value = BTreeMap<String, String>> {
        btree_map("[a-d]{1,2}", "[a-z]{1,4}", 0..5).prop_map(|map| {
            let mut taken = std::collections::BTreeSet::new();
            map.into_iter().filter(|(_, target)| taken.insert(target.clone())).collect()
        })
    }

    proptest! {
        #[test]
        fn reversing_twice_changes_nothing(
            namespaces in proptest::collection::btree_set("[a-e]{1,2}", 1..4),
            namespace_mapping in mapping(),
            storage_class_mapping in mapping(),
            image_registry_mapping in mapping(),
        ) {
            let spec = PlanSpec {
                namespaces: namespaces.into_iter().collect(),
                namespace_mapping,
                storage_class_mapping,
                image_registry_mapping,
                ..PlanSpec::default()
            };
            prop_assume!(spec.validate().is_ok());
            let back = spec.reversed().unwrap();
            prop_assert_eq!(back.validate(), Ok(()));
            prop_assert_eq!(back.reversed().unwrap(), spec);
        }
    }
}
