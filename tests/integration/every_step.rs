//! `kill -9` of a daemon at each durable step of a change of roles: the same command again ends as if nothing had been.
//!
//! A step is one sync of the daemon, of whatever file. The suite takes every few of them, `scripts/kill-steps.sh` each.

use std::process::Child;
use std::time::Duration;

use backstay_tests::{
    Crasher, Pair, Rng, Site, SiteOptions, assert_same, copy_tree, env_or, eventually, seed, tree,
};
use serde_json::{Value, json};

use crate::shop::{Shop, small};

/// A shop of which each daemon can be killed.
struct Stage {
    shop: Shop,
    east: Crasher,
    west: Crasher,
    _dirs: tempfile::TempDir,
    rng: Rng,
    /// Kills so far.
    kills: u32,
}

#[derive(Debug, Clone, Copy)]
enum Victim {
    East,
    West,
}

impl Stage {
    fn new(name: &str) -> Stage {
        let dirs = tempfile::tempdir().unwrap();
        let crasher = |name: &str| {
            let dir = dirs.path().join(name);
            std::fs::create_dir(&dir).unwrap();
            Crasher::new(&dir)
        };
        let (east, west) = (crasher("east"), crasher("west"));
        let options = |crasher: &Crasher| SiteOptions { env: crasher.env(), ..SiteOptions::default() };
        let shop = Shop::on(Pair::with(options(&east), options(&west)), small);
        shop.pair.east.allow_errors("");
        shop.pair.west.allow_errors("");
        Stage { shop, east, west, _dirs: dirs, rng: seed(name), kills: 0 }
    }

    fn crasher(&self, victim: Victim) -> &Crasher {
        match victim {
            Victim::East => &self.east,
            Victim::West => &self.west,
        }
    }

    fn site(&mut self, victim: Victim) -> &mut Site {
        match victim {
            Victim::East => &mut self.shop.pair.east,
            Victim::West => &mut self.shop.pair.west,
        }
    }

    /// Which steps are taken, of one change of roles.
    fn steps() -> impl Iterator<Item = u32> {
        (1..).step_by(env_or("BACKSTAY_KILL_STEP", 17))
    }

    fn change_both(&mut self) {
        let active =
            if self.shop.roles().0 == "active" { self.shop.source.clone() } else { self.shop.replica() };
        tree::mutate(&active, 30, &mut self.rng);
    }

    /// Waits for a command of which the victim may die, and starts the victim again; whether it died.
    fn died(&mut self, victim: Victim, mut command: Child) -> bool {
        // What was offered waits for the other side, so the victim is started as soon as it is dead.
        eventually("the command is over, or a daemon dead", Duration::from_secs(60), || {
            command.try_wait().unwrap().is_some() || self.crasher(victim).has_killed()
        });
        let died = self.crasher(victim).disarm();
        if died {
            self.revive(victim);
        }
        command.wait().unwrap();
        self.shop.pair.wait_connected();
        died
    }

    fn revive(&mut self, victim: Victim) {
        self.kills += 1;
        self.site(victim).wait_dead();
        self.site(victim).serve();
    }

    /// A planned change of roles, of which one daemon dies at the given step; whether it did.
    fn planned(&mut self, verb: &str, victim: Victim, step: u32) -> bool {
        self.change_both();
        let watch = self.shop.watch();
        self.crasher(victim).arm(step);
        let command = self.shop.begin(verb);
        let died = self.died(victim, command);
        eventually(&format!("{verb} after {victim:?} died at step {step}"), Duration::from_secs(90), || {
            self.shop.pair.east.cli([verb, "shop"]).code == 0
        });
        let (roles, running) = match verb {
            "switchover" => (("standby", "active"), (0, 3)),
            _ => (("active", "standby"), (3, 0)),
        };
        self.shop.wait_roles(roles.0, roles.1);
        watch.end();
        let at = format!("{verb}, {victim:?} at step {step}");
        assert_eq!(self.shop.running(), (Some(json!(running.0)), Some(json!(running.1))), "{at}");
        assert_same(&self.shop.source, &self.shop.replica());
        died
    }
}

fn there_and_back(victim: Victim) {
    let mut stage = Stage::new(&format!("there and back, {victim:?}"));
    for step in Stage::steps() {
        let died = [stage.planned("switchover", victim, step), stage.planned("failback", victim, step)];
        if died == [false; 2] {
            println!("{victim:?} died at {} steps, up to {step}", stage.kills);
            break;
        }
    }
    assert!(stage.kills >= 2, "nobody died");
    for site in [&stage.shop.pair.east, &stage.shop.pair.west] {
        site.cli(["verify"]).ok();
    }
}

#[test]
fn the_side_where_the_plan_was_made_dies_at_each_step() {
    there_and_back(Victim::East);
}

#[test]
fn the_other_side_dies_at_each_step() {
    there_and_back(Victim::West);
}

/// The active side is lost, the standby dies at each step of its promotion; then the lost one comes back with writes of
/// its own, and dies at each step of becoming the standby.
#[test]
fn promoted_and_returning_sides_die_at_each_step() {
    let mut stage = Stage::new("promoted and returning");
    for step in Stage::steps() {
        stage.shop.pair.east.kill();
        stage.west.arm(step);
        let mut command = stage.shop.pair.west.command(["promote", "shop"]);
        let promotion =
            command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn();
        promotion.unwrap().wait().unwrap();
        let promoted_died = stage.west.disarm();
        if promoted_died {
            stage.revive(Victim::West);
        }
        eventually("the same command is carried out", Duration::from_secs(60), || {
            stage.shop.pair.west.cli(["promote", "shop"]).code == 0
        });
        assert_eq!(stage.shop.running().1, Some(json!(3)), "promotion killed at step {step}");
        assert_same(&stage.shop.source, &stage.shop.replica());

        tree::mutate(&stage.shop.source, 30, &mut stage.rng);
        let mut kept = stage.shop.pair.work(&format!("kept-{step}"));
        copy_tree(&stage.shop.source, &kept);
        stage.east.arm(step);
        stage.shop.pair.east.spawn();
        eventually("the returning side is the standby, or dead", Duration::from_secs(60), || {
            let status = stage.shop.pair.east.cli(["status", "shop", "-o", "json"]);
            stage.east.has_killed() || (status.code == 0 && status.json()["role"] == "standby")
        });
        let returned_died = stage.east.disarm();
        if returned_died {
            // Volumes are not held: they may be written to until the side is the standby.
            let record = stage.shop.pair.east.dir().join("plans/shop/plan.json");
            let record: Value = serde_json::from_slice(&std::fs::read(record).unwrap()).unwrap();
            if record["role"] != "standby" {
                std::fs::write(stage.shop.source.join(format!("late-{step}")), b"late").unwrap();
                kept = stage.shop.pair.work(&format!("kept-late-{step}"));
                copy_tree(&stage.shop.source, &kept);
            }
            stage.revive(Victim::East);
        }
        stage.shop.wait_roles("standby", "active");
        assert_eq!(stage.shop.running(), (Some(json!(0)), Some(json!(3))), "return killed at step {step}");
        let points = stage.shop.pair.east.restore_points("shop");
        let diverged = points.iter().filter(|point| point["consistency"] == "diverged");
        let ids = diverged.map(|point| point["id"].as_str().unwrap());
        // `e9-…` comes before `e10-…`.
        let id = ids.max_by_key(|id| (id.len(), *id)).expect("a diverged restore point");
        let out = stage.shop.pair.work(&format!("out-{step}"));
        let to = out.to_str().unwrap();
        stage
            .shop
            .pair
            .east
            .cli(["restore", "shop", "--restore-point", id, "--volume", "data", "--to", to])
            .ok();
        assert_same(&kept, &out);
        eventually("home again", Duration::from_secs(90), || {
            stage.shop.pair.east.cli(["failback", "shop"]).code == 0
        });
        stage.shop.wait_roles("active", "standby");
        assert_same(&stage.shop.source, &stage.shop.replica());
        if !promoted_died && !returned_died {
            println!("died at {} steps, up to {step}", stage.kills);
            break;
        }
    }
    assert!(stage.kills >= 2, "nobody died");
    for site in [&stage.shop.pair.east, &stage.shop.pair.west] {
        site.cli(["verify"]).ok();
    }
}
