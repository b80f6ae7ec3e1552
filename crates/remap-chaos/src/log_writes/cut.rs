//! What a power cut leaves of a log.
//!
//! Invariant: nothing survives that the devices could have lost, unless it is said to (a torn cut keeps some of it, by chance);
//! everything survives that they may not lose.
//!
//! A log has a write at its place if a flush came after it, or if it was durable by itself (FUA), and what a flush covers in the order
//! in which it completed. So all entries up to any place are a state that a power cut may leave, and so are those up to a flush with some
//! of those up to the next one. Part of the device may be said to have no cache: what completes there is durable at once. Then the places
//! between two flushes are moments, too: the part without a cache holds all up to there, the other part nothing since the last flush.

use std::ops::Range;

use anyhow::ensure;
use remap_sim::rng::Rng;

use super::END;
use super::log::{Entry, What};
use crate::bench::SECTOR;

/// The power fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    /// After so many entries.
    pub(crate) entries: usize,
    /// What could be lost is lost or kept by chance, from this seed.
    pub(crate) torn: Option<u64>,
    /// What a torn cut keeps or loses as one: so many bytes, at multiples of so many.
    pub(crate) atomic: u64,
    /// Bytes of the device that are durable as they are written.
    pub(crate) no_cache: Range<u64>,
}

/// A moment worth a cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    pub(crate) entries: usize,
    /// The last mark before the next moment: until then nothing more is durable.
    pub(crate) mark: Option<String>,
    /// The last mark before a torn cut there, which comes as late as can be: just before the next flush that makes something durable.
    pub(crate) mark_torn: Option<String>,
    /// The log tells what was durable.
    pub(crate) known: bool,
}

impl Entry {
    /// A write that is durable when it completes.
    fn at_once(&self, no_cache: &Range<u64>) -> bool {
        self.what == What::Write && (self.fua || no_cache.contains(&self.bytes.start))
    }
}

/// Behind the last flush among so many entries.
fn flushed(entries: &[Entry], until: usize) -> usize {
    entries[..until].iter().rposition(|entry| entry.flush).map_or(0, |index| index + 1)
}

/// Where the next flush is, from here on, that makes something durable; the end of the log if there is none. One flush of a client may be
/// many in the log: a table below passes it on to each of its targets.
fn next_flush(entries: &[Entry], from: usize) -> usize {
    let first = |from, is: fn(&Entry) -> bool| {
        entries.iter().skip(from).position(is).map_or(entries.len(), |n| from + n)
    };
    let pending = first(flushed(entries, from), |entry| entry.what == What::Write && !entry.fua);
    first(pending.max(from), |entry| entry.flush)
}

/// The last mark of somebody who wrote; that of the target is of nobody's.
fn last_mark(entries: &[Entry]) -> Option<String> {
    entries.iter().rev().find_map(|entry| match &entry.what {
        What::Mark(text) if text != END => Some(text.clone()),
        _ => None,
    })
}

/// Behind every entry that made something durable: a flush of what was written before it, a write that is durable by itself.
fn places(entries: &[Entry], no_cache: &Range<u64>) -> Vec<usize> {
    let mut places = Vec::new();
    let mut pending = false;
    for (index, entry) in entries.iter().enumerate() {
        let at_once = entry.at_once(no_cache);
        if at_once || (entry.flush && pending) {
            places.push(index + 1);
        }
        pending = (pending && !entry.flush) || (entry.what == What::Write && !at_once);
    }
    places
}

/// All moments at which what is durable changes.
pub(crate) fn moments(entries: &[Entry], no_cache: &Range<u64>) -> Vec<Moment> {
    let places = places(entries, no_cache);
    let known = |place| {
        survivors(entries, &Cut { entries: place, torn: None, atomic: SECTOR, no_cache: no_cache.clone() })
            .is_ok()
    };
    let next = places.iter().skip(1).map(|place| place - 1).chain([entries.len()]);
    places
        .iter()
        .zip(next)
        .map(|(&place, next)| Moment {
            entries: place,
            mark: last_mark(&entries[..next]),
            mark_torn: last_mark(&entries[..next_flush(entries, place)]),
            known: known(place),
        })
        .collect()
}

/// What is on the device after a cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Survivors {
    /// All writes among so many entries: up to a flush.
    pub(crate) sure: usize,
    /// After these, in order, some bytes of later ones.
    pub(crate) more: Vec<(usize, Range<u64>)>,
}

/// Tells what is on the device after the cut.
///
/// # Errors
/// The cut is behind the end of the log, or an entry has no place in time.
pub(crate) fn survivors(entries: &[Entry], cut: &Cut) -> anyhow::Result<Survivors> {
    let count = entries.len();
    ensure!(cut.entries <= count, "the log has {count} entries, fewer than {}", cut.entries);
    let sure = flushed(entries, cut.entries);
    let late = cut.torn.is_some() && cut.no_cache.is_empty();
    let end = if late { next_flush(entries, cut.entries) } else { cut.entries };
    let mut rng = Rng::seeded(cut.torn.unwrap_or(0));
    let mut more = Vec::new();
    let later = entries.iter().enumerate().take(end).skip(sure);
    for (index, entry) in later.filter(|(_, entry)| entry.what == What::Write) {
        // Its place counts: not all that comes behind it is kept.
        ensure!(
            cut.no_cache.is_empty() || !entry.contested,
            "entry {index} (FUA) has no place among those of the same sectors that a flush makes durable"
        );
        if entry.at_once(&cut.no_cache) {
            more.push((index, entry.bytes.clone()));
        } else if cut.torn.is_some() {
            keep_some(entry, index, cut.atomic, &mut rng, &mut more);
        }
    }
    Ok(Survivors { sure, more })
}

/// Keeps all of a write, nothing, or some of its pieces.
fn keep_some(entry: &Entry, index: usize, atomic: u64, rng: &mut Rng, kept: &mut Vec<(usize, Range<u64>)>) {
    let bytes = entry.bytes.clone();
    match rng.below(3) {
        0 => kept.push((index, bytes)),
        1 => {}
        _ => {
            let mut at = bytes.start;
            while at < bytes.end {
                let end = ((at / atomic + 1) * atomic).min(bytes.end);
                if rng.chance(1, 2) {
                    kept.push((index, at..end));
                }
                at = end;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn entry(what: What, bytes: Range<u64>) -> Entry {
        Entry { what, flush: false, fua: false, contested: false, bytes, contents: 0 }
    }

    fn write(at: u64) -> Entry {
        entry(What::Write, at * 512..at * 512 + 1024)
    }

    fn flush() -> Entry {
        Entry { flush: true, ..entry(What::Nothing, 0..0) }
    }

    fn fua(at: u64) -> Entry {
        Entry { fua: true, ..write(at) }
    }

    fn mark(text: &str) -> Entry {
        entry(What::Mark(text.into()), 0..0)
    }

    fn story() -> Vec<Entry> {
        vec![write(0), flush(), mark("1"), fua(9), write(2), write(20), mark("2"), flush(), write(30)]
    }

    /// All that survives, and of it what survives as a whole.
    fn kept(entries: &[Entry], cut: &Cut) -> (Vec<(usize, Range<u64>)>, Vec<usize>) {
        let Survivors { sure, more } = survivors(entries, cut).unwrap();
        let early = entries.iter().enumerate().take(sure).filter(|(_, entry)| entry.what == What::Write);
        let all: Vec<_> = early.map(|(index, entry)| (index, entry.bytes.clone())).chain(more).collect();
        let whole =
            all.iter().filter(|(index, bytes)| *bytes == entries[*index].bytes).map(|(index, _)| *index);
        let whole = whole.collect();
        (all, whole)
    }

    fn whole(entries: &[Entry], cut: &Cut) -> Vec<usize> {
        kept(entries, cut).1
    }

    #[test]
    fn a_clean_cut_keeps_what_was_durable() {
        let cut = |entries| Cut { entries, torn: None, atomic: SECTOR, no_cache: 0..0 };
        assert_eq!(whole(&story(), &cut(0)), []);
        assert_eq!(whole(&story(), &cut(2)), [0]);
        assert_eq!(whole(&story(), &cut(5)), [0, 3]);
        assert_eq!(whole(&story(), &cut(9)), [0, 3, 4, 5]);
        assert!(survivors(&story(), &cut(10)).is_err());
    }

    #[test]
    fn a_torn_cut_keeps_any_of_what_is_before_the_next_flush_and_all_that_was_durable() {
        let mut seen = BTreeSet::new();
        let mut some = false;
        for seed in 0..200 {
            let (kept, _) =
                kept(&story(), &Cut { entries: 2, torn: Some(seed), atomic: SECTOR, no_cache: 0..0 });
            assert!(kept.contains(&(0, 0..1024)) && kept.contains(&(3, 4608..5632)), "{kept:?}");
            assert!(kept.iter().all(|(index, _)| *index != 8), "{kept:?}");
            some |= kept.iter().any(|(index, bytes)| *index == 4 && bytes.end - bytes.start == 512);
            seen.insert(whole(
                &story(),
                &Cut { entries: 2, torn: Some(seed), atomic: SECTOR, no_cache: 0..0 },
            ));
        }
        let all: BTreeSet<Vec<usize>> = [vec![0, 3], vec![0, 3, 4], vec![0, 3, 5], vec![0, 3, 4, 5]].into();
        assert_eq!((seen, some), (all, true));
    }

    #[test]
    fn without_a_cache_a_part_keeps_what_completed_and_the_other_only_what_was_flushed() {
        let entries = [write(0), flush(), write(1), write(101), mark("1"), write(2), write(102), flush()];
        let cut = |entries, torn| Cut { entries, torn, atomic: SECTOR, no_cache: 100 * 512..200 * 512 };
        assert_eq!(whole(&entries, &cut(4, None)), [0, 3]);
        assert_eq!(whole(&entries, &cut(7, None)), [0, 3, 6]);
        assert_eq!(whole(&entries, &cut(8, None)), [0, 2, 3, 5, 6]);
        let torn: BTreeSet<Vec<usize>> = (0..200).map(|seed| whole(&entries, &cut(4, Some(seed)))).collect();
        assert_eq!(torn, [vec![0, 3], vec![0, 2, 3]].into());
        assert_eq!(whole(&[fua(2), write(4), flush()], &cut(2, None)), [0]);
        let contested = Entry { contested: true, ..fua(2) };
        assert!(
            survivors(&[contested, write(3), flush()], &cut(2, None)).is_err(),
            "which of the two came last?"
        );
    }

    #[test]
    fn moments_are_flushes_and_durable_writes_with_the_marks_before_the_next() {
        let moment = |entries, mark: &str, torn: &str| Moment {
            entries,
            mark: (mark != "-").then(|| mark.to_owned()),
            mark_torn: (torn != "-").then(|| torn.to_owned()),
            known: true,
        };
        assert_eq!(
            moments(&story(), &(0..0)),
            [moment(2, "1", "2"), moment(4, "2", "2"), moment(8, "2", "2")]
        );
        let places: Vec<usize> =
            moments(&story(), &(20 * 512..30 * 512)).iter().map(|moment| moment.entries).collect();
        assert_eq!(places, [2, 4, 6, 8]);
        let both = [write(0), flush(), Entry { contested: true, ..fua(2) }, write(3), flush()];
        let known =
            |no_cache| moments(&both, &no_cache).iter().map(|moment| moment.known).collect::<Vec<_>>();
        assert_eq!(known(0..512), [true, false, true], "a FUA and a plain write of one sector have no order");
        assert_eq!(known(0..0), [true, true, true]);
    }

    #[test]
    fn flushes_that_make_nothing_durable_are_no_moments() {
        let entries = [
            flush(),
            write(0),
            flush(),
            flush(),
            mark("1"),
            flush(),
            fua(9),
            flush(),
            mark("2"),
            write(2),
            flush(),
            mark(END),
        ];
        let found: Vec<_> = moments(&entries, &(0..0))
            .into_iter()
            .map(|moment| (moment.entries, moment.mark.unwrap(), moment.mark_torn.unwrap()))
            .collect();
        let expected = [(3, "1", "2"), (7, "2", "2"), (11, "2", "2")];
        assert_eq!(found, expected.map(|(entries, mark, torn)| (entries, mark.to_owned(), torn.to_owned())));
        let torn: BTreeSet<Vec<usize>> = (0..100)
            .map(|seed| {
                whole(&entries, &Cut { entries: 3, torn: Some(seed), atomic: SECTOR, no_cache: 0..0 })
            })
            .collect();
        assert_eq!(torn, [vec![1, 6], vec![1, 6, 9]].into(), "until the next that does");
    }

    #[test]
    fn a_torn_cut_does_not_tear_what_a_device_writes_as_one() {
        let entries = [entry(What::Write, 3584..12_288)];
        for seed in 0..100 {
            let (kept, _) =
                kept(&entries, &Cut { entries: 0, torn: Some(seed), atomic: 4096, no_cache: 0..0 });
            let pieces = [3584..12_288, 3584..4096, 4096..8192, 8192..12_288];
            assert!(kept.iter().all(|(_, bytes)| pieces.contains(bytes)), "{kept:?}");
        }
    }
}
