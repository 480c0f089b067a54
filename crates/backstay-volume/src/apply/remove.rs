//! Removing a name, whatever is behind it.

use rustix::fs::AtFlags;
use rustix::io::Errno;

use super::metadata::make_enterable;
use crate::VolumeError;
use crate::fs::{FolderStack, Listing};

/// Removes a name of the current folder, with everything below it. It is no error if it is not there.
pub(super) fn remove(stack: &mut FolderStack, name: &[u8]) -> Result<(), VolumeError> {
    match rustix::fs::unlinkat(stack.current(), name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR) => remove_folder(stack, name),
        Err(source) => Err(fail(stack, name, source)),
    }
}

fn remove_folder(stack: &mut FolderStack, name: &[u8]) -> Result<(), VolumeError> {
    let mut buffer = Vec::new();
    let mut names = vec![name.to_vec()];
    let mut listings = vec![open(stack, name, &mut buffer)?];
    while let Some(listing) = listings.last_mut() {
        let Some(name) = listing.next_name() else {
            listings.pop();
            stack.leave()?;
            let name = names.pop().unwrap_or_default();
            match rustix::fs::unlinkat(stack.current(), name.as_slice(), AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => continue,
                Err(source) => return Err(fail(stack, &name, source)),
            }
        };
        match rustix::fs::unlinkat(stack.current(), name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR) => {
                let name = name.to_vec();
                listings.push(open(stack, &name, &mut buffer)?);
                names.push(name);
            }
            Err(source) => {
                let name = name.to_vec();
                return Err(fail(stack, &name, source));
            }
        }
    }
    Ok(())
}

fn open(stack: &mut FolderStack, name: &[u8], buffer: &mut Vec<u8>) -> Result<Listing, VolumeError> {
    make_enterable(stack.current(), name).map_err(|source| fail(stack, name, source))?;
    stack.enter(name)?;
    Listing::read(stack.current(), buffer)
        .map_err(|source| VolumeError::at("list folder", stack.shown_root(), stack.path(), source))
}

fn fail(stack: &FolderStack, name: &[u8], source: Errno) -> VolumeError {
    match stack.path().join(name) {
        Ok(path) => VolumeError::at("remove", stack.shown_root(), &path, source),
        Err(source) => source.into(),
    }
}
