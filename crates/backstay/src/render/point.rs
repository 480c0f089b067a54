//! Restore points and what is done with them.

use backstay_daemon::api_types::{DiffList, RestoreOutcome, RestorePointInfo};

use crate::output::{bytes, seconds, table, time, word};

const NO_POINTS: &str = "No restore points yet. Next, on the active site: backstay sync PLAN";

pub(crate) fn restore_points(points: &[RestorePointInfo], wide: bool) -> String {
    let state = |point: &RestorePointInfo| {
        match (point.damaged, point.complete) {
            (true, _) => "DAMAGED",
            (false, false) => "incomplete",
            (false, true) => "ok",
        }
        .to_owned()
    };
    let size = |point: &RestorePointInfo| bytes(point.volumes.iter().map(|volume| volume.bytes).sum());
    let held = |point: &RestorePointInfo| {
        if point.held_by.is_empty() { "until next gc".to_owned() } else { point.held_by.join(",") }
    };
    if !wide {
        return table(
            NO_POINTS,
            ["restore point", "snapshot time", "consistency", "size", "changed", "wire", "held by", "state"],
            points.iter().map(|p| {
                [
                    p.id.to_string(),
                    time(p.snapshot_time),
                    word(&p.consistency),
                    size(p),
                    bytes(p.bytes_changed),
                    bytes(p.wire_bytes),
                    held(p),
                    state(p),
                ]
            }),
        );
    }
    table(
        NO_POINTS,
        [
            "restore point",
            "snapshot time",
            "committed",
            "consistency",
            "volumes",
            "objects",
            "files",
            "size",
            "changed",
            "wire",
            "took",
            "parent",
            "held by",
            "state",
        ],
        points.iter().map(|p| {
            [
                p.id.to_string(),
                time(p.snapshot_time),
                time(p.committed_time),
                word(&p.consistency),
                p.volumes.len().to_string(),
                p.objects.to_string(),
                p.volumes.iter().map(|volume| volume.entries).sum::<u64>().to_string(),
                size(p),
                bytes(p.bytes_changed),
                bytes(p.wire_bytes),
                seconds(p.duration_seconds),
                crate::output::or_dash(p.parent, |id| id.to_string()),
                held(p),
                state(p),
            ]
        }),
    )
}

/// Summary of a sync.
pub(crate) fn synced(point: &RestorePointInfo) -> String {
    crate::output::pairs([
        ("Restore point", format!("{} ({})", point.id, word(&point.consistency))),
        ("Scanned", format!("{} files, {}", point.files_scanned, bytes(point.bytes_scanned))),
        ("Changed", bytes(point.bytes_changed)),
        ("On the wire", bytes(point.wire_bytes)),
        ("Time", seconds(point.duration_seconds)),
    ])
}

pub(crate) fn diff(diff: &DiffList) -> String {
    table(
        "No differences.",
        ["change", "size", "volume", "path"],
        diff.items.iter().map(|entry| {
            let path = entry.path.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
            [word(&entry.change), bytes(entry.bytes), entry.volume.clone(), path]
        }),
    )
}

pub(crate) fn restored(outcome: &RestoreOutcome) -> String {
    format!(
        "Restored {} entries, {}, of {} to {} in {}.",
        outcome.entries,
        bytes(outcome.bytes),
        outcome.restore_point,
        outcome.to.display(),
        seconds(outcome.duration_seconds),
    )
}
