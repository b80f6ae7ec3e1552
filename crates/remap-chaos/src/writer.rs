//! A writer of files: overwrites in place, appends, replaces by rename, makes and removes; fsync makes it durable.
//!
//! Invariant: the model knows of a change before the file system does, and of its durability only after fsync returned, before the
//! server below was killed. (What it says afterwards proves nothing: a flush that nbdfuse refuses with EINVAL, because its connection is
//! dead, counts as done for the loop device.)

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use remap_sim::rng::Rng;

use crate::bench::SECTOR;
use crate::model::{Growing, PAGES, Pages, State, Whole, contents, length};

/// Files that are written as a whole.
const FILES: u64 = 24;
/// A growing file is begun anew at this length, in sectors.
const GROWN: usize = 2000;

/// A writer and what it knows of its folder.
pub(crate) struct Writer {
    /// Below the mount point.
    folder: PathBuf,
    rng: Rng,
    version: u32,
    pages: Pages,
    growing: Growing,
    files: Vec<Whole>,
    /// Nothing proves that anything became durable: the power fails within the step.
    pub(crate) cut: bool,
    pub(crate) writes: u64,
    pub(crate) flushes: u64,
    pub(crate) verified: u64,
}

impl Writer {
    /// Makes its folder and its first files, durably.
    pub(crate) fn begin(root: &Path, number: u64, seed: u64) -> io::Result<Self> {
        let folder = PathBuf::from(format!("writer-{number}"));
        // Numbers of files have 12 bits.
        let base = number << 8;
        let at = root.join(&folder);
        fs::create_dir(&at)?;
        for (name, bytes) in [("pages", contents(base, 0, PAGES, 0)), ("growing-0", Vec::new())] {
            let mut file = File::create_new(at.join(name))?;
            file.write_all(&bytes)?;
            file.sync_all()?;
        }
        File::open(&at)?.sync_all()?;
        File::open(root)?.sync_all()?;
        Ok(Self {
            folder,
            rng: Rng::seeded(seed ^ number << 48),
            version: 0,
            pages: Pages::durable(base, PAGES),
            growing: Growing::empty(base + 1, 0),
            files: (0..FILES).map(|n| Whole::absent(base + 2 + n)).collect(),
            cut: false,
            writes: 0,
            flushes: 0,
            verified: 0,
        })
    }

    /// Does something; `over` is set before the server is killed for good.
    pub(crate) fn step(&mut self, root: &Path, over: &AtomicBool) -> io::Result<()> {
        let at = root.join(&self.folder);
        self.version += 1;
        self.writes += 1;
        match self.rng.below(10) {
            0..=2 => self.overwrite(&at, over),
            3..=5 => self.grow(&at, over),
            6 | 7 => self.replace(&at, over),
            8 => self.make(&at, over),
            _ => self.remove(&at, over),
        }
    }

    fn overwrite(&mut self, at: &Path, over: &AtomicBool) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(at.join("pages"))?;
        for _ in 0..=self.rng.below(4) {
            let first = self.rng.index(PAGES);
            let count = (1 + self.rng.index(24)).min(PAGES - first);
            self.pages.begin(first, count, self.version);
            let bytes = contents(self.pages.file(), first, count, self.version);
            file.write_all_at(&bytes, first as u64 * SECTOR)?;
        }
        if self.rng.chance(2, 3) {
            proven(file.sync_data(), over)?;
            self.flushes += 1;
            if !self.cut {
                self.pages.synced();
            }
        }
        Ok(())
    }

    fn growing(&self) -> String {
        format!("growing-{}", self.growing.version())
    }

    fn grow(&mut self, at: &Path, over: &AtomicBool) -> io::Result<()> {
        if self.growing.written() >= GROWN {
            let old = at.join(self.growing());
            let next = Growing::empty(self.growing.file(), self.version);
            let file = File::create_new(at.join(format!("growing-{}", next.version())))?;
            proven(file.sync_all(), over)?;
            proven(File::open(at)?.sync_all(), over)?;
            self.flushes += 2;
            self.growing = next;
            return fs::remove_file(old);
        }
        let mut file = OpenOptions::new().append(true).open(at.join(self.growing()))?;
        let first = self.growing.written();
        let count = 1 + self.rng.index(40);
        self.growing.begin(count);
        file.write_all(&contents(self.growing.file(), first, count, self.growing.version()))?;
        if self.rng.chance(2, 3) {
            proven(file.sync_data(), over)?;
            self.flushes += 1;
            if !self.cut {
                self.growing.synced();
            }
        }
        Ok(())
    }

    fn pick(&mut self) -> (usize, String) {
        let index = self.rng.index(self.files.len());
        (index, format!("file-{index}"))
    }

    /// A whole version beside it, synced, then renamed over it.
    fn replace(&mut self, at: &Path, over: &AtomicBool) -> io::Result<()> {
        let (index, name) = self.pick();
        let file = &mut self.files[index];
        let beside = at.join("beside");
        let mut out = File::create(&beside)?;
        out.write_all(&contents(file.file(), 0, length(self.version), self.version))?;
        proven(out.sync_all(), over)?;
        file.begin(State::Whole(self.version));
        fs::rename(beside, at.join(name))?;
        self.flushes += 1;
        self.settle(at, over, index)
    }

    /// Written straight to a file that is not there yet.
    fn make(&mut self, at: &Path, over: &AtomicBool) -> io::Result<()> {
        let (index, name) = self.pick();
        let file = &mut self.files[index];
        if file.newest() != State::Absent {
            return Ok(());
        }
        let bytes = contents(file.file(), 0, length(self.version), self.version);
        file.begin(State::Partial(self.version));
        let mut out = File::create_new(at.join(name))?;
        out.write_all(&bytes)?;
        file.begin(State::Whole(self.version));
        proven(out.sync_all(), over)?;
        self.flushes += 1;
        self.settle(at, over, index)
    }

    fn remove(&mut self, at: &Path, over: &AtomicBool) -> io::Result<()> {
        let (index, name) = self.pick();
        let file = &mut self.files[index];
        if file.newest() == State::Absent {
            return Ok(());
        }
        file.begin(State::Absent);
        fs::remove_file(at.join(name))?;
        self.settle(at, over, index)
    }

    /// Mostly makes a new state of a file durable.
    fn settle(&mut self, at: &Path, over: &AtomicBool, index: usize) -> io::Result<()> {
        if self.rng.chance(3, 4) {
            proven(File::open(at)?.sync_all(), over)?;
            self.flushes += 1;
            if !self.cut {
                self.files[index].synced();
            }
        }
        Ok(())
    }

    /// The file system was unmounted cleanly.
    pub(crate) fn all_durable(&mut self) {
        self.pages.synced();
        self.growing.synced();
        self.files.iter_mut().for_each(Whole::synced);
    }

    /// Compares all files with what may be there, and makes durable what is.
    ///
    /// # Errors
    /// The violation.
    pub(crate) fn check(&mut self, root: &Path) -> Result<(), String> {
        let good = self.compare(root)?;
        let at = root.join(&self.folder);
        let growing = at.join(self.growing());
        self.tidy(&at, &growing, good).map_err(|error| format!("tidying {}: {error}", at.display()))
    }

    /// Compares all files with what may be there. Gives how much of the growing file is good, in bytes.
    ///
    /// # Errors
    /// The violation.
    pub(crate) fn compare(&mut self, root: &Path) -> Result<u64, String> {
        let at = root.join(&self.folder);
        self.verified += self.pages.check(&at.join("pages"))?;
        let (sectors, good) = self.growing.check(&at.join(self.growing()))?;
        self.verified += sectors;
        for (index, file) in self.files.iter_mut().enumerate() {
            self.verified += file.check(&at.join(format!("file-{index}")))?;
        }
        Ok(good)
    }

    /// Cuts off and removes what was half done.
    fn tidy(&mut self, at: &Path, growing: &Path, good: u64) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(growing)?;
        file.set_len(good)?;
        file.sync_all()?;
        for (index, file) in self.files.iter_mut().enumerate() {
            if matches!(file.newest(), State::Partial(_)) {
                file.begin(State::Absent);
                fs::remove_file(at.join(format!("file-{index}")))?;
                File::open(at)?.sync_all()?;
                file.synced();
            }
        }
        Ok(())
    }
}

/// What fsync said, if the server still lived then.
fn proven(synced: io::Result<()>, over: &AtomicBool) -> io::Result<()> {
    synced?;
    if over.load(Ordering::Acquire) {
        return Err(io::Error::other("the server was killed meanwhile"));
    }
    Ok(())
}
