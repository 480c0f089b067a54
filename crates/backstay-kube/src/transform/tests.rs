#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::json;

use super::*;

fn transforms(spec: Value) -> Transforms {
    let mut fields = json!({"pair": "west"});
    fields.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    Transforms::new(&serde_json::from_value(fields).unwrap()).unwrap()
}

fn applied(transforms: &Transforms, object: &Value) -> Value {
    let mut object = object.clone();
    assert_eq!(transforms.apply(&mut object), Ok(Transformed::Kept));
    object
}

#[test]
fn a_namespace_is_renamed_wherever_it_is_meant() {
    let map = transforms(json!({"namespaceMapping": {"shop": "shop-dr"}}));
    for (object, pointer, expected) in [
        (
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}),
            "/metadata/name",
            "shop-dr",
        ),
        (
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "shop", "namespace": "shop"}}),
            "/metadata/namespace",
            "shop-dr",
        ),
        (
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "shop", "namespace": "shop"}}),
            "/metadata/name",
            "shop",
        ),
        (
            json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "p"}, "spec": {"claimRef": {"namespace": "shop"}}}),
            "/spec/claimRef/namespace",
            "shop-dr",
        ),
        (
            json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "r", "namespace": "a"},
            "subjects": [{"kind": "Group", "name": "system:serviceaccounts:shop"}]}),
            "/subjects/0/name",
            "system:serviceaccounts:shop-dr",
        ),
        (
            json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "r"},
            "subjects": [{"kind": "ServiceAccount", "name": "x", "namespace": "shop"}]}),
            "/subjects/0/namespace",
            "shop-dr",
        ),
        (
            json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration", "metadata": {"name": "w"},
            "webhooks": [{"clientConfig": {"service": {"namespace": "shop"}}}]}),
            "/webhooks/0/clientConfig/service/namespace",
            "shop-dr",
        ),
        (
            json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "n", "namespace": "shop"},
            "spec": {"ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "shop"}}}]}]}}),
            "/spec/ingress/0/from/0/namespaceSelector/matchLabels/kubernetes.io~1metadata.name",
            "shop-dr",
        ),
        (
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "namespace": "shop", "labels": {"namespace": "shop"}}}),
            "/metadata/labels/namespace",
            "shop",
        ),
    ] {
        let after = applied(&map, &object);
        assert_eq!(after.pointer(pointer).unwrap(), expected, "{object}");
    }
}

#[test]
fn a_storage_class_is_renamed_and_its_object_left_to_the_standby() {
    let map = transforms(json!({"storageClassMapping": {"fast": "local"}}));
    let set = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "s", "namespace": "a"},
        "spec": {"volumeClaimTemplates": [{"spec": {"storageClassName": "fast"}}]}});
    assert_eq!(
        applied(&map, &set).pointer("/spec/volumeClaimTemplates/0/spec/storageClassName").unwrap(),
        "local"
    );
    let mut class =
        json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "fast"}});
    assert_eq!(map.apply(&mut class), Ok(Transformed::LeftOut));
}

#[test]
fn mappings_leave_content_alone() {
    let map =
        transforms(json!({"namespaceMapping": {"shop": "x"}, "imageRegistryMapping": {"docker.io": "m.io"},
        "storageClassMapping": {"fast": "slow"}}));
    for kind in ["ConfigMap", "Secret"] {
        let object = json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": "c", "namespace": "other"},
            "data": {"namespace": "shop", "image": "nginx", "storageClassName": "fast"}});
        assert_eq!(applied(&map, &object), object);
    }
}

fn service() -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web-1", "namespace": "shop", "labels": {"app": "web"}},
        "spec": {"type": "LoadBalancer"}})
}

#[test]
fn patches_are_applied_in_order_to_what_they_are_for() {
    let map = transforms(json!({"namespaceMapping": {"shop": "dr"}, "transforms": [
        {"kind": "Service", "name": "web-*", "namespace": "dr", "jsonPatch": "[{op: replace, path: /spec/type, value: NodePort}]"},
        {"kind": "*/*", "selector": {"matchLabels": {"app": "web"}}, "mergePatch": "{spec: {type: ClusterIP, x: 1}}"},
        {"kind": "Service", "namespace": "shop", "mergePatch": "{spec: {type: Never}}"},
        {"kind": "apps/*", "mergePatch": "{spec: {type: Never}}"},
    ]}));
    assert_eq!(applied(&map, &service())["spec"], json!({"type": "ClusterIP", "x": 1}));
}

#[test]
fn a_patch_that_does_not_apply_is_named() {
    let rule = |optional: bool| {
        transforms(json!({"transforms": [{"kind": "Service", "optional": optional,
            "jsonPatch": "[{op: add, path: /spec/type, value: X}, {op: remove, path: /spec/nothing}]"}]}))
    };
    let error = rule(false).apply(&mut service()).unwrap_err();
    assert!(error.to_string().starts_with("transforms[0] on Service shop/web-1: /spec/nothing: "), "{error}");
    assert_eq!(error.class(), Class::Invalid);
}

#[test]
fn an_optional_patch_may_miss() {
    let map = transforms(json!({"transforms": [{"kind": "Service", "optional": true,
        "jsonPatch": "[{op: add, path: /spec/type, value: X}, {op: remove, path: /spec/nothing}]"}]}));
    assert_eq!(applied(&map, &service()), service());
}

#[test]
fn a_patch_does_not_make_another_object() {
    for patch in ["{metadata: {name: other}}", "{kind: Secret}", "{metadata: {namespace: null}}"] {
        let map = transforms(json!({"transforms": [{"kind": "Service", "mergePatch": patch}]}));
        assert!(matches!(map.apply(&mut service()), Err(TransformError::Identity { .. })), "{patch}");
    }
}

#[test]
fn patches_that_are_none_are_refused_with_the_plan() {
    for (field, text) in [
        ("jsonPatch", "{a: 1}"),
        ("jsonPatch", "[{op: fly, path: /a}]"),
        ("mergePatch", "[1]"),
        ("mergePatch", "a: ["),
    ] {
        let spec = json!({"pair": "west", "transforms": [{"kind": "Service", field: text}]});
        let error = Transforms::new(&serde_json::from_value(spec).unwrap()).unwrap_err();
        assert_eq!((error.index, error.field), (0, field), "{text}");
    }
}
