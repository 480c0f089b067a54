//! Image registries: where the standby pulls from.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{is_opaque, walk};
use crate::ObjectId;

/// What an image without a registry comes from.
const DEFAULT_REGISTRY: &str = "docker.io";
/// Where images of one word are there.
const DEFAULT_FOLDER: &str = "library";

/// Prefixes of image names and what replaces each, longest first.
#[derive(Debug, Clone, Default)]
pub(super) struct Registries(Vec<(String, String)>);

impl Registries {
    pub(super) fn new(mapping: &BTreeMap<String, String>) -> Self {
        let trim = |text: &String| text.trim_end_matches('/').to_owned();
        let mut prefixes: Vec<_> = mapping.iter().map(|(from, to)| (trim(from), trim(to))).collect();
        prefixes.sort_by_key(|(from, _)| std::cmp::Reverse(from.len()));
        Self(prefixes)
    }

    pub(super) fn apply(&self, id: &ObjectId, object: &mut Value) {
        if self.0.is_empty() || is_opaque(id) {
            return;
        }
        walk(object, &mut |key, value| {
            let (true, Some(image)) = (matches!(key, "image" | "imageName"), value.as_str()) else { return };
            if let Some(mapped) = self.image(image) {
                *value = Value::String(mapped);
            }
        });
    }

    fn image(&self, image: &str) -> Option<String> {
        let full = full_name(image);
        self.0.iter().find_map(|(from, to)| {
            let rest = full.strip_prefix(from.as_str())?;
            rest.starts_with('/').then(|| format!("{to}{rest}"))
        })
    }
}

/// An image's name with its registry: `nginx` is `docker.io/library/nginx`.
fn full_name(image: &str) -> String {
    match image.split_once('/') {
        None => format!("{DEFAULT_REGISTRY}/{DEFAULT_FOLDER}/{image}"),
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => image.to_owned(),
        Some(_) => format!("{DEFAULT_REGISTRY}/{image}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_wins_and_short_names_are_of_docker_hub() {
        let map = [("docker.io", "m.io/hub"), ("a.io/", "b.io"), ("a.io/team", "c.io/x")];
        let map = map.map(|(from, to)| (from.to_owned(), to.to_owned())).into();
        let registries = Registries::new(&map);
        for (image, expected) in [
            ("nginx", Some("m.io/hub/library/nginx")),
            ("nginx:1.27@sha256:ab", Some("m.io/hub/library/nginx:1.27@sha256:ab")),
            ("grafana/loki", Some("m.io/hub/grafana/loki")),
            ("a.io/web:2", Some("b.io/web:2")),
            ("a.io/team/web", Some("c.io/x/web")),
            ("a.io/teams/web", Some("b.io/teams/web")),
            ("a.io:5000/web", None),
            ("localhost/web", None),
        ] {
            assert_eq!(registries.image(image).as_deref(), expected, "{image}");
        }
    }
}
