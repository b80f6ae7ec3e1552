//! `/dev/mapper/NAME`: made by udev where there is one, else by us.
//!
//! Invariant: only a block device node that carries the mapped device's own number is ever removed.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::io::Errno;

use super::DeviceNumber;

/// How long udev may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Sees to it that `/dev/mapper/NAME` is there for a device that is in service; gives the path.
///
/// # Errors
/// It cannot be made.
pub fn settle_node(name: &str, number: DeviceNumber) -> std::io::Result<PathBuf> {
    let path = Path::new("/dev/mapper").join(name);
    let begin = Instant::now();
    let has_udev = Path::new("/run/udev/control").exists();
    while has_udev && begin.elapsed() < PATIENCE {
        if names(&path, number) {
            return Ok(path);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    if names(&path, number) {
        return Ok(path);
    }
    forget_stale(&path);
    let mode = Mode::from_raw_mode(0o600);
    match mknodat(CWD, &path, FileType::BlockDevice, mode, makedev(number.major, number.minor)) {
        Ok(()) | Err(Errno::EXIST) => Ok(path),
        Err(errno) => Err(errno.into()),
    }
}

/// Takes the node away that [`settle_node`] made, after the device has gone. What udev made, udev takes away.
pub fn forget_node(name: &str, number: DeviceNumber) {
    let path = Path::new("/dev/mapper").join(name);
    if names(&path, number) {
        forget_stale(&path);
    }
}

/// Does the path lead to this device?
fn names(path: &Path, number: DeviceNumber) -> bool {
    let Ok(found) = fs::metadata(path) else { return false };
    found.file_type().is_block_device() && found.rdev() == makedev(number.major, number.minor)
}

fn forget_stale(path: &Path) {
    // A node left over from another device of this name would lead to the wrong one.
    if fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_block_device()) {
        let _ = fs::remove_file(path);
    }
}
