//! Mappings and transforms, with a real standby to accept what becomes of the objects.

use backstay_tests::kube;
use serde_json::json;

use super::rig::{Rig, get};

const SHOP: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: web, namespace: shop}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: web, namespace: shop}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}
subjects: [{kind: ServiceAccount, name: web, namespace: shop}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: \"registry.east.example.org/team/web:1\"}, {name: proxy, image: nginx}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web, namespace: shop}
spec: {rules: [{host: shop.east.example.org}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: unpatched, namespace: shop}
";

#[test]
fn objects_are_at_home_on_the_standby() {
    if !kube::can_run("objects::mapped::objects_are_at_home_on_the_standby") {
        return;
    }
    let rig = Rig::start(
        false,
        json!({
            "namespaces": ["shop"],
            "namespaceMapping": {"shop": "shop-dr"},
            "imageRegistryMapping": {"registry.east.example.org": "registry.west.example.org", "docker.io": "mirror.example.org"},
            "transforms": [
                {"kind": "networking.k8s.io/Ingress", "namespace": "shop-dr",
                    "jsonPatch": "[{op: replace, path: /spec/rules/0/host, value: shop.west.example.org}]"},
                {"kind": "ConfigMap", "name": "un*", "jsonPatch": "[{op: replace, path: /data/missing, value: x}]"},
            ],
        }),
    );
    rig.active.cluster().apply_yaml(SHOP);
    let report = rig.apply(&rig.capture());
    let failed: Vec<_> = report
        .failures
        .named
        .iter()
        .map(|failure| (failure.key.as_str(), failure.message.as_str()))
        .collect();
    let expected = "transforms[1] on ConfigMap shop-dr/unpatched: /data/missing: path is invalid";
    assert_eq!(failed, [("shop/_ConfigMap/unpatched", expected)]);

    assert!(!rig.standby.cluster().has(&["namespace", "shop"]));
    let web = get(&rig.standby, &["deployment", "web", "-n", "shop-dr"]);
    let images: Vec<_> = web["spec"]["template"]["spec"]["containers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| &c["image"])
        .collect();
    assert_eq!(images, ["registry.west.example.org/team/web:1", "mirror.example.org/library/nginx"]);
    let binding = get(&rig.standby, &["rolebinding", "web", "-n", "shop-dr"]);
    assert_eq!(binding["subjects"][0]["namespace"], "shop-dr");
    assert_eq!(
        get(&rig.standby, &["ingress", "web", "-n", "shop-dr"])["spec"]["rules"][0]["host"],
        "shop.west.example.org"
    );

    // Found again under the new names: nothing is written twice, and nothing is taken for gone.
    let again = rig.apply(&rig.capture());
    assert_eq!((again.created, again.changed, again.removed), (0, 0, 0), "{again:?}");
}
