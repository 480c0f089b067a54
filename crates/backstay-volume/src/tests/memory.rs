//! Memory does not grow with the volume.

use std::fs;
use std::os::unix::fs::FileExt;

use super::support::*;
use crate::{Cancel, ChunkSink, ParentUse, PatchBase, Progress, SinkClosed, snapshot};
use backstay_types::ChunkId;

/// Forgets every chunk.
struct Nowhere(u64);

impl ChunkSink for Nowhere {
    fn chunk(&mut self, _: ChunkId, bytes: Vec<u8>, _: Option<PatchBase>) -> Result<(), SinkClosed> {
        self.0 += bytes.len() as u64;
        Ok(())
    }
}

/// Resident memory of the process, in bytes.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn a_large_file_is_read_in_bounded_memory() {
    let site = Site::new();
    let path = site.source().join("large");
    // 20 GiB, sparse but for 512 islands, each of which becomes extents of its own.
    let file = fs::File::create(&path).unwrap();
    file.set_len(20 << 30).unwrap();
    let island = random_bytes(&mut seeded(1), 100_000);
    for n in 0..512 {
        file.write_all_at(&island, n * (40 << 20)).unwrap();
    }
    let before = resident();
    let scanned =
        snapshot(&site.spec, &site.ctx, &site.sent(), ParentUse::Held).unwrap().scan(&Cancel::new()).unwrap();
    assert_eq!(scanned.totals().read_bytes, 20 << 30);
    let mut sink = Nowhere(0);
    let read = scanned.read(&mut sink, &Progress::new()).unwrap();
    assert_eq!(read.volume.bytes, 20 << 30);
    assert!(sink.0 < 100 << 20);
    // Other tests run beside this one; half of what the daemon may use is room for them.
    let grown = resident().saturating_sub(before);
    assert!(grown < 128 << 20, "{grown} bytes more");
}

#[test]
fn extents_spill_to_disk() {
    use backstay_types::manifest::Extent;
    let dir = tempfile::tempdir().unwrap();
    let mut spool = crate::extents::ExtentSpool::new(dir.path().join("extents"));
    let extents: Vec<Extent> = (0..100_000_u64)
        .map(|n| match n % 3 {
            0 => Extent::Hole { len: n << 20 | 1 },
            _ => Extent::Data { id: key().chunk_id(&n.to_le_bytes()), len: (n % 262_144 + 1) as u32 },
        })
        .collect();
    for _ in 0..2 {
        for count in [0, 1, 16 << 10, (16 << 10) + 1, 100_000] {
            extents[..count].iter().for_each(|extent| spool.push(*extent).unwrap());
            let mut out = Vec::new();
            spool
                .drain(|group| {
                    out.extend_from_slice(group);
                    Ok(())
                })
                .unwrap();
            assert!(out == extents[..count], "{count} extents come back in order");
        }
        extents[..50_000].iter().for_each(|extent| spool.push(*extent).unwrap());
        spool.clear();
    }
}
