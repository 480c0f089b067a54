//! What is frozen, and how to undo it: a file that is durable before the first pre-action starts.
//!
//! 1. While the file is there, an application may be frozen. It is removed when nothing is left to undo.
//!
//! After a crash it holds what was to be undone in full: undoing twice is what post-actions must bear.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use backstay_types::plan::RuleAction;
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

use super::fault::FreezeError;

const VERSION: u32 = 1;

/// A container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Place {
    pub(super) namespace: String,
    pub(super) pod: String,
    pub(super) uid: String,
    pub(super) container: String,
}

/// One action in one container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Step {
    /// How errors call it: `preExecRule.rules[0].actions[1]`.
    pub(super) name: String,
    /// Folder of its keeper: never used for another.
    pub(super) id: String,
    pub(super) place: Place,
    /// What it writes may hold Secrets.
    pub(super) is_private: bool,
    pub(super) action: RuleAction,
}

/// Everything that runs in one pod, in order. As a record: what is to be undone, of `pre` the background actions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct PodSteps {
    pub(super) pre: Vec<Step>,
    pub(super) post: Vec<Step>,
}

impl PodSteps {
    /// What is to be undone of it.
    pub(super) fn undo(&self) -> Self {
        let pre = self.pre.iter().filter(|step| step.action.background).cloned().collect();
        Self { pre, post: self.post.clone() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pre.is_empty() && self.post.is_empty()
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u32,
    pods: Vec<PodSteps>,
}

/// The file.
#[derive(Debug, Clone)]
pub(super) struct Record(PathBuf);

impl Record {
    pub(super) fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// What is to be undone; nothing if there is no file.
    pub(super) async fn read(&self) -> Result<Vec<PodSteps>, FreezeError> {
        self.run("read", |path| match fs::read(path) {
            Ok(bytes) => {
                let content: Content = serde_json::from_slice(&bytes).map_err(damaged)?;
                let fits = content.version == VERSION;
                fits.then_some(content.pods).ok_or_else(|| {
                    let why = format!("version: expected {VERSION}, found {}", content.version);
                    damaged(why)
                })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        })
        .await
    }

    /// Replaces it; with nothing to undo, removes it.
    pub(super) async fn write(&self, pods: Vec<PodSteps>) -> Result<(), FreezeError> {
        let pods: Vec<PodSteps> = pods.into_iter().filter(|pod| !pod.is_empty()).collect();
        if pods.is_empty() {
            return self.run("remove", remove).await;
        }
        self.run("write", move |path| {
            let bytes = serde_json::to_vec_pretty(&Content { version: VERSION, pods })?;
            replace(path, &bytes)
        })
        .await
    }

    async fn run<T: Send + 'static>(
        &self,
        doing: &'static str,
        work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> Result<T, FreezeError> {
        let path = self.0.clone();
        let outcome = spawn_blocking(move || work(&path)).await.unwrap_or_else(|error| Err(error.into()));
        outcome.map_err(|source| FreezeError::Record { doing, path: self.0.clone(), source })
    }
}

fn damaged(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Old or new at a crash, never a part. Commands may hold what is secret: nobody else reads it.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_added_extension("tmp");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    sync_parent(path)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Ok(()) => sync_parent(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn sync_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}
