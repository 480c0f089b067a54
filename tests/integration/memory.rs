//! Memory of either daemon stays under 256 MiB, whatever the volume holds.

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::Path;

use backstay_tests::{Pair, Plan, assert_same, env_or, seed, tree};

/// The promise.
const LIMIT_MIB: u64 = 256;

/// A first cycle, an increment and a promotion, with the memory of both daemons at its highest.
fn stays_small(build: impl FnOnce(&Path), change: impl FnOnce(&Path)) {
    let mut pair = Pair::start();
    let source = pair.source("source");
    build(&source);
    pair.east.apply(&Plan::new("shop").volume("data", &source).yaml()).ok();
    pair.east.sync("shop");
    change(&source);
    pair.east.sync("shop");
    pair.west.cli(["verify"]).ok();
    let sender = pair.east.peak_memory_mib();
    pair.take_over("shop");
    let receiver = pair.west.peak_memory_mib();
    println!("peak memory: sender {sender} MiB, receiver {receiver} MiB");
    assert!(sender < LIMIT_MIB && receiver < LIMIT_MIB, "sender {sender} MiB, receiver {receiver} MiB");
    assert_same(&source, &pair.west.replica("shop", "data"));
}

/// Many files; a million by `BACKSTAY_MEMORY_FILES`.
#[test]
fn with_many_files() {
    let count = env_or("BACKSTAY_MEMORY_FILES", 15_000);
    stays_small(
        |source| {
            for number in 0..count {
                let folder = source.join(format!("{:04}", number / 500));
                if number % 500 == 0 {
                    fs::create_dir(&folder).unwrap();
                }
                fs::write(folder.join(format!("file{number}")), number.to_string()).unwrap();
            }
        },
        |source| fs::write(source.join("0000/file7"), b"changed").unwrap(),
    );
}

/// One large file; 20 GiB by `BACKSTAY_MEMORY_MIB`. It compresses, so that full size fits on a small disk.
#[test]
fn with_a_large_file() {
    let mib: u64 = env_or("BACKSTAY_MEMORY_MIB", 384);
    let mut rng = seed("large file");
    stays_small(
        |source| {
            let mut file = BufWriter::with_capacity(1 << 20, File::create(source.join("large")).unwrap());
            let filler = tree::words(&mut seed("filler"), 4096 - 64);
            for _ in 0..mib * 256 {
                file.write_all(&tree::random_bytes(&mut rng, 64)).unwrap();
                file.write_all(&filler).unwrap();
            }
            file.flush().unwrap();
        },
        |source| {
            tree::rewrite_sectors(&source.join("large"), mib, &mut seed("rewrites"));
        },
    );
}
