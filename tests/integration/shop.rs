//! A pair with a plan of a volume and a manifest folder, for tests in which sides change their roles.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use backstay_tests::{Pair, Plan, eventually, objects_under, seed, tree};
use serde_json::Value;

const SHOP: &str = "\
# a comment that only this file has
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: \"nginx:1.27\"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: tool, namespace: shop}
spec: {containers: [{name: tool, image: tool}]}
";

pub(crate) struct Shop {
    pub(crate) pair: Pair,
    pub(crate) source: PathBuf,
    pub(crate) manifests: PathBuf,
}

impl Shop {
    pub(crate) fn new(build: impl FnOnce(&Path)) -> Shop {
        Shop::on(Pair::start(), build)
    }

    pub(crate) fn on(pair: Pair, build: impl FnOnce(&Path)) -> Shop {
        let (source, manifests) = (pair.source("source"), pair.source("manifests"));
        build(&source);
        fs::write(manifests.join("shop.yaml"), SHOP).unwrap();
        pair.east.apply(&Plan::new("shop").volume("data", &source).manifests(&manifests).yaml()).ok();
        pair.east.sync("shop");
        Shop { pair, source, manifests }
    }

    pub(crate) fn replica(&self) -> PathBuf {
        self.pair.west.replica("shop", "data")
    }

    pub(crate) fn roles(&self) -> (Value, Value) {
        (self.pair.east.status("shop")["role"].clone(), self.pair.west.status("shop")["role"].clone())
    }

    /// Replicas of the Deployment on both sides; none where there is no such object.
    pub(crate) fn running(&self) -> (Option<Value>, Option<Value>) {
        (replicas(&self.manifests), replicas(&self.pair.west.manifests("shop")))
    }

    pub(crate) fn wait_roles(&self, east: &str, west: &str) {
        eventually(&format!("east is {east} and west is {west}"), Duration::from_secs(60), || {
            self.roles() == (east.into(), west.into())
        });
    }

    /// Looks at both sides until the watch ends.
    pub(crate) fn watch(&self) -> Watch {
        let (east, west) = (self.manifests.clone(), self.pair.west.manifests("shop"));
        let over = Arc::new(AtomicBool::new(false));
        let is_over = over.clone();
        let watcher = std::thread::spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                // The second look at the first side: it may have stopped before the other one started.
                if let (Some(_), Some(there), Some(here)) = (runs(&east), runs(&west), runs(&east)) {
                    panic!("both sides run:\n{here:?}\n{there:?}");
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        Watch { over, watcher }
    }

    /// A command of the side where the plan was made, under way.
    pub(crate) fn begin(&self, verb: &str) -> Child {
        let mut command = self.pair.east.command([verb, "shop"]);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }
}

/// Somebody who looks whether both sides run.
pub(crate) struct Watch {
    over: Arc<AtomicBool>,
    watcher: JoinHandle<()>,
}

impl Watch {
    /// Ends it, and fails the test if both did.
    pub(crate) fn end(self) {
        self.over.store(true, Ordering::Relaxed);
        self.watcher.join().unwrap();
    }
}

/// Whether the Deployment runs by what lies in a folder that is being changed.
fn runs(dir: &Path) -> Option<(PathBuf, String)> {
    let entries = fs::read_dir(dir).ok()?;
    entries.flatten().find_map(|entry| {
        let path = entry.path();
        if path.is_dir() {
            return if entry.file_name() == "deferred" { None } else { runs(&path) };
        }
        // What is set aside has another ending, and what is being written begins with a dot.
        let is_hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        let is_applied = path.extension().is_some_and(|ending| ending == "yaml") && !is_hidden;
        let text = is_applied.then(|| fs::read_to_string(&path).ok()).flatten()?;
        text.contains("replicas: 3").then_some((path, text))
    })
}

fn replicas(dir: &Path) -> Option<Value> {
    objects_under(dir).get("shop/Deployment/web").and_then(|web| web.pointer("/spec/replicas").cloned())
}

pub(crate) fn small(source: &Path) {
    tree::small_files(source, 300, &mut seed("handover"));
}
