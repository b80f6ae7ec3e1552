//! What is done about a failed request that the kernel tells of.
//!
//! Invariant: the kernel's word is a suspicion; what changes the table is what the engine, or a read of ours, found itself (C4). Only a
//! medium error moves a block that can be read, or, within a budget, an error that says nothing while the same device still answers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use remap_core::engine::{BREAKER_BUDGET, BREAKER_WINDOW_NS, Command, RequestError};
use remap_core::op::{DeviceId, Fault};
use remap_core::units::{Block, Extent, SECTOR_SIZE, Sector, Slot};
use remap_format::{Cause, EntryState};
use remap_io::mapper::DeviceNumber;
use remap_io::watch::{BlockError, ErrorWatch, Source};
use remap_io::{Device, Wake, users};
use remap_runtime::Volume;

use super::own::{Requests, leaves_to_main, places, unreadable};
use crate::news::{Level, News};

/// A block that was looked at is not looked at again for so long.
const AGAIN: Duration = Duration::from_secs(30);
/// Blocks remembered for that.
const SEEN_MAX: usize = 1 << 16;
/// Moves that are asked for at a time, so that they share a suspension.
const TOGETHER: usize = 32;
/// Bytes of a request whose length the kernel did not tell, and does not limit.
const REQUEST_BYTES: u64 = 1 << 20;
/// Without a word from the kernel the sentry looks around so often.
const PATIENCE: Duration = Duration::from_secs(3600);

/// What was heard and seen.
#[derive(Debug, Default)]
pub(crate) struct SentryFigures {
    pub(crate) read_errors: AtomicU64,
    pub(crate) write_errors: AtomicU64,
    /// Sectors of the main device that were found unreadable and left to it.
    pub(crate) left_to_main: AtomicU64,
}

/// A device as the kernel names it when it fails: a stretch of a disk, in sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stretch {
    disk: DeviceNumber,
    start: u64,
    sectors: u64,
}

impl Stretch {
    fn of(device: &Device) -> Option<Self> {
        let (disk, start) = users::disk_of(device.number()?)?;
        let start = start + device.start() / SECTOR_SIZE;
        Some(Self { disk, start, sectors: device.size() / SECTOR_SIZE })
    }

    /// The part of a failed request that is on it, in its own sectors. `unknown`: its length if the kernel did not tell.
    fn part(&self, error: &BlockError, unknown: u64) -> Option<Extent> {
        if error.device != self.disk {
            return None;
        }
        let whole = Extent::new(Sector(self.start), self.sectors)?;
        let here =
            Extent::new(Sector(error.sector), error.sectors.unwrap_or(unknown).max(1))?.intersect(&whole)?;
        Extent::new(Sector(here.start().0 - self.start), here.sectors())
    }
}

/// Blocks that were looked at lately, by the kind of error.
#[derive(Debug, Default)]
struct Seen(BTreeMap<(bool, Block), Instant>);

impl Seen {
    /// Is it worth a look? From now on it is not for a while.
    fn is_news(&mut self, write: bool, block: Block, now: Instant) -> bool {
        if self.0.len() >= SEEN_MAX {
            self.0.retain(|_, at| now.duration_since(*at) < AGAIN);
        }
        if self.0.get(&(write, block)).is_some_and(|at| now.duration_since(*at) < AGAIN) {
            return false;
        }
        if self.0.len() < SEEN_MAX {
            self.0.insert((write, block), now);
        }
        true
    }
}

/// Moves on the strength of errors that say nothing: as many as the engine itself would make.
#[derive(Debug)]
struct Budget {
    since: Instant,
    used: u32,
}

impl Budget {
    fn take(&mut self, blocks: u32, now: Instant) -> bool {
        if now.duration_since(self.since) >= Duration::from_nanos(BREAKER_WINDOW_NS) {
            *self = Self { since: now, used: 0 };
        }
        let fits = self.used.saturating_add(blocks) <= BREAKER_BUDGET;
        self.used = self.used.saturating_add(if fits { blocks } else { 0 });
        fits
    }
}

/// Watches and acts, in a thread of its own.
pub(super) struct Sentry {
    volume: Volume,
    watch: ErrorWatch,
    requests: Requests,
    news: News,
    figures: Arc<SentryFigures>,
    seen: Seen,
    budget: Budget,
}

/// Starts a sentry; it ends after `stop` was set and `wake` woken.
///
/// # Errors
/// No thread.
pub(super) fn start(
    volume: &Volume,
    watch: ErrorWatch,
    news: &News,
    figures: &Arc<SentryFigures>,
    (stop, wake): (Arc<AtomicBool>, Arc<Wake>),
) -> std::io::Result<std::thread::JoinHandle<()>> {
    let (volume, news, figures) = (volume.clone(), news.clone(), Arc::clone(figures));
    let body = move || {
        let requests = match Requests::of(&volume) {
            Ok(requests) => requests,
            Err(error) => return news.say(Level::Error, &format!("errors are not acted upon: {error:#}")),
        };
        let budget = Budget { since: Instant::now(), used: 0 };
        let mut sentry = Sentry { volume, watch, requests, news, figures, seen: Seen::default(), budget };
        while !stop.load(Ordering::Acquire) {
            if let Err(error) = sentry.turn(&wake) {
                sentry.news.say(Level::Error, &format!("an error was not acted upon: {error:#}"));
                std::thread::sleep(Duration::from_secs(1));
            }
        }
    };
    std::thread::Builder::new().name("sentry".to_owned()).spawn(body)
}

/// Where the word comes from, for people.
pub(crate) fn source_words(source: Source) -> &'static str {
    match source {
        Source::Tracepoint => "the tracepoint block:block_rq_error",
        Source::KernelLog => "the kernel's log",
    }
}

impl Sentry {
    fn turn(&mut self, wake: &Wake) -> anyhow::Result<()> {
        use std::os::fd::AsFd as _;
        self.watch.wait(wake.as_fd(), PATIENCE)?;
        let errors = self.watch.take()?;
        if errors.is_empty() {
            return Ok(());
        }
        let looked_at = self.act(&errors)?;
        // Our own reads fail and are told of, too, before they end. Whatever else came is for the next turn.
        let mut later = self.watch.take()?;
        let main = Stretch::of(self.volume.main());
        later.retain(|error| {
            let part = main.and_then(|main| main.part(error, 1)).filter(|_| !error.write);
            part.is_none_or(|part| !looked_at.iter().any(|seen| seen.overlaps(&part)))
        });
        self.act(&later).map(drop)
    }

    /// Gives what was read of the main device.
    fn act(&mut self, errors: &[BlockError]) -> anyhow::Result<Vec<Extent>> {
        let main = Stretch::of(self.volume.main());
        let unknown = self.volume.main().number().and_then(users::longest_request).unwrap_or(REQUEST_BYTES);
        let unknown = unknown / SECTOR_SIZE;
        let mut read = Vec::new();
        let mut moves = Vec::new();
        for error in errors {
            match main.and_then(|main| main.part(error, suspected(error, unknown))) {
                Some(_) if !error.fault.blames_medium() => self.volume.report(DeviceId::Main, error.fault),
                Some(part) if error.write => self.write_failed(&part, error.fault, &mut moves)?,
                Some(part) => read.extend(self.read_failed(&part)?),
                None => self.spare_failed(error)?,
            }
        }
        self.move_all(moves);
        Ok(read)
    }

    fn block_of(&self, sector: Sector) -> Block {
        Block(sector.0 / u64::from(self.volume.superblock().block_sectors()))
    }

    fn extent_of(&self, block: Block) -> Option<Extent> {
        let per_block = u64::from(self.volume.superblock().block_sectors());
        let size = self.volume.superblock().main.size / SECTOR_SIZE;
        let start = block.0.checked_mul(per_block)?;
        Extent::between(Sector(start), Sector((start + per_block).min(size)))
    }

    /// A read of the main device failed: gives what was read again.
    fn read_failed(&mut self, part: &Extent) -> anyhow::Result<Vec<Extent>> {
        self.figures.read_errors.fetch_add(1, Ordering::Relaxed);
        if !self.seen.is_news(false, self.block_of(part.start()), Instant::now()) {
            return Ok(Vec::new());
        }
        let (here, _) = places(&self.volume, part)?;
        if !leaves_to_main(&self.volume)? {
            self.requests.read_all(&here)?;
            return Ok(here);
        }
        for extent in &here {
            match unreadable(self.volume.main(), extent) {
                Ok(bad) => bad.iter().for_each(|bad| self.left_to_main(bad)),
                Err(fault) => self.volume.report(DeviceId::Main, fault),
            }
        }
        Ok(here)
    }

    fn left_to_main(&mut self, bad: &Extent) {
        let (first, last) = (bad.start(), Sector(bad.end().0 - 1));
        for block in self.block_of(first).0..=self.block_of(last).0 {
            self.seen.is_news(false, Block(block), Instant::now());
        }
        self.figures.left_to_main.fetch_add(bad.sectors(), Ordering::Relaxed);
        let text = format!(
            "sectors {}-{} of the main device cannot be read; they are left to it: overwriting them gives it the chance to use others; \
             the message 'remap' moves what can be read beside them",
            first.0, last.0
        );
        self.news.say(Level::Warning, &text);
    }

    /// A write to the main device failed: which blocks are to move?
    fn write_failed(&mut self, part: &Extent, fault: Fault, moves: &mut Vec<Block>) -> anyhow::Result<()> {
        self.figures.write_errors.fetch_add(1, Ordering::Relaxed);
        let first = self.block_of(part.start());
        if !self.seen.is_news(true, first, Instant::now()) {
            return Ok(());
        }
        if self.volume.status()?.breaker.is_some() {
            let text =
                format!("a write to block {} failed; it is not moved: remapping is suspended", first.0);
            self.news.say(Level::Warning, &text);
            return Ok(());
        }
        let blocks = if fault == Fault::Unknown {
            // It says nothing: does the device answer, and is it one of these that it cannot read?
            let bad = match unreadable(self.volume.main(), part) {
                Ok(bad) => bad,
                Err(fault) => {
                    self.volume.report(DeviceId::Main, fault);
                    return Ok(());
                }
            };
            let blocks = blamed(part, &bad, u64::from(self.volume.superblock().block_sectors()));
            if blocks.is_empty() {
                let (first, last) = (part.start().0, part.end().0 - 1);
                let text = format!(
                    "a write to sectors {first}-{last} failed; which of them is bad cannot be told: nothing is moved"
                );
                self.news.say(Level::Warning, &text);
            }
            if !self.budget.take(u32::try_from(blocks.len()).unwrap_or(u32::MAX), Instant::now()) {
                self.volume.report(DeviceId::Main, Fault::Unknown);
                self.volume.command(Command::Suspend)?;
                return Ok(());
            }
            blocks
        } else {
            vec![first]
        };
        for block in blocks {
            let Some(extent) = self.extent_of(block) else { continue };
            // What is on a spare by now is not the main device's business any more.
            if !places(&self.volume, &extent)?.0.is_empty() {
                moves.push(block);
            }
        }
        Ok(())
    }

    /// Moves blocks that took no write, several at a time.
    fn move_all(&self, mut moves: Vec<Block>) {
        moves.sort_unstable();
        moves.dedup();
        let (volume, news) = (&self.volume, &self.news);
        let extents: Vec<(Block, Extent)> =
            moves.into_iter().filter_map(|block| Some((block, self.extent_of(block)?))).collect();
        for together in extents.chunks(TOGETHER) {
            std::thread::scope(|scope| {
                for &(block, extent) in together {
                    scope.spawn(move || move_one(volume, news, block, extent));
                }
            });
        }
    }

    /// A request to a spare failed, if it was one.
    fn spare_failed(&mut self, error: &BlockError) -> anyhow::Result<()> {
        let per_block = u64::from(self.volume.superblock().block_sectors());
        for (number, device) in self.volume.spares() {
            let Some(part) = Stretch::of(&device).and_then(|spare| spare.part(error, 1)) else { continue };
            if !error.fault.blames_medium() {
                self.volume.report(DeviceId::Spare(number), error.fault);
                return Ok(());
            }
            let slots = part.start().0 / per_block..part.end().0.div_ceil(per_block);
            for block in self.blocks_at(number, &slots)? {
                if !self.seen.is_news(error.write, block, Instant::now()) {
                    continue;
                }
                if error.write {
                    self.requests.renew(&self.volume, block)?;
                } else if let Some(extent) = self.extent_of(block) {
                    self.requests.read_all(&[extent])?;
                }
            }
        }
        Ok(())
    }

    /// The blocks that are on these slots of a spare. Metadata, and slots that nothing is on, are none.
    fn blocks_at(&self, spare: u8, slots: &std::ops::Range<u64>) -> anyhow::Result<Vec<Block>> {
        let mut blocks = Vec::new();
        for entry in self.volume.entries()? {
            let first = Slot(entry.slot);
            if entry.state != EntryState::Remapped || first.spare() != spare {
                continue;
            }
            let here =
                first.index().max(slots.start)..(first.index() + u64::from(entry.count)).min(slots.end);
            blocks.extend(here.map(|slot| Block(entry.block + (slot - first.index()))));
        }
        Ok(blocks)
    }
}

fn move_one(volume: &Volume, news: &News, block: Block, extent: Extent) {
    // Stopped: whoever starts next hears of the next error.
    let Ok(outcome) = volume.command(Command::Remap(extent, Cause::WriteError)) else { return };
    if let Some(error) = outcome.error {
        let text = match error {
            RequestError::Io(Fault::Medium) => format!(
                "a write to block {} failed, and nothing of it can be read: its sectors are errors until 'dm-remap message NAME heal {}+{}' puts zeroes on them",
                block.0,
                extent.start().0,
                extent.sectors()
            ),
            _ => format!("a write to block {} failed, and it could not be moved: {error:?}", block.0),
        };
        news.say(Level::Error, &text);
    }
}

/// Sectors that are suspected from the first on, if the kernel did not tell how many failed. A medium error is told with the first sector that it hit,
/// one that says nothing with the first of the request.
fn suspected(error: &BlockError, request: u64) -> u64 {
    if error.write && error.fault != Fault::Unknown { 1 } else { request }
}

/// Blocks to blame for a failed write of `part`, of which `bad` cannot be read: those; or the only one that it touches.
fn blamed(part: &Extent, bad: &[Extent], per_block: u64) -> Vec<Block> {
    let blocks = |extent: &Extent| extent.start().0 / per_block..extent.end().0.div_ceil(per_block);
    let touched = blocks(part);
    if bad.is_empty() && touched.end - touched.start == 1 {
        return vec![Block(touched.start)];
    }
    let mut found: Vec<Block> = bad.iter().flat_map(blocks).map(Block).collect();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(start: u64, sectors: u64) -> Extent {
        Extent::new(Sector(start), sectors).unwrap()
    }

    fn error(sector: u64, sectors: Option<u64>) -> BlockError {
        let device = DeviceNumber { major: 8, minor: 0 };
        BlockError { device, sector, sectors, write: false, fault: Fault::Medium }
    }

    #[test]
    fn an_error_is_cut_to_the_partition_and_its_slice() {
        let stretch = Stretch { disk: DeviceNumber { major: 8, minor: 0 }, start: 2048, sectors: 100 };
        assert_eq!(stretch.part(&error(2048, Some(8)), 1), Some(extent(0, 8)));
        assert_eq!(stretch.part(&error(2040, Some(16)), 1), Some(extent(0, 8)));
        assert_eq!(stretch.part(&error(2140, None), 64), Some(extent(92, 8)));
        assert_eq!(stretch.part(&error(2148, Some(8)), 1), None);
        assert_eq!(stretch.part(&error(0, Some(2048)), 1), None);
        let other = Stretch { disk: DeviceNumber { major: 8, minor: 16 }, ..stretch };
        assert_eq!(other.part(&error(2048, Some(8)), 1), None);
    }

    #[test]
    fn a_write_blames_what_cannot_be_read_or_the_only_block() {
        assert_eq!(blamed(&extent(80, 8), &[], 8), [Block(10)]);
        assert_eq!(blamed(&extent(82, 2), &[], 8), [Block(10)]);
        assert_eq!(blamed(&extent(80, 16), &[], 8), [], "it could be either");
        assert_eq!(blamed(&extent(80, 64), &[extent(95, 2), extent(100, 1)], 8), [Block(11), Block(12)]);
    }

    #[test]
    fn an_error_without_a_length_blames_nobody_who_may_be_innocent() {
        let failed = |write, fault| BlockError { write, fault, ..error(80, None) };
        assert_eq!(suspected(&failed(true, Fault::Medium), 2048), 1);
        assert_eq!(suspected(&failed(true, Fault::Unknown), 2048), 2048, "of a whole request");
        assert_eq!(suspected(&failed(false, Fault::Medium), 2048), 2048, "a read is looked at anyway");
    }

    #[test]
    fn a_block_is_looked_at_once_in_a_while() {
        let (mut seen, now) = (Seen::default(), Instant::now());
        assert!(seen.is_news(false, Block(1), now));
        assert!(!seen.is_news(false, Block(1), now + AGAIN / 2));
        assert!(seen.is_news(true, Block(1), now), "a write is another matter");
        assert!(seen.is_news(false, Block(1), now + AGAIN));
    }

    #[test]
    fn what_is_remembered_has_a_limit_and_makes_room() {
        let (mut seen, now) = (Seen::default(), Instant::now());
        let most = SEEN_MAX as u64;
        assert!(seen.is_news(false, Block(0), now));
        let later = now + AGAIN / 2;
        assert!((1..most).all(|block| seen.is_news(false, Block(block), later)));
        assert!(
            seen.is_news(false, Block(most), later) && seen.is_news(false, Block(most), later),
            "no room"
        );
        // The first one is old by now, and only that one.
        assert!(seen.is_news(false, Block(most), now + AGAIN));
        assert!(!seen.is_news(false, Block(most), now + AGAIN));
        assert!(!seen.is_news(false, Block(1), now + AGAIN));
        assert!(seen.is_news(false, Block(0), now + AGAIN));
        assert_eq!(seen.0.len(), SEEN_MAX);
    }

    #[test]
    fn a_burst_of_errors_that_say_nothing_ends_at_the_budget() {
        let now = Instant::now();
        let mut budget = Budget { since: now, used: 0 };
        assert!(budget.take(BREAKER_BUDGET, now));
        assert!(!budget.take(1, now));
        assert!(budget.take(1, now + Duration::from_nanos(BREAKER_WINDOW_NS)));
    }
}
