//! One operation on its way: which system call comes next, and what its result means.
//!
//! Invariant: [`Entry::judge`] always makes progress: an operation ends, goes on with fewer bytes, or goes on with a
//! simpler method; only an interrupted call is repeated as it was.

use std::time::Instant;

use remap_core::op::Fault;
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::op::{DeviceOp, IoKind};
use crate::BufSlice;
use crate::device::{ZeroMethod, widen};
use crate::drill::Patch;
use crate::zombie::Zombie;

/// Largest single transfer in bytes; the rest follows in further calls.
const TRANSFER_BYTES_MAX: u64 = 1 << 30;

/// Where an operation is.
#[derive(Debug)]
pub(super) enum Place {
    /// Held back by a drill until then.
    Delayed(Instant),
    /// In line: the kernel has `depth` others.
    Waiting,
    /// With the kernel.
    Kernel,
    /// With the kernel, and already answered.
    Zombie(#[expect(dead_code, reason = "its drop releases the range")] Zombie),
}

/// How an operation is being carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    /// By its own system call.
    Plain,
    /// Zeroes by fallocate.
    Zero(ZeroMethod),
    /// Zeroes by writing them.
    ZeroWrites,
    /// Zeroes are there, now make them durable.
    Settle,
}

/// One system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) act: Act,
    /// On the device, slice included.
    pub(super) offset: u64,
    pub(super) len: u64,
    /// First byte of the memory (the operation's or the zeroes) to use.
    pub(super) memory_offset: usize,
}

/// Which system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    Read,
    Write { durable: bool },
    WriteZeroBytes { durable: bool },
    Fallocate(FallocateFlags),
    Discard,
    Sync,
}

/// What a result means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is over.
    Over(Result<(), Fault>),
    /// Make the call that [`Entry::call`] now says.
    Continue,
}

/// An operation between `submit` and the kernel's last word on it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) tag: u64,
    pub(super) op: DeviceOp,
    pub(super) deadline: Instant,
    pub(super) place: Place,
    /// What a drill makes of it.
    pub(super) drilled: Option<Fault>,
    /// What a drill's cache had of a read when it was asked for.
    pub(super) patches: Vec<Patch>,
    /// A drill's cache holds what was written.
    pub(super) held: bool,
    /// A flush: up to which failed one its audience had heard when it began.
    pub(super) heard: u64,
    /// Bytes done by the present method.
    done: u64,
    method: Method,
}

impl Entry {
    pub(super) fn of(tag: u64, op: DeviceOp, deadline: Instant) -> Self {
        let mut entry = Self {
            tag,
            op,
            deadline,
            place: Place::Waiting,
            drilled: None,
            patches: Vec::new(),
            held: false,
            heard: 0,
            done: 0,
            method: Method::Plain,
        };
        if let IoKind::WriteZeroes { may_unmap, .. } = entry.op.kind {
            entry.method =
                entry.zeroing_from(if may_unmap { ZeroMethod::PunchHole } else { ZeroMethod::ZeroRange });
        }
        entry
    }

    /// The first way of zeroing from `first` on that the device has not refused.
    fn zeroing_from(&self, first: ZeroMethod) -> Method {
        let order = [ZeroMethod::PunchHole, ZeroMethod::ZeroRange];
        (order.into_iter().skip_while(|&m| m != first))
            .find(|&m| self.op.device.can_zero_by(m))
            .map_or(Method::ZeroWrites, Method::Zero)
    }

    /// Bytes on the device that it touches.
    pub(super) fn range(&self) -> std::ops::Range<u64> {
        let start = self.op.device.absolute(self.op.offset);
        if self.op.kind == IoKind::Flush { 0..0 } else { start..start + self.op.len }
    }

    /// Does the result matter for durability?
    fn promises_durability(&self) -> bool {
        matches!(
            self.op.kind,
            IoKind::Flush | IoKind::Write { fua: true } | IoKind::WriteZeroes { fua: true, .. }
        )
    }

    /// The memory of the next call: its own, or none (`zeroes` are the queue's).
    pub(super) fn memory<'a>(&'a self, zeroes: &'a BufSlice) -> Option<&'a BufSlice> {
        if self.method == Method::ZeroWrites { Some(zeroes) } else { self.op.buf.as_ref() }
    }

    /// The next system call; `zero_bytes` are at hand to write zeroes from.
    pub(super) fn call(&self, zero_bytes: usize) -> Call {
        let offset = self.op.device.absolute(self.op.offset) + self.done;
        let len = self.op.len - self.done;
        let transfer = len.min(TRANSFER_BYTES_MAX);
        let plain = |act, len| Call { act, offset, len, memory_offset: 0 };
        match (self.method, self.op.kind) {
            (Method::Settle, _) | (_, IoKind::Flush) => {
                Call { act: Act::Sync, offset: 0, len: 0, memory_offset: 0 }
            }
            (_, IoKind::Read) => Call { memory_offset: self.memory_offset(), ..plain(Act::Read, transfer) },
            (_, IoKind::Write { fua }) => {
                Call { memory_offset: self.memory_offset(), ..plain(Act::Write { durable: fua }, transfer) }
            }
            (Method::Zero(ZeroMethod::PunchHole), _) => {
                plain(Act::Fallocate(FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE), len)
            }
            (Method::Zero(ZeroMethod::ZeroRange), _) => {
                plain(Act::Fallocate(FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE), len)
            }
            (_, IoKind::WriteZeroes { fua, .. }) => {
                plain(Act::WriteZeroBytes { durable: fua }, len.min(widen(zero_bytes)))
            }
            (_, IoKind::Discard) if self.op.device.is_block_device() => plain(Act::Discard, len),
            (_, IoKind::Discard) => {
                plain(Act::Fallocate(FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE), len)
            }
        }
    }

    fn memory_offset(&self) -> usize {
        usize::try_from(self.done).expect("done is at most the length of the buffer")
    }

    /// Takes the result of the last call.
    pub(super) fn judge(&mut self, result: Result<u64, Errno>) -> Verdict {
        match result {
            Err(Errno::INTR | Errno::AGAIN) => Verdict::Continue,
            Err(errno) => self.failed(errno),
            Ok(moved) => self.moved(moved),
        }
    }

    fn moved(&mut self, moved: u64) -> Verdict {
        let transfers = matches!(self.op.kind, IoKind::Read | IoKind::Write { .. });
        if !transfers && self.method != Method::ZeroWrites {
            return match (self.method, self.op.kind) {
                (Method::Zero(_), IoKind::WriteZeroes { fua: true, .. }) => {
                    self.method = Method::Settle;
                    Verdict::Continue
                }
                _ => Verdict::Over(Ok(())),
            };
        }
        if self.done + moved >= self.op.len {
            return Verdict::Over(Ok(()));
        }
        // A short transfer goes on at a whole block. Less than a block is the end of a device that has shrunk below us:
        // it was inside the size when it was opened.
        let progress = moved - moved % u64::from(self.op.device.limits().logical_block);
        if progress == 0 {
            return Verdict::Over(Err(Fault::Gone));
        }
        self.done += progress;
        Verdict::Continue
    }

    fn failed(&mut self, errno: Errno) -> Verdict {
        let fault = self.op.device.fault(errno);
        match (self.method, self.op.kind) {
            (Method::Zero(method), _) if fault == Fault::Unsupported => {
                self.op.device.refused_zeroing(method);
                self.method = match method {
                    ZeroMethod::PunchHole => self.zeroing_from(ZeroMethod::ZeroRange),
                    ZeroMethod::ZeroRange => Method::ZeroWrites,
                };
                return Verdict::Continue;
            }
            (_, IoKind::Discard) if fault == Fault::Unsupported => return Verdict::Over(Ok(())),
            _ => {}
        }
        if self.promises_durability() {
            self.op.device.flush_failed(fault);
        }
        Verdict::Over(Err(fault))
    }
}
