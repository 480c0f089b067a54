//! `backstay demo`: the whole story on this machine.
//!
//! Everything goes through this program's own commands, run as processes, so what is shown is what an operator would
//! see. What it starts it ends, also when it fails; the folder is removed unless it is to be kept.

mod compare;
mod data;
mod site;

use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::time::Instant;

use backstay_daemon::api_types::{PromotionReport, RestorePointInfo};
use backstay_types::Class;

use crate::args::DemoArgs;
use crate::failure::Failure;
use crate::output::{self, bytes, seconds};
use site::DemoSite;

/// Plays the story; prints what it does on standard error and the table on standard output.
pub(crate) fn run(args: &DemoArgs) -> Result<(), Failure> {
    let folder = Folder::make(args)?;
    let outcome = play(&folder.path);
    if outcome.is_err() && !folder.keep {
        say("It failed; run it with --keep to look at the sites and their logs.");
    }
    folder.finish()?;
    outcome
}

#[expect(clippy::disallowed_methods, reason = "the one place of this program that reads the clock")]
fn now() -> Instant {
    Instant::now()
}

fn play(dir: &Path) -> Result<(), Failure> {
    let (source, objects) = (dir.join("shop/data"), dir.join("shop/k8s"));
    let start = now();
    say("1. Sample data: a folder of files with a database image, and Kubernetes manifests");
    data::make(&source)?;
    data::manifests(&objects)?;

    say("2. Two sites, east (active) and west (standby), each with its daemon");
    let east = DemoSite::start(dir, "east", free_port()?)?;
    let west = DemoSite::start(dir, "west", free_port()?)?;

    say("3. One key pairs them");
    let key = west.run(&["pair", "key"])?;
    east.run_secret(&["pair", "join"], key.trim())?;

    say("4. A plan says what to protect");
    let plan = dir.join("shop.yaml");
    data::write(&plan, data::plan(&source, &objects))?;
    east.run(&["plan", "apply", "-f", &plan.to_string_lossy()])?;

    say("5. The first sync ships everything");
    let first: RestorePointInfo = east.ask(&["sync", "shop"])?;
    say("6. The application writes; the next sync ships what changed");
    let written = data::change(&source)?;
    let second: RestorePointInfo = east.ask(&["sync", "shop"])?;
    east.run(&["status", "shop"]).map(|text| tell(&text))?;

    west.wait_until_applied(second.id)?;
    let held = compare::replicas(&west.dir().join("manifests/shop"))?;
    say("7. Disaster: the active site is killed (SIGKILL). The standby takes over");
    east.kill()?;
    let report: PromotionReport = west.ask(&["promote", "shop"])?;

    say("8. Every byte is compared");
    let compared = compare::trees(&source, &west.dir().join("replicas/shop/data"))?;
    let released = compare::replicas(&west.dir().join("manifests/shop"))?;
    west.kill()?;

    let cycle = |name: &str, point: &RestorePointInfo| {
        [
            name.to_owned(),
            point.files_scanned.to_string(),
            bytes(point.bytes_scanned),
            bytes(point.bytes_changed),
            bytes(point.wire_bytes),
            seconds(point.duration_seconds),
        ]
    };
    let rows = [cycle("first sync", &first), cycle("second sync", &second)];
    let table = output::table("no cycles", ["cycle", "files", "scanned", "changed", "wire", "time"], rows);
    output::print(&format!(
        "\n{table}\n\n{} were written between the syncs. RPO {}, RTO {}: {} entries ({}) on the promoted site equal the \
         source.\nThe Deployment stood held at {held} replicas and was released to {released}. The whole story took {}.",
        bytes(written),
        seconds(report.rpo_seconds),
        output::or_dash(report.rto_seconds, seconds),
        compared.entries,
        bytes(compared.bytes),
        seconds(start.elapsed().as_secs_f64()),
    ))
}

/// Progress is for people and goes to standard error; the table is the result.
fn say(text: &str) {
    eprintln!("\n{text}");
}

fn tell(text: &str) {
    text.lines().for_each(|line| eprintln!("   {line}"));
}

/// A UDP port nobody uses. Another process could take it before the daemon does; then the daemon says so.
fn free_port() -> Result<u16, Failure> {
    let port = UdpSocket::bind(("127.0.0.1", 0)).and_then(|socket| socket.local_addr());
    port.map(|address| address.port())
        .map_err(|error| Failure::new(Class::Transient, format!("find a free port: {error}")))
}

/// The folder the demo works in.
struct Folder {
    path: PathBuf,
    keep: bool,
    /// Whether the folder itself is ours, or only what is in it.
    made: bool,
}

impl Folder {
    fn make(args: &DemoArgs) -> Result<Self, Failure> {
        let path = args
            .dir
            .clone()
            .unwrap_or_else(|| std::env::temp_dir().join(format!("backstay-demo-{}", std::process::id())));
        let path = std::path::absolute(&path)
            .map_err(|error| Failure::io(Class::Invalid, "find the full path of", &path, &error))?;
        let made = !path.exists();
        fs::create_dir_all(&path).map_err(|error| Failure::io(Class::Invalid, "make", &path, &error))?;
        let mut entries =
            fs::read_dir(&path).map_err(|error| Failure::io(Class::Invalid, "list", &path, &error))?;
        if entries.next().is_some() {
            return Err(Failure::new(Class::Invalid, format!("{} is not empty", path.display()))
                .hint("name an empty folder with --dir, or one that does not exist"));
        }
        Ok(Self { path, keep: args.keep, made })
    }

    fn finish(self) -> Result<(), Failure> {
        if self.keep {
            say(&format!("Kept: {}", self.path.display()));
            return Ok(());
        }
        let fail = |error: std::io::Error| Failure::io(Class::Transient, "remove", &self.path, &error);
        if self.made {
            return fs::remove_dir_all(&self.path).map_err(fail);
        }
        for entry in fs::read_dir(&self.path).map_err(fail)? {
            let path = entry.map_err(fail)?.path();
            if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }.map_err(fail)?;
        }
        Ok(())
    }
}
