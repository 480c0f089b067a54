use backstay_types::frame::SiteRole;
use backstay_types::point::Consistency;
use backstay_types::{Epoch, RestorePointId, Time};
use serde_json::{Value, json, to_value};

use super::*;

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

fn has(value: &Value, fields: &str) {
    let found = keys(value);
    for field in fields.split_whitespace() {
        assert!(found.contains(&field), "{field} is missing in {found:?}");
    }
}

fn point() -> RestorePointInfo {
    RestorePointInfo {
        id: RestorePointId { epoch: Epoch(1), number: 42 },
        plan: "shop".parse().expect("a name"),
        epoch: Epoch(1),
        parent: None,
        snapshot_time: Time(0),
        committed_time: Time(1500),
        consistency: Consistency::Crash,
        complete: true,
        files_scanned: 1,
        bytes_scanned: 2,
        bytes_changed: 3,
        wire_bytes: 4,
        duration_seconds: 1.5,
        volumes: vec![],
        objects: 0,
        held_by: vec!["last".into()],
        damaged: false,
    }
}

#[test]
fn fields_are_named_as_the_contract_says() {
    let value = to_value(point()).expect("json");
    has(
        &value,
        "id plan epoch snapshotTime committedTime consistency complete filesScanned bytesScanned bytesChanged \
         wireBytes durationSeconds volumes heldBy damaged",
    );
    assert_eq!(value["id"], "e1-000042");
    assert_eq!(value["snapshotTime"], "1970-01-01T00:00:00Z");
    assert_eq!(value["consistency"], "crash");

    let status = PlanStatus {
        plan: "shop".parse().expect("a name"),
        role: SiteRole::Active,
        epoch: Epoch(1),
        peer: "west".into(),
        connected: true,
        lag_seconds: None,
        rpo_target_seconds: Some(1200.0),
        last_restore_point: None,
        applied_restore_point: None,
        next_run: None,
        cycle: Some(CycleStatus {
            phase: CyclePhase::Transfer,
            percent: Some(50.0),
            bytes_done: 1,
            bytes_total: Some(2),
            bytes_per_second: 1.0,
            eta_seconds: Some(1.0),
        }),
        last_cycle: None,
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
    };
    let value = to_value(&status).expect("json");
    has(
        &value,
        "plan role epoch peer connected lagSeconds rpoTargetSeconds lastRestorePoint appliedRestorePoint nextRun \
         cycle lastCycle suspended automaticFailover proposed peerProposed",
    );
    has(&value["cycle"], "phase percent bytesDone bytesTotal bytesPerSecond etaSeconds");
    assert_eq!(value["role"], "active");
    // Nothing known is null, not missing.
    assert_eq!(value["lagSeconds"], Value::Null);
    assert_eq!(value["rpoTargetSeconds"], 1200);
    assert_eq!(serde_json::from_value::<PlanStatus>(value.clone()).expect("reads"), status);
    assert_eq!(value["cycle"]["phase"], CyclePhase::Transfer.as_str());

    let report = PromotionReport {
        plan: "shop".parse().expect("a name"),
        epoch: Epoch(2),
        restore_point: point().id,
        consistency: None,
        rpo_seconds: 12.0,
        rpo_counted_from: None,
        rto_seconds: Some(0.4),
        steps: vec![PromotionStep { name: "x".into(), state: StepState::Done, duration_seconds: Some(0.1) }],
        waves: vec![],
        warnings: vec![],
        nothing_lost: false,
        dry_run: false,
    };
    let value = to_value(&report).expect("json");
    has(&value, "plan epoch restorePoint rpoSeconds rpoCountedFrom rtoSeconds steps warnings dryRun");
    has(&value["steps"][0], "name state durationSeconds");
}

#[test]
fn a_sync_answer_is_a_point_or_started() {
    let done: SyncOutcome = serde_json::from_value(to_value(point()).expect("json")).expect("a point");
    assert_eq!(done, SyncOutcome::Done(Box::new(point())));
    let started: SyncOutcome = serde_json::from_value(json!({"started": true})).expect("started");
    assert_eq!(started, SyncOutcome::Started { started: true });
}

#[test]
fn an_answer_of_a_newer_daemon_is_read() {
    let answer = json!({"error": {"class": "notFound", "message": "no plan x", "hint": null, "since": 3}});
    let body: ErrorBody = serde_json::from_value(answer).expect("unknown fields are skipped");
    assert_eq!(body.error.class, Class::NotFound);
    assert_eq!(body.error.http_status(), 404);
    // A request, though, must not be half understood.
    assert!(serde_json::from_value::<PromoteRequest>(json!({"dryrun": true})).is_err());
}

#[test]
fn every_class_answers_an_error_status() {
    for class in Class::ALL {
        let info = ErrorInfo { class, message: String::new(), hint: None };
        assert!((400..600).contains(&info.http_status()), "{class:?}");
    }
}

#[test]
fn keys_do_not_show_in_debug_output() {
    let request = JoinRequest { key: "bsk1_secret".into(), replaces: None };
    assert!(
        !format!("{request:?} {:?}", PairKey { key: "bsk1_secret".into(), endpoints: Vec::new() })
            .contains("secret")
    );
}
