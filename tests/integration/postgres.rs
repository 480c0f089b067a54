//! A real PostgreSQL under pgbench: what a point is called, a replica that a server was started on, and servers that are
//! held, started and never overwritten. What pgbench was told is compared with what a server finds afterwards.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use backstay_tests::{FileSystem, LoopFs, Pair, Plan, SiteOptions, eventually, is_root, skip};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(60);

/// Where the programs of the newest PostgreSQL are; `None`, with a skip, where there is none or it cannot be run.
fn programs(test: &str) -> Option<PathBuf> {
    if !is_root() {
        skip(test, "PostgreSQL is run as its own user, which needs root");
        return None;
    }
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest =
        versions.map(|entry| entry.path().join("bin")).filter(|bin| bin.join("pgbench").exists()).max();
    if newest.is_none() {
        skip(test, "there is no PostgreSQL under /usr/lib/postgresql");
    }
    newest
}

/// A server's folder, and the folder of its socket.
struct Server {
    bin: PathBuf,
    data: PathBuf,
    socket: PathBuf,
}

impl Server {
    fn at(bin: &Path, data: &Path, socket: &Path) -> Server {
        if !socket.exists() {
            fs::create_dir(socket).unwrap();
            fs::set_permissions(socket, fs::Permissions::from_mode(0o777)).unwrap();
        }
        Server { bin: bin.to_owned(), data: data.to_owned(), socket: socket.to_owned() }
    }

    /// A new database with the tables of pgbench, running.
    fn init(bin: &Path, data: &Path, socket: &Path) -> Server {
        let server = Server::at(bin, data, socket);
        if !data.exists() {
            fs::create_dir(data).unwrap();
        }
        run(Command::new("chown").arg("postgres:postgres").arg(data));
        let options = ["--data-checksums", "--wal-segsize=1", "-A", "trust", "-U", "postgres", "-D"];
        run(server.as_postgres("initdb").args(options).arg(data));
        let settings = "listen_addresses = ''\nmin_wal_size = 8MB\nmax_wal_size = 32MB\nshared_buffers = 16MB\n\
            full_page_writes = on\nlogging_collector = off\n";
        let file = data.join("postgresql.conf");
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, text + settings).unwrap();
        server.start();
        run(server.client("pgbench").args(["-q", "-i", "-s", "1", "postgres"]));
        server
    }

    fn as_postgres(&self, program: &str) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]);
        command.arg(self.bin.join(program)).current_dir("/");
        command
    }

    fn client(&self, program: &str) -> Command {
        let mut command = self.as_postgres(program);
        command.arg("-h").arg(&self.socket);
        command
    }

    fn pg_ctl(&self, args: &[&str]) -> Command {
        let mut command = self.as_postgres("pg_ctl");
        let log = self.socket.join("log");
        command.args(args).arg("-D").arg(&self.data).arg("-l").arg(log);
        command.arg("-o").arg(format!("-k {}", self.socket.display()));
        command
    }

    fn start(&self) {
        run(&mut self.pg_ctl(&["start", "-w", "-t", "60"]));
    }

    fn stop(&self) {
        run(&mut self.pg_ctl(&["stop", "-w", "-m", "fast"]));
    }

    fn runs(&self) -> bool {
        self.client("pg_isready").arg("-q").status().unwrap().success()
    }

    /// A line of shell that tells whether it runs.
    fn is_ready(&self) -> String {
        format!("{}/pg_isready -q -h {}", self.bin.display(), self.socket.display())
    }

    /// Lines of shell that hold and release it. Where it is as wanted already there is nothing to do, as with a unit.
    fn hold_and_release(&self) -> [String; 2] {
        let line = |command: &Command| {
            let words = std::iter::once(command.get_program()).chain(command.get_args());
            words.map(|word| format!("'{}'", word.to_str().unwrap())).collect::<Vec<_>>().join(" ")
        };
        let (stop, start) =
            (line(&self.pg_ctl(&["stop", "-w", "-m", "fast"])), line(&self.pg_ctl(&["start", "-w"])));
        [format!("! {0} || {stop}", self.is_ready()), format!("{0} || {start}", self.is_ready())]
    }

    fn query(&self, sql: &str) -> String {
        let output = run(self.client("psql").args(["-X", "-A", "-t", "-c", sql, "postgres"]));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Transactions that were committed.
    fn history(&self) -> u64 {
        self.query("SELECT count(*) FROM pgbench_history").parse().unwrap()
    }

    /// Every transaction is there whole: it has changed three balances and the history by the same.
    #[track_caller]
    fn assert_balanced(&self) {
        let sums = self.query(
            "SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers), \
             (SELECT sum(bbalance) FROM pgbench_branches), (SELECT coalesce(sum(delta), 0) FROM pgbench_history), \
             (SELECT count(*) FROM pgbench_accounts)",
        );
        let sums: Vec<_> = sums.split('|').collect();
        assert!(sums[..4].iter().all(|sum| *sum == sums[0]) && sums[4] == "100000", "{sums:?}");
    }

    /// Opens the database as after a power cut; it has at least so many transactions, whole, and every page's sum is right.
    #[track_caller]
    fn assert_opens(&self, acknowledged: u64) {
        // The server that made it runs beside it on this machine, under the number that stands here.
        if self.data.join("postmaster.pid").exists() {
            fs::remove_file(self.data.join("postmaster.pid")).unwrap();
        }
        self.start();
        self.assert_balanced();
        let found = self.history();
        assert!(found >= acknowledged, "{found} of {acknowledged} acknowledged transactions");
        self.stop();
        run(self.as_postgres("pg_checksums").args(["--check", "-D"]).arg(&self.data));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.data.join("postmaster.pid").exists() {
            // It may have gone with a test's own command.
            self.pg_ctl(&["stop", "-w", "-m", "immediate"]).output().unwrap();
        }
    }
}

#[track_caller]
fn run(command: &mut Command) -> Output {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    output
}

/// pgbench, until it is ended or its server goes.
struct Bench(Option<Child>);

impl Bench {
    fn start(server: &Server) -> Bench {
        let before = server.history();
        let mut command = server.client("pgbench");
        command.args(["-n", "-c", "2", "-T", "600", "postgres"]).stdin(Stdio::null());
        let child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let bench = Bench(Some(child));
        eventually("pgbench writes", SOON, || server.history() > before);
        bench
    }

    /// How many transactions it was told are committed, once its server has gone.
    fn acknowledged(mut self) -> u64 {
        let output = self.0.take().unwrap().wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let line =
            text.lines().find_map(|line| line.strip_prefix("number of transactions actually processed: "));
        line.unwrap_or_else(|| panic!("{text}")).trim().parse().unwrap()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

/// Puts lines into the `site.toml` of the standby.
fn configure_west(pair: &mut Pair, lines: &str) {
    pair.west.terminate();
    let config = pair.west.dir().join("site.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("{text}\n{lines}\n")).unwrap();
    pair.west.serve();
    pair.wait_connected();
}

/// The replica at a place that the user of the database can reach.
fn replica_at(place: &Path) -> String {
    format!("[replicas.shop]\ndata = {place:?}")
}

/// A hold of a plan.
fn in_plan([hold, release]: [String; 2]) -> String {
    format!("hold: {{commands: {{hold: [sh, -c, {hold:?}], release: [sh, -c, {release:?}]}}}}")
}

/// The hold of a side's own `site.toml`.
fn in_config([hold, release]: [String; 2]) -> String {
    format!(
        "[hold.shop.commands]\nhold = [\"sh\", \"-c\", {hold:?}]\nrelease = [\"sh\", \"-c\", {release:?}]"
    )
}

fn wait_applied(pair: &Pair) {
    eventually("the newest restore point is applied", SOON, || {
        let status = pair.west.status("shop");
        status["appliedRestorePoint"] == status["lastRestorePoint"] && status["cycle"].is_null()
    });
}

/// A database on its own disk, its plan, and a server for the copies that are taken of it.
fn beside_pgbench(pair: &Pair, bin: &Path, server: &Server, plan: &Plan, least: &str) -> Vec<String> {
    pair.east.apply(&plan.clone().keep(50).field(&format!("minimumConsistency: {least}")).yaml()).ok();
    let mut words = Vec::new();
    for round in 0..4 {
        let acknowledged = server.history();
        let point = pair.east.sync("shop");
        let word = point["consistency"].as_str().unwrap().to_owned();
        if word == "crash" {
            let to = pair.work(&format!("{least}-{round}"));
            let (id, out) = (point["id"].as_str().unwrap(), to.to_str().unwrap());
            pair.west.cli(["restore", "shop", "--restore-point", id, "--volume", "data", "--to", out]).ok();
            Server::at(bin, &to, &pair.work("restored")).assert_opens(acknowledged);
            fs::remove_dir_all(&to).unwrap();
        }
        words.push(word);
    }
    words
}

/// A subvolume of btrfs is taken in one instant under full load: every point is called `crash`, and opens.
#[test]
fn a_snapshot_under_load_is_an_instant() {
    let Some(bin) = programs("postgres::a_snapshot_under_load_is_an_instant") else { return };
    let disk = match LoopFs::mount(FileSystem::Btrfs, 700) {
        Ok(disk) => disk,
        Err(reason) => return skip("postgres::a_snapshot_under_load_is_an_instant", &reason),
    };
    let pair = Pair::start();
    let source = disk.path().join("volume");
    run(Command::new("btrfs").args(["-q", "subvolume", "create"]).arg(&source));
    let server = Server::init(&bin, &source, &pair.work("socket"));
    let bench = Bench::start(&server);
    let plan = Plan::new("shop").volume("data", &source);
    assert_eq!(beside_pgbench(&pair, &bin, &server, &plan, "crash"), ["crash"; 4]);
    drop(bench);
}

/// Clones of files, and files read in place, are no instant under load: nothing is called `crash` that does not open. A
/// server that rests is.
#[test]
fn what_is_not_an_instant_is_not_called_one() {
    let Some(bin) = programs("postgres::what_is_not_an_instant_is_not_called_one") else { return };
    for kind in [FileSystem::Ext4, FileSystem::Xfs] {
        let disk = match LoopFs::mount(kind, 500) {
            Ok(disk) => disk,
            Err(reason) => return skip("postgres::what_is_not_an_instant_is_not_called_one", &reason),
        };
        let pair = Pair::start();
        pair.east.allow_errors("");
        let source = disk.path().join("volume");
        let server = Server::init(&bin, &source, &pair.work("socket"));
        let bench = Bench::start(&server);
        let plan = Plan::new("shop").volume("data", &source);
        let words = beside_pgbench(&pair, &bin, &server, &plan, "fuzzy");
        assert!(words.contains(&"fuzzy".to_owned()), "{kind:?}: {words:?}");
        pair.east.apply(&plan.yaml()).ok();
        // Judged at the end, or at the first file that does not hold still.
        pair.east.cli(["sync", "shop"]).refused(&[5, 7], &["minimumConsistency"]);
        drop(bench);
        // It runs on, and writes what it has in memory now and then.
        run(server.client("psql").args(["-X", "-c", "CHECKPOINT", "postgres"]));
        assert_eq!(beside_pgbench(&pair, &bin, &server, &plan, "crash"), ["crash"; 4], "{kind:?}");
    }
}

/// A server that was started once on the replica has changed it: the promotion puts it right, and says so.
#[test]
fn a_replica_that_a_server_was_started_on() {
    let Some(bin) = programs("postgres::a_replica_that_a_server_was_started_on") else { return };
    let mut pair = Pair::start();
    let replica = pair.work("replica");
    configure_west(&mut pair, &replica_at(&replica));
    let source = pair.work("source");
    let server = Server::init(&bin, &source, &pair.work("socket"));
    drop(Bench::start(&server));
    server.stop();
    pair.east.apply(&Plan::new("shop").volume("data", &source).yaml()).ok();
    pair.east.sync("shop");
    wait_applied(&pair);

    let away = Server::at(&bin, &replica, &pair.work("away"));
    away.start();
    let (acknowledged, bench) = (away.history(), Bench::start(&away));
    // While it runs nothing is applied under it.
    fs::write(source.join("later"), "written later").unwrap();
    pair.east.sync("shop");
    eventually("the server is named", SOON, || {
        let why = pair.west.status("shop")["applyError"]["message"].to_string();
        why.contains("postgres") && why.contains("open for writing")
    });
    drop(bench);
    away.stop();
    wait_applied(&pair);
    backstay_tests::assert_same(&source, &replica);
    // And once more, with nothing that would be applied.
    away.start();
    drop(Bench::start(&away));
    away.stop();
    let report = pair.take_over("shop");
    assert!(report.to_string().contains("changed") || told(&pair).contains("changed"), "{report}");
    backstay_tests::assert_same(&source, &replica);
    assert_eq!(away.data, replica);
    away.assert_opens(acknowledged);
}

fn told(pair: &Pair) -> String {
    pair.west.status("shop")["replicaWarning"].to_string()
}

/// `failback` beside a running pgbench is refused by the name of the server. With a hold it ends the server first, and no
/// transaction that was acknowledged is missing at home.
#[test]
fn a_failback_beside_pgbench_loses_nothing() {
    let Some(bin) = programs("postgres::a_failback_beside_pgbench_loses_nothing") else { return };
    let mut pair = Pair::start();
    let (source, replica) = (pair.work("source"), pair.work("replica"));
    configure_west(&mut pair, &replica_at(&replica));
    let home = Server::init(&bin, &source, &pair.work("socket"));
    let away = Server::at(&bin, &replica, &pair.work("away"));
    home.stop();
    let plan = Plan::new("shop").volume("data", &source).field(&in_plan(home.hold_and_release()));
    pair.east.apply(&plan.yaml()).ok();
    pair.east.sync("shop");
    pair.east.cli(["switchover", "shop"]).ok();

    away.start();
    let before = away.history();
    let bench = Bench::start(&away);
    pair.west.cli(["failback", "shop"]).refused(&[4], &["rolled back", "postgres", "open for writing"]);
    assert!(away.runs());
    let went_on = away.history();
    eventually("pgbench goes on", SOON, || away.history() > went_on);

    configure_west(&mut pair, &in_config(away.hold_and_release()));
    let report = pair.west.cli(["failback", "shop", "-o", "json"]).ok().json();
    assert_eq!(report["nothingLost"], true, "{report}");
    let acknowledged = bench.acknowledged();
    assert!(!away.runs() && home.runs(), "it runs where it belongs");
    let found = home.history();
    assert!(found >= before + acknowledged, "{found} of {before} and {acknowledged}");
    home.assert_balanced();
}

/// Daemon and keeper are killed under a living server: the server is stopped before the other side starts its own, and that
/// has what was replicated.
#[test]
fn a_dead_daemon_leaves_one_server() {
    let Some(bin) = programs("postgres::a_dead_daemon_leaves_one_server") else { return };
    let folder = tempfile::Builder::new().prefix("backstay-witness-").tempdir().unwrap();
    let options = || SiteOptions {
        env: vec![("BACKSTAY_WITNESS_URL".to_owned(), format!("file://{}", folder.path().display()))],
        ..SiteOptions::default()
    };
    let mut pair = Pair::with(options(), options());
    let (source, replica) = (pair.work("source"), pair.work("replica"));
    let home = Server::init(&bin, &source, &pair.work("socket"));
    let away = Server::at(&bin, &replica, &pair.work("away"));
    let both = pair.work("both");
    let [hold, release] = away.hold_and_release();
    let release = format!("{} && echo both >> {}; {release}", home.is_ready(), both.display());
    configure_west(&mut pair, &format!("{}\n{}", replica_at(&replica), in_config([hold, release])));
    pair.keep();
    let plan = Plan::new("shop").volume("data", &source).field(&in_plan(home.hold_and_release()));
    let plan = plan.field("minimumConsistency: fuzzy").field("automaticFailover: {after: 5s}");
    pair.east.apply(&plan.yaml()).ok();
    drop(Bench::start(&home));
    run(home.client("psql").args(["-X", "-c", "CHECKPOINT", "postgres"]));
    let replicated = home.history();
    assert_eq!(pair.east.sync("shop")["consistency"], "crash");
    let bench = Bench::start(&home);
    for (site, text) in [(&pair.west, "this side promotes in"), (&pair.east, "this side holds in")] {
        eventually(text, SOON, || would(&site.status("shop")).contains(text));
    }
    pair.east.kill();
    pair.east.kill_keeper();
    eventually("west takes over", SOON, || pair.west.status("shop")["role"] == "active");
    eventually("its server runs", SOON, || away.runs());
    assert!(!home.runs() && !both.exists(), "both ran");
    drop(bench);
    away.assert_balanced();
    assert!(away.history() >= replicated);
}

fn would(status: &Value) -> String {
    status["automaticFailover"]["wouldDo"].to_string()
}
