use backstay_types::frame::{PlanState, Proposals, SiteRole};
use backstay_types::{Class, Classify, Epoch, PlanName, RestorePointId, Span, Time};
use proptest::prelude::*;

use super::*;

const NOW: Time = Time(1_800_000_000_000);

fn id(epoch: u64, number: u64) -> RestorePointId {
    RestorePointId { epoch: Epoch(epoch), number }
}

fn point(number: u64) -> PointFacts {
    PointFacts {
        id: id(2, number),
        snapshot_time: NOW.minus(Span::from_secs(1000 - 10 * number)),
        damaged: false,
        complete: true,
        diverged: false,
    }
}

fn peer(reachable: bool, role: SiteRole, epoch: u64) -> PeerFacts {
    let state = PlanState {
        plan: shop(),
        role: Some(role),
        epoch: Epoch(epoch),
        newest: None,
        newest_snapshot_time: None,
        applied: None,
        apply_failure: None,
        proposals: Proposals::default(),
    };
    PeerFacts { reachable, state: Some(state) }
}

fn shop() -> PlanName {
    "shop".parse().expect("a name")
}

/// Facts of a standby at epoch 2 with points 1 to 3, all applied, whose peer is gone.
struct Case {
    plan: PlanName,
    role: SiteRole,
    points: Vec<PointFacts>,
    applied: Option<RestorePointId>,
    applying: Option<RestorePointId>,
    peer: PeerFacts,
    last_sign: Option<Time>,
    wanted: Option<RestorePointId>,
    force: bool,
    accept_partial: bool,
    lease: Option<Epoch>,
}

impl Default for Case {
    fn default() -> Self {
        Self {
            plan: shop(),
            role: SiteRole::Standby,
            points: (1..=3).map(point).collect(),
            applied: Some(id(2, 3)),
            applying: None,
            peer: peer(false, SiteRole::Active, 2),
            last_sign: None,
            wanted: None,
            force: false,
            accept_partial: false,
            lease: None,
        }
    }
}

impl Case {
    fn plan(&self) -> Result<Planned, PromotionRefused> {
        let facts = PromotionFacts {
            plan: &self.plan,
            role: self.role,
            epoch: Epoch(2),
            points: &self.points,
            applied: self.applied,
            applying: self.applying,
            peer: &self.peer,
            last_sign: self.last_sign,
            wanted: self.wanted,
            force: self.force,
            accept_partial: self.accept_partial,
            lease: self.lease,
        };
        plan(&facts, NOW)
    }

    fn planned(&self) -> PromotionPlan {
        match self.plan() {
            Ok(Planned::Promote(plan)) => plan,
            other => panic!("expected a promotion, found {other:?}"),
        }
    }

    fn refused(&self, class: Class, hint: &str) -> PromotionRefused {
        let refused = self.plan().expect_err("refused");
        assert_eq!(refused.class(), class, "{refused}");
        assert!(refused.hint().is_some_and(|text| text.contains(hint)), "{:?} has {hint}", refused.hint());
        refused
    }
}

/// A promotion goes above what the peer says: that must not be where the epochs end.
#[test]
fn an_epoch_that_is_not_believed_is_not_gone_above() {
    for (claimed, epoch) in [(1002, 1003), (1003, 3), (1 << 48, 3), (u64::MAX, 3)] {
        let case = Case { peer: peer(true, SiteRole::Active, claimed), force: true, ..Case::default() };
        let plan = case.planned();
        assert_eq!(plan.epoch, Epoch(epoch), "{claimed}");
        let is_told = plan.warnings.iter().any(|warning| warning.contains("not believed"));
        assert_eq!(is_told, epoch == 3, "{:?}", plan.warnings);
    }
    let case = Case { lease: Some(Epoch(1 << 48)), ..Case::default() };
    case.refused(Class::Fenced, "promote shop --force");
}

/// A loss ends with the last sign of the side that is lost, and not with the command that some hour later answers it.
#[test]
fn a_loss_is_counted_to_the_last_sign() {
    let taken = Case::default().planned().snapshot_time;
    let after = |millis| taken.plus(Span(millis));
    let gone = |last_sign| Case { last_sign, ..Case::default() }.planned();
    for (last_sign, rpo, reason) in [
        (None, NOW.since(taken), CountReason::Promotion),
        (Some(after(40_000)), Span(40_000), CountReason::LastSign),
        // A snapshot is a sign as well, and no sign is of the time to come.
        (Some(after(0)), Span(0), CountReason::LastSign),
        (Some(Time(0)), Span(0), CountReason::LastSign),
        (Some(NOW.plus(Span(5_000))), NOW.since(taken), CountReason::LastSign),
    ] {
        let plan = gone(last_sign);
        let found = (plan.outcome(NOW).rpo, plan.counted_from().reason);
        assert_eq!(found, (rpo, reason), "{last_sign:?}");
        assert_eq!(plan.counted_from().time.since(plan.snapshot_time), rpo);
    }
    // A side that answers writes on.
    let peer = peer(true, SiteRole::Active, 2);
    let alive = Case { last_sign: Some(after(40_000)), peer, force: true, ..Case::default() }.planned();
    assert_eq!((alive.counted_from().time, alive.counted_from().reason), (NOW, CountReason::Promotion));
}

#[test]
fn the_newest_point_is_promoted_to_the_next_epoch() {
    let plan = Case::default().planned();
    assert_eq!((plan.restore_point, plan.epoch_before, plan.epoch), (id(2, 3), Epoch(2), Epoch(3)));
    assert_eq!((plan.apply, plan.partial), (Apply::Nothing, false));
    assert!(plan.warnings[0].contains("the peer does not answer"), "{:?}", plan.warnings);
    assert_eq!(plan.outcome(NOW.plus(Span(70))), Outcome { rpo: Span::from_secs(970), rto: Span(70) });
}

#[test]
fn a_live_active_peer_refuses_without_force() {
    for role in [SiteRole::Active, SiteRole::Promoting] {
        let mut case = Case { peer: peer(true, role, 2), ..Case::default() };
        let refused = case.refused(Class::Fenced, "--force");
        assert_eq!(refused.class().exit_code(), 4);
        case.force = true;
        let plan = case.planned();
        assert!(plan.warnings[0].contains("both sides run"), "{:?}", plan.warnings);
    }
    for role in [SiteRole::Standby, SiteRole::Demoting] {
        Case { peer: peer(true, role, 2), ..Case::default() }.planned();
    }
}

#[test]
fn the_epoch_is_above_all_that_are_known() {
    let case = Case { peer: peer(false, SiteRole::Active, 9), ..Case::default() };
    assert_eq!(case.planned().epoch, Epoch(10));
    let mut case = Case::default();
    case.points.push(PointFacts { id: id(6, 4), ..point(3) });
    assert_eq!(case.planned().epoch, Epoch(7));
}

#[test]
fn a_point_that_is_not_whole_is_refused_with_the_way_out() {
    let mut case = Case::default();
    case.points[2].damaged = true;
    let refused = case.refused(Class::Corrupt, "--restore-point e2-000002");
    assert_eq!(refused.class().exit_code(), 6);
    case.accept_partial = true;
    let plan = case.planned();
    assert!(plan.partial && plan.warnings.iter().any(|warning| warning.contains("is damaged")));
    case = Case::default();
    case.points[2].complete = false;
    case.refused(Class::Incomplete, "--accept-partial");
    case.points.iter_mut().for_each(|point| point.damaged = true);
    case.refused(Class::Corrupt, "no whole one is held");
}

#[test]
fn without_points_there_is_nothing_to_promote() {
    let refused = Case { points: vec![], ..Case::default() }.refused(Class::NotFound, "backstay sync shop");
    assert_eq!(refused.class().exit_code(), 3);
    let case = Case { wanted: Some(id(2, 9)), ..Case::default() };
    case.refused(Class::NotFound, "the newest is e2-000003");
}

#[test]
fn a_diverged_point_is_taken_just_by_name() {
    let mut case = Case::default();
    case.points.push(PointFacts { diverged: true, ..point(4) });
    assert_eq!(case.planned().restore_point, id(2, 3));
    case.wanted = Some(id(2, 4));
    let plan = case.planned();
    assert!(plan.warnings.iter().any(|warning| warning.contains("had lost the active role")));
    case.points.drain(..3);
    case.wanted = None;
    case.refused(Class::NotFound, "sync");
}

#[test]
fn an_active_side_is_promoted_already() {
    let case = Case { role: SiteRole::Active, ..Case::default() };
    assert_eq!(case.plan(), Ok(Planned::Already { epoch: Epoch(2) }));
    let case = Case { role: SiteRole::Active, wanted: Some(id(2, 1)), ..Case::default() };
    case.refused(Class::Fenced, "backstay restore shop --restore-point e2-000001");
    Case { role: SiteRole::Promoting, ..Case::default() }.refused(Class::Busy, "status");
    Case { role: SiteRole::Demoting, ..Case::default() }.refused(Class::Fenced, "status");
}

#[test]
fn the_apply_step_knows_its_direction() {
    let cases = [
        (Some(id(2, 2)), None, Apply::Nothing),
        (Some(id(2, 1)), None, Apply::Forward),
        (None, None, Apply::Forward),
        (Some(id(2, 3)), None, Apply::Back),
        (Some(id(2, 1)), Some(id(2, 2)), Apply::Finish),
        (Some(id(2, 2)), Some(id(2, 3)), Apply::Back),
        (Some(id(1, 9)), Some(id(2, 1)), Apply::Forward),
    ];
    for (applied, applying, apply) in cases {
        let case = Case { applied, applying, wanted: Some(id(2, 2)), ..Case::default() };
        let plan = case.planned();
        assert_eq!(plan.apply, apply, "{applied:?} {applying:?}");
        assert!(plan.warnings.iter().any(|warning| warning.contains("newer restore points left behind: 1")));
    }
}

#[test]
fn the_epoch_comes_before_anything_starts() {
    let order = StepName::ALL;
    let at = |name| order.iter().position(|step| *step == name).expect("a step");
    for starts in [StepName::Apply, StepName::Release, StepName::WaitReady] {
        assert!(at(StepName::Epoch) < at(starts));
    }
    assert!(order.is_sorted(), "the order of the names is the order of the steps");
    let mut plan = Case::default().planned();
    for step in order {
        assert_eq!(plan.is_past_return(), step > StepName::Epoch, "{step}");
        plan.complete(step, NOW).expect("in order");
    }
}

#[test]
fn steps_out_of_order_are_refused() {
    let mut plan = Case::default().planned();
    let error = plan.complete(StepName::Epoch, NOW).expect_err("not the first");
    let expected = Some(StepName::CheckRestorePoint);
    assert_eq!(error, StepError::OutOfOrder { expected, found: StepName::Epoch });
    plan.complete(StepName::CheckRestorePoint, NOW).expect("in order");
    plan.complete(StepName::CheckRestorePoint, NOW).expect_err("done already");
    plan.start(StepName::CheckRestorePoint, NOW).expect_err("done already");
}

proptest! {
    #[test]
    fn a_stored_promotion_resumes_at_every_step(kill_at in 0_usize..9, kill_running: bool) {
        let mut plan = Case::default().planned();
        let mut now = NOW;
        let mut carried_out = Vec::new();
        for (number, expected) in StepName::ALL.into_iter().enumerate() {
            prop_assert_eq!(plan.next_step(), Some(expected));
            plan.start(expected, now).expect("in order");
            if number == kill_at {
                if kill_running { carried_out.push(expected); }
                // The daemon dies here and reads what it had stored; the step is carried out again.
                let stored = serde_json::to_string(&plan).expect("it encodes");
                plan = serde_json::from_str(&stored).expect("and decodes");
                prop_assert_eq!(plan.next_step(), Some(expected));
                now = now.plus(Span(1000));
                plan.start(expected, now).expect("again");
            }
            carried_out.push(expected);
            now = now.plus(Span(10));
            plan.complete(expected, now).expect("in order");
        }
        prop_assert_eq!(plan.next_step(), None);
        carried_out.dedup();
        prop_assert_eq!(carried_out, StepName::ALL.to_vec());
        prop_assert_eq!(plan.outcome(now.plus(Span(5000))).rto, Span(1090), "the interruption counts");
        prop_assert_eq!(plan.steps()[kill_at].duration(), Some(Span(1010)));
    }
}

#[test]
fn a_stored_promotion_that_makes_no_sense_is_not_read() {
    let mut plan = Case::default().planned();
    plan.complete(StepName::CheckRestorePoint, NOW).expect("in order");
    plan.start(StepName::Epoch, NOW).expect("in order");
    let good = serde_json::to_value(&plan).expect("it encodes");
    assert_eq!(good["steps"][0]["state"], "done");
    assert_eq!(good["steps"][0]["name"], "checkRestorePoint");
    let damages: [fn(&mut Vec<serde_json::Value>); 4] = [
        |steps| drop(steps.pop()),
        |steps| steps.swap(0, 1),
        |steps| steps[0]["state"] = "pending".into(),
        |steps| steps.clear(),
    ];
    for damage in damages {
        let mut bad = good.clone();
        damage(bad["steps"].as_array_mut().expect("a list"));
        let error = serde_json::from_value::<PromotionPlan>(bad).expect_err("damaged");
        assert!(error.to_string().contains("stored promotion"), "{error}");
    }
}

#[test]
fn a_promotion_under_way_goes_on_to_another_point_at_its_epoch() {
    let mut plan = Case::default().planned();
    for step in [StepName::CheckRestorePoint, StepName::Epoch, StepName::Fence] {
        plan.complete(step, NOW).expect("in order");
    }
    plan.start(StepName::Apply, NOW).expect("in order");
    let (epoch, before) = (plan.epoch, plan.restore_point);
    let older = id(1, 1);
    plan.retarget(older, Time(5));
    assert_eq!((plan.restore_point, plan.snapshot_time, plan.epoch), (older, Time(5), epoch));
    assert!(older < before && plan.apply == Apply::Back);
    assert_eq!(plan.next_step(), Some(StepName::Apply));
    assert!(plan.is_past_return());
}

#[test]
fn a_peer_that_answers_without_its_role_needs_force() {
    let peer = PeerFacts { reachable: true, state: None };
    let case = || Case { peer: peer.clone(), ..Case::default() };
    case().refused(Class::Fenced, "--force");
    Case { force: true, ..case() }.planned();
}

#[test]
fn a_promotion_prints() {
    let mut plan = Case { wanted: Some(id(2, 2)), ..Case::default() }.planned();
    plan.complete(StepName::CheckRestorePoint, NOW).expect("in order");
    plan.start(StepName::Epoch, NOW).expect("in order");
    let expected = "\
promote plan shop to restore point e2-000002
  snapshot  2027-01-15T07:43:40Z (RPO 16m20s, from the promotion)
  epoch     2 -> 3
  apply     take the replicas back
  done      check restore point (0s)
  running   raise the epoch
  pending   fence the peer
  pending   apply
  pending   verify
  pending   release
  pending   wait until ready
  pending   run the hooks
  pending   report
  warning: the peer does not answer: if its workloads still run, they run until it hears of this
  warning: newer restore points left behind: 1
";
    assert_eq!(plan.to_string(), expected);
}
