//! An opened device: what all queues of the process share about it, and blocking calls for start-up and offline tools.
//!
//! Invariant: every read and write, blocking or not, goes through an [`IoQueue`], so that all of them get the same fault
//! classification, deadline, drills and protection from late writes.

use std::cell::RefCell;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use remap_core::op::Fault;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::drill::{Cache, Drill};
use crate::errno::{Backing, classify};
use crate::flushes::{Audience, FailedFlushes};
use crate::identity::Identity;
use crate::mapper::DeviceNumber;
use crate::open::{self, Limits, OpenError, OpenOptions};
use crate::zombie::Graveyard;
use crate::{Buf, BufSlice, DeviceOp, IoBackend, IoKind, IoQueue, ioctl};

/// Deadline of the blocking calls unless [`Device::with_deadline`] says otherwise.
pub const BLOCKING_DEADLINE: Duration = Duration::from_secs(30);

/// What all handles of one opened device share.
#[derive(Debug)]
struct Shared {
    path: PathBuf,
    fd: OwnedFd,
    block: bool,
    in_memory: bool,
    /// First byte of the slice.
    base: u64,
    /// Bytes of the slice.
    size: u64,
    limits: Limits,
    identity: OnceLock<Identity>,
    graveyard: Arc<Graveyard>,
    /// First failure of a flush through the page cache. Afterwards the kernel may have dropped the dirty pages and would
    /// say "all well" to the next flush; so we never do.
    lost_flush: OnceLock<Fault>,
    failed_flushes: FailedFlushes,
    /// Bits of [`ZeroMethod`] that the device refused once.
    refused_zeroing: AtomicU8,
}

impl Drop for Shared {
    /// A ring that has ended holds its files for a while: whoever opens the file next need not wait for that. No operation is under
    /// way any more, for each has a handle.
    fn drop(&mut self) {
        if !self.block {
            // Whatever is said, closing it gives the lock back.
            let _ = flock(&self.fd, FlockOperation::Unlock);
        }
    }
}

/// Ways to have zeroes without sending them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ZeroMethod {
    /// Give the space back.
    PunchHole,
    /// Keep the space.
    ZeroRange,
}

/// An opened file or block device, or a slice of one. Cheap to clone; all clones are the same device.
#[derive(Clone, Debug)]
pub struct Device {
    shared: Arc<Shared>,
    drills: Option<Arc<[Arc<Drill>]>>,
    deadline: Duration,
}

/// Tells a device from others without keeping it open.
#[derive(Debug)]
pub(crate) struct DeviceKey(Weak<Shared>);

impl DeviceKey {
    pub(crate) fn names(&self, device: &Device) -> bool {
        core::ptr::eq(self.0.as_ptr(), Arc::as_ptr(&device.shared))
    }

    /// The audience was told of its failed flushes up to this number.
    pub(crate) fn tell(&self, audience: Audience, number: u64) {
        if let Some(shared) = self.0.upgrade() {
            shared.failed_flushes.tell(audience, number);
        }
    }
}

impl Device {
    /// Opens a block device or a regular file and finds out its limits and identity.
    ///
    /// # Errors
    /// [`OpenError`] says what stood in the way and what would do.
    pub fn open(path: &Path, options: &OpenOptions) -> Result<Self, OpenError> {
        let opened = open::open(path, options)?;
        let device = Self {
            shared: Arc::new(Shared {
                path: path.to_path_buf(),
                in_memory: opened.node.is_none() && lies_in_memory(&opened.fd),
                fd: opened.fd,
                block: opened.node.is_some(),
                base: opened.base,
                size: opened.size,
                limits: opened.limits,
                identity: OnceLock::new(),
                graveyard: Arc::default(),
                lost_flush: OnceLock::new(),
                failed_flushes: FailedFlushes::default(),
                refused_zeroing: AtomicU8::new(0),
            }),
            drills: None,
            deadline: BLOCKING_DEADLINE,
        };
        // One read that times out is enough: a device that hangs must not hold up the start a dozen times.
        let mut hung = false;
        let mut buf = Buf::alloc(crate::BUF_ALIGN)?;
        let mut read = |offset: u64, len: usize| {
            if hung || len > buf.capacity() || !buf.is_unique() {
                return None;
            }
            buf.set_len(len);
            let outcome = device.read_at(offset, &mut buf);
            hung = outcome == Err(Fault::Timeout);
            outcome.ok().map(|()| buf.bytes().to_vec())
        };
        let logical_block = device.shared.limits.logical_block;
        let identity = Identity::of(device.shared.size, logical_block, opened.node.as_ref(), &mut read);
        device.shared.identity.get_or_init(|| identity);
        Ok(device)
    }

    /// First byte of the slice on the file or device.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.shared.base
    }

    /// The path that it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Bytes of the slice, rounded down to the logical block.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.shared.size
    }

    /// Is it a block device (and not a regular file)?
    #[must_use]
    pub fn is_block_device(&self) -> bool {
        self.shared.block
    }

    /// Its number, if it is a block device.
    #[must_use]
    pub fn number(&self) -> Option<DeviceNumber> {
        let dev = rustix::fs::fstat(&self.shared.fd).ok().filter(|_| self.shared.block)?.st_rdev;
        Some(DeviceNumber { major: rustix::fs::major(dev), minor: rustix::fs::minor(dev) })
    }

    /// What it can do.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.shared.limits
    }

    /// What tells it from others.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        self.shared.identity.get().expect("`open` sets it before it returns")
    }

    /// The same device seen through one more fault layer; the last one added is asked first.
    #[must_use]
    pub fn with_drill(self, drill: Arc<Drill>) -> Self {
        let drills =
            std::iter::once(drill).chain(self.drills.iter().flat_map(|d| d.iter().cloned())).collect();
        Self { drills: Some(drills), ..self }
    }

    /// The same device with another deadline for its blocking calls.
    #[must_use]
    pub fn with_deadline(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }

    /// Reads `into.len()` bytes at byte `offset`. Blocks, up to the deadline.
    ///
    /// # Errors
    /// The fault; after [`Fault::Timeout`] the buffer may stay shared with the kernel (see [`Buf::is_unique`]).
    pub fn read_at(&self, offset: u64, into: &mut Buf) -> Result<(), Fault> {
        let slice = into.slice(0..into.len());
        self.block_on(IoKind::Read, offset, widen(slice.len()), Some(slice))
    }

    /// Writes the whole buffer at byte `offset`. Blocks, up to the deadline.
    ///
    /// # Errors
    /// The fault; after [`Fault::Timeout`] the buffer may stay shared with the kernel (see [`Buf::is_unique`]).
    pub fn write_at(&self, offset: u64, from: &Buf) -> Result<(), Fault> {
        let slice = from.shared_slice(0..from.len());
        self.block_on(IoKind::Write { fua: false }, offset, widen(slice.len()), Some(slice))
    }

    /// Makes all completed writes durable. Blocks, up to the deadline.
    ///
    /// # Errors
    /// The fault.
    pub fn flush(&self) -> Result<(), Fault> {
        self.block_on(IoKind::Flush, 0, 0, None)
    }

    /// Carries out one operation on the calling thread's own queue.
    fn block_on(&self, kind: IoKind, offset: u64, len: u64, buf: Option<BufSlice>) -> Result<(), Fault> {
        thread_local! {
            static QUEUE: RefCell<Option<IoQueue>> = const { RefCell::new(None) };
        }
        QUEUE.with_borrow_mut(|slot| {
            // No descriptor or memory for a queue: we did not reach the device, which says nothing about its medium.
            let mut queue = match slot.take() {
                Some(queue) => queue,
                None => IoQueue::open(IoBackend::Auto, 4).map_err(|_| Fault::Transport)?,
            };
            queue.submit(
                0,
                DeviceOp { device: self.clone(), kind, offset, len, buf, scattered: false },
                self.deadline,
            );
            loop {
                if let Some((_, outcome)) = queue.next() {
                    *slot = Some(queue);
                    return outcome;
                }
                // A queue that cannot wait any more is dropped; its drop sees to the memory.
                queue.wait(&mut [], None).map_err(|_| Fault::Transport)?;
            }
        })
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.shared.fd.as_fd()
    }

    /// Is it a file that lies in memory, so that a transfer is a copy and nothing is waited for?
    #[must_use]
    pub fn is_in_memory(&self) -> bool {
        self.shared.in_memory
    }

    pub(crate) fn drills(&self) -> &[Arc<Drill>] {
        self.drills.as_deref().unwrap_or_default()
    }

    /// The write cache that a drill puts on it, with that drill.
    pub(crate) fn cache(&self) -> Option<(&Cache, &Drill)> {
        self.drills().iter().find_map(|drill| drill.cache().map(|cache| (cache, &**drill)))
    }

    pub(crate) fn graveyard(&self) -> &Arc<Graveyard> {
        &self.shared.graveyard
    }

    /// Where the slice's byte `offset` is on the device.
    pub(crate) fn absolute(&self, offset: u64) -> u64 {
        self.shared.base + offset
    }

    /// What is wrong with an operation's shape, if anything.
    pub(crate) fn check(
        &self,
        kind: IoKind,
        range: &Range<u64>,
        buf: Option<&BufSlice>,
    ) -> Result<(), Fault> {
        let block = u64::from(self.shared.limits.logical_block);
        let fits = range.start < range.end && range.end <= self.shared.size;
        let aligned = range.start.is_multiple_of(block) && range.end.is_multiple_of(block);
        let filled = buf.is_some_and(|buf| widen(buf.len()) == range.end - range.start);
        let sound = match kind {
            IoKind::Read => fits && aligned && filled,
            IoKind::Write { .. } => fits && aligned && filled && !self.shared.limits.read_only,
            IoKind::WriteZeroes { .. } | IoKind::Discard => fits && aligned && !self.shared.limits.read_only,
            IoKind::Flush => true,
        };
        if sound { Ok(()) } else { Err(Fault::Unsupported) }
    }

    /// The fault behind an errno; looks at the device when the errno says nothing.
    pub(crate) fn fault(&self, errno: Errno) -> Fault {
        match classify(errno, if self.shared.block { Backing::Block } else { Backing::File }) {
            Fault::Unknown if self.shared.block && matches!(ioctl::size_bytes(self.fd()), Ok(0)) => {
                classify(errno, Backing::VanishedBlock)
            }
            fault => fault,
        }
    }

    /// The fault that a drill's errno stands for on this device.
    pub(crate) fn pretended_fault(&self, errno: Errno) -> Fault {
        classify(errno, if self.shared.block { Backing::Block } else { Backing::File })
    }

    /// The fault of an earlier flush that makes all later ones worthless.
    pub(crate) fn lost_flush(&self) -> Option<Fault> {
        self.shared.lost_flush.get().copied()
    }

    /// Notes that something which was to be made durable was not.
    pub(crate) fn flush_failed(&self, fault: Fault) {
        if !self.shared.limits.direct {
            self.shared.lost_flush.get_or_init(|| fault);
        }
    }

    pub(crate) fn key(&self) -> DeviceKey {
        DeviceKey(Arc::downgrade(&self.shared))
    }

    /// The other device is not flushed any more: what nobody was told of flushes of it that failed is owed to those who flush this one.
    pub fn take_over_failed_flushes(&self, other: &Self) {
        self.failed_flushes().take_over(other.failed_flushes());
    }

    /// Flushes of it that failed.
    pub(crate) fn failed_flushes(&self) -> &FailedFlushes {
        &self.shared.failed_flushes
    }

    /// May this way of zeroing be tried?
    pub(crate) fn can_zero_by(&self, method: ZeroMethod) -> bool {
        self.shared.limits.write_zeroes
            && self.shared.refused_zeroing.load(Ordering::Relaxed) & flag(method) == 0
    }

    /// Notes that the device refused this way of zeroing.
    pub(crate) fn refused_zeroing(&self, method: ZeroMethod) {
        self.shared.refused_zeroing.fetch_or(flag(method), Ordering::Relaxed);
    }
}

/// On tmpfs (`TMPFS_MAGIC` of `linux/magic.h`).
fn lies_in_memory(fd: &OwnedFd) -> bool {
    rustix::fs::fstatfs(fd).is_ok_and(|fs| fs.f_type == 0x0102_1994)
}

fn flag(method: ZeroMethod) -> u8 {
    match method {
        ZeroMethod::PunchHole => 1,
        ZeroMethod::ZeroRange => 2,
    }
}

/// Lengths in memory fit 64 bits on every machine that Linux runs on.
pub(crate) fn widen(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}
