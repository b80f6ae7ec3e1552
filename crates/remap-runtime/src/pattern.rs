//! How clients go through the volume: on and on, or here and there.
//!
//! Invariant: what is said is of the last `RECENT` reads and writes of each queue that is open now, and of nothing else.

use std::sync::atomic::{AtomicU64, Ordering};

/// Requests of a queue that count.
const RECENT: u32 = u64::BITS;
/// Streams that a queue follows side by side.
const STREAMS: usize = 8;
/// A request goes on with a stream if it begins at its end, or so many of its own lengths behind: clients that share one
/// stream among several connections take turns.
const AHEAD: u64 = 16;
/// From this share on (percent) all count as sequential, and as random if it is no more than the rest.
const NEARLY_ALL: u32 = 90;

/// What most requests do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Too few requests to tell.
    Unknown,
    /// 90 of 100 go on where an earlier one ended.
    Sequential,
    /// 90 of 100 do not.
    Random,
    /// Some of both.
    Mixed,
}

impl Pattern {
    /// The word used in status texts and JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Sequential => "sequential",
            Self::Random => "random",
            Self::Mixed => "mixed",
        }
    }

    /// Of all queues together.
    pub(crate) fn of<'q>(queues: impl Iterator<Item = &'q Recent>) -> Self {
        let (mut sequential, mut all) = (0, 0);
        for queue in queues {
            all += queue.seen.load(Ordering::Relaxed) as u32;
            sequential += queue.sequential.load(Ordering::Relaxed).count_ones();
        }
        match (100 * sequential).checked_div(all) {
            None => Self::Unknown,
            Some(_) if all < RECENT => Self::Unknown,
            Some(NEARLY_ALL..) => Self::Sequential,
            Some(share) if share <= 100 - NEARLY_ALL => Self::Random,
            Some(_) => Self::Mixed,
        }
    }
}

/// The last requests of a queue, for others to read: a bit each, the latest lowest.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    sequential: AtomicU64,
    seen: AtomicU64,
}

impl Recent {
    /// Only the queue adds.
    fn add(&self, sequential: bool) {
        let bits = self.sequential.load(Ordering::Relaxed) << 1 | u64::from(sequential);
        self.sequential.store(bits, Ordering::Relaxed);
        let seen = self.seen.load(Ordering::Relaxed);
        if seen < u64::from(RECENT) {
            self.seen.store(seen + 1, Ordering::Relaxed);
        }
    }
}

/// Where the streams of a queue have ended, the one in use longest ago at `oldest`.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    ends: [u64; STREAMS],
    oldest: usize,
}

impl Streams {
    /// Takes a read or a write of these bytes into account.
    pub(crate) fn note(&mut self, offset: u64, len: u64, recent: &Recent) {
        let goes_on = |end: &u64| *end > 0 && offset >= *end && offset - *end <= AHEAD * len;
        let found = self.ends.iter().position(goes_on);
        recent.add(found.is_some());
        let place = found.unwrap_or_else(|| {
            self.oldest = (self.oldest + 1) % STREAMS;
            self.oldest
        });
        self.ends[place] = offset.saturating_add(len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(requests: impl Iterator<Item = (u64, u64)>) -> Pattern {
        let (mut streams, recent) = (Streams::default(), Recent::default());
        requests.for_each(|(offset, len)| streams.note(offset, len, &recent));
        Pattern::of([&recent].into_iter())
    }

    fn scattered(n: u64) -> u64 {
        n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20 << 12
    }

    #[test]
    fn one_stream_many_streams_and_none() {
        assert_eq!(pattern((0..63).map(|n| (n * 4096, 4096))), Pattern::Unknown);
        assert_eq!(pattern((0..1000).map(|n| (n * 4096, 4096))), Pattern::Sequential);
        let four = (0..1000).map(|n| (((n % 4) << 40) + n / 4 * 65536, 65536));
        assert_eq!(pattern(four), Pattern::Sequential);
        assert_eq!(
            pattern((0..1000).map(|n| (n * 4 * 65536, 65536))),
            Pattern::Sequential,
            "every fourth piece"
        );
        assert_eq!(pattern((1..1000).map(|n| (scattered(n), 4096))), Pattern::Random);
        let both = (0..1000).map(|n| (if n % 2 == 0 { n * 2048 } else { scattered(n) }, 4096));
        assert_eq!(pattern(both), Pattern::Mixed);
        assert_eq!(pattern((0..1000).rev().map(|n| (n * 4096, 4096))), Pattern::Random, "backwards");
        let changed = (0..1000).map(|n| (n * 4096, 4096)).chain((1..100).map(|n| (scattered(n), 4096)));
        assert_eq!(pattern(changed), Pattern::Random, "what was before is forgotten");
    }
}
