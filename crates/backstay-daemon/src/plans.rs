//! The plans a site knows: one durable JSON file each, and in memory the same.
//!
//! 1. A role or epoch is on disk before anybody acts on it.
//! 2. Role and epoch change by transitions alone ([`PlanState`]), and an epoch never shrinks ([`PlanBook::put`] refuses it).
//!
//! After a crash the files are the truth; nothing here is only in the catalog.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};

use backstay_engine::plan_state::{PlanState, Transition};
use backstay_engine::role::Local;
use backstay_types::plan::{
    HoldSpec, Irreversible, MinimumConsistency, PlanSpec, RuleSpec, SchedulePolicySpec,
};
use backstay_types::point::RestorePoint;
use backstay_types::{ChunkId, Epoch, PairId, PlanName, RestorePointId, SiteId, Time, VolumeName};
use backstay_volume::{Mark, Shown};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::api_types::{ObjectsStatus, ReplicaWarning};
use crate::plan_ops::wrong_role;
use crate::proposed::{Proposed, Withheld};
use crate::{DaemonError, files};

/// What a site knows of one plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PlanRecord {
    pub(crate) name: PlanName,
    /// The pair that it goes over. It follows the peer: see `pair_ops/follow.rs`.
    pub(crate) pair: PairId,
    /// The peer itself, whatever becomes of the pair with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) peer_site: Option<SiteId>,
    /// What this site is for it.
    #[serde(flatten)]
    pub(crate) state: PlanState,
    pub(crate) spec: PlanSpec,
    /// Number of the newest restore point this site has made or received.
    pub(crate) number: u64,
    /// Whether the plan was made here: then its paths are paths of this site.
    pub(crate) home: bool,
    /// Uid of the resource that it was begun by.
    pub(crate) resource: Option<String>,
    /// Where the volumes behind claims of this site's cluster are, as its objects say.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) claims: BTreeMap<VolumeName, PathBuf>,
    /// What a point must at least promise where the spec does not say. Plans that were made before there was a word to
    /// choose accepted everything.
    #[serde(default)]
    pub(crate) minimum: MinimumConsistency,
    /// The rules that the plan names, as the other side shared them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) rules: BTreeMap<String, RuleSpec>,
    /// Those of them that the operator of this site has accepted, as they were then: no other runs here.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) accepted_rules: BTreeMap<String, RuleSpec>,
    /// Plans whose replicas on this site are what this one reads, where it was made.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) chained: BTreeSet<PlanName>,
    /// What the active side says of the plan, and the operator of this site, where it was made, has not accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) proposed: Option<Proposed>,
}

impl PlanRecord {
    /// A plan that begins.
    pub(crate) fn new(name: PlanName, pair: PairId, local: Local, spec: PlanSpec, home: bool) -> Self {
        Self {
            name,
            pair,
            peer_site: None,
            state: PlanState::new(local),
            spec,
            number: 0,
            home,
            resource: None,
            claims: BTreeMap::new(),
            minimum: MinimumConsistency::Crash,
            rules: BTreeMap::new(),
            accepted_rules: BTreeMap::new(),
            chained: BTreeSet::new(),
            proposed: None,
        }
    }

    /// What a restore point must at least promise.
    pub(crate) fn minimum(&self) -> MinimumConsistency {
        self.spec.minimum().unwrap_or(self.minimum)
    }

    /// The plan in the names of this side's cluster: as this side sends by it.
    pub(crate) fn sends_by(&self) -> Result<Cow<'_, PlanSpec>, Irreversible> {
        if self.home { Ok(Cow::Borrowed(&self.spec)) } else { self.spec.reversed().map(Cow::Owned) }
    }

    /// Takes a step; a plan that is not where it begins stays as it is.
    pub(crate) fn apply(&mut self, transition: Transition) -> Result<(), DaemonError> {
        let what = transition.name();
        self.state = self.state.apply(transition).map_err(|_| wrong_role(self, what))?;
        Ok(())
    }
}

/// What the replicas of a plan show.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Applied {
    /// The restore point all volumes and objects were brought to.
    pub(crate) point: Option<RestorePointId>,
    /// Set before the first byte is touched, gone when `point` is set: an apply that must be finished.
    pub(crate) target: Option<RestorePointId>,
    /// Manifest roots the volumes show, or showed before `target` was begun.
    pub(crate) volumes: BTreeMap<VolumeName, ChunkId>,
    /// What the last apply of each volume left; a volume without one is compared in full.
    #[serde(default)]
    pub(crate) marks: BTreeMap<VolumeName, Mark>,
    /// What is shown was kept by a side that stepped down, and was not applied: its application may believe that it still
    /// runs here.
    #[serde(default)]
    pub(crate) kept: bool,
    /// What was last found in the replicas that nobody had applied.
    #[serde(default)]
    pub(crate) warning: Option<ReplicaWarning>,
    /// The objects shown.
    #[serde(default)]
    pub(crate) objects: Option<AppliedObjects>,
    /// What the files of the objects looked like then.
    #[serde(default)]
    pub(crate) object_files: Option<String>,
    /// What the objects became on a cluster; none where they are in a folder.
    #[serde(default)]
    pub(crate) cluster: Option<ObjectsStatus>,
    /// When `point` was reached.
    pub(crate) time: Option<Time>,
    /// The pair whose hashing key made the ids above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pair: Option<PairId>,
    /// What of `point` is kept and not shown.
    #[serde(default, skip_serializing_if = "Withheld::is_empty")]
    pub(crate) withheld: Withheld,
}

impl Applied {
    /// What a volume shows, if it is known well enough to apply a difference.
    pub(crate) fn shown(&self, volume: &VolumeName) -> Option<Shown<'_>> {
        Some(Shown { root: self.volumes.get(volume)?, mark: self.marks.get(volume)? })
    }
}

/// Objects as they were applied: the same bundle held in another way is another thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AppliedObjects {
    /// Root of the bundle.
    pub(crate) bundle: ChunkId,
    holds: Vec<HoldSpec>,
    start_applications: bool,
}

impl AppliedObjects {
    pub(crate) fn new(bundle: ChunkId, spec: &PlanSpec) -> Self {
        Self { bundle, holds: spec.holds.clone(), start_applications: spec.start_applications }
    }
}

/// What stays of a plan that was deleted here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EndedPlan {
    pub(crate) pair: PairId,
    /// The epoch it had: a plan of its name does not begin below.
    pub(crate) epoch: Epoch,
    /// Whether its standby is still to be told.
    pub(crate) untold: bool,
}

/// The last cycle of a plan on its active side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LastSuccess {
    pub(crate) point: RestorePoint,
    /// What the next cycle is compared with, beside the point itself. Sites of before have none.
    #[serde(default)]
    pub(crate) seen: Seen,
    /// Whether the word of the point was derived; before it could be, it was assumed.
    #[serde(default)]
    pub(crate) derived: bool,
}

/// What a cycle saw that its restore point does not tell.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Seen {
    /// Objects that run something.
    pub(crate) workloads: Option<u64>,
    /// Volumes that came from claims which nothing else owns.
    pub(crate) claims: BTreeSet<VolumeName>,
    /// Digest of what the plan said it covers.
    pub(crate) scope: String,
}

/// Every plan of the site.
pub(crate) struct PlanBook {
    folder: PathBuf,
    plans: RwLock<BTreeMap<PlanName, Arc<PlanRecord>>>,
    policies: Named<SchedulePolicySpec>,
    rules: Named<RuleSpec>,
    ended: Named<EndedPlan>,
}

const POISONED: &str = "no holder of this lock panics";

impl PlanBook {
    /// Reads the plans under `folder`.
    pub(crate) fn open(folder: &Path) -> Result<Self, DaemonError> {
        files::make_folder(folder)?;
        let mut plans = BTreeMap::new();
        let list = || std::fs::read_dir(folder)?.collect::<std::io::Result<Vec<_>>>();
        for entry in list().map_err(|source| DaemonError::io("list", folder, source))? {
            // Beside the folders of plans lie the files of what plans name.
            if !entry.path().is_dir() {
                continue;
            }
            let path = entry.path().join("plan.json");
            if let Some(record) = files::read_json::<PlanRecord>(&path)? {
                let fields = record.spec.unhonoured().join(", ");
                if !fields.is_empty() {
                    tracing::warn!(plan = %record.name, fields, "fields of the plan have no effect: it names no namespaces");
                }
                plans.insert(record.name.clone(), Arc::new(record));
            }
        }
        Ok(Self {
            folder: folder.to_owned(),
            plans: RwLock::new(plans),
            policies: Named::open(folder.join("policies.json"))?,
            rules: Named::open(folder.join("rules.json"))?,
            ended: Named::open(folder.join("ended.json"))?,
        })
    }

    /// Every plan, by name.
    pub(crate) fn list(&self) -> Vec<Arc<PlanRecord>> {
        self.plans.read().expect(POISONED).values().cloned().collect()
    }

    /// A plan, if it is known.
    pub(crate) fn find(&self, name: &PlanName) -> Option<Arc<PlanRecord>> {
        self.plans.read().expect(POISONED).get(name).cloned()
    }

    /// A plan that must be known.
    pub(crate) fn get(&self, name: &PlanName) -> Result<Arc<PlanRecord>, DaemonError> {
        let plans = self.plans.read().expect(POISONED);
        plans.get(name).cloned().ok_or_else(|| DaemonError::plan_not_found(name, plans.keys()))
    }

    /// The error that a plan is not known.
    pub(crate) fn unknown(&self, name: &PlanName) -> DaemonError {
        DaemonError::plan_not_found(name, self.plans.read().expect(POISONED).keys())
    }

    /// Adds or replaces a plan durably.
    pub(crate) fn put(&self, record: PlanRecord) -> Result<Arc<PlanRecord>, DaemonError> {
        let mut plans = self.plans.write().expect(POISONED);
        self.store(&mut plans, record)
    }

    /// Adds a plan durably, unless one of its name has come meanwhile, such as the peer's.
    pub(crate) fn add(&self, record: PlanRecord) -> Result<Arc<PlanRecord>, DaemonError> {
        let mut plans = self.plans.write().expect(POISONED);
        if let Some(found) = plans.get(&record.name) {
            return Err(wrong_role(found, "adding the plan"));
        }
        self.store(&mut plans, record)
    }

    /// Changes a plan durably.
    pub(crate) fn update(
        &self,
        name: &PlanName,
        change: impl FnOnce(&mut PlanRecord),
    ) -> Result<Arc<PlanRecord>, DaemonError> {
        self.decide(name, |record| {
            change(record);
            Ok(())
        })
        .map(|(record, ())| record)
    }

    /// Takes a step of the plan durably; a plan that is not where it begins stays as it is.
    pub(crate) fn transition(
        &self,
        name: &PlanName,
        transition: Transition,
    ) -> Result<Arc<PlanRecord>, DaemonError> {
        self.decide(name, |record| record.apply(transition)).map(|(record, ())| record)
    }

    /// Decides on the plan as it is and changes it durably, with nothing in between; a refusal changes nothing.
    pub(crate) fn decide<T>(
        &self,
        name: &PlanName,
        decision: impl FnOnce(&mut PlanRecord) -> Result<T, DaemonError>,
    ) -> Result<(Arc<PlanRecord>, T), DaemonError> {
        let mut plans = self.plans.write().expect(POISONED);
        let Some(old) = plans.get(name).cloned() else {
            return Err(DaemonError::plan_not_found(name, plans.keys()));
        };
        let mut record = (*old).clone();
        let decided = decision(&mut record)?;
        // What is as it was is on disk already.
        let record = if record == *old { old } else { self.store(&mut plans, record)? };
        Ok((record, decided))
    }

    /// Disk first, memory after.
    fn store(
        &self,
        plans: &mut BTreeMap<PlanName, Arc<PlanRecord>>,
        record: PlanRecord,
    ) -> Result<Arc<PlanRecord>, DaemonError> {
        if let Some(old) = plans.get(&record.name)
            && old.state.epoch() > record.state.epoch()
        {
            return Err(DaemonError::EpochShrinks {
                plan: record.name.clone(),
                known: old.state.epoch(),
                asked: record.state.epoch(),
            });
        }
        let folder = self.plan_folder(&record.name);
        files::make_folder(&folder)?;
        files::write_json(&folder.join("plan.json"), &record)?;
        let record = Arc::new(record);
        plans.insert(record.name.clone(), record.clone());
        Ok(record)
    }

    /// Forgets a plan durably. Its restore points and replicas stay.
    pub(crate) fn remove(&self, name: &PlanName) -> Result<bool, DaemonError> {
        let mut plans = self.plans.write().expect(POISONED);
        files::remove(&self.plan_folder(name).join("plan.json"))?;
        Ok(plans.remove(name).is_some())
    }

    /// Folder of a plan's own state files.
    pub(crate) fn plan_folder(&self, name: &PlanName) -> PathBuf {
        self.folder.join(name.as_str())
    }

    /// What a freeze under way has to undo, also after a crash.
    pub(crate) fn freeze_record(&self, name: &PlanName) -> PathBuf {
        self.plan_folder(name).join("freeze.json")
    }

    /// What the replicas of a plan show.
    pub(crate) fn applied(&self, name: &PlanName) -> Result<Applied, DaemonError> {
        Ok(files::read_json(&self.plan_folder(name).join("applied.json"))?.unwrap_or_default())
    }

    /// Records what the replicas of a plan show.
    pub(crate) fn set_applied(&self, name: &PlanName, applied: &Applied) -> Result<(), DaemonError> {
        files::write_json(&self.plan_folder(name).join("applied.json"), applied)
    }

    /// The newest point of this plan that the peer acknowledged.
    pub(crate) fn last_success(&self, name: &PlanName) -> Result<Option<LastSuccess>, DaemonError> {
        let last: Option<LastSuccess> = files::read_json(&self.plan_folder(name).join("last-success.json"))?;
        Ok(last.map(|mut last| {
            if !last.derived {
                last.point.consistency = last.point.consistency.unless_assumed();
            }
            last
        }))
    }

    /// Records the newest point that the peer acknowledged.
    pub(crate) fn set_last_success(&self, name: &PlanName, last: &LastSuccess) -> Result<(), DaemonError> {
        files::write_json(&self.plan_folder(name).join("last-success.json"), last)
    }

    /// The schedule policies.
    pub(crate) fn policies(&self) -> &Named<SchedulePolicySpec> {
        &self.policies
    }

    /// Plans that were deleted here, by name.
    pub(crate) fn ended(&self) -> &Named<EndedPlan> {
        &self.ended
    }

    /// The rules.
    pub(crate) fn rules(&self) -> &Named<RuleSpec> {
        &self.rules
    }
}

/// What plans name: specs by name, all of a kind in one durable JSON file.
pub(crate) struct Named<T> {
    path: PathBuf,
    specs: RwLock<BTreeMap<String, T>>,
}

impl<T: Clone + PartialEq + Serialize + DeserializeOwned> Named<T> {
    fn open(path: PathBuf) -> Result<Self, DaemonError> {
        let specs = files::read_json(&path)?.unwrap_or_default();
        Ok(Self { path, specs: RwLock::new(specs) })
    }

    /// One of them, if it is known.
    pub(crate) fn get(&self, name: &str) -> Option<T> {
        self.specs.read().expect(POISONED).get(name).cloned()
    }

    /// All of them.
    pub(crate) fn all(&self) -> BTreeMap<String, T> {
        self.specs.read().expect(POISONED).clone()
    }

    /// Forgets one durably; tells whether it was there.
    pub(crate) fn remove(&self, name: &str) -> Result<bool, DaemonError> {
        let mut specs = self.specs.write().expect(POISONED);
        let mut left = specs.clone();
        let existed = left.remove(name).is_some();
        if existed {
            files::write_json(&self.path, &left)?;
            *specs = left;
        }
        Ok(existed)
    }

    /// Adds or replaces one durably; tells whether anything changed, and whether it was there.
    pub(crate) fn put(&self, name: &str, spec: T) -> Result<(bool, bool), DaemonError> {
        let mut specs = self.specs.write().expect(POISONED);
        let old = specs.insert(name.to_owned(), spec.clone());
        let changed = old.as_ref() != Some(&spec);
        if changed {
            files::write_json(&self.path, &*specs)?;
        }
        Ok((changed, old.is_some()))
    }
}
