//! A command, run to its end or to the end of its time. Blocks.

use std::io::{self, PipeReader, Read as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use backstay_types::{Span, limits};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{Pid, Signal};

use super::HoldError;
use crate::clock;

/// Between two looks at whether it has ended.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// What is kept of what it says: enough for the line that matters.
const SAID_BYTES_MAX: usize = 1024;

/// Runs a command: the beginning of what it said. One that takes too long, or is given up, is killed with its children; what
/// one that has ended left running, such as the application, goes on.
pub(super) fn run(
    argv: &[String],
    within: Duration,
    is_given_up: impl Fn() -> bool,
) -> Result<String, HoldError> {
    let program = argv.first().cloned().unwrap_or_default();
    let fail = |source| HoldError::Run { program: program.clone(), source };
    let (mut child, mut reader) = start(argv).map_err(fail)?;
    let mut said = Vec::new();
    let within = Span(u64::try_from(within.as_millis()).unwrap_or(u64::MAX));
    let ended = clock::mono().plus(within);
    let status = loop {
        read_some(&mut reader, &mut said).map_err(fail)?;
        if let Some(status) = child.try_wait().map_err(fail)? {
            break status;
        }
        if clock::mono() >= ended {
            kill(&mut child).map_err(fail)?;
            return Err(HoldError::Late { command: told(argv), within });
        }
        if is_given_up() {
            kill(&mut child).map_err(fail)?;
            return Err(HoldError::GivenUp { command: told(argv) });
        }
        std::thread::sleep(LOOK_EVERY);
    };
    read_some(&mut reader, &mut said).map_err(fail)?;
    said.truncate(SAID_BYTES_MAX);
    judged(argv, status, String::from_utf8_lossy(&said).trim())
}

fn start(argv: &[String]) -> io::Result<(Child, PipeReader)> {
    use std::os::unix::process::CommandExt as _;
    let (program, arguments) = argv
        .split_first()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "there is no command"))?;
    let (reader, writer) = io::pipe()?;
    // Read between two looks: what its children hold open must not hold us.
    rustix::fs::fcntl_setfl(&reader, rustix::fs::fcntl_getfl(&reader)? | OFlags::NONBLOCK)?;
    let mut command = Command::new(program);
    command.args(arguments).current_dir("/").stdin(Stdio::null()).process_group(0);
    command.stdout(writer.try_clone()?).stderr(writer);
    Ok((command.spawn()?, reader))
}

/// Takes what was said until now, so that nobody waits for room to say more.
fn read_some(reader: &mut PipeReader, said: &mut Vec<u8>) -> io::Result<()> {
    let mut piece = [0; 4096];
    loop {
        match reader.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(len) => {
                let room = limits::MESSAGE_BYTES_MAX.saturating_sub(said.len());
                said.extend(piece.iter().take(len.min(room)));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn kill(child: &mut Child) -> io::Result<()> {
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    if let Some(group) = group {
        match rustix::process::kill_process_group(group, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(error) => return Err(error.into()),
        }
    }
    child.wait().map(drop)
}

fn judged(argv: &[String], status: ExitStatus, said: &str) -> Result<String, HoldError> {
    match status.success() {
        true => Ok(said.to_owned()),
        false => {
            let words = if said.is_empty() { "it said nothing".to_owned() } else { said.to_owned() };
            Err(HoldError::Ended { command: told(argv), status: status.to_string(), words })
        }
    }
}

/// The command in an error: a password among its arguments is the operator's to avoid, its length is not.
fn told(argv: &[String]) -> String {
    let mut told = argv.join(" ");
    told.truncate(told.floor_char_boundary(SAID_BYTES_MAX / 4));
    told
}
