//! Opening: which kind of thing it is, who else uses it, whether direct I/O works, how large its blocks are.
//!
//! Invariant: what [`open`] returns can be used with the limits that it states, and nobody else was told that he may
//! write to it (block devices: O_EXCL, or a lock where device-mapper has the claim; files: flock).

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{self, AtFlags, FileType, FlockOperation, Mode, OFlags, StatxFlags};
use rustix::io::Errno;

use crate::sysfs::BlockNode;
use crate::{AllocError, Buf, ioctl};

/// Whether to bypass the page cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direct {
    /// Direct where the device or file system takes it.
    #[default]
    Auto,
    /// Direct, or the open fails.
    Always,
    /// Through the page cache.
    Never,
}

/// How to open a device.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// For writing too.
    pub write: bool,
    /// Refuse when somebody else uses it, and keep others out. Block devices: O_EXCL (mounts, md, LVM, swap); regular
    /// files: an advisory lock on the whole file, shared by readers, exclusive for writers.
    pub exclusive: bool,
    /// Of a block device that a mapped device of ours stands on, which has the claim: only other programs of ours are kept out, by a
    /// lock that lasts until the last operation of who held it has ended. `exclusive` says nothing then.
    pub below_mapper: bool,
    /// Bypass the page cache?
    pub direct: Direct,
    /// Only this part: offset in bytes (a multiple of the logical block), length in bytes (`None`: to the end).
    pub slice: Option<(u64, Option<u64>)>,
}

/// What a device can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Offsets and lengths of all operations are multiples of this many bytes.
    pub logical_block: u32,
    /// What the device writes without reading first, in bytes.
    pub physical_block: u32,
    /// It cannot be written through this handle: it is read-only, or was opened so.
    pub read_only: bool,
    /// It spins.
    pub rotational: bool,
    /// The NUMA node that it is attached to, if the machine has several and the kernel knows.
    pub numa_node: Option<u32>,
    /// Discards do something.
    pub discard: bool,
    /// Zeroes can be written without sending them.
    pub write_zeroes: bool,
    /// O_DIRECT is in use.
    pub direct: bool,
    /// Why it is not, if it was wanted.
    pub direct_refused: Option<String>,
}

/// Why a device could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Nothing there.
    #[error("{}: there is no such file or device: check the path, and that the disk is connected", path.display())]
    NotFound {
        /// What was to be opened.
        path: PathBuf,
    },
    /// The system does not let us.
    #[error("{}: permission denied: run as root, or as a member of the group that owns it (in a container: allow the device)", path.display())]
    NoAccess {
        /// What was to be opened.
        path: PathBuf,
    },
    /// Somebody else uses it.
    #[error("{}: in use{}: unmount or stop that first", path.display(), in_use_by(users))]
    InUse {
        /// What was to be opened.
        path: PathBuf,
        /// By whom, as far as the system tells.
        users: Vec<String>,
    },
    /// It cannot be written.
    #[error("{}: read-only: clear the read-only flag (blockdev --setrw) or the file's mode, or open it for reading", path.display())]
    ReadOnly {
        /// What was to be opened.
        path: PathBuf,
    },
    /// Neither a block device nor a regular file.
    #[error("{}: is a {found}: give a block device or a regular file", path.display())]
    WrongKind {
        /// What was to be opened.
        path: PathBuf,
        /// What it is.
        found: &'static str,
    },
    /// Direct I/O was demanded.
    #[error("{}: direct I/O is not possible ({reason}): use another file system, or allow buffered I/O", path.display())]
    NotDirect {
        /// What was to be opened.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The slice does not fit.
    #[error("{}: the slice at byte {offset} {problem}", path.display())]
    Slice {
        /// What was to be opened.
        path: PathBuf,
        /// Where the slice was to start, in bytes.
        offset: u64,
        /// What is wrong with it and what would do.
        problem: String,
    },
    /// Nothing in it.
    #[error("{}: has {size} bytes, less than one block of {block}: the disk is gone, or the file is empty", path.display())]
    TooSmall {
        /// What was to be opened.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
        /// Its logical block in bytes.
        block: u32,
    },
    /// No buffer for the first read.
    #[error(transparent)]
    Alloc(#[from] AllocError),
    /// Anything else.
    #[error("{}: {action}: {source}", path.display())]
    System {
        /// What was to be opened.
        path: PathBuf,
        /// What was being done.
        action: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}

fn in_use_by(users: &[String]) -> String {
    if users.is_empty() { String::new() } else { format!(" ({})", users.join(", ")) }
}

/// An opened file or device, before it is given an identity.
pub(crate) struct Opened {
    pub(crate) fd: OwnedFd,
    pub(crate) node: Option<BlockNode>,
    /// First byte and length in bytes of the slice.
    pub(crate) base: u64,
    pub(crate) size: u64,
    pub(crate) limits: Limits,
}

/// How long a device may stay in use before that is believed. A ring lives on for a moment after its process has ended,
/// and its files with it: who starts anew right after a crash must not be told that the dead process still runs.
const PATIENCE: Duration = Duration::from_secs(5);

/// Opens it; waits up to [`PATIENCE`] for one that is in use.
pub(crate) fn open(path: &Path, options: &OpenOptions) -> Result<Opened, OpenError> {
    let begin = Instant::now();
    loop {
        match open_once(path, options) {
            Err(OpenError::InUse { .. }) if begin.elapsed() < PATIENCE => {
                thread::sleep(Duration::from_millis(10));
            }
            outcome => return outcome,
        }
    }
}

fn open_once(path: &Path, options: &OpenOptions) -> Result<Opened, OpenError> {
    let system = |action, errno: Errno| OpenError::System { path: path.into(), action, source: errno.into() };
    // Looked at before it is opened: opening a FIFO would wait, opening some character devices does things.
    let stat = fs::stat(path).map_err(|errno| refusal(path, None, errno))?;
    let block = match FileType::from_raw_mode(stat.st_mode) {
        FileType::BlockDevice => true,
        FileType::RegularFile => false,
        other => return Err(OpenError::WrongKind { path: path.into(), found: kind_name(other) }),
    };
    let node = block.then(|| BlockNode::find(fs::major(stat.st_rdev), fs::minor(stat.st_rdev)));
    let (fd, mut refused) = open_fd(path, options, node.as_ref())?;
    let opened_as = fs::fstat(&fd).map_err(|errno| system("looking at it", errno))?;
    if (opened_as.st_dev, opened_as.st_ino) != (stat.st_dev, stat.st_ino) {
        return Err(system("opening it (it was replaced meanwhile)", Errno::STALE));
    }
    if !block && options.exclusive {
        let lock = if options.write {
            FlockOperation::NonBlockingLockExclusive
        } else {
            FlockOperation::NonBlockingLockShared
        };
        fs::flock(&fd, lock).map_err(|errno| refusal(path, None, errno))?;
    }
    if block && options.below_mapper {
        lock_block(&fd).map_err(|errno| refusal(path, None, errno))?;
    }
    let whole = if block {
        ioctl::size_bytes(fd.as_fd()).map_err(|errno| system("asking for its size", errno))?
    } else {
        u64::try_from(opened_as.st_size).unwrap_or(0)
    };
    let locked_down = block && ioctl::is_read_only(fd.as_fd()).unwrap_or(false);
    if options.write && locked_down {
        return Err(OpenError::ReadOnly { path: path.into() });
    }
    let wants_direct = options.direct != Direct::Never && refused.is_none();
    let (logical_block, physical_block) = if block {
        let logical = fs::ioctl_blksszget(&fd).map_err(|errno| system("asking for its block size", errno))?;
        (logical, fs::ioctl_blkpbszget(&fd).unwrap_or(logical).max(logical))
    } else {
        let logical = if wants_direct { file_block(path, &fd, whole, &mut refused)? } else { 512 };
        (logical, logical.max(4096))
    };
    if let (Direct::Always, Some(reason)) = (options.direct, &refused) {
        return Err(OpenError::NotDirect { path: path.into(), reason: reason.clone() });
    }
    let (base, size) = slice_of(path, options.slice, whole, logical_block)?;
    let host =
        node.clone().unwrap_or_else(|| BlockNode::find(fs::major(stat.st_dev), fs::minor(stat.st_dev)));
    let queue = |name| host.queue_number(name).unwrap_or(0) > 0;
    let limits = Limits {
        logical_block,
        physical_block,
        read_only: !options.write || locked_down,
        rotational: queue("rotational"),
        numa_node: host.numa_node(),
        discard: !block || queue("discard_max_bytes"),
        write_zeroes: !block || queue("write_zeroes_max_bytes"),
        direct: wants_direct && refused.is_none(),
        direct_refused: refused,
    };
    Ok(Opened { fd, node, base, size, limits })
}

/// Nobody else may hold it at this moment; from then on a shared lock keeps the next one out. udev, which takes shared locks of disks
/// while it looks at them, is not.
fn lock_block(fd: &OwnedFd) -> rustix::io::Result<()> {
    fs::flock(fd, FlockOperation::NonBlockingLockExclusive)?;
    fs::flock(fd, FlockOperation::NonBlockingLockShared)
}

/// The descriptor, and why it is not a direct one if that was wanted.
fn open_fd(
    path: &Path,
    options: &OpenOptions,
    node: Option<&BlockNode>,
) -> Result<(OwnedFd, Option<String>), OpenError> {
    let mut flags = OFlags::CLOEXEC | if options.write { OFlags::RDWR } else { OFlags::RDONLY };
    if node.is_some() && options.exclusive && !options.below_mapper {
        flags |= OFlags::EXCL;
    }
    if options.direct != Direct::Never {
        match fs::open(path, flags | OFlags::DIRECT, Mode::empty()) {
            Ok(fd) => return Ok((fd, None)),
            Err(errno @ (Errno::INVAL | Errno::OPNOTSUPP)) => {
                let fd = fs::open(path, flags, Mode::empty()).map_err(|errno| refusal(path, node, errno))?;
                return Ok((fd, Some(format!("the file system refused O_DIRECT at open: {errno}"))));
            }
            Err(errno) => return Err(refusal(path, node, errno)),
        }
    }
    let fd = fs::open(path, flags, Mode::empty()).map_err(|errno| refusal(path, node, errno))?;
    Ok((fd, None))
}

pub(crate) fn refusal(path: &Path, node: Option<&BlockNode>, errno: Errno) -> OpenError {
    let path = path.to_path_buf();
    match errno {
        Errno::NOENT | Errno::NXIO | Errno::NODEV | Errno::NOTDIR => OpenError::NotFound { path },
        // A read-only block device answers EACCES, to root as well.
        Errno::ACCESS | Errno::PERM if node.is_some_and(BlockNode::is_read_only) => {
            OpenError::ReadOnly { path }
        }
        Errno::ACCESS | Errno::PERM => OpenError::NoAccess { path },
        Errno::ROFS => OpenError::ReadOnly { path },
        Errno::BUSY => OpenError::InUse { users: node.map(|n| n.users(&path)).unwrap_or_default(), path },
        Errno::WOULDBLOCK => OpenError::InUse { users: vec!["another program holds its lock".into()], path },
        other => OpenError::System { path, action: "opening it", source: other.into() },
    }
}

fn kind_name(kind: FileType) -> &'static str {
    match kind {
        FileType::Directory => "directory",
        FileType::CharacterDevice => "character device",
        FileType::Fifo => "FIFO",
        FileType::Socket => "socket",
        _ => "thing of unknown kind",
    }
}

/// The logical block of a file in bytes. Where its file system takes no direct I/O, leaves it and says why in `refused`.
fn file_block(path: &Path, fd: &OwnedFd, size: u64, refused: &mut Option<String>) -> Result<u32, OpenError> {
    match file_alignment(fd, size)? {
        Ok(align) => Ok(align),
        Err(reason) => {
            let leave = |flags| fs::fcntl_setfl(fd, flags - OFlags::DIRECT);
            fs::fcntl_getfl(fd).and_then(leave).map_err(|errno| OpenError::System {
                path: path.into(),
                action: "leaving direct I/O",
                source: errno.into(),
            })?;
            *refused = Some(reason);
            Ok(512)
        }
    }
}

/// The least alignment of direct I/O on a file in bytes, or why there is none.
fn file_alignment(fd: &OwnedFd, size: u64) -> Result<Result<u32, String>, OpenError> {
    if let Ok(found) = fs::statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN)
        && found.stx_mask & StatxFlags::DIOALIGN.bits() != 0
    {
        let align = found.stx_dio_offset_align.max(found.stx_dio_mem_align).max(512);
        return Ok(match found.stx_dio_offset_align {
            0 => Err("the file system says that this file takes none".into()),
            _ if align <= 4096 && align.is_power_of_two() => Ok(align),
            _ => Err(format!("the file system demands an alignment of {align} bytes, at most 4096 will do")),
        });
    }
    // An older kernel: try. Only a refusal of the request itself counts; a bad sector is not the file system's no.
    let mut refused = Errno::INVAL;
    for align in [512_u32, 4096] {
        let len = usize::try_from(align).unwrap_or(4096);
        if u64::from(align) > size {
            break;
        }
        let mut buf = Buf::alloc(len)?;
        match rustix::io::pread(fd, buf.bytes_mut(), 0) {
            Err(errno @ (Errno::INVAL | Errno::OPNOTSUPP)) => refused = errno,
            _ => return Ok(Ok(align)),
        }
    }
    Ok(Err(format!("the file system refused the first direct read: {refused}")))
}

/// First byte and length of the slice, the length rounded down to whole blocks.
fn slice_of(
    path: &Path,
    slice: Option<(u64, Option<u64>)>,
    whole: u64,
    block: u32,
) -> Result<(u64, u64), OpenError> {
    let (offset, len) = slice.unwrap_or((0, None));
    let bad = |problem| OpenError::Slice { path: path.into(), offset, problem };
    if !offset.is_multiple_of(u64::from(block)) {
        return Err(bad(format!("is not aligned: start it at a multiple of {block} bytes")));
    }
    let rest =
        whole.checked_sub(offset).ok_or_else(|| bad(format!("starts behind the end at byte {whole}")))?;
    let len = len.unwrap_or(rest);
    if len > rest {
        return Err(bad(format!(
            "of {len} bytes ends behind the end at byte {whole}: {rest} bytes are left"
        )));
    }
    let size = len - len % u64::from(block);
    if size == 0 {
        return Err(OpenError::TooSmall { path: path.into(), size: len, block });
    }
    Ok((offset, size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_checked() {
        let path = Path::new("/disk");
        assert_eq!(slice_of(path, None, 10_000, 512).unwrap(), (0, 9728));
        assert_eq!(slice_of(path, Some((4096, None)), 10_000, 512).unwrap(), (4096, 5632));
        assert_eq!(slice_of(path, Some((4096, Some(4096))), 10_000, 4096).unwrap(), (4096, 4096));
        let problem = |slice, block| slice_of(path, Some(slice), 10_000, block).unwrap_err().to_string();
        assert!(problem((512, None), 4096).contains("multiple of 4096"));
        assert!(problem((10_240, None), 512).contains("starts behind the end at byte 10000"));
        assert!(problem((4096, Some(8192)), 512).contains("5904 bytes are left"));
        assert!(problem((9728, None), 512).contains("has 272 bytes"));
    }

    #[test]
    fn refusals_say_what_to_do() {
        let text = |errno| refusal(Path::new("/dev/x"), None, errno).to_string();
        assert!(text(Errno::NOENT).contains("no such file or device"));
        assert!(text(Errno::BUSY).contains("in use"));
        assert!(text(Errno::AGAIN).contains("holds its lock"));
        assert!(text(Errno::ROFS).contains("--setrw"));
        assert!(text(Errno::ACCESS).contains("permission denied"));
    }
}
