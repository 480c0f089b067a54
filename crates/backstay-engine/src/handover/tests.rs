use backstay_types::frame::{PlanState, Proposals};
use backstay_types::{Class, Classify};
use proptest::prelude::*;

use super::*;
use crate::promotion::PeerFacts;

fn shop() -> PlanName {
    "shop".parse().expect("a name")
}

const POINT: RestorePointId = RestorePointId { epoch: Epoch(1), number: 7 };

fn peer(role: Option<SiteRole>, epoch: u64) -> PeerFacts {
    let (newest, newest_snapshot_time, applied) = (Some(POINT), Some(Time(0)), Some(POINT));
    let state = PlanState {
        plan: shop(),
        role,
        epoch: Epoch(epoch),
        newest,
        newest_snapshot_time,
        applied,
        apply_failure: None,
        proposals: Proposals::default(),
    };
    PeerFacts { reachable: true, state: Some(state) }
}

fn decide(
    role: SiteRole,
    is_home: bool,
    target: Target,
    peer: &PeerFacts,
) -> Result<Planned, HandoverRefused> {
    let facts = HandoverFacts { plan: &shop(), role, epoch: Epoch(1), is_home, target, peer };
    plan(&facts, Time(0))
}

#[test]
fn an_order_that_is_carried_out_is_not_carried_out_again() {
    use SiteRole::{Active, Standby};
    let (active, standby) = (peer(Some(Active), 1), peer(Some(Standby), 1));
    for (is_home, target) in [(true, Target::Away), (false, Target::Home)] {
        assert!(matches!(decide(Active, is_home, target, &standby), Ok(Planned::HandOver(_))));
        assert_eq!(decide(Standby, is_home, target, &active), Ok(Planned::Already));
    }
    for (is_home, target) in [(true, Target::Home), (false, Target::Away)] {
        assert_eq!(decide(Active, is_home, target, &standby), Ok(Planned::Already));
        assert_eq!(decide(Standby, is_home, target, &active), Ok(Planned::AskPeer));
    }
}

#[test]
fn each_refusal_says_why_and_what_to_do() {
    use SiteRole::{Active, Demoting, Promoting, Standby};
    let away = PeerFacts::default();
    let cases = [
        (Active, away.clone(), Class::Transient),
        (Standby, away, Class::Transient),
        (Active, peer(Some(Demoting), 1), Class::Busy),
        (Active, peer(Some(Active), 1), Class::Fenced),
        (Active, peer(Some(Standby), 2), Class::Fenced),
        (Active, peer(None, 0), Class::Fenced),
        (Standby, peer(Some(Standby), 1), Class::Fenced),
        (Promoting, peer(Some(Standby), 1), Class::Busy),
        (Demoting, peer(Some(Active), 2), Class::Busy),
    ];
    for (role, peer, class) in cases {
        let refused = decide(role, true, Target::Away, &peer).expect_err("refused");
        assert_eq!(refused.class(), class, "{refused}");
        assert!(refused.hint().is_some(), "{refused}");
    }
}

/// A frame on its way, there or back. A lossy link may lose, repeat and delay each.
#[derive(Debug, Clone)]
enum Flying {
    Offer(TakeOver),
    Back(TakeBack),
    OfferAnswer(Answer),
    BackAnswer(Answer),
}

/// The side that gives up its workloads. All but `waits` is durable.
struct Giver {
    local: Local,
    handover: Option<Handover>,
    runs: bool,
    /// Whether an answer of this attempt may still be taken.
    waits: bool,
}

struct World {
    giver: Giver,
    taker: Local,
    taker_runs: bool,
    flying: Vec<Flying>,
}

#[derive(Debug, Clone, Copy)]
enum Act {
    /// Delivers, and perhaps keeps a copy.
    Deliver {
        which: usize,
        keep: bool,
    },
    Lose {
        which: usize,
    },
    /// The giver waited long enough and goes on with the present stage.
    GiverAgain,
    GiverCrashes,
    /// The taker cannot take over now.
    TakerFails {
        which: usize,
    },
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => (any::<usize>(), any::<bool>()).prop_map(|(which, keep)| Act::Deliver { which, keep }),
        1 => any::<usize>().prop_map(|which| Act::Lose { which }),
        2 => Just(Act::GiverAgain),
        1 => Just(Act::GiverCrashes),
        2 => any::<usize>().prop_map(|which| Act::TakerFails { which }),
    ]
}

impl World {
    fn new() -> Self {
        let stage = Stage::Offered { restore_point: POINT, held_time: Time(0) };
        let handover = Handover { stage, ..Handover::begin(shop(), Epoch(1), Time(0)) };
        let local = Local { role: SiteRole::Demoting, epoch: Epoch(1) };
        let giver = Giver { local, handover: Some(handover), runs: false, waits: false };
        let taker = Local { role: SiteRole::Standby, epoch: Epoch(1) };
        let mut world = Self { giver, taker, taker_runs: false, flying: Vec::new() };
        world.go_on();
        world
    }

    fn go_on(&mut self) {
        if let Some(next) = self.giver.handover.as_ref().map(Handover::resume) {
            self.carry_out(next);
        }
    }

    fn carry_out(&mut self, next: Next) {
        let giver = &mut self.giver;
        let Some(handover) = &mut giver.handover else { return };
        match next {
            Next::RollBack => unreachable!("it was offered"),
            Next::Offer => {
                giver.waits = true;
                self.flying.push(Flying::Offer(handover.offer().expect("offered")));
            }
            Next::TakeBack { epoch } => {
                giver.waits = true;
                handover.stage = Stage::TakingBack { epoch };
                self.flying.push(Flying::Back(TakeBack { plan: shop(), epoch }));
            }
            Next::RunAt { epoch } => {
                giver.local = Local { role: SiteRole::Active, epoch };
                giver.handover = None;
                giver.runs = true;
            }
            Next::StepDown { epoch } => {
                giver.local = Local { role: SiteRole::Standby, epoch };
                giver.handover = None;
            }
        }
    }

    /// The taker gets a frame. `fails` if it cannot do what it decides to.
    fn take(&mut self, frame: Flying, fails: bool) {
        match frame {
            Flying::Offer(offer) => {
                let answer = match admit_take_over(Some(self.taker), &offer, Some(POINT)) {
                    Ok(Offered::Again) => Answer::Done,
                    Ok(Offered::Promote) if fails => Answer::Refused(None),
                    Ok(Offered::Promote) => {
                        self.taker = Local { role: SiteRole::Active, epoch: offer.epoch };
                        self.taker_runs = true;
                        Answer::Done
                    }
                    Err(refusal) => Answer::Refused(refusal.epoch()),
                };
                self.flying.push(Flying::OfferAnswer(answer));
            }
            Flying::Back(back) => {
                let answer = match admit_take_back(Some(self.taker), &back) {
                    Ok(_) if fails => Answer::Refused(None),
                    Ok(grant) => {
                        self.taker = grant.local;
                        Answer::Done
                    }
                    Err(refusal) => Answer::Refused(refusal.epoch()),
                };
                self.flying.push(Flying::BackAnswer(answer));
            }
            // An answer is taken by the attempt that waits for it: a stream is answered once, and one that was
            // given up has no reader.
            Flying::OfferAnswer(answer) | Flying::BackAnswer(answer) => {
                let is_of_offer = matches!(frame, Flying::OfferAnswer(_));
                let handover = self.giver.handover.as_ref().filter(|_| self.giver.waits);
                let fits =
                    |handover: &&Handover| matches!(handover.stage, Stage::Offered { .. }) == is_of_offer;
                if let Some(next) = handover.filter(fits).map(|handover| handover.on_answer(answer)) {
                    self.giver.waits = false;
                    self.carry_out(next);
                }
            }
        }
    }

    fn act(&mut self, act: Act) {
        let pick = |which: usize| (!self.flying.is_empty()).then(|| which % self.flying.len().max(1));
        match act {
            Act::Deliver { which, keep } => {
                let Some(index) = pick(which) else { return };
                let frame = self.flying.swap_remove(index);
                // A request may come twice, when it is asked again; an answer has one stream.
                if keep && matches!(frame, Flying::Offer(_) | Flying::Back(_)) {
                    self.flying.push(frame.clone());
                }
                self.take(frame, false);
            }
            Act::TakerFails { which } => {
                let Some(index) = pick(which) else { return };
                let frame = self.flying.swap_remove(index);
                self.take(frame, true);
            }
            Act::Lose { which } => {
                if let Some(index) = pick(which) {
                    self.flying.swap_remove(index);
                }
            }
            Act::GiverAgain | Act::GiverCrashes => {
                // Answers to the attempt before have no reader any more.
                self.flying.retain(|frame| matches!(frame, Flying::Offer(_) | Flying::Back(_)));
                self.giver.waits = false;
                self.go_on();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn never_do_both_sides_run(acts in prop::collection::vec(act(), 0..60)) {
        let mut world = World::new();
        for one in acts {
            world.act(one);
            prop_assert!(!(world.giver.runs && world.taker_runs), "both run");
            prop_assert!(!(world.giver.runs && world.giver.local.epoch <= world.taker.epoch
                && world.taker.role != SiteRole::Standby));
        }
        // With a link that works it ends: one of the two runs.
        for _ in 0..8 {
            world.act(Act::GiverAgain);
            while !world.flying.is_empty() {
                world.act(Act::Deliver { which: 0, keep: false });
            }
        }
        prop_assert!(world.giver.runs != world.taker_runs, "exactly one runs in the end");
        prop_assert!(world.giver.handover.is_none());
    }
}

/// Neither an answer nor an offer that is taken back moves an epoch further than a peer may.
#[test]
fn an_epoch_that_is_not_believed_ends_no_handover() {
    let stages = [
        Stage::Offered { restore_point: RestorePointId { epoch: Epoch(1), number: 1 }, held_time: Time(0) },
        Stage::TakingBack { epoch: Epoch(3) },
    ];
    for stage in stages {
        let handover = Handover { stage, ..Handover::begin(shop(), Epoch(1), Time(0)) };
        let answered = |epoch| handover.on_answer(Answer::Refused(Some(Epoch(epoch))));
        assert_eq!(answered(1002), Next::StepDown { epoch: Epoch(1002) });
        for claimed in [1003, 1 << 48, u64::MAX] {
            assert_eq!(answered(claimed), Next::TakeBack { epoch: Epoch(3) }, "{stage:?} {claimed}");
        }
    }
    let local = Some(Local { role: SiteRole::Standby, epoch: Epoch(2) });
    let back = |epoch| admit_take_back(local, &TakeBack { plan: shop(), epoch: Epoch(epoch) });
    assert!(back(1002).is_ok());
    for claimed in [1003, 1 << 48, u64::MAX] {
        assert_eq!(back(claimed).err().and_then(|refusal| refusal.leaps_to()), Some(Epoch(claimed)));
    }
}
