//! What a restore point may be called: derived from what was seen of it, never assumed.
//!
//! 1. A point is `crash` only if its volumes show one instant: one atomic view, one group snapshot, or a source that
//!    nobody wrote from the first look to the last (`every_word_is_earned`, over all combinations).
//! 2. Only writers that stood still until the last cut make `application`, and only of views that were cut meanwhile:
//!    what is read in place is read after they went on.
//! 3. What lowers a word is named: the volume, and why.
//!
//! Objects lower nothing. An API server gives no instant over several kinds, and whatever runs on one is made to go on
//! from any mixture; the word speaks of the data in volumes. A point of objects alone is `crash`.

#[cfg(test)]
mod tests;

use std::fmt;

use backstay_types::VolumeName;
use backstay_types::point::{Atomicity, Consistency};

/// How one volume of a point was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeView {
    /// Its name.
    pub name: VolumeName,
    /// What one call of its provider takes at one instant.
    pub atomicity: Atomicity,
    /// Whether anybody wrote to its source.
    pub quiet: Quiet,
}

/// Whether a source was written between the first look at any volume of the plan and the last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Quiet {
    /// It was not.
    Proven,
    /// It was, or nothing tells.
    NotProven(Unquiet),
}

/// Why a source is not known to be quiet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unquiet {
    /// In words, such as `12 files were written, 3 MiB`.
    pub why: String,
    /// The first of what was written.
    pub paths: Vec<String>,
    /// Whether it may be quiet another time; nothing tells of some file systems at any time.
    pub may_pass: bool,
}

/// What the rules of the plan did to the application's writers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Writers {
    /// Every rule that stops them succeeded in every pod, and held until the last volume was cut.
    Stopped,
    /// They went on, or may have.
    Running,
}

/// The word of a point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The word.
    pub word: Consistency,
    /// What keeps it below `crash`.
    pub below: Option<Below>,
}

/// What keeps a point below `crash`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Below {
    /// The volume.
    pub volume: VolumeName,
    /// In words.
    pub why: String,
    /// The first of what was written.
    pub paths: Vec<String>,
    /// Whether the next cycle may do better by itself.
    pub may_pass: bool,
}

impl fmt::Display for Below {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "volume {}: {}", self.volume, self.why)?;
        if self.paths.is_empty() { Ok(()) } else { write!(f, ": {}", self.paths.join(", ")) }
    }
}

/// Derives the word of a point.
pub fn derive(volumes: &[VolumeView], writers: &Writers) -> Verdict {
    if *writers == Writers::Stopped && volumes.iter().all(|volume| volume.atomicity > Atomicity::None) {
        return Verdict { word: Consistency::Application, below: None };
    }
    if let Some(torn) = volumes.iter().find(|volume| !volume.is_of_an_instant()) {
        return Verdict {
            word: Consistency::Fuzzy,
            below: Some(torn.below("it was written while it was read")),
        };
    }
    let are_one = volumes.len() <= 1
        || volumes.iter().all(|volume| volume.atomicity == Atomicity::Group)
        || volumes.iter().all(|volume| volume.quiet == Quiet::Proven);
    if are_one {
        return Verdict { word: Consistency::Crash, below: None };
    }
    let first = volumes.iter().find(|volume| volume.quiet != Quiet::Proven);
    let below = first.map(|volume| volume.below("it and the others were snapshotted one after the other"));
    Verdict { word: Consistency::CrashPerVolume, below }
}

/// The best word that can come of volumes taken so, if nobody writes where that can be told.
pub fn best(volumes: &[VolumeView], writers: &Writers) -> Verdict {
    let quiet = |volume: &VolumeView| match &volume.quiet {
        Quiet::NotProven(unquiet) if !unquiet.may_pass => volume.clone(),
        _ => VolumeView { quiet: Quiet::Proven, ..volume.clone() },
    };
    derive(&volumes.iter().map(quiet).collect::<Vec<_>>(), writers)
}

impl VolumeView {
    fn is_of_an_instant(&self) -> bool {
        self.atomicity >= Atomicity::Volume || self.quiet == Quiet::Proven
    }

    fn below(&self, otherwise: &str) -> Below {
        let volume = self.name.clone();
        match &self.quiet {
            Quiet::NotProven(Unquiet { why, paths, may_pass }) => {
                Below { volume, why: why.clone(), paths: paths.clone(), may_pass: *may_pass }
            }
            Quiet::Proven => Below { volume, why: otherwise.to_owned(), paths: Vec::new(), may_pass: true },
        }
    }
}
