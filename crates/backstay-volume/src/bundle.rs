//! The bundle: captured objects as a manifest of one file each, without folders.

use backstay_types::ChunkId;
use backstay_types::manifest::{Entry, Extent, FetchChunk, Mtime, NodeKind, RelPath, VolumeKind};
use backstay_types::point::Bundle;
use backstay_types::{Classify, limits};

use crate::content::{CutMode, Cutter};
use crate::manifest_in::ManifestStream;
use crate::manifest_out::{ManifestOut, TreeOut};
use crate::{ChunkSink, VolumeContext, VolumeError};

/// Largest object of a bundle. The Kubernetes API takes 3 MiB, etcd 1.5 MiB.
pub const OBJECT_BYTES_MAX: usize = 8 << 20;

/// Writes objects, in ascending order of their paths, as a bundle. The chunks go to `sink`.
pub fn write_bundle(
    objects: impl Iterator<Item = (RelPath, Vec<u8>)>,
    ctx: &VolumeContext,
    sink: &mut dyn ChunkSink,
) -> Result<Bundle, VolumeError> {
    let cutter = Cutter::new(&ctx.params)?;
    let mut manifest = ManifestOut::new(ctx.key.clone(), None);
    for (path, bytes) in objects {
        if bytes.len() > OBJECT_BYTES_MAX {
            let why = format!("object {path} has {} bytes: at most {OBJECT_BYTES_MAX} allowed", bytes.len());
            return Err(VolumeError::Unwritable { why });
        }
        let mut extents = Vec::new();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let len = cutter.cut(CutMode::Content, 0, rest);
            let (chunk, tail) = rest.split_at(len.min(rest.len()));
            let id = ctx.key.chunk_id(chunk);
            sink.chunk(id, chunk.to_vec(), None)?;
            extents.push(Extent::Data { id, len: u32::try_from(chunk.len()).unwrap_or(u32::MAX) });
            rest = tail;
        }
        let entry = Entry {
            path,
            kind: NodeKind::File { size: bytes.len() as u64 },
            links: None,
            mode: 0o600,
            uid: 0,
            gid: 0,
            mtime: Mtime { secs: 0, nanos: 0 },
            xattrs: Vec::new(),
        };
        let mut out = TreeOut { sink: &mut *sink, state: None };
        manifest.entry(entry, &mut out)?;
        manifest.extents(&extents, &mut out)?;
    }
    let written = manifest.finish(None, VolumeKind::Bundle, &mut TreeOut { sink, state: None })?;
    Ok(Bundle { root: written.root, objects: written.entries, bytes: written.bytes })
}

/// Objects of a bundle, one after the other.
pub struct BundleObjects<'a, F> {
    reader: &'a F,
    stream: ManifestStream<&'a F>,
    failed: bool,
}

/// Reads the objects of a bundle, in order of their paths.
pub fn read_bundle<'a, F>(reader: &'a F, root: &ChunkId) -> Result<BundleObjects<'a, F>, VolumeError>
where
    F: FetchChunk,
    F::Error: Classify + Send + Sync + 'static,
{
    let stream = ManifestStream::open(reader, root).map_err(VolumeError::manifest)?;
    if stream.root().kind != VolumeKind::Bundle {
        return Err(VolumeError::Refused { path: ".".to_owned(), why: "it is not a bundle" });
    }
    Ok(BundleObjects { reader, stream, failed: false })
}

impl<F> BundleObjects<'_, F>
where
    F: FetchChunk,
    F::Error: Classify + Send + Sync + 'static,
{
    fn object(&mut self) -> Result<Option<(RelPath, Vec<u8>)>, VolumeError> {
        let Some(entry) = self.stream.current().cloned() else { return Ok(None) };
        let refused = |why| VolumeError::Refused { path: entry.path.to_string(), why };
        let NodeKind::File { size } = entry.kind else {
            return Err(refused("a bundle holds files only"));
        };
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        if size > OBJECT_BYTES_MAX {
            return Err(refused("the object is too large"));
        }
        let mut bytes = Vec::with_capacity(size);
        while let Some(extent) = self.stream.next_extent().map_err(VolumeError::manifest)? {
            match extent {
                Extent::Data { id, len } => {
                    let chunk = self.reader.fetch(&id).map_err(VolumeError::fetch)?;
                    if chunk.len() != len as usize || chunk.len() > limits::CHUNK_BYTES_MAX {
                        return Err(refused("a chunk has another length than its extent"));
                    }
                    bytes.extend_from_slice(&chunk);
                }
                // Extents never go past the size, which is bounded above.
                Extent::Hole { len } => bytes.resize(bytes.len() + usize::try_from(len).unwrap_or(0), 0),
            }
        }
        self.stream.advance().map_err(VolumeError::manifest)?;
        Ok(Some((entry.path, bytes)))
    }
}

impl<F> Iterator for BundleObjects<'_, F>
where
    F: FetchChunk,
    F::Error: Classify + Send + Sync + 'static,
{
    type Item = Result<(RelPath, Vec<u8>), VolumeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let object = self.object();
        self.failed = object.is_err();
        object.transpose()
    }
}
