use serde_json::json;

use super::*;

fn normal(mut object: Value) -> Value {
    normalise(&mut object, NormaliseOptions::default()).unwrap();
    let mut again = object.clone();
    normalise(&mut again, NormaliseOptions::default()).unwrap();
    assert_eq!(again, object, "normalising twice is normalising once");
    object
}

/// An object as a cluster gives it back.
fn live(api: &str, kind: &str, mut rest: Value) -> Value {
    rest["apiVersion"] = json!(api);
    rest["kind"] = json!(kind);
    let metadata = rest.as_object_mut().unwrap().entry("metadata").or_insert_with(|| json!({}));
    for (field, value) in [
        ("name", json!("x")),
        ("namespace", json!("shop")),
        ("uid", json!("7b1c")),
        ("resourceVersion", json!("812")),
        ("generation", json!(4)),
        ("creationTimestamp", json!("2026-01-01T00:00:00Z")),
        ("selfLink", json!("/api")),
        ("deletionTimestamp", json!("2026-01-01T00:00:00Z")),
    ] {
        metadata[field] = value;
    }
    rest["status"] = json!({"phase": "x"});
    rest
}

fn plain(api: &str, kind: &str, mut rest: Value) -> Value {
    rest["apiVersion"] = json!(api);
    rest["kind"] = json!(kind);
    let metadata = rest.as_object_mut().unwrap().entry("metadata").or_insert_with(|| json!({}));
    metadata["name"] = json!("x");
    metadata["namespace"] = json!("shop");
    rest
}

#[test]
fn normalising_twice_is_normalising_once() {
    let spec = json!({"spec": {"clusterIP": "10.0.0.1", "replicas": 3, "selector": {"a": "b"}}});
    for (api, kind) in
        [("v1", "Service"), ("apps/v1", "Deployment"), ("batch/v1", "Job"), ("a.io/v1", "Thing")]
    {
        normal(live(api, kind, spec.clone()));
    }
}

#[test]
fn what_the_server_wrote_goes() {
    let object = live(
        "v1",
        "ConfigMap",
        json!({"data": {"a": "b"}, "metadata": {"labels": {}, "finalizers": ["k"],
        "ownerReferences": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": "1"}]}}),
    );
    let owners = json!([{"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}]);
    assert_eq!(
        normal(object),
        plain("v1", "ConfigMap", json!({"data": {"a": "b"}, "metadata": {"ownerReferences": owners}}))
    );
}

#[test]
fn unlisted_kinds_keep_their_spec() {
    let rest = json!({"spec": {"clusterIP": "x", "volumeName": "y", "finalizers": ["z"]}, "metadata": {"finalizers": ["f"]}});
    assert_eq!(normal(live("a.io/v1", "Service", rest.clone())), plain("a.io/v1", "Service", rest.clone()));
    let mut object = live("a.io/v1", "Service", rest);
    let options = NormaliseOptions { keep_status: true, keep_finalizers: false, keep_volume_name: true };
    normalise(&mut object, options).unwrap();
    assert_eq!(object["status"], json!({"phase": "x"}));
    assert_eq!(object["metadata"].get("finalizers"), None);
}

#[test]
fn a_held_object_is_captured_as_it_was() {
    let original = plain("apps/v1", "Deployment", json!({"spec": {"replicas": 3}}));
    let mut object = original.clone();
    crate::HoldTable::default().hold(&mut object).unwrap();
    object["metadata"]["labels"] = json!({PLAN_LABEL: "shop"});
    object["metadata"]["annotations"][RESTORE_POINT_ANNOTATION] = json!("e1-000001");
    assert_eq!(normal(object), original);
}

#[test]
fn explicit_node_ports_stay_and_allocated_ones_go() {
    let spec = |ports: Value| {
        json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "loadBalancerIP": "1.2.3.4",
            "healthCheckNodePort": 31000, "ports": ports})
    };
    let ports = json!([{"port": 80, "nodePort": 30080}, {"port": 53, "protocol": "UDP", "nodePort": 30053}]);
    let managed = json!([{"fieldsV1": {"f:spec": {"f:ports": {
        ".": {}, "k:{\"port\":80,\"protocol\":\"TCP\"}": {"f:nodePort": {}, "f:port": {}},
        "k:{\"port\":53,\"protocol\":\"UDP\"}": {"f:port": {}}}}}}]);
    let object =
        live("v1", "Service", json!({"spec": spec(ports.clone()), "metadata": {"managedFields": managed}}));
    let expected = json!([{"port": 80, "nodePort": 30080}, {"port": 53, "protocol": "UDP"}]);
    assert_eq!(normal(object)["spec"], json!({"ports": expected}));

    let applied =
        json!({"spec": {"ports": [{"port": 53, "protocol": "UDP", "nodePort": 30053}]}}).to_string();
    let annotations = json!({"kubectl.kubernetes.io/last-applied-configuration": applied});
    let object =
        live("v1", "Service", json!({"spec": spec(ports.clone()), "metadata": {"annotations": annotations}}));
    let expected = json!([{"port": 80}, {"port": 53, "protocol": "UDP", "nodePort": 30053}]);
    assert_eq!(normal(object)["spec"]["ports"], expected);

    let by_hand = plain(
        "v1",
        "Service",
        json!({"spec": {"ports": ports, "clusterIP": "None", "clusterIPs": ["None"]}}),
    );
    assert_eq!(normal(by_hand.clone()), by_hand, "written by hand, headless");
}

#[test]
fn claims_and_volumes_lose_their_binding() {
    let annotations =
        json!({"pv.kubernetes.io/bind-completed": "yes", "volume.kubernetes.io/selected-node": "n1"});
    let claim = live(
        "v1",
        "PersistentVolumeClaim",
        json!({"metadata": {"annotations": annotations},
        "spec": {"volumeName": "pv-1", "dataSource": {"name": "s"}, "storageClassName": "fast"}}),
    );
    let spec = json!({"volumeName": "pv-1", "storageClassName": "fast"});
    assert_eq!(normal(claim.clone()), plain("v1", "PersistentVolumeClaim", json!({"spec": spec})));
    let mut anew = claim;
    normalise(&mut anew, NormaliseOptions { keep_volume_name: false, ..NormaliseOptions::default() })
        .unwrap();
    assert_eq!(anew["spec"], json!({"storageClassName": "fast"}));
    let volume = live(
        "v1",
        "PersistentVolume",
        json!({"spec": {"claimRef": {"name": "c", "uid": "1", "resourceVersion": "2"}}}),
    );
    assert_eq!(normal(volume)["spec"], json!({"claimRef": {"name": "c"}}));
}

#[test]
fn tokens_go_and_other_secrets_stay() {
    let token = live(
        "v1",
        "Secret",
        json!({"type": "kubernetes.io/service-account-token",
        "data": {"token": "t", "ca.crt": "c", "namespace": "n", "extra": "e"},
        "metadata": {"annotations": {"kubernetes.io/service-account.name": "bot", "kubernetes.io/service-account.uid": "1"}}}),
    );
    let normal_token = normal(token);
    assert_eq!(normal_token["data"], json!({"extra": "e"}));
    assert_eq!(normal_token["metadata"]["annotations"], json!({"kubernetes.io/service-account.name": "bot"}));
    let account = live(
        "v1",
        "ServiceAccount",
        json!({"secrets": [{"name": "x-token-abcde"}, {"name": "mine"}],
        "imagePullSecrets": [{"name": "x-dockercfg-1"}]}),
    );
    assert_eq!(normal(account), plain("v1", "ServiceAccount", json!({"secrets": [{"name": "mine"}]})));
    let secret = plain("v1", "Secret", json!({"type": "Opaque", "data": {"token": "t"}}));
    assert_eq!(normal(secret.clone()), secret);
}

#[test]
fn jobs_and_workloads_lose_what_ties_them_to_one_cluster() {
    let labels = json!({"job-name": "x", "batch.kubernetes.io/controller-uid": "1", "app": "a"});
    let job = live(
        "batch/v1",
        "Job",
        json!({"metadata": {"labels": labels},
        "spec": {"selector": {"matchLabels": {"controller-uid": "1"}},
            "template": {"metadata": {"labels": {"controller-uid": "1"}}, "spec": {}}}}),
    );
    let expected = json!({"metadata": {"labels": {"app": "a"}}, "spec": {"template": {"spec": {}}}});
    assert_eq!(normal(job), plain("batch/v1", "Job", expected));
    let manual = plain("batch/v1", "Job", json!({"spec": {"manualSelector": true, "selector": {"a": "b"}}}));
    assert_eq!(normal(manual.clone()), manual);
    let annotations = json!({"deployment.kubernetes.io/revision": "4"});
    let deployment =
        live("apps/v1", "Deployment", json!({"metadata": {"annotations": annotations}, "spec": {}}));
    assert_eq!(normal(deployment), plain("apps/v1", "Deployment", json!({"spec": {}})));
    let pod = |rest| normal(rest)["spec"].clone();
    assert_eq!(pod(live("v1", "Pod", json!({"spec": {"nodeName": "n1"}}))), json!({}));
    assert_eq!(pod(plain("v1", "Pod", json!({"spec": {"nodeName": "n1"}}))), json!({"nodeName": "n1"}));
    let namespace = live(
        "v1",
        "Namespace",
        json!({"spec": {"finalizers": ["kubernetes"]},
        "metadata": {"labels": {"kubernetes.io/metadata.name": "x"}}}),
    );
    assert_eq!(normal(namespace), plain("v1", "Namespace", json!({})));
}

#[test]
fn only_an_injected_certificate_authority_goes() {
    let webhooks = json!([{"clientConfig": {"caBundle": "Y2E=", "service": {"name": "s"}}}]);
    let kind = "ValidatingWebhookConfiguration";
    let api = "admissionregistration.k8s.io/v1";
    let own = plain(api, kind, json!({"webhooks": webhooks}));
    assert_eq!(normal(own.clone()), own);
    let annotations = json!({"cert-manager.io/inject-ca-from": "shop/cert"});
    let injected =
        normal(plain(api, kind, json!({"webhooks": webhooks, "metadata": {"annotations": annotations}})));
    assert_eq!(injected["webhooks"], json!([{"clientConfig": {"service": {"name": "s"}}}]));
}

#[test]
fn subjects_are_limited_to_the_scope() {
    let subjects = json!([
        {"kind": "ServiceAccount", "name": "a", "namespace": "shop"},
        {"kind": "ServiceAccount", "name": "b", "namespace": "other"},
        {"kind": "ServiceAccount", "name": "c"},
        {"kind": "User", "name": "d"},
    ]);
    let mut binding = plain("rbac.authorization.k8s.io/v1", "RoleBinding", json!({"subjects": subjects}));
    assert!(limit_subjects(&mut binding, |namespace| namespace == "shop"));
    let names: Vec<_> = binding["subjects"].as_array().unwrap().iter().map(|s| s["name"].clone()).collect();
    assert_eq!(names, ["a", "c", "d"]);
    let only = json!([{"kind": "ServiceAccount", "name": "b", "namespace": "other"}]);
    assert!(!limit_subjects(&mut plain("v1", "RoleBinding", json!({"subjects": only})), |_| false));
}
