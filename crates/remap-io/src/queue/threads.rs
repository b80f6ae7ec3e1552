//! A few threads that block: the back end for machines where io_uring is refused, and at the side of a ring for what it does worse.
//!
//! Invariant: a job owns what it touches (devices, memory), so a thread stuck in the kernel can outlive the queue; each of its parts
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

/// A system call, and all that it touches.
pub(super) struct Part {
    slot: u32,
    device: Device,
    memory: Option<BufSlice>,
    call: Call,
}

impl Part {
    pub(super) fn of(slot: u32, entry: &Entry, call: Call, zeroes: &BufSlice) -> Self {
        let memory = entry.memory(zeroes).map(BufSlice::share);
        Self { slot, device: entry.op.device.clone(), memory, call }
    }

    pub(super) fn perform(self) -> Finished {
        (self.slot, blocking::perform(&self.device, self.memory.as_ref(), &self.call))
    }

    /// Bytes that it moves.
    pub(super) fn len(&self) -> u64 {
        self.call.len
    }
}

/// What one thread does, part after part.
type Job = Vec<Part>;

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    results: Vec<Finished>,
    idle: usize,
    threads: usize,
    /// Jobs that threads have begun: their numbers, and the slots of their parts.
    running: Vec<(u64, u32)>,
    begun: u64,
    /// Jobs that a thread works on although the queue has given up a part of them.
    stuck: Vec<u64>,
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
        self.start_job(vec![Part::of(slot, entry, call, zeroes)]);
    }

    /// Starts several calls, to be made one after the other.
    pub(super) fn start_job(&mut self, job: Job) {
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
        for job in &mut state.jobs {
            if let Some(position) = job.iter().position(|part| part.slot == slot) {
                job.remove(position);
                return true;
            }
        }
        let by = state.running.iter().find(|(_, running)| *running == slot).map(|(job, _)| *job);
        if let Some(job) = by.filter(|job| !state.stuck.contains(job)) {
            state.stuck.push(job);
            self.staff(&mut state);
        }
        false
    }

    pub(super) fn stirs(&self) -> bool {
        !self.shared.state().results.is_empty()
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
            let number = state.begin(&job);
            drop(state);
            // Their memory is gone before the results are seen, so that a buffer is unique when its owner hears of it.
            let results: Vec<Finished> = job.into_iter().map(Part::perform).collect();
            state = shared.state();
            let replaced = state.finish(number, results);
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
    /// A thread has taken a job; its number.
    fn begin(&mut self, job: &Job) -> u64 {
        self.begun += 1;
        let number = self.begun;
        self.running.extend(job.iter().map(|part| (number, part.slot)));
        number
    }

    /// Notes a job's results. True when the thread was given up meanwhile and has a successor.
    fn finish(&mut self, number: u64, results: Vec<Finished>) -> bool {
        for (slot, _) in &results {
            if let Some(entry) = usize::try_from(*slot).ok().and_then(|slot| self.abandoned.get_mut(slot)) {
                *entry = None;
            }
        }
        self.results.extend(results);
        self.running.retain(|&(running, _)| running != number);
        let Some(position) = self.stuck.iter().position(|&stuck| stuck == number) else { return false };
        self.stuck.swap_remove(position);
        self.threads -= 1;
        true
    }
}
