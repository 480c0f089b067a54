use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use backstay_types::{PlanName, RestorePointId, Time};
use proptest::prelude::*;

use super::*;
use crate::promotion::{self, PeerFacts, Planned, PointFacts, PromotionFacts};

const NOW: Time = Time(1_800_000_000_000);
const ROLES: [SiteRole; 4] = [SiteRole::Standby, SiteRole::Promoting, SiteRole::Active, SiteRole::Demoting];

fn shop() -> PlanName {
    "shop".parse().expect("a name")
}

/// A promotion from the epoch before this one.
fn promotion_to(epoch: Epoch) -> PromotionPlan {
    let before = Epoch(epoch.0 - 1);
    let id = RestorePointId { epoch: before, number: 1 };
    let point = PointFacts { id, snapshot_time: NOW, damaged: false, complete: true, diverged: false };
    let facts = PromotionFacts {
        plan: &shop(),
        role: SiteRole::Standby,
        epoch: before,
        points: &[point],
        applied: Some(id),
        applying: None,
        peer: &PeerFacts { reachable: false, state: None },
        last_sign: None,
        wanted: None,
        force: true,
        accept_partial: false,
        lease: None,
    };
    match promotion::plan(&facts, NOW) {
        Ok(Planned::Promote(plan)) => plan,
        other => panic!("expected a promotion, found {other:?}"),
    }
}

fn handover() -> Handover {
    Handover::begin(shop(), Epoch(7), NOW)
}

/// Every transition, at an epoch.
fn all(epoch: Epoch) -> Vec<Transition> {
    vec![
        Transition::BegunUnasked,
        Transition::Confirmed(epoch),
        Transition::EpochObserved(epoch),
        Transition::Shared(epoch),
        Transition::Followed(epoch),
        Transition::Ended,
        Transition::PeerGaveWay,
        Transition::ConflictFound,
        Transition::ConflictOver,
        Transition::LeapClaimed(epoch),
        Transition::LeapSetAside,
        Transition::Superseded(epoch),
        Transition::SteppedDown,
        Transition::HandoverPrepared(handover()),
        Transition::HandoverOffered(handover()),
        Transition::HandoverTakenBack(handover()),
        Transition::HandoverRefused(epoch),
        Transition::HandoverOver,
        Transition::PromotionBegun(promotion_to(epoch)),
        Transition::PromotionWentOn(promotion_to(epoch)),
        Transition::Promoted(epoch),
        Transition::Held,
        Transition::Unheld,
        Transition::LeaseLost,
        Transition::LeaseGood,
    ]
}

fn begin(role: SiteRole) -> PlanState {
    PlanState::new(Local { role, epoch: Epoch(5) })
}

/// Every state that transitions lead to from a plan that begins, epochs left aside but for those near the present one.
fn reachable() -> Vec<PlanState> {
    let mut found = vec![begin(SiteRole::Active), begin(SiteRole::Standby)];
    let mut seen: BTreeSet<String> = BTreeSet::new();
    let mut at = 0;
    while let Some(state) = found.get(at).cloned() {
        at += 1;
        let epochs = [state.epoch, state.epoch.next()].into_iter().filter(|epoch| *epoch <= Epoch(8));
        for transition in epochs.flat_map(all) {
            if let Ok(next) = state.apply(transition)
                && seen.insert(serde_json::to_string(&next).expect("JSON"))
            {
                found.push(next);
            }
        }
    }
    found
}

/// A role knows what it is for.
fn assert_sound(state: &PlanState) {
    let (is_promoting, is_standby) = (state.role == SiteRole::Promoting, state.role == SiteRole::Standby);
    assert_eq!(state.promotion.is_some(), is_promoting, "{state:?}");
    if state.role == SiteRole::Demoting {
        assert!(state.active_until.is_some() || state.handover.is_some(), "{state:?}");
    }
    if is_standby {
        assert!(state.active_until.is_none() && state.handover.is_none(), "{state:?}");
    }
    assert!(state.active_until.is_none() || state.role == SiteRole::Demoting, "{state:?}");
}

#[test]
fn every_state_can_be_left() {
    let states = reachable();
    assert!(states.len() > 100, "{} states", states.len());
    for state in states {
        assert_sound(&state);
        // To standby: a higher epoch always gets through, and stepping down after it.
        let superseded = state.apply(Transition::Superseded(state.epoch.next())).expect("superseded");
        let standby = match superseded.role {
            SiteRole::Standby => superseded,
            _ => superseded.apply(Transition::SteppedDown).expect("stepped down"),
        };
        assert_eq!(standby.role, SiteRole::Standby);
        // From there to active.
        let epoch = standby.epoch.next();
        let promoting = standby.apply(Transition::PromotionBegun(promotion_to(epoch))).expect("begun");
        assert_eq!(promoting.apply(Transition::Promoted(epoch)).expect("promoted").role, SiteRole::Active);
    }
}

/// The table of `ARCHITECTURE.md`: for each transition that changes a role, from which to which; and where the others may
/// come.
fn table() -> String {
    let place = |role| ROLES.iter().position(|other| *other == role).expect("a role");
    let mut edges: BTreeSet<(&str, usize, usize)> = BTreeSet::new();
    for state in reachable() {
        for transition in all(state.epoch).into_iter().chain(all(state.epoch.next())) {
            let name = transition.name();
            if let Ok(next) = state.apply(transition) {
                edges.insert((name, place(state.role), place(next.role)));
            }
        }
    }
    let mut text =
        String::from("| transition | standby | promoting | active | demoting |\n|---|---|---|---|---|\n");
    for name in all(Epoch(5)).iter().map(Transition::name) {
        write!(text, "| {name} |").expect("a string");
        for from in 0..ROLES.len() {
            let to =
                edges.iter().filter(|(of, begin, _)| *of == name && *begin == from).map(|(.., end)| *end);
            let shown = to.map(|to| match to == from {
                true => "stays".to_owned(),
                false => format!("**{}**", format!("{:?}", ROLES[to]).to_lowercase()),
            });
            let shown = shown.collect::<Vec<_>>().join(", ");
            write!(text, " {} |", if shown.is_empty() { "–" } else { &shown }).expect("a string");
        }
        text.push('\n');
    }
    text
}

#[test]
fn the_table_is_that_of_the_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ARCHITECTURE.md");
    let text = std::fs::read_to_string(&path).expect("ARCHITECTURE.md");
    let (begin, end) = ("<!-- transitions -->\n", "<!-- /transitions -->");
    let (before, rest) = text.split_once(begin).expect("the mark before the table");
    let (found, after) = rest.split_once(end).expect("the mark after the table");
    let table = table();
    if std::env::var_os("BACKSTAY_BLESS").is_some() {
        std::fs::write(&path, format!("{before}{begin}{table}{end}{after}")).expect("written");
        return;
    }
    assert!(found == table, "expected in ARCHITECTURE.md (BACKSTAY_BLESS=1 puts it there):\n{table}");
}

/// A plan's state is part of a plan's record, whose form sites of before have written.
#[test]
fn the_record_of_an_earlier_release_is_read() {
    let text = r#"{"role": "standby", "epoch": 3, "standing": true}"#;
    let state: PlanState = serde_json::from_str(text).expect("a state");
    assert_eq!((state.role, state.epoch, state.standing), (SiteRole::Standby, Epoch(3), true));
}

proptest! {
    #[test]
    fn epochs_never_fall_and_only_listed_edges_are_taken(
        is_active in any::<bool>(),
        steps in prop::collection::vec((0..25_usize, 0..4_u64), 0..60),
    ) {
        let mut state = begin(if is_active { SiteRole::Active } else { SiteRole::Standby });
        for (which, above) in steps {
            // Also epochs that are over.
            let epoch = Epoch(state.epoch.0 + above - 1);
            let transition = all(epoch).swap_remove(which);
            let Ok(next) = state.apply(transition.clone()) else { continue };
            prop_assert!(next.epoch >= state.epoch, "{state:?} {transition:?}");
            assert_sound(&next);
            if state.role == SiteRole::Standby && next.role != SiteRole::Standby {
                prop_assert!(next.role == SiteRole::Promoting && next.epoch > state.epoch);
            }
            if next.role == SiteRole::Active && state.role != SiteRole::Active {
                // What was active before, or has taken its epoch for itself.
                prop_assert!(state.handover.is_some() || state.role == SiteRole::Promoting);
            }
            if next.role == SiteRole::Standby && state.role != SiteRole::Standby {
                prop_assert!(state.active_until.is_some_and(|until| until < state.epoch));
            }
            state = next;
        }
    }
}
