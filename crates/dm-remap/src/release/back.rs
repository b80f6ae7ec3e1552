//! `release` without `--to`: every remapped block goes back to the main device.
//!
//! Invariant: an entry is dropped only when the main device holds its bytes durably; what could not be written back stays
//! on the spare, and then the volume is not marked as released.

use anyhow::{Context as _, ensure};
use remap_core::engine::{Command, RequestError};
use remap_core::units::{Extent, Sector};
use remap_format::{Entry, EntryState};
use remap_runtime::Volume;

/// Blocks per command, so that progress can be shown.
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
    for entry in before.iter().filter(|e| e.state == EntryState::Remapped) {
        for first in (entry.block..entry.end()).step_by(usize::try_from(STEP)?) {
            let end = (first + STEP).min(entry.end());
            let extent = Extent::between(Sector(first * block_sectors), Sector(end * block_sectors));
            let extent = extent.context("a run of blocks is not empty")?;
            let outcome = volume.command(Command::Clear(extent))?;
            if back.error.is_none() {
                back.error = outcome.error;
            }
            done += end - first;
            progress(done);
        }
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
