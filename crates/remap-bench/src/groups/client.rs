//! A client within the process: requests of one block through a queue of the volume, as front ends submit them.
//!
//! Invariant: so many requests are in flight until there are no more; each is timed from its submission to its completion.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use remap_core::op::RequestKind;
use remap_runtime::front::{Export as _, FrontRequest, Interest, Queue as _};
use remap_runtime::{Volume, VolumeQueue};

use super::made::BLOCK;

/// Longest sleep while requests are out.
const WAIT: Duration = Duration::from_millis(100);

/// One request, as it ended.
pub(super) struct Timed {
    pub(super) ended: Instant,
    pub(super) us: f64,
    pub(super) good: bool,
}

/// One thread's client.
pub(super) struct Client {
    queue: VolumeQueue,
    /// Never ready: there is no socket to wait for.
    idle: File,
    begun: Vec<Instant>,
    free: Vec<usize>,
}

impl Client {
    /// A client with at most `depth` requests in flight.
    ///
    /// # Errors
    /// No queue.
    pub(super) fn over(volume: &Volume, depth: usize) -> anyhow::Result<Self> {
        Ok(Self {
            queue: volume.queue().context("a queue")?,
            idle: File::open("/dev/null").context("/dev/null")?,
            begun: vec![Instant::now(); depth],
            free: (0..depth).collect(),
        })
    }

    /// Submits what `next` gives (block, write) as long as it gives something, and hands what ended to `ended`.
    ///
    /// # Errors
    /// The queue cannot wait.
    pub(super) fn run(
        &mut self,
        mut next: impl FnMut() -> Option<(u64, bool)>,
        mut ended: impl FnMut(Timed),
    ) -> anyhow::Result<()> {
        let mut more = true;
        while more || self.queue.in_flight() > 0 {
            while more && let Some(token) = self.free.pop() {
                let Some((block, write)) = next() else {
                    more = false;
                    self.free.push(token);
                    break;
                };
                let kind = if write { RequestKind::Write { fua: false } } else { RequestKind::Read };
                let request = FrontRequest { kind, offset: block * BLOCK, len: BLOCK };
                let mut buf = self.queue.buffer(BLOCK as usize);
                if write {
                    buf.bytes_mut().fill(0xa5);
                }
                self.begun[token] = Instant::now();
                self.queue.submit(token as u64, request, Some(buf));
            }
            let mut any = false;
            while let Some(done) = self.queue.next() {
                any = true;
                let (token, now) = (done.token as usize, Instant::now());
                let us = (now - self.begun[token]).as_secs_f64() * 1e6;
                self.free.push(token);
                if let Some(buf) = done.buf {
                    self.queue.recycle(buf);
                }
                ended(Timed { ended: now, us, good: done.result.is_ok() });
            }
            if !any && self.queue.in_flight() > 0 {
                self.queue.wait(self.idle.as_fd(), Interest::default(), Some(WAIT)).context("a queue")?;
            }
        }
        Ok(())
    }
}
