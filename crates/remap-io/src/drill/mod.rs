//! Drills: fault layers that make a healthy device fail on command.
//!
//! Invariant: a drill only ever withholds, delays or refuses operations; what it lets through reaches the device
//! unchanged, so taking the drill away leaves nothing behind (but what a volatile cache held and nobody flushed is gone).

mod cache;
mod parse;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use remap_core::op::Fault;
use remap_core::units::{Extent, Sector};
use rustix::io::Errno;

use crate::Device;
use crate::badmap::{BadMap, Format, ParseError, RUNS_MAX};

pub(crate) use cache::{Cache, Patch, Taken};
pub use parse::SyntaxError;

/// The keys of a drill specification, with what they mean.
pub const KEYS: [(&str, &str); 17] = [
    ("bad", "file with bad sectors, or `sectors:100-199;4711`"),
    ("format", "of that file: auto, ddrescue, badblocks or list"),
    ("block", "block size of a badblocks list, in bytes"),
    ("statuses", "which ddrescue statuses are bad, of -*/?+ (default -)"),
    (
        "errno",
        "the error: EIO (default), ENODATA, EILSEQ, ENOLINK, ETIMEDOUT, ENODEV, ENXIO, ENOSPC, EREMOTEIO, EOPNOTSUPP",
    ),
    ("on", "read, write, both (default), flush or all"),
    ("heal", "a write that covers a bad sector heals it"),
    ("latency", "delay of every operation, such as 5ms"),
    ("bad-latency", "delay of operations on bad sectors, such as 2s"),
    ("gone-after", "the device vanishes after this time, or after so many operations (`100ops`)"),
    ("gone-for", "and comes back after this time, or so many operations"),
    ("after", "errors begin after this time, or after so many operations"),
    ("never-after", "no more errors after this many"),
    ("rate", "share of operations that fail, 0 to 1, when no bad sectors are given"),
    (
        "volatile-cache",
        "memory, such as 64M, that holds what was written until it is flushed: SIGKILL is then a power cut. Some \
         writes go out early, some of them in part (by `seed`); bad sectors refuse a write before it gets there",
    ),
    ("seed", "of the random numbers for rate and volatile-cache"),
    ("state", "file that remembers healed sectors over restarts"),
];

/// What an operation does, as far as drills care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    Read,
    Write,
    Discard,
    Flush,
}

/// A moment: by the clock or by the number of operations since the drill began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    Time(Duration),
    Operations(u64),
}

impl Moment {
    /// Has it come? `self` plus `later`, when both count the same.
    fn reached(self, later: Option<Self>, clock: Duration, operations: u64) -> bool {
        match (self, later) {
            (Self::Time(a), Some(Self::Time(b))) => clock >= a.saturating_add(b),
            (Self::Operations(a), Some(Self::Operations(b))) => operations > a.saturating_add(b),
            (Self::Time(a), _) => clock >= a,
            (Self::Operations(a), _) => operations > a,
        }
    }
}

/// Which operations fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct On {
    read: bool,
    write: bool,
    flush: bool,
}

/// A drill as written down.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Spec {
    bad: Option<Bad>,
    format: Format,
    block: Option<u32>,
    statuses: Vec<crate::badmap::Status>,
    errno: Errno,
    on: On,
    heal: bool,
    latency: Duration,
    bad_latency: Duration,
    gone_after: Option<Moment>,
    gone_for: Option<Moment>,
    after: Option<Moment>,
    never_after: Option<u64>,
    /// Out of 2^32.
    rate: u64,
    seed: u64,
    state: Option<PathBuf>,
    /// Bytes.
    cache: Option<u64>,
}

/// Where the bad sectors are said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Bad {
    File(PathBuf),
    Sectors(String),
}

/// Why a drill could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum DrillError {
    /// The specification is not understood.
    #[error(transparent)]
    Syntax(#[from] SyntaxError),
    /// A file of it cannot be read or written.
    #[error("drill: {}: {source}: check the path and its permissions", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A list of sectors is not understood.
    #[error("drill: {origin}: {source}")]
    Map {
        /// The file, or the key.
        origin: String,
        /// Where and what.
        source: ParseError,
    },
}

/// What a drill has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DrillCounts {
    /// Operations that it has seen while enabled.
    pub operations: u64,
    /// Operations that it failed for a bad sector or by chance.
    pub failed: u64,
    /// Operations that it failed because the device was "gone".
    pub gone: u64,
    /// Operations that it delayed.
    pub delayed: u64,
    /// Sectors healed by writes.
    pub healed_sectors: u64,
    /// Heals that could not be written to the state file.
    pub state_failures: u64,
}

/// Which errors a drill can cause, for those who must tell them from errors of their own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// Sectors that are bad now, of the device or slice that the drill is on; sorted, not overlapping.
    pub bad: Vec<Extent>,
    /// Bad sectors may take a write and fail to give it back, or refuse one for no reason of the medium.
    pub takes_back: bool,
    /// Any operation may fail, wherever it is.
    pub anywhere: bool,
}

/// What a drill makes of an operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Judged {
    pub(crate) delay: Duration,
    pub(crate) failure: Option<Failure>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    Errno(Errno),
    /// As a vanished device behaves: reads are short.
    Gone,
}

impl Failure {
    pub(crate) fn fault(self, device: &Device) -> Fault {
        match self {
            Self::Gone => Fault::Gone,
            Self::Errno(errno) => device.pretended_fault(errno),
        }
    }
}

/// A fault layer. Stack it on a device with [`Device::with_drill`].
#[derive(Debug)]
pub struct Drill {
    spec: Spec,
    enabled: AtomicBool,
    cache: Option<Cache>,
    /// Are there any bad sectors left?
    any_bad: AtomicBool,
    begun: Instant,
    state: Mutex<Changing>,
    operations: AtomicU64,
    failed: AtomicU64,
    gone: AtomicU64,
    delayed: AtomicU64,
    healed_sectors: AtomicU64,
    state_failures: AtomicU64,
}

#[derive(Debug)]
struct Changing {
    bad: Spans,
    random: Random,
    journal: Option<File>,
}

/// Numbers that follow from a seed (xorshift64*).
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    fn seeded(seed: u64) -> Self {
        // The generator must not start at 0.
        Self(seed | 1 << 63)
    }

    /// The next number, of 32 bits.
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32
    }
}

impl Drill {
    /// Sets up a drill from its specification, `KEY=VALUE` separated by commas (see [`KEYS`]), and reads its files.
    ///
    /// # Errors
    /// [`DrillError`] says where the specification or a file is wrong.
    pub fn parse(spec: &str) -> Result<Self, DrillError> {
        let spec = parse::parse(spec)?;
        let mut bad = Spans::default();
        if let Some(source) = &spec.bad {
            for extent in bad_map(source, &spec)?.extents(&spec.statuses) {
                bad.insert(extent.start().0..extent.end().0);
            }
        }
        let mut journal = None;
        if let Some(path) = &spec.state {
            for extent in healed_before(path)?.extents(&[crate::badmap::Status::Bad]) {
                bad.remove(extent.start().0..extent.end().0);
            }
            let opened = OpenOptions::new().append(true).create(true).open(path);
            journal = Some(opened.map_err(|source| DrillError::File { path: path.clone(), source })?);
        }
        Ok(Self {
            enabled: AtomicBool::new(true),
            any_bad: AtomicBool::new(!bad.is_empty()),
            begun: Instant::now(),
            state: Mutex::new(Changing { bad, random: Random::seeded(spec.seed), journal }),
            cache: spec.cache.map(|limit| Cache::of(limit, Random::seeded(spec.seed))),
            spec,
            operations: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            gone: AtomicU64::new(0),
            delayed: AtomicU64::new(0),
            healed_sectors: AtomicU64::new(0),
            state_failures: AtomicU64::new(0),
        })
    }

    /// Switches the drill on (as it is from the start) or off. Its clock goes on; its operations are not counted.
    pub fn set_enabled(&self, enabled: bool) {
        self.enabled.store(enabled, Ordering::Relaxed);
    }

    /// Is it switched on?
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.enabled.load(Ordering::Relaxed)
    }

    /// What it has done so far.
    #[must_use]
    pub fn counts(&self) -> DrillCounts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        DrillCounts {
            operations: get(&self.operations),
            failed: get(&self.failed),
            gone: get(&self.gone),
            delayed: get(&self.delayed),
            healed_sectors: get(&self.healed_sectors),
            state_failures: get(&self.state_failures),
        }
    }

    /// Sectors (512 bytes, of the device or slice that the drill is on) that are bad now.
    #[must_use]
    pub fn bad_sectors(&self) -> u64 {
        self.changing().bad.total()
    }

    /// Which errors it can cause from now on.
    #[must_use]
    pub fn reach(&self) -> Reach {
        let Spec { errno, on, after, never_after, gone_after, rate, .. } = &self.spec;
        let of_the_medium = matches!(*errno, Errno::IO | Errno::NODATA | Errno::ILSEQ);
        let extent = |(&start, &end): (&u64, &u64)| Extent::between(Sector(start), Sector(end));
        Reach {
            bad: self.changing().bad.0.iter().filter_map(extent).collect(),
            takes_back: after.is_some() || never_after.is_some() || !on.write || !of_the_medium,
            anywhere: gone_after.is_some() || *rate > 0 || on.flush,
        }
    }

    /// The write cache, if it is one.
    pub(crate) fn cache(&self) -> Option<&Cache> {
        self.cache.as_ref()
    }

    /// Does it put a write cache on its device? A device can have one.
    #[must_use]
    pub fn is_cache(&self) -> bool {
        self.cache.is_some()
    }

    fn changing(&self) -> MutexGuard<'_, Changing> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What becomes of an operation that asks the medium about these sectors (none for a flush).
    pub(crate) fn judge(&self, act: Act, sectors: &[Range<u64>]) -> Judged {
        if !self.is_enabled() {
            return Judged::default();
        }
        let operations = self.operations.fetch_add(1, Ordering::Relaxed) + 1;
        let clock = self.begun.elapsed();
        let came =
            |moment: Option<Moment>, later| moment.is_some_and(|m| m.reached(later, clock, operations));
        let mut judged = Judged { delay: self.spec.latency, failure: None };
        let back = self.spec.gone_for.is_some() && came(self.spec.gone_after, self.spec.gone_for);
        if came(self.spec.gone_after, None) && !back {
            self.gone.fetch_add(1, Ordering::Relaxed);
            // A flush on a vanished device says nothing but EIO.
            let failure = if act == Act::Flush { Failure::Errno(Errno::IO) } else { Failure::Gone };
            return Judged { delay: Duration::ZERO, failure: Some(failure) };
        }
        let begun = self.spec.after.is_none() || came(self.spec.after, None);
        if begun && self.hits(act, sectors) {
            judged.delay = judged.delay.saturating_add(self.spec.bad_latency);
            let number = self.failed.fetch_add(1, Ordering::Relaxed) + 1;
            if self.spec.never_after.is_some_and(|most| number > most) {
                self.failed.fetch_sub(1, Ordering::Relaxed);
            } else {
                judged.failure = Some(Failure::Errno(self.spec.errno));
            }
        }
        if !judged.delay.is_zero() {
            self.delayed.fetch_add(1, Ordering::Relaxed);
        }
        judged
    }

    /// Does an error strike this operation?
    fn hits(&self, act: Act, sectors: &[Range<u64>]) -> bool {
        let concerned = match act {
            Act::Read => self.spec.on.read,
            Act::Write => self.spec.on.write,
            Act::Flush => self.spec.on.flush,
            Act::Discard => false,
        };
        if !concerned {
            return false;
        }
        if self.spec.bad.is_some() {
            return match act {
                Act::Flush => false,
                Act::Write if self.spec.heal => false,
                _ if !self.any_bad.load(Ordering::Relaxed) => false,
                _ => {
                    let bad = &self.changing().bad;
                    sectors.iter().any(|range| bad.touches(range))
                }
            };
        }
        self.spec.rate > 0 && self.changing().random.next() < self.spec.rate
    }

    /// A write of these sectors reached the device.
    pub(crate) fn wrote(&self, sectors: Range<u64>) {
        if !self.spec.heal || !self.is_enabled() || !self.any_bad.load(Ordering::Relaxed) {
            return;
        }
        let mut state = self.changing();
        let healed = state.bad.remove(sectors);
        self.any_bad.store(!state.bad.is_empty(), Ordering::Relaxed);
        let mut text = String::new();
        for range in healed {
            self.healed_sectors.fetch_add(range.end - range.start, Ordering::Relaxed);
            text.push_str(&format!("{}-{}\n", range.start, range.end - 1));
        }
        if let (Some(journal), false) = (&mut state.journal, text.is_empty())
            && journal.write_all(text.as_bytes()).is_err()
        {
            self.state_failures.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn bad_map(source: &Bad, spec: &Spec) -> Result<BadMap, DrillError> {
    let (origin, text, format) = match source {
        Bad::File(path) => (path.display().to_string(), read_text(path)?, spec.format),
        Bad::Sectors(list) => ("bad=sectors".to_owned(), list.clone(), Format::List),
    };
    BadMap::parse(&text, format, spec.block).map_err(|source| DrillError::Map { origin, source })
}

/// Sectors that a state file says were healed; none if there is no file yet. A last line that was cut off by a crash
/// (it does not end with a line end) is not one.
fn healed_before(path: &Path) -> Result<BadMap, DrillError> {
    let text = match read_text(path) {
        Err(DrillError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => String::new(),
        other => other?,
    };
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    BadMap::parse(whole, Format::List, None)
        .map_err(|source| DrillError::Map { origin: path.display().to_string(), source })
}

fn read_text(path: &Path) -> Result<String, DrillError> {
    /// No map of RUNS_MAX lines is longer.
    const BYTES_MAX: u64 = 64 * RUNS_MAX as u64;
    let fail = |source| DrillError::File { path: path.to_path_buf(), source };
    let file = File::open(path).map_err(fail)?;
    let mut text = String::new();
    io::Read::read_to_string(&mut io::Read::take(file, BYTES_MAX), &mut text).map_err(fail)?;
    Ok(text)
}

/// Disjoint ranges of sectors: start to end.
#[derive(Debug, Default)]
struct Spans(BTreeMap<u64, u64>);

impl Spans {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn total(&self) -> u64 {
        self.0.iter().map(|(start, end)| end - start).sum()
    }

    /// Adds a range that touches none of the others.
    fn insert(&mut self, range: Range<u64>) {
        self.0.insert(range.start, range.end);
    }

    fn touches(&self, range: &Range<u64>) -> bool {
        self.0.range(..range.end).next_back().is_some_and(|(_, &end)| end > range.start)
    }

    /// Takes a range out; returns what of it was in.
    fn remove(&mut self, range: Range<u64>) -> Vec<Range<u64>> {
        let mut removed = Vec::new();
        while let Some((&start, &end)) = self.0.range(..range.end).next_back() {
            if end <= range.start {
                break;
            }
            self.0.remove(&start);
            if end > range.end {
                self.0.insert(range.end, end);
            }
            if start < range.start {
                self.0.insert(start, range.start);
            }
            removed.extend(
                Extent::between(Sector(start.max(range.start)), Sector(end.min(range.end)))
                    .map(|extent| extent.start().0..extent.end().0),
            );
        }
        removed
    }
}

#[cfg(test)]
mod tests;
