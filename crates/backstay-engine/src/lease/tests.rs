//! Two sites and a witness in virtual time, with lines that lose, delay, repeat and break, and clocks that run apart.

#![expect(
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking, and small numbers fit"
)]

mod world;

use super::*;
use world::{AFTER, Line as Way, Place, Process, World};

/// A seed's worth of trouble: lines break and mend at random moments, one in ten messages is lost, some come late or
/// twice, holding takes as long as it may, and each site's clock is off by up to the bound. Whoever runs must be alone,
/// at every step; and where all is mended somebody runs again.
#[test]
fn two_sides_never_run() {
    let mut takeovers = 0;
    let seeds = std::env::var("BACKSTAY_LEASE_SEEDS").map_or(300, |text| text.parse().expect("a number"));
    for seed in 0..seeds {
        let mut world = World::new(seed);
        world.is_rough = true;
        for _ in 0..40 {
            world.toss_lines();
            let pause = 200 + world.draw(3 * AFTER);
            world.run(pause);
        }
        takeovers += world.takeovers;
        world.mend();
        world.is_rough = false;
        world.run(5 * AFTER);
        // A taker that died, and the record with the witness's data, leave the decision to a person.
        let expected = usize::from(world.has_record());
        assert!(world.running().len() >= expected, "seed {seed}: {world:?}");
    }
    assert!(takeovers > seeds as u32, "the trouble must lead to takeovers: {takeovers}");
}

/// The same, and daemons, keepers and guards die, stand still and come back, each for itself, while the workloads go on.
#[test]
fn who_dies_alone_leaves_nobody_running_beside_another() {
    let mut takeovers = 0;
    let seeds = std::env::var("BACKSTAY_LEASE_SEEDS").map_or(100, |text| text.parse().expect("a number"));
    for seed in 0..seeds {
        let mut world = World::new(seed);
        world.is_rough = true;
        for _ in 0..40 {
            world.toss_lines();
            world.toss_processes();
            let pause = 200 + world.draw(3 * AFTER);
            world.run(pause);
        }
        takeovers += world.takeovers;
        world.mend();
        world.mend_processes();
        world.is_rough = false;
        world.run(5 * AFTER);
        let expected = usize::from(world.has_record());
        assert!(world.running().len() >= expected, "seed {seed}: {world:?}");
    }
    assert!(takeovers > seeds as u32, "the trouble must lead to takeovers: {takeovers}");
}

/// A daemon that ends for as long as it likes is no outage: the keeper renews.
#[test]
fn a_daemon_that_is_down_stops_nothing() {
    for seed in 0..50 {
        for way in [None, Some(Way::Peer)] {
            let mut world = World::new(seed);
            world.settle();
            if let Some(way) = way {
                world.cut(way);
            }
            world.end(Place::East, Process::Daemon);
            world.run(20 * AFTER);
            assert_eq!(
                (world.running(), world.holds, world.takeovers),
                (vec![Place::East], 0, 0),
                "seed {seed}"
            );
        }
    }
}

/// Daemon and keeper die at once: the guard holds, and then the standby takes over.
#[test]
fn the_guard_holds_for_both() {
    for seed in 0..50 {
        let mut world = World::new(seed);
        world.settle();
        world.end(Place::East, Process::Daemon);
        world.end(Place::East, Process::Keeper);
        world.run(2 * AFTER);
        assert_eq!((world.running(), world.takeovers), (vec![Place::West], 1), "seed {seed}");
    }
}

/// The keeper and its guard died, and later the daemon: its workloads are alone, and the standby, which was told so, stands
/// by. Without that word both would run.
#[test]
fn what_nobody_guards_is_not_taken() {
    let unguarded = |seed: u64, claims: bool| {
        let mut world = World::new(seed);
        world.claims_guards = claims;
        world.settle();
        world.end(Place::East, Process::Keeper);
        world.end(Place::East, Process::Guard);
        world.run(AFTER);
        world.end(Place::East, Process::Daemon);
        world.run(10 * AFTER);
        (world.running(), world.takeovers)
    };
    for seed in 0..50 {
        assert_eq!(unguarded(seed, false), (vec![Place::East], 0), "seed {seed}");
        assert!(std::panic::catch_unwind(|| unguarded(seed, true)).is_err(), "seed {seed}: nobody noticed");
    }
}

/// The same with clocks twice as far apart as promised, and with a side that holds too late: this simulation does
/// notice two sides that run.
#[test]
fn the_simulation_notices_two_sides() {
    let overlaps = (0..60_u64).filter(|seed| {
        std::panic::catch_unwind(|| {
            let mut world = World::new(*seed);
            world.hold_takes = Some(AFTER);
            world.settle();
            world.cut(Way::Peer).cut(Way::Witness(Place::East));
            world.run(3 * AFTER);
        })
        .is_err()
    });
    assert!(overlaps.count() > 50);
}

#[test]
fn a_dead_side_is_taken_over_in_time() {
    for seed in 0..200 {
        let mut world = World::new(seed);
        world.settle();
        let pause = world.draw(AFTER);
        world.run(pause);
        let since = world.now();
        world.kill(Place::East);
        let bound = Terms::new(Span(AFTER)).takeover_within();
        world.run(bound.0 + 100);
        assert_eq!(world.running(), [Place::West], "seed {seed}: not within {bound} of {since}: {world:?}");
        assert_eq!(world.epoch(Place::West), Epoch(2));
    }
}

#[test]
fn a_witness_that_is_down_stops_nothing() {
    for seed in 0..50 {
        let mut world = World::new(seed);
        world.settle();
        world.cut(Way::Witness(Place::East)).cut(Way::Witness(Place::West));
        world.run(20 * AFTER);
        assert_eq!((world.running(), world.holds), (vec![Place::East], 0), "seed {seed}");
        // Nor does its return.
        world.mend();
        world.run(10 * AFTER);
        assert_eq!((world.running(), world.holds, world.takeovers), (vec![Place::East], 0, 0), "seed {seed}");
    }
}

#[test]
fn a_cut_between_the_sites_stops_nothing() {
    for seed in 0..50 {
        let mut world = World::new(seed);
        world.settle();
        world.cut(Way::Peer);
        world.run(20 * AFTER);
        assert_eq!((world.running(), world.holds), (vec![Place::East], 0), "seed {seed}");
    }
}

/// The active side alone is cut off: it holds, the standby takes over, and when the lines are mended the old active
/// side stands by.
#[test]
fn an_isolated_side_holds_and_steps_down() {
    for seed in 0..50 {
        let mut world = World::new(seed);
        world.settle();
        world.cut(Way::Peer).cut(Way::Witness(Place::East));
        world.run(3 * AFTER);
        assert_eq!((world.running(), world.holds), (vec![Place::West], 1), "seed {seed}");
        world.mend();
        world.run(3 * AFTER);
        assert_eq!((world.running(), world.takeovers), (vec![Place::West], 1), "seed {seed}");
        assert_eq!(
            (world.epoch(Place::East), world.is_active(Place::East)),
            (Epoch(2), false),
            "seed {seed}"
        );
    }
}

/// Cut off from everything for a while too short for the standby: held, and let go again.
#[test]
fn a_held_side_goes_on_when_it_is_heard_again() {
    for way in [Way::Peer, Way::Witness(Place::East)] {
        let mut world = World::new(5);
        world.settle();
        world.cut(Way::Peer).cut(Way::Witness(Place::East)).cut(Way::Witness(Place::West));
        world.run(2 * AFTER);
        assert_eq!((world.running(), world.holds), (vec![], 1));
        world.restore(way);
        world.run(2 * AFTER);
        assert_eq!((world.running(), world.holds), (vec![Place::East], 1), "{way:?}");
    }
}

#[test]
fn what_is_not_there_is_not_taken() {
    let mut world = World::new(1);
    // The witness is not reached from the beginning: nothing is armed, nothing is held, nothing is taken.
    world.cut(Way::Witness(Place::East)).cut(Way::Peer);
    world.run(10 * AFTER);
    assert_eq!((world.running(), world.holds), (vec![Place::East], 0));
    world.mend();
    world.settle();
    // No automatic failover any more: the record is released before the renewals end.
    world.disarm(Place::East);
    world.run(2 * AFTER);
    assert!(world.is_disarmed(Place::East));
    world.kill(Place::East);
    world.run(10 * AFTER);
    assert_eq!(world.running(), []);
}

/// A witness that lost everything: the active side makes its record anew, and the standby does not mistake it.
#[test]
fn a_witness_that_forgot_is_told_again() {
    let mut world = World::new(2);
    world.settle();
    for _ in 0..5 {
        world.wipe_witness();
        world.run(2 * AFTER);
        assert_eq!((world.running(), world.takeovers), (vec![Place::East], 0));
    }
    world.kill(Place::East);
    world.run(2 * AFTER);
    assert_eq!(world.running(), [Place::West]);
}

/// A side that was promoted by hand takes the record from the one whose epoch is over, which then steps down.
#[test]
fn a_promotion_by_hand_takes_the_record() {
    let mut world = World::new(3);
    world.settle();
    world.cut(Way::Peer);
    world.is_by_hand = true;
    world.promote_by_hand(Place::West, Epoch(2));
    world.run(AFTER);
    assert_eq!(world.running(), [Place::West]);
    assert_eq!((world.epoch(Place::East), world.is_active(Place::East)), (Epoch(2), false));
}

fn party(site: u8, epoch: u64) -> Party {
    Party {
        plan: "shop".parse().expect("a name"),
        site: SiteId([site; 16]),
        epoch: Epoch(epoch),
        terms: Terms::new(Span(10_000)),
    }
}

fn record(holder: u8, epoch: u64) -> Seen {
    let record = LeaseRecord {
        plan: "shop".parse().expect("a name"),
        holder: SiteId([holder; 16]),
        epoch: Epoch(epoch),
        after: Span(10_000),
        beats: 7,
        released: false,
        guarded: true,
    };
    Seen { version: Version("a-7".into()), record }
}

/// A daemon that starts again within its time goes on; one that cannot know holds after the grace, not at once.
#[test]
fn a_restart_counts_from_what_was_kept() {
    let now = Mono(1_000_000);
    let begin = |kept: Kept| ActiveLease::new(party(1, 1), kept, now).holds_at();
    let bound = Some(Span(10_000));
    assert_eq!(begin(Kept::default()), None);
    assert_eq!(
        begin(Kept { bound, good: Some(Mono(999_000)), held: false, anew: None }),
        Some(Mono(1_004_000))
    );
    assert_eq!(begin(Kept { bound, good: None, held: false, anew: None }), Some(Mono(1_002_000)));
    // What the other side may go by is shorter than the plan says now.
    let shorter = Kept { bound: Some(Span(5_000)), good: Some(Mono(999_000)), held: false, anew: None };
    assert_eq!(begin(shorter), Some(Mono(1_001_500)));
    // Held at the last stop: held again, then let go once the witness answers.
    let mut lease = ActiveLease::new(party(1, 1), Kept { bound, good: None, held: true, anew: None }, now);
    assert!(lease.handle(ActiveEvent::Tick, now).contains(&ActiveAction::Hold));
    assert_eq!(lease.stance(), Stance::Holding);
}

/// The times of a lease, for `after` from the shortest allowed up.
#[test]
fn the_times_leave_no_gap() {
    for after in [5_000, 5_001, 7_777, 60_000, 3_600_000] {
        let terms = Terms::new(Span(after));
        // In true milliseconds × 100: a slow clock holds, a fast one takes.
        let held = terms.held_within().0 * 10_000 / (100 - CLOCKS_APART_PERCENT);
        let taken = terms.take_after().0 * 10_000 / (100 + CLOCKS_APART_PERCENT);
        assert!(held <= after * 100 && after * 100 <= taken, "{after}: {held} {taken}");
        assert!(terms.hold_at().0 + terms.hold_within().0 <= terms.held_within().0);
        assert!(3 * terms.answer_within().0 <= terms.hold_at().0);
        assert!(5 * terms.renew_every().0 <= terms.hold_at().0);
    }
}

/// A standby that crashed after its swap goes on with it, but not before what it may have granted has run out.
#[test]
fn a_taken_lease_is_gone_on_with_after_a_crash() {
    let mut lease = StandbyLease::new(party(2, 1), Mono(0));
    lease.update(Epoch(1), Terms::new(Span(10_000)), true);
    let answer = |lease: &mut StandbyLease, actions: &[StandbyAction], answer: Answer, now| match actions {
        [StandbyAction::Ask { ask, .. }] => lease.handle(StandbyEvent::Witness { ask: *ask, answer }, now),
        other => panic!("{other:?}"),
    };
    let mut now = Mono(0);
    let mut asked = lease.handle(StandbyEvent::Tick, now);
    while lease.waits(now) != Waits::Taking {
        assert!(now.0 < 20_000, "it never takes");
        let more = answer(&mut lease, &asked, Answer::Read(Some(record(2, 2))), now);
        now = now.plus(Span(1_000));
        asked = if more.is_empty() { lease.handle(StandbyEvent::Tick, now) } else { more };
    }
    assert!(now >= Mono(10_500), "{now:?}");
    assert!(!lease.grant(now), "a lease that is being taken is not promised away");
    let promoted = answer(&mut lease, &asked, Answer::Swapped(Version("a-8".into())), now);
    assert!(matches!(promoted.as_slice(), [StandbyAction::Promote { epoch: Epoch(2), .. }]), "{promoted:?}");
}

/// A record of a site that knows no keeper is guarded by nobody; and one that nobody guards is what such a site, or its
/// witness, would have written itself.
#[test]
fn a_record_from_before_is_not_guarded() {
    let mut written = record(1, 1).record;
    written.guarded = false;
    let before = serde_json::to_string(&written).expect("json");
    assert!(!before.contains("guarded"), "{before}");
    assert_eq!(serde_json::from_str::<LeaseRecord>(&before).expect("a record"), written);
    let after = serde_json::to_string(&record(1, 1).record).expect("json");
    assert!(after.ends_with(r#""guarded":true}"#), "{after}");
    let mut lease = StandbyLease::new(party(2, 1), Mono(0));
    lease.update(Epoch(1), Terms::new(Span(10_000)), true);
    for now in (0..60_000).step_by(1_000).map(Mono) {
        for action in lease.handle(StandbyEvent::Tick, now) {
            let StandbyAction::Ask { ask, question: Ask::Read } = action else { panic!("{action:?}") };
            let mut seen = record(1, 1);
            seen.record.guarded = false;
            let answer = Answer::Read(Some(seen));
            assert_eq!(lease.handle(StandbyEvent::Witness { ask, answer }, now), []);
        }
    }
    assert_eq!(lease.waits(Mono(60_000)), Waits::Unguarded);
}
