//! The folder of a volume that a run makes for itself.
//!
//! Invariant: it goes away with the run unless it is kept as evidence; what a killed run left there is removed by the next one, and
//! never what a run still uses.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rustix::fs::{FlockOperation, flock};

use crate::exit::{Exit, refusal};
use crate::units::format_size;

/// Names of the folders begin so; the process id follows.
const PREFIX: &str = "dm-remap-stress-";
/// Locked as long as the run lives.
const LOCK: &str = "lock";
/// Says that a folder is to stay.
const KEPT: &str = "evidence";
/// With less there is nothing to measure.
const FREE_MIN: u64 = 64 << 20;

/// See the module.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    _lock: File,
    keep: bool,
}

impl Folder {
    /// A folder in `base`, or among the system's temporary files, and how many bytes are free there.
    ///
    /// # Errors
    /// It cannot be made, or there is no room.
    pub(crate) fn make(base: Option<&Path>) -> anyhow::Result<(Self, u64)> {
        let base = base.map_or_else(std::env::temp_dir, Path::to_path_buf);
        let cannot = || format!("{}: cannot make a volume there", base.display());
        remove_left_over(&base);
        let found = rustix::fs::statvfs(&base).map_err(std::io::Error::from).with_context(cannot)?;
        let free = found.f_bavail.saturating_mul(found.f_frsize);
        if free < FREE_MIN {
            let (base, free, least) = (base.display(), format_size(free), format_size(FREE_MIN));
            let text = format!(
                "{base}: only {free} are free, and a run needs {least} or more: make room, or give another place with --folder"
            );
            return Err(refusal(Exit::Failure, text));
        }
        let path = base.join(format!("{PREFIX}{}", std::process::id()));
        fs::create_dir(&path).with_context(cannot)?;
        let lock = File::create_new(path.join(LOCK))
            .and_then(|lock| {
                flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(std::io::Error::from)?;
                Ok(lock)
            })
            .inspect_err(|_| drop(fs::remove_dir_all(&path)))
            .with_context(cannot)?;
        Ok((Self { path, _lock: lock, keep: false }, free))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// It stays, for somebody to look at.
    pub(crate) fn keep(&mut self) {
        self.keep = true;
        // Without it the next run might remove it; there is nothing more to be done about that.
        let _ = File::create(self.path.join(KEPT));
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.keep {
            // What cannot be removed stays; the report has been given.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Removes the folders of runs that were killed: ours by name, with a lock that nobody holds.
fn remove_left_over(base: &Path) {
    let Ok(entries) = fs::read_dir(base) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let ours = path
            .file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| name.strip_prefix(PREFIX).is_some_and(|pid| pid.parse::<u32>().is_ok()));
        if !ours || path.join(KEPT).exists() || path.is_symlink() {
            continue;
        }
        let Ok(lock) = File::open(path.join(LOCK)) else { continue };
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let _ = fs::remove_dir_all(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn left_over_folders_go_and_others_stay() {
        let base = tempfile::tempdir().unwrap();
        let at = |name: &str| base.path().join(name);
        for name in ["dm-remap-stress-1", "dm-remap-stress-2", "dm-remap-stress-x", "other"] {
            fs::create_dir(at(name)).unwrap();
            fs::write(at(name).join(LOCK), "").unwrap();
            fs::write(at(name).join("main"), "bytes").unwrap();
        }
        fs::create_dir(at("dm-remap-stress-3")).unwrap();
        fs::write(at("dm-remap-stress-2").join(KEPT), "").unwrap();
        let (mut folder, free) = Folder::make(Some(base.path())).unwrap();
        assert!(free >= FREE_MIN && !at("dm-remap-stress-1").exists());
        for name in ["dm-remap-stress-2", "dm-remap-stress-3", "dm-remap-stress-x", "other"] {
            assert!(at(name).exists(), "{name}");
        }
        let path = folder.path().to_owned();
        remove_left_over(base.path());
        assert!(path.exists(), "a run uses it");
        folder.keep();
        drop(folder);
        remove_left_over(base.path());
        assert!(path.exists(), "it was kept");
    }
}
