//! Where the time of requests goes: a histogram for each kind of request and each stage.
//!
//! Invariant: nothing is measured but between [`Trace::start`] and the end that it names; while it is off a request pays for one load of
//! a word that nobody writes. Queues record without locks, so figures read meanwhile may be a few requests apart.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use remap_core::op::RequestKind;

/// Kinds of requests that are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceKind {
    /// Reads.
    Read,
    /// Writes.
    Write,
    /// Flushes.
    Flush,
    /// Write zeroes and discards.
    Range,
}

impl TraceKind {
    /// All, in the order in which they are shown.
    pub const ALL: [Self; 4] = [Self::Read, Self::Write, Self::Flush, Self::Range];

    /// The word used in tables and JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Flush => "flush",
            Self::Range => "zero or trim",
        }
    }
}

impl From<RequestKind> for TraceKind {
    fn from(kind: RequestKind) -> Self {
        match kind {
            RequestKind::Read => Self::Read,
            RequestKind::Write { .. } => Self::Write,
            RequestKind::Flush => Self::Flush,
            RequestKind::WriteZeroes { .. } | RequestKind::Discard => Self::Range,
        }
    }
}

/// A part of a request's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// From its header to the last byte of its payload.
    Receive,
    /// With the devices, all its blocks being healthy or settled: look-up, kernel and device.
    Device,
    /// The same, where a part went to the owner: a block in trouble.
    Owner,
    /// From its end to the last byte of the reply with the kernel.
    Reply,
    /// From its header to then.
    Whole,
}

impl Stage {
    /// All, in the order of a request's life.
    pub const ALL: [Self; 5] = [Self::Receive, Self::Device, Self::Owner, Self::Reply, Self::Whole];

    /// The word used in tables and JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Receive => "receive",
            Self::Device => "device",
            Self::Owner => "owner",
            Self::Reply => "reply",
            Self::Whole => "whole",
        }
    }
}

/// Buckets of a power of two: 2^3, so that a quantile is at most an eighth too large.
const FINE_BITS: u32 = 3;
/// Longer times, in nanoseconds, count as this (18 minutes).
const LONGEST_NS: u64 = (1 << 40) - 1;
const BUCKETS: usize = bucket(LONGEST_NS) + 1;

/// The bucket of so many nanoseconds: the value itself below 8, then eight to each power of two.
const fn bucket(ns: u64) -> usize {
    if ns < 1 << FINE_BITS {
        return ns as usize;
    }
    let power = ns.ilog2() - FINE_BITS;
    (((power as u64 + 1) << FINE_BITS) + ((ns >> power) - (1 << FINE_BITS))) as usize
}

/// The largest number of nanoseconds in a bucket.
fn end_of(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < 1 << FINE_BITS {
        return bucket;
    }
    let power = (bucket >> FINE_BITS) - 1;
    let first = ((bucket & ((1 << FINE_BITS) - 1)) + (1 << FINE_BITS)) << power;
    first + (1 << power) - 1
}

#[derive(Debug)]
struct Histogram {
    counts: [AtomicU64; BUCKETS],
    sum_ns: AtomicU64,
    max_ns: AtomicU64,
}

impl Histogram {
    fn empty() -> Self {
        Self {
            counts: std::array::from_fn(|_| AtomicU64::new(0)),
            sum_ns: AtomicU64::new(0),
            max_ns: AtomicU64::new(0),
        }
    }

    fn clear(&self) {
        let all = self.counts.iter().chain([&self.sum_ns, &self.max_ns]);
        all.for_each(|word| word.store(0, Ordering::Relaxed));
    }

    fn add(&self, time: Duration) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).min(LONGEST_NS);
        self.counts[bucket(ns)].fetch_add(1, Ordering::Relaxed);
        self.sum_ns.fetch_add(ns, Ordering::Relaxed);
        self.max_ns.fetch_max(ns, Ordering::Relaxed);
    }

    fn read(&self) -> Option<StageTimes> {
        let counts: Vec<u64> = self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        let count: u64 = counts.iter().sum();
        let max_ns = self.max_ns.load(Ordering::Relaxed);
        let quantile = |share: f64| {
            let wanted = ((count as f64 * share).ceil() as u64).max(1);
            let mut seen = 0;
            let found = counts.iter().position(|here| {
                seen += here;
                seen >= wanted
            });
            found.map_or(0, end_of).min(max_ns)
        };
        (count > 0).then(|| StageTimes {
            count,
            sum_ns: self.sum_ns.load(Ordering::Relaxed),
            p50_ns: quantile(0.5),
            p99_ns: quantile(0.99),
            max_ns,
        })
    }
}

/// What was seen of one stage of one kind of requests. Times in nanoseconds; quantiles are at most an eighth too large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StageTimes {
    /// Requests.
    pub count: u64,
    /// All of them together.
    pub sum_ns: u64,
    /// Half of them took no longer.
    pub p50_ns: u64,
    /// 99 of 100 took no longer.
    pub p99_ns: u64,
    /// The longest.
    pub max_ns: u64,
}

/// A row of what [`Trace::read`] gives.
pub type TraceRow = (TraceKind, Stage, StageTimes);

/// The histograms of a volume.
#[derive(Debug)]
pub struct Trace {
    /// When it ends, in nanoseconds after `born`; 0: it is off.
    until_ns: AtomicU64,
    born: Instant,
    histograms: Box<[[Histogram; Stage::ALL.len()]; TraceKind::ALL.len()]>,
}

impl Default for Trace {
    fn default() -> Self {
        let histograms = Box::new(std::array::from_fn(|_| std::array::from_fn(|_| Histogram::empty())));
        Self { until_ns: AtomicU64::new(0), born: Instant::now(), histograms }
    }
}

impl Trace {
    /// Forgets what was seen, and measures for so long. Whoever asked may go away: it ends by itself.
    pub fn start(&self, span: Duration) {
        self.until_ns.store(0, Ordering::Relaxed);
        self.histograms.iter().flatten().for_each(Histogram::clear);
        let until = self.born.elapsed().saturating_add(span);
        self.until_ns.store(u64::try_from(until.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Ends it now; what was seen stays.
    pub fn stop(&self) {
        self.until_ns.store(0, Ordering::Relaxed);
    }

    /// The time, if it is on.
    #[inline]
    #[must_use]
    pub fn now(&self) -> Option<Instant> {
        match self.until_ns.load(Ordering::Relaxed) {
            0 => None,
            until => self.now_before(until),
        }
    }

    #[cold]
    fn now_before(&self, until_ns: u64) -> Option<Instant> {
        let now = Instant::now();
        if now.duration_since(self.born) < Duration::from_nanos(until_ns) {
            return Some(now);
        }
        self.until_ns.store(0, Ordering::Relaxed);
        None
    }

    /// A request has gone through a stage that began then.
    #[cold]
    pub fn record(&self, kind: TraceKind, stage: Stage, begun: Instant) {
        self.histograms[kind as usize][stage as usize].add(begun.elapsed());
    }

    /// What was seen, where anything was.
    #[must_use]
    pub fn read(&self) -> Vec<TraceRow> {
        let cell = |(kind, stage): (TraceKind, Stage)| {
            let times = self.histograms[kind as usize][stage as usize].read()?;
            Some((kind, stage, times))
        };
        TraceKind::ALL
            .into_iter()
            .flat_map(|kind| Stage::ALL.map(|stage| (kind, stage)))
            .filter_map(cell)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_each_other_without_gaps() {
        for index in 0..BUCKETS {
            assert_eq!(bucket(end_of(index)), index);
            if index + 1 < BUCKETS {
                assert_eq!(bucket(end_of(index) + 1), index + 1);
            }
        }
        assert_eq!(end_of(BUCKETS - 1), LONGEST_NS);
    }

    #[test]
    fn quantiles_are_at_most_an_eighth_too_large() {
        let histogram = Histogram::empty();
        for us in 1..=1000 {
            histogram.add(Duration::from_micros(us));
        }
        let seen = histogram.read().expect("a thousand");
        assert_eq!((seen.count, seen.sum_ns, seen.max_ns), (1000, 500_500_000, 1_000_000));
        assert!((500_000..=562_500).contains(&seen.p50_ns), "{}", seen.p50_ns);
        assert!((990_000..=1_000_000).contains(&seen.p99_ns), "{}", seen.p99_ns);
        histogram.add(Duration::from_secs(1 << 40));
        assert_eq!(histogram.read().expect("more").max_ns, LONGEST_NS);
    }

    #[test]
    fn nothing_is_measured_while_it_is_off() {
        let trace = Trace::default();
        assert!(trace.now().is_none());
        trace.start(Duration::from_secs(3600));
        let begun = trace.now().expect("it is on");
        trace.record(TraceKind::Read, Stage::Device, begun);
        let rows = trace.read();
        assert!(
            matches!(rows[..], [(TraceKind::Read, Stage::Device, StageTimes { count: 1, .. })]),
            "{rows:?}"
        );
        trace.stop();
        assert!(trace.now().is_none());
        assert_eq!(trace.read(), rows, "what was seen stays");
        trace.start(Duration::ZERO);
        assert!(trace.now().is_none(), "its time is over");
        assert!(trace.read().is_empty());
    }
}
