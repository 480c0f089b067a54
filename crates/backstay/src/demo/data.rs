//! Sample data of the demo: always the same bytes.

use std::fs::{self, OpenOptions};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::symlink;
use std::path::Path;

use backstay_types::Class;

use crate::failure::Failure;

/// Folders of the sample, and files in each: enough to be a tree, few enough for a minute.
const FOLDERS: u64 = 20;
const FILES: u64 = 50;
/// A database image, and the page its application writes.
const IMAGE_BYTES: u64 = 64 << 20;
const PAGE_BYTES: u64 = 8 << 10;
/// Pages written between the syncs: one in a hundred.
const PAGES_WRITTEN: u64 = IMAGE_BYTES / PAGE_BYTES / 100;

/// xorshift64*: bytes that do not compress, the same every time.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn bytes(&mut self, count: u64) -> Vec<u8> {
        (0..count.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).collect()
    }
}

fn fail(path: &Path) -> impl FnOnce(std::io::Error) -> Failure + '_ {
    move |error| Failure::io(Class::Invalid, "write", path, &error)
}

pub(super) fn write(path: &Path, content: impl AsRef<[u8]>) -> Result<(), Failure> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(fail(folder))?;
    }
    fs::write(path, content).map_err(fail(path))
}

/// A thousand files and a database image.
pub(super) fn make(source: &Path) -> Result<(), Failure> {
    let mut noise = Noise(1);
    for folder in 0..FOLDERS {
        for file in 0..FILES {
            let size = noise.next() % (16 << 10);
            write(&source.join(format!("orders/{folder:02}/{file:02}.dat")), noise.bytes(size))?;
        }
    }
    let image = source.join("shop.db");
    write(&image, [])?;
    let mut out = OpenOptions::new().append(true).open(&image).map_err(fail(&image))?;
    for _ in 0..IMAGE_BYTES >> 20 {
        out.write_all(&noise.bytes(1 << 20)).map_err(fail(&image))?;
    }
    let link = source.join("latest");
    symlink("orders/19", &link).map_err(fail(&link))
}

/// What the application writes between two cycles: pages here and there, one new folder, one file gone. Answers how many
/// bytes.
pub(super) fn change(source: &Path) -> Result<u64, Failure> {
    let mut noise = Noise(2);
    let image = source.join("shop.db");
    let mut out = OpenOptions::new().write(true).open(&image).map_err(fail(&image))?;
    for _ in 0..PAGES_WRITTEN {
        let page = noise.next() % (IMAGE_BYTES / PAGE_BYTES);
        out.seek(SeekFrom::Start(page * PAGE_BYTES)).map_err(fail(&image))?;
        out.write_all(&noise.bytes(PAGE_BYTES)).map_err(fail(&image))?;
    }
    let mut written = PAGES_WRITTEN * PAGE_BYTES;
    for file in 0..FILES {
        let content = noise.bytes(4 << 10);
        written += content.len() as u64;
        write(&source.join(format!("orders/new/{file:02}.dat")), content)?;
    }
    let gone = source.join("orders/00/00.dat");
    fs::remove_file(&gone).map_err(fail(&gone))?;
    Ok(written)
}

/// An application that would run twice if it were not held on the standby.
pub(super) fn manifests(folder: &Path) -> Result<(), Failure> {
    write(
        &folder.join("shop.yaml"),
        "\
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers: [{name: web, image: 'registry.example/shop:1.4'}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: shop}
data: {currency: EUR}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: report, namespace: shop}
spec:
  schedule: '0 3 * * *'
  jobTemplate:
    spec:
      template:
        spec:
          restartPolicy: OnFailure
          containers: [{name: report, image: 'registry.example/report:2'}]
",
    )
}

/// The plan; paths as JSON strings, which are YAML strings whatever is in them.
pub(super) fn plan(source: &Path, objects: &Path) -> String {
    let quoted = |path: &Path| serde_json::Value::from(path.to_string_lossy()).to_string();
    format!(
        "\
apiVersion: backstay.dev/v1alpha1
kind: ReplicationPlan
metadata: {{name: shop}}
spec:
  pair: west
  retention: {{last: 10}}
  rpoTarget: 20m
  volumes:
    - {{name: data, path: {}}}
  manifests: {{path: {}}}
",
        quoted(source),
        quoted(objects)
    )
}
