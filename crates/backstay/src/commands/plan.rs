//! `backstay plan …`

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use backstay_daemon::api_types::{
    AcceptRequest, Accepted, Applied, ApplyRequest, Changed, Empty, FieldChange, List, PlanDetail,
    PlanSummary,
};
use backstay_kube::documents::{self, Problem};
use backstay_types::Class;

use crate::args::PlanCommand;
use crate::client::Client;
use crate::failure::Failure;
use crate::{output, render};

/// All documents of one `plan apply`: four plans of the largest size, and with JSON's quoting still below the 2 MiB
/// that the daemon reads of a request.
const DOCUMENTS_BYTES_MAX: usize = 1 << 20;

pub(super) async fn run(client: &Client, command: PlanCommand) -> Result<(), Failure> {
    match command {
        PlanCommand::Apply { files, output } => {
            let files = read_files(&files)?;
            // What is wrong with a file in itself is told with its name; the daemon sees one text.
            files.iter().try_for_each(|file| file.check())?;
            let documents = joined(&files);
            let applied: List<Applied> = client.post("/plans", &ApplyRequest { documents }).await?;
            output::show(output.format, &applied, |_| render::applied(&applied.items))
        }
        PlanCommand::List { output } => {
            let plans: List<PlanSummary> = client.get("/plans").await?;
            output::show(output.format, &plans, |_| render::plans(&plans.items))
        }
        PlanCommand::Get { name, output } => {
            let plan: PlanDetail = client.get(&format!("/plans/{name}")).await?;
            output::show(output.format, &plan, |_| render::plan(&plan))
        }
        PlanCommand::Diff { name, output } => {
            let changes: List<FieldChange> = client.get(&format!("/plans/{name}/proposed")).await?;
            output::show(output.format, &changes, |_| render::proposed(&name, &changes.items))
        }
        PlanCommand::Accept { name, output } => {
            // What changes between the look and the word is refused.
            let shown: List<FieldChange> = client.get(&format!("/plans/{name}/proposed")).await?;
            let request = AcceptRequest { changes: Some(shown.items) };
            let accepted: Accepted = client.post(&format!("/plans/{name}/accept"), &request).await?;
            output::show(output.format, &accepted, |_| render::accepted(&name, &accepted.accepted))
        }
        PlanCommand::Delete { name, purge } => {
            let query = if purge { "?purge=true" } else { "" };
            let deleted = client.delete(&format!("/plans/{name}{query}")).await;
            output::print(&match changed_or_gone(deleted)? {
                true if purge => format!(
                    "Plan {name} deleted with its restore points on this site; its replicas are kept.\n\
                     Next: backstay gc, to free the space now"
                ),
                true => format!(
                    "Plan {name} deleted on this site; its restore points and replicas are kept.\n\
                     To remove restore points for good, where they are: backstay plan delete {name} --purge"
                ),
                false => format!("There is no plan {name}; nothing to do."),
            })
        }
        PlanCommand::Suspend { name } => {
            let done: Changed = client.post(&format!("/plans/{name}/suspend"), &Empty {}).await?;
            output::print(&match done.changed {
                true => format!("Plan {name} suspended. Next: backstay plan resume {name}"),
                false => format!("Plan {name} was suspended already."),
            })
        }
        PlanCommand::Resume { name } => {
            let done: Changed = client.post(&format!("/plans/{name}/resume"), &Empty {}).await?;
            output::print(&match done.changed {
                true => format!("Plan {name} resumed."),
                false => format!("Plan {name} was not suspended."),
            })
        }
    }
}

/// Removing what is not there is done already.
pub(super) fn changed_or_gone(outcome: Result<Changed, Failure>) -> Result<bool, Failure> {
    Ok(done_or_gone(outcome)?.is_some_and(|done| done.changed))
}

/// What was done, or nothing: what is not there has not to be removed.
pub(super) fn done_or_gone<T>(outcome: Result<T, Failure>) -> Result<Option<T>, Failure> {
    match outcome {
        Ok(done) => Ok(Some(done)),
        // The site itself not being there is no such case, and neither is a daemon that does not know the route.
        Err(failure) if failure.class() == Class::NotFound && failure.is_told() => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// A file that was read.
struct Read {
    path: PathBuf,
    text: String,
}

impl Read {
    fn check(&self) -> Result<(), Failure> {
        let name =
            if is_stdin(&self.path) { "standard input".to_owned() } else { self.path.display().to_string() };
        match documents::parse(&name, &self.text) {
            // One of several files may be empty; the daemon refuses it if all are.
            Err(error) if !matches!(*error.problem, Problem::NoDocuments) => Err(error.into()),
            _ => Ok(()),
        }
    }
}

fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// All files, in order.
fn read_files(files: &[PathBuf]) -> Result<Vec<Read>, Failure> {
    let mut all = Vec::new();
    let mut left = DOCUMENTS_BYTES_MAX;
    for file in files {
        for path in expand(file)? {
            let text = read(&path, left)?;
            left = left.saturating_sub(text.len());
            all.push(Read { path, text });
        }
    }
    Ok(all)
}

/// The documents of all files as one stream.
fn joined(files: &[Read]) -> String {
    files.iter().map(|file| file.text.as_str()).collect::<Vec<_>>().join("\n---\n")
}

/// The files a name stands for: itself, or a folder's, sorted.
fn expand(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    if is_stdin(path) || !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let fail = |error: std::io::Error| Failure::io(Class::Invalid, "read folder", path, &error);
    let mut found = Vec::new();
    for entry in fs::read_dir(path).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        if matches!(extension, Some("yaml" | "yml" | "json")) && path.is_file() {
            found.push(path);
        }
    }
    if found.is_empty() {
        let message = format!("{} holds no *.yaml, *.yml or *.json", path.display());
        return Err(Failure::new(Class::Invalid, message).hint("name the file, or the folder that holds it"));
    }
    found.sort();
    Ok(found)
}

/// A file of which at most `bytes_max` bytes may be read.
fn read(path: &Path, bytes_max: usize) -> Result<String, Failure> {
    let fail = |error: std::io::Error| Failure::io(Class::Invalid, "read", path, &error);
    // One byte more than may be, to notice that there is more.
    let limit = bytes_max as u64 + 1;
    let mut text = String::new();
    if is_stdin(path) {
        std::io::stdin().lock().take(limit).read_to_string(&mut text).map_err(fail)?;
    } else {
        fs::File::open(path).and_then(|file| file.take(limit).read_to_string(&mut text)).map_err(fail)?;
    }
    if text.len() > bytes_max {
        let message = format!("the documents together are over 1 MiB, at {}", path.display());
        return Err(Failure::new(Class::LimitExceeded, message).hint("apply the files one by one"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_folders_become_one_stream() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        for (name, text) in [("b.yaml", "b: 1"), ("a.yml", "a: 1\n"), ("c.json", "{}"), ("d.txt", "no")] {
            fs::write(path(name), text).expect("writes");
        }
        let one = read_files(&[path("d.txt")]).expect("reads");
        assert_eq!(joined(&one), "no");
        let error = one[0].check().expect_err("it is no plan").to_string();
        assert!(error.contains("d.txt"), "{error}");
        let all = read_files(&[folder.path().to_owned(), path("d.txt")]).expect("reads");
        assert_eq!(joined(&all), "a: 1\n\n---\nb: 1\n---\n{}\n---\nno");
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let missing = read_files(&[folder.path().join("none.yaml")]).err().expect("missing");
        assert!(missing.class() == Class::Invalid && missing.to_string().contains("none.yaml"));
        let empty = read_files(&[folder.path().to_owned()]).err().expect("nothing in it");
        assert_eq!(empty.class(), Class::Invalid);
        let path = folder.path().join("big.yaml");
        fs::write(&path, "#".repeat(DOCUMENTS_BYTES_MAX)).expect("writes");
        read_files(std::slice::from_ref(&path)).expect("just fits");
        fs::write(&path, "#".repeat(DOCUMENTS_BYTES_MAX + 1)).expect("writes");
        let big = read_files(&[path]).err().expect("too much");
        assert_eq!(big.class(), Class::LimitExceeded);
    }
}
