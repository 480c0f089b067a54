//! The whole way but for the API server: keepers run in shells of this machine. A command and its keeper talk over
//! pipes as they do over a stream; what is measured is what processes did.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::Mutex;

use backstay_types::plan::{OnError, RuleAction};
use backstay_types::{Class, Classify};
use tempfile::TempDir;
use tokio::process::Command;

use super::exec::{Attached, Exit, Streams};
use super::fault::ExecError;
use super::record::{Place, Step};
use super::*;

/// Pods of this machine: each is a folder that its actions run in.
struct Machine {
    dir: TempDir,
    start: Start,
    /// Pods that do not answer, and how often they still will not.
    deaf: Arc<Mutex<BTreeMap<String, usize>>>,
}

impl Machine {
    fn new(shell: &'static [&'static str]) -> Self {
        let dir = TempDir::new().unwrap();
        let deaf = Arc::<Mutex<BTreeMap<String, usize>>>::default();
        let (root, silent) = (dir.path().to_owned(), deaf.clone());
        let start: Start = Arc::new(move |place: Place, words: Vec<String>| {
            let (folder, silent) = (root.join(&place.pod), silent.clone());
            Box::pin(async move {
                if let Some(left @ 1..) = silent.lock().unwrap().get_mut(&place.pod) {
                    *left -= 1;
                    return Err(ExecError::Lost { why: "deaf".to_owned() });
                }
                std::fs::create_dir_all(&folder).unwrap();
                Ok(spawn(shell, &words[1..], &folder))
            })
        });
        Self { dir, start, deaf }
    }

    fn record(&self) -> std::path::PathBuf {
        self.dir.path().join("freeze.json")
    }

    /// What a pod's actions noted.
    fn notes(&self, pod: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(pod).join("notes")).unwrap_or_default()
    }

    async fn freeze(&self, pods: Vec<PodSteps>) -> Result<Frozen, FreezeError> {
        let chosen = Chosen { pods, warnings: Vec::new() };
        Frozen::begin(&self.start, chosen, true, Record::at(&self.record())).await
    }
}

fn spawn(shell: &[&str], words: &[String], folder: &Path) -> Attached {
    let mut command = Command::new(shell[0]);
    command.args(&shell[1..]).args(words).current_dir(folder);
    let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = pipes.spawn().unwrap();
    Attached::new(Streams {
        stdin: Box::new(child.stdin.take().unwrap()),
        stdout: Box::new(child.stdout.take().unwrap()),
        stderr: Box::new(child.stderr.take().unwrap()),
        status: Box::pin(async move { child.wait().await.unwrap().code().map(Exit::Code) }),
        _guard: Box::new(()),
    })
}

fn step(pod: &str, value: &str) -> Step {
    let value = value.to_owned();
    Step {
        name: "preExecRule.rules[0].actions[0]".to_owned(),
        id: new_id(),
        place: Place {
            namespace: "shop".to_owned(),
            pod: pod.to_owned(),
            uid: String::new(),
            container: "db".to_owned(),
        },
        is_private: false,
        action: RuleAction {
            background: value.contains("WAIT_CMD"),
            timeout: Some(Span::from_secs(20)),
            value,
            ..RuleAction::default()
        },
    }
}

fn pod(name: &str, pre: &[&str], post: &[&str]) -> PodSteps {
    let steps = |values: &[&str]| values.iter().map(|value| step(name, value)).collect();
    PodSteps { pre: steps(pre), post: steps(post) }
}

/// Locks, tells so, waits for the snapshot, and unlocks.
const LOCK: &str = "echo lock >>notes; sh -c '${WAIT_CMD}'; echo unlock >>notes";
const POST: &str = "echo post >>notes";

const SHELLS: [&[&str]; 3] = [&["dash"], &["bash"], &["busybox", "sh"]];

#[tokio::test]
async fn locks_are_held_together_and_let_go_in_order() {
    for shell in SHELLS {
        let machine = Machine::new(shell);
        let pods = ["a", "b"].map(|name| pod(name, &["echo first >>notes", LOCK], &[POST]));
        let frozen = machine.freeze(pods.to_vec()).await.unwrap();
        assert!(machine.record().exists(), "what is to be undone is on disk");
        for name in ["a", "b"] {
            assert_eq!(machine.notes(name), "first\nlock\n", "{shell:?}");
        }
        let report = frozen.thaw().await.unwrap();
        assert_eq!((report.pods, report.writers_stopped), (2, true), "{report:?}");
        assert!(report.length >= report.held);
        for name in ["a", "b"] {
            assert_eq!(machine.notes(name), "first\nlock\nunlock\npost\n", "{shell:?}");
        }
        assert!(!machine.record().exists(), "nothing is left to undo");
    }
}

#[tokio::test]
async fn a_failure_in_one_pod_thaws_all() {
    let machine = Machine::new(SHELLS[0]);
    let fails = pod("b", &["echo broken >&2; exit 3", LOCK], &[POST]);
    let error = machine.freeze(vec![pod("a", &[LOCK], &[POST]), fails]).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "preExecRule.rules[0].actions[0] in pod shop/b: it ended with code 3: broken"
    );
    assert_eq!(error.class(), Class::Incomplete);
    assert!(machine.notes("a").ends_with("post\n"), "{}", machine.notes("a"));
    assert_eq!(machine.notes("b"), "post\n");
    assert!(!machine.record().exists());
}

#[tokio::test]
async fn a_failure_that_may_be_is_told_and_the_point_is_crash_consistent() {
    let machine = Machine::new(SHELLS[0]);
    let mut steps = pod("a", &["exit 1", LOCK], &["exit 2", POST]);
    steps.pre[0].action.on_error = OnError::Continue;
    steps.post[0].action.on_error = OnError::Continue;
    let report = machine.freeze(vec![steps]).await.unwrap().thaw().await.unwrap();
    assert!(!report.writers_stopped);
    assert_eq!(report.warnings.len(), 2, "{report:?}");
    assert_eq!(machine.notes("a"), "lock\nunlock\npost\n");
}

#[tokio::test]
async fn a_failure_after_the_snapshot_does_not_make_it_less() {
    let machine = Machine::new(SHELLS[0]);
    let mut steps = pod("a", &[LOCK], &["exit 2"]);
    steps.post[0].action.on_error = OnError::Continue;
    let report = machine.freeze(vec![steps]).await.unwrap().thaw().await.unwrap();
    assert_eq!((report.writers_stopped, report.warnings.len()), (true, 1), "{report:?}");
    // One that must not fail fails the cycle, and still the others run.
    let error =
        machine.freeze(vec![pod("b", &[LOCK], &["exit 2", POST])]).await.unwrap().thaw().await.unwrap_err();
    assert!(error.to_string().contains("it ended with code 2"), "{error}");
    assert_eq!(machine.notes("b"), "lock\nunlock\npost\n");
}

#[tokio::test]
async fn a_lock_that_is_lost_before_the_snapshot_is_noticed() {
    let machine = Machine::new(SHELLS[0]);
    // Holds, and goes away when the file appears.
    let lost = "${WAIT_CMD} & while [ ! -e gone ]; do sleep 0.02; done; exit 9";
    let frozen = machine.freeze(vec![pod("a", &[lost], &[POST])]).await.unwrap();
    std::fs::write(machine.dir.path().join("a/gone"), "").unwrap();
    // Its end is seen while it holds: the keeper's folder goes with it.
    let id = read_ids(&machine).await;
    while Path::new("/dev/shm").join(&id[0]).exists() {
        tokio::task::yield_now().await;
    }
    let error = frozen.thaw().await.unwrap_err();
    assert!(error.to_string().contains("it let go before the snapshot was taken: code 9"), "{error}");
    assert_eq!(machine.notes("a"), "post\n");
}

async fn read_ids(machine: &Machine) -> Vec<String> {
    let pods = Record::at(&machine.record()).read().await.unwrap();
    pods.into_iter().flat_map(|pod| pod.pre).map(|step| step.id).collect()
}

#[tokio::test]
async fn an_action_that_takes_too_long_is_ended() {
    for shell in SHELLS {
        let machine = Machine::new(shell);
        let slow = "echo $$ >pid; trap '' HUP; sleep 600 & sleep 600; echo late >>notes";
        let mut steps = pod("a", &[slow], &[POST]);
        steps.pre[0].action.timeout = Some(Span(500));
        let error = machine.freeze(vec![steps, pod("b", &[LOCK], &[POST])]).await.unwrap_err();
        assert!(error.to_string().contains("it did not end in 500ms"), "{error}");
        let pid = std::fs::read_to_string(machine.dir.path().join("a/pid")).unwrap();
        let exists = Path::new("/proc").join(pid.trim()).exists();
        assert!(!exists, "{shell:?}: the action goes on after its pod was thawed");
        assert_eq!(machine.notes("a"), "post\n");
        assert!(machine.notes("b").ends_with("post\n"));
    }
}

#[tokio::test]
async fn a_lock_that_is_never_held_is_an_error() {
    let machine = Machine::new(SHELLS[0]);
    let mut waits = pod("a", &["sleep 600; ${WAIT_CMD}"], &[]);
    waits.pre[0].action.timeout = Some(Span(300));
    let error = machine.freeze(vec![waits]).await.unwrap_err();
    assert!(error.to_string().contains("it did not hold in 300ms"), "{error}");
    let error = machine.freeze(vec![pod("b", &["exit 4; ${WAIT_CMD}"], &[])]).await.unwrap_err();
    assert!(error.to_string().contains("it ended with code 4 before it held"), "{error}");
}

#[tokio::test]
async fn what_is_dropped_lets_go_and_stays_recorded() {
    for shell in SHELLS {
        let machine = Machine::new(shell);
        drop(machine.freeze(vec![pod("a", &[LOCK], &[POST])]).await.unwrap());
        while machine.notes("a") != "lock\nunlock\n" {
            tokio::task::yield_now().await;
        }
        let left = Record::at(&machine.record()).read().await.unwrap();
        assert_eq!(left.len(), 1, "the post-actions wait");
        let [steps] = left.try_into().unwrap();
        let PodSteps { pre, post } = steps;
        let end = pod::thaw(&machine.start, pre, post, PodEnd::default()).await;
        assert!(end.failures.is_empty() && end.undone.is_empty(), "{end:?}");
        assert_eq!(machine.notes("a"), "lock\nunlock\npost\n", "{shell:?}");
    }
}

#[tokio::test]
async fn a_left_lock_is_ended_by_name() {
    for shell in SHELLS {
        let machine = Machine::new(shell);
        let steps = pod("a", &[LOCK], &[]);
        let held = steps.pre[0].clone();
        let frozen = machine.freeze(vec![steps]).await.unwrap();
        // Its owner still holds the stream, as one would that is cut off and not noticed.
        action::stop_left(&machine.start, &held).await.unwrap();
        assert_eq!(machine.notes("a"), "lock\nunlock\n", "{shell:?}");
        let error = frozen.thaw().await.unwrap_err();
        assert!(error.to_string().contains("let go before"), "{error}");
        // And one that is gone is no trouble.
        action::stop_left(&machine.start, &held).await.unwrap();
    }
}

#[tokio::test]
async fn what_is_not_heard_is_said_again() {
    let machine = Machine::new(SHELLS[0]);
    let frozen = machine.freeze(vec![pod("a", &[], &[POST])]).await.unwrap();
    machine.deaf.lock().unwrap().insert("a".to_owned(), 2);
    frozen.thaw().await.unwrap();
    assert_eq!(machine.notes("a"), "post\n");
}

#[tokio::test(start_paused = true)]
async fn what_is_never_heard_stays_recorded() {
    let machine = Machine::new(SHELLS[0]);
    let frozen = machine.freeze(vec![pod("a", &[], &[POST]), pod("b", &[], &[])]).await.unwrap();
    machine.deaf.lock().unwrap().insert("a".to_owned(), usize::MAX);
    let error = frozen.thaw().await.unwrap_err();
    assert!(error.to_string().contains("shop/a: the connection was lost"), "{error}");
    assert_eq!(error.class(), Class::Transient);
    let left = Record::at(&machine.record()).read().await.unwrap();
    assert_eq!(left.iter().map(|pod| pod.post[0].place.pod.as_str()).collect::<Vec<_>>(), ["a"]);
}

#[tokio::test]
async fn nothing_to_run_is_nothing_to_do() {
    let machine = Machine::new(SHELLS[0]);
    let frozen = machine.freeze(Vec::new()).await.unwrap();
    assert!(!machine.record().exists());
    let report = frozen.thaw().await.unwrap();
    assert_eq!(report.pods, 0);
}

#[tokio::test]
async fn a_damaged_record_is_not_taken_for_none() {
    let machine = Machine::new(SHELLS[0]);
    std::fs::write(machine.record(), "{").unwrap();
    let error = Record::at(&machine.record()).read().await.unwrap_err();
    assert_eq!(error.class(), Class::Corrupt);
    std::fs::write(machine.record(), r#"{"version": 2, "pods": []}"#).unwrap();
    let error = Record::at(&machine.record()).read().await.unwrap_err();
    assert!(error.to_string().contains("version: expected 1, found 2") && error.hint().is_some(), "{error}");
}

/// In a container whose first process never looks after children that are not its own, such as `sleep`.
#[test]
fn a_keeper_leaves_no_zombies() {
    let script = "unshare --pid --fork --mount-proc sleep 60 & outer=$!
        first= ; while [ -z \"$first\" ]; do first=$(cat /proc/$outer/task/$outer/children); done
        first=${first% }
        until [ \"$(cat /proc/$first/comm)\" = sleep ]; do :; done
        nsenter -t $first -p -m sh -c 'sleep 0.5 | sh \"$0\" \"$1\" 9 2 true' \"$0\" \"$1\" >&2
        for one in $(cat /proc/$first/task/$first/children); do
            while grep -q '^State:.[RSD]' /proc/$one/status 2>/dev/null; do :; done
        done
        for one in $(cat /proc/$first/task/$first/children); do cat /proc/$one/comm; done
        kill -9 $first";
    let keeper = concat!(env!("CARGO_MANIFEST_DIR"), "/src/cluster/freeze/keeper.sh");
    let may =
        std::process::Command::new("unshare").args(["--pid", "--fork", "--mount-proc", "true"]).output();
    if !may.is_ok_and(|may| may.status.success()) {
        eprintln!("skipped: process namespaces need root");
        return;
    }
    let name = format!("bs-zombies-{}", std::process::id());
    let ran = std::process::Command::new("sh").args(["-c", script, keeper, &name]).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    assert_eq!(String::from_utf8_lossy(&ran.stdout), "", "left to the first process");
}
