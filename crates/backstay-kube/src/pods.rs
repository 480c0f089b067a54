//! What pods bring with them: data in volumes of their own, and other objects that they need.
//!
//! Looks at pods and at everything with a pod in it: workloads, jobs, templates, and custom resources that are made the
//! same way.

use std::collections::BTreeMap;

use backstay_types::plan::VolumePattern;
use backstay_types::{Class, Classify};
use serde_json::Value;

use crate::ObjectId;
use crate::transform::glob;

/// Kinds of volumes without data of their own: scratch space, what is made from objects, and what has a claim.
const WITHOUT_DATA: [&str; 9] = [
    "configMap",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "gitRepo",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

/// A volume that stands in a pod: its data is in no claim, and so in no restore point.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("its volume {name} is an inline {kind} volume, whose data is not replicated")]
pub struct InlineVolume {
    /// Its name in the pod.
    pub name: String,
    /// What it is, as the pod has it.
    pub kind: String,
}

impl Classify for InlineVolume {
    fn class(&self) -> Class {
        Class::Invalid
    }

    fn hint(&self) -> Option<String> {
        Some(format!(
            "put the data behind a claim; if the application does not need it on the other side, say so by \
             `excludeVolumes: [{{kind: {}, name: {}}}]`",
            self.kind, self.name
        ))
    }
}

impl InlineVolume {
    /// Whether a plan leaves it out.
    pub fn is_excluded(&self, patterns: &[VolumePattern]) -> bool {
        patterns.iter().any(|pattern| {
            pattern.kind.as_ref().is_none_or(|kind| *kind == self.kind)
                && pattern.name.as_ref().is_none_or(|name| glob(name, &self.name))
        })
    }
}

/// The pod in an object: its spec, and the metadata with its labels.
pub(crate) fn pod_of<'o>(id: &ObjectId, object: &'o Value) -> Option<(&'o Value, Option<&'o Value>)> {
    if id.kind.is("", "Pod") {
        return object.get("spec").map(|spec| (spec, object.get("metadata")));
    }
    let template = ["/spec/template", "/spec/jobTemplate/spec/template", "/template"];
    let template = template.iter().find_map(|at| {
        object
            .pointer(at)
            .filter(|template| template.pointer("/spec/containers").is_some_and(Value::is_array))
    })?;
    template.get("spec").map(|spec| (spec, template.get("metadata")))
}

/// The volumes with data that stand in the pod of an object.
pub fn inline_volumes(id: &ObjectId, object: &Value) -> Vec<InlineVolume> {
    let Some((spec, _)) = pod_of(id, object) else { return Vec::new() };
    let of_volume = |volume: &Value| {
        let fields = volume.as_object()?;
        let kind = fields.iter().find(|(field, value)| *field != "name" && !value.is_null())?.0;
        let name = volume.get("name").and_then(Value::as_str).unwrap_or_default();
        let has_data = !WITHOUT_DATA.contains(&kind.as_str());
        has_data.then(|| InlineVolume { name: name.to_owned(), kind: kind.clone() })
    };
    list(spec, "volumes").filter_map(of_volume).collect()
}

/// How many volumes the pod of an object has that are empty wherever it begins.
pub(crate) fn scratch_volumes(id: &ObjectId, object: &Value) -> u64 {
    let volumes = pod_of(id, object).into_iter().flat_map(|(spec, _)| list(spec, "volumes"));
    volumes.filter(|volume| volume.get("emptyDir").is_some_and(|value| !value.is_null())).count() as u64
}

/// Names of what a pod needs, by kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PodNeeds {
    /// Kind of the core group, and name.
    pub(crate) objects: Vec<(&'static str, String)>,
    /// Its labels, by which Services select it.
    pub(crate) labels: BTreeMap<String, String>,
    /// Beginnings of the names of claims that are made from templates: `data-db-` and a number.
    pub(crate) claims: Vec<String>,
}

/// What the pod of an object needs.
pub(crate) fn needs(id: &ObjectId, object: &Value) -> Option<PodNeeds> {
    let (spec, metadata) = pod_of(id, object)?;
    let mut needs = PodNeeds::default();
    let mut add = |kind, from: &Value, at: &str| {
        let name = from.pointer(at).and_then(Value::as_str).filter(|name| !name.is_empty());
        needs.objects.extend(name.map(|name| (kind, name.to_owned())));
    };
    for volume in list(spec, "volumes") {
        add("ConfigMap", volume, "/configMap/name");
        add("Secret", volume, "/secret/secretName");
        add("PersistentVolumeClaim", volume, "/persistentVolumeClaim/claimName");
        for source in volume.get("projected").into_iter().flat_map(|projected| list(projected, "sources")) {
            add("ConfigMap", source, "/configMap/name");
            add("Secret", source, "/secret/name");
        }
    }
    let containers = ["containers", "initContainers", "ephemeralContainers"];
    for container in containers.into_iter().flat_map(|field| list(spec, field)) {
        for from in list(container, "envFrom") {
            add("ConfigMap", from, "/configMapRef/name");
            add("Secret", from, "/secretRef/name");
        }
        for variable in list(container, "env") {
            add("ConfigMap", variable, "/valueFrom/configMapKeyRef/name");
            add("Secret", variable, "/valueFrom/secretKeyRef/name");
        }
    }
    list(spec, "imagePullSecrets").for_each(|secret| add("Secret", secret, "/name"));
    add("ServiceAccount", spec, "/serviceAccountName");
    if spec.get("serviceAccountName").is_none() {
        add("ServiceAccount", spec, "/serviceAccount");
    }
    let labels = metadata.and_then(|metadata| metadata.get("labels")).and_then(Value::as_object);
    let label = |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
    needs.labels = labels.into_iter().flatten().filter_map(label).collect();
    let templates = object.get("spec").into_iter().flat_map(|spec| list(spec, "volumeClaimTemplates"));
    let named = templates.filter_map(|template| template.pointer("/metadata/name")?.as_str());
    needs.claims = named.map(|name| format!("{name}-{}-", id.name)).collect();
    Some(needs)
}

fn list<'o>(value: &'o Value, field: &str) -> impl Iterator<Item = &'o Value> {
    value.get(field).and_then(Value::as_array).into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn inline(object: &Value) -> Vec<String> {
        let id = ObjectId::of(object).unwrap();
        inline_volumes(&id, object).iter().map(|volume| format!("{} {}", volume.kind, volume.name)).collect()
    }

    #[test]
    fn inline_volumes_are_found_wherever_a_pod_stands() {
        let pod = json!({
            "containers": [],
            "volumes": [
                {"name": "here", "hostPath": {"path": "/srv"}},
                {"name": "there", "nfs": {"server": "s", "path": "/"}},
                {"name": "driver", "csi": {"driver": "files.csi.example.org"}},
                {"name": "old", "iscsi": {"targetPortal": "p", "iqn": "i", "lun": 0}},
                {"name": "scratch", "emptyDir": {}},
                {"name": "claim", "persistentVolumeClaim": {"claimName": "c"}},
                {"name": "own", "ephemeral": {"volumeClaimTemplate": {}}},
                {"name": "token", "projected": {"sources": []}},
                {"name": "config", "configMap": {"name": "c"}},
                {"name": "secret", "secret": {"secretName": "s"}},
                {"name": "labels", "downwardAPI": {}},
            ],
        });
        let expected = ["hostPath here", "nfs there", "csi driver", "iscsi old"];
        let object = |api: &str, kind: &str, rest: Value| {
            let mut object =
                json!({"apiVersion": api, "kind": kind, "metadata": {"name": "a", "namespace": "shop"}});
            let fields = rest.as_object().unwrap().clone();
            object.as_object_mut().unwrap().extend(fields);
            object
        };
        let template = json!({"spec": {"template": {"spec": pod}}});
        for object in [
            object("v1", "Pod", json!({"spec": pod})),
            object("v1", "PodTemplate", json!({"template": {"spec": pod}})),
            object("apps/v1", "Deployment", template.clone()),
            object("apps/v1", "DaemonSet", template.clone()),
            object("batch/v1", "Job", template.clone()),
            object("argoproj.io/v1alpha1", "Rollout", template.clone()),
            object("batch/v1", "CronJob", json!({"spec": {"jobTemplate": template}})),
        ] {
            assert_eq!(inline(&object), expected, "{object}");
            assert_eq!(scratch_volumes(&ObjectId::of(&object).unwrap(), &object), 1, "{object}");
        }
        assert!(inline(&object("v1", "ConfigMap", json!({"data": {"a": "b"}}))).is_empty());
    }

    #[test]
    fn a_plan_leaves_volumes_out_by_kind_and_name() {
        let volume = InlineVolume { name: "var-log".to_owned(), kind: "hostPath".to_owned() };
        let pattern = |kind: Option<&str>, name: Option<&str>| VolumePattern {
            kind: kind.map(str::to_owned),
            name: name.map(str::to_owned),
        };
        for (patterns, expected) in [
            (vec![], false),
            (vec![pattern(None, None)], true),
            (vec![pattern(Some("hostPath"), None)], true),
            (vec![pattern(Some("nfs"), None)], false),
            (vec![pattern(None, Some("var-*"))], true),
            (vec![pattern(Some("nfs"), Some("var-*")), pattern(Some("hostPath"), Some("x"))], false),
        ] {
            assert_eq!(volume.is_excluded(&patterns), expected, "{patterns:?}");
        }
        assert!(volume.hint().unwrap().contains("excludeVolumes: [{kind: hostPath, name: var-log}]"));
    }

    #[test]
    fn what_a_pod_needs_is_named() {
        let object = json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db", "namespace": "shop"},
            "spec": {
                "volumeClaimTemplates": [{"metadata": {"name": "data"}}],
                "template": {
                    "metadata": {"labels": {"app": "db"}},
                    "spec": {
                        "serviceAccountName": "db",
                        "imagePullSecrets": [{"name": "pull"}],
                        "initContainers": [{"envFrom": [{"configMapRef": {"name": "c1"}}]}],
                        "containers": [{"env": [
                            {"name": "A", "valueFrom": {"secretKeyRef": {"name": "s1", "key": "k"}}},
                            {"name": "B", "value": "b"},
                        ]}],
                        "volumes": [
                            {"name": "a", "configMap": {"name": "c2"}},
                            {"name": "b", "secret": {"secretName": "s2"}},
                            {"name": "c", "projected": {"sources": [
                                {"secret": {"name": "s3"}}, {"configMap": {"name": "c3"}}, {"serviceAccountToken": {}},
                            ]}},
                            {"name": "d", "persistentVolumeClaim": {"claimName": "logs"}},
                        ],
                    },
                },
            },
        });
        let mut found = needs(&ObjectId::of(&object).unwrap(), &object).unwrap();
        found.objects.sort();
        let expected = [
            ("ConfigMap", "c1"),
            ("ConfigMap", "c2"),
            ("ConfigMap", "c3"),
            ("PersistentVolumeClaim", "logs"),
            ("Secret", "pull"),
            ("Secret", "s1"),
            ("Secret", "s2"),
            ("Secret", "s3"),
            ("ServiceAccount", "db"),
        ];
        assert_eq!(found.objects, expected.map(|(kind, name)| (kind, name.to_owned())));
        assert_eq!(found.claims, ["data-db-"]);
        assert_eq!(found.labels, BTreeMap::from([("app".to_owned(), "db".to_owned())]));
    }
}
