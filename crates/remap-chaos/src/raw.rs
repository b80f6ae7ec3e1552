//! Clients straight on the export.
//!
//! Invariant: every byte that a client gets is checked against the log, and in a life without trouble no request may fail
//! but reads of lost sectors.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use remap_nbd::client::{Client, ClientError, ClientOptions, ZeroOptions};
use remap_sim::rng::Rng;
use remap_sim::stamp::{self, Content};

use crate::bench::{Bad, Bench, Outcome, SECTOR, Setup};
use crate::plan::{End, Life, Trouble};
use crate::server::{NAME, Server};
use crate::versions::{Change, Log, What};

/// Size of the export.
const SECTORS: u64 = 24 << 11;
const SPARE_BYTES: u64 = 16 << 20;
const CLIENTS: u8 = 6;
/// Longest request, in sectors.
const LONGEST: u64 = 256;
/// Longest wait for a reply (C6).
const PATIENCE: Duration = Duration::from_secs(300);

/// What all clients of a life share.
struct Shared<'a> {
    log: &'a Mutex<Log>,
    socket: &'a Path,
    bad: &'a [Range<u64>],
    /// The kill has begun: a broken connection is no wonder any more.
    over: AtomicBool,
    trouble: bool,
    /// By client: a change of which it does not know whether it happened.
    unknown: &'a Mutex<Vec<Option<Change>>>,
    violations: Mutex<Vec<String>>,
}

impl Shared<'_> {
    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    fn violated(&self, text: String) {
        self.violations.lock().unwrap_or_else(PoisonError::into_inner).push(text);
        self.over.store(true, Ordering::Release);
    }
}

/// Runs it.
///
/// # Errors
/// The machine's.
pub(crate) fn run(setup: &Setup) -> anyhow::Result<Outcome> {
    let mut rng = Rng::seeded(setup.seed);
    let mut bench = Bench::create(setup, SECTORS, SPARE_BYTES, fill)?;
    let log = Mutex::new(Log::adopt(SECTORS, !setup.volatile));
    for bad in [Bad::Dead, Bad::Healing] {
        lose(&mut bench, &log, bad, 12, &mut rng)?;
    }
    let mut violations = Vec::new();
    let unknown = Mutex::new(vec![None; usize::from(CLIENTS) + 1]);
    while violations.is_empty() {
        let last = bench.is_over();
        let life = if last { Life::last() } else { Life::next(&mut rng, setup.pace, true) };
        if life.more_bad {
            let bad = rng.pick(&[Bad::Dead, Bad::Healing]);
            lose(&mut bench, &log, bad, 2, &mut rng)?;
        }
        violations = live(&mut bench, &log, &unknown, &life)?;
        if last {
            break;
        }
    }
    let log = log.into_inner().unwrap_or_else(PoisonError::into_inner);
    bench.tally.verified = log.verified;
    bench.tally.lost_reads = log.lost;
    bench.tally.writes = log.writes;
    bench.tally.flushes = log.flushes;
    Ok(bench.finish(violations))
}

fn fill(path: &Path) -> anyhow::Result<()> {
    let mut file = BufWriter::new(File::create(path).context("an image")?);
    let mut bytes = [0; SECTOR as usize];
    for sector in 0..SECTORS {
        stamp::fill(sector, 0, &mut bytes);
        file.write_all(&bytes).context("room for an image")?;
    }
    Ok(file.flush()?)
}

fn lose(bench: &mut Bench, log: &Mutex<Log>, bad: Bad, runs: u64, rng: &mut Rng) -> anyhow::Result<()> {
    let fresh = bench.go_bad(bad, runs, rng)?;
    let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
    fresh.iter().for_each(|run| log.lose(run));
    Ok(())
}

/// One life of the server; its violations.
fn live(
    bench: &mut Bench,
    log: &Mutex<Log>,
    unknown: &Mutex<Vec<Option<Change>>>,
    life: &Life,
) -> anyhow::Result<Vec<String>> {
    let mut server = bench.spawn(life)?;
    let mut violations = Vec::new();
    let mut clean = false;
    match life.end {
        End::Starting(share) => bench.kill_starting(&mut server, share)?,
        End::Load(load) | End::Stop(load) => match bench.wait_ready(&mut server, life)? {
            Some(wrong) => violations.extend((!wrong.is_empty()).then_some(wrong)),
            None => (clean, violations) = serve(bench, (log, unknown), life, load, &mut server)?,
        },
    }
    drop(server);
    log.lock().unwrap_or_else(PoisonError::into_inner).end_life(clean);
    Ok(violations)
}

/// Checks everything, then lets the clients loose until the end. Gives whether that was a clean stop, and the violations.
fn serve(
    bench: &mut Bench,
    (log, unknown): (&Mutex<Log>, &Mutex<Vec<Option<Change>>>),
    life: &Life,
    load: Duration,
    server: &mut Server,
) -> anyhow::Result<(bool, Vec<String>)> {
    let socket = server.socket().to_owned();
    let bad = bench.bad_runs();
    let shared = Shared {
        log,
        socket: &socket,
        bad: &bad,
        over: AtomicBool::new(false),
        trouble: life.trouble.is_some_and(Trouble::fails_requests),
        unknown,
        violations: Mutex::default(),
    };
    if !shared.trouble {
        bench.tally.checks += 1;
        if let Err(text) = read_all(&shared) {
            shared.violated(text);
        }
    }
    let clients = if load.is_zero() { 0 } else { CLIENTS };
    let mut clean = false;
    std::thread::scope(|scope| -> anyhow::Result<()> {
        for id in 1..=clients {
            let rng = Rng::seeded(life.seed ^ u64::from(id) << 56);
            let shared = &shared;
            scope.spawn(move || Worker { id, rng, shared }.work());
        }
        // However it goes, the clients must end.
        let _over = Over(&shared.over);
        let begin = std::time::Instant::now();
        while begin.elapsed() < load && !shared.is_over() {
            std::thread::sleep(Duration::from_millis(2).min(load));
        }
        if let Some(status) = server.ended()? {
            shared.violated(format!("the server ended by itself: {status}\n{}", bench.last_words()));
            return Ok(());
        }
        if clients == 0 {
            bench.take_status()?;
        }
        shared.over.store(true, Ordering::Release);
        if matches!(life.end, End::Stop(_)) {
            match server.stop()? {
                Some(status) if status.success() => clean = !shared.trouble,
                other => shared.violated(format!("a clean stop ended so: {other:?}\n{}", bench.last_words())),
            }
            bench.tally.stops += 1;
        } else {
            server.kill()?;
            bench.tally.kills += 1;
        }
        Ok(())
    })?;
    Ok((clean, shared.violations.into_inner().unwrap_or_else(PoisonError::into_inner)))
}

struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// A connection that can die in the middle of a request.
struct Frail {
    stream: UnixStream,
    /// Bytes that it still sends.
    left: Arc<AtomicI64>,
}

impl Read for Frail {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.stream.read(into)
    }
}

impl Write for Frail {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let left = usize::try_from(self.left.load(Ordering::Relaxed)).unwrap_or(0);
        let sent = self.stream.write(&bytes[..bytes.len().min(left)])?;
        self.left.fetch_sub(i64::try_from(sent).unwrap_or(0), Ordering::Relaxed);
        if sent == 0 && !bytes.is_empty() {
            self.stream.shutdown(std::net::Shutdown::Both)?;
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(sent)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

fn connect(shared: &Shared<'_>) -> Result<(Client, Arc<AtomicI64>), ClientError> {
    let stream = UnixStream::connect(shared.socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let left = Arc::new(AtomicI64::new(i64::MAX));
    let frail = Box::new(Frail { stream, left: Arc::clone(&left) });
    Ok((Client::over(frail, NAME, &ClientOptions::default())?, left))
}

/// Reads and checks the whole export.
fn read_all(shared: &Shared<'_>) -> Result<(), String> {
    let (mut client, _) = connect(shared).map_err(|error| format!("connecting: {error}"))?;
    for start in (0..SECTORS).step_by(2048) {
        let begun = shared.log().begin_read();
        read(shared, &mut client, start..SECTORS.min(start + 2048), begun)?
            .map_err(|error| format!("reading everything: {error}"))?;
    }
    Ok(())
}

/// Reads a range and checks it. The inner result is the connection's.
fn read(
    shared: &Shared<'_>,
    client: &mut Client,
    sectors: Range<u64>,
    begun: u64,
) -> Result<Result<(), ClientError>, String> {
    let mut bytes = vec![0; usize::try_from((sectors.end - sectors.start) * SECTOR).unwrap_or(0)];
    let outcome = client.read(sectors.start * SECTOR, &mut bytes);
    let bad = match &outcome {
        Ok(bad) => bad.as_slice(),
        Err(_) => &[],
    };
    let is_bad = |sector: u64| {
        let at = sector * SECTOR;
        bad.iter().any(|range| at < range.start + range.len && range.start < at + SECTOR)
    };
    let seen = sectors.clone().zip(bytes.chunks(SECTOR as usize)).filter_map(|(sector, bytes)| {
        match (is_bad(sector), shared.trouble) {
            (false, _) => Some((sector, stamp::read(bytes))),
            (true, false) => Some((sector, Content::Lost)),
            // A path that fails says nothing about the sector.
            (true, true) => None,
        }
    });
    let known = outcome.is_ok();
    shared.log().end_read(begun, seen.take_while(|_| known))?;
    Ok(outcome.map(|_| ()))
}

/// One client.
struct Worker<'a> {
    id: u8,
    rng: Rng,
    shared: &'a Shared<'a>,
}

impl Worker<'_> {
    fn work(&mut self) {
        while !self.shared.is_over() {
            let outcome = match connect(self.shared) {
                Ok((mut client, left)) => self.session(&mut client, &left),
                Err(error) => Ok(Err(error)),
            };
            match outcome {
                Err(violation) => self.shared.violated(violation),
                Ok(Err(error)) if !self.shared.is_over() => {
                    self.shared.violated(format!("client {}: {error} (the server was alive)", self.id));
                }
                Ok(_) => {}
            }
        }
    }

    /// Sends requests until it breaks off or the life is over. The inner result is the connection's.
    fn session(&mut self, client: &mut Client, left: &AtomicI64) -> Result<Result<(), ClientError>, String> {
        while !self.shared.is_over() {
            if self.rng.chance(1, 60) {
                let sectors = self.place();
                self.cut(client, left, &sectors);
                return Ok(Ok(()));
            }
            if let Err(error) = self.request(client)? {
                match error {
                    ClientError::Remote { .. } if self.shared.trouble => {}
                    ClientError::Remote { .. } => {
                        return Err(format!("client {}: a request failed without cause: {error}", self.id));
                    }
                    other => return Ok(Err(other)),
                }
            }
        }
        Ok(Ok(()))
    }

    /// Where the next request goes: near bad sectors, into this client's own part, or anywhere.
    fn place(&mut self) -> Range<u64> {
        let (rng, bad) = (&mut self.rng, self.shared.bad);
        let longest = rng.pick(&[1, 4, 8, 16, 64, LONGEST]);
        let count = 1 + rng.below(longest);
        let part = SECTORS / u64::from(CLIENTS);
        let mut start = match rng.below(10) {
            0..=4 if !bad.is_empty() => (bad[rng.index(bad.len())].start + rng.below(32)).saturating_sub(16),
            5..=7 => part * (u64::from(self.id) - 1) + rng.below(part),
            _ => rng.below(SECTORS),
        };
        let mut end = start + count;
        if rng.chance(1, 2) {
            (start, end) = (start - start % 8, end.next_multiple_of(8));
        }
        let start = start.min(SECTORS - 8);
        start..end.clamp(start + 1, SECTORS)
    }

    fn request(&mut self, client: &mut Client) -> Result<Result<(), ClientError>, String> {
        if let Some(old) = self.unknown(None) {
            let change = self.shared.log().begin_again(self.id, &old);
            return Ok(self.send(client, change));
        }
        let sectors = self.place();
        match self.rng.below(100) {
            0..32 => {
                let begun = self.shared.log().begin_read();
                read(self.shared, client, sectors, begun)
            }
            32..40 => {
                let flush = self.shared.log().begin_flush(self.id);
                let outcome = client.flush();
                self.shared.log().end_flush(&flush, outcome.is_ok());
                Ok(outcome)
            }
            kind => {
                let what = match kind {
                    40..76 => What::Write,
                    76..86 => What::DurableWrite,
                    86..94 => What::Zeroes,
                    _ => What::Trim,
                };
                let change = self.shared.log().begin(what, self.id, &sectors);
                Ok(self.send(client, change))
            }
        }
    }

    /// Sends a change and notes what became of it.
    fn send(&mut self, client: &mut Client, change: Change) -> Result<(), ClientError> {
        let sectors = change.sectors();
        let (at, bytes) = (sectors.start * SECTOR, (sectors.end - sectors.start) * SECTOR);
        let outcome = match change.what() {
            What::Zeroes => {
                let no_hole = self.rng.chance(1, 2);
                client.zero(at, bytes, ZeroOptions { no_hole, ..ZeroOptions::default() })
            }
            What::Trim => client.trim(at, bytes, false),
            what => client.write(at, &stamps(&change), what == What::DurableWrite),
        };
        self.shared.log().end(&change, outcome.is_ok());
        if matches!(outcome, Err(ClientError::Io(_))) {
            self.unknown(Some(change));
        }
        outcome
    }

    /// Puts a change into this client's place, and takes out what was there.
    fn unknown(&self, change: Option<Change>) -> Option<Change> {
        let mut unknown = self.shared.unknown.lock().unwrap_or_else(PoisonError::into_inner);
        unknown.get_mut(usize::from(self.id)).and_then(|place| std::mem::replace(place, change))
    }

    /// Dies in the middle of a write.
    fn cut(&mut self, client: &mut Client, left: &AtomicI64, sectors: &Range<u64>) {
        let change = self.shared.log().begin(What::Write, self.id, sectors);
        let bytes = stamps(&change);
        let whole = bytes.len() as u64 + 28;
        left.store(i64::try_from(self.rng.below(whole)).unwrap_or(0), Ordering::Relaxed);
        // It fails: not all of it was sent.
        let _ = client.write(sectors.start * SECTOR, &bytes, false);
        self.shared.log().end(&change, false);
    }
}

/// What a write sends.
fn stamps(change: &Change) -> Vec<u8> {
    let sectors = change.sectors();
    let mut bytes = vec![0; usize::try_from((sectors.end - sectors.start) * SECTOR).unwrap_or(0)];
    for (sector, bytes) in sectors.zip(bytes.chunks_mut(SECTOR as usize)) {
        stamp::fill(sector, change.stamp(), bytes);
    }
    bytes
}
