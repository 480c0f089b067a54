use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use backstay_types::PlanName;
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::{HoldTable, ObjectId, canonical, hold};

const SHOP: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop, labels: {app: web}}
spec:
  replicas: 3
  template:
    spec:
      containers: [{name: web, image: "web:1", args: ["--mode=0644", "on"]}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, namespace: shop}
spec: {serviceName: db}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent, namespace: shop}
spec: {template: {spec: {}}}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: nightly, namespace: shop}
spec: {suspend: true, schedule: "0 2 * * *"}
---
apiVersion: v1
kind: Pod
metadata: {name: tool, namespace: shop}
spec: {containers: [{name: tool, image: tool}]}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: guard}
webhooks: []
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: shop}
data:
  script: |
    #!/bin/sh
    echo "hello: $1"
  empty: ""
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data, namespace: shop}
spec: {storageClassName: fast}
"#;

struct Site {
    _root: TempDir,
    source: PathBuf,
    standby: PathBuf,
    plan: PlanName,
}

impl Site {
    fn new(files: &[(&str, &str)]) -> Self {
        let root = TempDir::new().unwrap();
        let (source, standby) = (root.path().join("source"), root.path().join("standby"));
        fs::create_dir(&source).unwrap();
        let site = Self { _root: root, source, standby, plan: "shop".parse().unwrap() };
        files.iter().for_each(|(name, text)| site.put(name, text));
        site
    }

    fn put(&self, name: &str, text: &str) {
        let path = self.source.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn capture(&self) -> Vec<CapturedObject> {
        capture(&self.source).unwrap()
    }

    fn apply(&self, objects: &[CapturedObject], point: &str) -> ApplyReport {
        self.apply_with(objects, point, false)
    }

    fn apply_with(&self, objects: &[CapturedObject], point: &str, start_applications: bool) -> ApplyReport {
        let restore_point = point.parse().unwrap();
        let options = ApplyOptions {
            plan: &self.plan,
            restore_point,
            holds: &[],
            start_applications,
            purge_all: false,
        };
        apply_held(&self.standby, objects, &options).unwrap()
    }

    /// Every file of the standby, with its text.
    fn files(&self) -> BTreeMap<PathBuf, String> {
        let mut files = BTreeMap::new();
        let mut folders = vec![self.standby.clone()];
        while let Some(folder) = folders.pop() {
            for path in layout::list(&folder).unwrap() {
                if path.is_dir() {
                    folders.push(path);
                } else {
                    files.insert(path.clone(), fs::read_to_string(path).unwrap());
                }
            }
        }
        files
    }

    fn restore(&self, files: &BTreeMap<PathBuf, String>) {
        if self.standby.exists() {
            fs::remove_dir_all(&self.standby).unwrap();
        }
        for (path, text) in files {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    /// What `kubectl apply -R -f` would send to a cluster.
    fn applied(&self) -> Vec<Value> {
        let is_read = |path: &&PathBuf| path.extension().is_some_and(|extension| extension == "yaml");
        let files = self.files();
        files.keys().filter(is_read).map(|path| layout::read_object(path).unwrap()).collect()
    }

    fn assert_nothing_runs(&self) {
        for object in self.applied() {
            let id = ObjectId::of(&object).unwrap();
            assert!(!HoldTable::default().defers(&id.kind), "{id} is there before promotion");
            let mut again = object.clone();
            if HoldTable::default().hold(&mut again).unwrap() {
                assert_eq!(again, object, "{id} is held");
            }
        }
    }
}

fn bundle_of(objects: &[Value]) -> BTreeMap<String, Vec<u8>> {
    let key = |object: &Value| {
        ObjectId::of(object).unwrap().key(&crate::object::Scopes::default()).unwrap().to_string()
    };
    objects.iter().map(|object| (key(object), canonical::to_bytes(object))).collect()
}

fn as_map(objects: &[CapturedObject]) -> BTreeMap<String, Vec<u8>> {
    objects.iter().map(|object| (object.key.to_string(), object.bytes.clone())).collect()
}

#[test]
fn what_would_run_is_held_or_deferred() {
    let site = Site::new(&[("all.yaml", SHOP)]);
    let report = site.apply(&site.capture(), "e1-000001");
    assert_eq!((report.created, report.held, report.deferred), (9, 4, 2));
    assert_eq!(report.failures, Failures::default());
    site.assert_nothing_runs();
    let web = layout::read_object(&site.standby.join("shop/Deployment.apps_web.yaml")).unwrap();
    assert_eq!(web["spec"]["replicas"], json!(0));
    assert_eq!(web["metadata"]["labels"], json!({"app": "web", "backstay.dev/plan": "shop"}));
    assert_eq!(web["metadata"]["annotations"]["backstay.dev/restore-point"], json!("e1-000001"));
    assert!(site.standby.join("_deferred/shop/Pod_tool.yaml.deferred").is_file());
    let mode = fs::metadata(site.standby.join("shop/ConfigMap_settings.yaml")).unwrap().mode();
    assert_eq!(mode & 0o777, 0o600);
    let states: Vec<_> = objects(&site.standby).unwrap().into_iter().map(|object| object.state).collect();
    assert_eq!(states.iter().filter(|state| **state == State::Deferred).count(), 2);
    assert_eq!(states.iter().filter(|state| **state == State::Held).count(), 4);
}

#[test]
fn promotion_gives_the_captured_objects_back() {
    let site = Site::new(&[("all.yaml", SHOP)]);
    let captured = site.capture();
    site.apply(&captured, "e1-000001");
    let waves = release_plan(&site.standby, &site.plan).unwrap().waves;
    assert_eq!(waves.iter().map(|wave| wave.number).collect::<Vec<_>>(), [0, 10, 20, 30, 50]);
    assert_eq!(waves[1].to_string(), "wave 10: 1 objects (shop/apps_StatefulSet/db)");
    let report = release(&site.standby, &site.plan).unwrap();
    assert_eq!((report.released, report.created, report.already), (7, 2, 0));
    assert_eq!(report.failures, Failures::default());
    assert_eq!(bundle_of(&site.applied()), as_map(&captured));
    // The promoted folder, captured in its turn, is the same bundle.
    assert_eq!(capture(&site.standby).unwrap(), captured);
    let before = site.files();
    let again = release(&site.standby, &site.plan).unwrap();
    assert_eq!((again.released, again.created, again.already), (0, 0, 9));
    assert_eq!(site.files(), before);
    // Failback: the same folder is held again.
    assert_eq!(site.apply(&captured, "e2-000002").held, 4);
    site.assert_nothing_runs();
}

#[test]
fn started_applications_are_not_held() {
    let site = Site::new(&[("all.yaml", SHOP)]);
    let captured = site.capture();
    let report = site.apply_with(&captured, "e1-000001", true);
    assert_eq!((report.held, report.deferred), (0, 0));
    assert!(site.applied().iter().all(|object| !hold::is_held(object)));
    assert!(site.standby.join("shop/Pod_tool.yaml").is_file());
    // Held after all: what ran moves away.
    let report = site.apply(&captured, "e1-000002");
    assert_eq!((report.held, report.deferred, report.removed), (4, 2, 0));
    site.assert_nothing_runs();
    release(&site.standby, &site.plan).unwrap();
    assert_eq!(bundle_of(&site.applied()), as_map(&captured));
}

#[test]
fn an_unchanged_cycle_writes_nothing() {
    let site = Site::new(&[("all.yaml", SHOP)]);
    site.apply(&site.capture(), "e1-000001");
    let stamps = |site: &Site| -> Vec<_> {
        site.files()
            .keys()
            .map(|path| fs::metadata(path).map(|meta| (meta.ino(), meta.mtime_nsec())).unwrap())
            .collect()
    };
    let (before, files) = (stamps(&site), site.files());
    let report = site.apply(&site.capture(), "e1-000002");
    assert_eq!((report.created, report.changed, report.unchanged), (0, 0, 9));
    assert_eq!((stamps(&site), site.files()), (before, files));
    // One changed object is one changed file.
    site.put("all.yaml", &SHOP.replace("replicas: 3", "replicas: 5"));
    let report = site.apply(&site.capture(), "e1-000003");
    assert_eq!((report.created, report.changed, report.unchanged), (0, 1, 8));
    // An edit by somebody else is put right.
    let web = site.standby.join("shop/Deployment.apps_web.yaml");
    fs::write(&web, fs::read_to_string(&web).unwrap().replace("replicas: 0", "replicas: 4")).unwrap();
    assert_eq!(site.apply(&site.capture(), "e1-000004").changed, 1);
    site.assert_nothing_runs();
    release(&site.standby, &site.plan).unwrap();
    assert_eq!(layout::read_object(&web).unwrap()["spec"]["replicas"], json!(5));
}

#[test]
fn what_is_gone_at_the_source_goes_but_not_what_holds_data() {
    let site = Site::new(&[("all.yaml", SHOP)]);
    site.apply(&site.capture(), "e1-000001");
    let report = site.apply(&[], "e1-000002");
    assert_eq!((report.removed, report.kept), (7, 2));
    assert_eq!(site.files().len(), 2);
    assert!(!site.standby.join("_deferred/shop").exists());
    let options = ApplyOptions {
        plan: &site.plan,
        restore_point: "e1-000003".parse().unwrap(),
        holds: &[],
        start_applications: false,
        purge_all: true,
    };
    assert_eq!(apply_held(&site.standby, &[], &options).unwrap().removed, 2);
    assert_eq!(site.files().len(), 0);
}

#[test]
fn a_foreign_file_is_left_alone() {
    let site = Site::new(&[("all.yaml", SHOP)]);
    let foreign = site.standby.join("shop/Deployment.apps_web.yaml");
    fs::create_dir_all(foreign.parent().unwrap()).unwrap();
    fs::write(&foreign, "kind: mine\n").unwrap();
    fs::write(site.standby.join("shop/notes.txt"), "mine").unwrap();
    let report = site.apply(&site.capture(), "e1-000001");
    assert_eq!((report.created, report.failures.count), (8, 1));
    assert_eq!(report.failures.named[0].key, "shop/apps_Deployment/web");
    assert!(report.failures.named[0].hint.as_ref().unwrap().contains("move"));
    site.apply(&[], "e1-000002");
    assert_eq!(fs::read_to_string(&foreign).unwrap(), "kind: mine\n");
    assert!(site.standby.join("shop/notes.txt").exists());
    // Nor is another plan's.
    let other = Site { plan: "bank".parse().unwrap(), ..Site::new(&[("all.yaml", SHOP)]) };
    let captured = other.capture();
    other.apply(&captured, "e1-000001");
    let mine = Site { plan: "shop".parse().unwrap(), ..other };
    let before = mine.files();
    assert_eq!(mine.apply(&captured, "e1-000001").failures.count, 9);
    assert_eq!(release(&mine.standby, &mine.plan).unwrap(), ReleaseReport::default());
    assert_eq!(mine.files(), before);
}

#[test]
fn one_failure_does_not_stop_the_others() {
    let site = Site::new(&[("all.yaml", SHOP)]);
    site.apply(&site.capture(), "e1-000001");
    let good = site.files();
    site.put("all.yaml", &SHOP.replace("spec: {serviceName: db}", "spec: broken"));
    let mut captured = site.capture();
    captured.push(CapturedObject { key: RelPath::parse(b"shop/_Secret/x").unwrap(), bytes: b"{".to_vec() });
    let moved = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "y", "namespace": "bank"}});
    let bytes = canonical::to_bytes(&moved);
    captured.push(CapturedObject { key: RelPath::parse(b"shop/_Secret/y").unwrap(), bytes });
    let report = site.apply(&captured, "e1-000002");
    assert_eq!((report.unchanged, report.failures.count), (8, 3));
    let failed: Vec<_> =
        report.failures.named.iter().map(|failure| (failure.key.as_str(), failure.class)).collect();
    assert_eq!(
        failed,
        [
            ("shop/apps_StatefulSet/db", Class::Invalid),
            ("shop/_Secret/x", Class::Corrupt),
            ("shop/_Secret/y", Class::Corrupt)
        ]
    );
    assert_eq!(site.files(), good, "the last good file of each stays");
    // A damaged file is named at release, and the rest is released.
    let db = site.standby.join("shop/StatefulSet.apps_db.yaml");
    fs::write(&db, good[&db].replace("\\\"v\\\":1", "\\\"v\\\":9")).unwrap();
    let report = release(&site.standby, &site.plan).unwrap();
    assert_eq!((report.released + report.created, report.failures.count), (8, 1));
    assert_eq!(report.failures.named[0].class, Class::Corrupt);
    site.put("all.yaml", SHOP);
    assert_eq!(site.apply(&site.capture(), "e1-000003").failures.count, 0, "and healed by the next cycle");
}

/// Every mix of old and new files that renames and removals in any order can leave, with a temporary file.
fn crash_states(
    before: &BTreeMap<PathBuf, String>,
    after: &BTreeMap<PathBuf, String>,
) -> Vec<BTreeMap<PathBuf, String>> {
    let changed: Vec<_> = after.iter().filter(|(path, text)| before.get(*path) != Some(text)).collect();
    let gone: Vec<_> = before.keys().filter(|path| !after.contains_key(*path)).collect();
    let mut states = Vec::new();
    for renamed in 0..=changed.len() {
        let mut state = before.clone();
        state.extend(changed.iter().take(renamed).map(|(path, text)| ((*path).clone(), (*text).clone())));
        let leftover = changed.get(renamed).map(|(path, text)| {
            (
                path.with_file_name(".backstay-7.tmp"),
                text.get(..text.len() / 2).unwrap_or_default().to_owned(),
            )
        });
        state.extend(leftover);
        states.push(state);
    }
    let mut state: BTreeMap<_, _> = states.last().cloned().unwrap_or_default();
    for path in gone {
        state.remove(path);
        states.push(state.clone());
    }
    states
}

#[test]
fn a_crash_between_any_two_steps_is_healed_by_the_next_run() {
    let site = Site::new(&[("all.yaml", SHOP)]);
    let first = site.capture();
    site.apply(&first, "e1-000001");
    let before = site.files();
    site.put(
        "all.yaml",
        &SHOP
            .replace("replicas: 3", "replicas: 5")
            .replace("name: settings", "name: other")
            .replace("suspend: true", "suspend: false"),
    );
    let second = site.capture();
    site.apply(&second, "e1-000002");
    let after = site.files();
    for state in crash_states(&BTreeMap::new(), &before).into_iter().chain(crash_states(&before, &after)) {
        site.restore(&state);
        site.assert_nothing_runs();
        assert_eq!(site.apply(&second, "e1-000002").failures.count, 0);
        assert_eq!(bundle_of(&site.applied()).len(), 7);
        site.assert_nothing_runs();
        assert!(!site.files().keys().any(|path| path.to_string_lossy().contains(".backstay-")));
    }
    site.restore(&after);
    release(&site.standby, &site.plan).unwrap();
    let promoted = site.files();
    for state in crash_states(&after, &promoted) {
        site.restore(&state);
        assert_eq!(release(&site.standby, &site.plan).unwrap().failures.count, 0);
        assert_eq!(site.files(), promoted);
    }
}

#[test]
fn many_objects_are_written_with_one_sync_of_the_file_system() {
    let config =
        |at: usize| format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: c{at}, namespace: shop}}\n");
    let many: Vec<String> = (0..300).map(config).collect();
    let site = Site::new(&[("many.yaml", &many.join("---\n"))]);
    assert_eq!(site.apply(&site.capture(), "e1-000001").created, 300);
    assert_eq!(site.apply(&site.capture(), "e1-000002").unchanged, 300);
    assert_eq!(release(&site.standby, &site.plan).unwrap().released, 300);
}

#[test]
fn names_that_are_long_or_alike_have_files_of_their_own() {
    let long = "a".repeat(253);
    let object = |api: &str, kind: &str, name: &str| {
        format!("---\napiVersion: {api}\nkind: {kind}\nmetadata: {{name: {name:?}, namespace: shop}}\n")
    };
    let text = [
        object("long.group.example.com/v1", "Thing", &long),
        object("long.group.example.com/v1", "Thing", &format!("{}b", &long[1..])),
        object("a.b-c.io/v1", "Thing", "d"),
        object("a.b/v1", "Thing", "c.io_d"),
        object("rbac.authorization.k8s.io/v1", "Role", "team:read_all"),
    ];
    let site = Site::new(&[("all.yaml", &text.concat())]);
    let captured = site.capture();
    assert_eq!(site.apply(&captured, "e1-000001").created, 5);
    assert_eq!(site.applied().len(), 5);
    release(&site.standby, &site.plan).unwrap();
    assert_eq!(bundle_of(&site.applied()).len(), 5);
}

#[test]
fn capture_reads_folders_lists_and_json_in_key_order() {
    let list = r#"{"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "b", "namespace": "shop", "uid": "1"}, "status": {}},
        {"apiVersion": "v1", "kind": "ConfigMapList", "items": [{"metadata": {"name": "a", "namespace": "shop"}}]}]}"#;
    let site = Site::new(&[
        ("list.json", list),
        ("deep/er/x.yml", "apiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: shop}\n"),
        ("deep/.hidden/x.yaml", "not: an object"),
        (".git/x.yaml", "not: an object"),
        ("readme.md", "not yaml: ["),
        ("skipped.yaml", "apiVersion: v1\nkind: Event\nmetadata: {name: e}\n"),
        ("empty.yaml", "# nothing\n---\n---\n"),
        (
            "kustomization.yaml",
            "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [list.json]\n",
        ),
    ]);
    symlink(site.source.join("list.json"), site.source.join("again.json")).unwrap();
    symlink(site.source.join("deep"), site.source.join("linked")).unwrap();
    let keys: Vec<_> = site.capture().iter().map(|object| object.key.to_string()).collect();
    assert_eq!(keys, ["shop/_ConfigMap/a", "shop/_Secret/b", "shop/_Service/s"]);
    let secret = &site.capture()[1].bytes;
    assert_eq!(secret, br#"{"apiVersion":"v1","kind":"Secret","metadata":{"name":"b","namespace":"shop"}}"#);
}

/// A token that somebody asked for is mounted by name: the Secret comes, and the other cluster fills it.
#[test]
fn a_token_that_was_asked_for_comes_without_its_content() {
    let secret = "apiVersion: v1\nkind: Secret\nmetadata:\n  name: app-user-token\n  namespace: shop\n  \
        annotations: {kubernetes.io/service-account.name: app, kubernetes.io/service-account.uid: u1}\n\
        type: kubernetes.io/service-account-token\ndata: {token: dA==, ca.crt: Yw==, namespace: bg==, extra: ZQ==}\n";
    let site = Site::new(&[("token.yaml", secret)]);
    let captured = site.capture();
    let object: serde_json::Value = serde_json::from_slice(&captured[0].bytes).unwrap();
    assert_eq!(object["data"], json!({"extra": "ZQ=="}));
    assert_eq!(object["metadata"]["annotations"], json!({"kubernetes.io/service-account.name": "app"}));
}

#[test]
fn capture_refuses_what_it_cannot_keep_whole() {
    let error = |files: &[(&str, &str)]| capture(&Site::new(files).source).unwrap_err();
    let object = "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\n";
    let twice = error(&[("one.yaml", object), ("two.yaml", object)]);
    let text = twice.to_string();
    assert!(
        text.contains("one.yaml") && text.contains("two.yaml") && text.contains("default/_Secret/a"),
        "{text}"
    );
    let two_versions = "apiVersion: apps/v1beta1\nkind: Deployment\nmetadata: {name: a}\n";
    let both = format!("{two_versions}---\n{}", two_versions.replace("v1beta1", "v1"));
    assert!(matches!(error(&[("one.yaml", &both)]), CaptureError::Twice { .. }));
    let generated = error(&[("x.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {generateName: run-}\n")]);
    assert!(
        generated.to_string().contains("x.yaml\", object 1: Pod has `generateName: run-`"),
        "{generated}"
    );
    assert!(generated.hint().is_some());
    let syntax = error(&[("x.yaml", "apiVersion: v1\nkind: Secret\ndata: {password: hunter2\n")]);
    assert!(
        matches!(syntax, CaptureError::Syntax { .. }) && !syntax.to_string().contains("hunter2"),
        "{syntax}"
    );
    let json = error(&[("x.json", "{\"data\": \"hunter2\"")]);
    assert!(matches!(json, CaptureError::Syntax { .. }) && !json.to_string().contains("hunter2"), "{json}");
    assert!(matches!(error(&[("values.yaml", "replicaCount: 3\n")]), CaptureError::Object { .. }));
    let big = format!("{object}data: {{x: {}}}\n", "y".repeat(OBJECT_BYTES_MAX));
    assert_eq!(error(&[("x.yaml", &big)]).class(), Class::LimitExceeded);

    let site = Site::new(&[("ok.yaml", object)]);
    symlink("/etc", site.source.join("etc")).unwrap();
    assert!(matches!(capture(&site.source).unwrap_err(), CaptureError::LinkOutside { .. }));
    fs::remove_file(site.source.join("etc")).unwrap();
    symlink("/etc/hostname", site.source.join("x.yaml")).unwrap();
    assert!(matches!(capture(&site.source).unwrap_err(), CaptureError::LinkOutside { .. }));
    assert_eq!(capture(&site.source.join("none")).unwrap_err().class(), Class::NotFound);
}

#[test]
fn a_folder_stands_still_and_goes_on_as_it_was() {
    let site = Site::new(&[("all.yaml", SHOP), ("more/notes.yaml", NOTES), ("README", "not a manifest")]);
    let plan: PlanName = "shop".parse().unwrap();
    let options = ApplyOptions {
        plan: &plan,
        restore_point: "e1-000001".parse().unwrap(),
        holds: &[],
        start_applications: false,
        purge_all: false,
    };
    let epoch = backstay_types::Epoch(1);
    let before = files_of(&site.source);
    let captured = capture(&site.source).unwrap();
    for _again in 0..2 {
        stand_still(&site.source, epoch, &captured, &options).unwrap();
        let web = objects(&site.source).unwrap();
        let web = web.iter().find(|object| object.key.to_string().ends_with("apps_Deployment/web")).unwrap();
        assert_eq!((web.state, web.object.pointer("/spec/replicas")), (State::Held, Some(&json!(0))));
        assert!(!site.source.join("all.yaml").exists() && !site.source.join("more/notes.yaml").exists());
    }
    let_go(&site.source, epoch, &plan).unwrap();
    let after = files_of(&site.source);
    assert_eq!(before, after, "every file is back, and nothing else");

    // What was released here, and is ours, is held and released as well.
    stand_still(&site.source, epoch, &captured, &options).unwrap();
    release(&site.source, &plan).unwrap();
    fs::write(site.source.join("new.yaml"), NOTES.replace("notes", "new")).unwrap();
    let mixed = capture(&site.source).unwrap();
    let ran = files_of(&site.source);
    stand_still(&site.source, backstay_types::Epoch(2), &mixed, &options).unwrap();
    let_go(&site.source, backstay_types::Epoch(2), &plan).unwrap();
    assert_eq!(files_of(&site.source), ran);
    assert_eq!(capture(&site.source).unwrap(), mixed);
}

const NOTES: &str = "# kept\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: notes, namespace: shop}\n";

/// Every file below a folder, with its content.
fn files_of(dir: &Path) -> BTreeMap<PathBuf, String> {
    let (mut files, mut folders) = (BTreeMap::new(), vec![dir.to_owned()]);
    while let Some(folder) = folders.pop() {
        for path in layout::list(&folder).unwrap() {
            if path.is_dir() {
                folders.push(path);
            } else {
                files.insert(path.clone(), fs::read_to_string(path).unwrap());
            }
        }
    }
    files
}
