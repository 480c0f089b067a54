//! Plans as YAML, from the fields a test cares about.

use std::fmt::Write as _;
use std::path::Path;

/// Builds a `ReplicationPlan` document.
#[derive(Debug, Clone)]
pub struct Plan {
    name: String,
    pair: String,
    volumes: Vec<String>,
    fields: Vec<String>,
}

impl Plan {
    /// A plan of this name that replicates to the site `west`.
    pub fn new(name: &str) -> Plan {
        Plan { name: name.to_owned(), pair: "west".to_owned(), volumes: Vec::new(), fields: Vec::new() }
    }

    /// Replicates to another peer.
    pub fn pair(mut self, peer: &str) -> Plan {
        peer.clone_into(&mut self.pair);
        self
    }

    /// Adds a folder.
    pub fn volume(self, name: &str, path: &Path) -> Plan {
        self.raw_volume(&format!("{{name: {name}, path: {path:?}}}"))
    }

    /// Adds a block device or an image.
    pub fn device(self, name: &str, path: &Path) -> Plan {
        self.raw_volume(&format!("{{name: {name}, device: {path:?}}}"))
    }

    /// Adds a volume as YAML in flow style.
    pub fn raw_volume(mut self, yaml: &str) -> Plan {
        self.volumes.push(yaml.to_owned());
        self
    }

    /// Adds the folder of manifests.
    pub fn manifests(self, path: &Path) -> Plan {
        self.field(&format!("manifests: {{path: {path:?}}}"))
    }

    /// Runs every so long, such as `3s`.
    pub fn interval(self, interval: &str) -> Plan {
        self.field(&format!("schedule: {{interval: {interval}}}"))
    }

    /// Keeps the newest so many restore points.
    pub fn keep(self, last: u32) -> Plan {
        self.field(&format!("retention: {{last: {last}}}"))
    }

    /// Adds a field of `spec` as YAML.
    pub fn field(mut self, yaml: &str) -> Plan {
        self.fields.push(yaml.to_owned());
        self
    }

    /// The document.
    pub fn yaml(&self) -> String {
        let mut text = format!(
            "apiVersion: backstay.dev/v1alpha1\nkind: ReplicationPlan\nmetadata: {{name: {}}}\nspec:\n  pair: {}\n",
            self.name, self.pair
        );
        for field in &self.fields {
            writeln!(text, "  {field}").unwrap();
        }
        if !self.volumes.is_empty() {
            writeln!(text, "  volumes:").unwrap();
        }
        for volume in &self.volumes {
            writeln!(text, "    - {volume}").unwrap();
        }
        text
    }
}
