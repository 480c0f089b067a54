//! The command line as types. Help texts are for somebody who is called at night: what it does, what it never does,
//! what to run next.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use backstay_types::{PlanName, RestorePointId, Span, VolumeName};
use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::output::Format;

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 bad usage or bad input, 3 not found, \
4 refused (fenced, wrong role, needs --force), 5 peer or daemon unreachable, 6 data damaged, 7 incomplete.

In an emergency (the active site is gone), on the standby site:
  backstay status                  which plans there are, and how old their newest restore point is
  backstay promote PLAN --dry-run  what a takeover would do
  backstay promote PLAN            take over";

/// Keeps a standby site ready to take over from an active one
#[derive(Debug, Parser)]
#[command(name = "backstay", version, after_help = EXIT_CODES, max_term_width = 110, disable_help_subcommand = true)]
pub(crate) struct Cli {
    /// State folder of the site
    #[arg(
        long,
        global = true,
        env = "BACKSTAY_SITE",
        default_value = "/var/lib/backstay",
        value_name = "DIR"
    )]
    pub(crate) site: PathBuf,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Of every command that prints a result.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct OutputArgs {
    /// How to print the result
    #[arg(short = 'o', long = "output", value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) format: Format,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a site: identity, site.toml, empty store
    ///
    /// The folder must be empty or not exist; nothing is ever overwritten. Next: `backstay serve`.
    Init(InitArgs),
    /// Run the site's daemon in the foreground
    ///
    /// SIGTERM and SIGINT drain and stop it, SIGHUP re-reads site.toml. A daemon that was killed resumes what it was
    /// doing at its next start. Settings: site.toml, then BACKSTAY_TABLE_KEY in the environment, then flags.
    Serve(ServeArgs),
    /// Make, list, rotate and remove pairs of sites
    #[command(subcommand)]
    Pair(PairCommand),
    /// Apply, list, suspend and delete plans
    #[command(subcommand)]
    Plan(PlanCommand),
    /// Run one cycle of a plan now, on its active site
    ///
    /// Ships what changed since the newest restore point and commits a new one on the standby. Interrupting this command
    /// does not interrupt the cycle.
    Sync(SyncArgs),
    /// Show role, lag, cycles and restore points of plans
    Status(StatusArgs),
    /// List the restore points of a plan, newest last
    RestorePoints(RestorePointsArgs),
    /// Show what differs between two restore points
    ///
    /// Without A and B: the newest against the one before. With A alone: A against the newest.
    Diff(DiffArgs),
    /// Take files, or whole volumes, out of a restore point into a folder
    ///
    /// Touches neither the live volumes nor the replicas. DIR is a path on the machine of the daemon and must be empty or
    /// not exist.
    Restore(RestoreArgs),
    /// Take over: make this site the active one for a plan (unplanned failover)
    ///
    /// Works with the other site gone. Refused beside a live, active peer unless forced. A promotion that was cut off
    /// goes on when the same command is given again. Start with --dry-run: it changes nothing.
    Promote(PromoteArgs),
    /// Hand a plan over to its standby without losing anything (planned failover)
    ///
    /// Holds the workloads here, makes a last restore point, and starts them there; from then on replication goes the
    /// other way. May be asked of either site. Any failure before the other side takes over rolls everything back.
    Switchover(HandoverArgs),
    /// Bring a plan home: to the site it was made on, without losing anything
    ///
    /// The same the other way round. May be asked of either site. Of what the old site still has, nothing is sent again.
    Failback(HandoverArgs),
    /// Rehearse a takeover in isolation, on the standby, while replication goes on
    ///
    /// Copies a restore point beside the replicas, starts its objects where they disturb nobody, looks whether the
    /// plan's probes pass, tells how long a takeover would take, and removes what it made. Never touches the
    /// replicas, the held objects, the role or the active side. Exits with 1 if the rehearsal fails.
    Drill(DrillArgs),
    /// Re-hash stored data and replicas, and name what is damaged
    ///
    /// Exits with 6 if anything is damaged and was not repaired.
    Verify(VerifyArgs),
    /// Free the space of restore points that retention no longer keeps
    ///
    /// Runs by itself, too. Never frees what a kept restore point or a running transfer needs.
    Gc(GcArgs),
    /// Upkeep of the catalog
    #[command(subcommand)]
    Catalog(CatalogCommand),
    /// Show who did what, and when
    Audit(AuditArgs),
    /// Run a witness, on a third machine: it decides about automatic failovers
    ///
    /// Keeps one small record for each plan and changes it only for the site that saw the newest. On a first start it
    /// makes its certificate and its token; then it prints what both sites need in site.toml. It holds no data and
    /// moves no workloads.
    Witness(WitnessArgs),
    /// Run the site's keeper, beside the daemon and as a unit of its own: it holds when the daemon is dead
    ///
    /// For plans with automatic failover. While the daemon is dead, restarted or upgraded it renews their leases, so that
    /// nothing fails over; if it cannot, it holds what runs here before the other side takes over. It starts a guard, a
    /// process that does the latter when daemon and keeper are killed. Changes no plan and lets nobody in.
    Keeper,
    /// What a keeper starts
    #[command(hide = true)]
    KeeperGuard,
    /// Print the Kubernetes custom resource definitions as YAML
    Crds,
    /// Print a completion script for a shell
    ///
    /// For bash: `source <(backstay completions bash)`.
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// Play the whole story on this machine in a minute
    ///
    /// Makes two sites in a folder, pairs them, replicates sample data, changes it, replicates the change, kills the
    /// active site and promotes the standby, comparing every byte. Ends the processes it started and removes the folder.
    Demo(DemoArgs),
}

#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// Name of the site: peers know it by this. 1 to 63 of a-z, 0-9 and '-'
    #[arg(long)]
    pub(crate) name: PlanName,
    /// Where to listen for peers (UDP)
    #[arg(long, default_value = backstay_daemon::config::DEFAULT_LISTEN, value_name = "ADDR:PORT", value_parser = address)]
    pub(crate) listen: SocketAddr,
    /// Do nothing if the folder is a site of that name already
    #[arg(long)]
    pub(crate) if_missing: bool,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Print the settings that would be in effect, as TOML, and stop
    #[arg(long)]
    pub(crate) print_config: bool,
    /// Override a setting, such as `limits.bandwidth=50Mbit/s`; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = setting)]
    pub(crate) settings: Vec<(String, String)>,
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "expected ADDR:PORT, such as 0.0.0.0:7443 or [::]:7443".to_owned())
}

fn setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.trim().to_owned(), value.trim().to_owned())),
        _ => Err("expected KEY=VALUE, such as limits.bandwidth=50Mbit/s".to_owned()),
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum PairCommand {
    /// Print a pair key, alone, on standard output
    ///
    /// Whoever has the key can pair once with this site until it expires: pass it on as you would a password. Use it on
    /// the other site with `backstay pair join`.
    Key {
        /// Where the other site reaches this one; what site.toml advertises without it. May be repeated
        #[arg(long = "endpoint", value_name = "HOST:PORT")]
        endpoints: Vec<String>,
        /// How long the key can be used: 1s to 7d
        #[arg(long, default_value = "15m", value_name = "DURATION")]
        ttl: Span,
        /// The site that joins takes the place of this peer, which is gone for good: its plans go on with the new one
        #[arg(long, value_name = "PEER")]
        replaces: Option<String>,
    },
    /// Pair with the site that printed a key
    ///
    /// Two sites that were paired before keep their pair: their plans go on, and nothing is sent again.
    Join {
        /// The key; `-` reads it from standard input, which keeps it out of the list of processes
        key: String,
        /// The site that made the key takes the place of this peer, which is gone for good: its plans go on with the new one
        #[arg(long, value_name = "PEER")]
        replaces: Option<String>,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// List pairs
    List {
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Say where a peer is reached, when both sites have moved
    ///
    /// As long as either side still reaches the other, each tells where it is by itself.
    Set {
        /// Name of the peer
        peer: String,
        /// Where it is reached, in the place of what was known. May be repeated, best first
        #[arg(long = "endpoint", value_name = "HOST:PORT", required = true)]
        endpoints: Vec<String>,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Have the plans of a peer that is gone for good go on with another one
    ///
    /// Pair with the new one first. For one that was made anew under the old name, give `--replaces NAME` to `pair key` or
    /// `pair join` instead. Epochs and restore points stay; the next cycle sends everything.
    Replace {
        /// Name of the peer that is gone
        old: String,
        /// Name of the peer that takes its place
        new: String,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Replace the certificates of a pair, without a gap
    Rotate {
        /// Name of the peer
        peer: String,
    },
    /// Cut a peer off at once
    ///
    /// Its restore points stay, and can be read. Its plans stay, too, and go on when the two sites are paired again.
    Remove {
        /// Name of the peer
        peer: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum PlanCommand {
    /// Create or change plans and SchedulePolicies from YAML
    ///
    /// Run it on the active site; the peer learns of it by itself. Applying the same file again changes nothing.
    Apply {
        /// YAML files, several documents each; a folder means its *.yaml, *.yml and *.json; `-` is standard input
        #[arg(short = 'f', long = "filename", required = true, num_args = 1.., value_name = "FILE")]
        files: Vec<PathBuf>,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// List plans
    List {
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Show one plan as it was applied
    Get {
        /// Name of the plan
        name: PlanName,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Show what the other side has changed of a plan and this site has not accepted
    ///
    /// Places, commands and namespaces of a plan are those of the operator where it was made, whoever is active. What the
    /// other side says of them waits here.
    Diff {
        /// Name of the plan
        name: PlanName,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Accept what the other side has changed of a plan
    ///
    /// Shows it as `plan diff` does, and makes it the plan of this site. What was kept and not applied for it is applied
    /// then. Accepting again changes nothing.
    Accept {
        /// Name of the plan
        name: PlanName,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Stop protecting with a plan; restore points and replicas that exist are kept
    ///
    /// Works on the site it is given to: delete on the active side first, whose next cycle would bring the plan back to
    /// the standby. What runs goes on running; the standby shows the plan as ended, and takes it over only with
    /// `promote --force`, until it is deleted there too. What is kept can be listed, compared, verified and restored as before.
    Delete {
        /// Name of the plan
        name: PlanName,
        /// Remove its restore points on this site as well, for good; replicas stay
        #[arg(long)]
        purge: bool,
    },
    /// Let no more cycles start by schedule
    Suspend {
        /// Name of the plan
        name: PlanName,
    },
    /// Let cycles start by schedule again
    Resume {
        /// Name of the plan
        name: PlanName,
    },
}

#[derive(Debug, Args)]
pub(crate) struct SyncArgs {
    /// Name of the plan
    pub(crate) plan: PlanName,
    /// Return once the cycle has begun
    #[arg(long)]
    pub(crate) no_wait: bool,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Name of a plan; all without it
    pub(crate) plan: Option<PlanName>,
    /// Show it again whenever it changes, until interrupted
    #[arg(long, short = 'w')]
    pub(crate) watch: bool,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RestorePointsArgs {
    /// Name of the plan
    pub(crate) plan: PlanName,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// Name of the plan
    pub(crate) plan: PlanName,
    /// The older restore point
    pub(crate) a: Option<RestorePointId>,
    /// The newer restore point
    pub(crate) b: Option<RestorePointId>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// Name of the plan
    pub(crate) plan: PlanName,
    /// Which restore point; the newest without it
    #[arg(long, value_name = "ID")]
    pub(crate) restore_point: Option<RestorePointId>,
    /// Which volume; all without it, each into a folder of its name
    #[arg(long, value_name = "NAME")]
    pub(crate) volume: Option<VolumeName>,
    /// Only this path inside the volume, and what is under it: as it is, or as `diff` prints it, with \n or \xff for
    /// what cannot be printed
    #[arg(long, requires = "volume")]
    pub(crate) path: Option<OsString>,
    /// Where to: a folder that is empty or does not exist; the one volume that is an image becomes a file of this
    /// name, or in the folder if that exists
    #[arg(long, value_name = "DIR")]
    pub(crate) to: PathBuf,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct PromoteArgs {
    /// Name of the plan
    #[arg(required_unless_present = "all", value_name = "PLAN|--all")]
    pub(crate) plan: Option<PlanName>,
    /// Every plan this site is the standby of
    #[arg(long, conflicts_with_all = ["plan", "restore_point"])]
    pub(crate) all: bool,
    /// An older restore point, as after ransomware or a bad deploy; the newest without it
    #[arg(long, value_name = "ID")]
    pub(crate) restore_point: Option<RestorePointId>,
    /// Print what would be done, and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Take over although the peer is alive and active: its writes since the restore point are left behind
    #[arg(long)]
    pub(crate) force: bool,
    /// Take over at a restore point that lacks something
    #[arg(long)]
    pub(crate) accept_partial: bool,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct HandoverArgs {
    /// Name of the plan
    pub(crate) plan: PlanName,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DrillArgs {
    /// Name of the plan
    pub(crate) plan: PlanName,
    /// An older restore point; the newest whole one without it
    #[arg(long, value_name = "ID")]
    pub(crate) restore_point: Option<RestorePointId>,
    /// Leave what was made in place, until the next drill or --clean
    #[arg(long)]
    pub(crate) keep: bool,
    /// Rehearse nothing; remove what a drill with --keep left
    #[arg(long, conflicts_with_all = ["restore_point", "keep", "history"])]
    pub(crate) clean: bool,
    /// Rehearse nothing; list the drills of the plan so far
    #[arg(long, conflicts_with_all = ["restore_point", "keep"])]
    pub(crate) history: bool,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Only what this plan needs; everything without it
    pub(crate) plan: Option<PlanName>,
    /// Without the daemon, which must not run
    #[arg(long)]
    pub(crate) offline: bool,
    /// Mend what another copy allows to
    #[arg(long)]
    pub(crate) repair: bool,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct GcArgs {
    /// Report what would be freed, and free nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct WitnessArgs {
    /// Its folder; made if it does not exist
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// Where it listens (TCP)
    #[arg(long, default_value = "0.0.0.0:7445", value_name = "ADDR:PORT", value_parser = address)]
    pub(crate) listen: SocketAddr,
    /// File with the bearer token that sites must show; DIR/token, made at the first start, without it
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CatalogCommand {
    /// Rebuild the catalog from packs and restore-point files
    ///
    /// For a catalog that was lost or is damaged. The daemon must not run. Nothing else is changed.
    Rebuild {
        #[command(flatten)]
        output: OutputArgs,
    },
}

#[derive(Debug, Args)]
pub(crate) struct AuditArgs {
    /// Only from this time on: RFC 3339, such as 2026-11-21T08:00:00Z, or how long ago, such as 2h
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<Since>,
    /// Check the chain of hashes instead, and name the first record that was changed
    #[arg(long, conflicts_with = "since")]
    pub(crate) verify: bool,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// A point in time, or a length of time before now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Since {
    /// This moment.
    At(backstay_types::Time),
    /// So long ago.
    Ago(Span),
}

impl std::str::FromStr for Since {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Since::At).or_else(|_| text.parse().map(Since::Ago)).map_err(|_| {
            "expected a time such as 2026-11-21T08:00:00Z, or a length of time such as 2h or 1d12h".to_owned()
        })
    }
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Folder to work in; must be empty or not exist. A temporary one without it
    #[arg(long)]
    pub(crate) dir: Option<PathBuf>,
    /// Leave the folder with both sites, the data and the logs
    #[arg(long)]
    pub(crate) keep: bool,
}

#[cfg(test)]
mod tests;
