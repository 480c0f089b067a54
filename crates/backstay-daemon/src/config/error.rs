//! What can be wrong with a configuration.

use std::fmt;
use std::io;
use std::path::PathBuf;

use backstay_types::{Class, Classify};

/// Where a setting stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// In `site.toml`.
    File,
    /// In an environment variable.
    Environment {
        /// Its name.
        variable: String,
    },
    /// On the command line.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File => f.write_str("site.toml"),
            Origin::Environment { variable } => write!(f, "environment variable {variable}"),
            Origin::Flag => f.write_str("command line"),
        }
    }
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("read configuration {path:?}: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not TOML.
    #[error("site.toml is not TOML: {message}")]
    Syntax {
        /// Where and why.
        message: String,
    },
    /// A key nobody knows.
    #[error("{origin}: unknown key `{key}`")]
    UnknownKey {
        /// Where it stands.
        origin: Origin,
        /// The key, with its table.
        key: String,
        /// What was probably meant.
        nearest: Option<String>,
    },
    /// A value that does not fit its key.
    #[error("{origin}: `{key}`: expected {expected}, found {found}")]
    Value {
        /// Where it stands.
        origin: Origin,
        /// The key, with its table.
        key: String,
        /// What fits.
        expected: String,
        /// What was given.
        found: String,
    },
    /// A key that must be set.
    #[error("`{key}` is not set")]
    Missing {
        /// Which.
        key: &'static str,
        /// What for.
        why: &'static str,
    },
}

impl ConfigError {
    pub(super) fn syntax(error: &toml::de::Error) -> Self {
        // The parser's own text spans lines and draws carets; its first line names the place.
        let text = error.to_string();
        let first = text.lines().next().unwrap_or_default();
        let place = first.strip_prefix("TOML parse error ").unwrap_or_default();
        let why = error.message().lines().collect::<Vec<_>>().join(", ");
        Self::Syntax { message: format!("{place}: {why}").trim_start_matches([':', ' ']).to_owned() }
    }
}

impl Classify for ConfigError {
    fn class(&self) -> Class {
        match self {
            ConfigError::Read { source, .. } if source.kind() == io::ErrorKind::NotFound => Class::NotFound,
            _ => Class::Invalid,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            ConfigError::Read { path, source } if source.kind() == io::ErrorKind::NotFound => {
                let dir = path.parent().unwrap_or(path).display();
                format!("no site is there; make one with `backstay init --site {dir} --name NAME`")
            }
            ConfigError::Read { .. } => "run as the user who made the site".to_owned(),
            ConfigError::Syntax { .. } => "text values stand in \"quotes\", tables in [brackets]".to_owned(),
            ConfigError::UnknownKey { nearest: Some(nearest), .. } => format!("did you mean `{nearest}`?"),
            ConfigError::UnknownKey { nearest: None, .. } => {
                "docs/cli.md lists every key; `init` writes them with comments into site.toml".to_owned()
            }
            ConfigError::Value { key, .. } => {
                format!("correct `{key}`; docs/cli.md lists the keys and their forms")
            }
            ConfigError::Missing { key, why } => format!("set `{key}`: {why}"),
        };
        Some(hint)
    }
}
