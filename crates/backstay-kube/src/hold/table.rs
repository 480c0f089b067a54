//! The built-in table: which kinds run something, and what keeps each from running.
//!
//! Field names are those of the operators' own definitions. An operator is kept still by whatever it offers for
//! it: hibernation, a pause, a stop, or zero members. Where several work, the one that also keeps a *new* object
//! from being acted on is taken, since an object arrives on the standby held and was never seen running there.

use serde_json::{Value, json};

use super::pointer::Pattern;
use crate::GroupKind;

/// What a kind needs while held.
pub(super) enum Rule {
    /// Each place is set to a value.
    Set(&'static [(&'static str, Held)]),
    /// One of two ways, by what the object uses.
    KubeVirtMachine,
    /// At zero, it must not take its claims with it.
    StatefulSet,
    /// Inert beside a workload at zero, unless it may scale from zero itself.
    Autoscaler,
    /// Runs as soon as it exists, with no way to say otherwise: not created before promotion.
    Defer,
}

/// A held value.
#[derive(Clone, Copy)]
pub(super) enum Held {
    Zero,
    True,
    Text(&'static str),
}

impl Held {
    fn value(self) -> Value {
        match self {
            Held::Zero => json!(0),
            Held::True => json!(true),
            Held::Text(text) => json!(text),
        }
    }
}

const REPLICAS: Rule = Rule::Set(&[("/spec/replicas", Held::Zero)]);
const SUSPEND: Rule = Rule::Set(&[("/spec/suspend", Held::True)]);
const PAUSE: Rule = Rule::Set(&[("/spec/pause", Held::True)]);
const STRIMZI: Rule =
    Rule::Set(&[("/metadata/annotations/strimzi.io~1pause-reconciliation", Held::Text("true"))]);
const ECK: Rule = Rule::Set(&[("/metadata/annotations/eck.k8s.elastic.co~1managed", Held::Text("false"))]);

/// No node carries this label, so no node gets a pod.
const NO_NODE: Rule =
    Rule::Set(&[("/spec/template/spec/nodeSelector/backstay.dev~1held", Held::Text("no-such-node"))]);

/// Group, kind, rule.
const TABLE: &[(&str, &str, Rule)] = &[
    // Runs nothing, but a claim that goes by mistake would take the replica with it.
    ("", "PersistentVolume", Rule::Set(&[("/spec/persistentVolumeReclaimPolicy", Held::Text("Retain"))])),
    ("", "Pod", Rule::Defer),
    ("", "ReplicationController", REPLICAS),
    ("admissionregistration.k8s.io", "MutatingWebhookConfiguration", Rule::Defer),
    ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration", Rule::Defer),
    // A policy that asks for two replicas would refuse the zero of a held workload.
    ("admissionregistration.k8s.io", "MutatingAdmissionPolicy", Rule::Defer),
    ("admissionregistration.k8s.io", "MutatingAdmissionPolicyBinding", Rule::Defer),
    ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy", Rule::Defer),
    ("admissionregistration.k8s.io", "ValidatingAdmissionPolicyBinding", Rule::Defer),
    ("apiregistration.k8s.io", "APIService", Rule::Defer),
    ("apps", "DaemonSet", NO_NODE),
    ("apps", "Deployment", REPLICAS),
    ("apps", "ReplicaSet", REPLICAS),
    ("apps", "StatefulSet", Rule::StatefulSet),
    ("autoscaling", "HorizontalPodAutoscaler", Rule::Autoscaler),
    ("batch", "CronJob", SUSPEND),
    ("batch", "Job", SUSPEND),
    ("extensions", "DaemonSet", NO_NODE),
    ("extensions", "Deployment", REPLICAS),
    ("extensions", "ReplicaSet", REPLICAS),
    // Autoscalers and delivery tools: left alone, each would undo a hold within minutes.
    (
        "keda.sh",
        "ScaledObject",
        // `paused-replicas` wins over `paused`, so an object paused at three would run three.
        Rule::Set(&[
            ("/metadata/annotations/autoscaling.keda.sh~1paused", Held::Text("true")),
            ("/metadata/annotations/autoscaling.keda.sh~1paused-replicas", Held::Text("0")),
        ]),
    ),
    (
        "keda.sh",
        "ScaledJob",
        Rule::Set(&[("/metadata/annotations/autoscaling.keda.sh~1paused", Held::Text("true"))]),
    ),
    ("helm.toolkit.fluxcd.io", "HelmRelease", SUSPEND),
    ("kustomize.toolkit.fluxcd.io", "Kustomization", SUSPEND),
    // Workloads of other makers.
    ("apps.kruise.io", "CloneSet", REPLICAS),
    ("apps.kruise.io", "DaemonSet", NO_NODE),
    ("apps.kruise.io", "StatefulSet", Rule::StatefulSet),
    ("apps.openshift.io", "DeploymentConfig", REPLICAS),
    ("argoproj.io", "CronWorkflow", SUSPEND),
    ("argoproj.io", "Rollout", REPLICAS),
    ("argoproj.io", "Workflow", SUSPEND),
    // PostgreSQL.
    ("acid.zalan.do", "postgresql", Rule::Set(&[("/spec/numberOfInstances", Held::Zero)])),
    (
        "postgresql.cnpg.io",
        "Cluster",
        Rule::Set(&[("/metadata/annotations/cnpg.io~1hibernation", Held::Text("on"))]),
    ),
    ("postgresql.cnpg.io", "Pooler", Rule::Set(&[("/spec/instances", Held::Zero)])),
    ("postgresql.cnpg.io", "ScheduledBackup", SUSPEND),
    ("postgres-operator.crunchydata.com", "PostgresCluster", Rule::Set(&[("/spec/shutdown", Held::True)])),
    // Percona.
    ("pgv2.percona.com", "PerconaPGCluster", PAUSE),
    ("ps.percona.com", "PerconaServerMySQL", PAUSE),
    ("psmdb.percona.com", "PerconaServerMongoDB", PAUSE),
    ("pxc.percona.com", "PerconaXtraDBCluster", PAUSE),
    // MongoDB: the community operator refuses a set of no members before it makes anything, which holds it as
    // well. The enterprise one has shapes that know no members, and no pause.
    ("mongodb.com", "MongoDB", Rule::Defer),
    ("mongodb.com", "MongoDBMultiCluster", Rule::Defer),
    ("mongodbcommunity.mongodb.com", "MongoDBCommunity", Rule::Set(&[("/spec/members", Held::Zero)])),
    (
        "rabbitmq.com",
        "RabbitmqCluster",
        // The operator cannot shrink a cluster; paused, it never sees the zero.
        Rule::Set(&[
            ("/metadata/labels/rabbitmq.com~1pauseReconciliation", Held::Text("true")),
            ("/spec/replicas", Held::Zero),
        ]),
    ),
    // `nodes: 0` is the operator's word for its default of three, and there is no pause.
    ("app.redislabs.com", "RedisEnterpriseCluster", Rule::Defer),
    ("couchbase.com", "CouchbaseCluster", Rule::Set(&[("/spec/paused", Held::True)])),
    ("cassandra.datastax.com", "CassandraDatacenter", Rule::Set(&[("/spec/stopped", Held::True)])),
    ("k8ssandra.io", "K8ssandraCluster", Rule::Set(&[("/spec/cassandra/datacenters/*/stopped", Held::True)])),
    // Kafka.
    ("core.strimzi.io", "StrimziPodSet", STRIMZI),
    ("kafka.strimzi.io", "Kafka", STRIMZI),
    ("kafka.strimzi.io", "KafkaBridge", STRIMZI),
    ("kafka.strimzi.io", "KafkaConnect", STRIMZI),
    ("kafka.strimzi.io", "KafkaMirrorMaker2", STRIMZI),
    // Elastic: an unmanaged object is not acted on at all.
    ("agent.k8s.elastic.co", "Agent", ECK),
    ("apm.k8s.elastic.co", "ApmServer", ECK),
    ("beat.k8s.elastic.co", "Beat", ECK),
    ("elasticsearch.k8s.elastic.co", "Elasticsearch", ECK),
    ("kibana.k8s.elastic.co", "Kibana", ECK),
    ("logstash.k8s.elastic.co", "Logstash", ECK),
    // Prometheus.
    ("monitoring.coreos.com", "Alertmanager", REPLICAS),
    ("monitoring.coreos.com", "Prometheus", REPLICAS),
    ("monitoring.coreos.com", "PrometheusAgent", REPLICAS),
    ("monitoring.coreos.com", "ThanosRuler", REPLICAS),
    // KubeVirt.
    ("kubevirt.io", "VirtualMachine", Rule::KubeVirtMachine),
    ("kubevirt.io", "VirtualMachineInstance", Rule::Defer),
    ("kubevirt.io", "VirtualMachineInstanceReplicaSet", REPLICAS),
    ("pool.kubevirt.io", "VirtualMachinePool", REPLICAS),
];

/// The rule of a kind, if the table has one.
pub(super) fn rule(kind: &GroupKind) -> Option<&'static Rule> {
    TABLE.iter().find(|(group, name, _)| kind.is(group, name)).map(|(_, _, rule)| rule)
}

impl Rule {
    /// The places to set in `object`, and to what.
    pub(super) fn places(&self, object: &Value) -> Vec<(Pattern, Value)> {
        let one = |path: &str, value: Value| Pattern::parse(path).map(|pattern| (pattern, value));
        match self {
            Rule::Set(places) => places.iter().filter_map(|(path, held)| one(path, held.value())).collect(),
            Rule::KubeVirtMachine => {
                // Exactly one of the two may be set.
                let by_running = object.pointer("/spec/running").is_some_and(|running| !running.is_null());
                let place = if by_running {
                    one("/spec/running", json!(false))
                } else {
                    one("/spec/runStrategy", json!("Halted"))
                };
                place.into_iter().collect()
            }
            Rule::StatefulSet => {
                const SCALED: &str = "/spec/persistentVolumeClaimRetentionPolicy/whenScaled";
                let deletes = object.pointer(SCALED).and_then(Value::as_str) == Some("Delete");
                let claims = deletes.then(|| one(SCALED, json!("Retain"))).flatten();
                one("/spec/replicas", json!(0)).into_iter().chain(claims).collect()
            }
            Rule::Autoscaler => {
                // An autoscaler leaves a workload at zero alone, but for one whose own minimum is zero.
                let from_zero = object.pointer("/spec/minReplicas").and_then(Value::as_i64) == Some(0);
                from_zero.then(|| one("/spec/minReplicas", json!(1))).flatten().into_iter().collect()
            }
            Rule::Defer => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_of_the_table_parses_and_no_kind_is_listed_twice() {
        let mut kinds = std::collections::BTreeSet::new();
        for (group, kind, rule) in TABLE {
            assert!(kinds.insert((group, kind)), "{kind}.{group}");
            if let Rule::Set(places) = rule {
                assert_eq!(rule.places(&json!({})).len(), places.len(), "{kind}.{group}");
            }
        }
    }
}
