//! What a test may ask of the machine it runs on: a seed, settings from the environment, root, and saying aloud
//! that it was skipped.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::str::FromStr;

use rand::SeedableRng as _;
pub use rand::rngs::StdRng as Rng;

/// A generator for this test: `BACKSTAY_SEED` or a fixed seed, made different for each test by its name. The seed is
/// printed, so a failure can be run again.
pub fn seed(test: &str) -> Rng {
    let base: u64 = env_or("BACKSTAY_SEED", 20_260_101);
    println!("{test}: BACKSTAY_SEED={base}");
    let mixed = test.bytes().fold(base, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    Rng::seed_from_u64(mixed)
}

/// A setting from the environment, for the scripts that run a suite at full size.
pub fn env_or<T: FromStr>(name: &str, default: T) -> T {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text:?} cannot be read")),
        Err(_) => default,
    }
}

/// Whether device nodes, mounts and foreign owners can be made.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Says that a test or a part of one did not run. `scripts/test.sh` counts these from the file that
/// `BACKSTAY_SKIPS` names, for a passing test's own output is not shown.
pub fn skip(test: &str, reason: &str) {
    println!("SKIPPED {test}: {reason}");
    if let Ok(path) = std::env::var("BACKSTAY_SKIPS") {
        let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
        writeln!(file, "{test}: {reason}").unwrap();
    }
}

/// Lets every user pass through a temporary folder: a server that a test starts may run as one of its own.
pub(crate) fn let_pass(folder: &std::path::Path) {
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o711);
    std::fs::set_permissions(folder, mode).unwrap();
}
