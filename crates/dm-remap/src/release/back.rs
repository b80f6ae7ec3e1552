//! `release` without `--to`: every remapped block goes back to the main device.
//!
//! Invariant: an entry is dropped only when the main device holds its bytes durably; what could not be written back stays
//! on the spare, and then the volume is not marked as released.

use std::ops::Range;

use anyhow::{Context as _, ensure};
use remap_core::engine::{Command, RequestError};
use remap_core::units::{Extent, Sector};
use remap_format::{Entry, EntryState};
use remap_runtime::Volume;

/// Blocks that go back by one command: many, because they share flushes and commits; not all, so that progress can be shown.
const STEP: u64 = 1024;

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Back {
    /// Blocks that were on a spare and are back on the main device.
    pub moved: u64,
    /// Entries that still name slots: the main device did not take them.
    pub kept: Vec<Entry>,
    /// The first reason for that.
    pub error: Option<RequestError>,
    /// Sectors that no device holds.
    pub lost: Vec<Extent>,
    /// The spares are marked as released.
    pub released: bool,
}

/// Blocks on a spare.
pub(crate) fn remapped_blocks(entries: &[Entry]) -> u64 {
    entries.iter().filter(|e| e.state == EntryState::Remapped).map(|e| u64::from(e.count)).sum()
}

/// Copies everything back and, if nothing was left behind, marks the spares as released. `progress` gets the blocks done.
///
/// # Errors
/// The volume stopped, or the mark could not be written.
pub(crate) fn copy_back(volume: &Volume, progress: &dyn Fn(u64)) -> anyhow::Result<Back> {
    let before = volume.entries()?;
    let block_sectors = u64::from(volume.superblock().block_sectors());
    let mut back = Back::default();
    let mut done = 0;
    for (blocks, moved) in stretches(&before, STEP) {
        let extent =
            Extent::between(Sector(blocks.start * block_sectors), Sector(blocks.end * block_sectors));
        let extent = extent.context("a run of blocks is not empty")?;
        let outcome = volume.command(Command::Clear(extent))?;
        if back.error.is_none() {
            back.error = outcome.error;
        }
        done += moved;
        progress(done);
    }
    let after = volume.entries()?;
    back.kept = after.iter().filter(|e| e.state == EntryState::Remapped).copied().collect();
    back.moved = remapped_blocks(&before) - remapped_blocks(&back.kept).min(remapped_blocks(&before));
    back.lost = volume.lost()?;
    if back.kept.is_empty() {
        let outcome = volume.command(Command::Release)?;
        ensure!(
            outcome.error.is_none(),
            "the spares could not be marked as released: their metadata cannot be written; all blocks are back on the main \
             device"
        );
        back.released = true;
    }
    Ok(back)
}

/// Runs of blocks with at most `step` on a spare each, and how many those are; the others in a run have no entry.
fn stretches(entries: &[Entry], step: u64) -> Vec<(Range<u64>, u64)> {
    let mut all: Vec<(Range<u64>, u64)> = Vec::new();
    let mut grows = false;
    for entry in entries {
        let remapped = entry.state == EntryState::Remapped;
        let mut at = entry.block;
        while remapped && at < entry.end() {
            match all.last_mut().filter(|(_, blocks)| grows && *blocks < step) {
                Some((run, blocks)) => {
                    let more = (step - *blocks).min(entry.end() - at);
                    (run.end, *blocks) = (at + more, *blocks + more);
                    at += more;
                }
                None => all.push((at..at, 0)),
            }
            grows = true;
        }
        grows &= remapped;
    }
    all
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::FileExt as _;
    use std::path::Path;
    use std::sync::Arc;

    use remap_core::op::RequestKind;
    use remap_format::Policy;
    use remap_io::{Device, Drill};
    use remap_runtime::front::{Export as _, FrontError, FrontRequest, Interest, Queue as _};
    use remap_runtime::{AdoptOptions, OpenOptions, adopt, examine};

    use super::*;

    const BLOCK: u64 = 4096;

    fn device(path: &Path) -> Device {
        let options = remap_io::OpenOptions { write: true, ..remap_io::OpenOptions::default() };
        Device::open(path, &options).unwrap()
    }

    fn open(dir: &Path, bad: &str) -> (Volume, Arc<Drill>) {
        let drill = Arc::new(Drill::parse(&format!("bad=sectors:{bad},errno=ENODATA")).unwrap());
        let main = device(&dir.join("main")).with_drill(Arc::clone(&drill));
        let (volume, _) =
            Volume::open(main, vec![device(&dir.join("spare"))], OpenOptions::default()).unwrap();
        (volume, drill)
    }

    /// Overwrites a block.
    fn write(volume: &Volume, block: u64, byte: u8) -> Result<(), FrontError> {
        let mut queue = volume.queue().unwrap();
        let mut buf = queue.buffer(usize::try_from(BLOCK).unwrap());
        buf.bytes_mut().fill(byte);
        let kind = RequestKind::Write { fua: true };
        queue.submit(1, FrontRequest { kind, offset: block * BLOCK, len: BLOCK }, Some(buf));
        let nothing = File::open("/dev/null").unwrap();
        loop {
            if let Some(done) = queue.next() {
                return done.result;
            }
            queue.wait(nothing.as_fd(), Interest::default(), None).unwrap();
        }
    }

    #[test]
    fn blocks_go_back_many_at_a_time_and_those_without_slots_are_left_alone() {
        let entry = |block, count, state| Entry {
            block,
            count,
            slot: 0,
            lost: 0,
            state,
            cause: remap_format::Cause::Manual,
            flags: remap_format::EntryFlags::default(),
            errors: 0,
            time: 0,
        };
        let remapped = |block, count| entry(block, count, EntryState::Remapped);
        let entries = [
            remapped(5, 1),
            remapped(9, 2),
            entry(20, 1, EntryState::Pending),
            remapped(30, 1),
            remapped(40, 9),
            remapped(60, 1),
        ];
        let wanted = [(5..11, 3), (30..43, 4), (43..47, 4), (47..61, 3)];
        assert_eq!(stretches(&entries, 4), wanted);
        assert_eq!(stretches(&[], 4), []);
        assert_eq!(stretches(&entries[2..3], 4), []);
    }

    #[test]
    fn what_the_device_does_not_take_stays_and_keeps_the_volume_from_being_released() {
        let dir = tempfile::tempdir().unwrap();
        for (name, size) in [("main", 1 << 20), ("spare", 4 << 20)] {
            File::create(dir.path().join(name)).unwrap().set_len(size).unwrap();
        }
        let (main, spare) = (device(&dir.path().join("main")), device(&dir.path().join("spare")));
        let options = AdoptOptions {
            name: "leaving".into(),
            block_size: 4096,
            policy: Policy::RewriteThenRemap,
            lost: Vec::new(),
            force: false,
        };
        adopt(&main, &[spare], &options).unwrap();
        let (volume, drill) = open(dir.path(), "8-15;80-87");
        write(&volume, 1, 0x11).expect("heals by a remap");
        write(&volume, 10, 0xaa).expect("heals by a remap");
        assert_eq!(remapped_blocks(&volume.entries().unwrap()), 2);

        let back = copy_back(&volume, &|_| {}).unwrap();
        assert_eq!((back.moved, remapped_blocks(&back.kept), back.released), (0, 2, false));
        assert!(back.error.is_some() && back.lost.is_empty());
        volume.stop();
        drop((volume, drill));

        let (volume, _) = open(dir.path(), "80-87");
        let back = copy_back(&volume, &|_| {}).unwrap();
        assert_eq!((back.moved, remapped_blocks(&back.kept), back.released), (1, 1, false));
        volume.stop();
        drop(volume);
        let spare = device(&dir.path().join("spare"));
        examine(&[spare], false).expect("not marked as released");

        let (volume, drill) = open(dir.path(), "80-87");
        drill.set_enabled(false);
        let back = copy_back(&volume, &|_| {}).unwrap();
        assert_eq!((back.moved, back.kept.len(), back.released), (1, 0, true));
        volume.stop();
        drop(volume);
        let file = File::open(dir.path().join("main")).unwrap();
        for (block, byte) in [(1, 0x11), (10, 0xaa), (2, 0)] {
            let mut found = [1; 4096];
            file.read_exact_at(&mut found, block * BLOCK).unwrap();
            assert_eq!(found, [byte; 4096], "block {block}");
        }
        let spare = device(&dir.path().join("spare"));
        assert!(examine(&[spare], false).is_err(), "marked as released");
    }
}
