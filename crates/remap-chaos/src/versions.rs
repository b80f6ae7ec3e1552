//! The log of versions: for every sector of the export what may be there, and what happened to it.
//!
//! Invariant: an event is in the log before the server can know of it, and an outcome only after the client knows it; so
//! the log never allows less than the contract does, and its clock orders what the clients can order.

use std::fmt::Write as _;
use std::ops::Range;

use remap_sim::oracle::Oracle;
use remap_sim::stamp::Content;

/// Events of a sector that a violation shows.
const SHOWN: usize = 40;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Write,
    DurableWrite,
    Zeroes,
    Trim,
    Flush,
    WentBad,
    Killed,
    Stopped,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    Open,
    Well,
    Failed,
}

#[derive(Clone, Copy, Debug)]
struct Event {
    what: What,
    client: u8,
    first: u64,
    end: u64,
    begun: u64,
    over: u64,
    ended: Ended,
}

/// A change that was sent.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    number: u32,
    /// The counter in its stamps: its number, or that of the change that it repeats.
    stamp: u32,
    sectors: Range<u64>,
    what: What,
    begun: u64,
}

impl Change {
    pub(crate) fn stamp(&self) -> u32 {
        self.stamp
    }

    pub(crate) fn sectors(&self) -> Range<u64> {
        self.sectors.clone()
    }

    pub(crate) fn what(&self) -> What {
        self.what
    }
}

/// The log.
pub(crate) struct Log {
    oracle: Oracle,
    tick: u64,
    /// When each read that is under way began.
    reads: Vec<u64>,
    /// By number of the change; number 0 is what was there before.
    events: Vec<Event>,
    /// What is acknowledged survives without a flush.
    durable: bool,
    pub(crate) verified: u64,
    /// Sectors that were read in vain, and rightly so.
    pub(crate) lost: u64,
    pub(crate) writes: u64,
    pub(crate) flushes: u64,
}

impl Log {
    /// All sectors hold what they held before they were adopted (write 0). `durable`: nothing is lost but by SIGKILL.
    pub(crate) fn adopt(sectors: u64, durable: bool) -> Self {
        let before = Event {
            what: What::Write,
            client: 0,
            first: 0,
            end: sectors,
            begun: 0,
            over: 0,
            ended: Ended::Well,
        };
        Self {
            oracle: Oracle::adopt(sectors),
            tick: 1,
            reads: Vec::new(),
            events: vec![before],
            durable,
            verified: 0,
            lost: 0,
            writes: 0,
            flushes: 0,
        }
    }

    fn clock(&mut self) -> u64 {
        self.tick += 1;
        self.tick
    }

    fn oldest(&self) -> u64 {
        self.reads.iter().copied().min().unwrap_or(self.tick)
    }

    fn add(&mut self, what: What, client: u8, sectors: &Range<u64>) -> Change {
        let begun = self.clock();
        let event = Event {
            what,
            client,
            first: sectors.start,
            end: sectors.end,
            begun,
            over: 0,
            ended: Ended::Open,
        };
        self.events.push(event);
        let number = u32::try_from(self.events.len() - 1).unwrap_or(u32::MAX);
        Change { number, stamp: number, sectors: sectors.clone(), what, begun }
    }

    fn close(&mut self, change: &Change, well: bool) -> u64 {
        let over = self.clock();
        if let Some(event) = self.events.get_mut(change.number as usize) {
            (event.over, event.ended) = (over, if well { Ended::Well } else { Ended::Failed });
        }
        over
    }

    /// A client is about to send a change of these sectors.
    pub(crate) fn begin(&mut self, what: What, client: u8, sectors: &Range<u64>) -> Change {
        let change = self.add(what, client, sectors);
        self.allow(&change);
        change
    }

    /// A client is about to send a change once more, of which it does not know what became (C10).
    pub(crate) fn begin_again(&mut self, client: u8, old: &Change) -> Change {
        let change = Change { stamp: old.stamp, ..self.add(old.what, client, &old.sectors) };
        self.allow(&change);
        change
    }

    fn allow(&mut self, change: &Change) {
        for sector in change.sectors.clone() {
            let content = match change.what {
                What::Write | What::DurableWrite => Content::Stamp { sector, counter: change.stamp },
                _ => Content::Zero,
            };
            self.oracle.begin(sector, content, u64::from(change.number), change.begun);
        }
    }

    /// It was acknowledged, or failed, or nobody knows.
    pub(crate) fn end(&mut self, change: &Change, acknowledged: bool) {
        let over = self.close(change, acknowledged);
        self.writes += u64::from(acknowledged);
        // A trim is a hint: afterwards the sector holds what it held, or zeroes.
        let counts = acknowledged && change.what != What::Trim;
        let durable = self.durable || change.what == What::DurableWrite;
        let oldest = self.oldest();
        for sector in change.sectors.clone() {
            self.oracle.end(sector, u64::from(change.number), counts, durable, over, oldest);
        }
    }

    /// A client is about to flush.
    pub(crate) fn begin_flush(&mut self, client: u8) -> Change {
        self.add(What::Flush, client, &(0..0))
    }

    /// The flush ended.
    pub(crate) fn end_flush(&mut self, flush: &Change, acknowledged: bool) {
        self.close(flush, acknowledged);
        if acknowledged {
            self.flushes += 1;
            let oldest = self.oldest();
            self.oracle.flushed(flush.begun, oldest);
        }
    }

    /// A client is about to read.
    pub(crate) fn begin_read(&mut self) -> u64 {
        let begun = self.clock();
        self.reads.push(begun);
        begun
    }

    /// The read ended; `seen` has what was found, by sector, where anything is known.
    ///
    /// # Errors
    /// The violation, with the sector's history.
    pub(crate) fn end_read(
        &mut self,
        begun: u64,
        seen: impl Iterator<Item = (u64, Content)>,
    ) -> Result<(), String> {
        let now = self.clock();
        let mut outcome = Ok(());
        for (sector, content) in seen {
            self.verified += 1;
            self.lost += u64::from(content == Content::Lost);
            if let (Ok(()), Err(violation)) = (&outcome, self.oracle.check(sector, content, begun, now)) {
                outcome = Err(format!("{violation}\n{}", self.history(sector)));
            }
        }
        if let Some(place) = self.reads.iter().position(|&read| read == begun) {
            self.reads.swap_remove(place);
        }
        outcome
    }

    /// These sectors of the medium are bad from now on.
    pub(crate) fn lose(&mut self, sectors: &Range<u64>) {
        let event = self.add(What::WentBad, 0, sectors);
        self.close(&event, true);
        sectors.clone().for_each(|sector| self.oracle.lose(sector, event.begun));
    }

    /// The server is dead. `clean`: it was asked to end, and flushed.
    pub(crate) fn end_life(&mut self, clean: bool) {
        let event = self.add(if clean { What::Stopped } else { What::Killed }, 0, &(0..0));
        let now = self.close(&event, true);
        if clean {
            self.oracle.flushed(now, now);
        }
        self.reads.clear();
        self.oracle.crash(now);
    }

    /// What happened to a sector, the last events of it.
    fn history(&self, sector: u64) -> String {
        let concerns = |event: &Event| event.first == event.end || (event.first..event.end).contains(&sector);
        let all: Vec<(usize, &Event)> =
            self.events.iter().enumerate().filter(|(_, event)| concerns(event)).collect();
        // Flushes and kills say something only after the first change that is shown.
        let changes: Vec<usize> = (0..all.len()).filter(|&n| all[n].1.first != all[n].1.end).collect();
        let from = changes.len().checked_sub(SHOWN / 4).map_or(0, |n| changes[n]);
        let mut text = format!("history of sector {sector} (times are of the log):\n");
        let shown = &all[from..];
        for (place, (number, event)) in shown.iter().enumerate() {
            if event.what == What::Flush && place + SHOWN < shown.len() {
                continue;
            }
            let Event { what, client, first, end, begun, over, ended } = event;
            let range = if first == end { String::new() } else { format!(" of {first}-{}", end - 1) };
            // Writing to a string does not fail.
            let _ = writeln!(
                text,
                "  {begun:>9} to {over:<9} {number:>7} client {client}: {what:?}{range}, {ended:?}"
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(log: &mut Log, sector: u64, content: Content) -> Result<(), String> {
        let begun = log.begin_read();
        log.end_read(begun, std::iter::once((sector, content)))
    }

    fn write(log: &mut Log, what: What, acknowledged: bool) -> Content {
        let change = log.begin(what, 1, &(2..4));
        log.end(&change, acknowledged);
        Content::Stamp { sector: 2, counter: change.stamp() }
    }

    const BEFORE: Content = Content::Stamp { sector: 2, counter: 0 };

    #[test]
    fn without_a_cache_what_was_acknowledged_survives() {
        let mut log = Log::adopt(8, true);
        let first = write(&mut log, What::Write, true);
        let open = log.begin(What::Write, 2, &(2..3));
        log.end_life(false);
        assert!(seen(&mut log, 2, BEFORE).unwrap_err().contains("history of sector 2"));
        let open = Content::Stamp { sector: 2, counter: open.stamp() };
        assert_eq!(seen(&mut log, 2, open), Ok(()), "what was under way may be there");
        assert!(seen(&mut log, 2, first).is_err(), "nothing older than what was seen");
    }

    #[test]
    fn with_a_cache_only_flushed_and_durable_writes_survive() {
        let mut log = Log::adopt(8, false);
        write(&mut log, What::Write, true);
        log.end_life(false);
        assert_eq!(seen(&mut log, 2, BEFORE), Ok(()));

        write(&mut log, What::Write, true);
        let flush = log.begin_flush(1);
        log.end_flush(&flush, true);
        log.end_life(false);
        assert!(seen(&mut log, 2, BEFORE).is_err());

        let mut log = Log::adopt(8, false);
        let durable = write(&mut log, What::DurableWrite, true);
        log.end_life(false);
        assert!(seen(&mut log, 2, BEFORE).is_err());
        assert_eq!(seen(&mut log, 2, durable), Ok(()));
        let last = write(&mut log, What::Write, true);
        log.end_life(true);
        assert!(seen(&mut log, 2, durable).is_err(), "a clean stop flushes");
        assert_eq!(seen(&mut log, 2, last), Ok(()));
    }

    #[test]
    fn a_sector_is_lost_only_where_it_went_bad_and_until_it_is_written() {
        let mut log = Log::adopt(8, true);
        assert!(seen(&mut log, 2, Content::Lost).is_err());
        log.lose(&(2..3));
        assert_eq!(seen(&mut log, 2, Content::Lost), Ok(()));
        assert!(seen(&mut log, 2, BEFORE).is_err());
        let last = write(&mut log, What::Write, true);
        assert!(seen(&mut log, 2, Content::Lost).is_err());
        assert_eq!(seen(&mut log, 2, last), Ok(()));
        assert!(seen(&mut log, 3, Content::Garbage).is_err());
    }
}
