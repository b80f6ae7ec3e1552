//! What a worker asks for next.
//!
//! Invariant: what is drawn lies in the worker's part and meets nothing that is in flight; what is to be read is known, and what is to be
//! written can be remembered.

use std::collections::BTreeMap;

use super::mix::{Place, Stream};
use super::model::{Model, Units};
use crate::demo::Random;

/// Stretches written lately that are remembered, to be read and written again.
const RECENT: usize = 4096;
/// One request of so many goes to a bad place, if there are any.
const TO_BAD: u64 = 40;
/// Draws before a worker waits for something in flight to end.
const TRIES: u32 = 8;
/// No request is larger than this share of a worker's part.
const PART_SHARE: u32 = 4;

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    Read,
    Write { fua: bool },
    Zero,
    Discard,
    Flush,
}

impl Work {
    /// For people.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write { .. } => "write",
            Self::Zero => "write of zeroes",
            Self::Discard => "discard",
            Self::Flush => "flush",
        }
    }
}

/// A request.
#[derive(Clone, Debug)]
pub(crate) struct Draw {
    pub work: Work,
    /// None for a flush.
    pub units: Units,
}

/// Draws requests of a mix.
pub(crate) struct Drawer {
    mix: &'static [Stream],
    shares: u64,
    random: Random,
    /// Where each sequential stream has come to.
    cursors: Vec<u32>,
    recent: Vec<Units>,
    /// Place in `recent` that is written over next.
    oldest: usize,
    /// Units with bad sectors.
    bad: Vec<u32>,
}

impl Drawer {
    /// Requests of `mix` for a part of a volume, some of which go to `bad` sectors.
    pub(crate) fn of(mix: &'static [Stream], random: Random, model: &Model, bad: &[(u64, u64)]) -> Self {
        let firsts = bad.iter().flat_map(|&(first, end)| [first, end - 1]);
        let mut bad: Vec<u32> = firsts.filter_map(|sector| model.unit_of(sector)).collect();
        bad.dedup();
        Self {
            mix,
            shares: mix.iter().map(|stream| stream.share).sum(),
            random,
            cursors: vec![0; mix.len()],
            recent: Vec::new(),
            oldest: 0,
            bad,
        }
    }

    /// A stretch was written.
    pub(crate) fn was_written(&mut self, units: &Units) {
        if self.recent.len() < RECENT {
            self.recent.push(units.clone());
        } else {
            self.recent[self.oldest] = units.clone();
            self.oldest = (self.oldest + 1) % RECENT;
        }
    }

    /// The next request; `None`: all that was drawn meets something in flight.
    pub(crate) fn draw(&mut self, model: &Model, busy: &BTreeMap<u32, u32>) -> Option<Draw> {
        (0..TRIES).find_map(|_| {
            let draw = self.draw_any(model);
            let free = draw.work == Work::Flush || is_free(busy, &draw.units);
            free.then_some(draw)
        })
    }

    fn draw_any(&mut self, model: &Model) -> Draw {
        let mut at = self.random.below(self.shares);
        let stream = self.mix.iter().position(|stream| {
            let here = at < stream.share;
            at = at.saturating_sub(stream.share);
            here
        });
        let index = stream.unwrap_or(0);
        let stream = &self.mix[index];
        if self.random.below(1000) < stream.flushes {
            return Draw { work: Work::Flush, units: 0..0 };
        }
        let size = self.size(stream).min(model.units() / PART_SHARE).max(1);
        let percent = self.random.below(100);
        let mut work = if percent < stream.reads {
            Work::Read
        } else if percent < stream.reads + stream.discards {
            Work::Discard
        } else if percent < stream.reads + stream.discards + stream.zeroes {
            Work::Zero
        } else {
            Work::Write { fua: self.random.below(100) < stream.fua }
        };
        let mut units = self.place(index, size, model);
        // Most of what is read was written; of a volume that is not blank, all.
        let known = !model.is_blank() || self.random.below(4) > 0;
        if work == Work::Read && stream.place == Place::Random && known || !self.may(work, &units, model) {
            match self.any_recent(size) {
                Some(recent) => units = recent,
                None if work == Work::Read && !model.is_blank() => work = Work::Write { fua: false },
                None => {}
            }
            if !self.may(work, &units, model) {
                return Draw { work: Work::Flush, units: 0..0 };
            }
        }
        Draw { work, units }
    }

    /// Is it known what is there, or can it be remembered?
    fn may(&self, work: Work, units: &Units, model: &Model) -> bool {
        match work {
            Work::Read => model.is_known(units),
            Work::Write { .. } | Work::Zero => model.has_room(units),
            Work::Discard | Work::Flush => true,
        }
    }

    fn size(&mut self, stream: &Stream) -> u32 {
        let all: u64 = stream.sizes.iter().map(|(weight, _)| weight).sum();
        let mut at = self.random.below(all);
        for &(weight, units) in stream.sizes {
            if at < weight {
                return units;
            }
            at -= weight;
        }
        1
    }

    /// A place for so many units of a stream.
    fn place(&mut self, index: usize, size: u32, model: &Model) -> Units {
        let units = model.units();
        if !self.bad.is_empty() && self.random.below(TO_BAD) == 0 {
            let at = usize::try_from(self.random.below(self.bad.len() as u64)).unwrap_or(0);
            let before = u32::try_from(self.random.below(u64::from(size))).unwrap_or(0);
            let first = self.bad[at].saturating_sub(before).min(units - size);
            return first..first + size;
        }
        let stream = &self.mix[index];
        let sixteenth = |n: u32| u32::try_from(u64::from(units) * u64::from(n) / 16).unwrap_or(units);
        let (start, end) = (sixteenth(stream.part.0), sixteenth(stream.part.1 + 1));
        // A part that is too small for the request is not kept apart.
        let (start, end) = if end - start < size { (0, units) } else { (start, end) };
        let first = match stream.place {
            Place::Random => {
                let places = u64::from((end - start) / size);
                start + u32::try_from(self.random.below(places)).unwrap_or(0) * size
            }
            Place::Sequential => {
                let cursor = &mut self.cursors[index];
                if *cursor < start || *cursor + size > end {
                    *cursor = start;
                }
                *cursor += size;
                *cursor - size
            }
        };
        first..first + size
    }

    /// A stretch that was written lately, of at most this size.
    fn any_recent(&mut self, size: u32) -> Option<Units> {
        let at = usize::try_from(self.random.below(self.recent.len().max(1) as u64)).ok()?;
        let recent = self.recent.get(at)?;
        Some(recent.start..recent.end.min(recent.start + size))
    }
}

/// Does a stretch meet nothing that is in flight?
fn is_free(busy: &BTreeMap<u32, u32>, units: &Units) -> bool {
    busy.range(..units.end).next_back().is_none_or(|(_, &end)| end <= units.start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stress::mix;
    use crate::stress::stamp::Run;

    #[test]
    fn what_is_drawn_is_sound() {
        for blank in [true, false] {
            for mix in [mix::CONCURRENT, mix::DATABASE, mix::FILE_SERVER, mix::VIRTUALIZATION, mix::MIXED] {
                for units in [16, 100, 5000] {
                    let mut model = Model::of(Run::of(1), 1000, units, blank, 64);
                    let bad = [(8 * 1000 + 3, 8 * 1001), (1 << 40, 1 << 41)];
                    let mut drawer = Drawer::of(mix, Random::seeded(1, 2), &model, &bad);
                    let mut busy = BTreeMap::from([(4, 6)]);
                    for _ in 0..2000 {
                        let Some(Draw { work, units: drawn }) = drawer.draw(&model, &busy) else { continue };
                        assert!(drawn.end <= units, "{drawn:?} of {units}");
                        assert_eq!(drawn.is_empty(), work == Work::Flush);
                        if work == Work::Flush {
                            continue;
                        }
                        assert!(drawn.end <= 4 || drawn.start >= 6, "{drawn:?} is in flight");
                        match work {
                            Work::Read => assert!(model.is_known(&drawn)),
                            Work::Write { .. } => {
                                model.wrote(&drawn, true);
                                drawer.was_written(&drawn);
                            }
                            Work::Zero => model.zeroed(&drawn, true),
                            Work::Discard | Work::Flush => {}
                        }
                    }
                    assert!(model.written(u32::MAX).iter().map(|r| r.end - r.start).sum::<u32>() <= 64);
                    busy.clear();
                }
            }
        }
    }
}
