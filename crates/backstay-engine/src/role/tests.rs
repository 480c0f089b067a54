use backstay_types::SessionId;
use backstay_types::frame::Proposals;
use proptest::prelude::*;

use super::*;

const ROLES: [SiteRole; 4] = [SiteRole::Active, SiteRole::Standby, SiteRole::Demoting, SiteRole::Promoting];

fn shop() -> PlanName {
    "shop".parse().expect("a name")
}

fn point(epoch: u64, number: u64) -> RestorePointId {
    RestorePointId { epoch: Epoch(epoch), number }
}

fn begin(epoch: u64, number: u64) -> Begin {
    Begin { session: SessionId(1), plan: shop(), id: point(epoch, number), parent: None }
}

fn local(role: SiteRole, epoch: u64) -> Option<Local> {
    Some(Local { role, epoch: Epoch(epoch) })
}

fn state(role: SiteRole, epoch: u64) -> PlanState {
    PlanState {
        plan: shop(),
        role: Some(role),
        epoch: Epoch(epoch),
        newest: None,
        newest_snapshot_time: None,
        applied: None,
        apply_failure: None,
        proposals: Proposals::default(),
    }
}

#[test]
fn a_new_plan_begins_after_an_earlier_one_of_its_name() {
    let nobody = |epoch| PlanState { role: None, ..state(SiteRole::Standby, epoch) };
    for (peer, begins) in [
        (nobody(0), 1),
        (nobody(3), 3),
        (state(SiteRole::Standby, 3), 3),
        (state(SiteRole::Active, 3), 1),
        (state(SiteRole::Promoting, 3), 1),
        (state(SiteRole::Demoting, 3), 1),
        (nobody(EPOCH_NEW_MAX.0), EPOCH_NEW_MAX.0),
        (nobody(EPOCH_NEW_MAX.0 + 1), 1),
    ] {
        assert_eq!(first_epoch(Epoch::FIRST, &peer), Epoch(begins), "{peer:?}");
        let most = if begins > 5 { begins } else { 5 };
        assert_eq!(first_epoch(Epoch(5), &peer), Epoch(most), "{peer:?}");
    }
}

#[test]
fn a_sender_is_admitted_by_role_and_epoch() {
    use SiteRole::{Active, Demoting, Promoting, Standby};
    let cases = [
        (Standby, 2, 2, None),
        (Standby, 2, 3, None),
        (Standby, 2, 1, Some(Class::Fenced)),
        (Active, 2, 1, Some(Class::Fenced)),
        (Active, 2, 2, Some(Class::Fenced)),
        (Active, 2, 3, Some(Class::Busy)),
        (Promoting, 2, 2, Some(Class::Fenced)),
        (Promoting, 2, 3, Some(Class::Busy)),
        (Demoting, 2, 1, Some(Class::Fenced)),
        (Demoting, 2, 2, Some(Class::Busy)),
        (Demoting, 2, 3, Some(Class::Busy)),
    ];
    for (role, ours, theirs, refused) in cases {
        let share =
            SharePlan { plan: shop(), epoch: Epoch(theirs), spec: String::new(), rules: String::new() };
        let asked = admit_question(local(role, ours), &shop(), Epoch(theirs));
        assert_eq!(asked.err().map(|error| error.class()), refused, "{role:?} at {ours}, asked at {theirs}");
        for result in
            [admit_begin(local(role, ours), &begin(theirs, 5), None), admit_share(local(role, ours), &share)]
        {
            let class = result.as_ref().err().map(Classify::class);
            assert_eq!(class, refused, "{role:?} at {ours}, sender at {theirs}");
            if let Err(refusal) = &result {
                assert!(refusal.hint().is_some(), "{refusal}");
                assert_eq!(refusal.to_frame().epoch, Some(Epoch(ours)));
                let steps_down = theirs > ours && role != Demoting;
                assert_eq!(refusal.steps_down_for(), steps_down.then_some(Epoch(theirs)));
            }
            if let Ok(grant) = result {
                assert_eq!(grant.local, Local { role: Standby, epoch: Epoch(theirs) });
                assert_eq!(grant.is_new, theirs > ours);
            }
        }
    }
}

#[test]
fn an_old_epoch_is_refused_with_both_epochs() {
    let refusal = admit_begin(local(SiteRole::Standby, 7), &begin(5, 1), None).expect_err("refused");
    let text = refusal.to_string();
    assert!(text.contains("epoch 5") && text.contains("epoch 7"), "{text}");
}

#[test]
fn numbers_must_grow_over_epochs() {
    let newest = Some(point(2, 41));
    let admit = |begin: Begin| admit_begin(local(SiteRole::Standby, 3), &begin, newest).map(|_| ());
    assert_eq!(admit(begin(3, 42)), Ok(()));
    for taken in [41, 40, 1] {
        let error = admit(begin(3, taken)).expect_err("taken");
        assert!(matches!(error, Refusal::NumberTaken { .. }), "{error}");
        assert_eq!(error.hint().as_deref(), Some("the next number is 42"));
    }
    let with_parent = |parent| Begin { parent: Some(parent), ..begin(3, 42) };
    assert_eq!(admit(with_parent(point(2, 41))), Ok(()));
    for bad in [
        begin(0, 42),
        begin(3, 0),
        begin(3, u64::MAX),
        begin(u64::MAX, 42),
        with_parent(point(3, 42)),
        with_parent(point(4, 1)),
    ] {
        let error = admit(bad).expect_err("a bad id");
        assert!(matches!(error.class(), Class::Invalid | Class::Fenced), "{error}");
    }
}

#[test]
fn a_plan_that_was_never_shared_is_not_found_and_a_new_one_is_taken() {
    let refusal = admit_begin(None, &begin(1, 1), None).expect_err("not known");
    assert_eq!(refusal.class(), Class::NotFound);
    let share = SharePlan { plan: shop(), epoch: Epoch(4), spec: String::new(), rules: String::new() };
    let grant = admit_share(None, &share).expect("taken");
    assert_eq!(grant, Grant { local: Local { role: SiteRole::Standby, epoch: Epoch(4) }, is_new: true });
}

fn share(epoch: u64) -> SharePlan {
    SharePlan { plan: shop(), epoch: Epoch(epoch), spec: String::new(), rules: String::new() }
}

#[test]
fn a_plan_that_is_new_here_begins_at_an_epoch_that_plans_reach() {
    for (epoch, is_taken) in
        [(0, false), (1, true), (EPOCH_NEW_MAX.0, true), (EPOCH_NEW_MAX.0 + 1, false), (u64::MAX, false)]
    {
        let result = admit_share(None, &share(epoch));
        assert_eq!(result.is_ok(), is_taken, "{epoch}: {result:?}");
        assert!(is_taken || matches!(result, Err(Refusal::BadEpoch { .. })), "{result:?}");
    }
    assert!(matches!(admit_share(local(SiteRole::Standby, 2), &share(0)), Err(Refusal::BadEpoch { .. })));
}

/// One frame may not use the epochs up: from then on nothing could be told from anything older.
#[test]
fn a_leap_of_the_epoch_stops_the_plan_and_moves_nothing() {
    let step = 2 + EPOCH_STEP_MAX;
    for role in ROLES {
        for (epoch, is_leap) in
            [(step, false), (step + 1, true), (EPOCH_MAX.0, true), (EPOCH_MAX.0 + 1, true), (u64::MAX, true)]
        {
            let us = Local { role, epoch: Epoch(2) };
            let promoted = Promoted { plan: shop(), epoch: Epoch(epoch) };
            let refused = Refused { class: 0, message: String::new(), hint: None, epoch: Some(Epoch(epoch)) };
            for news in [
                on_promoted(us, &promoted),
                on_peer_state(us, &state(SiteRole::Active, epoch)),
                on_peer_state(us, &state(SiteRole::Standby, epoch)),
                on_refused(us, &refused),
            ] {
                assert_eq!(news == News::Leap { epoch: Epoch(epoch) }, is_leap, "{role:?} {epoch}: {news:?}");
            }
            for result in [
                admit_share(Some(us), &share(epoch)).map(drop),
                admit_begin(Some(us), &begin(epoch, 5), None).map(drop),
                admit_question(Some(us), &shop(), Epoch(epoch)),
            ] {
                let leaps = result.as_ref().err().and_then(Refusal::leaps_to);
                assert_eq!(leaps, is_leap.then_some(Epoch(epoch)), "{role:?} {epoch}: {result:?}");
                if let Err(refusal @ Refusal::EpochLeap { .. }) = &result {
                    assert_eq!((refusal.class(), refusal.epoch()), (Class::Fenced, None));
                    assert!(refusal.hint().is_some_and(|hint| hint.contains("promote shop --force")));
                }
            }
        }
    }
    // What is known for certain is never out of reach of one more promotion.
    assert!(!is_leap(Epoch(EPOCH_NEW_MAX.0), Epoch(EPOCH_NEW_MAX.0).next()));
}

#[test]
fn numbers_cannot_be_used_up() {
    let admit = |number, newest: Option<u64>| {
        let newest = newest.map(|newest| point(1, newest));
        admit_begin(local(SiteRole::Standby, 3), &begin(3, number), newest).map(drop)
    };
    for (number, newest, is_taken) in [
        (NUMBER_NEW_MAX, None, true),
        (NUMBER_NEW_MAX + 1, None, false),
        (u64::MAX - 1, None, false),
        (u64::MAX, None, false),
        (7 + NUMBER_STEP_MAX, Some(7), true),
        (8 + NUMBER_STEP_MAX, Some(7), false),
        (u64::MAX - 1, Some(7), false),
    ] {
        let result = admit(number, newest);
        assert_eq!(result.is_ok(), is_taken, "{number} after {newest:?}: {result:?}");
        assert!(is_taken || matches!(result, Err(Refusal::NumberLeap { .. })), "{result:?}");
    }
    // The side that sends believes no more of the side that receives.
    for (ours, theirs, next) in [
        (0, None, Some(1)),
        (0, Some(NUMBER_NEW_MAX), Some(NUMBER_NEW_MAX + 1)),
        (0, Some(u64::MAX), None),
        (9, Some(12), Some(13)),
        (12, Some(9), Some(13)),
        (9, Some(9 + NUMBER_STEP_MAX), Some(10 + NUMBER_STEP_MAX)),
        (9, Some(10 + NUMBER_STEP_MAX), None),
    ] {
        let found = next_number(&shop(), ours, theirs.map(|number| point(1, number)));
        assert_eq!(found.ok(), next, "{ours} {theirs:?}");
    }
}

#[test]
fn news_of_an_epoch() {
    use SiteRole::{Active, Demoting, Promoting, Standby};
    let promoted = |epoch| Promoted { plan: shop(), epoch: Epoch(epoch) };
    let news = |role, ours, theirs| on_promoted(Local { role, epoch: Epoch(ours) }, &promoted(theirs));
    for role in ROLES {
        assert_eq!(news(role, 3, 2), News::Nothing, "{role:?}");
    }
    for role in [Active, Promoting, Demoting] {
        assert_eq!(news(role, 3, 4), News::StepDown { epoch: Epoch(4) }, "{role:?}");
    }
    assert_eq!(news(Standby, 3, 4), News::Adopt { epoch: Epoch(4) });
    assert_eq!(news(Standby, 3, 3), News::Nothing);
    assert_eq!(news(Active, 3, 3), News::Conflict { epoch: Epoch(3) });
    let us = Local { role: Active, epoch: Epoch(3) };
    assert_eq!(on_peer_state(us, &state(Standby, 3)), News::Nothing, "the usual state of a pair");
    assert_eq!(on_peer_state(us, &state(Standby, 4)), News::StepDown { epoch: Epoch(4) });
    assert_eq!(on_peer_state(us, &PlanState { role: None, ..state(Standby, 9) }), News::Nothing);
}

#[derive(Debug, Clone, Copy)]
enum Act {
    /// A site is promoted.
    Promote(usize),
    /// A site hears what the other is.
    Hear(usize),
    /// A site that is demoting is done with it.
    HeldDown(usize),
    /// Somebody with the identity of the other site claims an epoch.
    Claim(usize, u64),
}

fn act() -> impl Strategy<Value = Act> {
    let site = 0_usize..2;
    prop_oneof![
        1 => site.clone().prop_map(Act::Promote),
        3 => site.clone().prop_map(Act::Hear),
        2 => site.clone().prop_map(Act::HeldDown),
        1 => (site, 0..5_usize).prop_map(|(who, far)| {
            Act::Claim(who, [EPOCH_STEP_MAX + 70, 1 << 33, EPOCH_MAX.0, EPOCH_MAX.0 + 1, u64::MAX][far])
        }),
    ]
}

fn hear(sites: &mut [Local; 2], who: usize) {
    let (us, peer) = if who == 0 { (sites[0], sites[1]) } else { (sites[1], sites[0]) };
    sites[who] = match on_peer_state(us, &state(peer.role, peer.epoch.0)) {
        News::Nothing | News::Conflict { .. } | News::Leap { .. } => us,
        News::Adopt { epoch } => Local { epoch, ..us },
        News::StepDown { epoch } => Local { role: SiteRole::Demoting, epoch },
    };
}

fn settle(sites: &mut [Local; 2]) {
    for who in [0, 1, 0, 1] {
        hear(sites, who);
        if sites[who].role == SiteRole::Demoting {
            sites[who].role = SiteRole::Standby;
        }
    }
}

proptest! {
    /// A standby is promoted in a partition, over and over, on either side; when they talk again one is active.
    #[test]
    fn two_sites_that_talk_end_with_one_active(acts in proptest::collection::vec(act(), 0..60)) {
        let mut sites = [
            Local { role: SiteRole::Active, epoch: Epoch(1) },
            Local { role: SiteRole::Standby, epoch: Epoch(1) },
        ];
        for act in acts {
            match act {
                // The simple promotion: beside a peer that cannot be asked, and never of a side that is active.
                Act::Promote(who) if sites[who].role == SiteRole::Standby => {
                    sites[who] = Local { role: SiteRole::Active, epoch: sites[who].epoch.next() };
                }
                Act::Promote(_) => {}
                Act::Hear(who) => hear(&mut sites, who),
                Act::HeldDown(who) if sites[who].role == SiteRole::Demoting => sites[who].role = SiteRole::Standby,
                Act::HeldDown(_) => {}
                Act::Claim(who, epoch) => {
                    let promoted = Promoted { plan: shop(), epoch: Epoch(epoch) };
                    prop_assert_eq!(on_promoted(sites[who], &promoted), News::Leap { epoch: Epoch(epoch) });
                }
            }
            let [a, b] = sites;
            prop_assert!(!(a.holds_active() && b.holds_active() && a.epoch == b.epoch), "{a:?} {b:?}");
        }
        settle(&mut sites);
        let active = sites.iter().filter(|site| site.role == SiteRole::Active).count();
        prop_assert_eq!(active, 1, "{:?}", sites);
        prop_assert_eq!(sites[0].epoch, sites[1].epoch);
    }

    #[test]
    fn an_epoch_never_goes_down(role in 0_usize..4, ours in 0_u64..20, theirs in 0_u64..20, peer in 0_usize..4) {
        let us = Local { role: ROLES[role], epoch: Epoch(ours) };
        match on_peer_state(us, &state(ROLES[peer], theirs)) {
            News::Adopt { epoch } | News::StepDown { epoch } => prop_assert!(epoch > us.epoch),
            News::Conflict { epoch } => prop_assert_eq!(epoch, us.epoch),
            News::Nothing => prop_assert!(theirs <= ours),
            News::Leap { epoch } => prop_assert!(epoch.0 > ours + EPOCH_STEP_MAX),
        }
        if let Ok(grant) = admit_begin(Some(us), &begin(theirs, 1), None) {
            prop_assert!(grant.local.epoch >= us.epoch);
        }
    }
}

#[test]
fn no_plan_begins_beside_a_side_that_runs_it() {
    for (role, begins) in [
        (SiteRole::Standby, Ok(Epoch(3))),
        (SiteRole::Active, Err(Some(Class::Fenced))),
        (SiteRole::Promoting, Err(Some(Class::Fenced))),
        (SiteRole::Demoting, Err(Some(Class::Fenced))),
    ] {
        let admitted = admit_new(&shop(), Epoch(5), &state(role, 3));
        // The refusal carries no epoch: nobody steps down for it.
        assert!(admitted.as_ref().err().is_none_or(|refusal| refusal.epoch().is_none()));
        let admitted = admitted.map_err(|refusal| Some(refusal.class()));
        assert_eq!(admitted, begins.map(|_: Epoch| Epoch(5)), "{role:?}");
    }
    let nobody = PlanState { role: None, ..state(SiteRole::Standby, 7) };
    assert_eq!(admit_new(&shop(), Epoch(5), &nobody), Ok(Epoch(7)));
}
