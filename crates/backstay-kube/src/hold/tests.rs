use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::canonical;

fn object(api: &str, kind: &str, spec: Value) -> Value {
    json!({"apiVersion": api, "kind": kind, "metadata": {"name": "x", "namespace": "shop"}, "spec": spec})
}

fn held(original: &Value) -> Value {
    let mut object = original.clone();
    assert!(HoldTable::default().hold(&mut object).unwrap(), "{original}");
    object
}

/// Every row of the design's table: kind, spec, the place looked at, what is there while held.
fn rows() -> Vec<(&'static str, &'static str, Value, &'static str, Value)> {
    let keda = "/metadata/annotations/autoscaling.keda.sh~1paused";
    let strimzi = "/metadata/annotations/strimzi.io~1pause-reconciliation";
    vec![
        ("apps/v1", "Deployment", json!({"replicas": 3}), "/spec/replicas", json!(0)),
        ("apps/v1", "Deployment", json!({}), "/spec/replicas", json!(0)),
        ("apps/v1", "StatefulSet", json!({"replicas": 0}), "/spec/replicas", json!(0)),
        ("apps/v1", "ReplicaSet", json!({"replicas": null}), "/spec/replicas", json!(0)),
        ("v1", "ReplicationController", json!({"replicas": 2}), "/spec/replicas", json!(0)),
        (
            "apps/v1",
            "DaemonSet",
            json!({"template": {"spec": {"nodeSelector": {"disk": "ssd"}}}}),
            "/spec/template/spec/nodeSelector/backstay.dev~1held",
            json!("no-such-node"),
        ),
        ("batch/v1", "CronJob", json!({"suspend": true}), "/spec/suspend", json!(true)),
        ("batch/v1", "CronJob", json!({"suspend": false}), "/spec/suspend", json!(true)),
        ("batch/v1", "Job", json!({}), "/spec/suspend", json!(true)),
        (
            "autoscaling/v2",
            "HorizontalPodAutoscaler",
            json!({"minReplicas": 0}),
            "/spec/minReplicas",
            json!(1),
        ),
        ("keda.sh/v1alpha1", "ScaledObject", json!({}), keda, json!("true")),
        ("keda.sh/v1alpha1", "ScaledJob", json!({}), keda, json!("true")),
        (
            "postgresql.cnpg.io/v1",
            "Cluster",
            json!({"instances": 3}),
            "/metadata/annotations/cnpg.io~1hibernation",
            json!("on"),
        ),
        ("kafka.strimzi.io/v1", "Kafka", json!({}), strimzi, json!("true")),
        (
            "acid.zalan.do/v1",
            "postgresql",
            json!({"numberOfInstances": 2}),
            "/spec/numberOfInstances",
            json!(0),
        ),
        ("pxc.percona.com/v1", "PerconaXtraDBCluster", json!({}), "/spec/pause", json!(true)),
        ("psmdb.percona.com/v1", "PerconaServerMongoDB", json!({"pause": false}), "/spec/pause", json!(true)),
        (
            "mongodbcommunity.mongodb.com/v1",
            "MongoDBCommunity",
            json!({"members": 3}),
            "/spec/members",
            json!(0),
        ),
        ("rabbitmq.com/v1beta1", "RabbitmqCluster", json!({"replicas": 3}), "/spec/replicas", json!(0)),
        ("couchbase.com/v2", "CouchbaseCluster", json!({}), "/spec/paused", json!(true)),
        ("cassandra.datastax.com/v1beta1", "CassandraDatacenter", json!({}), "/spec/stopped", json!(true)),
        (
            "k8ssandra.io/v1alpha1",
            "K8ssandraCluster",
            json!({"cassandra": {"datacenters": [{"size": 3}, {"size": 1, "stopped": false}]}}),
            "/spec/cassandra/datacenters/1/stopped",
            json!(true),
        ),
        ("monitoring.coreos.com/v1", "Prometheus", json!({"replicas": 2}), "/spec/replicas", json!(0)),
        ("kubevirt.io/v1", "VirtualMachine", json!({"running": true}), "/spec/running", json!(false)),
        (
            "kubevirt.io/v1",
            "VirtualMachine",
            json!({"runStrategy": "Always"}),
            "/spec/runStrategy",
            json!("Halted"),
        ),
    ]
}

#[test]
fn every_row_is_held_and_released_exactly() {
    for (api, kind, spec, path, value) in rows() {
        let original = object(api, kind, spec);
        let mut object = held(&original);
        assert_eq!(object.pointer(path), Some(&value), "{kind} {original}");
        assert!(is_held(&object));
        assert!(release(&mut object).unwrap());
        assert_eq!(canonical::to_bytes(&object), canonical::to_bytes(&original), "{kind}");
        assert!(!release(&mut object).unwrap(), "released once");
    }
}

#[test]
fn what_runs_at_once_waits_for_promotion() {
    let table = HoldTable::default();
    for (group, kind) in [
        ("", "Pod"),
        ("admissionregistration.k8s.io", "MutatingWebhookConfiguration"),
        ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration"),
        ("admissionregistration.k8s.io", "MutatingAdmissionPolicy"),
        ("admissionregistration.k8s.io", "MutatingAdmissionPolicyBinding"),
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy"),
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicyBinding"),
        ("apiregistration.k8s.io", "APIService"),
        ("app.redislabs.com", "RedisEnterpriseCluster"),
        ("kubevirt.io", "VirtualMachineInstance"),
    ] {
        assert!(table.defers(&GroupKind::new(group, kind)), "{kind}");
    }
    assert!(!table.defers(&GroupKind::new("apps", "Deployment")));
}

#[test]
fn an_object_that_runs_nothing_is_left_alone() {
    for original in [
        object("v1", "ConfigMap", json!({"replicas": 3})),
        object("autoscaling/v2", "HorizontalPodAutoscaler", json!({"minReplicas": 2})),
        object("other.io/v1", "Deployment", json!({"replicas": 3})),
    ] {
        let mut object = original.clone();
        assert!(!HoldTable::default().hold(&mut object).unwrap());
        assert_eq!(object, original);
    }
}

#[test]
fn a_scale_subresource_is_held_unless_the_table_knows_better() {
    let crd = |group: &str, kind: &str| {
        json!({"kind": "CustomResourceDefinition", "spec": {"group": group, "names": {"kind": kind}, "versions": [
            {"name": "v1", "subresources": {"scale": {"specReplicasPath": ".spec.size.members"}}},
            {"name": "v2", "subresources": {"status": {}}}]}})
    };
    let mut table = HoldTable::default();
    table.learn(&crd("a.io", "Thing"));
    table.learn(&crd("postgresql.cnpg.io", "Cluster"));
    let mut thing = object("a.io/v1", "Thing", json!({"size": {"members": 5}}));
    assert!(table.hold(&mut thing).unwrap());
    assert_eq!(thing["spec"]["size"]["members"], json!(0));
    assert!(!table.hold(&mut object("a.io/v2", "Thing", json!({}))).unwrap());
    let mut cluster = object("postgresql.cnpg.io/v1", "Cluster", json!({"size": {"members": 5}}));
    assert!(table.hold(&mut cluster).unwrap());
    assert_eq!(cluster["spec"]["size"]["members"], json!(5));
}

#[test]
fn a_plan_holds_what_the_table_does_not_know() {
    let spec = |path: &str, value: &str| HoldSpec {
        group: "a.io".to_owned(),
        kind: "Thing".to_owned(),
        path: path.to_owned(),
        held_value: value.to_owned(),
    };
    let holds = [spec("/spec/sets/*/count", "0"), spec("/metadata/annotations/a.io~1off", "\"yes\"")];
    let table = HoldTable::new(&holds).unwrap();
    let original = object("a.io/v1", "Thing", json!({"sets": [{"count": 2}, {}]}));
    let mut object = original.clone();
    assert!(table.hold(&mut object).unwrap());
    assert_eq!(object["spec"]["sets"], json!([{"count": 0}, {"count": 0}]));
    assert_eq!(object["metadata"]["annotations"]["a.io/off"], json!("yes"));
    release(&mut object).unwrap();
    assert_eq!(object, original);
    for bad in [
        spec("spec/x", "0"),
        spec("/spec/x", "Halted"),
        spec("/metadata/name", "\"y\""),
        spec("/metadata", "{}"),
        spec("/kind", "\"y\""),
    ] {
        assert!(HoldTable::new(std::slice::from_ref(&bad)).is_err(), "{bad:?}");
    }
}

#[test]
fn what_cannot_be_held_is_an_error() {
    for spec in [json!("text"), json!([1]), json!(null)] {
        let original = object("apps/v1", "Deployment", spec);
        let mut object = original.clone();
        let error = HoldTable::default().hold(&mut object).unwrap_err();
        assert_eq!(error.class(), Class::Invalid);
        assert_eq!(error.to_string(), "hold /spec/replicas: /spec is not a mapping");
        assert_eq!(object, original);
    }
    let mut annotations = object("apps/v1", "Deployment", json!({}));
    annotations["metadata"]["annotations"] = json!("text");
    assert!(HoldTable::default().hold(&mut annotations).is_err());
}

#[test]
fn a_hold_that_was_undone_is_renewed() {
    let original = object("apps/v1", "Deployment", json!({"replicas": 3}));
    let mut object = held(&original);
    object["spec"]["replicas"] = json!(7);
    HoldTable::default().hold(&mut object).unwrap();
    assert_eq!(object, held(&original));
}

#[test]
fn a_forged_record_does_not_let_an_object_run() {
    let mut object = object("apps/v1", "Deployment", json!({"replicas": 3}));
    object["metadata"]["annotations"] = json!({"backstay.dev/held": r#"{"v":1,"fields":[]}"#});
    assert!(HoldTable::default().hold(&mut object).unwrap());
    assert_eq!(object["spec"]["replicas"], json!(0));
    object["metadata"]["annotations"] = json!({"backstay.dev/held": "nonsense"});
    assert_eq!(HoldTable::default().hold(&mut object).unwrap_err().class(), Class::Corrupt);
    assert_eq!(release(&mut object).unwrap_err().class(), Class::Corrupt);
}

fn json_value() -> impl Strategy<Value = Value> {
    let key = prop_oneof![
        Just("replicas"),
        Just("suspend"),
        Just("template"),
        Just("spec"),
        Just("nodeSelector"),
        Just("cassandra"),
        Just("datacenters"),
        Just("running"),
        Just("a/b~c"),
        Just("pause"),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (0..3i64).prop_map(Value::from),
        "[a-z\"\\\\]{0,4}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 4, move |inner| {
        prop_oneof![
            1 => prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            4 => prop::collection::btree_map(key.clone().prop_map(str::to_owned), inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Objects of every held kind with random specs and all ways annotations and labels can be there or not.
fn random_object() -> impl Strategy<Value = Value> {
    let texts = || {
        prop::option::of(prop::collection::btree_map(
            prop_oneof![Just("cnpg.io/hibernation"), Just("strimzi.io/pause-reconciliation"), Just("mine")],
            "[a-z\"]{0,4}",
            0..3,
        ))
    };
    let kinds: Vec<_> = rows().into_iter().map(|(api, kind, spec, ..)| (api, kind, spec)).collect();
    let kind = prop::sample::select(kinds);
    let spec = prop_oneof![Just(None), Just(Some(None)), json_value().prop_map(|spec| Some(Some(spec)))];
    (kind, spec, texts(), texts()).prop_map(|((api, kind, listed), spec, annotations, labels)| {
        let mut object = object(api, kind, listed);
        match spec {
            None => drop(object.as_object_mut().unwrap().remove("spec")),
            Some(None) => {}
            Some(Some(spec)) => object["spec"] = spec,
        }
        if let Some(annotations) = annotations {
            object["metadata"]["annotations"] = json!(annotations);
        }
        if let Some(labels) = labels {
            object["metadata"]["labels"] = json!(labels);
        }
        object
    })
}

#[test]
fn a_set_at_zero_keeps_its_claims() {
    let set = |scaled: &str| {
        json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db", "namespace": "shop"},
            "spec": {"replicas": 2, "persistentVolumeClaimRetentionPolicy": {"whenScaled": scaled, "whenDeleted": "Delete"}}})
    };
    for scaled in ["Delete", "Retain"] {
        let mut held = set(scaled);
        assert_eq!(HoldTable::default().hold(&mut held), Ok(true));
        let policy = json!({"whenScaled": "Retain", "whenDeleted": "Delete"});
        assert_eq!(held["spec"], json!({"replicas": 0, "persistentVolumeClaimRetentionPolicy": policy}));
        assert_eq!(release(&mut held), Ok(true));
        assert_eq!(held, set(scaled));
    }
}

#[test]
fn a_claim_that_stands_still_has_no_owner_to_go_with() {
    let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "c", "namespace": "shop",
        "ownerReferences": [{"apiVersion": "a.io/v1", "kind": "App", "name": "x", "uid": "u"}]}});
    let mut held = claim.clone();
    assert_eq!(HoldTable::default().hold_in_place(&mut held), Ok(true));
    assert_eq!(held["metadata"]["ownerReferences"], json!([]));
    // As the API server keeps it.
    held["metadata"].as_object_mut().unwrap().remove("ownerReferences");
    let once = held.clone();
    assert_eq!(HoldTable::default().hold_in_place(&mut held), Ok(true));
    assert_eq!(held, once);
    assert_eq!(release(&mut held), Ok(true));
    assert_eq!(held, claim);
    let mut other = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "ownerReferences": [{"name": "x"}]}});
    assert_eq!(HoldTable::default().hold_in_place(&mut other), Ok(false));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn release_gives_the_original_back(original in random_object()) {
        let mut object = original.clone();
        let held = HoldTable::default().hold(&mut object);
        if held == Ok(true) {
            prop_assert!(release(&mut object).unwrap());
        }
        prop_assert_eq!(canonical::to_bytes(&object), canonical::to_bytes(&original));
    }

    #[test]
    fn holding_twice_is_holding_once(original in random_object()) {
        let mut once = original;
        if HoldTable::default().hold(&mut once) == Ok(true) {
            let mut twice = once.clone();
            prop_assert_eq!(HoldTable::default().hold(&mut twice), Ok(true));
            prop_assert_eq!(canonical::to_bytes(&twice), canonical::to_bytes(&once));
        }
    }
}
