//! Units of systemd, by its own program.

use std::time::Duration;

use super::{HoldError, command};

/// Found by the daemon's search path.
const SYSTEMCTL: &str = "systemctl";
/// A question, which systemd answers at once even while it starts others.
const ASK_WITHIN: Duration = Duration::from_secs(30);
/// systemd gives a unit 90 s to end, unless it says otherwise, before it kills it; a database may say more.
const DONE_WITHIN: Duration = Duration::from_secs(600);

/// What systemd says of a unit, such as `active`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct UnitState(String);

impl UnitState {
    /// Whether it runs, or is about to.
    pub(super) fn runs(&self) -> bool {
        matches!(self.0.as_str(), "active" | "activating" | "reloading" | "refreshing" | "maintenance")
    }

    /// Whether nothing of it runs.
    fn is_over(&self) -> bool {
        matches!(self.0.as_str(), "inactive" | "failed")
    }
}

/// What a unit does now.
pub(super) fn state(unit: &str) -> Result<UnitState, HoldError> {
    let said =
        systemctl(&["show", "--property=LoadState", "--property=ActiveState", "--", unit], ASK_WITHIN)?;
    let of = |key: &str| said.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default().to_owned();
    if of("LoadState=") == "not-found" {
        return Err(HoldError::UnknownUnit { unit: unit.to_owned() });
    }
    Ok(UnitState(of("ActiveState=")))
}

/// Stops a unit; says whether there was anything to stop.
pub(super) fn stop(unit: &str) -> Result<bool, HoldError> {
    if state(unit)?.is_over() {
        return Ok(false);
    }
    systemctl(&["stop", "--", unit], DONE_WITHIN)?;
    let found = state(unit)?;
    match found.is_over() {
        true => Ok(true),
        false => Err(HoldError::Unit { unit: unit.to_owned(), expected: "inactive", found: found.0 }),
    }
}

/// Starts a unit; says whether there was anything to start. A start that is given up is ended by the stop that follows it.
pub(super) fn start(unit: &str, is_given_up: impl Fn() -> bool) -> Result<bool, HoldError> {
    if state(unit)?.0 == "active" {
        return Ok(false);
    }
    // One that runs to its end, such as `Type=oneshot`, is inactive after it: systemd's own word is what counts.
    run(&["start", "--", unit], DONE_WITHIN, is_given_up)?;
    Ok(true)
}

fn systemctl(arguments: &[&str], within: Duration) -> Result<String, HoldError> {
    run(arguments, within, || false)
}

fn run(arguments: &[&str], within: Duration, is_given_up: impl Fn() -> bool) -> Result<String, HoldError> {
    let argv: Vec<String> =
        std::iter::once(SYSTEMCTL).chain(arguments.iter().copied()).map(str::to_owned).collect();
    command::run(&argv, within, is_given_up)
}
