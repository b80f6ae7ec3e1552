//! The io_uring back end.
//!
//! Invariant: what an entry of the ring points to (a descriptor, memory) is owned by a slot of the queue, which keeps it
//! until the completion was reaped; entries that find no room in the ring wait in `backlog` and are never lost.

#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use io_uring::types::{Fd, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{IoUring, Probe, opcode, squeue};
use rustix::io::Errno;

use super::entry::{Act, Call, Entry};
use super::op::{POLL_IN, POLL_OUT, Watch};
use super::threads::{Part, Threads};
use super::{Finished, blocking};
use crate::BufSlice;

/// `RWF_DSYNC`.
const DURABLE: i32 = 2;
/// Of scattered transfers to and from files in memory, so much is copied by one thread.
const COPY_BYTES: u64 = 512 << 10;
/// What threads of our own do because the ring cannot (the discard ioctl) or does it worse (scattered copies), and most of them for each. Writers of a
/// file in memory would only wait for each other: the kernel lets one in at a time.
const SIDES: [u32; 2] = [4, 1];
const READERS: usize = 0;
const WRITERS: usize = 1;
/// Completions nobody waits for (of cancels).
const IGNORED: u64 = u64::MAX;
/// Bit of the user data that tells a poll from an operation; the rest is its number.
const POLL: u64 = 1 << 62;

/// A poll that the ring has.
struct Armed {
    number: u64,
    fd: RawFd,
    event: u32,
}

pub(super) struct Uring {
    ring: IoUring,
    backlog: VecDeque<squeue::Entry>,
    armed: Vec<Armed>,
    polls: u64,
    /// See [`SIDES`]; made when first needed.
    sides: [Option<Threads>; SIDES.len()],
    /// Parts of scattered transfers that wait for more of their kind, their bytes, and for which side they are.
    copies: Vec<Part>,
    copied: u64,
    copiers: usize,
    /// Events seen since the last wait began: descriptor, events.
    fired: Vec<(RawFd, u32)>,
    /// What was reaped inside `wait`, for the next `reap`.
    finished: Vec<Finished>,
}

impl Uring {
    pub(super) fn open(depth: u32) -> io::Result<Self> {
        let ring = ring(depth)?;
        let known = ring.params();
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        let needed = [
            opcode::Read::CODE,
            opcode::Write::CODE,
            opcode::Fsync::CODE,
            opcode::Fallocate::CODE,
            opcode::PollAdd::CODE,
            opcode::PollRemove::CODE,
            opcode::AsyncCancel::CODE,
        ];
        if !known.is_feature_ext_arg()
            || !known.is_feature_nodrop()
            || !needed.iter().all(|&c| probe.is_supported(c))
        {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "this kernel's io_uring is too old (before 5.11)",
            ));
        }
        Ok(Self {
            ring,
            backlog: VecDeque::new(),
            armed: Vec::new(),
            polls: 0,
            sides: [None, None],
            copies: Vec::new(),
            copied: 0,
            copiers: READERS,
            fired: Vec::new(),
            finished: Vec::new(),
        })
    }

    pub(super) fn start(&mut self, slot: u32, entry: &Entry, call: Call, zeroes: &BufSlice) {
        if entry.op.device.is_in_memory() && is_a_copy(&call) {
            return self.copy(slot, entry, call, zeroes);
        }
        let fd = Fd(entry.op.device.fd().as_raw_fd());
        let len = u32::try_from(call.len).unwrap_or(u32::MAX);
        let memory = |at: usize| {
            let memory = entry.memory(zeroes).expect("reads and writes have memory, checked at submit");
            debug_assert!(at as u64 + call.len <= memory.len() as u64);
            // SAFETY: the call stays inside the slice: `at + len` is at most its length.
            unsafe { memory.as_ptr().add(at) }
        };
        let entry = match call.act {
            Act::Read => opcode::Read::new(fd, memory(call.memory_offset), len).offset(call.offset).build(),
            Act::Write { durable } | Act::WriteZeroBytes { durable } => {
                let flags = if durable { DURABLE } else { 0 };
                let write = opcode::Write::new(fd, memory(call.memory_offset), len);
                write.offset(call.offset).rw_flags(flags).build()
            }
            Act::Fallocate(mode) => {
                let mode = i32::try_from(mode.bits()).unwrap_or(0);
                opcode::Fallocate::new(fd, call.len).offset(call.offset).mode(mode).build()
            }
            Act::Sync => opcode::Fsync::new(fd).flags(FsyncFlags::DATASYNC).build(),
            Act::Discard => {
                self.start_aside(slot, entry, call, zeroes);
                return;
            }
        };
        self.push(entry.user_data(u64::from(slot)));
    }

    /// The ring hands every write to a file in memory, and some reads, to threads of its own, one by one. A copy is better made here, where
    /// its bytes are sent from or came in, and stay in the processor's cache; but the many parts of a scattered one take long enough for
    /// another thread, in a row.
    fn copy(&mut self, slot: u32, entry: &Entry, call: Call, zeroes: &BufSlice) {
        if !entry.op.scattered {
            let result = blocking::perform(&entry.op.device, entry.memory(zeroes), &call);
            self.finished.push((slot, result));
            return;
        }
        let copiers = if matches!(call.act, Act::Read) { READERS } else { WRITERS };
        if copiers != self.copiers {
            self.hand_over();
            self.copiers = copiers;
        }
        let part = Part::of(slot, entry, call, zeroes);
        self.copied += part.len();
        self.copies.push(part);
        if self.copied >= COPY_BYTES {
            self.hand_over();
        }
    }

    /// Gives the copies that were collected to a thread.
    fn hand_over(&mut self) {
        if self.copies.is_empty() {
            return;
        }
        self.copied = 0;
        let copies = std::mem::take(&mut self.copies);
        if let Some(side) = self.side(self.copiers) {
            return side.start_job(copies);
        }
        self.finished.extend(copies.into_iter().map(Part::perform));
    }

    fn side(&mut self, which: usize) -> Option<&mut Threads> {
        let side = self.sides.get_mut(which)?;
        if side.is_none() {
            *side = Threads::open(SIDES[which]).ok();
        }
        side.as_mut()
    }

    fn start_aside(&mut self, slot: u32, entry: &Entry, call: Call, zeroes: &BufSlice) {
        match self.side(READERS) {
            Some(side) => side.start(slot, entry, call, zeroes),
            // No thread to be had: a discard is a hint.
            None => self.finished.push((slot, Ok(0))),
        }
    }

    pub(super) fn cancel(&mut self, slot: u32) -> bool {
        self.hand_over();
        if self.sides.iter_mut().flatten().any(|side| side.cancel(slot)) {
            return true;
        }
        self.push(opcode::AsyncCancel::new(u64::from(slot)).build().user_data(IGNORED));
        false
    }

    pub(super) fn forget(&mut self, fd: BorrowedFd<'_>) {
        let fd = fd.as_raw_fd();
        self.disarm(|armed| armed.fd != fd);
        // Taken to the kernel now: the descriptor is about to be closed.
        self.feed();
        let _ = self.ring.submit();
    }

    /// Removes the polls that are not to be kept.
    fn disarm(&mut self, keep: impl Fn(&Armed) -> bool) {
        let mut position = 0;
        while position < self.armed.len() {
            if keep(&self.armed[position]) {
                position += 1;
            } else {
                let gone = self.armed.swap_remove(position);
                self.push(opcode::PollRemove::new(POLL | gone.number).build().user_data(IGNORED));
            }
        }
    }

    /// Polls for `event` on `fd`, unless the ring does already.
    fn arm(&mut self, fd: RawFd, event: u32) {
        if self.armed.iter().any(|armed| armed.fd == fd && armed.event == event) {
            return;
        }
        self.polls = (self.polls + 1) % POLL;
        self.armed.push(Armed { number: self.polls, fd, event });
        self.push(opcode::PollAdd::new(Fd(fd), event).build().user_data(POLL | self.polls));
    }

    /// Queues an entry of the ring.
    fn push(&mut self, entry: squeue::Entry) {
        self.backlog.push_back(entry);
        self.feed();
    }

    /// Moves the backlog into the ring, submitting when the ring is full.
    fn feed(&mut self) {
        while let Some(entry) = self.backlog.front() {
            // SAFETY: the memory and descriptor of an operation stay with its slot until its completion is reaped (see
            // the module's invariant); a poll holds no memory.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                self.backlog.pop_front();
            } else if self.ring.submit().is_err() || self.ring.submission().is_full() {
                // The kernel wants completions to be reaped first; the backlog goes on at the next wait.
                return;
            }
        }
    }

    pub(super) fn reap(&mut self, into: &mut Vec<Finished>) {
        self.hand_over();
        self.collect();
        into.append(&mut self.finished);
        self.sides.iter_mut().flatten().for_each(|side| side.reap(into));
    }

    pub(super) fn stirs(&mut self) -> bool {
        !self.finished.is_empty()
            || self.ring.submission().taskrun()
            || !self.ring.completion().is_empty()
            || self.sides.iter().flatten().any(Threads::stirs)
    }

    /// Empties the completion ring.
    fn collect(&mut self) {
        for completion in self.ring.completion() {
            let user_data = completion.user_data();
            let result = completion.result();
            if user_data == IGNORED {
                continue;
            }
            if user_data & POLL != 0 {
                let number = user_data & !POLL;
                if let Some(position) = self.armed.iter().position(|armed| armed.number == number) {
                    let armed = self.armed.swap_remove(position);
                    self.fired.push((armed.fd, u32::try_from(result).unwrap_or(super::op::POLL_ERR)));
                }
                continue;
            }
            let Ok(slot) = u32::try_from(user_data) else { continue };
            let outcome = u64::try_from(result).map_err(|_| Errno::from_raw_os_error(result.wrapping_neg()));
            self.finished.push((slot, outcome));
        }
    }

    pub(super) fn wait(&mut self, fds: &mut [Watch<'_>], timeout: Option<Duration>) -> io::Result<()> {
        self.hand_over();
        self.collect();
        // What fired before may have been dealt with since; polling anew asks again.
        self.fired.clear();
        let sides = self.sides.each_ref().map(|side| side.as_ref().map(|side| side.as_fd().as_raw_fd()));
        let wanted = |armed: &Armed| {
            sides.contains(&Some(armed.fd))
                || fds.iter().any(|watch| {
                    watch.fd.as_raw_fd() == armed.fd
                        && (watch.read && armed.event == POLL_IN || watch.write && armed.event == POLL_OUT)
                })
        };
        self.disarm(wanted);
        for watch in fds.iter() {
            for (wants, event) in [(watch.read, POLL_IN), (watch.write, POLL_OUT)] {
                if wants {
                    self.arm(watch.fd.as_raw_fd(), event);
                }
            }
        }
        for side in sides.into_iter().flatten() {
            self.arm(side, POLL_IN);
        }
        self.feed();
        let timeout = if self.finished.is_empty() { timeout } else { Some(Duration::ZERO) };
        self.enter(timeout)?;
        self.collect();
        for (fd, events) in self.fired.drain(..) {
            for watch in fds.iter_mut().filter(|watch| watch.fd.as_raw_fd() == fd) {
                watch.note(events);
            }
        }
        Ok(())
    }

    /// One system call: submit, and wait for at least one completion.
    fn enter(&self, timeout: Option<Duration>) -> io::Result<()> {
        let outcome = match timeout {
            None => self.ring.submitter().submit_and_wait(1),
            Some(timeout) => {
                let time = Timespec::new().sec(timeout.as_secs()).nsec(timeout.subsec_nanos());
                self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&time))
            }
        };
        match outcome {
            Ok(_) => Ok(()),
            Err(error) => match Errno::from_io_error(&error) {
                // The time is over, a signal came, or the kernel wants completions to be reaped first.
                Some(Errno::TIME | Errno::INTR | Errno::BUSY | Errno::AGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }
}

/// To or from a file in memory, nothing else than a copy?
fn is_a_copy(call: &Call) -> bool {
    matches!(call.act, Act::Read | Act::Write { .. } | Act::WriteZeroBytes { .. } | Act::Sync)
}

/// The ring with the cheapest notifications that this kernel takes (6.1, 5.19, before).
fn ring(depth: u32) -> io::Result<IoUring> {
    let entries = depth.saturating_add(16).next_power_of_two();
    let mut last = io::Error::from(io::ErrorKind::Unsupported);
    for level in 0..3 {
        let mut builder = IoUring::builder();
        builder.setup_clamp().setup_cqsize(entries.saturating_mul(4));
        match level {
            0 => builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag(),
            1 => builder.setup_coop_taskrun().setup_taskrun_flag(),
            _ => &mut builder,
        };
        match builder.build(entries) {
            Ok(ring) => return Ok(ring),
            Err(error) => {
                let wrong_flag = error.raw_os_error() == Some(Errno::INVAL.raw_os_error());
                last = error;
                if !wrong_flag {
                    break;
                }
            }
        }
    }
    Err(last)
}

const _: () = assert!(POLL > u32::MAX as u64, "slots and polls are told apart");

impl Drop for Uring {
    fn drop(&mut self) {
        // Polls hold files of others open until the ring is gone, which the kernel may do late: end them now.
        self.disarm(|_| false);
        self.feed();
        let _ = self.ring.submit();
    }
}
