use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command};

use backstay_types::Classify;
use backstay_types::plan::HoldCommands;
use tempfile::TempDir;

use super::*;

/// A folder with a record, and commands that note what they did.
struct Bench {
    dir: TempDir,
}

impl Bench {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn record(&self) -> PathBuf {
        self.dir.path().join("hold.json")
    }

    fn sh(&self, script: &str) -> Vec<String> {
        let script = format!("cd {}; {script}", self.dir.path().display());
        ["sh", "-c", &script].map(str::to_owned).to_vec()
    }

    fn commands(&self, hold: &str, release: &str) -> HostHold {
        let commands = HoldCommands { hold: self.sh(hold), release: self.sh(release), timeout: None };
        HostHold { commands: Some(commands), ..HostHold::default() }
    }

    fn noted(&self) -> String {
        let text = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

#[test]
fn a_hold_is_undone_once_and_only_if_there_was_one() {
    let bench = Bench::new();
    let what = bench.commands("echo hold >> log", "echo release >> log");
    assert!(release(Some(&what), &bench.record(), Release::Undo).unwrap().done.is_empty());
    assert_eq!((bench.noted().as_str(), is_held(&bench.record()).unwrap()), ("", false));
    for _ in 0..2 {
        hold(&what, &bench.record()).unwrap();
        assert_eq!((bench.noted().as_str(), is_held(&bench.record()).unwrap()), ("hold", true));
    }
    for _ in 0..2 {
        // Also where nobody says any more what is to be held.
        release(None, &bench.record(), Release::Undo).unwrap();
        assert_eq!((bench.noted().as_str(), is_held(&bench.record()).unwrap()), ("hold release", false));
    }
    hold(&what, &bench.record()).unwrap();
    assert_eq!(bench.noted(), "hold release hold");
}

/// What the machine's next start has started again is not held by a command that ran before it.
#[test]
fn a_command_holds_again_after_a_restart_of_the_machine() {
    let bench = Bench::new();
    let what = bench.commands("echo hold >> log", "echo release >> log");
    hold(&what, &bench.record()).unwrap();
    let text = fs::read_to_string(bench.record()).unwrap();
    let boot = clock::boot().unwrap();
    assert!(text.contains(&boot), "{text}");
    fs::write(bench.record(), text.replace(&boot, "00000000-0000-0000-0000-000000000000")).unwrap();
    hold(&what, &bench.record()).unwrap();
    assert_eq!(bench.noted(), "hold hold");
}

#[test]
fn what_cannot_be_written_down_is_held() {
    let bench = Bench::new();
    let what = bench.commands("echo hold >> log", "echo release >> log");
    // A file where a folder would be: as little can be made there as on a disk that has become read-only.
    fs::write(bench.dir.path().join("file"), "").unwrap();
    let error = hold(&what, &bench.dir.path().join("file/hold.json")).unwrap_err();
    assert!(matches!(error, HoldError::Several { .. }), "{error}");
    assert_eq!(bench.noted(), "hold");
}

#[test]
fn a_release_makes_room_for_a_hold() {
    let bench = Bench::new();
    let what = bench.commands("echo hold >> log", "echo release >> log; sleep 600");
    hold(&what, &bench.record()).unwrap();
    std::thread::scope(|scope| {
        let releasing = scope.spawn(|| release(None, &bench.record(), Release::Undo));
        while bench.noted() != "hold release" {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        hold(&what, &bench.record()).unwrap();
        let error = releasing.join().unwrap().unwrap_err();
        assert!(matches!(error, HoldError::GivenUp { .. }), "{error}");
    });
    assert_eq!((bench.noted().as_str(), is_held(&bench.record()).unwrap()), ("hold release hold", true));
}

#[test]
fn a_takeover_starts_what_was_never_held_here() {
    let bench = Bench::new();
    let what = bench.commands("echo hold >> log", "echo release >> log");
    release(Some(&what), &bench.record(), Release::TakeOver).unwrap();
    assert_eq!(bench.noted(), "release");
    // Nothing to hold, nothing to start, and no record.
    let nothing = HostHold { nothing: true, ..HostHold::default() };
    let other = bench.dir.path().join("other.json");
    hold(&nothing, &other).unwrap();
    release(Some(&nothing), &other, Release::TakeOver).unwrap();
    assert!(!other.exists());
}

#[test]
fn what_a_release_that_failed_may_have_started_is_held_again() {
    let bench = Bench::new();
    let what = bench.commands("echo hold >> log", "echo release >> log; test -e open");
    hold(&what, &bench.record()).unwrap();
    let error = release(Some(&what), &bench.record(), Release::Undo).unwrap_err();
    assert!(matches!(error, HoldError::Ended { .. }), "{error}");
    assert!(is_held(&bench.record()).unwrap());
    hold(&what, &bench.record()).unwrap();
    fs::write(bench.dir.path().join("open"), "").unwrap();
    release(Some(&what), &bench.record(), Release::Undo).unwrap();
    assert_eq!(bench.noted(), "hold release hold release");
}

#[test]
fn a_command_that_hangs_is_killed_and_told() {
    let bench = Bench::new();
    let mut what = bench.commands("echo no room on this disk >&2; exit 3", "true");
    let error = hold(&what, &bench.record()).unwrap_err();
    assert!(error.to_string().ends_with("exit status: 3: no room on this disk"), "{error}");
    assert!(is_held(&bench.record()).unwrap(), "half of it may be held");
    what = bench.commands("sleep 600 & wait", "true");
    what.commands.as_mut().unwrap().timeout = Some("50ms".parse().unwrap());
    let error = hold(&what, &bench.record()).unwrap_err();
    assert!(matches!(error, HoldError::Late { .. }) && error.class().retries(), "{error}");
    // What it says beyond a pipe's room holds it up no more than what it leaves running.
    what = bench.commands("yes | head -c 300000; sleep 600 & echo hold >> log", "kill %1");
    hold(&what, &bench.record()).unwrap();
    assert_eq!(bench.noted(), "hold");
}

/// A control group of the test's own, with a process that counts.
/// The control groups of version 2, mounted beside those of version 1 where the machine has these.
struct Unified(TempDir);

impl Unified {
    fn mount() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount").args(["-t", "cgroup2", "none"]).arg(dir.path()).status().unwrap();
        assert!(mounted.success());
        Self(dir)
    }
}

impl Drop for Unified {
    fn drop(&mut self) {
        Command::new("umount").arg(self.0.path()).status().unwrap();
    }
}

struct Group {
    folder: PathBuf,
    child: Child,
}

impl Group {
    fn new(root: &Path, name: &str, counter: &Path) -> Self {
        let folder = root.join(format!("backstay-test-{name}-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let script = "n=0; while :; do n=$((n+1)); echo $n > $1.new; mv $1.new $1; done";
        let child = Command::new("sh").args(["-c", script, "sh"]).arg(counter).spawn().unwrap();
        fs::write(folder.join("cgroup.procs"), child.id().to_string()).unwrap();
        Self { folder, child }
    }

    fn hold(&self) -> HostHold {
        HostHold { cgroups: vec![self.folder.clone()], ..HostHold::default() }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        cgroup::thaw(&self.folder).unwrap();
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        while fs::remove_dir(&self.folder).is_err() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

/// Returns once the counter has another value than `than`.
fn counted_on(counter: &Path, than: &str) -> String {
    loop {
        match fs::read_to_string(counter) {
            Ok(text) if text != than && !text.is_empty() => return text,
            _ => std::thread::sleep(std::time::Duration::from_millis(2)),
        }
    }
}

#[test]
fn a_control_group_stands_still_until_it_is_released() {
    let unified = Unified::mount();
    stands_still_until_released(unified.0.path());
    let v1 = Path::new("/sys/fs/cgroup/freezer");
    if v1.exists() {
        stands_still_until_released(v1);
    }
}

fn stands_still_until_released(root: &Path) {
    let bench = Bench::new();
    let counter = bench.dir.path().join("count");
    let group = Group::new(root, "still", &counter);
    counted_on(&counter, "");
    // A command that fails keeps nothing else running.
    let mut what = bench.commands("exit 1", "true");
    what.cgroups = group.hold().cgroups;
    hold(&what, &bench.record()).unwrap_err();
    assert!(frozen_processes(&group.folder).contains(&group.child.id()));
    let stood = fs::read_to_string(&counter).unwrap();
    assert_eq!(fs::read_to_string(&counter).unwrap(), stood);
    release(None, &bench.record(), Release::Undo).unwrap();
    assert!(frozen_processes(&group.folder).is_empty());
    counted_on(&counter, &stood);
}

#[test]
fn a_control_group_that_was_frozen_before_stays_so() {
    let (bench, unified) = (Bench::new(), Unified::mount());
    let group = Group::new(unified.0.path(), "before", &bench.dir.path().join("count"));
    cgroup::freeze(&group.folder).unwrap();
    hold(&group.hold(), &bench.record()).unwrap();
    release(None, &bench.record(), Release::Undo).unwrap();
    assert!(!frozen_processes(&group.folder).is_empty());
    // One that is gone has nothing in it, and one that holds ourselves would never be thawed.
    let gone = HostHold { cgroups: vec![group.folder.join("gone")], ..HostHold::default() };
    assert_eq!(hold(&gone, &bench.dir.path().join("gone.json")).unwrap().warnings.len(), 1);
    let not_one = HostHold { cgroups: vec![bench.dir.path().to_owned()], ..HostHold::default() };
    let error = hold(&not_one, &bench.dir.path().join("not.json")).unwrap_err();
    assert!(matches!(error, HoldError::NotACgroup { .. }), "{error}");
}
