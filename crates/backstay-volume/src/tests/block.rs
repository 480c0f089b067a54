//! Devices and images.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::Command;

use backstay_types::manifest::VolumeKind;
use backstay_types::{ChunkId, Class, Classify};
use rand::RngExt;

use super::support::*;
use crate::{Look, Mark, Progress, Shown, Standing, VolumeError, apply};

fn image_site(bytes: u64) -> Site {
    let mut site = Site::new();
    let path = site.dir.path().join("disk.img");
    fs::File::create(&path).unwrap().set_len(bytes).unwrap();
    site.spec.path = None;
    site.spec.device = Some(path);
    site
}

#[test]
fn an_image_follows_its_source() {
    let site = image_site(64 << 20);
    let mut rng = seeded(1);
    let file = fs::OpenOptions::new().write(true).open(site.source()).unwrap();
    file.write_all_at(&random_bytes(&mut rng, 8 << 20), 20 << 20).unwrap();
    let target = site.dir.path().join("replicas/disk.img");
    let mut previous: Option<(ChunkId, Mark)> = None;
    for round in 0..4 {
        for _ in 0..20 {
            let at = rng.random_range(16 << 20..32 << 20);
            let bytes =
                if rng.random_range(0..4) == 0 { vec![0; 9000] } else { random_bytes(&mut rng, 9000) };
            file.write_all_at(&bytes, at).unwrap();
        }
        let (root, done) = site.cycle();
        let (changed, written) = (done.stats.bytes_changed, 16 << 20);
        assert!(changed > 0 && changed <= written, "{changed} bytes of changed chunks in round {round}");
        assert!(round == 0 || done.patches > 0);
        let shown = previous.as_ref().map(|(root, mark)| Shown { root, mark });
        let report = apply(&site.store, shown, &root, VolumeKind::Block, &target, &Progress::new()).unwrap();
        assert_eq!(report.compared_in_full, round == 0);
        assert!(fs::read(&target).unwrap() == fs::read(site.source()).unwrap());
        assert_eq!(compared(&site.store, &root, VolumeKind::Block, &target, Look::default()), []);
        previous = Some((root, report.mark.unwrap()));
    }
    assert!(fs::metadata(&target).unwrap().blocks() * 512 < 32 << 20, "the replica is sparse");
    site.age();
    let (root, done) = site.cycle();
    let shown = previous.map(|(root, _)| root);
    assert_eq!((Some(root), done.stats.bytes_changed), (shown, 0), "an unchanged image is not read");
    // A replica of nothing known is compared and mended.
    fs::OpenOptions::new().write(true).open(&target).unwrap().write_all_at(b"damage", 5_000_000).unwrap();
    assert_eq!(compared(&site.store, &root, VolumeKind::Block, &target, Look::default()).len(), 1);
    let report = apply(&site.store, None, &root, VolumeKind::Block, &target, &Progress::new()).unwrap();
    assert!(report.bytes_written <= 64 << 10, "{report:?}");
    assert!(fs::read(&target).unwrap() == fs::read(site.source()).unwrap());
}

/// What is punched, cut or longer is as much of a difference as what is written.
#[test]
fn holes_and_length_are_differences() {
    let site = image_site(1 << 20);
    write(&site.source(), [random_bytes(&mut seeded(4), 512 << 10), vec![0; 512 << 10]].concat());
    let (root, _) = site.cycle();
    let target = site.dir.path().join("replica.img");
    let bring = || apply(&site.store, None, &root, VolumeKind::Block, &target, &Progress::new()).unwrap();
    let found = || compared(&site.store, &root, VolumeKind::Block, &target, Look::default());
    assert_eq!((bring().changed, bring().changed), (1, 0));
    let replica = fs::OpenOptions::new().write(true).open(&target).unwrap();
    let damages: [(&str, &dyn Fn()); 3] = [
        ("its content differs", &|| replica.write_all_at(b"in the hole", 600 << 10).unwrap()),
        ("it is longer", &|| replica.set_len(2 << 20).unwrap()),
        // Of zeros: nothing has to be written to mend it.
        ("it is shorter", &|| replica.set_len(700 << 10).unwrap()),
    ];
    for (why, damage) in damages {
        damage();
        assert_eq!(found().iter().map(|found| found.why).collect::<Vec<_>>(), [why]);
        let report = bring();
        assert_eq!((report.changed, report.bytes_written), (1, 0), "{why}");
        assert_eq!(found(), [], "{why}");
    }
}

#[test]
fn an_image_that_became_empty_is_refused() {
    let site = image_site(1 << 20);
    write(&site.source(), random_bytes(&mut seeded(2), 1 << 20));
    let (_, _) = site.cycle();
    write(&site.source(), "");
    let error = site.try_read().map(|_| ()).unwrap_err();
    assert!(matches!(error, VolumeError::EmptySource { .. }), "{error}");
}

#[test]
fn block_devices_are_read_and_written() {
    let losetup = |args: &[&str]| Command::new("losetup").args(args).output();
    if !is_root() || !losetup(&["--version"]).is_ok_and(|o| o.status.success()) {
        eprintln!("skipped: loop devices need root and losetup");
        return;
    }
    let mut site = image_site(8 << 20);
    let image = site.source();
    write(&image, random_bytes(&mut seeded(3), 8 << 20));
    let small = site.dir.path().join("small.img");
    fs::File::create(&small).unwrap().set_len(4 << 20).unwrap();
    let copy = site.dir.path().join("copy.img");
    fs::File::create(&copy).unwrap().set_len(8 << 20).unwrap();
    let attach = |path: &std::path::Path| {
        let output = losetup(&["--find", "--show", path.to_str().unwrap()]).unwrap();
        assert!(output.status.success(), "{output:?}");
        std::path::PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
    };
    let devices = [attach(&image), attach(&small), attach(&copy)];
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        site.spec.device = Some(devices[0].clone());
        let (root, _) = site.cycle();
        let to = |target| apply(&site.store, None, &root, VolumeKind::Block, target, &Progress::new());
        let error = to(&devices[1]).unwrap_err();
        assert!(
            matches!(error, VolumeError::DeviceSize { expected: 8_388_608, found: 4_194_304, .. }),
            "{error}"
        );
        assert_eq!(error.class(), Class::Invalid);
        let mark = to(&devices[2]).unwrap().mark.unwrap();
        let standing = || mark.standing(&devices[2], VolumeKind::Block).unwrap();
        assert_eq!(standing(), Standing::Same);
        // A flush is a request, and no write.
        fs::File::open(&devices[2]).unwrap().sync_all().unwrap();
        assert_eq!(standing(), Standing::Same);
        assert!(fs::read(&devices[2]).unwrap() == fs::read(&image).unwrap());
    }));
    for device in &devices {
        assert!(losetup(&["-d", device.to_str().unwrap()]).unwrap().status.success());
    }
    result.unwrap();
}
