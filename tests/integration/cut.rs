//! The link is cut in the middle of a change of roles: it is rolled back or completed, and never do both sides run.

use std::fs;
use std::time::{Duration, Instant};

use backstay_tests::{Pair, SiteOptions, Wan, assert_same, env_or, eventually, seed, skip, tree};
use rand::RngExt as _;
use serde_json::json;

use crate::shop::{Shop, small};

#[test]
fn a_cut_link_rolls_back_or_completes() {
    let wan = match Wan::new() {
        Ok(wan) => wan,
        Err(reason) => return skip("a_cut_link_rolls_back_or_completes", &reason),
    };
    let options = |end| SiteOptions {
        listen: Some(wan.listen(end)),
        wrapper: wan.wrapper(end),
        ..SiteOptions::default()
    };
    let mut rng = seed("cut");
    let shop = Shop::on(Pair::with(options(0), options(1)), small);
    // Enough to be caught while it is on its way.
    let mut change = |shop: &Shop| {
        tree::mutate(&shop.source, 30, &mut rng);
        fs::write(shop.source.join("large"), tree::random_bytes(&mut rng, 48 << 20)).unwrap();
        rng.random_range(0.0..1.0)
    };
    change(&shop);
    shop.pair.east.allow_errors("");
    shop.pair.west.allow_errors("");
    let begun = Instant::now();
    shop.pair.east.cli(["switchover", "shop"]).ok();
    let undisturbed = begun.elapsed();
    shop.pair.east.cli(["failback", "shop"]).ok();

    let (mut rolled_back, mut completed) = (0, 0);
    for round in 0..env_or("BACKSTAY_CUTS", 4_u32) {
        let moment = change(&shop);
        let watch = shop.watch();
        let mut command = shop.begin("switchover");
        // Some moment of it, whichever that is.
        std::thread::sleep(undisturbed.mul_f64(moment));
        wan.cut();
        // Every other time long enough that the silence is noticed; what was offered waits even then.
        let patience = Duration::from_secs(if round % 2 == 0 { 20 } else { 2 });
        let cut = Instant::now();
        while cut.elapsed() < patience && command.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(25));
        }
        wan.plug();
        let is_done = command.wait().unwrap().success();
        eventually("one side is active and the other is not", Duration::from_secs(60), || {
            let roles = shop.roles();
            roles == ("active".into(), "standby".into()) || roles == ("standby".into(), "active".into())
        });
        let roles = shop.roles();
        let there = roles.1 == "active";
        assert!(there || !is_done, "the command said that it was carried out: {roles:?}");
        *(if there { &mut completed } else { &mut rolled_back }) += 1;
        let expected =
            if there { (Some(json!(0)), Some(json!(3))) } else { (Some(json!(3)), Some(json!(0))) };
        eventually("what is active runs", Duration::from_secs(30), || shop.running() == expected);
        for verb in ["switchover", "failback"] {
            eventually("the same command is carried out", Duration::from_secs(90), || {
                shop.pair.east.cli([verb, "shop"]).code == 0
            });
            assert_same(&shop.source, &shop.replica());
        }
        shop.wait_roles("active", "standby");
        watch.end();
    }
    println!("rolled back: {rolled_back}, completed: {completed}");
}
