//! One worker: a thread with a queue of its own, its share of the requests in flight, and its own part of the volume.
//!
//! Invariant: no two requests of a worker overlap in a unit while they are in flight, and no two workers share one; so what each unit
//! must hold is known when it is read. (Units of one block of the volume may be in flight together.)

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use remap_core::op::RequestKind;
use remap_io::Buf;
use remap_runtime::VolumeQueue;
use remap_runtime::front::{FrontCompletion, FrontError, FrontRequest, Interest, Queue as _};

use super::draw::{Draw, Drawer, Work};
use super::faults::Faults;
use super::halt::Halt;
use super::meter::{Kind, Sample};
use super::model::{Model, UNIT, Units};

/// How often a worker hands over what it measured.
const HAND_OVER: Duration = Duration::from_millis(100);
/// Longest wait for a completion before the halt is looked at again.
const WAIT: Duration = Duration::from_millis(50);
/// Buffers that are kept for reuse, in bytes.
const SPARE_BUFFERS: usize = 32 << 20;

/// A request in flight.
struct Out {
    work: Work,
    units: Units,
    begun: Instant,
}

/// See the module.
pub(crate) struct Worker {
    pub model: Model,
    drawer: Drawer,
    faults: Faults,
    /// Discards have an effect that is defined.
    can_discard: bool,
    outs: Vec<Option<Out>>,
    free: Vec<usize>,
    /// Units in flight: start and end of each stretch.
    busy: BTreeMap<u32, u32>,
    buffers: Vec<Buf>,
    buffer_bytes: usize,
    sample: Sample,
}

/// Where requests come from.
pub(crate) enum Source {
    /// As a load draws them, until the halt.
    Load,
    /// All of these, to be read.
    List(std::vec::IntoIter<Units>),
}

impl Worker {
    /// A worker for a part of a volume.
    pub(crate) fn of(model: Model, drawer: Drawer, faults: Faults, can_discard: bool) -> Self {
        Self {
            model,
            drawer,
            faults,
            can_discard,
            outs: Vec::new(),
            free: Vec::new(),
            busy: BTreeMap::new(),
            buffers: Vec::new(),
            buffer_bytes: 0,
            sample: Sample::default(),
        }
    }

    /// Keeps `depth` requests in flight until the source has no more, or the halt; then waits for the last of them.
    ///
    /// # Errors
    /// The queue cannot wait any more.
    pub(crate) fn run(
        &mut self,
        queue: &mut VolumeQueue,
        depth: usize,
        mut source: Source,
        halt: &Halt,
        report: &mut dyn FnMut(Sample),
    ) -> std::io::Result<()> {
        let idle = File::open("/dev/null")?;
        let mut handed_over = Instant::now();
        let mut more = true;
        while more || queue.in_flight() > 0 {
            while more && queue.in_flight() < depth {
                more = !halt.is_reached(matches!(source, Source::Load));
                match self.next(&mut source).filter(|_| more) {
                    Some(draw) => self.submit(queue, draw),
                    None => {
                        // A load meets only what is in flight already; a list has come to its end.
                        more &= matches!(source, Source::Load);
                        break;
                    }
                }
            }
            self.sample.in_flight = self.sample.in_flight.max(queue.in_flight());
            let mut any = false;
            while let Some(done) = queue.next() {
                any = true;
                self.ended(done);
            }
            if !any {
                queue.wait(idle.as_fd(), Interest::default(), Some(WAIT))?;
            }
            if handed_over.elapsed() >= HAND_OVER {
                handed_over = Instant::now();
                self.hand_over(halt, report);
            }
            more &= !halt.is_reached(matches!(source, Source::Load));
        }
        self.hand_over(halt, report);
        Ok(())
    }

    fn hand_over(&mut self, halt: &Halt, report: &mut dyn FnMut(Sample)) {
        let sample = std::mem::take(&mut self.sample);
        if sample.findings.wrong_bytes > 0 {
            // What is there now is evidence: nothing more is to be written over it.
            halt.for_evidence();
        }
        report(sample);
    }

    fn next(&mut self, source: &mut Source) -> Option<Draw> {
        match source {
            Source::List(list) => list.next().map(|units| Draw { work: Work::Read, units }),
            Source::Load => self.drawer.draw(&self.model, &self.busy),
        }
    }

    fn submit(&mut self, queue: &mut VolumeQueue, mut draw: Draw) {
        if draw.work == Work::Discard && !self.can_discard {
            draw.work = Work::Zero;
        }
        let Draw { work, units } = draw;
        let len = u64::from(units.end - units.start) * UNIT;
        let offset = if work == Work::Flush { 0 } else { self.model.offset(units.start) };
        let buf = matches!(work, Work::Read | Work::Write { .. }).then(|| self.buffer(queue, len));
        let buf = buf.map(|mut buf| {
            if work != Work::Read {
                self.model.fill(&units, buf.bytes_mut());
            }
            buf
        });
        let kind = match work {
            Work::Read => RequestKind::Read,
            Work::Write { fua } => RequestKind::Write { fua },
            Work::Zero => RequestKind::WriteZeroes { fua: false, may_unmap: true },
            Work::Discard => RequestKind::Discard,
            Work::Flush => RequestKind::Flush,
        };
        if work != Work::Flush {
            self.busy.insert(units.start, units.end);
        }
        let token = self.free.pop().unwrap_or_else(|| {
            self.outs.push(None);
            self.outs.len() - 1
        });
        self.outs[token] = Some(Out { work, units, begun: Instant::now() });
        queue.submit(token as u64, FrontRequest { kind, offset, len }, buf);
    }

    /// A buffer of this length, used before if there is one.
    fn buffer(&mut self, queue: &mut VolumeQueue, len: u64) -> Buf {
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let fits = |buf: &Buf| buf.capacity() >= len && buf.capacity() <= 4 * len;
        let tail = self.buffers.len().saturating_sub(32);
        match self.buffers[tail..].iter().rposition(fits) {
            Some(at) => {
                let mut buf = self.buffers.swap_remove(tail + at);
                self.buffer_bytes -= buf.capacity();
                buf.set_len(len);
                buf
            }
            None => queue.buffer(len),
        }
    }

    fn keep(&mut self, buf: Option<Buf>) {
        if let Some(buf) = buf.filter(|buf| self.buffer_bytes + buf.capacity() <= SPARE_BUFFERS) {
            self.buffer_bytes += buf.capacity();
            self.buffers.push(buf);
        }
    }

    fn ended(&mut self, done: FrontCompletion) {
        let token = usize::try_from(done.token).unwrap_or(usize::MAX);
        let Some(Out { work, units, begun }) = self.outs.get_mut(token).and_then(Option::take) else {
            return;
        };
        self.free.push(token);
        let latency = begun.elapsed();
        let bytes = u64::from(units.end - units.start) * UNIT;
        let kind = match work {
            Work::Read => Kind::Read,
            Work::Write { .. } => Kind::Write,
            Work::Zero | Work::Discard => Kind::Discard,
            Work::Flush => Kind::Flush,
        };
        self.sample.meter.add(kind, bytes, latency);
        if work != Work::Flush {
            self.busy.remove(&units.start);
        }
        let good = done.result.is_ok();
        match work {
            Work::Read => self.was_read(&units, &done),
            Work::Write { .. } => {
                self.model.wrote(&units, good);
                self.drawer.was_written(&units);
            }
            Work::Zero => self.model.zeroed(&units, good),
            Work::Discard => self.model.discarded(&units),
            Work::Flush => {}
        }
        if let (Err(error), false) = (&done.result, work == Work::Read) {
            self.failed(work, &units, error);
        }
        self.keep(done.buf);
    }

    fn was_read(&mut self, units: &Units, done: &FrontCompletion) {
        let bad = match &done.result {
            Ok(()) => &[][..],
            Err(FrontError::Io { bad }) if !bad.is_empty() => bad.as_slice(),
            Err(error) => return self.failed(Work::Read, units, error),
        };
        if let Some(buf) = &done.buf {
            self.model.check(units, buf.bytes(), bad, &self.faults, &mut self.sample.findings);
        } else {
            // The device still holds it.
            self.failed(Work::Read, units, &FrontError::Io { bad: Vec::new() });
        }
    }

    fn failed(&mut self, work: Work, units: &Units, error: &FrontError) {
        let sectors = self.model.sectors(units);
        let meaning = match (work, error) {
            (Work::Flush, FrontError::Io { .. }) => self.faults.of_flush(),
            (_, FrontError::Io { .. }) => self.faults.of_write(sectors.start, sectors.end),
            _ if self.faults.anywhere() => super::faults::Meaning::Expected,
            _ => super::faults::Meaning::Unexpected,
        };
        let why = match error {
            FrontError::Io { .. } => "an I/O error",
            FrontError::NoSpace => "no space: the spare has no slot left, or the file system is full",
            FrontError::ReadOnly => "the volume is read-only",
            FrontError::Shutdown => "the volume was stopped",
        };
        self.sample.findings.error(meaning, || match work {
            Work::Flush => format!("flush: {why}"),
            _ => format!("{} of sectors {}-{}: {why}", work.word(), sectors.start, sectors.end - 1),
        });
    }
}
