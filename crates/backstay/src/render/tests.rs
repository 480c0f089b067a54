//! Fixed inputs, fixed outputs.

use backstay_daemon::api_types::{
    Applied, ApplyResult, Change, CycleOutcome, CyclePhase, CycleStatus, Damage, DiffEntry, DiffList,
    ErrorInfo, GcOutcome, LastCycle, NotCompared, OrphanedPlan, Pair, PlanStatus, PlanSummary,
    PointVolumeInfo, PromotionReport, PromotionStep, RebuildOutcome, RestorePointInfo, StepState, Unpaired,
    VerifyOutcome,
};
use backstay_daemon::audit::AuditRecord;
use backstay_types::frame::SiteRole;
use backstay_types::manifest::VolumeKind;
use backstay_types::point::Consistency;
use backstay_types::{Class, Epoch, PairId, PlanName, RestorePointId, SiteId, Time};

use super::*;

fn id(number: u64) -> RestorePointId {
    RestorePointId { epoch: Epoch(1), number }
}

fn shop() -> PlanName {
    "shop".parse().expect("a name")
}

fn plan_status() -> PlanStatus {
    PlanStatus {
        plan: shop(),
        role: SiteRole::Active,
        epoch: Epoch(1),
        peer: "west".into(),
        connected: true,
        lag_seconds: Some(75.0),
        rpo_target_seconds: Some(1200.0),
        last_restore_point: Some(id(42)),
        applied_restore_point: Some(id(41)),
        next_run: Some(Time(1_700_000_000_500)),
        cycle: None,
        last_cycle: Some(LastCycle {
            started_time: Time(1_699_999_100_000),
            outcome: CycleOutcome::Succeeded,
            error: None,
            duration_seconds: 3.25,
            freeze_seconds: None,
            consistency: None,
            below_crash: None,
        }),
        apply_error: None,
        replica_warning: None,
        standby: None,
        promotion_error: None,
        ended: false,
        objects: None,
        last_drill: None,
        suspended: false,
        minimum_consistency: None,
        automatic_failover: None,
        hold: None,
        proposed: None,
        peer_proposed: None,
    }
}

fn running() -> CycleStatus {
    CycleStatus {
        phase: CyclePhase::Transfer,
        percent: Some(44.6),
        bytes_done: 1 << 30,
        bytes_total: Some(3 << 30),
        bytes_per_second: 1e7,
        eta_seconds: Some(190.0),
    }
}

fn restore_point() -> RestorePointInfo {
    RestorePointInfo {
        id: id(42),
        plan: shop(),
        epoch: Epoch(1),
        parent: Some(id(41)),
        snapshot_time: Time(1_700_000_000_000),
        committed_time: Time(1_700_000_003_000),
        consistency: Consistency::Crash,
        complete: true,
        files_scanned: 1001,
        bytes_scanned: 5 << 20,
        bytes_changed: 1536,
        wire_bytes: 2048,
        duration_seconds: 2.99,
        volumes: vec![PointVolumeInfo {
            name: "data".parse().expect("a name"),
            kind: VolumeKind::Directory,
            entries: 1001,
            bytes: 5 << 20,
        }],
        objects: 4,
        held_by: vec!["last".into(), "daily".into()],
        damaged: false,
    }
}

#[test]
fn status_of_all_plans() {
    let mut late = plan_status();
    late.lag_seconds = Some(1201.0);
    late.cycle = Some(running());
    let mut new = plan_status();
    (new.lag_seconds, new.last_restore_point, new.last_cycle, new.suspended) = (None, None, None, true);
    assert_eq!(
        statuses(&[plan_status(), late, new], false),
        "\
PLAN  ROLE    PEER  CONNECTED  LAG         TARGET  RESTORE POINT  NOW                                                   LAST CYCLE
shop  active  west  yes        1m15s       20m0s   e1-000042      idle                                                  succeeded
shop  active  west  yes        20m1s OVER  20m0s   e1-000042      transfer 45% 1.0 GiB of 3.0 GiB 9.5 MiB/s 3m10s left  succeeded
shop  active  west  yes        -           20m0s   -              suspended                                             -"
    );
}

#[test]
fn status_of_one_plan_shows_why_the_last_cycle_failed() {
    let mut failed = plan_status();
    failed.last_cycle = Some(LastCycle {
        started_time: Time(1_699_999_100_000),
        outcome: CycleOutcome::Failed,
        error: Some(ErrorInfo {
            class: Class::Incomplete,
            message: "read /srv/shop/locked: permission denied".into(),
            hint: Some("run the daemon as root".into()),
        }),
        duration_seconds: 0.5,
        freeze_seconds: None,
        consistency: None,
        below_crash: None,
    });
    assert_eq!(
        status(&failed),
        "\
Plan:           shop
Role:           active
Epoch:          1
Peer:           west (connected)
Lag:            1m15s (target 20m0s)
Restore point:  e1-000042
Applied:        e1-000041
Now:            idle
Last cycle:     failed (incomplete) in 500ms, started 2023-11-14T21:58:20Z
  error:        read /srv/shop/locked: permission denied
  hint:         run the daemon as root
Next run:       2023-11-14T22:13:20Z"
    );
}

#[test]
fn progress_says_what_is_known() {
    assert_eq!(progress(&running()), "transfer 45% 1.0 GiB of 3.0 GiB 9.5 MiB/s 3m10s left");
    let unknown = CycleStatus {
        percent: None,
        bytes_total: None,
        bytes_per_second: 0.0,
        eta_seconds: None,
        ..running()
    };
    assert_eq!(progress(&unknown), "transfer 1.0 GiB");
    assert_eq!(progress(&CycleStatus { phase: CyclePhase::Waiting, bytes_done: 0, ..unknown }), "waiting");
}

#[test]
fn restore_points_and_their_making() {
    let mut damaged = restore_point();
    (damaged.id, damaged.damaged, damaged.held_by) = (id(43), true, vec![]);
    assert_eq!(
        restore_points(&[restore_point(), damaged], false),
        "\
RESTORE POINT  SNAPSHOT TIME         CONSISTENCY  SIZE     CHANGED  WIRE     HELD BY        STATE
e1-000042      2023-11-14T22:13:20Z  crash        5.0 MiB  1.5 KiB  2.0 KiB  last,daily     ok
e1-000043      2023-11-14T22:13:20Z  crash        5.0 MiB  1.5 KiB  2.0 KiB  until next gc  DAMAGED"
    );
    let wide = restore_points(&[restore_point()], true);
    assert!(wide.contains("e1-000041") && wide.contains("2023-11-14T22:13:23Z"), "{wide}");
    assert_eq!(
        synced(&restore_point()),
        "\
Restore point:  e1-000042 (crash)
Scanned:        1001 files, 5.0 MiB
Changed:        1.5 KiB
On the wire:    2.0 KiB
Time:           2.9s"
    );
    assert!(restore_points(&[], false).starts_with("No restore points yet."));
}

#[test]
fn a_path_cannot_draw_on_the_terminal() {
    let entry =
        DiffEntry { volume: "data".into(), path: "a\u{1b}[2Jb\nc".into(), change: Change::Added, bytes: 3 };
    assert_eq!(
        diff(&DiffList { items: vec![entry], truncated: false }),
        "CHANGE  SIZE  VOLUME  PATH\nadded   3 B   data    a\u{fffd}[2Jb\u{fffd}c"
    );
}

#[test]
fn promotion_reports_its_steps() {
    let mut report = PromotionReport {
        plan: shop(),
        epoch: Epoch(2),
        restore_point: id(42),
        consistency: None,
        rpo_seconds: 75.0,
        rpo_counted_from: None,
        rto_seconds: Some(0.412),
        steps: vec![
            PromotionStep {
                name: "check restore point".into(),
                state: StepState::Done,
                duration_seconds: Some(0.01),
            },
            PromotionStep {
                name: "fence the peer".into(),
                state: StepState::Skipped,
                duration_seconds: None,
            },
        ],
        waves: vec![],
        warnings: vec!["the peer did not answer".into()],
        nothing_lost: false,
        dry_run: false,
    };
    assert_eq!(
        promotion(&report),
        "\
STEP                 STATE    TIME
check restore point  done     10ms
fence the peer       skipped  -

shop promoted to epoch 2 at e1-000042: RPO 1m15s, RTO 412ms.
warning: the peer did not answer"
    );
    (report.dry_run, report.rto_seconds) = (true, None);
    assert!(promotion(&report).contains("Dry run, nothing was done. shop would be promoted to epoch 2"));
    assert!(promotions(&[]).contains("nothing to promote"));
}

#[test]
fn pairs_and_plans() {
    let pair = Pair {
        name: "west".into(),
        pair_id: PairId([1; 16]),
        site_id: SiteId([2; 16]),
        endpoints: vec!["10.0.0.2:7443".into()],
        fingerprint: Some("0123456789abcdef".repeat(4)),
        connected: false,
        remote: None,
        round_trip_millis: None,
        last_seen: Some(Time(1_700_000_000_000)),
    };
    assert_eq!(
        pairs(std::slice::from_ref(&pair), false),
        "\
PEER  CONNECTED  ROUND TRIP  ENDPOINTS      LAST SEEN             FINGERPRINT
west  no         -           10.0.0.2:7443  2023-11-14T22:13:20Z  0123456789abcdef"
    );
    let wide = pairs(&[pair], true);
    assert!(wide.contains("02020202020202020202020202020202"));
    assert!(wide.contains(&"0123456789abcdef".repeat(4)));
    let removed = Unpaired {
        changed: true,
        plans: vec![
            OrphanedPlan { plan: shop(), role: SiteRole::Active },
            OrphanedPlan { plan: "db".parse().expect("a name"), role: SiteRole::Standby },
        ],
    };
    assert_eq!(
        unpaired("west", &removed),
        "\
Pair with west removed. Its restore points can be read as before.
Plan shop, active here, is replicated no more: its cycles fail.
Plan db, standing by here, gets nothing more; it can be promoted.
They go on when west is paired again, or with a site that takes its place: backstay pair key --replaces west"
    );
    assert_eq!(unpaired("west", &Unpaired::default()), "There is no pair with west; nothing to do.");
    let plan = PlanSummary {
        name: shop(),
        peer: "west".into(),
        role: SiteRole::Standby,
        epoch: Epoch(3),
        schedule: None,
        suspended: true,
        ended: false,
    };
    assert_eq!(
        plans(&[plan]),
        "PLAN  ROLE     EPOCH  PEER  SCHEDULE  SUSPENDED\nshop  standby  3      west  by hand   yes"
    );
    let applied_one =
        Applied { kind: "ReplicationPlan".into(), name: "shop".into(), result: ApplyResult::Configured };
    assert_eq!(applied(&[applied_one]), "ReplicationPlan shop configured");
}

#[test]
fn upkeep_tells_what_it_did() {
    let mut outcome =
        VerifyOutcome { packs: 2, chunks: 10, bytes: 1 << 20, restore_points: 3, ..Default::default() };
    assert_eq!(
        verified(&outcome),
        "Verified 2 packs, 10 chunks (1.0 MiB), 3 restore points and 0 replicas in 0ms: all is well."
    );
    outcome.not_compared.push(NotCompared { name: "shop/disk".into(), why: "it was changed".into() });
    assert_eq!(
        verified(&outcome),
        "replica shop/disk is its application's, and is not compared: it was changed\n\
         Verified 2 packs, 10 chunks (1.0 MiB), 3 restore points and 0 replicas in 0ms: what was compared is well."
    );
    outcome.damaged.push(Damage {
        kind: "pack".into(),
        name: "00000001".into(),
        detail: "digest of chunk 7".into(),
        restore_points: vec!["shop/e1-000042".into()],
        repaired: false,
    });
    let text = verified(&outcome);
    assert!(text.contains("pack     00000001  no        shop/e1-000042  digest of chunk 7"), "{text}");
    assert!(text.ends_with("DAMAGED."), "{text}");
    let lost = GcOutcome { skipped_restore_points: vec!["shop/e1-000001".into()], ..Default::default() };
    assert!(
        collected(&lost).ends_with("`backstay plan delete PLAN --purge`: shop/e1-000001"),
        "{}",
        collected(&lost)
    );
    let freed = GcOutcome { dry_run: true, bytes_freed: 1024, ..Default::default() };
    assert!(collected(&freed).starts_with("Would free 1.0 KiB in 0ms"), "{}", collected(&freed));
    let outcome =
        RebuildOutcome { packs: 1, plans: vec![shop()], warnings: vec!["lost".into()], ..Default::default() };
    assert_eq!(
        rebuilt(&outcome),
        "Catalog rebuilt: 1 packs, 0 chunks, 0 restore points of 1 plans (shop).\nwarning: lost"
    );
}

#[test]
fn the_audit_log_stays_one_line_a_record() {
    let record = AuditRecord {
        seq: 7,
        time: Time(1_700_000_000_123),
        actor: "uid:0".into(),
        action: "promote".into(),
        plan: Some(shop()),
        detail: "two\nlines".into(),
        outcome: "done".into(),
        previous: "0".repeat(64),
        hash: "ab".repeat(32),
    };
    assert_eq!(
        audit(std::slice::from_ref(&record), false),
        "TIME                  ACTOR  ACTION   PLAN  OUTCOME  DETAIL\n\
         2023-11-14T22:13:20Z  uid:0  promote  shop  done     two lines"
    );
    assert!(audit(&[record], true).contains("abababababababab"));
}
