//! A configuration as TOML with comments.

use std::fmt::Write as _;

use super::SiteConfig;
use super::keys::CONGESTION;

/// How one key is printed.
struct Line {
    key: &'static str,
    comment: &'static str,
    /// Its value as TOML; `None` prints the example, commented out.
    value: Option<String>,
    /// Whether the value is what the key has without being set.
    is_default: bool,
    example: &'static str,
}

impl SiteConfig {
    /// The file `backstay init` writes: what differs from the defaults, and every other key commented out.
    pub fn to_toml(&self) -> String {
        self.print(false)
    }

    /// Everything that is in effect, defaults included: `backstay serve --print-config`.
    pub fn to_effective_toml(&self) -> String {
        self.print(true)
    }

    fn print(&self, effective: bool) -> String {
        let mut out = String::new();
        for (table, lines) in self.tables() {
            if !table.is_empty() {
                // Also above nothing but comments, so that a key works once its `#` is gone.
                push(&mut out, format_args!("\n[{table}]\n"));
            }
            for line in lines {
                push(&mut out, format_args!("# {}\n", line.comment));
                match &line.value {
                    Some(value) if line.shown(effective) => {
                        push(&mut out, format_args!("{} = {value}\n", line.key));
                    }
                    value => {
                        let value = value.as_deref().unwrap_or(line.example);
                        push(&mut out, format_args!("# {} = {value}\n", line.key));
                    }
                }
            }
        }
        self.print_maps(&mut out);
        out
    }

    fn print_maps(&self, out: &mut String) {
        let heading = "\n# Where a standby puts the volumes of a plan, if not under DIR/replicas/PLAN.\n";
        out.push_str(heading);
        if self.replicas.is_empty() {
            out.push_str("# [replicas.shop]\n# data = \"/mnt/shop\"\n");
        }
        for (plan, volumes) in &self.replicas {
            push(out, format_args!("[replicas.{plan}]\n"));
            for (volume, path) in volumes {
                push(out, format_args!("{volume} = {}\n", text(&path.to_string_lossy())));
            }
        }
        out.push_str("\n# Where a standby writes the objects of a plan, if not under DIR/manifests/PLAN.\n");
        if self.manifests.is_empty() {
            out.push_str("# [manifests]\n# shop = \"/mnt/shop-manifests\"\n");
        } else {
            out.push_str("[manifests]\n");
        }
        for (plan, path) in &self.manifests {
            push(out, format_args!("{plan} = {}\n", text(&path.to_string_lossy())));
        }
        super::hold::print(&self.holds, out);
    }

    fn tables(&self) -> [(&'static str, Vec<Line>); 11] {
        let default = SiteConfig::default_for(&self.name, self.listen);
        let path =
            |path: &Option<std::path::PathBuf>| path.as_ref().map(|path| text(&path.to_string_lossy()));
        let congestion = CONGESTION.into_iter().find(|(_, value)| *value == self.congestion);
        let format = match self.log_format {
            super::LogFormat::Human => "human",
            super::LogFormat::Json => "json",
        };
        let advertise = toml::Value::from(self.advertise.clone()).to_string();
        let advertise = (!self.advertise.is_empty()).then_some(advertise);
        let line = |key, comment, value: Option<String>, is_default, example| Line {
            key,
            comment,
            value,
            is_default,
            example,
        };
        [
            (
                "",
                vec![
                    line("name", "Peers know this site by its name.", Some(text(&self.name)), false, ""),
                    line(
                        "listen",
                        "Where peers connect (UDP).",
                        Some(text(&self.listen.to_string())),
                        false,
                        "",
                    ),
                    line(
                        "advertise",
                        "Where peers are told to connect; `listen` if it names one address.",
                        advertise,
                        self.advertise == default.advertise,
                        "[\"backstay.example.com:7443\"]",
                    ),
                ],
            ),
            (
                "limits",
                vec![
                    line(
                        "memory",
                        "Memory for data in flight.",
                        Some(text(&self.memory.to_string())),
                        self.memory == default.memory,
                        "",
                    ),
                    line(
                        "bandwidth",
                        "Most that is sent to one peer; no limit if not set.",
                        self.bandwidth.map(|rate| text(&rate.to_string())),
                        false,
                        "\"50Mbit/s\"",
                    ),
                ],
            ),
            (
                "network",
                vec![line(
                    "congestion",
                    "How fast to send: bbr (fills long, lossy lines), cubic or newreno (give way to other traffic).",
                    congestion.map(|(name, _)| text(name)),
                    self.congestion == default.congestion,
                    "",
                )],
            ),
            (
                "store",
                vec![line(
                    "path",
                    "Where the store is; in the site's folder if not set.",
                    path(&self.store_path),
                    false,
                    "\"/mnt/backstay\"",
                )],
            ),
            (
                "admin",
                vec![
                    line(
                        "listen",
                        "Where the admin API listens besides DIR/api.sock; needs tokenFile.",
                        self.admin_listen.map(|address| text(&address.to_string())),
                        false,
                        "\"127.0.0.1:7444\"",
                    ),
                    line(
                        "tokenFile",
                        "File with the bearer token, 16 characters or more.",
                        path(&self.admin_token_file),
                        false,
                        "\"/etc/backstay/token\"",
                    ),
                ],
            ),
            (
                "log",
                vec![
                    line(
                        "format",
                        "human or json, to standard error.",
                        Some(text(format)),
                        self.log_format == default.log_format,
                        "",
                    ),
                    line(
                        "level",
                        "error, warn, info, debug or trace.",
                        Some(text(self.log_level.as_str())),
                        self.log_level == default.log_level,
                        "",
                    ),
                ],
            ),
            (
                "retry",
                vec![
                    line(
                        "first",
                        "Wait after a first failure; doubles with each further one …",
                        Some(text(&self.retry_first.to_string())),
                        self.retry_first == default.retry_first,
                        "",
                    ),
                    line(
                        "max",
                        "… up to this.",
                        Some(text(&self.retry_max.to_string())),
                        self.retry_max == default.retry_max,
                        "",
                    ),
                ],
            ),
            (
                "drill",
                vec![
                    line(
                        "commands",
                        "Whether drills run `command` probes here; plans, and so these, come from the active side.",
                        Some(self.drill_commands.to_string()),
                        !self.drill_commands,
                        "",
                    ),
                    line(
                        "network",
                        "Whether drills connect to the `tcp` and `http` addresses of plans made on the other side.",
                        Some(self.drill_network.to_string()),
                        !self.drill_network,
                        "",
                    ),
                ],
            ),
            (
                "promote",
                vec![
                    line(
                        "commands",
                        "Whether takeovers run `command` hooks here, and `exec` hooks of plans made on the other side.",
                        Some(self.promote_commands.to_string()),
                        !self.promote_commands,
                        "",
                    ),
                    line(
                        "network",
                        "Whether takeovers carry out `tcp` and `http` hooks of plans made on the other side.",
                        Some(self.promote_network.to_string()),
                        !self.promote_network,
                        "",
                    ),
                ],
            ),
            ("kubernetes", self.kubernetes_lines()),
            ("witness", self.witness_lines()),
        ]
    }

    fn witness_lines(&self) -> Vec<Line> {
        let witness = self.witness.as_ref();
        let path = |path: Option<&std::path::PathBuf>| path.map(|path| text(&path.to_string_lossy()));
        let line = |key, comment, value, example| Line { key, comment, value, is_default: false, example };
        vec![
            line(
                "url",
                "Decides about automatic failovers: https://HOST:PORT#FINGERPRINT, kubernetes:NAMESPACE or file:///FOLDER.",
                witness.map(|witness| text(&witness.url.to_string())),
                "\"file:///mnt/shared/backstay\"",
            ),
            line(
                "tokenFile",
                "File with the bearer token of a witness server.",
                path(witness.and_then(|witness| witness.token_file.as_ref())),
                "\"/etc/backstay/witness-token\"",
            ),
            line(
                "kubeconfig",
                "The third cluster, for kubernetes:NAMESPACE.",
                path(witness.and_then(|witness| witness.kubeconfig.as_ref())),
                "\"/etc/backstay/witness-kubeconfig\"",
            ),
        ]
    }

    fn kubernetes_lines(&self) -> Vec<Line> {
        let config = &self.kubernetes;
        let line =
            |key, comment, value, is_default, example| Line { key, comment, value, is_default, example };
        let path =
            |path: &Option<std::path::PathBuf>| path.as_ref().map(|path| text(&path.to_string_lossy()));
        let name = |name: &Option<String>| name.as_deref().map(text);
        vec![
            line(
                "kubeconfig",
                "The cluster of plans with `namespaces`; the pod's service account or KUBECONFIG if not set.",
                path(&config.kubeconfig),
                false,
                "\"/etc/backstay/kubeconfig\"",
            ),
            line(
                "context",
                "A context of it other than the current one.",
                name(&config.context),
                false,
                "\"admin@shop\"",
            ),
            line(
                "node",
                "The node whose volumes this daemon reads and offers.",
                name(&config.node),
                false,
                "\"node-1\"",
            ),
            line(
                "hostRoot",
                "Where this daemon sees the root of that node's file system; / if not set.",
                path(&config.host_root),
                false,
                "\"/host\"",
            ),
            line(
                "controllers",
                "Whether plans and actions are also taken from custom resources, and reported there.",
                Some(config.controllers.to_string()),
                !config.controllers,
                "",
            ),
        ]
    }
}

impl Line {
    fn shown(&self, effective: bool) -> bool {
        self.value.is_some() && (effective || !self.is_default)
    }
}

/// A TOML string.
fn text(value: &str) -> String {
    toml::Value::from(value).to_string()
}

fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a string takes any text");
}
