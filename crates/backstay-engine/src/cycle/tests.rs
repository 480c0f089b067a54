use std::collections::BTreeMap;

use backstay_types::plan::{Blackout, Daily, Schedule};
use proptest::prelude::*;

use super::*;
use crate::backoff::{Backoff, BackoffPolicy};

const NOW: Time = Time(1_800_000_000_000);

fn name(text: &str) -> PlanName {
    text.parse().expect(text)
}

fn every(secs: u64) -> Timetable {
    let schedule = Schedule { interval: Some(Span::from_secs(secs)), ..Schedule::default() };
    Timetable::parse(&schedule).expect("a good schedule")
}

fn facts<'a>(plan: &'a PlanName, timetable: &'a Timetable) -> PlanFacts<'a> {
    PlanFacts {
        plan,
        role: SiteRole::Active,
        suspended: false,
        running: false,
        connected: true,
        timetable: Some(timetable),
        last_start: None,
        retry_at: None,
        seed: 1,
    }
}

#[test]
fn a_plan_waits_for_what_it_lacks() {
    let (shop, table) = (name("shop"), every(60));
    let base = facts(&shop, &table);
    assert_eq!(base.due(NOW), Due::Since(NOW));
    for (facts, waits) in [
        (PlanFacts { role: SiteRole::Standby, ..base }, Waits::Standby),
        (PlanFacts { role: SiteRole::Promoting, ..base }, Waits::Standby),
        (PlanFacts { role: SiteRole::Demoting, ..base }, Waits::Standby),
        (PlanFacts { suspended: true, ..base }, Waits::Suspended),
        (PlanFacts { connected: false, ..base }, Waits::Peer),
        (PlanFacts { timetable: None, ..base }, Waits::Operator),
        (PlanFacts { timetable: None, retry_at: Some(NOW), ..base }, Waits::Operator),
    ] {
        assert_eq!(facts.due(NOW), Due::Waits(waits));
        assert_eq!(decide([facts], NOW, 9), Decision::default());
    }
}

#[test]
fn a_running_plan_never_starts() {
    let (shop, table) = (name("shop"), every(1));
    let running = PlanFacts { running: true, ..facts(&shop, &table) };
    for later in [0, 1, 1000, 1_000_000] {
        assert_eq!(decide([running], NOW.plus(Span::from_secs(later)), 9).start, []);
    }
}

#[test]
fn a_peer_that_was_away_for_three_intervals_gets_one_run() {
    let (shop, table) = (name("shop"), every(60));
    let away = PlanFacts { connected: false, last_start: Some(NOW), ..facts(&shop, &table) };
    let back = NOW.plus(Span::from_secs(200));
    assert_eq!(away.due(back), Due::Waits(Waits::Peer));
    let here = PlanFacts { connected: true, ..away };
    assert_eq!(decide([here], back, 9).start.len(), 1);
    let ran = PlanFacts { last_start: Some(back), ..here };
    assert_eq!(
        decide([ran], back, 9),
        Decision { start: vec![], wake: Some(back.plus(Span::from_secs(60))) }
    );
}

#[test]
fn a_failing_plan_retries_and_keeps_its_schedule() {
    let schedule = Schedule { daily: Some(Daily { time: "03:00".into() }), ..Schedule::default() };
    let (shop, table) = (name("shop"), Timetable::parse(&schedule).expect("good"));
    let at = |text: &str| text.parse::<Time>().expect(text);
    let mut backoff = Backoff::new(BackoffPolicy::CYCLE, 3);
    let failed = at("2026-11-21T03:00:20Z");
    let retry = backoff.failed(failed);
    let failing = PlanFacts {
        last_start: Some(at("2026-11-21T03:00:00Z")),
        retry_at: backoff.retry_at(),
        ..facts(&shop, &table)
    };
    assert_eq!(failing.due(failed), Due::At(retry));
    assert_eq!(decide([failing], retry, 9).start.len(), 1);
    let healed = PlanFacts { last_start: Some(retry), retry_at: None, ..failing };
    assert_eq!(healed.due(retry), Due::At(at("2026-11-22T03:00:00Z")), "the schedule as it was");
}

#[test]
fn a_retry_stays_out_of_blackout_windows() {
    let blackout = vec![Blackout { from: "03:00".into(), to: "05:00".into(), days: vec![] }];
    let schedule = Schedule { interval: Some(Span::from_secs(60)), blackout, ..Schedule::default() };
    let (shop, table) = (name("shop"), Timetable::parse(&schedule).expect("good"));
    let at = |text: &str| text.parse::<Time>().expect(text);
    let failing = PlanFacts { retry_at: Some(at("2026-11-21T03:00:05Z")), ..facts(&shop, &table) };
    for now in ["2026-11-21T02:59:55Z", "2026-11-21T04:00:00Z"] {
        assert_eq!(failing.due(at(now)), Due::At(at("2026-11-21T05:00:00Z")), "{now}");
    }
    assert!(matches!(failing.due(at("2026-11-21T05:00:00Z")), Due::Since(_)));
}

#[test]
fn those_due_longest_start_first_and_the_room_is_kept() {
    let names: Vec<PlanName> = ["a", "b", "c"].map(name).to_vec();
    let table = every(60);
    let ago = |secs| Some(NOW.minus(Span::from_secs(secs)));
    let plans = [ago(100), ago(300), ago(200)];
    let all =
        || names.iter().zip(plans).map(|(plan, last)| PlanFacts { last_start: last, ..facts(plan, &table) });
    let started = |room| decide(all(), NOW, room).start;
    assert_eq!(started(9), [name("b"), name("c"), name("a")]);
    assert_eq!(started(2), [name("b"), name("c")]);
    assert_eq!(started(0), []);
}

#[test]
fn lag_is_the_age_of_the_newest_point() {
    assert_eq!(lag(NOW, None), None);
    assert_eq!(lag(NOW, Some(NOW.minus(Span(5)))), Some(Span(5)));
    assert_eq!(lag(NOW, Some(NOW.plus(Span(5)))), Some(Span(0)), "a clock ahead of ours");
}

proptest! {
    #[test]
    fn a_daemon_that_sleeps_until_the_wake_up_runs_every_plan(
        intervals in proptest::collection::vec(1_u64..300, 1..6),
        seed: u64,
        fails in proptest::collection::vec(any::<bool>(), 40),
    ) {
        let tables: Vec<Timetable> = intervals.iter().map(|secs| every(*secs)).collect();
        let names: Vec<PlanName> = (0..tables.len()).map(|at| name(&format!("p{at}"))).collect();
        let mut last: BTreeMap<&PlanName, Time> = BTreeMap::new();
        let mut backoffs: BTreeMap<&PlanName, Backoff> =
            names.iter().map(|name| (name, Backoff::new(BackoffPolicy::CYCLE, seed))).collect();
        let mut now = NOW;
        let mut fails = fails.into_iter().cycle();
        for _ in 0..200 {
            let plans: Vec<PlanFacts<'_>> = names.iter().zip(&tables).map(|(plan, table)| PlanFacts {
                last_start: last.get(plan).copied(),
                retry_at: backoffs[plan].retry_at(),
                seed,
                ..facts(plan, table)
            }).collect();
            let decision = decide(plans, now, 9);
            if decision.start.is_empty() {
                let wake = decision.wake.expect("some plan is scheduled");
                prop_assert!(wake > now);
                now = wake;
                continue;
            }
            for plan in &decision.start {
                let plan = names.iter().find(|name| *name == plan).expect("one of ours");
                let backoff = backoffs.get_mut(plan).expect("one each");
                if fails.next() == Some(true) { backoff.failed(now); } else { backoff.succeeded(); }
                last.insert(plan, now);
            }
        }
        for (plan, secs) in names.iter().zip(&intervals) {
            let waited = now.since(last[plan]);
            let longest = Span::from_secs(*secs).max(BackoffPolicy::CYCLE.cap);
            prop_assert!(waited <= longest, "{plan} last ran {waited} ago");
        }
    }
}
