//! An operator's own command.

use std::ffi::OsString;
use std::path::Path;
use std::pin::pin;
use std::process::Stdio;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;

use super::MESSAGE_BYTES_MAX;

/// What a command that has ended said may still be on its way for so long. What it has left running may hold its output
/// open for ever.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Runs a command in `folder`: the beginning of its output, or why it did not succeed. If this is dropped, the command
/// and its children are killed.
pub(super) async fn run(
    argv: &[String],
    variables: &[(String, OsString)],
    folder: &Path,
) -> Result<String, String> {
    let (program, arguments) = argv.split_first().ok_or("there is no command")?;
    let fail = |error: std::io::Error| format!("run {program}: {error}");
    let mut command = Command::new(program);
    command.args(arguments).envs(variables.iter().map(|(name, value)| (name, value))).current_dir(folder);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.process_group(0).kill_on_drop(true).spawn().map_err(fail)?;
    let mut group = Group(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw));
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (mut said, mut complained) = (Vec::new(), Vec::new());
    let status = {
        let mut reading =
            pin!(async { tokio::join!(head(stdout, &mut said), head(stderr, &mut complained)) });
        let mut is_read = false;
        let status = loop {
            tokio::select! {
                _ = &mut reading, if !is_read => is_read = true,
                status = child.wait() => break status.map_err(fail)?,
            }
        };
        if !is_read {
            // It has said all that it will, unless a child of it goes on.
            let _cut_off = tokio::time::timeout(LAST_WORDS, reading).await;
        }
        status
    };
    // It ended by itself: what it started, such as the application, may go on.
    group.0 = None;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    match status.success() {
        true => Ok(text(&said)),
        false => {
            let words = if complained.is_empty() { text(&said) } else { text(&complained) };
            Err(format!("{program} ended with {status}: {words}"))
        }
    }
}

/// Reads to the end, and keeps the beginning.
async fn head(from: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) {
    let Some(mut from) = from else { return };
    let mut piece = [0; 1024];
    // An output that cannot be read says nothing: the status of the command decides.
    while let Ok(len @ 1..) = from.read(&mut piece).await {
        let room = MESSAGE_BYTES_MAX.saturating_sub(kept.len());
        kept.extend(piece.iter().take(len.min(room)));
    }
}

/// The processes of a command, killed with this value.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        let Some(group) = self.0 else { return };
        match rustix::process::kill_process_group(group, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(error) => tracing::warn!(%error, "cannot kill a probe that takes too long"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn sh(script: &str) -> Result<String, String> {
        let argv = ["sh", "-c", script].map(str::to_owned);
        let variables = [("BACKSTAY_DRILL_FOLDER".to_owned(), OsString::from("/drill"))];
        run(&argv, &variables, Path::new("/")).await
    }

    #[tokio::test]
    async fn a_command_says_how_it_went() {
        assert_eq!(sh("echo $BACKSTAY_DRILL_FOLDER; pwd").await.unwrap(), "/drill\n/");
        let why = sh("echo out; echo no such table >&2; exit 3").await.unwrap_err();
        assert!(why.contains("exit status: 3") && why.ends_with("no such table"), "{why}");
        let why = run(&["/no/such/program".to_owned()], &[], Path::new("/")).await.unwrap_err();
        assert!(why.contains("/no/such/program"), "{why}");
    }

    #[tokio::test]
    async fn what_it_says_is_bounded_and_what_it_leaves_does_not_hold_it() {
        let said = sh("yes | head -c 300000").await.unwrap();
        assert!(said.len() <= MESSAGE_BYTES_MAX, "{}", said.len());
        assert_eq!(sh("sleep 3 & echo started").await.unwrap(), "started");
    }

    #[tokio::test]
    async fn children_die_with_a_command_that_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let script = format!("sleep 600 & echo $! > {0}.new; mv {0}.new {0}; wait", file.display());
        let pid = tokio::select! {
            ended = sh(&script) => panic!("{ended:?}"),
            pid = async {
                loop {
                    match std::fs::read_to_string(&file) {
                        Ok(pid) => break pid.trim().parse::<i32>().unwrap(),
                        Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                    }
                }
            } => Pid::from_raw(pid).unwrap(),
        };
        let is_gone = || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
            // Reaped, or waiting for whoever reaps orphans.
            stat.map_or(true, |stat| stat.contains(") Z "))
        };
        while !is_gone() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
