//! A phase of a run: all workers at once, each in a thread with a queue of its own.
//!
//! Invariant: when a phase has ended nothing of it is in flight, and all that its workers saw is in the tally.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use anyhow::Context as _;
use remap_runtime::Volume;
use remap_runtime::front::Export as _;

use super::findings::Findings;
use super::halt::Halt;
use super::meter::{Meter, Sample};
use super::worker::{Source, Worker};

/// How often the phase is looked at from outside.
const TICK: Duration = Duration::from_millis(50);

/// What all workers saw.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub meter: Meter,
    pub findings: Findings,
    /// Requests in flight at once, at most, in the sum of the workers.
    pub in_flight: usize,
}

/// A phase.
pub(crate) struct Phase<'a> {
    pub volume: &'a Volume,
    /// Requests in flight, for each worker.
    pub depth: usize,
    pub halt: &'a Halt,
}

impl Phase<'_> {
    /// Runs every worker with its source to the end; what they hand over goes to `each`, which is called now and then in any case.
    ///
    /// # Errors
    /// No thread or queue, or a queue that cannot wait.
    pub(crate) fn run(
        &self,
        workers: &mut [Worker],
        sources: Vec<Source>,
        mut each: impl FnMut(usize, Option<Sample>),
    ) -> anyhow::Result<()> {
        std::thread::scope(|scope| {
            let mut threads = Vec::new();
            let (report, reports) = mpsc::channel();
            for ((number, worker), source) in workers.iter_mut().enumerate().zip(sources) {
                let report = report.clone();
                let body = move || {
                    let ended = self.volume.queue().and_then(|mut queue| {
                        worker.run(&mut queue, self.depth, source, self.halt, &mut |sample| {
                            // Whoever listens ends after the workers.
                            let _ = report.send((number, sample));
                        })
                    });
                    // Without this one the others need not go on.
                    ended.inspect_err(|_| self.halt.end_load())
                };
                let thread = std::thread::Builder::new().name(format!("worker-{number}"));
                threads.push(thread.spawn_scoped(scope, body).inspect_err(|_| self.halt.end_load())?);
            }
            drop(report);
            loop {
                match reports.recv_timeout(TICK) {
                    Ok((number, sample)) => each(number, Some(sample)),
                    Err(RecvTimeoutError::Timeout) => each(0, None),
                    Err(RecvTimeoutError::Disconnected) => break,
                }
            }
            for thread in threads {
                let ended = thread.join().map_err(|_| anyhow::anyhow!("a worker of the run panicked"))?;
                ended.context("a queue of the volume")?;
            }
            Ok(())
        })
    }
}
