//! Which errors the drills explain.
//!
//! Invariant: an error that no drill can have caused is never called expected.

use remap_core::units::Extent;

use crate::cli::DrillTarget;
use crate::serve::RunningDrill;

/// What an error means for the product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// A drill caused it, as it was asked to.
    Expected,
    /// It is on a bad sector whose block should be on a spare by now: expected only if remapping was suspended.
    Doubtful,
    /// Nothing explains it.
    Unexpected,
}

/// The errors that may be met.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    /// Bad sectors of the main device: start and end, in order, disjoint.
    bad: Vec<(u64, u64)>,
    /// What was written to a bad sector may be lost all the same.
    takes_back: bool,
    /// Any operation may fail.
    anywhere: bool,
}

impl Faults {
    /// What these drills may cause, on a main device with logical blocks of so many sectors.
    pub(crate) fn of(drills: &[RunningDrill], logical_sectors: u64) -> Self {
        let mut faults = Self::default();
        for running in drills {
            let reach = running.drill.reach();
            faults.anywhere |= reach.anywhere;
            match running.target {
                DrillTarget::Main => {
                    faults.takes_back |= reach.takes_back;
                    faults.add(&reach.bad, logical_sectors);
                }
                // Blocks that moved can be lost there; blocks that did not move are not.
                DrillTarget::Spare(_) => faults.takes_back |= !reach.bad.is_empty(),
            }
        }
        faults
    }

    fn add(&mut self, bad: &[Extent], logical: u64) {
        let whole = |e: &Extent| (e.start().0 - e.start().0 % logical, e.end().0.next_multiple_of(logical));
        let mut all: Vec<(u64, u64)> = self.bad.drain(..).chain(bad.iter().map(whole)).collect();
        all.sort_unstable();
        for (start, end) in all {
            match self.bad.last_mut() {
                Some(last) if last.1 >= start => last.1 = last.1.max(end),
                _ => self.bad.push((start, end)),
            }
        }
    }

    /// Does any of these sectors fail?
    pub(crate) fn touches(&self, first: u64, end: u64) -> bool {
        let after = self.bad.partition_point(|&(start, _)| start < end);
        after.checked_sub(1).and_then(|at| self.bad.get(at)).is_some_and(|&(_, last)| last > first)
    }

    /// The bad stretches, first sector and end.
    pub(crate) fn bad(&self) -> &[(u64, u64)] {
        &self.bad
    }

    /// May anything fail, whatever it is?
    pub(crate) fn anywhere(&self) -> bool {
        self.anywhere
    }

    /// A sector could not be read. `firm`: what it holds was written to the volume, and that was acknowledged.
    pub(crate) fn of_read(&self, sector: u64, firm: bool) -> Meaning {
        match self.touches(sector, sector + 1) {
            _ if self.anywhere => Meaning::Expected,
            false => Meaning::Unexpected,
            true if firm && !self.takes_back => Meaning::Doubtful,
            true => Meaning::Expected,
        }
    }

    /// A write of these sectors failed.
    pub(crate) fn of_write(&self, first: u64, end: u64) -> Meaning {
        match self.touches(first, end) {
            _ if self.anywhere => Meaning::Expected,
            false => Meaning::Unexpected,
            true if self.takes_back => Meaning::Expected,
            true => Meaning::Doubtful,
        }
    }

    /// A flush failed.
    pub(crate) fn of_flush(&self) -> Meaning {
        if self.anywhere { Meaning::Expected } else { Meaning::Unexpected }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use remap_io::Drill;

    use super::*;

    fn faults(drills: &[(DrillTarget, &str)], logical: u64) -> Faults {
        let running = |&(target, spec): &(DrillTarget, &str)| RunningDrill {
            target,
            drill: Arc::new(Drill::parse(spec).unwrap()),
        };
        Faults::of(&drills.iter().map(running).collect::<Vec<_>>(), logical)
    }

    #[test]
    fn errors_are_expected_where_drills_put_them() {
        let main = |spec| faults(&[(DrillTarget::Main, spec)], 1);
        let plain = main("bad=sectors:10-11;40,errno=ENODATA");
        assert_eq!(plain.of_read(10, false), Meaning::Expected);
        assert_eq!(plain.of_read(10, true), Meaning::Doubtful);
        for neighbour in [9, 12, 39, 41] {
            assert_eq!(plain.of_read(neighbour, false), Meaning::Unexpected, "{neighbour}");
        }
        assert_eq!(plain.of_write(0, 8), Meaning::Unexpected);
        assert_eq!(plain.of_write(8, 16), Meaning::Doubtful);
        assert_eq!(plain.of_flush(), Meaning::Unexpected);
        let later = main("bad=sectors:10,after=5s");
        assert_eq!(later.of_read(10, true), Meaning::Expected);
        assert_eq!(later.of_read(11, true), Meaning::Unexpected);
        let gone = main("gone-after=100ops,gone-for=10ops");
        assert_eq!(gone.of_read(77, true), Meaning::Expected);
        assert_eq!(gone.of_flush(), Meaning::Expected);
        assert_eq!(main("latency=1ms").of_read(1, false), Meaning::Unexpected);
        // A whole logical block fails with each of its sectors.
        let wide = faults(&[(DrillTarget::Main, "bad=sectors:9;20")], 8);
        assert_eq!(wide.bad(), [(8, 24)]);
    }

    #[test]
    fn a_bad_spare_explains_only_what_moved_there() {
        let both =
            faults(&[(DrillTarget::Main, "bad=sectors:10"), (DrillTarget::Spare(0), "bad=sectors:4711")], 1);
        assert_eq!(both.of_read(10, true), Meaning::Expected);
        assert_eq!(both.of_read(11, true), Meaning::Unexpected);
        assert_eq!(both.of_read(4711, true), Meaning::Unexpected);
    }
}
