//! Sites that an earlier build has made open, keep what they have, and go on.
//!
//! `fixtures/sites-COMMIT.tar.gz` holds the folders `east` and `west` of two paired sites, and the source of their plans,
//! as the build of that commit left them: `shop` with two restore points of a volume and a folder of manifests, and
//! a field that such a plan cannot honour; `torn`, which accepts fuzzy files. Both points of `shop` were called `crash`.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use backstay_tests::{Site, assert_same, eventually};
use tempfile::TempDir;

/// Where the fixture was made; its plans name this place.
const MADE_AT: &str = "/tmp/bsfix";
const EAST: &str = "127.0.0.1:28001";
const WEST: &str = "127.0.0.1:28002";

fn unpack(fixture: &str) -> (TempDir, Site, Site) {
    let home = tempfile::tempdir().unwrap();
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(fixture);
    let status = Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(home.path()).status().unwrap();
    assert!(status.success());
    let at = |name: &str| home.path().join(name);
    let (east, west) = (Site::adopt("east", &at("east"), EAST), Site::adopt("west", &at("west"), WEST));
    for site in [&east, &west] {
        let plans = ["shop", "torn"].map(|plan| site.dir().join("plans").join(plan).join("plan.json"));
        let pairs = fs::read_dir(site.dir().join("pairs")).unwrap().map(|entry| entry.unwrap().path());
        for file in
            plans.into_iter().chain(pairs).filter(|file| file.extension().is_some_and(|e| e == "json"))
        {
            let text = fs::read_to_string(&file).unwrap();
            let text = text.replace(MADE_AT, home.path().to_str().unwrap());
            let text =
                text.replace(EAST, &east.listen().to_string()).replace(WEST, &west.listen().to_string());
            fs::write(file, text).unwrap();
        }
    }
    (home, east, west)
}

#[test]
fn sites_of_commit_1d2356f_go_on() {
    let (home, mut east, mut west) = unpack("sites-1d2356f.tar.gz");
    let source = home.path().join("source");
    east.serve();
    west.serve();
    eventually("the sites to be connected", Duration::from_secs(60), || {
        east.status("shop")["connected"] == true
    });

    // What was claimed and not shown is not claimed any more; what is on the standby is what it was.
    let points = west.restore_points("shop");
    let words: Vec<_> = points.iter().map(|point| point["consistency"].clone()).collect();
    assert_eq!(words, ["unknown", "unknown"], "{points:?}");
    let out = home.path().join("out");
    let restore = ["restore", "shop", "--restore-point", "e1-000001", "--to", out.to_str().unwrap()];
    west.cli(restore).ok();
    assert_eq!(fs::read_to_string(out.join("f2")).unwrap(), "file 2 of the source\n");
    west.cli(["verify"]).ok();

    // The next cycle is one like any other, against the point that both had.
    fs::write(source.join("f3"), "changed since").unwrap();
    let point = east.sync("shop");
    assert_eq!(point["consistency"], "crash", "{point}");
    assert!(point["bytesChanged"].as_u64().unwrap() < 1000, "{point}");
    let applied = || west.status("shop")["appliedRestorePoint"] == point["id"];
    eventually("the point to be applied", Duration::from_secs(60), applied);
    assert_same(&source, &west.replica("shop", "data"));
    // Plans keep what they accepted.
    east.sync("torn");
    for plan in ["shop", "torn"] {
        assert_eq!(east.status(plan)["minimumConsistency"], "fuzzy", "{plan}");
    }

    east.kill();
    west.promote("shop", &[]);
    assert_eq!(west.status("shop")["role"], "active");
    assert_same(&source, &west.replica("shop", "data"));
}
