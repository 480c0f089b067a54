//! The image and the pod around it: versions, paths, settings, and the capabilities that the work takes.

use std::fs;

use backstay_tests::kube;
use backstay_tests::{Pair, Plan, Site, SiteOptions, assert_same, is_root, skip, tree};
use serde_json::Value;

use super::{documents, find, overlay_with, repository, text};

fn read(path: &str) -> String {
    let path = repository().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn one_version_everywhere() {
    let version = env!("CARGO_PKG_VERSION");
    let chart = &documents(&read("config/helm/backstay/Chart.yaml"))[0];
    assert_eq!((text(chart, "/version"), text(chart, "/appVersion")), (version, version));
    let base = &documents(&read("config/deploy/base/kustomization.yaml"))[0];
    assert_eq!(text(base, "/images/0/newTag"), version);
    let toolchain = read("rust-toolchain.toml");
    let channel = toolchain.split('"').nth(1).unwrap();
    let dockerfile = read("Dockerfile");
    assert!(
        dockerfile.contains(&format!("FROM rust:{channel}-slim-")),
        "the image is built with Rust {channel}"
    );
}

/// Everything that the image is built of exists and reaches the build.
#[test]
fn the_image_is_built_of_what_is_there() {
    let ignored = read(".dockerignore");
    let sent: Vec<_> = ignored.lines().filter_map(|line| line.strip_prefix('!')).collect();
    assert!(ignored.lines().any(|line| line == "*"), "what is not named is left out");
    let dockerfile = read("Dockerfile");
    let copies = dockerfile.lines().filter_map(|line| line.strip_prefix("COPY "));
    let mut copied = Vec::new();
    for words in copies.filter(|words| !words.starts_with("--from=")) {
        let words: Vec<_> = words.split(' ').collect();
        copied.extend_from_slice(words.split_last().unwrap().1);
    }
    for path in &copied {
        assert!(repository().join(path).exists(), "the Dockerfile copies {path}");
    }
    copied.sort_unstable();
    let mut sent = sent;
    sent.sort_unstable();
    assert_eq!(copied, sent, "what is copied is what is sent to the build");
    let manifest = read("Cargo.toml");
    for member in ["crates", "tests", "benches"] {
        assert!(manifest.contains(&format!("\"{member}")) && copied.contains(&member), "member {member}");
    }
    let stages = dockerfile.lines().filter_map(|line| line.strip_prefix("FROM "));
    for image in stages.map(|line| line.split(' ').next().unwrap()) {
        let tag = image.split_once(':').map(|(_, tag)| tag);
        assert!(tag.is_some_and(|tag| tag.starts_with(|c: char| c.is_ascii_digit())), "{image} is pinned");
    }
}

/// The settings of the pod are settings of the daemon.
#[test]
fn the_settings_are_known() {
    if !kube::can_run("deploy::image::the_settings_are_known") {
        return;
    }
    let rendered =
        overlay_with("both", &["admin"], &["BACKSTAY_NAME=west", "BACKSTAY_ADVERTISE=west.example.com:7443"]);
    let daemon = find(&rendered, "StatefulSet", "backstay")["spec"]["template"]["spec"].clone();
    let [init, container] = ["initContainers", "containers"].map(|list| daemon[list][0].clone());
    let map = rendered.iter().find(|one| text(one, "/kind") == "ConfigMap").unwrap();
    for container in [&init, &container] {
        assert_eq!(text(container, "/envFrom/0/configMapRef/name"), text(map, "/metadata/name"));
    }
    let name = text(&init, "/env/0/valueFrom/configMapKeyRef/name");
    assert_eq!(name, text(map, "/metadata/name"), "the name of the site is from there, too");

    let of_map = map["data"].as_object().unwrap().iter();
    let of_map = of_map.map(|(key, value)| (key.clone(), value.as_str().unwrap().to_owned()));
    let of_container = container["env"].as_array().unwrap().iter();
    let of_container = of_container.map(|one| (text(one, "/name").to_owned(), value_in_a_pod(one)));
    let environment: Vec<_> = of_map.chain(of_container).collect();

    let site = Site::init("west", SiteOptions::default());
    let mut print = site.command(["serve", "--print-config"]);
    let output = print.envs(environment.iter().cloned()).output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for value in ["\"json\"", "west.example.com:7443", "0.0.0.0:7444", "/etc/backstay/token"] {
        assert!(printed.contains(value), "{value} is not in effect:\n{printed}");
    }
    let mut wrong = site.command(["serve", "--print-config"]);
    let refused = wrong.env("BACKSTAY_LOG_FORMATS", "json").output().unwrap();
    assert!(!refused.status.success(), "a setting that is not known is refused");

    // What runs is what the image has, in the folder that is mounted.
    let dockerfile = read("Dockerfile");
    assert!(dockerfile.contains("ENTRYPOINT [\"backstay\"]"));
    let folder = text(map, "/data/BACKSTAY_SITE");
    assert_eq!(
        (text(&container, "/volumeMounts/0/mountPath"), text(&daemon, "/volumes/0/hostPath/path")),
        (folder, folder)
    );
}

/// What a field of the pod would be.
fn value_in_a_pod(variable: &Value) -> String {
    match text(variable, "/valueFrom/fieldRef/fieldPath") {
        "" => text(variable, "/value").to_owned(),
        "spec.nodeName" => "node-1".to_owned(),
        other => panic!("{other}: no such field is expected"),
    }
}

/// With the capabilities of the pods, and no other, a tree of everything that is hard to copy arrives in full, but for
/// `trusted.*` attributes, which the kernel shows to nobody without SYS_ADMIN.
#[test]
fn the_capabilities_are_enough() {
    let test = "deploy::image::the_capabilities_are_enough";
    if !kube::can_run(test) {
        return;
    }
    if !is_root() {
        return skip(test, "capabilities are taken from root");
    }
    let [east, west] =
        ["sender", "receiver"].map(|role| SiteOptions { wrapper: confined(role), ..Default::default() });
    let mut pair = Pair::with(east, west);
    let source = pair.source("source");
    tree::nasty(&source, 1);
    rustix::fs::removexattr(source.join("attributes/with-xattrs"), "trusted.note").unwrap();
    pair.east.apply(&Plan::new("shop").volume("data", &source).yaml()).ok();
    let point = pair.east.sync("shop");
    assert_eq!(point["complete"], true, "{point}");
    pair.take_over("shop");
    assert_same(&source, &pair.west.replica("shop", "data"));
}

/// A command that takes all other capabilities away, as the kubelet does.
fn confined(role: &str) -> Vec<String> {
    let rendered = overlay_with(role, &[], &["BACKSTAY_NAME=west"]);
    let context = &find(&rendered, "StatefulSet", "backstay")["spec"]["template"]["spec"]["containers"][0]["securityContext"];
    assert_eq!(context["capabilities"]["drop"], serde_json::json!(["ALL"]));
    assert_eq!(
        (&context["privileged"], &context["allowPrivilegeEscalation"]),
        (&false.into(), &false.into())
    );
    let kept = context["capabilities"]["add"].as_array().unwrap().iter();
    let kept: String = kept.map(|one| format!(",+{}", one.as_str().unwrap().to_lowercase())).collect();
    ["setpriv", "--no-new-privs", &format!("--bounding-set=-all{kept}"), "--inh-caps=-all"]
        .map(str::to_owned)
        .to_vec()
}
