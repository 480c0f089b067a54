//! Every combination of three volumes, beside a second statement of the rules.

use backstay_types::plan::MinimumConsistency;

use super::*;

const ATOMICITIES: [Atomicity; 4] = [Atomicity::None, Atomicity::File, Atomicity::Volume, Atomicity::Group];

fn views() -> Vec<VolumeView> {
    let quiets = [Quiet::Proven, not_proven(true), not_proven(false)];
    let view = |atomicity| {
        quiets.clone().map(|quiet| VolumeView { name: "data".parse().expect("a name"), atomicity, quiet })
    };
    ATOMICITIES.into_iter().flat_map(view).collect()
}

fn not_proven(may_pass: bool) -> Quiet {
    Quiet::NotProven(Unquiet { why: "1 file was written".to_owned(), paths: vec!["a".to_owned()], may_pass })
}

fn combinations() -> Vec<Vec<VolumeView>> {
    let mut all = vec![Vec::new()];
    let mut last = all.clone();
    for place in 0..3 {
        let longer = last.iter().flat_map(|begun: &Vec<VolumeView>| {
            views().into_iter().map(move |mut view| {
                view.name = format!("v{place}").parse().expect("a name");
                [begun.clone(), vec![view]].concat()
            })
        });
        last = longer.collect();
        all.extend(last.iter().cloned());
    }
    all
}

/// The same rules in other words: a point shows an instant of everything if there is a moment that each view is of.
fn expected(volumes: &[VolumeView], writers: &Writers) -> Consistency {
    let has = |atomicity| volumes.iter().filter(|volume| volume.atomicity == atomicity).count();
    let moving = |volume: &&VolumeView| {
        let quiet = volume.quiet == Quiet::Proven;
        !quiet && (volume.atomicity == Atomicity::None || volume.atomicity == Atomicity::File)
    };
    if *writers == Writers::Stopped && has(Atomicity::None) == 0 {
        return Consistency::Application;
    }
    if volumes.iter().any(|volume| moving(&volume)) {
        return Consistency::Fuzzy;
    }
    let quiet = volumes.iter().filter(|volume| volume.quiet == Quiet::Proven).count();
    match volumes.len() {
        0 | 1 => Consistency::Crash,
        all if quiet == all || has(Atomicity::Group) == all => Consistency::Crash,
        _ => Consistency::CrashPerVolume,
    }
}

#[test]
fn every_word_is_earned() {
    let all = combinations();
    assert_eq!(all.len(), 1 + 12 + 144 + 1728);
    for volumes in &all {
        for writers in [Writers::Stopped, Writers::Running] {
            let verdict = derive(volumes, &writers);
            assert_eq!(verdict.word, expected(volumes, &writers), "{volumes:?} {writers:?}");
            let is_below = !verdict.word.reaches(MinimumConsistency::Crash);
            assert_eq!(verdict.below.is_some(), is_below, "{volumes:?} {writers:?}");
        }
    }
}

#[test]
fn what_lowers_a_word_is_named() {
    let view =
        |name: &str, atomicity, quiet| VolumeView { name: name.parse().expect("a name"), atomicity, quiet };
    let volumes =
        [view("logs", Atomicity::Volume, not_proven(true)), view("data", Atomicity::File, not_proven(true))];
    let verdict = derive(&volumes, &Writers::Running);
    assert_eq!(verdict.word, Consistency::Fuzzy);
    assert_eq!(verdict.below.expect("named").to_string(), "volume data: 1 file was written: a");
}

#[test]
fn the_best_word_counts_what_can_never_be_proven() {
    let rank = |word: Consistency| {
        [MinimumConsistency::CrashPerVolume, MinimumConsistency::Crash, MinimumConsistency::Application]
            .into_iter()
            .filter(|minimum| word.reaches(*minimum))
            .count()
    };
    for volumes in &combinations() {
        for writers in [Writers::Stopped, Writers::Running] {
            let (now, best) = (derive(volumes, &writers), best(volumes, &writers));
            assert!(rank(best.word) >= rank(now.word), "{volumes:?}");
            let never = |volume: &&VolumeView| {
                volume.atomicity < Atomicity::Volume
                    && matches!(&volume.quiet, Quiet::NotProven(unquiet) if !unquiet.may_pass)
            };
            if volumes.iter().any(|volume| never(&volume)) && writers == Writers::Running {
                assert_eq!(best.word, Consistency::Fuzzy, "{volumes:?}");
            }
        }
    }
}

#[test]
fn words_are_in_order() {
    use MinimumConsistency::{Application, Crash, CrashPerVolume, Fuzzy};
    let reached = |word: Consistency| {
        [Fuzzy, CrashPerVolume, Crash, Application].into_iter().filter(|least| word.reaches(*least)).count()
    };
    let words =
        [Consistency::Fuzzy, Consistency::CrashPerVolume, Consistency::Crash, Consistency::Application];
    assert_eq!(words.map(reached), [1, 2, 3, 4]);
    assert_eq!([Consistency::Unknown, Consistency::Diverged].map(reached), [1, 1]);
}
