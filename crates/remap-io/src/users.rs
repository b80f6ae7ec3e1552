//! What stands on a block device, and where it stands itself: by device number, from `/sys`.
//!
//! Invariant: read-only and best effort, as all that `/sys` tells; only [`Claim`] keeps anybody out.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use crate::mapper::DeviceNumber;
use crate::open::{OpenError, refusal};
use crate::sysfs::BlockNode;

/// A block device that stands on another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The kernel's name, such as `dm-0`.
    pub name: String,
    /// The mapped device's name and UUID, if it is one.
    pub mapped: Option<(String, String)>,
}

/// The number of the block device at a path; `None`: it is not one.
#[must_use]
pub fn number_of(path: &Path) -> Option<DeviceNumber> {
    let found = fs::metadata(path).ok().filter(|found| found.file_type().is_block_device())?;
    let dev = found.rdev();
    Some(DeviceNumber { major: rustix::fs::major(dev), minor: rustix::fs::minor(dev) })
}

/// The number of the block device that the kernel calls so.
#[must_use]
pub fn number_of_name(name: &str) -> Option<DeviceNumber> {
    if name.contains('/') {
        return number_of_name(&name.replace('/', "!"));
    }
    fs::read_to_string(format!("/sys/class/block/{name}/dev")).ok()?.parse().ok()
}

/// Does the kernel still know a block device of this number?
#[must_use]
pub fn is_present(number: DeviceNumber) -> bool {
    Path::new(&format!("/sys/dev/block/{number}")).exists()
}

/// The block devices that stand on this one.
#[must_use]
pub fn holders(number: DeviceNumber) -> Vec<Holder> {
    let entries = fs::read_dir(format!("/sys/dev/block/{number}/holders"));
    let holder = |entry: fs::DirEntry| {
        let text = |attribute| {
            let text = fs::read_to_string(entry.path().join(attribute)).ok()?;
            Some(text.trim().to_owned())
        };
        Holder {
            name: entry.file_name().to_string_lossy().into_owned(),
            mapped: text("dm/name").map(|name| (name, text("dm/uuid").unwrap_or_default())),
        }
    };
    entries.into_iter().flatten().flatten().map(holder).collect()
}

/// The disk that a device is, or is a partition of, and the sector of the disk at which it starts.
#[must_use]
pub fn disk_of(number: DeviceNumber) -> Option<(DeviceNumber, u64)> {
    let own = fs::canonicalize(format!("/sys/dev/block/{number}")).ok()?;
    if !own.join("partition").exists() {
        return Some((number, 0));
    }
    let start = fs::read_to_string(own.join("start")).ok()?.trim().parse().ok()?;
    let disk = fs::read_to_string(own.parent()?.join("dev")).ok()?.parse().ok()?;
    Some((disk, start))
}

/// Is it made of other block devices, so that the kernel names those when an operation fails?
#[must_use]
pub fn is_stacked(number: DeviceNumber) -> bool {
    let has = |folder| Path::new(&format!("/sys/dev/block/{number}/{folder}")).is_dir();
    has("dm") || has("md")
}

/// Most bytes of one request to a device, if the kernel says.
#[must_use]
pub fn longest_request(number: DeviceNumber) -> Option<u64> {
    let node = BlockNode::find(number.major, number.minor);
    node.queue_number("max_sectors_kb").map(|kib| kib.saturating_mul(1024))
}

/// A block device that nobody else uses and, while this lives, nobody can mount, format or assemble.
#[derive(Debug)]
pub struct Claim {
    _fd: OwnedFd,
}

impl Claim {
    /// Takes it.
    ///
    /// # Errors
    /// Somebody uses it, or it cannot be opened.
    pub fn take(path: &Path) -> Result<Self, OpenError> {
        let node = number_of(path).map(|number| BlockNode::find(number.major, number.minor));
        rustix::fs::open(path, OFlags::RDONLY | OFlags::EXCL | OFlags::CLOEXEC, Mode::empty())
            .map(|fd| Self { _fd: fd })
            .map_err(|errno| refusal(path, node.as_ref(), errno))
    }
}
