//! Small file systems in a file, for full disks and for snapshots that need XFS or btrfs.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// Which file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileSystem {
    /// No clones, no snapshots; from 1 MiB on.
    Ext4,
    /// Clones; from 300 MiB on.
    Xfs,
    /// Clones and snapshots; from 128 MiB on.
    Btrfs,
}

/// A mounted file system that is unmounted with this value.
#[derive(Debug)]
pub struct LoopFs {
    mount: PathBuf,
    home: TempDir,
}

impl LoopFs {
    /// Makes and mounts one; `Err` says why this machine cannot.
    pub fn mount(kind: FileSystem, mib: u64) -> Result<LoopFs, String> {
        if !crate::is_root() {
            return Err("mounting needs root".to_owned());
        }
        let home = tempfile::Builder::new().prefix("backstay-fs-").tempdir().unwrap();
        crate::rig::let_pass(home.path());
        let (image, mount) = (home.path().join("image"), home.path().join("mount"));
        std::fs::create_dir(&mount).unwrap();
        std::fs::File::create(&image).unwrap().set_len(mib << 20).unwrap();
        let (program, flags): (_, &[&str]) = match kind {
            FileSystem::Ext4 => ("mkfs.ext4", &["-q", "-m", "0", "-F"]),
            FileSystem::Xfs => ("mkfs.xfs", &["-q", "-f"]),
            FileSystem::Btrfs => ("mkfs.btrfs", &["-q", "-f"]),
        };
        run(Command::new(program).args(flags).arg(&image))?;
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&mount))?;
        Ok(LoopFs { mount, home })
    }

    /// Unmounts it, as if it had not come back after a restart.
    pub fn unmount(&self) {
        run(Command::new("umount").arg(&self.mount)).unwrap();
    }

    /// Mounts it again.
    pub fn mount_again(&self) {
        let image = self.home.path().join("image");
        run(Command::new("mount").args(["-o", "loop"]).arg(image).arg(&self.mount)).unwrap();
    }

    /// Mounts it at another folder too, over whatever is there; until [`LoopFs::uncover`].
    pub fn cover(&self, folder: &Path) {
        run(Command::new("mount").arg("--bind").arg(&self.mount).arg(folder)).unwrap();
    }

    /// Ends a [`LoopFs::cover`].
    pub fn uncover(folder: &Path) {
        run(Command::new("umount").arg("--lazy").arg(folder)).unwrap();
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mount
    }
}

impl Drop for LoopFs {
    fn drop(&mut self) {
        // Lazily: a daemon that failed its test may still hold a file.
        if let Err(error) = run(Command::new("umount").arg("--lazy").arg(&self.mount)) {
            eprintln!("{error}");
        }
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
