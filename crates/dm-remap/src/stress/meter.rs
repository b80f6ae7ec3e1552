//! How fast it was: latencies in histograms, requests and bytes, in all and by windows of time.
//!
//! Invariant: what a worker measures it measures alone, and hands over; nothing here is shared.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::findings::Findings;

/// Three digits are kept of each latency.
const DIGITS: u8 = 3;

/// Kinds of requests that are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Read,
    Write,
    /// Discards, and zeroes written.
    Discard,
    Flush,
}

/// All kinds, and their names in reports.
pub(crate) const KINDS: [(Kind, &str); 4] =
    [(Kind::Read, "read"), (Kind::Write, "write"), (Kind::Discard, "discard"), (Kind::Flush, "flush")];

/// Latencies of one kind, in nanoseconds.
#[derive(Clone, Debug)]
pub(crate) struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        Self(Histogram::new(DIGITS).expect("three digits are allowed"))
    }
}

impl Latencies {
    /// One more.
    pub(crate) fn add(&mut self, latency: Duration) {
        let nanoseconds = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX).max(1);
        self.0.record(nanoseconds).expect("it grows as it needs to");
    }

    /// Those that somebody else measured.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.0.add(&other.0).expect("it grows as it needs to");
    }

    /// How many.
    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    /// The latency that this share of the requests (0 to 1) kept, in microseconds.
    pub(crate) fn quantile_us(&self, share: f64) -> f64 {
        self.0.value_at_quantile(share) as f64 / 1e3
    }

    /// In microseconds; 0 of none.
    pub(crate) fn mean_us(&self) -> f64 {
        self.0.mean() / 1e3
    }

    /// The longest, in microseconds.
    pub(crate) fn max_us(&self) -> f64 {
        self.0.max() as f64 / 1e3
    }
}

/// What was measured.
#[derive(Clone, Debug, Default)]
pub(crate) struct Meter {
    latencies: [Latencies; 4],
    pub read_bytes: u64,
    pub written_bytes: u64,
}

impl Meter {
    /// A request of this kind and length has ended.
    pub(crate) fn add(&mut self, kind: Kind, bytes: u64, latency: Duration) {
        self.latencies[kind as usize].add(latency);
        match kind {
            Kind::Read => self.read_bytes += bytes,
            Kind::Write => self.written_bytes += bytes,
            Kind::Discard | Kind::Flush => {}
        }
    }

    /// What somebody else measured.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (ours, theirs) in self.latencies.iter_mut().zip(&other.latencies) {
            ours.merge(theirs);
        }
        self.read_bytes += other.read_bytes;
        self.written_bytes += other.written_bytes;
    }

    /// The latencies of a kind.
    pub(crate) fn of(&self, kind: Kind) -> &Latencies {
        &self.latencies[kind as usize]
    }

    /// The latencies of all kinds together.
    pub(crate) fn all(&self) -> Latencies {
        let mut all = Latencies::default();
        self.latencies.iter().for_each(|one| all.merge(one));
        all
    }

    /// Requests that have ended.
    pub(crate) fn requests(&self) -> u64 {
        self.latencies.iter().map(Latencies::count).sum()
    }

    /// Bytes read and written.
    pub(crate) fn bytes(&self) -> u64 {
        self.read_bytes + self.written_bytes
    }
}

/// What a worker hands over now and then.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample {
    pub meter: Meter,
    pub findings: Findings,
    /// Requests that were in flight at once, at most.
    pub in_flight: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_all_that_was_merged() {
        let mut all = Meter::default();
        for worker in 0..10 {
            let mut one = Meter::default();
            for n in 1..=100 {
                one.add(Kind::Read, 4096, Duration::from_micros(worker * 100 + n));
            }
            one.add(Kind::Flush, 0, Duration::from_millis(5));
            all.merge(&one);
        }
        let near = |found: f64, wanted: f64| (found / wanted - 1.0).abs() < 0.002;
        let reads = all.of(Kind::Read);
        assert_eq!((reads.count(), all.requests(), all.bytes()), (1000, 1010, 1000 * 4096));
        assert!(near(reads.quantile_us(0.5), 500.0) && near(reads.quantile_us(0.99), 990.0));
        assert!(near(reads.max_us(), 1000.0) && near(all.all().max_us(), 5000.0));
        assert_eq!(Meter::default().all().max_us(), 0.0);
    }
}
