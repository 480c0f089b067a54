use backstay_types::frame::SiteRole;
use backstay_types::{Class, Classify, Epoch, PlanName, RestorePointId, Span, Time};

use super::*;
use crate::promotion::PointFacts;

fn point(number: u64) -> PointFacts {
    PointFacts {
        id: RestorePointId { epoch: Epoch(1), number },
        snapshot_time: Time(i64::try_from(number).unwrap() * 1000),
        damaged: false,
        complete: true,
        diverged: false,
    }
}

fn with<T>(
    points: &[PointFacts],
    change: impl FnOnce(&mut DrillFacts<'_>),
    work: impl FnOnce(DrillFacts<'_>) -> T,
) -> T {
    let plan: PlanName = "shop".parse().unwrap();
    let mut facts = DrillFacts {
        plan: &plan,
        number: 3,
        role: SiteRole::Standby,
        epoch: Epoch(1),
        changes_roles: false,
        running: false,
        points,
        wanted: None,
        has_objects: true,
        on_cluster: true,
        probes: 1,
        keep: false,
    };
    change(&mut facts);
    work(facts)
}

fn planned(points: &[PointFacts], change: impl FnOnce(&mut DrillFacts<'_>)) -> Result<Drill, DrillRefused> {
    with(points, change, |facts| plan(&facts, Time(10_000)))
}

/// Carries out every step, each taking a second; `fails` says which fails.
fn run(drill: &mut Drill, fails: Option<StepName>) -> Vec<StepName> {
    let (mut now, mut ran) = (10_000, Vec::new());
    while let Some(step) = drill.next_step() {
        drill.start(step, Time(now)).unwrap();
        now += 1000;
        ran.push(step);
        match fails == Some(step) {
            true => drill.fail(step, Time(now)).unwrap(),
            false => drill.complete(step, Time(now)).unwrap(),
        }
    }
    ran
}

#[test]
fn refusals() {
    let points = [point(1), point(2)];
    let class = |change: &dyn Fn(&mut DrillFacts<'_>)| {
        let refused = planned(&points, |facts| change(facts)).unwrap_err();
        assert!(refused.hint().is_some_and(|hint| hint.contains("shop")), "{refused}");
        refused.class()
    };
    assert_eq!(class(&|facts| facts.role = SiteRole::Active), Class::Fenced);
    assert_eq!(class(&|facts| facts.role = SiteRole::Demoting), Class::Fenced);
    assert_eq!(class(&|facts| facts.role = SiteRole::Promoting), Class::Busy);
    assert_eq!(class(&|facts| facts.changes_roles = true), Class::Busy);
    assert_eq!(class(&|facts| facts.running = true), Class::Busy);
    assert_eq!(class(&|facts| facts.points = &[]), Class::NotFound);
    assert_eq!(class(&|facts| facts.wanted = Some(point(9).id)), Class::NotFound);
}

#[test]
fn the_newest_whole_point_is_rehearsed() {
    let damaged = PointFacts { damaged: true, ..point(3) };
    let diverged = PointFacts { diverged: true, ..point(4) };
    let points = [point(1), point(2), damaged, diverged];
    let drill = planned(&points, |_| ()).unwrap();
    assert_eq!(drill.restore_point, point(2).id);
    assert!(drill.warnings[0].contains("not whole: 1"), "{:?}", drill.warnings);
    assert_eq!(
        planned(&points, |facts| facts.wanted = Some(point(1).id)).unwrap().restore_point,
        point(1).id
    );
    let refused = planned(&points, |facts| facts.wanted = Some(damaged.id)).unwrap_err();
    assert_eq!(refused.class(), Class::Corrupt);
    assert!(refused.hint().unwrap().contains("e1-000002"));
    let drill = planned(&points, |facts| facts.wanted = Some(diverged.id)).unwrap();
    assert_eq!(drill.warnings.len(), 1);
}

#[test]
fn the_recovery_time_ends_with_the_probes() {
    let mut drill = planned(&[point(2)], |_| ()).unwrap();
    assert_eq!(drill.outcome().rto, None);
    assert_eq!(run(&mut drill, None), StepName::ALL);
    let outcome = drill.outcome();
    assert!(outcome.passed);
    assert_eq!(outcome.rpo, Span(8000));
    assert_eq!(outcome.rto, Some(Span(5000)), "the teardown is the sixth second");
}

#[test]
fn a_failed_step_skips_to_the_teardown() {
    for failed in StepName::ALL {
        let mut drill = planned(&[point(2)], |_| ()).unwrap();
        let ran = run(&mut drill, Some(failed));
        assert_eq!(ran.last(), Some(&StepName::TearDown), "{failed}");
        let outcome = drill.outcome();
        assert!(!outcome.passed, "{failed}");
        assert_eq!(outcome.rto.is_some(), failed == StepName::TearDown, "{failed}");
    }
}

#[test]
fn what_there_is_nothing_to_do_for_is_skipped() {
    let change = |facts: &mut DrillFacts<'_>| {
        facts.has_objects = false;
        facts.on_cluster = false;
        facts.probes = 0;
        facts.keep = true;
    };
    let mut drill = planned(&[point(2)], change).unwrap();
    assert_eq!(run(&mut drill, None), [StepName::CheckRestorePoint, StepName::Volumes]);
    assert!(drill.outcome().passed);
    assert!(drill.warnings.iter().any(|warning| warning.contains("no probes")));
    // Kept also when it failed: that is when somebody wants to look.
    let mut drill = planned(&[point(2)], |facts| facts.keep = true).unwrap();
    let ran = run(&mut drill, Some(StepName::Probes));
    assert_eq!(ran.last(), Some(&StepName::Probes));
}

#[test]
fn steps_come_in_order() {
    let mut drill = planned(&[point(2)], |_| ()).unwrap();
    let error = drill.start(StepName::Probes, Time(0)).unwrap_err();
    assert_eq!(error.class(), Class::Bug);
    assert!(drill.complete(StepName::Volumes, Time(0)).is_err());
}
