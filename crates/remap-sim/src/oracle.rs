//! What a client may see: for each sector the versions that it may hold now, or after a crash now.
//!
//! Invariant: a version is forgotten only when nothing may show it any more: a write that was acknowledged hides all versions
//! that had ended before it began; one that is durable forbids them even after a crash. Loss is a version like any other,
//! written by nature, never acknowledged: it can come at any time, and goes only by an overwrite. Once it was seen, no older
//! version may come back (C3), unless the medium itself gives the sector again. A flush that failed may have thrown away what it
//! was to make durable: then what was acknowledged since the last good one is in doubt.

use std::collections::BTreeSet;

use std::hash::{Hash, Hasher};

use crate::stamp::Content;
use crate::{Rule, Violation};

const NEVER: u64 = u64::MAX;

#[derive(Clone, Copy)]
struct Version {
    content: Content,
    /// Which write of the client, to find it again when it ends.
    write: u64,
    begun: u64,
    ended: u64,
    acked: bool,
    durable: bool,
    /// When a write that hides it was acknowledged.
    hidden: u64,
    /// Can come back after a crash.
    crash: bool,
    /// When it was seen that the sector is lost: from then on this version is not to be had.
    gone: u64,
    /// A flush that failed threw it away, or may have.
    doubtful: bool,
}

impl Version {
    fn visible(&self, begun: u64) -> bool {
        self.hidden >= begun && self.gone >= begun
    }
}

impl core::fmt::Debug for Version {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:?} (begun at {}", self.content, self.begun)?;
        match (self.ended, self.acked, self.durable) {
            (NEVER, ..) => f.write_str(", under way)"),
            (_, false, _) => f.write_str(")"),
            (at, true, false) => write!(f, ", acknowledged at {at})"),
            (at, true, true) => write!(f, ", acknowledged at {at}, durable)"),
        }
    }
}

/// The versions of all sectors.
#[derive(Clone, Debug)]
pub struct Oracle {
    sectors: Vec<Vec<Version>>,
    /// Sectors that ever went bad.
    went_bad: Vec<bool>,
    /// Sectors with acknowledged writes that are not known to be durable.
    dirty: Vec<u64>,
    /// Sectors that went bad and read again since: having seen them lost excludes nothing.
    healed: BTreeSet<u64>,
    /// When this life began.
    life: u64,
}

impl Oracle {
    /// Every sector holds what was on the main device before.
    #[must_use]
    pub fn adopt(sectors: u64) -> Self {
        let original = |sector| Version {
            content: Content::Stamp { sector, counter: 0 },
            write: 0,
            begun: 0,
            ended: 0,
            acked: true,
            durable: true,
            hidden: NEVER,
            crash: true,
            gone: NEVER,
            doubtful: false,
        };
        Self {
            sectors: (0..sectors).map(|s| vec![original(s)]).collect(),
            went_bad: vec![false; sectors as usize],
            dirty: Vec::new(),
            healed: BTreeSet::new(),
            life: 0,
        }
    }

    /// A client's write of this content began.
    pub fn begin(&mut self, sector: u64, content: Content, write: u64, tick: u64) {
        self.sectors[sector as usize].push(Version {
            content,
            write,
            begun: tick,
            ended: NEVER,
            acked: false,
            durable: false,
            hidden: NEVER,
            crash: true,
            gone: NEVER,
            doubtful: false,
        });
    }

    /// The sector went bad, wherever it is.
    pub fn lose(&mut self, sector: u64, tick: u64) {
        self.went_bad[sector as usize] = true;
        self.healed.remove(&sector);
        self.begin(sector, Content::Lost, 0, tick);
        if let Some(version) = self.sectors[sector as usize].last_mut() {
            version.ended = tick;
        }
    }

    /// The sector cannot be read now, and may be read again later, with the same contents.
    pub fn flicker(&mut self, sector: u64, tick: u64) {
        self.lose(sector, tick);
        self.healed.insert(sector);
    }

    /// The medium gives the sector again, by itself: what it held may be seen, as far as nothing newer hides it.
    pub fn heal(&mut self, sector: u64) {
        self.healed.insert(sector);
        for version in &mut self.sectors[sector as usize] {
            version.gone = NEVER;
        }
    }

    /// A flush failed and threw away what the sector's device had not made durable. `true`: a client must be told, because a
    /// write of its own, acknowledged or under way, may be among it.
    pub fn doubt(&mut self, sector: u64) -> bool {
        let mut owed = false;
        for version in self.sectors[sector as usize].iter_mut().filter(|v| v.crash) {
            version.hidden = NEVER;
            if !version.durable {
                owed |= version.acked || version.ended == NEVER;
                version.doubtful = true;
                version.acked = false;
            }
        }
        owed
    }

    /// A client's write ended. `oldest`: when the oldest read that is under way began.
    pub fn end(&mut self, sector: u64, write: u64, acked: bool, durable: bool, tick: u64, oldest: u64) {
        let versions = &mut self.sectors[sector as usize];
        let Some(own) = versions.iter_mut().find(|v| v.write == write && v.ended == NEVER) else { return };
        own.ended = tick;
        let acked = acked && (durable || !own.doubtful);
        own.acked = acked;
        let begun = own.begun;
        if acked {
            for version in versions.iter_mut().filter(|v| v.ended < begun) {
                version.hidden = version.hidden.min(tick);
            }
            self.dirty.push(sector);
            if durable {
                self.make_durable(sector, |v| v.write == write);
            }
        }
        self.forget(sector, oldest);
    }

    /// A flush that began at `begun` ended well.
    pub fn flushed(&mut self, begun: u64, oldest: u64) {
        let mut dirty = core::mem::take(&mut self.dirty);
        dirty.sort_unstable();
        dirty.dedup();
        for sector in dirty {
            self.make_durable(sector, |v| v.acked && v.ended < begun);
            if self.sectors[sector as usize].iter().any(|v| v.acked && !v.durable) {
                self.dirty.push(sector);
            }
            self.forget(sector, oldest);
        }
    }

    fn make_durable(&mut self, sector: u64, chosen: impl Fn(&Version) -> bool) {
        let versions = &mut self.sectors[sector as usize];
        let mut newest = None;
        for version in versions.iter_mut().filter(|v| chosen(v)) {
            version.durable = true;
            newest = newest.max(Some(version.begun));
        }
        if let Some(begun) = newest {
            for version in versions.iter_mut().filter(|v| v.ended < begun) {
                version.crash = false;
            }
        }
    }

    fn forget(&mut self, sector: u64, oldest: u64) {
        self.sectors[sector as usize].retain(|v| v.crash || v.hidden >= oldest);
    }

    /// The power failed: whatever was not excluded for good is possible again.
    pub fn crash(&mut self, tick: u64) {
        self.life = tick;
        self.dirty.clear();
        for versions in &mut self.sectors {
            versions.retain(|v| v.crash);
            for version in versions.iter_mut() {
                version.ended = version.ended.min(tick);
                version.acked = false;
                version.durable = false;
                version.doubtful = false;
                version.hidden = NEVER;
                if version.gone != NEVER {
                    version.gone = 0;
                }
            }
        }
    }

    /// A hash of what is possible after a crash: two oracles with the same one allow the same from there on.
    #[must_use]
    pub fn print(&self) -> u64 {
        let mut hasher = std::hash::DefaultHasher::new();
        for versions in &self.sectors {
            let lost = versions.iter().find(|v| v.content == Content::Lost).map(|v| v.begun);
            for version in versions.iter().filter(|v| v.crash) {
                (version.content, lost.is_some_and(|lost| version.ended < lost)).hash(&mut hasher);
            }
            versions.len().hash(&mut hasher);
        }
        hasher.finish()
    }

    /// A read that began at `begun` gave this content (or failed on the medium: [`Content::Lost`]) and ended at `tick`.
    ///
    /// # Errors
    /// No version that may be seen has it.
    pub fn check(&mut self, sector: u64, seen: Content, begun: u64, tick: u64) -> Result<(), Violation> {
        let life = self.life;
        let versions = &mut self.sectors[sector as usize];
        if !versions.iter().any(|v| v.visible(begun) && v.content == seen) {
            let allowed: Vec<_> = versions.iter().filter(|v| v.visible(begun)).collect();
            let rule = rule_of(sector, seen, self.went_bad[sector as usize], &allowed);
            return Err(rule.broken(format!(
                "sector {sector}: read (begun at {begun}) gave {seen:?}; allowed: {allowed:?}"
            )));
        }
        let mut here = versions.iter().filter(|v| v.gone == NEVER);
        let settled = here.clone().all(|v| v.ended <= life);
        let quiet = here.all(|v| v.ended < begun);
        if self.healed.contains(&sector) {
            // The medium gives it again; until somebody asks the medium the table may still call it lost.
        } else if seen == Content::Lost && (settled || quiet) {
            // What had ended before the loss does not come back. A write that was under way then, or came after it, and that a
            // crash cut short may be on the medium and show up once that is read again.
            let losses = versions.iter().filter(|v| v.content == Content::Lost && v.visible(begun));
            let first = losses.map(|v| v.begun).min().unwrap_or(0);
            for version in versions.iter_mut().filter(|v| v.ended < first) {
                // Reads that began before this one ended may still show it.
                version.gone = version.gone.min(tick);
            }
        } else if settled {
            // Nothing was written in this life: what was seen once stays.
            versions.retain(|v| v.content == seen);
        }
        Ok(())
    }
}

/// The rule that forbids a sector to show this.
fn rule_of(sector: u64, seen: Content, went_bad: bool, allowed: &[&Version]) -> Rule {
    let lost = allowed.iter().any(|v| v.content == Content::Lost);
    match seen {
        // A loss that nature did not bring; else it was overwritten, and that write is gone.
        Content::Lost if !went_bad => Rule::C4,
        // Zeroes, garbage or old contents where there are none.
        Content::Stamp { sector: named, .. } if named == sector && lost => Rule::C3,
        Content::Garbage | Content::Zero if lost => Rule::C3,
        Content::Garbage => Rule::C2,
        Content::Stamp { sector: named, .. } if named != sector => Rule::C2,
        _ => Rule::C1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(counter: u32) -> Content {
        Content::Stamp { sector: 0, counter }
    }

    #[test]
    fn an_acknowledged_write_hides_and_a_durable_one_forbids() {
        let mut oracle = Oracle::adopt(1);
        oracle.begin(0, stamp(1), 1, 10);
        assert!(oracle.clone().check(0, stamp(0), 11, 11).is_ok());
        assert!(oracle.clone().check(0, stamp(1), 11, 11).is_ok());
        oracle.end(0, 1, true, false, 12, 12);
        assert!(oracle.clone().check(0, stamp(0), 13, 13).is_err());
        assert!(
            oracle.clone().check(0, stamp(0), 11, 11).is_ok(),
            "a read that began before may show the old one"
        );
        let mut crashed = oracle.clone();
        crashed.crash(14);
        assert!(crashed.clone().check(0, stamp(0), 15, 15).is_ok());
        assert!(crashed.check(0, stamp(1), 15, 15).is_ok());
        assert!(crashed.check(0, stamp(0), 16, 16).is_err(), "what was seen after the crash stays");
        oracle.flushed(13, 13);
        oracle.crash(14);
        assert!(oracle.clone().check(0, stamp(0), 15, 15).is_err());
        assert!(oracle.check(0, stamp(1), 15, 15).is_ok());
    }

    #[test]
    fn loss_must_have_a_cause_and_stays_until_it_is_overwritten() {
        let mut oracle = Oracle::adopt(1);
        assert!(oracle.check(0, Content::Lost, 5, 5).is_err());
        oracle.lose(0, 6);
        assert!(oracle.clone().check(0, stamp(0), 7, 7).is_ok());
        assert!(oracle.check(0, Content::Lost, 7, 7).is_ok());
        assert!(oracle.check(0, stamp(0), 8, 8).is_err(), "the old contents do not come back");
        oracle.begin(0, Content::Zero, 1, 9);
        oracle.end(0, 1, true, true, 10, 10);
        assert!(oracle.check(0, Content::Lost, 11, 11).is_err());
        assert!(oracle.check(0, Content::Zero, 11, 11).is_ok());
    }

    #[test]
    fn a_sector_that_reads_again_gives_what_it_held_and_nothing_older() {
        let mut oracle = Oracle::adopt(1);
        oracle.begin(0, stamp(1), 1, 1);
        oracle.end(0, 1, true, true, 2, 3);
        oracle.lose(0, 4);
        assert!(oracle.check(0, Content::Lost, 5, 5).is_ok());
        assert!(oracle.clone().check(0, stamp(1), 6, 6).is_err());
        oracle.crash(7);
        assert!(oracle.clone().check(0, stamp(1), 8, 8).is_err());
        oracle.heal(0);
        assert!(oracle.check(0, stamp(1), 9, 9).is_ok());
        assert!(oracle.check(0, stamp(0), 9, 9).is_err());
    }

    #[test]
    fn a_flush_that_failed_puts_in_doubt_what_was_acknowledged_since_the_last() {
        let mut oracle = Oracle::adopt(1);
        oracle.begin(0, stamp(1), 1, 1);
        oracle.end(0, 1, true, true, 2, 3);
        oracle.begin(0, stamp(2), 2, 4);
        oracle.end(0, 2, true, false, 5, 6);
        assert!(oracle.doubt(0));
        assert!(oracle.clone().check(0, stamp(1), 7, 7).is_ok());
        assert!(oracle.clone().check(0, stamp(2), 7, 7).is_ok());
        assert!(oracle.clone().check(0, stamp(0), 7, 7).is_err());
        oracle.flushed(8, 9);
        assert!(oracle.clone().check(0, stamp(1), 10, 10).is_ok(), "a later flush brings nothing back");
        assert!(!oracle.doubt(0), "it was told already");
    }

    #[test]
    fn a_failed_write_may_have_happened() {
        let mut oracle = Oracle::adopt(1);
        oracle.begin(0, stamp(1), 1, 1);
        oracle.end(0, 1, false, false, 2, 2);
        assert!(oracle.check(0, stamp(0), 3, 3).is_ok());
        assert!(oracle.check(0, stamp(1), 3, 3).is_ok());
        assert!(oracle.check(0, stamp(2), 3, 3).is_err());
    }
}
