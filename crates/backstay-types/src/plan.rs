//! The plan, as an operator writes it. The same fields are the `spec` of the custom resources.

mod automatic;
mod drill;
mod hold;
mod ownership;
mod reversed;
mod rule;
mod scope;
mod unhonoured;

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use crate::consistency::MinimumConsistency;
use crate::{Class, Classify, Span, VolumeName, limits};

pub use automatic::{AutomaticFailover, WitnessKind};
pub use drill::{DrillSpec, ExecProbe, HttpProbe, InvalidDrill, ProbeSpec, ServicePort};
pub use hold::{HoldCommands, HostHold, InvalidHold};
pub use ownership::{OWNERS, Owner};
pub use reversed::Irreversible;
pub use rule::{ActionKind, InvalidRule, OnError, RuleAction, RuleSpec, RuleTarget, WAIT_CMD};
pub use scope::{
    InvalidKindPattern, KindPattern, LabelExpression, LabelOperator, LabelSelector, TransformSpec,
    VolumePattern,
};

/// `spec` of a `ReplicationPlan`: what is protected and how.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [
    {
        "rule": "has(self.volumes) || has(self.manifests) || has(self.namespaces) || has(self.namespaceSelector)",
        "message": "the plan names no volumes, no namespaces and no manifests"
    },
    {
        "rule": "!has(self.manifests) || !(has(self.namespaces) || has(self.namespaceSelector))",
        "message": "expected at most one of `manifests` and `namespaces` or `namespaceSelector`"
    },
    {
        "rule": "!(has(self.schedule) && has(self.schedulePolicy))",
        "message": "expected at most one of `schedule` and `schedulePolicy`"
    },
    {
        "rule": "!has(self.hold) || !(has(self.namespaces) || has(self.namespaceSelector))",
        "message": "`hold` stops what runs on a host, and the plan is over namespaces"
    },
    {
        "rule": "has(self.namespaces) || has(self.namespaceSelector) || !(has(self.selector) || has(self.includeResources) || has(self.excludeResources) || has(self.excludeVolumes) || has(self.namespaceMapping) || has(self.storageClassMapping) || has(self.imageRegistryMapping) || has(self.transforms) || has(self.waitReady))",
        "message": "a plan without namespaces cannot honour selector, includeResources, excludeResources, excludeVolumes, namespaceMapping, storageClassMapping, imageRegistryMapping, transforms or waitReady"
    },
    {
        "rule": "has(self.namespaces) || has(self.namespaceSelector) || ((!has(self.purgeDeletedResources) || self.purgeDeletedResources != false) && (!has(self.purgeDeletedData) || self.purgeDeletedData != true))",
        "message": "a plan without namespaces cannot honour purgeDeletedResources: false or purgeDeletedData: true"
    }
]))]
pub struct PlanSpec {
    /// Name of the peer the plan replicates to.
    pub pair: String,
    /// When cycles run; without it and without `schedulePolicy`, only `backstay sync` runs one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Schedule>,
    /// Name of a `SchedulePolicy` to use instead of an inline schedule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule_policy: Option<String>,
    /// Name of a `Rule` that runs before the snapshot, in the pods of the plan's namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pre_exec_rule: Option<String>,
    /// Name of a `Rule` that runs after the snapshot, also when it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub post_exec_rule: Option<String>,
    /// How many restore points are kept on the standby.
    #[serde(default)]
    pub retention: Retention,
    /// The lag the operator wants to stay under; shown beside the achieved one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rpo_target: Option<Span>,
    /// Data: folders, block devices and images.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<VolumeSpec>,
    /// A folder of YAML in place of a cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifests: Option<ManifestFolder>,
    /// Namespaces of the cluster whose objects are protected.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<String>,
    /// Further namespaces, by their labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    /// Objects with these labels only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
    /// These kinds only; a cluster-scoped kind that is named here is protected whole.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub include_resources: Vec<KindPattern>,
    /// All but these kinds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude_resources: Vec<KindPattern>,
    /// Volumes of pods that stand in the pod itself (`hostPath`, `nfs`, `csi` …) and are not replicated, on purpose.
    /// Any other such volume fails the cycle by name; `emptyDir` and what is made from objects never does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude_volumes: Vec<VolumePattern>,
    /// Namespaces that have another name on the standby.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub namespace_mapping: BTreeMap<String, String>,
    /// Storage classes that have another name on the standby.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub storage_class_mapping: BTreeMap<String, String>,
    /// Image registries, or registries with a path, that images come from on the standby.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub image_registry_mapping: BTreeMap<String, String>,
    /// Changes to objects on the standby, in this order, after the mappings.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub transforms: Vec<TransformSpec>,
    /// Delete objects of ours on the standby that are gone at the source; true without it. Namespaces, volumes,
    /// claims and custom resource definitions stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purge_deleted_resources: Option<bool>,
    /// Delete namespaces, volumes, claims and custom resource definitions as well.
    #[serde(default)]
    pub purge_deleted_data: bool,
    /// What a restore point must at least promise; a cycle that cannot keep it fails, naming the volume. A plan that is
    /// made without it, and without `allowFuzzy`, keeps `crash`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum_consistency: Option<MinimumConsistency>,
    /// The old name of `minimumConsistency: fuzzy`.
    #[serde(default)]
    pub allow_fuzzy: bool,
    /// Accept volumes and objects that are gone, or nearly, although the last restore point has them: a cycle that
    /// finds so much less is refused without it. Meant for the one cycle after something was deleted on purpose.
    #[serde(default)]
    pub allow_empty: bool,
    /// Apply objects on the standby as they are, without holding their controllers.
    #[serde(default)]
    pub start_applications: bool,
    /// Further custom resources to hold on the standby.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holds: Vec<HoldSpec>,
    /// What stops the application on the host that the plan is made on, while the other site runs it; of the other site
    /// its `site.toml` says so. A switchover without it holds nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<HostHold>,
    /// How a rehearsal of the takeover is judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drill: Option<DrillSpec>,
    /// After a takeover, wait up to so long for what was started to be ready; without it, for nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_ready: Option<Span>,
    /// What is done, or must be so, once a takeover has started everything, in this order: each is tried until it
    /// passes or its time is up (`60s` without one). One that does not pass is a warning, and the next one is tried. A
    /// takeover that was cut off may do them twice.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub promote_hooks: Vec<ProbeSpec>,
    /// Run no cycles until resumed.
    #[serde(default)]
    pub suspend: bool,
    /// Take over without being told, by a witness; never without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub automatic_failover: Option<AutomaticFailover>,
}

/// One volume of a plan: exactly one of `path` and `device`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VolumeSpec {
    /// Name, unique in the plan: a DNS label.
    #[schemars(with = "String")]
    pub name: VolumeName,
    /// A folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// A block device or an image file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<PathBuf>,
    /// How a point-in-time view of it is taken.
    #[serde(default)]
    pub snapshot: SnapshotSpec,
}

/// How a volume is snapshotted.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SnapshotSpec {
    /// Which provider.
    #[serde(default)]
    pub provider: SnapshotKind,
    /// `command`: run to take the snapshot; prints the path to read from on its first line of output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub create: Option<Vec<String>>,
    /// `command`: run to release it, also after a failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<Vec<String>>,
    /// `command`: how long each may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
    /// `command`: what it takes at one instant, `volume` without it. With `group` it must show the same instant for
    /// every volume of the plan that names the same `create`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub atomic: Option<CommandAtomicity>,
}

/// Which snapshot provider takes a volume's snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum SnapshotKind {
    /// The best the path offers: `btrfs` for a subvolume, `reflink` where clones work, else `none`.
    #[default]
    Auto,
    /// Read in place; a file that changes while it is read is read again.
    None,
    /// Clone each changed file (XFS, btrfs).
    Reflink,
    /// A read-only btrfs subvolume snapshot.
    Btrfs,
    /// The operator's own commands.
    Command,
}

/// What a snapshot command takes at one instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum CommandAtomicity {
    /// The volume it is run for.
    #[default]
    Volume,
    /// Every volume of the plan that it is run for.
    Group,
}

/// A folder of Kubernetes manifests that stands in for a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ManifestFolder {
    /// Where the YAML is on the active side.
    pub path: PathBuf,
}

/// A custom resource to hold on the standby: the value at `path` is replaced by `heldValue` until promotion.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HoldSpec {
    /// API group; empty for the core group.
    #[serde(default)]
    pub group: String,
    /// Kind.
    pub kind: String,
    /// JSON pointer of the field, such as `/spec/replicas`.
    pub path: String,
    /// Value while held, as JSON text, such as `0` or `"true"`.
    pub held_value: String,
}

/// When cycles run: any mix of its parts; each moment that any of them names starts a cycle.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Schedule {
    /// Every so long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Span>,
    /// Cron expression of five fields.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cron: Option<String>,
    /// IANA name of the zone that `cron`, `daily`, `weekly`, `monthly` and `blackout` are in; UTC without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    /// Every day at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub daily: Option<Daily>,
    /// Every week on a day at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weekly: Option<Weekly>,
    /// Every month on a date at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monthly: Option<Monthly>,
    /// Each run starts up to this much later, so that many plans do not start at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jitter: Option<Span>,
    /// Windows in which no cycle starts; one that falls into a window runs at its end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blackout: Vec<Blackout>,
}

/// Every day at a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Daily {
    /// `HH:MM`.
    pub time: String,
}

/// Every week on a day at a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Weekly {
    /// `Monday` … `Sunday`, or the first three letters.
    pub day: String,
    /// `HH:MM`.
    pub time: String,
}

/// Every month on a date at a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Monthly {
    /// 1 to 31; in a shorter month, its last day.
    #[schemars(range(min = 1, max = 31))]
    pub date: u8,
    /// `HH:MM`.
    pub time: String,
}

/// A window in which no cycle starts; one that ends before it begins runs over midnight.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Blackout {
    /// `HH:MM`.
    pub from: String,
    /// `HH:MM`.
    pub to: String,
    /// Days it begins on; every day without it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub days: Vec<String>,
}

/// How many restore points are kept: the newest `last`, and the newest of each of the last so many hours,
/// days, weeks and months that have one. The newest of all is always kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Retention {
    /// The newest so many.
    #[serde(default)]
    pub last: u32,
    /// One an hour.
    #[serde(default)]
    pub hourly: u32,
    /// One a day.
    #[serde(default)]
    pub daily: u32,
    /// One a week.
    #[serde(default)]
    pub weekly: u32,
    /// One a month.
    #[serde(default)]
    pub monthly: u32,
}

impl Default for Retention {
    /// The last ten.
    fn default() -> Self {
        Self { last: 10, hourly: 0, daily: 0, weekly: 0, monthly: 0 }
    }
}

impl Retention {
    /// Whether no rule keeps a restore point. The newest is kept even then, but a point to go back to is what the
    /// history is for.
    pub fn keeps_nothing(&self) -> bool {
        *self == Self { last: 0, hourly: 0, daily: 0, weekly: 0, monthly: 0 }
    }
}

/// `spec` of a `SchedulePolicy`: a schedule that plans share by name.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SchedulePolicySpec {
    /// The schedule.
    #[serde(flatten)]
    pub schedule: ScheduleFields,
    /// Retention for plans that set none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retain: Option<Retention>,
}

/// The fields of a schedule, inlined into a policy.
pub type ScheduleFields = Schedule;

/// A plan that contradicts itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPlan {
    /// Nothing to protect.
    #[error("the plan names no volumes, no namespaces and no manifests")]
    Nothing,
    /// A folder and a cluster at once.
    #[error("expected at most one of `manifests` and `namespaces` or `namespaceSelector`")]
    TwoClusters,
    /// A name that no namespace can have.
    #[error("{field}: expected the name of a namespace, found {name:?}")]
    Namespace {
        /// Which field.
        field: &'static str,
        /// What it says.
        name: String,
    },
    /// Two namespaces would become one.
    #[error("`namespaceMapping` sends {first} and {second} to one namespace, {target}")]
    NamespacesMerge {
        /// The one.
        first: String,
        /// The other.
        second: String,
        /// Where to.
        target: String,
    },
    /// A selector the API would refuse.
    #[error("{field}: {why}")]
    Selector {
        /// Which field.
        field: String,
        /// What is wrong.
        why: String,
    },
    /// Not exactly one patch.
    #[error("transforms[{index}]: expected exactly one of `jsonPatch` and `mergePatch`")]
    Transform {
        /// Which, from 0.
        index: usize,
    },
    /// Two volumes of one name.
    #[error("two volumes are named {name}")]
    TwoVolumes {
        /// The name.
        name: VolumeName,
    },
    /// Not exactly one of `path` and `device`.
    #[error("volume {name}: expected exactly one of `path` and `device`")]
    Source {
        /// The volume.
        name: VolumeName,
    },
    /// A relative path means something else to the daemon than to the person who wrote it.
    #[error("{field}: expected an absolute path, found {path:?}")]
    RelativePath {
        /// Which field.
        field: String,
        /// What it says.
        path: PathBuf,
    },
    /// Snapshot commands without the `command` provider, or the other way round.
    #[error("volume {name}: `snapshot.create` is set if and only if `snapshot.provider` is `command`")]
    SnapshotCommand {
        /// The volume.
        name: VolumeName,
    },
    /// An atomicity of what is not the operator's command.
    #[error("volume {name}: `snapshot.atomic` is for `snapshot.provider: command`")]
    SnapshotAtomic {
        /// The volume.
        name: VolumeName,
    },
    /// The old name of the least word, and another word.
    #[error("expected at most one of `allowFuzzy` and a `minimumConsistency` above `fuzzy`")]
    TwoMinimums,
    /// Rules that keep nothing.
    #[error("retention: expected at least one of last, hourly, daily, weekly and monthly above 0")]
    Retention,
    /// Both an inline schedule and a policy.
    #[error("expected at most one of `schedule` and `schedulePolicy`")]
    TwoSchedules,
    /// Rules, and no pods to run them in.
    #[error("`preExecRule` and `postExecRule` run in pods, and the plan names no namespaces")]
    RuleWithoutPods,
    /// A field that says something about objects of a cluster, and there is none.
    #[error("`{field}` has no effect: the plan names no namespaces")]
    Unhonoured {
        /// Which.
        field: &'static str,
    },
    /// Probes of a drill that cannot be used.
    #[error(transparent)]
    Drill(#[from] InvalidDrill),
    /// A hold that cannot be carried out.
    #[error(transparent)]
    Hold(#[from] InvalidHold),
    /// Too short for a witness to be asked, or too long to be of use.
    #[error("`automaticFailover.after`: expected 5s to 1d, found {found}")]
    FailoverAfter {
        /// What it says.
        found: Span,
    },
    /// Too much of something.
    #[error("the plan has {found} volumes: at most {max} allowed", max = limits::PLAN_VOLUMES_MAX)]
    TooManyVolumes {
        /// How many.
        found: usize,
    },
}

impl Classify for InvalidPlan {
    fn class(&self) -> Class {
        Class::Invalid
    }

    fn hint(&self) -> Option<String> {
        match self {
            InvalidPlan::Retention => Some(
                "`last: 1` keeps the newest restore point alone; without `retention` it is the last ten"
                    .to_owned(),
            ),
            InvalidPlan::Drill(error) => error.hint(),
            InvalidPlan::Hold(error) => error.hint(),
            InvalidPlan::Unhonoured { field } => Some(format!(
                "take `{field}` out of the plan; a folder of manifests is replicated whole, as it is"
            )),
            _ => None,
        }
    }
}

impl PlanSpec {
    /// Whether objects of a cluster are protected.
    pub fn covers_cluster(&self) -> bool {
        !self.namespaces.is_empty() || self.namespace_selector.is_some()
    }

    /// The rules it names.
    pub fn rules(&self) -> impl Iterator<Item = &str> {
        self.pre_exec_rule.iter().chain(&self.post_exec_rule).map(String::as_str)
    }

    /// What a restore point must at least promise, where the plan says.
    pub fn minimum(&self) -> Option<MinimumConsistency> {
        self.minimum_consistency.or(self.allow_fuzzy.then_some(MinimumConsistency::Fuzzy))
    }

    /// Whether objects of ours on the standby go when they are gone at the source.
    pub fn purges_deleted(&self) -> bool {
        self.purge_deleted_resources.unwrap_or(true)
    }

    /// Checks what the types alone cannot.
    pub fn validate(&self) -> Result<(), InvalidPlan> {
        if self.volumes.is_empty() && self.manifests.is_none() && !self.covers_cluster() {
            return Err(InvalidPlan::Nothing);
        }
        if self.manifests.is_some() && self.covers_cluster() {
            return Err(InvalidPlan::TwoClusters);
        }
        if self.rules().next().is_some() && !self.covers_cluster() {
            return Err(InvalidPlan::RuleWithoutPods);
        }
        self.validate_objects()?;
        self.drill.as_ref().map_or(Ok(()), |drill| drill.validate(self.covers_cluster()))?;
        drill::validate_hooks(&self.promote_hooks, self.covers_cluster())?;
        self.automatic_failover.as_ref().map_or(Ok(()), AutomaticFailover::validate)?;
        if let Some(hold) = &self.hold {
            if self.covers_cluster() {
                return Err(InvalidHold::OnCluster.into());
            }
            hold.validate()?;
        }
        if self.volumes.len() > limits::PLAN_VOLUMES_MAX {
            return Err(InvalidPlan::TooManyVolumes { found: self.volumes.len() });
        }
        if self.retention.keeps_nothing() {
            return Err(InvalidPlan::Retention);
        }
        if self.allow_fuzzy
            && self.minimum_consistency.is_some_and(|least| least != MinimumConsistency::Fuzzy)
        {
            return Err(InvalidPlan::TwoMinimums);
        }
        if self.schedule.is_some() && self.schedule_policy.is_some() {
            return Err(InvalidPlan::TwoSchedules);
        }
        let mut names = std::collections::BTreeSet::new();
        for volume in &self.volumes {
            let name = || volume.name.clone();
            if !names.insert(&volume.name) {
                return Err(InvalidPlan::TwoVolumes { name: name() });
            }
            let (field, source) = match (&volume.path, &volume.device) {
                (Some(path), None) => ("path", path),
                (None, Some(device)) => ("device", device),
                _ => return Err(InvalidPlan::Source { name: name() }),
            };
            absolute(format!("volume {}: `{field}`", volume.name), source)?;
            let is_command = volume.snapshot.provider == SnapshotKind::Command;
            if volume.snapshot.atomic.is_some() && !is_command {
                return Err(InvalidPlan::SnapshotAtomic { name: name() });
            }
            if is_command != volume.snapshot.create.as_ref().is_some_and(|command| !command.is_empty()) {
                return Err(InvalidPlan::SnapshotCommand { name: name() });
            }
        }
        self.manifests.as_ref().map_or(Ok(()), |folder| absolute("`manifests.path`".to_owned(), &folder.path))
    }
}

impl PlanSpec {
    fn validate_objects(&self) -> Result<(), InvalidPlan> {
        let mapped = self.namespace_mapping.iter().flat_map(|(from, to)| [from, to]);
        let named = self.namespaces.iter().map(|name| ("`namespaces`", name));
        for (field, name) in named.chain(mapped.map(|name| ("`namespaceMapping`", name))) {
            if !is_namespace(name) {
                return Err(InvalidPlan::Namespace { field, name: name.clone() });
            }
        }
        // Where each namespace goes: two that meet would overwrite each other's objects.
        let mut targets = BTreeMap::new();
        for source in self.namespaces.iter().chain(self.namespace_mapping.keys()) {
            let target = self.namespace_mapping.get(source).unwrap_or(source);
            match targets.insert(target, source) {
                Some(first) if first != source => {
                    let (first, second) = (first.clone(), source.clone());
                    return Err(InvalidPlan::NamespacesMerge { first, second, target: target.clone() });
                }
                _ => {}
            }
        }
        let own = [("`namespaceSelector`", &self.namespace_selector), ("`selector`", &self.selector)];
        let own = own.map(|(field, selector)| (field.to_owned(), selector));
        let theirs = self.transforms.iter().enumerate();
        let theirs = theirs.map(|(index, rule)| (format!("transforms[{index}].selector"), &rule.selector));
        for (field, selector) in own.into_iter().chain(theirs) {
            if let Some(why) = selector.as_ref().and_then(LabelSelector::problem) {
                return Err(InvalidPlan::Selector { field, why });
            }
        }
        let one_patch = |rule: &TransformSpec| rule.json_patch.is_some() != rule.merge_patch.is_some();
        match self.transforms.iter().position(|rule| !one_patch(rule)) {
            Some(index) => Err(InvalidPlan::Transform { index }),
            None => Ok(()),
        }
    }
}

/// A DNS label.
fn is_namespace(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !name.is_empty()
        && name.len() <= limits::NAME_BYTES_MAX
        && name.bytes().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

fn absolute(field: String, path: &std::path::Path) -> Result<(), InvalidPlan> {
    if path.is_absolute() { Ok(()) } else { Err(InvalidPlan::RelativePath { field, path: path.to_owned() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(field: &str) -> PlanSpec {
        let volume = r#"{"name": "data", "path": "/srv"}"#;
        serde_json::from_str(&format!(r#"{{"pair": "west", "volumes": [{volume}]{field}}}"#)).expect("a plan")
    }

    #[test]
    fn the_least_word_has_an_old_name() {
        let least = |field: &str| (plan(field).minimum(), plan(field).validate());
        assert_eq!(least(""), (None, Ok(())));
        assert_eq!(least(r#", "allowFuzzy": true"#), (Some(MinimumConsistency::Fuzzy), Ok(())));
        let both = r#", "allowFuzzy": true, "minimumConsistency": "fuzzy""#;
        assert_eq!(least(both), (Some(MinimumConsistency::Fuzzy), Ok(())));
        let crash = r#", "minimumConsistency": "crashPerVolume""#;
        assert_eq!(least(crash), (Some(MinimumConsistency::CrashPerVolume), Ok(())));
        let two = r#", "allowFuzzy": true, "minimumConsistency": "crash""#;
        assert_eq!(least(two).1, Err(InvalidPlan::TwoMinimums));
    }

    #[test]
    fn only_a_command_says_what_it_takes() {
        let mut plan = plan("");
        plan.volumes[0].snapshot.atomic = Some(CommandAtomicity::Group);
        assert!(matches!(plan.validate(), Err(InvalidPlan::SnapshotAtomic { .. })));
        plan.volumes[0].snapshot.provider = SnapshotKind::Command;
        plan.volumes[0].snapshot.create = Some(vec!["take".to_owned()]);
        assert_eq!(plan.validate(), Ok(()));
    }
}
