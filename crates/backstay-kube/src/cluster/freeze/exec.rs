//! One command in one container, over the API server's websocket.
//!
//! 1. What a container prints is bounded before it is kept: lines of [`LINE_BYTES_MAX`], and the first
//!    [`STDERR_BYTES_MAX`] of standard error; everything is read, so that nothing in the pod waits for us.
//! 2. Dropping an [`Attached`] closes the stream, which the keeper in the container takes as the word to stop.

use std::pin::Pin;

use kube::Api;
use kube::api::AttachParams;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::super::Cluster;
use super::super::error::chain;
use super::fault::{ExecError, shorten};
use super::record::Place;

/// Longest line of a keeper: `end` and a number.
const LINE_BYTES_MAX: usize = 64;
/// What is kept of standard error, of which [`shorten`] tells 200 characters.
const STDERR_BYTES_MAX: usize = 1 << 10;

type Reader = Box<dyn AsyncRead + Send + Unpin>;
type Writer = Box<dyn AsyncWrite + Send + Unpin>;
type ExitStatus = Pin<Box<dyn Future<Output = Option<Exit>> + Send>>;

/// How a process ended, as the error channel tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Exit {
    /// With a code.
    Code(i32),
    /// It was not started.
    NotStarted(String),
}

/// What a command says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Said {
    /// It holds.
    Holding,
    /// It was told to stop, and has not ended yet.
    Released,
    /// It ended.
    Ended(i32),
}

/// The ends of a command that runs somewhere.
pub(super) struct Streams {
    pub(super) stdin: Writer,
    pub(super) stdout: Reader,
    pub(super) stderr: Reader,
    pub(super) status: ExitStatus,
    /// Whatever ends the stream when it is dropped.
    pub(super) _guard: Box<dyn Send + Sync>,
}

impl Cluster {
    /// Starts a command in a container.
    pub(super) async fn exec(&self, place: &Place, command: Vec<String>) -> Result<Attached, ExecError> {
        let pods: Api<k8s_openapi::api::core::v1::Pod> =
            Api::namespaced(self.client.clone(), &place.namespace);
        let params = AttachParams::default()
            .container(&place.container)
            .stdin(true)
            .stdout(true)
            .stderr(true)
            .max_stdout_buf_size(LINE_BYTES_MAX)
            .max_stderr_buf_size(STDERR_BYTES_MAX);
        let mut process = pods.exec(&place.pod, command, &params).await.map_err(|error| refusal(&error))?;
        let missing = || ExecError::Lost { why: "the stream has no channels".to_owned() };
        let status = process.take_status().ok_or_else(missing)?;
        Ok(Attached::new(Streams {
            stdin: Box::new(process.stdin().ok_or_else(missing)?),
            stdout: Box::new(process.stdout().ok_or_else(missing)?),
            stderr: Box::new(process.stderr().ok_or_else(missing)?),
            status: Box::pin(async { status.await.map(|status| exit(&status)) }),
            _guard: Box::new(process),
        }))
    }
}

fn refusal(error: &kube::Error) -> ExecError {
    match error {
        kube::Error::Api(status) => ExecError::refused(status),
        error => ExecError::Lost { why: chain(error) },
    }
}

/// What the error channel of a stream says.
fn exit(status: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Status) -> Exit {
    if status.status.as_deref() == Some("Success") {
        return Exit::Code(0);
    }
    let details = status.details.iter();
    let mut causes = details.filter_map(|details| details.causes.as_ref()).flatten();
    let code = causes.find(|cause| cause.reason.as_deref() == Some("ExitCode"));
    let code = code.and_then(|cause| cause.message.as_ref()?.parse().ok());
    code.map_or_else(|| Exit::NotStarted(status.message.clone().unwrap_or_default()), Exit::Code)
}

/// A command that runs somewhere, and a keeper that talks of it.
pub(super) struct Attached {
    streams: Streams,
    line: Vec<u8>,
    stderr: Vec<u8>,
    is_open: [bool; 2],
    /// None until the error channel closed.
    exit: Option<Option<Exit>>,
}

impl Attached {
    pub(super) fn new(streams: Streams) -> Self {
        Self { streams, line: Vec::new(), stderr: Vec::new(), is_open: [true; 2], exit: None }
    }

    /// The next thing it says. Safe to cancel.
    pub(super) async fn next(&mut self) -> Result<Said, ExecError> {
        loop {
            if let Some(said) = self.take_line() {
                return Ok(said);
            }
            if !self.read().await? {
                return match self.exit.clone().flatten() {
                    Some(Exit::Code(code)) => Ok(Said::Ended(code)),
                    Some(Exit::NotStarted(why)) => Err(ExecError::NotStarted { why: shorten(&why) }),
                    None => Err(ExecError::Lost { why: "the stream ended before the command".to_owned() }),
                };
            }
        }
    }

    /// Tells it to stop.
    pub(super) async fn stop(&mut self) -> Result<(), ExecError> {
        let word = async {
            self.streams.stdin.write_all(b"stop\n").await?;
            self.streams.stdin.flush().await
        };
        word.await.map_err(|error| ExecError::Lost { why: error.to_string() })
    }

    /// The beginning of what it wrote to standard error, once it has ended.
    pub(super) async fn stderr(mut self) -> String {
        while self.read().await.is_ok_and(|more| more) {}
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Reads a piece of whatever there is; false once everything is closed.
    async fn read(&mut self) -> Result<bool, ExecError> {
        let (mut out, mut err) = ([0; 256], [0; 256]);
        let [out_open, err_open] = self.is_open;
        let lost = |error: std::io::Error| ExecError::Lost { why: error.to_string() };
        tokio::select! {
            count = self.streams.stdout.read(&mut out), if out_open => {
                let bytes = out.get(..count.map_err(lost)?).unwrap_or_default();
                self.is_open = [!bytes.is_empty(), err_open];
                self.line.extend_from_slice(bytes);
            }
            count = self.streams.stderr.read(&mut err), if err_open => {
                let bytes = err.get(..count.map_err(lost)?).unwrap_or_default();
                self.is_open = [out_open, !bytes.is_empty()];
                let room = STDERR_BYTES_MAX.saturating_sub(self.stderr.len());
                self.stderr.extend(bytes.iter().take(room));
            }
            exit = &mut self.streams.status, if self.exit.is_none() => self.exit = Some(exit),
            else => return Ok(false),
        }
        Ok(true)
    }

    /// The first whole line that is the keeper's.
    fn take_line(&mut self) -> Option<Said> {
        while let Some(end) = self.line.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.line.drain(..=end).collect();
            match std::str::from_utf8(&line).unwrap_or_default().trim_end() {
                "holding" => return Some(Said::Holding),
                "released" => return Some(Said::Released),
                line => {
                    if let Some(code) = line.strip_prefix("end ").and_then(|code| code.parse().ok()) {
                        return Some(Said::Ended(code));
                    }
                }
            }
        }
        if self.line.len() > LINE_BYTES_MAX {
            self.line.clear();
        }
        None
    }
}
