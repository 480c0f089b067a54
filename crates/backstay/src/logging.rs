//! Logs of the daemon, on standard error: for people, or one JSON object a line.

use std::io::{self, IsTerminal as _};

use backstay_daemon::config::{LogFormat, LogLevel, SiteConfig};
use backstay_types::Class;
use tracing_subscriber::EnvFilter;

use crate::failure::Failure;

/// Libraries below us log at `info` what only their authors read.
const QUIET: &str =
    "quinn=warn,quinn_proto=warn,quinn_udp=error,rustls=warn,hyper=warn,hyper_util=warn,sled=warn,tower=warn";

/// Begins logging without a `site.toml`, for people.
pub(crate) fn start_plain() -> Result<(), Failure> {
    begin(LogLevel::default(), LogFormat::default())
}

/// Begins logging as `site.toml` says.
pub(crate) fn start(config: &SiteConfig) -> Result<(), Failure> {
    begin(config.log_level, config.log_format)
}

fn begin(level: LogLevel, format: LogFormat) -> Result<(), Failure> {
    let filter = EnvFilter::new(directives(level));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let started = match format {
        LogFormat::Human => builder.with_ansi(io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_span_list(false).try_init(),
    };
    started.map_err(|error| Failure::new(Class::Bug, format!("begin logging: {error}")))
}

fn directives(level: LogLevel) -> String {
    match level {
        // Whoever asks for everything gets everything.
        LogLevel::Trace => "trace".to_owned(),
        level => format!("{},{QUIET}", level.as_str()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives_parse() {
        for level in [LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug, LogLevel::Trace] {
            assert!(directives(level).parse::<EnvFilter>().is_ok());
        }
    }
}
