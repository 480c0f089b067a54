//! The harness: control planes start, are separate, keep what they were given through a crash, and end.

use std::net::TcpStream;
use std::time::Duration;

use backstay_tests::eventually;
use backstay_tests::kube::{self, Component, ControlPlane, ControlPlaneOptions};
use serde_json::Value;

const WEB: &str = "\
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: \"localhost/web:1\"}]}
";

fn pods(plane: &ControlPlane) -> usize {
    plane.cluster().get(&["pods", "--namespace=shop"])["items"].as_array().unwrap().len()
}

fn server(plane: &ControlPlane) -> String {
    let config = plane.cluster().kubectl(["config", "view", "-o", "json"]).ok().json();
    config.pointer("/clusters/0/cluster/server").and_then(Value::as_str).unwrap().to_owned()
}

#[test]
fn controllers_make_the_pods_of_a_deployment() {
    if !kube::can_run("control_plane::controllers_make_the_pods_of_a_deployment") {
        return;
    }
    let plane = ControlPlane::start("full", ControlPlaneOptions { controllers: true, ..Default::default() });
    plane.cluster().apply_yaml(WEB);
    eventually("the Deployment has its pods", Duration::from_secs(30), || pods(&plane) == 2);

    let version = plane.cluster().kubectl(["version", "-o", "json"]).ok().json();
    let (server, client) = (&version["serverVersion"]["gitVersion"], &version["clientVersion"]["gitVersion"]);
    assert!(server.as_str().is_some_and(|text| text.starts_with("v1.")), "the server calls itself {server}");
    assert_eq!(server, client, "kubectl is of the server's version");
}

#[test]
fn two_planes_stand_side_by_side() {
    if !kube::can_run("control_plane::two_planes_stand_side_by_side") {
        return;
    }
    let [east, west] = std::thread::scope(|scope| {
        ["east", "west"]
            .map(|name| scope.spawn(move || ControlPlane::start(name, ControlPlaneOptions::default())))
            .map(|thread| thread.join().unwrap())
    });
    east.cluster().apply_yaml(WEB);
    assert!(east.cluster().has(&["deployment", "web", "--namespace=shop"]));
    assert!(!west.cluster().has(&["namespace", "shop"]), "one plane shows the objects of the other");
    // Nothing acts on an object here but the API server itself.
    assert_eq!(pods(&east), 0);

    let address = server(&east).strip_prefix("https://").unwrap().to_owned();
    TcpStream::connect(&address).unwrap();
    drop(east);
    assert!(TcpStream::connect(&address).is_err(), "kube-apiserver outlived its control plane");
}

#[test]
fn a_killed_server_comes_back_with_its_objects() {
    if !kube::can_run("control_plane::a_killed_server_comes_back_with_its_objects") {
        return;
    }
    let mut plane = ControlPlane::start("killed", ControlPlaneOptions::default());
    plane.cluster().apply_yaml(WEB);
    let before = plane.cluster().get(&["deployment", "web", "--namespace=shop"]);

    plane.kill_apiserver();
    assert!(!plane.cluster().has(&["namespaces"]), "a killed server answers");
    plane.restart_apiserver();
    assert_eq!(plane.cluster().get(&["deployment", "web", "--namespace=shop"]), before);

    // The whole control plane at once, as a power cut has it.
    plane.kill(Component::Etcd);
    plane.kill(Component::ApiServer);
    plane.restart(Component::Etcd);
    plane.restart(Component::ApiServer);
    assert_eq!(plane.cluster().get(&["deployment", "web", "--namespace=shop"]), before);
}
