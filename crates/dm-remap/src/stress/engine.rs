//! The one engine of all stress commands: load, read back, close, open, read back again, check.
//!
//! Invariant: after a wrong byte nothing is written any more.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use remap_runtime::{Status, Volume};

use super::draw::Drawer;
use super::drift::{WINDOWS, Window};
use super::findings::Findings;
use super::ground::Ground;
use super::halt::Halt;
use super::meter::{Meter, Sample};
use super::model::{Model, UNIT, Units};
use super::mover::{Moved, Mover};
use super::phase::{Phase, Tally};
use super::plan::Plan;
use super::progress::Progress;
use super::resources::Resources;
use super::stamp::Run;
use super::worker::{Source, Worker};
use crate::demo::Random;
use crate::message::differences;
use crate::metadata::Verdict;

/// Requests of a worker that are in the devices' hands at once; with more of them in flight there are more workers, up to so many for
/// each processor.
const WORKER_DEPTH: usize = 256;
const WORKERS_PER_CPU: usize = 4;
/// Units that a worker's part has at least.
const PART_MIN: u64 = 32;
/// Units that all workers together remember: some 150 MB, for 16 GiB written to different places.
const UNITS_MAX: u64 = 4 << 20;
/// Units of a request that reads back, and those requests in flight for each worker.
const READ_BACK_UNITS: u32 = 64;
const READ_BACK_DEPTH: usize = 16;
/// Places of each worker where nobody wrote that are read, too, on a volume that was blank.
const BLANK_PLACES: u64 = 64;
/// Bytes that are read once more after the volume was closed and opened.
const AGAIN_BYTES: u64 = 2 << 30;
/// No window is shorter.
const WINDOW_MIN: Duration = Duration::from_millis(100);

/// A run about to begin.
pub(crate) struct Engine<'a> {
    pub plan: &'a Plan,
    pub ground: &'a Ground,
    pub seed: u64,
    pub moves: u32,
    pub halt: &'a Halt,
}

/// How the metadata were.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct MetadataChecks {
    /// Comparisons with the table in use, those that found a copy that differs, and those that came to no end because the table kept changing.
    pub in_service: u64,
    pub differed: u64,
    pub undecided: u64,
    /// After each time that the volume was closed.
    pub closed: [Option<Verdict>; 2],
}

/// What came of a run.
pub(crate) struct Outcome {
    pub tally: Tally,
    pub workers: usize,
    /// Time that the load took.
    pub elapsed: Duration,
    pub windows: Vec<Window>,
    pub moved: Moved,
    /// At the end of the load and of what was read back after it.
    pub status: Status,
    pub checks: MetadataChecks,
    /// Bytes that were read back after the load, and after the volume was opened again.
    pub read_back: [u64; 2],
    pub interrupted: bool,
    pub breaker_trips: u64,
}

/// How many workers share so many requests.
fn workers_for(in_flight: usize, units: u64) -> usize {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let by_depth = in_flight.div_ceil(WORKER_DEPTH).clamp(cpus, WORKERS_PER_CPU * cpus);
    by_depth.min(in_flight).min(usize::try_from(units / PART_MIN).unwrap_or(1)).max(1)
}

impl Engine<'_> {
    /// Runs it all.
    ///
    /// # Errors
    /// The volume cannot be opened, or the machine gives no threads or queues.
    pub(crate) fn run(&self, progress: &mut Progress) -> anyhow::Result<Outcome> {
        let volume = Served(self.ground.open()?);
        let mut workers = self.workers();
        let mut load = Load::of(self, &workers);
        progress.step(&format!("{}, {} workers", self.plan.about, workers.len()));
        let mover = self.load(&volume.0, &mut workers, &mut load, progress)?;
        let Load { mut tally, windows, checks, elapsed, .. } = load;
        let mut checks = checks;
        self.ground.end_wild_drills();
        let moved = mover.moved();
        let interrupted = self.halt.is_interrupted();
        let mut read_back = [0; 2];
        if !self.halt.has_evidence() {
            progress.step("reading back all that was written");
            read_back[0] = self.read_back(&volume.0, &mut workers, u64::MAX, &mut tally.findings)?;
        }
        let status = volume.0.status()?;
        self.close(volume, &mut tally.findings);
        mover.join();
        checks.closed[0] = Some(self.ground.verdict()?);
        let mut breaker_trips = status.counters.breaker_trips;
        if !self.halt.has_evidence() {
            progress.step("opening the volume again, and reading once more");
            let volume = Served(self.ground.open().context("opening the volume again")?);
            read_back[1] = self.read_back(&volume.0, &mut workers, AGAIN_BYTES, &mut tally.findings)?;
            breaker_trips += volume.0.status()?.counters.breaker_trips;
            self.close(volume, &mut tally.findings);
            checks.closed[1] = Some(self.ground.verdict()?);
        }
        tally.findings.settle(breaker_trips > 0);
        let workers = workers.len();
        Ok(Outcome {
            tally,
            workers,
            elapsed,
            windows,
            moved,
            status,
            checks,
            read_back,
            interrupted,
            breaker_trips,
        })
    }

    fn workers(&self) -> Vec<Worker> {
        let units = self.ground.area / UNIT;
        let count = workers_for(self.plan.in_flight, units);
        let run = Run::of(Random::seeded(self.seed, 7).next());
        let part = units / count as u64;
        let most = UNITS_MAX.min(self.ground.room / UNIT) / count as u64;
        let worker = |number: u64| {
            let units = u32::try_from(part).unwrap_or(u32::MAX);
            let most = usize::try_from(most).unwrap_or(usize::MAX);
            let model = Model::of(run, number * part, units, self.ground.blank, most);
            let random = Random::seeded(self.seed, 100 + number);
            let drawer = Drawer::of(self.plan.mix, random, &model, self.ground.faults.bad());
            Worker::of(model, drawer, self.ground.faults.clone(), self.ground.can_discard)
        };
        (0..count as u64).map(worker).collect()
    }

    /// The load, and blocks that move meanwhile.
    fn load(
        &self,
        volume: &Volume,
        workers: &mut [Worker],
        load: &mut Load,
        progress: &mut Progress,
    ) -> anyhow::Result<Mover> {
        let depth = self.plan.in_flight.div_ceil(workers.len());
        let phase = Phase { volume, depth, halt: self.halt };
        let sources = workers.iter().map(|_| Source::Load).collect();
        let mover = Mover::start(volume, self.ground.area / 512, self.moves, self.seed, self.halt)?;
        let ended = phase.run(workers, sources, |number, sample| {
            load.take(number, sample);
            load.look(self, volume, &mover.pause);
            progress.load(load.begun.elapsed(), &load.tally);
        });
        self.halt.end_load();
        ended?;
        load.end();
        Ok(mover)
    }

    /// Reads what was written, as much of it as `most` bytes in an even sample, and some of what was not; says how many bytes.
    fn read_back(
        &self,
        volume: &Volume,
        workers: &mut [Worker],
        most: u64,
        findings: &mut Findings,
    ) -> anyhow::Result<u64> {
        let mut random = Random::seeded(self.seed, 8);
        let written: Vec<Vec<Units>> =
            workers.iter().map(|worker| worker.model.written(READ_BACK_UNITS)).collect();
        let bytes = |units: &Units| u64::from(units.end - units.start) * UNIT;
        let all: u64 = written.iter().flatten().map(bytes).sum();
        let step = usize::try_from(all.div_ceil(most.max(1))).unwrap_or(usize::MAX).max(1);
        let mut total = 0;
        let lists = written.into_iter().zip(&*workers).map(|(written, worker)| {
            let model = &worker.model;
            let mut list: Vec<Units> = written.into_iter().step_by(step).collect();
            if model.is_blank() {
                let place = |_| u32::try_from(random.below(u64::from(model.units()))).unwrap_or(0);
                list.extend((0..BLANK_PLACES).map(place).map(|unit| unit..unit + 1));
            }
            total += list.iter().map(bytes).sum::<u64>();
            Source::List(list.into_iter())
        });
        let sources: Vec<Source> = lists.collect();
        let phase = Phase { volume, depth: READ_BACK_DEPTH, halt: self.halt };
        phase.run(workers, sources, |_, sample| {
            if let Some(sample) = sample {
                findings.add(sample.findings);
            }
        })?;
        Ok(total)
    }

    fn close(&self, volume: Served, findings: &mut Findings) {
        volume.0.stop();
        if let Err(path) = volume.0.settle() {
            findings.error(self.ground.faults.of_flush(), || {
                format!("{}: did not flush at the end", path.display())
            });
        }
    }
}

/// A volume that is stopped however the run ends.
struct Served(Volume);

impl Drop for Served {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// The load as it goes on.
struct Load {
    tally: Tally,
    /// Most requests that each worker had in flight.
    in_flight: Vec<usize>,
    begun: Instant,
    elapsed: Duration,
    duration: Duration,
    windows: Vec<Window>,
    window: OpenWindow,
    checks: MetadataChecks,
}

/// The window that is not over yet.
struct OpenWindow {
    length: Duration,
    begun: Instant,
    meter: Meter,
    cpu: Duration,
}

impl Load {
    fn of(engine: &Engine<'_>, workers: &[Worker]) -> Self {
        let (begun, duration) = (Instant::now(), engine.plan.duration);
        let length = (duration / WINDOWS).max(WINDOW_MIN);
        Self {
            tally: Tally::default(),
            in_flight: vec![0; workers.len()],
            begun,
            elapsed: Duration::ZERO,
            duration,
            windows: Vec::new(),
            window: OpenWindow { length, begun, meter: Meter::default(), cpu: Resources::now().cpu },
            checks: MetadataChecks::default(),
        }
    }

    fn take(&mut self, number: usize, sample: Option<Sample>) {
        let Some(sample) = sample else { return };
        self.tally.meter.merge(&sample.meter);
        self.window.meter.merge(&sample.meter);
        self.tally.findings.add(sample.findings);
        if let Some(most) = self.in_flight.get_mut(number) {
            *most = sample.in_flight.max(*most);
        }
    }

    /// Looks at the clock, and at what is due by it.
    fn look(&mut self, engine: &Engine<'_>, volume: &Volume, pause: &AtomicBool) {
        if engine.halt.is_reached(true) {
            return;
        }
        let over = self.begun.elapsed() >= self.duration;
        if over {
            engine.halt.end_load();
        }
        if self.window.begun.elapsed() < self.window.length {
            return;
        }
        if engine.plan.endurance && !over {
            pause.store(true, Ordering::Relaxed);
            match differences(volume) {
                Ok(copies) => {
                    self.checks.in_service += 1;
                    self.checks.differed += u64::from(copies > 0);
                }
                Err(_) => self.checks.undecided += 1,
            }
            pause.store(false, Ordering::Relaxed);
        }
        self.close_window(volume);
    }

    fn close_window(&mut self, volume: &Volume) {
        let resources = Resources::now();
        let OpenWindow { begun, meter, cpu, .. } = &mut self.window;
        let seconds = begun.elapsed().as_secs_f64();
        let requests = meter.requests();
        let all = meter.all();
        let slots = volume.status().map(|status| status.slots).ok();
        let used = resources.cpu.saturating_sub(*cpu).as_secs_f64() * 1e6;
        self.windows.push(Window {
            end_s: self.begun.elapsed().as_secs_f64(),
            seconds,
            iops: requests as f64 / seconds,
            mb_s: meter.bytes() as f64 / 1e6 / seconds,
            p50_us: all.quantile_us(0.5),
            p99_us: all.quantile_us(0.99),
            cpu_us: used / requests.max(1) as f64,
            memory_bytes: resources.memory_bytes,
            descriptors: resources.descriptors,
            slots_used: slots.map_or(0, |slots| slots.total.saturating_sub(slots.free)),
            slots_retired: slots.map_or(0, |slots| slots.retired),
        });
        (*begun, *meter, *cpu) = (Instant::now(), Meter::default(), resources.cpu);
    }

    fn end(&mut self) {
        self.elapsed = self.begun.elapsed();
        self.tally.in_flight = self.in_flight.iter().sum();
    }
}
