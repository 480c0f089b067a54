//! Rendered: the chart and the overlays agree, and a real API server takes both, and the samples.

use std::collections::BTreeMap;

use backstay_tests::kube::{self, ControlPlane, ControlPlaneOptions};
use serde_json::{Value, json};

use super::{
    NAMESPACE, ROLES, chart, documents, find, helm_template, in_one, name_of, overlay, overlay_with,
};
use super::{install, repository, text};

/// Ways to install that exist on both sides: components and settings of kustomize, values of the chart.
const VARIANTS: [(&[&str], &[&str], &[&str]); 3] = [
    (&[], &[], &[]),
    (
        &["node-port"],
        &["BACKSTAY_ADVERTISE=a.example.com:30743,10.0.0.1:30743"],
        &[
            "service={\"type\": \"NodePort\", \"nodePort\": 30743}",
            "site.advertise=[\"a.example.com:30743\", \"10.0.0.1:30743\"]",
        ],
    ),
    (
        &["admin"],
        &["BACKSTAY_LIMITS_BANDWIDTH=50Mbit/s"],
        &["admin.tokenSecret=\"backstay-admin\"", "settings.BACKSTAY_LIMITS_BANDWIDTH=\"50Mbit/s\""],
    ),
];

/// Without what only one of the tools adds.
fn comparable(documents: Vec<Value>) -> BTreeMap<String, Value> {
    let text = in_one(documents.iter().filter(|one| text(one, "/kind") != "Namespace"));
    // kustomize tells versions of a ConfigMap apart by a hash in its name, which restarts the daemon as the chart's
    // checksum does.
    let hashed = documents.iter().find(|one| super::text(one, "/kind") == "ConfigMap");
    let hashed = super::text(hashed.unwrap(), "/metadata/name").to_owned();
    let text = text.replace(&format!("\"{hashed}\""), "\"backstay\"");
    let mut found = BTreeMap::new();
    for mut document in super::documents(&text) {
        let is_definition = super::text(&document, "/kind") == "CustomResourceDefinition";
        let metadata = document["metadata"].as_object_mut().unwrap();
        match metadata.get_mut("labels").and_then(Value::as_object_mut) {
            Some(_) if is_definition => drop(metadata.remove("labels")),
            Some(labels) => {
                labels.retain(|label, _| {
                    !["app.kubernetes.io/managed-by", "helm.sh/chart"].contains(&label.as_str())
                });
            }
            None => {}
        }
        if let Some(template) = document.pointer_mut("/spec/template") {
            template["metadata"].as_object_mut().unwrap().remove("annotations");
            for list in ["initContainers", "containers"] {
                for container in template["spec"][list].as_array_mut().unwrap() {
                    container.as_object_mut().unwrap().remove("imagePullPolicy");
                }
            }
        }
        found.insert(name_of(&document), document);
    }
    found
}

#[test]
fn the_chart_and_the_overlays_are_the_same() {
    if !kube::can_deploy("deploy::render::the_chart_and_the_overlays_are_the_same") {
        return;
    }
    for role in ROLES {
        for (components, settings, values) in VARIANTS {
            let settings = [&["BACKSTAY_NAME=east"], settings].concat();
            let by_kustomize = comparable(overlay_with(role, components, &settings));
            let role_value = format!("role=\"{role}\"");
            let values = [&["site.name=\"east\"", &role_value], values].concat();
            let by_helm = comparable(chart(&values));
            let names = |all: &BTreeMap<String, Value>| all.keys().cloned().collect::<Vec<_>>();
            assert_eq!(names(&by_helm), names(&by_kustomize), "{role} {components:?}");
            for (name, document) in &by_kustomize {
                assert_eq!(&by_helm[name], document, "{role} {components:?}: {name}");
            }
            assert!(by_helm.len() >= 15, "{:?}", by_helm.keys());
        }
    }
}

/// Every document of a text passes all checks of the API server; none is kept.
#[track_caller]
fn accepted(plane: &ControlPlane, what: &str, documents: &[Value]) {
    let output = dry_run(plane, documents.iter()).ok();
    assert_eq!(output.stdout.lines().count(), documents.len(), "{what}: {output}");
    assert_eq!(output.stderr, "", "{what}: no warnings");
}

fn dry_run<'v>(plane: &ControlPlane, documents: impl Iterator<Item = &'v Value>) -> backstay_tests::Output {
    let file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
    std::fs::write(file.path(), in_one(documents)).unwrap();
    let path = file.path().to_str().unwrap();
    plane.cluster().kubectl(["apply", "--server-side", "--dry-run=server", "-o", "name", "-f", path])
}

/// A control plane with Backstay's namespace, account and definitions.
fn prepared(name: &str) -> ControlPlane {
    let plane = ControlPlane::start(name, ControlPlaneOptions::default());
    install(&plane, &overlay("both"), &["Namespace", "ServiceAccount", "CustomResourceDefinition"]);
    plane
}

#[test]
fn everything_is_accepted() {
    if !kube::can_deploy("deploy::render::everything_is_accepted") {
        return;
    }
    let plane = prepared("deploy");
    for role in ROLES {
        accepted(&plane, role, &overlay(role));
        for (components, settings, values) in VARIANTS {
            let rendered = overlay_with(role, components, &[&["BACKSTAY_NAME=east"], settings].concat());
            accepted(&plane, &format!("{role} {components:?}"), &rendered);
            let role_value = format!("role=\"{role}\"");
            let rendered = chart(&[&["site.name=\"east\"", &role_value], values].concat());
            accepted(&plane, &format!("{role} {values:?}"), &rendered);
        }
    }
    let rendered = chart(&[
        "site={\"name\": \"east\", \"advertise\": [\"[2001:db8::1]:7443\"]}",
        "storage.path=\"/data/backstay\"",
        "hostPaths=[\"/srv\", \"/mnt/disks\"]",
        "service={\"type\": \"ClusterIP\"}",
        "rbac={\"exec\": false, \"escalate\": false, \"kinds\": [{\"apiGroups\": [\"apps\"], \"resources\": [\"deployments\"]}]}",
        "tolerations=[{\"operator\": \"Exists\"}]",
        "priorityClassName=\"system-cluster-critical\"",
        "image={\"tag\": \"1\", \"pullSecrets\": [{\"name\": \"registry\"}]}",
        "extraCapabilities=[\"SYS_ADMIN\"]",
        "podAnnotations={\"example.org/a\": \"b\"}",
        "extraVolumes=[{\"name\": \"disk\", \"hostPath\": {\"path\": \"/mnt/shop\"}}]",
        "extraVolumeMounts=[{\"name\": \"disk\", \"mountPath\": \"/mnt/shop\"}]",
    ]);
    accepted(&plane, "all values", &rendered);
    let daemon = &find(&rendered, "StatefulSet", "backstay")["spec"]["template"]["spec"];
    let mounts = daemon["containers"][0]["volumeMounts"].as_array().unwrap();
    let paths: Vec<_> = mounts.iter().map(|mount| text(mount, "/mountPath")).collect();
    assert_eq!(paths, ["/data/backstay", "/host/srv", "/host/mnt/disks", "/mnt/shop"]);
    assert!(mounts.iter().all(|mount| mount["readOnly"] != true), "{mounts:?}");
    for (role, path, is_read_only) in [("sender", "/srv", true), ("both", "/srv", false), ("both", "/", true)]
    {
        let rendered =
            chart(&["site.name=\"east\"", &format!("role={role:?}"), &format!("hostPaths=[{path:?}]")]);
        let daemon = &find(&rendered, "StatefulSet", "backstay")["spec"]["template"]["spec"];
        let mount = &daemon["containers"][0]["volumeMounts"][1];
        assert_eq!(mount["readOnly"], is_read_only, "{role} {path}: {mount}");
    }

    let more = chart(&["site.name=\"east\"", "rbac.create=false"]);
    assert!(!more.iter().any(|one| text(one, "/kind").contains("Role")), "roles are the operator's");
}

/// The samples are plans of a cluster as much as of the command line.
#[test]
fn the_samples_are_accepted() {
    if !kube::can_deploy("deploy::render::the_samples_are_accepted") {
        return;
    }
    let plane = prepared("samples");
    let mut all = 0;
    for entry in std::fs::read_dir(repository().join("config/samples")).unwrap() {
        let path = entry.unwrap().path();
        let found = documents(&std::fs::read_to_string(&path).unwrap());
        accepted(&plane, &path.display().to_string(), &found);
        all += found.len();
    }
    assert!(all >= 4, "{all} samples");

    let typo = json!({"apiVersion": "backstay.dev/v1alpha1", "kind": "ReplicationPlan",
        "metadata": {"name": "shop", "namespace": "default"}, "spec": {"pair": "west", "namespace": ["shop"]}});
    let output = dry_run(&plane, [&typo].into_iter());
    assert!(output.code != 0 && output.stderr.contains(".spec.namespace"), "{output}");
}

/// What the chart is not told, or told wrongly, is refused before anything is installed.
#[test]
fn wrong_values_are_refused() {
    if !kube::can_deploy("deploy::render::wrong_values_are_refused") {
        return;
    }
    for (values, words) in [
        (&[][..], "the name of this site is needed"),
        (&["site.name=\"East!\""], "/site/name"),
        (&["site.nme=\"east\""], "nme"),
        (&["site.name=\"east\"", "role=\"all\""], "/role"),
        (&["site.name=\"east\"", "nodeSelector=null"], "nodeSelector"),
        (&["site.name=\"east\"", "settings={\"LIMITS_BANDWIDTH\": \"1MB/s\"}"], "LIMITS_BANDWIDTH"),
        (&["site.name=\"east\"", "storage.path=\"/\""], "/storage/path"),
    ] {
        let output = helm_template(values);
        assert!(output.code != 0 && output.stderr.contains(words), "{values:?}: {output}");
    }
}

/// The namespace's label is needed, and for nothing but the folders of the node.
#[test]
fn the_pod_needs_folders_of_its_node_and_nothing_else() {
    if !kube::can_deploy("deploy::render::the_pod_needs_folders_of_its_node_and_nothing_else") {
        return;
    }
    let plane = prepared("pods");
    plane.cluster().apply_yaml(
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: base, labels: {pod-security.kubernetes.io/enforce: baseline}}\n\
         ---\napiVersion: v1\nkind: ServiceAccount\nmetadata: {name: backstay, namespace: base}\n",
    );
    for role in ROLES {
        let rendered = overlay(role);
        let template = &find(&rendered, "StatefulSet", "backstay")["spec"]["template"];
        let pod = |namespace: &str| {
            let mut pod = template.clone();
            pod["apiVersion"] = "v1".into();
            pod["kind"] = "Pod".into();
            pod["metadata"]["name"] = "backstay-0".into();
            pod["metadata"]["namespace"] = namespace.into();
            pod
        };
        accepted(&plane, role, &[pod(NAMESPACE)]);
        let refused = dry_run(&plane, [&pod("base")].into_iter());
        assert!(refused.code != 0, "{refused}");
        let why = refused.stderr.split_once("violates PodSecurity \"baseline:latest\": ").unwrap().1;
        let volumes = if role == "receiver" { "volume \"site\"" } else { "volumes \"site\", \"host-0\"" };
        assert_eq!(why.trim(), format!("hostPath volumes ({volumes})"), "{role}");
    }
}
