//! Reading a served volume as a client does, and keeping count of what came of it.
//!
//! Invariant: every sector asked for is either compared with the truth or listed as lost.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use anyhow::Context as _;
use indicatif::ProgressBar;
use remap_core::units::{Extent, SECTOR_SIZE, Sector};
use remap_nbd::Client;

/// Bytes per request.
const REQUEST: u64 = 256 << 10;

/// What came of reading.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    /// Requests.
    pub requests: u64,
    /// Requests that gave an error for some of their sectors.
    pub failed: u64,
    /// Bytes that were read.
    pub good_bytes: u64,
    /// Sectors that were errors, merged.
    pub lost: Vec<Extent>,
    /// Sectors that were read, but differ from the truth: there must be none.
    pub wrong: Vec<Extent>,
}

impl Reading {
    /// Sectors that were errors.
    pub(crate) fn lost_sectors(&self) -> u64 {
        self.lost.iter().map(Extent::sectors).sum()
    }
}

/// Reads `ranges` of the volume. What is read is compared with `truth` and, if given, written to `copy`, in which
/// lost sectors and zeroes stay holes.
///
/// # Errors
/// The connection broke, or a file cannot be used.
pub(crate) fn read(
    client: &mut Client,
    ranges: &[Extent],
    truth: &File,
    copy: Option<&File>,
    bar: &ProgressBar,
) -> anyhow::Result<Reading> {
    let mut reading = Reading::default();
    let mut bytes = vec![0; usize::try_from(REQUEST)?];
    let mut expected = bytes.clone();
    for range in ranges {
        let (mut at, end) = (range.start().0 * SECTOR_SIZE, range.end().0 * SECTOR_SIZE);
        while at < end {
            super::go_on()?;
            // Requests end where a server's blocks do.
            let len = (REQUEST - at % REQUEST).min(end - at);
            let into = bytes.get_mut(..usize::try_from(len)?).context("a request has a length")?;
            let truth_here = expected.get_mut(..into.len()).context("a request has a length")?;
            truth.read_exact_at(truth_here, at).context("the image")?;
            let bad = client.read(at, into)?;
            reading.requests += 1;
            reading.failed += u64::from(!bad.is_empty());
            let mut from = at;
            for range in &bad {
                reading.compare(into, truth_here, at, from, range.start);
                reading.good_bytes += range.start - from;
                from = range.start + range.len;
                push(&mut reading.lost, range.start, from);
                let lost = into.get_mut(usize::try_from(range.start - at)?..usize::try_from(from - at)?);
                lost.context("an error outside of the request")?.fill(0);
            }
            reading.compare(into, truth_here, at, from, at + len);
            reading.good_bytes += at + len - from;
            if let Some(copy) = copy.filter(|_| into.iter().any(|&b| b != 0)) {
                copy.write_all_at(into, at).context("the client's copy")?;
            }
            at += len;
            bar.inc(len);
        }
    }
    Ok(reading)
}

impl Reading {
    /// Compares the volume's bytes `from` to `to`; both buffers begin at byte `at`.
    fn compare(&mut self, read: &[u8], truth: &[u8], at: u64, from: u64, to: u64) {
        let mut sector = from;
        while sector < to {
            let range = usize::try_from(sector - at).unwrap_or(0)
                ..usize::try_from(sector + SECTOR_SIZE - at).unwrap_or(0);
            if read.get(range.clone()) != truth.get(range) {
                push(&mut self.wrong, sector, sector + SECTOR_SIZE);
            }
            sector += SECTOR_SIZE;
        }
    }
}

/// Appends bytes as sectors, merging with the last run.
fn push(runs: &mut Vec<Extent>, start: u64, end: u64) {
    let (start, end) = (Sector(start / SECTOR_SIZE), Sector(end / SECTOR_SIZE));
    let merged =
        runs.last().filter(|last| last.end() == start).and_then(|last| Extent::between(last.start(), end));
    match (merged, runs.last_mut()) {
        (Some(merged), Some(last)) => *last = merged,
        _ => runs.extend(Extent::between(start, end)),
    }
}

/// Sectors of `extents` that are in none of `without`; both sorted.
pub(crate) fn subtract(extents: &[Extent], without: &[Extent]) -> Vec<Extent> {
    let mut left = Vec::new();
    for extent in extents {
        let mut at = extent.start();
        let first = without.partition_point(|w| w.end() <= at);
        for hole in without.iter().skip(first).take_while(|w| w.start() < extent.end()) {
            left.extend(Extent::between(at, hole.start()));
            at = at.max(hole.end());
        }
        left.extend(Extent::between(at, extent.end()));
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subtraction() {
        let e = |start, end| Extent::between(Sector(start), Sector(end)).unwrap();
        assert_eq!(
            subtract(&[e(0, 10), e(20, 30), e(40, 50)], &[e(2, 4), e(8, 22), e(40, 60)]),
            [e(0, 2), e(4, 8), e(22, 30)]
        );
        assert_eq!(subtract(&[e(0, 10)], &[]), [e(0, 10)]);
    }
}
