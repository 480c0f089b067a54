//! What runs where: the rules of a plan on the pods there are. Nothing is started here.
//!
//! 1. A selector that no running pod matches, or a matching container that does not run, leaves an application
//!    unquieted: it is a warning, and its writers do not count as stopped.

use std::collections::BTreeMap;

use backstay_types::plan::{RuleSpec, RuleTarget};
use k8s_openapi::api::core::v1::{Container, Pod};

use super::fault::FreezeError;
use super::record::{Place, PodSteps, Step};

/// Pods that are frozen together. Each has a connection open, of some 80 KiB: 20 MiB.
const PODS_MAX: usize = 256;

const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// Which of a plan's two rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Pre,
    Post,
}

impl Side {
    pub(super) const fn field(self) -> &'static str {
        match self {
            Side::Pre => "preExecRule",
            Side::Post => "postExecRule",
        }
    }
}

/// A target of a rule, and the pods that its selector found.
pub(super) struct Found<'r> {
    pub(super) side: Side,
    /// Its place in the rule.
    pub(super) index: usize,
    pub(super) target: &'r RuleTarget,
    pub(super) pods: Vec<Pod>,
}

/// What runs, and what was found wanting.
#[derive(Debug, Default)]
pub(super) struct Chosen {
    pub(super) pods: Vec<PodSteps>,
    pub(super) warnings: Vec<String>,
}

/// Every target of both rules.
pub(super) fn targets<'r>(
    pre: Option<&'r RuleSpec>,
    post: Option<&'r RuleSpec>,
) -> impl Iterator<Item = (Side, usize, &'r RuleTarget)> {
    let of = |side, rule: Option<&'r RuleSpec>| {
        let targets = rule.into_iter().flat_map(|rule| rule.rules.iter().enumerate());
        targets.map(move |(index, target)| (side, index, target))
    };
    of(Side::Pre, pre).chain(of(Side::Post, post))
}

/// Lays the targets on their pods. `new_id` makes names that are never used twice.
pub(super) fn choose(found: &[Found<'_>], mut new_id: impl FnMut() -> String) -> Result<Chosen, FreezeError> {
    let mut pods: BTreeMap<(String, String), PodSteps> = BTreeMap::new();
    let mut warnings = Vec::new();
    for one in found {
        let at = format!("{}.rules[{}]", one.side.field(), one.index);
        let mut places = Vec::new();
        for pod in one.pods.iter().filter(|pod| is_running(pod)) {
            match container(pod, one.target)? {
                (place, is_private, true) => places.push((place, is_private)),
                (place, ..) => warnings.push(format!(
                    "{at}: container {} of pod {}/{} does not run",
                    place.container, place.namespace, place.pod
                )),
            }
        }
        places.sort_by(|(a, _), (b, _)| (&a.namespace, &a.pod).cmp(&(&b.namespace, &b.pod)));
        if places.is_empty() && one.side == Side::Pre {
            warnings.push(format!("{at}: no running pod matches its podSelector"));
        }
        for (number, action) in one.target.actions.iter().enumerate() {
            let count = if action.run_in_single_pod { 1 } else { places.len() };
            for (place, is_private) in places.iter().take(count) {
                let steps = pods.entry((place.namespace.clone(), place.pod.clone())).or_default();
                let steps = if one.side == Side::Pre { &mut steps.pre } else { &mut steps.post };
                steps.push(Step {
                    name: format!("{at}.actions[{number}]"),
                    id: new_id(),
                    place: place.clone(),
                    is_private: *is_private,
                    action: action.clone(),
                });
            }
        }
    }
    match pods.len() {
        found if found > PODS_MAX => Err(FreezeError::TooManyPods { found, max: PODS_MAX }),
        _ => Ok(Chosen { pods: pods.into_values().collect(), warnings }),
    }
}

fn is_running(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    phase == Some("Running") && pod.metadata.deletion_timestamp.is_none()
}

/// The container a target means, whether it has Secrets in its environment, and whether it runs.
fn container(pod: &Pod, target: &RuleTarget) -> Result<(Place, bool, bool), FreezeError> {
    let name = pod.metadata.name.clone().unwrap_or_default();
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let spec = pod.spec.iter();
    // Sidecars are init containers that go on.
    let all: Vec<&Container> =
        spec.flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten())).collect();
    let annotated = pod.metadata.annotations.iter().find_map(|all| all.get(DEFAULT_CONTAINER));
    let wanted = target.container.as_ref().or(annotated);
    let found = match wanted {
        Some(wanted) => all.into_iter().find(|container| container.name == *wanted),
        None => all.into_iter().next(),
    };
    let found = found.ok_or_else(|| FreezeError::NoContainer {
        pod: format!("{namespace}/{name}"),
        container: wanted.cloned().unwrap_or_default(),
    })?;
    let place = Place {
        namespace,
        pod: name,
        uid: pod.metadata.uid.clone().unwrap_or_default(),
        container: found.name.clone(),
    };
    let runs = runs(pod, &place.container);
    Ok((place, has_secrets(found) || mounts_secrets(pod, found), runs))
}

/// Whether a container of a pod runs.
pub(super) fn runs(pod: &Pod, container: &str) -> bool {
    let status = pod.status.iter();
    let mut containers = status.flat_map(|status| {
        let lists = [&status.container_statuses, &status.init_container_statuses];
        lists.into_iter().flatten().flatten()
    });
    let state = containers.find(|status| status.name == container).and_then(|status| status.state.as_ref());
    state.is_some_and(|state| state.running.is_some())
}

fn has_secrets(container: &Container) -> bool {
    let whole = container.env_from.iter().flatten().any(|from| from.secret_ref.is_some());
    let mut sources = container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref());
    whole || sources.any(|source| source.secret_key_ref.is_some())
}

/// Whether a volume that the container mounts may hold Secrets.
fn mounts_secrets(pod: &Pod, container: &Container) -> bool {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let secret = volumes.filter(|volume| {
        let mut projected = volume.projected.iter().flat_map(|all| all.sources.iter().flatten());
        volume.secret.is_some() || volume.csi.is_some() || projected.any(|source| source.secret.is_some())
    });
    let mut mounted = container.volume_mounts.iter().flatten();
    let names: Vec<&str> = secret.map(|volume| volume.name.as_str()).collect();
    mounted.any(|mount| names.contains(&mount.name.as_str()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, change: impl Fn(&mut Value)) -> Pod {
        let mut pod = json!({
            "metadata": {"name": name, "namespace": "shop", "uid": format!("u-{name}")},
            "spec": {"containers": [
                {"name": "db", "env": [{"name": "P", "valueFrom": {"secretKeyRef": {"name": "s", "key": "p"}}}]},
                {"name": "log"},
            ]},
            "status": {"phase": "Running", "containerStatuses": [
                {"name": "db", "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": {"running": {}}},
                {"name": "log", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": {"waiting": {}}},
            ]},
        });
        change(&mut pod);
        serde_json::from_value(pod).unwrap()
    }

    fn chosen(rule: Value, side: Side, pods: Vec<Pod>) -> Result<Chosen, FreezeError> {
        let rule: RuleSpec = serde_json::from_value(rule).unwrap();
        let found = rule.rules.iter().enumerate();
        let found: Vec<_> =
            found.map(|(index, target)| Found { side, index, target, pods: pods.clone() }).collect();
        let mut count = 0;
        choose(&found, || {
            count += 1;
            format!("id{count}")
        })
    }

    fn steps(chosen: &Chosen) -> Vec<Vec<&str>> {
        chosen
            .pods
            .iter()
            .map(|pod| pod.pre.iter().map(|step| step.action.value.as_str()).collect())
            .collect()
    }

    #[test]
    fn actions_are_laid_on_pods_in_order() {
        let rule = json!({"rules": [
            {"podSelector": {"a": "b"}, "actions": [{"value": "one"}, {"value": "single", "runInSinglePod": true}]},
            {"podSelector": {"a": "b"}, "actions": [{"value": "two"}]},
        ]});
        let chosen = chosen(rule, Side::Pre, vec![pod("b", |_| ()), pod("a", |_| ())]).unwrap();
        assert_eq!(steps(&chosen), [vec!["one", "single", "two"], vec!["one", "two"]]);
        let first = &chosen.pods[0].pre[0];
        assert_eq!((first.place.pod.as_str(), first.place.container.as_str()), ("a", "db"));
        assert!(first.is_private, "its environment has a Secret");
        assert_eq!(first.name, "preExecRule.rules[0].actions[0]");
        let ids: std::collections::BTreeSet<_> =
            chosen.pods.iter().flat_map(|pod| &pod.pre).map(|step| &step.id).collect();
        assert_eq!(ids.len(), 5);
        assert_eq!(chosen.warnings, [""; 0]);
    }

    #[test]
    fn what_does_not_run_is_left_out_and_told() {
        let rule = |container: Option<&str>| json!({"rules": [{"podSelector": {"a": "b"}, "container": container, "actions": [{"value": "x"}]}]});
        let ended = pod("a", |pod| pod["status"]["phase"] = "Succeeded".into());
        let leaving = pod("b", |pod| pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into());
        let none = chosen(rule(None), Side::Pre, vec![ended.clone(), leaving]).unwrap();
        assert_eq!(none.warnings, ["preExecRule.rules[0]: no running pod matches its podSelector"]);
        assert!(none.pods.is_empty());
        let none = chosen(rule(None), Side::Post, vec![ended]).unwrap();
        assert!(none.pods.is_empty() && none.warnings.is_empty(), "nothing to thaw is no trouble");
        let waiting = chosen(rule(Some("log")), Side::Pre, vec![pod("a", |_| ())]).unwrap();
        assert_eq!(waiting.warnings[0], "preExecRule.rules[0]: container log of pod shop/a does not run");
        let error = chosen(rule(Some("web")), Side::Pre, vec![pod("a", |_| ())]).unwrap_err();
        assert_eq!(error.to_string(), "pod shop/a has no container web");
        let annotated = pod("a", |pod| {
            pod["metadata"]["annotations"] = json!({DEFAULT_CONTAINER: "log"});
            pod["status"]["containerStatuses"][1]["state"] = json!({"running": {}});
        });
        let log = chosen(rule(None), Side::Pre, vec![annotated]).unwrap();
        assert_eq!(
            (log.pods[0].pre[0].place.container.as_str(), log.pods[0].pre[0].is_private),
            ("log", false)
        );
    }

    #[test]
    fn pods_are_bounded() {
        let rule = json!({"rules": [{"podSelector": {"a": "b"}, "actions": [{"value": "x"}]}]});
        let pods = |count| (0..count).map(|number| pod(&format!("p{number}"), |_| ())).collect();
        assert_eq!(chosen(rule.clone(), Side::Pre, pods(PODS_MAX)).unwrap().pods.len(), PODS_MAX);
        assert!(matches!(
            chosen(rule, Side::Pre, pods(PODS_MAX + 1)),
            Err(FreezeError::TooManyPods { found: 257, .. })
        ));
    }
}
