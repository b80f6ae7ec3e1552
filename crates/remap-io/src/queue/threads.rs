//! The back end for machines where io_uring is refused: a few threads that block.
//!
//! Invariant: a job owns what it touches (device, memory), so a thread stuck in the kernel can outlive the queue; a job
//! is either in `jobs`, or run by exactly one thread, or answered in `results`.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::Finished;
use super::blocking;
use super::entry::{Call, Entry};
use super::op::Watch;
use super::wake::Wake;
use crate::{BufSlice, Device};

/// Most threads of a queue that are not stuck.
const THREADS_MAX: u32 = 16;

struct Job {
    slot: u32,
    device: Device,
    memory: Option<BufSlice>,
    call: Call,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    results: Vec<Finished>,
    idle: usize,
    threads: usize,
    /// Slots that a thread works on.
    running: Vec<u32>,
    /// Slots that a thread works on although the queue has given them up.
    stuck: Vec<u32>,
    closed: bool,
    /// What the queue left behind: dropped with the last thread.
    abandoned: Vec<Option<Entry>>,
}

struct Shared {
    state: Mutex<State>,
    work: Condvar,
    done: Arc<Wake>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) struct Threads {
    shared: Arc<Shared>,
    limit: usize,
}

impl Threads {
    pub(super) fn open(depth: u32) -> io::Result<Self> {
        let shared = Shared { state: Mutex::default(), work: Condvar::new(), done: Wake::create()? };
        let limit = usize::try_from(depth.min(THREADS_MAX)).unwrap_or(1);
        Ok(Self { shared: Arc::new(shared), limit })
    }

    pub(super) fn start(&mut self, slot: u32, entry: &Entry, call: Call, zeroes: &BufSlice) {
        let memory = entry.memory(zeroes).map(BufSlice::share);
        let job = Job { slot, device: entry.op.device.clone(), memory, call };
        let mut state = self.shared.state();
        state.jobs.push_back(job);
        self.staff(&mut state);
    }

    /// Wakes or makes threads for the jobs in line. If none can be made, the jobs wait, up to their deadlines.
    fn staff(&self, state: &mut State) {
        if state.idle > 0 {
            self.shared.work.notify_one();
        }
        if state.jobs.len() > state.idle && state.threads < self.limit + state.stuck.len() {
            let shared = Arc::clone(&self.shared);
            let thread = std::thread::Builder::new().name("remap-io".into()).stack_size(64 << 10);
            if thread.spawn(move || work(&shared)).is_ok() {
                state.threads += 1;
            }
        }
    }

    pub(super) fn cancel(&mut self, slot: u32) -> bool {
        let mut state = self.shared.state();
        if let Some(position) = state.jobs.iter().position(|job| job.slot == slot) {
            state.jobs.remove(position);
            return true;
        }
        if state.running.contains(&slot) {
            state.stuck.push(slot);
            self.staff(&mut state);
        }
        false
    }

    pub(super) fn reap(&mut self, into: &mut Vec<Finished>) {
        let mut state = self.shared.state();
        if !state.results.is_empty() {
            self.shared.done.clear();
            into.append(&mut state.results);
        }
    }

    pub(super) fn wait(&mut self, fds: &mut [Watch<'_>], timeout: Option<Duration>) -> io::Result<()> {
        {
            let mut state = self.shared.state();
            if !state.jobs.is_empty() {
                self.staff(&mut state);
            }
        }
        let mut polled = Vec::with_capacity(fds.len() + 1);
        polled.push(PollFd::new(&self.shared.done, PollFlags::IN));
        for watch in fds.iter().filter(|watch| watch.read || watch.write) {
            let mut events = PollFlags::empty();
            events.set(PollFlags::IN, watch.read);
            events.set(PollFlags::OUT, watch.write);
            polled.push(PollFd::from_borrowed_fd(watch.fd, events));
        }
        let time = timeout.map(|timeout| Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(timeout.subsec_nanos()),
        });
        match poll(&mut polled, time.as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
        let events: Vec<u32> = polled[1..].iter().map(|polled| u32::from(polled.revents().bits())).collect();
        for (watch, events) in fds.iter_mut().filter(|watch| watch.read || watch.write).zip(events) {
            watch.note(events);
        }
        Ok(())
    }

    /// Ends the threads; entries that one of them still works on live as long as it does.
    pub(super) fn abandon(self, entries: Vec<Option<Entry>>) {
        self.shared.state().abandoned = entries;
    }
}

impl AsFd for Threads {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.done.as_fd()
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.closed = true;
        state.jobs.clear();
        self.shared.work.notify_all();
    }
}

/// A thread: takes jobs until the queue is gone.
fn work(shared: &Shared) {
    let mut state = shared.state();
    loop {
        if let Some(job) = state.jobs.pop_front() {
            let slot = job.slot;
            state.running.push(slot);
            drop(state);
            let result = blocking::perform(&job.device, job.memory.as_ref(), &job.call);
            // Gone before the result is seen, so that the buffer is unique when its owner hears of it.
            drop(job);
            state = shared.state();
            let replaced = state.finish(slot, result);
            shared.done.wake();
            if replaced {
                return;
            }
        } else if state.closed {
            return;
        } else {
            state.idle += 1;
            state = shared.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }
}

impl State {
    /// Notes a job's result. True when the thread was given up meanwhile and has a successor.
    fn finish(&mut self, slot: u32, result: Result<u64, Errno>) -> bool {
        self.results.push((slot, result));
        self.running.retain(|&running| running != slot);
        if let Some(entry) = usize::try_from(slot).ok().and_then(|slot| self.abandoned.get_mut(slot)) {
            *entry = None;
        }
        let Some(position) = self.stuck.iter().position(|&stuck| stuck == slot) else { return false };
        self.stuck.swap_remove(position);
        self.threads -= 1;
        true
    }
}
