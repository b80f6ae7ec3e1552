//! What a worker's part of the volume must hold.
//!
//! Invariant: a unit that nobody wrote is not remembered; one that was written has a mark that names every version that it
//! may hold. Marks are at most as many as was said, some 36 bytes each at worst.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Range;

use remap_runtime::front::ByteRange;

use super::faults::Faults;
use super::findings::Findings;
use super::stamp::{Run, SECTOR, is_zero};

/// Bytes of a unit: what the model remembers as one.
pub(crate) const UNIT: u64 = 4096;
/// Sectors of a unit.
pub(crate) const UNIT_SECTORS: u64 = UNIT / SECTOR as u64;

/// Zeroes are right, too.
const ZEROES: u8 = 1;
/// An error is right, too: a write failed here.
const ERROR: u8 = 2;
/// Anything is right: a write failed on what nobody knew.
const ANYTHING: u8 = 4;

/// What a unit may hold: versions from `oldest` to `newest` (none if there are none between them), and more by `may`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    newest: u32,
    oldest: u32,
    may: u8,
}

/// Numbers of units are spread well enough by one multiplication.
#[derive(Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u32(u32::from(byte)));
    }

    fn write_u32(&mut self, n: u32) {
        let mixed = (self.0 ^ u64::from(n)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ mixed >> 32;
    }
}

/// A stretch of units, counted from the start of the worker's part.
pub(crate) type Units = Range<u32>;

/// See the module.
pub(crate) struct Model {
    run: Run,
    /// First unit of the part on the volume.
    first: u64,
    units: u32,
    /// What nobody wrote is zero.
    blank: bool,
    most: usize,
    marks: HashMap<u32, Mark, BuildHasherDefault<Spread>>,
}

impl Model {
    /// A part of a volume, of which at most `most` units are remembered. `blank`: it reads as zeroes.
    pub(crate) fn of(run: Run, first: u64, units: u32, blank: bool, most: usize) -> Self {
        Self { run, first, units, blank, most, marks: HashMap::default() }
    }

    /// Units of the part.
    pub(crate) fn units(&self) -> u32 {
        self.units
    }

    /// Is it known what units hold that nobody wrote?
    pub(crate) fn is_blank(&self) -> bool {
        self.blank
    }

    /// First byte of a unit on the volume.
    pub(crate) fn offset(&self, unit: u32) -> u64 {
        (self.first + u64::from(unit)) * UNIT
    }

    fn sector(&self, unit: u32) -> u64 {
        (self.first + u64::from(unit)) * UNIT_SECTORS
    }

    /// The sectors of these units on the volume.
    pub(crate) fn sectors(&self, units: &Units) -> Range<u64> {
        self.sector(units.start)..self.sector(units.end)
    }

    /// The unit with this sector, if it is in the part.
    pub(crate) fn unit_of(&self, sector: u64) -> Option<u32> {
        let unit = (sector / UNIT_SECTORS).checked_sub(self.first)?;
        u32::try_from(unit).ok().filter(|&unit| unit < self.units)
    }

    /// Is it known what all of these hold?
    pub(crate) fn is_known(&self, units: &Units) -> bool {
        self.blank || units.clone().all(|unit| self.marks.contains_key(&unit))
    }

    /// Can these be written, and still be remembered?
    pub(crate) fn has_room(&self, units: &Units) -> bool {
        let more = units.clone().filter(|unit| !self.marks.contains_key(unit)).count();
        // Those in flight were not counted when they were drawn: there may be a few too many already.
        more == 0 || self.marks.len() + more <= self.most
    }

    /// All that is remembered, in order, in stretches of at most `most` units.
    pub(crate) fn written(&self, most: u32) -> Vec<Units> {
        let mut units: Vec<u32> = self.marks.keys().copied().collect();
        units.sort_unstable();
        let mut runs: Vec<Units> = Vec::new();
        for unit in units {
            match runs.last_mut() {
                Some(last) if last.end == unit && unit - last.start < most => last.end = unit + 1,
                _ => runs.push(unit..unit + 1),
            }
        }
        runs
    }

    /// The bytes of the next write to these units.
    pub(crate) fn fill(&self, units: &Units, bytes: &mut [u8]) {
        for (unit, bytes) in units.clone().zip(bytes.chunks_exact_mut(UNIT as usize)) {
            let version = self.marks.get(&unit).map_or(0, |mark| mark.newest).wrapping_add(1);
            let sector = self.sector(unit);
            for (sector, bytes) in (sector..).zip(bytes.chunks_exact_mut(SECTOR)) {
                self.run.fill(sector, version, bytes);
            }
        }
    }

    /// The mark of a unit that something is about to happen to.
    fn mark(&mut self, unit: u32) -> &mut Mark {
        let may = if self.blank { ZEROES } else { ANYTHING };
        self.marks.entry(unit).or_insert(Mark { newest: 0, oldest: 1, may })
    }

    /// The write that was filled last has ended.
    pub(crate) fn wrote(&mut self, units: &Units, done: bool) {
        for unit in units.clone() {
            let mark = self.mark(unit);
            mark.newest = mark.newest.wrapping_add(1);
            if done {
                *mark = Mark { oldest: mark.newest, may: 0, ..*mark };
            } else {
                mark.may |= ERROR;
            }
        }
    }

    /// Zeroes were written.
    pub(crate) fn zeroed(&mut self, units: &Units, done: bool) {
        for unit in units.clone() {
            let mark = self.mark(unit);
            if done {
                *mark = Mark { oldest: mark.newest.wrapping_add(1), may: ZEROES, ..*mark };
            } else {
                mark.may |= ZEROES | ERROR;
            }
        }
    }

    /// They were discarded: they hold what they held, or zeroes.
    pub(crate) fn discarded(&mut self, units: &Units) {
        for unit in units.clone() {
            // What nobody wrote need not be remembered for this.
            if let Some(mark) = self.marks.get_mut(&unit) {
                mark.may |= ZEROES;
            }
        }
    }

    /// Compares what was read; `bad` are the ranges of the volume that had no contents, in order.
    pub(crate) fn check(
        &self,
        units: &Units,
        bytes: &[u8],
        bad: &[ByteRange],
        faults: &Faults,
        seen: &mut Findings,
    ) {
        for (unit, bytes) in units.clone().zip(bytes.chunks_exact(UNIT as usize)) {
            let mark = self.marks.get(&unit).copied();
            let start = self.offset(unit);
            let overlap = |range: &&ByteRange| range.start < start + UNIT && start < range.start + range.len;
            if bad.is_empty() || !bad.iter().any(|range| overlap(&range)) {
                if !self.is_plain(unit, mark, bytes) {
                    self.check_sectors(unit, mark, bytes, &[], faults, seen);
                } else {
                    seen.verified_bytes += UNIT;
                }
            } else {
                let bad: Vec<ByteRange> = bad.iter().filter(overlap).copied().collect();
                self.check_sectors(unit, mark, bytes, &bad, faults, seen);
            }
        }
    }

    /// The usual case, without a look at what each sector says: one version, or zeroes.
    fn is_plain(&self, unit: u32, mark: Option<Mark>, bytes: &[u8]) -> bool {
        match mark {
            None => self.blank && is_zero(bytes),
            Some(Mark { newest, oldest, may: 0 }) if newest == oldest => {
                let sector = self.sector(unit);
                let mut sectors = (sector..).zip(bytes.chunks_exact(SECTOR));
                sectors.all(|(sector, bytes)| self.run.matches(sector, newest, bytes))
            }
            Some(_) => false,
        }
    }

    fn check_sectors(
        &self,
        unit: u32,
        mark: Option<Mark>,
        bytes: &[u8],
        bad: &[ByteRange],
        faults: &Faults,
        seen: &mut Findings,
    ) {
        let blank = Mark { newest: 0, oldest: 1, may: if self.blank { ZEROES } else { ANYTHING } };
        let Mark { newest, oldest, may } = mark.unwrap_or(blank);
        for (sector, bytes) in (self.sector(unit)..).zip(bytes.chunks_exact(SECTOR)) {
            let at = sector * SECTOR as u64;
            if bad.iter().any(|range| range.start <= at && at < range.start + range.len) {
                let firm = mark.is_some() && may == 0;
                if may & ERROR == 0 {
                    let text = || format!("sector {sector} cannot be read; expected {}", expected(mark));
                    seen.error(faults.of_read(sector, firm), text);
                }
                continue;
            }
            let version = (oldest..=newest).any(|version| self.run.matches(sector, version, bytes));
            if version || may & ANYTHING != 0 || (may & ZEROES != 0 && is_zero(bytes)) {
                seen.verified_bytes += SECTOR as u64;
            } else {
                seen.wrong(|| {
                    format!("sector {sector}: expected {}, found {}", expected(mark), self.run.read(bytes))
                });
            }
        }
    }
}

/// What a unit should hold, for people.
fn expected(mark: Option<Mark>) -> String {
    let Some(Mark { newest, oldest, may }) = mark else {
        return "zeroes (nothing was written there)".to_owned();
    };
    let versions = match newest.checked_sub(oldest) {
        None => String::new(),
        Some(0) => format!("version {newest}"),
        Some(_) => format!("version {oldest} to {newest}"),
    };
    match (versions.is_empty(), may & ZEROES != 0) {
        (true, _) => "zeroes".to_owned(),
        (false, true) => versions + " or zeroes",
        (false, false) => versions,
    }
}

#[cfg(test)]
#[path = "model/tests.rs"]
mod tests;
