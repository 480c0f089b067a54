//! Kubernetes objects in files: what a test puts into a source folder and finds on the standby.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

/// Every object in the YAML and JSON files under a folder, by `namespace/Kind/name`. Files of a folder named
/// `deferred` are left out: they are not applied.
pub fn objects_under(dir: &Path) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && name != "deferred" {
                folders.push(path);
            } else if !name.starts_with('.')
                && [".yaml", ".yml", ".json"].iter().any(|end| name.ends_with(end))
            {
                let text = std::fs::read_to_string(&path).unwrap();
                for document in text.split("\n---\n").filter(|document| !document.trim().is_empty()) {
                    let value: Value = serde_saphyr::from_str(document)
                        .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
                    let old = found.insert(key(&value), value);
                    assert!(old.is_none(), "{} holds an object that another file holds too", path.display());
                }
            }
        }
    }
    found
}

/// One of them; panics with what there is instead.
#[track_caller]
pub fn object<'a>(objects: &'a BTreeMap<String, Value>, key: &str) -> &'a Value {
    objects.get(key).unwrap_or_else(|| panic!("no object {key}; found {:?}", objects.keys()))
}

fn key(value: &Value) -> String {
    let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or("_").to_owned();
    format!("{}/{}/{}", text("/metadata/namespace"), text("/kind"), text("/metadata/name"))
}
