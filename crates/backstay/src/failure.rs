//! A failed command: what is told, and the exit code.

use std::fmt;
use std::process::ExitCode;

use backstay_daemon::api_types::ErrorInfo;
use backstay_types::{Class, Classify};

/// Why a command failed. Prints as `error: …` and `hint: …`; there is always a hint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    class: Class,
    message: String,
    hint: String,
    /// The daemon said so, rather than this program.
    told: bool,
    code: u8,
}

impl Failure {
    pub(crate) fn new(class: Class, message: impl Into<String>) -> Self {
        Self {
            class,
            message: message.into(),
            hint: default_hint(class).to_owned(),
            told: false,
            code: class.exit_code(),
        }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// Ends with another exit code than that of its class.
    pub(crate) fn exits_with(self, code: u8) -> Self {
        Self { code, ..self }
    }

    fn of(info: ErrorInfo) -> Self {
        let failure = Self::new(info.class, info.message);
        match info.hint {
            Some(hint) if !hint.trim().is_empty() => failure.hint(hint),
            _ => failure,
        }
    }

    /// What the daemon answered.
    pub(crate) fn told(info: ErrorInfo) -> Self {
        Self { told: true, ..Self::of(info) }
    }

    /// Arguments that are not understood, from the argument parser's text: paragraphs of what is wrong, tips, and how
    /// the command is used.
    pub(crate) fn usage(text: &str) -> Self {
        let mut paragraphs = text.split("\n\n").map(one_line);
        let wrong = paragraphs.next().unwrap_or_default();
        let mut advice: Vec<_> = paragraphs
            .filter_map(|paragraph| {
                let tip = paragraph.strip_prefix("tip: ").or_else(|| paragraph.strip_prefix("Usage: "));
                let choices = || paragraph.strip_prefix('[').map(|_| paragraph.as_str());
                tip.or_else(choices).map(str::to_owned)
            })
            .collect();
        advice.push("add --help for what a command takes".to_owned());
        Self::new(Class::Invalid, wrong.strip_prefix("error: ").unwrap_or(&wrong)).hint(advice.join("; "))
    }

    /// A file that could not be used; `Invalid` if the operator named it.
    pub(crate) fn io(class: Class, action: &str, path: &std::path::Path, error: &std::io::Error) -> Self {
        Self::new(class, format!("{action} {}: {error}", path.display()))
    }

    pub(crate) fn class(&self) -> Class {
        self.class
    }

    /// Whether the daemon said so, rather than this program.
    pub(crate) fn is_told(&self) -> bool {
        self.told
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code)
    }
}

/// What helps if nothing more is known than the class.
const fn default_hint(class: Class) -> &'static str {
    match class {
        Class::Transient => "try again; `backstay status` shows connections, and the daemon's log the cause",
        Class::Busy => "wait until it is over: `backstay status --watch` shows what runs",
        Class::Unauthorized => "run as the user the daemon runs as, or make a new pair key",
        Class::Fenced => "`backstay status` shows which site is active; run the command there",
        Class::Corrupt => {
            "`backstay verify` names what is damaged; `backstay verify --repair` mends what it can"
        }
        Class::LimitExceeded => "make it smaller, or split it",
        Class::Incompatible => "run the same version of backstay on both sites",
        Class::Invalid => "correct the input; add --help for the forms it takes",
        Class::NotFound => "`backstay status` and `backstay pair list` show what there is",
        Class::Incomplete => "mend what is named and try again; the last complete restore point is kept",
        Class::Bug => "this should not happen: report it with the daemon's log",
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "error: {}", one_line(&self.message))?;
        write!(f, "hint: {}", one_line(&self.hint))
    }
}

/// Scripts read the lines `error: …` and `hint: …`: each must be one.
fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Every error of the libraries.
impl<E: Classify> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::of(ErrorInfo::new(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_lines_and_always_a_hint() {
        for class in Class::ALL {
            let text = Failure::new(class, "first\n  second\n").to_string();
            let lines: Vec<_> = text.lines().collect();
            let [error, hint] = lines.as_slice() else { panic!("{text}") };
            assert_eq!(*error, "error: first second");
            assert!(hint.strip_prefix("hint: ").is_some_and(|hint| hint.len() > 10), "{text}");
        }
        let clap = "error: unexpected argument '--frce' found\n\n  tip: a similar argument exists: '--force'\n\n\
                    Usage: backstay promote <PLAN>\n\nFor more information, try '--help'.\n";
        let failure = Failure::usage(clap).to_string();
        let expected = "error: unexpected argument '--frce' found\nhint: a similar argument exists: '--force'; \
                        backstay promote <PLAN>; add --help for what a command takes";
        assert_eq!(failure, expected);
        let info = ErrorInfo { class: Class::NotFound, message: "no plan x".into(), hint: Some(" ".into()) };
        assert_eq!(Failure::told(info).hint, default_hint(Class::NotFound));
    }
}
