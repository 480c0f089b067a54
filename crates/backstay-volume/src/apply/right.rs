//! The manifest to apply: a whole one, or what of it is below a path.

use std::collections::HashSet;

use backstay_types::manifest::{Entry, Extent, FetchChunk, Mtime, NodeKind, RelPath, VolumeKind};
use backstay_types::{ChunkId, Classify};

use crate::VolumeError;
use crate::manifest_in::ManifestStream;

/// Streams the entries to apply, with paths below the target.
pub(crate) struct Right<'f, F> {
    fetch: &'f F,
    root: ChunkId,
    stream: ManifestStream<&'f F>,
    /// Only what is at or below this path.
    scope: RelPath,
    current: Option<Entry>,
    /// Groups of hard links whose first name came by; kept only where a scope may leave one out.
    met: HashSet<u64>,
    /// Content of what has its first name outside the scope.
    detour: Option<ManifestStream<&'f F>>,
    /// The scope is one file, which comes after a root folder made up for it.
    single: bool,
}

impl<'f, F> Right<'f, F>
where
    F: FetchChunk,
    F::Error: Classify + Send + Sync + 'static,
{
    /// Opens a manifest of this kind and stands at its first entry.
    pub(crate) fn open(
        fetch: &'f F,
        root: &ChunkId,
        scope: RelPath,
        kind: VolumeKind,
    ) -> Result<Self, VolumeError> {
        let stream = ManifestStream::open(fetch, root).map_err(VolumeError::manifest)?;
        if stream.root().kind != kind {
            return Err(VolumeError::Refused {
                path: ".".to_owned(),
                why: "it is the manifest of another kind of volume",
            });
        }
        let (current, met, detour) = (None, HashSet::new(), None);
        let mut right = Self { fetch, root: *root, stream, scope, current, met, detour, single: false };
        while right.stream.current().is_some_and(|entry| entry.path < right.scope) {
            right.stream.advance().map_err(VolumeError::manifest)?;
        }
        let first = right.stream.current().filter(|entry| entry.path == right.scope);
        let Some(first) = first else {
            return Err(if right.scope.is_root() {
                VolumeError::Refused { path: ".".to_owned(), why: "it has no root folder" }
            } else {
                VolumeError::NotInManifest { path: right.scope.to_string() }
            });
        };
        right.single = first.kind != NodeKind::Directory;
        right.current = if right.single { Some(made_up_root(first.mtime)) } else { right.scoped()? };
        Ok(right)
    }

    pub(crate) fn current(&self) -> Option<&Entry> {
        self.current.as_ref()
    }

    pub(crate) fn advance(&mut self) -> Result<(), VolumeError> {
        let was_made_up = self.single && self.current.as_ref().is_some_and(|entry| entry.path.is_root());
        if !was_made_up {
            self.stream.advance().map_err(VolumeError::manifest)?;
        }
        self.detour = None;
        self.current = self.scoped()?;
        Ok(())
    }

    pub(crate) fn next_extent(&mut self) -> Result<Option<Extent>, VolumeError> {
        self.detour.as_mut().unwrap_or(&mut self.stream).next_extent().map_err(VolumeError::manifest)
    }

    /// The stream's entry as the target sees it.
    fn scoped(&mut self) -> Result<Option<Entry>, VolumeError> {
        let Some(entry) = self.stream.current().filter(|entry| entry.path.starts_with(&self.scope)) else {
            return Ok(None);
        };
        let mut entry = entry.clone();
        if self.scope.is_root() {
            return Ok(Some(entry));
        }
        self.met.extend(entry.links);
        if let NodeKind::HardLink { group } = entry.kind
            && self.met.insert(group)
        {
            let path = entry.path;
            entry = self.first_of(group)?;
            entry.path = path;
        }
        // A file alone keeps its name; a folder becomes the target.
        let above = match self.scope.split() {
            Some((above, _)) if self.single => above,
            _ => self.scope.clone(),
        };
        let below = entry.path.as_bytes().get(above.as_bytes().len()..).unwrap_or_default();
        entry.path = RelPath::parse(below.strip_prefix(b"/").unwrap_or(below))?;
        Ok(Some(entry))
    }

    /// Finds the first name of a group, for its attributes and content. A second pass over the manifest, for groups
    /// that reach out of the scope only.
    fn first_of(&mut self, group: u64) -> Result<Entry, VolumeError> {
        let mut stream = ManifestStream::open(self.fetch, &self.root).map_err(VolumeError::manifest)?;
        while let Some(entry) = stream.current() {
            if entry.links == Some(group) {
                let entry = entry.clone();
                self.detour = Some(stream);
                return Ok(entry);
            }
            stream.advance().map_err(VolumeError::manifest)?;
        }
        Err(VolumeError::Refused {
            path: self.scope.to_string(),
            why: "a hard link names a group that has no first",
        })
    }
}

/// The folder a single file is restored into.
fn made_up_root(mtime: Mtime) -> Entry {
    Entry {
        path: RelPath::root(),
        kind: NodeKind::Directory,
        links: None,
        mode: 0o755,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        mtime,
        xattrs: Vec::new(),
    }
}
