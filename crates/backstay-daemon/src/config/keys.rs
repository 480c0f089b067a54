//! The table of keys: one row each drives reading the file, the environment and flags, printing, and the advice on
//! unknown keys.

use std::path::PathBuf;

use backstay_net::Congestion;
use backstay_types::Span;

use super::draft::Draft;
use super::units::{ByteSize, Rate};
use super::{LogFormat, LogLevel};

/// Enough for the windows of four sessions, of 48 MiB each, and a share for hashing.
pub(super) const DEFAULT_MEMORY: ByteSize = ByteSize(256 << 20);
/// One session's window and the buffers around it.
const MEMORY_MIN: ByteSize = ByteSize(64 << 20);
/// Below this, one 4 MiB batch takes over an hour and connections time out.
const BANDWIDTH_MIN: Rate = Rate::from_bits_per_second(8000);
pub(super) const DEFAULT_RETRY_FIRST: Span = Span::from_secs(5);
pub(super) const DEFAULT_RETRY_MAX: Span = Span::from_secs(300);
/// Addresses in a pair key, which a person may have to copy.
const ADVERTISE_MAX: usize = 8;

/// One key: where it goes and what fits.
pub(super) struct Key {
    /// `key`, or `table.key`.
    pub(super) path: &'static str,
    /// Its environment variable without the prefix.
    pub(super) variable: &'static str,
    /// What fits, for errors.
    pub(super) expected: &'static str,
    /// Sets it; `None` if the text does not fit.
    pub(super) set: fn(&mut Draft, &str) -> Option<()>,
}

/// Parses into a field of the draft.
macro_rules! into {
    ($field:ident) => {
        |draft, text| {
            draft.$field = Some(text.parse().ok()?);
            Some(())
        }
    };
    ($field:ident, $parse:expr) => {
        |draft, text| {
            draft.$field = Some($parse(text)?);
            Some(())
        }
    };
}

pub(super) const KEYS: [Key; 25] = [
    Key {
        path: "name",
        variable: "NAME",
        expected: "1 to 63 characters of a-z, 0-9 and '-', not at either end",
        set: into!(name),
    },
    Key {
        path: "listen",
        variable: "LISTEN",
        expected: "an address and a port, such as \"0.0.0.0:7443\"",
        set: into!(listen),
    },
    Key {
        path: "advertise",
        variable: "ADVERTISE",
        expected: "at most 8 of the form \"HOST:PORT\"",
        set: into!(advertise, endpoints),
    },
    Key {
        path: "limits.memory",
        variable: "LIMITS_MEMORY",
        expected: "a size of at least \"64MiB\", such as \"256MiB\" or \"1GiB\"",
        set: into!(memory, |text: &str| text.parse().ok().filter(|size| *size >= MEMORY_MIN)),
    },
    Key {
        path: "limits.bandwidth",
        variable: "LIMITS_BANDWIDTH",
        expected: "a rate of at least \"8kbit/s\", such as \"50Mbit/s\" or \"6MB/s\"",
        set: into!(bandwidth, |text: &str| text.parse().ok().filter(|rate| *rate >= BANDWIDTH_MIN)),
    },
    Key {
        path: "network.congestion",
        variable: "NETWORK_CONGESTION",
        expected: "one of \"bbr\", \"cubic\" and \"newreno\"",
        set: into!(congestion, congestion),
    },
    Key {
        path: "store.path",
        variable: "STORE_PATH",
        expected: "an absolute path",
        set: into!(store_path, absolute),
    },
    Key {
        path: "admin.listen",
        variable: "ADMIN_LISTEN",
        expected: "an address and a port, such as \"127.0.0.1:7444\"",
        set: into!(admin_listen),
    },
    Key {
        path: "admin.tokenFile",
        variable: "ADMIN_TOKEN_FILE",
        expected: "an absolute path",
        set: into!(admin_token_file, absolute),
    },
    Key {
        path: "log.format",
        variable: "LOG_FORMAT",
        expected: "\"human\" or \"json\"",
        set: into!(log_format, log_format),
    },
    Key {
        path: "log.level",
        variable: "LOG_LEVEL",
        expected: "one of \"error\", \"warn\", \"info\", \"debug\" and \"trace\"",
        set: into!(log_level, log_level),
    },
    Key {
        path: "retry.first",
        variable: "RETRY_FIRST",
        expected: "a duration of at least \"100ms\", such as \"5s\"",
        set: into!(retry_first, retry),
    },
    Key {
        path: "retry.max",
        variable: "RETRY_MAX",
        expected: "a duration of at least \"100ms\", such as \"5m\"",
        set: into!(retry_max, retry),
    },
    Key {
        path: "drill.commands",
        variable: "DRILL_COMMANDS",
        expected: "true or false",
        set: into!(drill_commands),
    },
    Key {
        path: "drill.network",
        variable: "DRILL_NETWORK",
        expected: "true or false",
        set: into!(drill_network),
    },
    Key {
        path: "promote.commands",
        variable: "PROMOTE_COMMANDS",
        expected: "true or false",
        set: into!(promote_commands),
    },
    Key {
        path: "promote.network",
        variable: "PROMOTE_NETWORK",
        expected: "true or false",
        set: into!(promote_network),
    },
    Key {
        path: "kubernetes.kubeconfig",
        variable: "KUBERNETES_KUBECONFIG",
        expected: "an absolute path",
        set: |draft, text| {
            draft.kubernetes.kubeconfig = Some(absolute(text)?);
            Some(())
        },
    },
    Key {
        path: "kubernetes.context",
        variable: "KUBERNETES_CONTEXT",
        expected: "the name of a context",
        set: |draft, text| {
            draft.kubernetes.context = Some(name(text)?);
            Some(())
        },
    },
    Key {
        path: "kubernetes.node",
        variable: "KUBERNETES_NODE",
        expected: "the name of a node",
        set: |draft, text| {
            draft.kubernetes.node = Some(name(text)?);
            Some(())
        },
    },
    Key {
        path: "kubernetes.hostRoot",
        variable: "KUBERNETES_HOST_ROOT",
        expected: "an absolute path",
        set: |draft, text| {
            draft.kubernetes.host_root = Some(absolute(text)?);
            Some(())
        },
    },
    Key {
        path: "kubernetes.controllers",
        variable: "KUBERNETES_CONTROLLERS",
        expected: "true or false",
        set: |draft, text| {
            draft.kubernetes.controllers = text.parse().ok()?;
            Some(())
        },
    },
    Key {
        path: "witness.url",
        variable: "WITNESS_URL",
        expected: "\"https://HOST:PORT#FINGERPRINT\", \"kubernetes:NAMESPACE\" or \"file:///FOLDER\"",
        set: into!(witness_url),
    },
    Key {
        path: "witness.tokenFile",
        variable: "WITNESS_TOKEN_FILE",
        expected: "an absolute path",
        set: into!(witness_token_file, absolute),
    },
    Key {
        path: "witness.kubeconfig",
        variable: "WITNESS_KUBECONFIG",
        expected: "an absolute path",
        set: into!(witness_kubeconfig, absolute),
    },
];

pub(super) fn absolute(text: &str) -> Option<PathBuf> {
    Some(PathBuf::from(text)).filter(|path| path.is_absolute())
}

fn name(text: &str) -> Option<String> {
    let fits = !text.is_empty() && text.len() <= 253 && text.chars().all(|c| c.is_ascii_graphic());
    fits.then(|| text.to_owned())
}

fn endpoints(text: &str) -> Option<Vec<String>> {
    let all: Vec<_> = text.split(',').map(str::trim).filter(|one| !one.is_empty()).collect();
    let fits = |one: &&str| {
        one.rsplit_once(':').is_some_and(|(host, port)| {
            let host_fits = !host.is_empty() && host.chars().all(|c| c.is_ascii_graphic() && c != '/');
            host_fits && port.parse::<u16>().is_ok_and(|port| port > 0)
        })
    };
    (all.len() <= ADVERTISE_MAX && all.iter().all(fits)).then(|| all.into_iter().map(str::to_owned).collect())
}

fn congestion(text: &str) -> Option<Congestion> {
    CONGESTION.into_iter().find(|(name, _)| *name == text).map(|(_, value)| value)
}

pub(super) const CONGESTION: [(&str, Congestion); 3] =
    [("bbr", Congestion::Bbr), ("cubic", Congestion::Cubic), ("newreno", Congestion::NewReno)];

fn log_format(text: &str) -> Option<LogFormat> {
    match text {
        "human" => Some(LogFormat::Human),
        "json" => Some(LogFormat::Json),
        _ => None,
    }
}

fn log_level(text: &str) -> Option<LogLevel> {
    [LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug, LogLevel::Trace]
        .into_iter()
        .find(|level| level.as_str() == text)
}

fn retry(text: &str) -> Option<Span> {
    text.parse().ok().filter(|span| *span >= Span(100))
}
