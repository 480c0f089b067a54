//! Snapshots by the operator's own commands, for example for ZFS or LVM.
//!
//! `create` prints the path to read from on its first line of output; `release` is always run, also when `create`
//! failed half-way, and when the daemon was killed in between (test `a_command_is_released_after_a_kill`). Both get `BACKSTAY_PLAN`, `BACKSTAY_VOLUME` and `BACKSTAY_SOURCE`.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use backstay_types::Span;
use backstay_types::plan::VolumeSpec;
use rustix::fs::MemfdFlags;
use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};

use super::duty::{Duty, DutyFile};
use crate::{VolumeContext, VolumeError};

/// How long a command may take if the plan does not say.
const TIMEOUT: Span = Span::from_secs(300);

/// Bytes of a command's output that are looked at.
const OUTPUT_BYTES_MAX: usize = 4096;

/// How often a running command is looked at.
const POLL: Duration = Duration::from_millis(5);

/// A snapshot that the operator's command took.
pub(crate) struct CommandSnapshot {
    path: PathBuf,
    duty: Option<(CommandDuty, DutyFile)>,
}

/// The `release` that is to be run, with what it is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CommandDuty {
    plan: String,
    volume: String,
    source: PathBuf,
    release: Option<Vec<String>>,
    timeout: Span,
}

impl CommandDuty {
    fn env(&self) -> [(&'static str, OsString); 3] {
        [
            ("BACKSTAY_PLAN", OsString::from(&self.plan)),
            ("BACKSTAY_VOLUME", OsString::from(&self.volume)),
            ("BACKSTAY_SOURCE", self.source.clone().into_os_string()),
        ]
    }

    /// Runs `release`.
    pub(super) fn settle(&self) -> Result<(), VolumeError> {
        let Some(argv) = &self.release else { return Ok(()) };
        let argv: Vec<&OsStr> = argv.iter().map(OsStr::new).collect();
        match run(&argv, &self.env(), self.timeout.to_duration()) {
            Ok(_) => Ok(()),
            Err(why) => Err(self.fail("release", why.to_string())),
        }
    }

    fn fail(&self, action: &'static str, why: String) -> VolumeError {
        let path = self.source.display().to_string();
        VolumeError::Snapshot { action, provider: "command", path, why }
    }
}

impl CommandSnapshot {
    pub(super) fn take(
        spec: &VolumeSpec,
        ctx: &VolumeContext,
        source: &Path,
        file: DutyFile,
    ) -> Result<Self, VolumeError> {
        let duty = CommandDuty {
            plan: ctx.plan.to_string(),
            volume: spec.name.to_string(),
            source: source.to_owned(),
            release: spec.snapshot.release.clone(),
            timeout: spec.snapshot.timeout.unwrap_or(TIMEOUT),
        };
        // From here on the release runs, whatever happens.
        file.write(&Duty::Command(duty.clone()))?;
        let created = create(spec, &duty);
        let mut snapshot = Self { path: PathBuf::new(), duty: Some((duty.clone(), file)) };
        match created {
            Ok(path) => {
                snapshot.path = path;
                Ok(snapshot)
            }
            Err(why) => {
                if let Err(error) = snapshot.release() {
                    tracing::warn!(%error, "after a snapshot that could not be taken");
                }
                Err(duty.fail("take", why))
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `release` once. One that failed is on record, and tried again by the next cycle.
    pub(super) fn release(&mut self) -> Result<(), VolumeError> {
        let Some((duty, file)) = self.duty.take() else { return Ok(()) };
        duty.settle()?;
        file.clear()
    }
}

fn create(spec: &VolumeSpec, duty: &CommandDuty) -> Result<PathBuf, String> {
    let argv: Vec<&OsStr> = spec.snapshot.create.iter().flatten().map(OsStr::new).collect();
    let stdout = run(&argv, &duty.env(), duty.timeout.to_duration()).map_err(|e| e.to_string())?;
    let line = stdout.split(|b| *b == b'\n').next().unwrap_or_default();
    let path = PathBuf::from(OsString::from_vec(line.to_vec()));
    if !path.is_absolute() {
        return Err(format!(
            "its first line of output is not an absolute path: {:?}",
            path.display().to_string()
        ));
    }
    if !path.exists() {
        return Err(format!("the path it printed does not exist: {}", path.display()));
    }
    Ok(path)
}

/// Why a command did not succeed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("run {program}: {source}")]
    Start { program: String, source: io::Error },
    #[error("{program} took longer than {seconds} s and was killed")]
    Timeout { program: String, seconds: u64 },
    #[error("{program} ended with {status}: {stderr}")]
    Status { program: String, status: String, stderr: String },
}

/// Runs a command to its end, or kills it and its children after `timeout`. Returns the start of its output.
pub(super) fn run(
    argv: &[&OsStr],
    env: &[(&'static str, OsString)],
    timeout: Duration,
) -> Result<Vec<u8>, Failure> {
    let program = argv.first().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let start = |source: io::Error| Failure::Start { program: program.clone(), source };
    // Files in memory, not pipes: nobody has to read them while the command runs.
    let memory = |name| {
        rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC).map(File::from).map_err(|e| start(e.into()))
    };
    let (stdout, stderr) = (memory("stdout")?, memory("stderr")?);
    let mut command = Command::new(argv.first().copied().unwrap_or_default());
    command
        .args(argv.iter().skip(1))
        .envs(env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(stdout.try_clone().map_err(start)?)
        .stderr(stderr.try_clone().map_err(start)?)
        .process_group(0);
    let mut child = command.spawn().map_err(start)?;
    let mut waited = Duration::ZERO;
    let status = loop {
        if let Some(status) = child.try_wait().map_err(start)? {
            break status;
        }
        if waited >= timeout {
            if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw)
                && let Err(error) = rustix::process::kill_process_group(group, Signal::KILL)
            {
                tracing::warn!(%program, %error, "cannot kill a command that takes too long");
            }
            child.wait().map_err(start)?;
            return Err(Failure::Timeout { program, seconds: timeout.as_secs() });
        }
        std::thread::sleep(POLL);
        waited += POLL;
    };
    if !status.success() {
        let stderr = String::from_utf8_lossy(&head(&stderr).map_err(start)?).trim().to_owned();
        return Err(Failure::Status { program, status: status.to_string(), stderr });
    }
    head(&stdout).map_err(start)
}

fn head(file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; OUTPUT_BYTES_MAX];
    let len = file.read_at(&mut bytes, 0)?;
    bytes.truncate(len);
    Ok(bytes)
}
