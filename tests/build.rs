//! Builds the library that kills a daemon after a given sync: see `harness/src/crash.rs`.

use std::path::Path;
use std::process::Command;

fn main() {
    const SOURCE: &str = "harness/src/native/crash_at_sync.c";
    println!("cargo:rerun-if-changed={SOURCE}");
    let out = std::env::var("OUT_DIR").unwrap_or_else(|error| panic!("OUT_DIR: {error}"));
    let library = Path::new(&out).join("libcrash_at_sync.so");
    // The compiler that rustc links with is there.
    let cc = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let status = Command::new(&cc)
        .args(["-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(SOURCE)
        .status();
    assert!(status.as_ref().is_ok_and(|status| status.success()), "{cc} {SOURCE}: {status:?}");
    println!("cargo:rustc-env=BACKSTAY_CRASH_AT_SYNC={}", library.display());
}
