//! What each file of a writer may hold after a power cut.
//!
//! Invariant: a state is allowed from the moment that it is asked for until an fsync made a newer one durable; what was
//! seen after a cut is the only state from then on.

use std::fs;
use std::io;
use std::path::Path;

use remap_sim::stamp::{self, Content};

use crate::bench::SECTOR;

const SECTOR_LEN: usize = SECTOR as usize;

/// Sectors of the file that is overwritten in place.
pub(crate) const PAGES: usize = 512;

/// Bytes of sector `index` of a file, as `version` wrote it.
pub(crate) fn fill(file: u64, index: usize, version: u32, bytes: &mut [u8]) {
    stamp::fill(file << 12 | index as u64, version, bytes);
}

/// A run of such sectors.
pub(crate) fn contents(file: u64, first: usize, count: usize, version: u32) -> Vec<u8> {
    let mut bytes = vec![0; count * SECTOR_LEN];
    for (index, sector) in bytes.chunks_mut(SECTOR_LEN).enumerate() {
        fill(file, first + index, version, sector);
    }
    bytes
}

fn is(bytes: &[u8], file: u64, index: usize, version: u32) -> bool {
    stamp::read(bytes) == Content::Stamp { sector: file << 12 | index as u64, counter: version }
}

/// Sectors of version `version` of a file that is written as a whole.
pub(crate) fn length(version: u32) -> usize {
    1 + version as usize * 37 % 360
}

/// A file that is overwritten in place: the versions that each sector may hold, the newest last.
#[derive(Clone, Debug)]
pub(crate) struct Pages {
    file: u64,
    allowed: Vec<Vec<u32>>,
}

impl Pages {
    /// Version 0 of all sectors is durable.
    pub(crate) fn durable(file: u64, sectors: usize) -> Self {
        Self { file, allowed: vec![vec![0]; sectors] }
    }

    pub(crate) fn file(&self) -> u64 {
        self.file
    }

    /// A write is about to be sent.
    pub(crate) fn begin(&mut self, first: usize, count: usize, version: u32) {
        self.allowed.iter_mut().skip(first).take(count).for_each(|versions| versions.push(version));
    }

    /// All writes so far are durable.
    pub(crate) fn synced(&mut self) {
        for versions in &mut self.allowed {
            versions.drain(..versions.len() - 1);
        }
    }

    /// Compares the file with what may be there. Gives the number of sectors.
    ///
    /// # Errors
    /// The violation.
    pub(crate) fn check(&mut self, path: &Path) -> Result<u64, String> {
        let bytes = read(path)?;
        let expected = self.allowed.len() * SECTOR_LEN;
        if bytes.len() != expected {
            return Err(format!("{} has {} bytes, not {expected}", path.display(), bytes.len()));
        }
        for (index, sector) in bytes.chunks(SECTOR_LEN).enumerate() {
            self.check_sector(index, sector).map_err(|wrong| format!("{}, {wrong}", path.display()))?;
        }
        Ok(self.allowed.len() as u64)
    }

    /// Compares a sector with what may be there; what is, is all that may be from now on.
    ///
    /// # Errors
    /// The violation.
    pub(crate) fn check_sector(&mut self, index: usize, sector: &[u8]) -> Result<(), String> {
        let allowed = &mut self.allowed[index];
        let Some(&version) = allowed.iter().find(|&&version| is(sector, self.file, index, version)) else {
            let found = stamp::read(sector);
            return Err(format!("sector {index}: {found:?}; allowed: versions {allowed:?}"));
        };
        *allowed = vec![version];
        Ok(())
    }

    /// May a sector be lost whose first version cannot be read any more?
    pub(crate) fn may_hold_first(&self, index: usize) -> bool {
        self.allowed[index].contains(&0)
    }
}

/// A state of a file that is made, replaced and removed as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Absent,
    /// All of a version.
    Whole(u32),
    /// A version that was written straight to the file: as much of it as got there, zeroes in between.
    Partial(u32),
}

/// Such a file: the states that it may be in, the newest last.
#[derive(Debug)]
pub(crate) struct Whole {
    file: u64,
    allowed: Vec<State>,
}

impl Whole {
    pub(crate) fn absent(file: u64) -> Self {
        Self { file, allowed: vec![State::Absent] }
    }

    pub(crate) fn file(&self) -> u64 {
        self.file
    }

    /// The state is about to be brought about.
    pub(crate) fn begin(&mut self, state: State) {
        self.allowed.push(state);
    }

    /// The newest state, as programs see it.
    pub(crate) fn newest(&self) -> State {
        self.allowed.last().copied().unwrap_or(State::Absent)
    }

    /// The newest state is durable.
    pub(crate) fn synced(&mut self) {
        self.allowed = vec![self.newest()];
    }

    /// Compares the file with what may be there. Gives the number of sectors.
    ///
    /// # Errors
    /// The violation.
    pub(crate) fn check(&mut self, path: &Path) -> Result<u64, String> {
        let bytes = match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(format!("{}: {error}", path.display())),
            Ok(bytes) => Some(bytes),
        };
        match self.allowed.iter().find(|state| self.matches(**state, bytes.as_deref())) {
            Some(&state) => {
                self.allowed = vec![state];
                Ok(bytes.map_or(1, |bytes| bytes.len() as u64 / SECTOR))
            }
            None => Err(self.violation(path, bytes.as_deref())),
        }
    }

    fn violation(&self, path: &Path, bytes: Option<&[u8]>) -> String {
        let found = bytes.map_or("absent".to_owned(), |bytes| {
            let mut runs: Vec<(usize, Option<u32>)> = Vec::new();
            for (index, sector) in bytes.chunks(SECTOR_LEN).enumerate() {
                let version = match stamp::read(sector) {
                    Content::Stamp { sector, counter } if sector == self.file << 12 | index as u64 => {
                        Some(counter)
                    }
                    _ => None,
                };
                if runs.last().is_none_or(|(_, last)| *last != version) {
                    runs.push((index, version));
                }
            }
            runs.truncate(12);
            format!("{} bytes, versions from sector on: {runs:?}", bytes.len())
        });
        format!("{}: found {found}; allowed: {:?}", path.display(), self.allowed)
    }

    fn matches(&self, state: State, bytes: Option<&[u8]>) -> bool {
        let sectors = |bytes: &[u8], version: u32, zeroes: bool| {
            bytes.chunks(SECTOR_LEN).enumerate().all(|(index, sector)| {
                is(sector, self.file, index, version) || (zeroes && sector.iter().all(|&byte| byte == 0))
            })
        };
        match (state, bytes) {
            (State::Absent, None) => true,
            (State::Whole(version), Some(bytes)) => {
                bytes.len() == length(version) * SECTOR_LEN && sectors(bytes, version, false)
            }
            (State::Partial(version), Some(bytes)) => {
                bytes.len() <= length(version) * SECTOR_LEN
                    && bytes.len().is_multiple_of(SECTOR_LEN)
                    && sectors(bytes, version, true)
            }
            _ => false,
        }
    }
}

/// A file that only grows.
#[derive(Debug)]
pub(crate) struct Growing {
    file: u64,
    version: u32,
    /// Sectors that are durable, and that were written.
    durable: usize,
    written: usize,
}

impl Growing {
    pub(crate) fn empty(file: u64, version: u32) -> Self {
        Self { file, version, durable: 0, written: 0 }
    }

    pub(crate) fn file(&self) -> u64 {
        self.file
    }

    pub(crate) fn version(&self) -> u32 {
        self.version
    }

    pub(crate) fn written(&self) -> usize {
        self.written
    }

    pub(crate) fn begin(&mut self, count: usize) {
        self.written += count;
    }

    pub(crate) fn synced(&mut self) {
        self.durable = self.written;
    }

    /// Compares the file with what may be there, and takes what is for durable. Gives the number of sectors, and the
    /// length in bytes that is good.
    ///
    /// # Errors
    /// The violation.
    pub(crate) fn check(&mut self, path: &Path) -> Result<(u64, u64), String> {
        let bytes = read(path)?;
        let (least, most) = (self.durable * SECTOR_LEN, self.written * SECTOR_LEN);
        if !(least..=most).contains(&bytes.len()) {
            return Err(format!("{} has {} bytes, not {least} to {most}", path.display(), bytes.len()));
        }
        for (index, sector) in bytes.chunks(SECTOR_LEN).enumerate() {
            let zeroes = index >= self.durable && sector.iter().all(|&byte| byte == 0);
            // The last sector of what was not synced may be cut off anywhere.
            let cut = index >= self.durable && sector.len() < SECTOR_LEN;
            if !(zeroes || cut || is(sector, self.file, index, self.version)) {
                let (path, found) = (path.display(), stamp::read(sector));
                let (durable, version) = (self.durable, self.version);
                return Err(format!(
                    "{path}, sector {index}: {found:?}, not version {version} ({durable} sectors are durable)"
                ));
            }
        }
        self.written = self.durable;
        Ok((bytes.len() as u64 / SECTOR, self.durable as u64 * SECTOR))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_hold_what_was_synced_or_written_since() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("pages");
        let mut bytes = contents(3, 0, PAGES, 0);
        let mut pages = Pages::durable(3, PAGES);
        pages.begin(5, 2, 1);
        bytes[5 * SECTOR_LEN..6 * SECTOR_LEN].copy_from_slice(&contents(3, 5, 1, 1));
        fs::write(&path, &bytes).expect("a file");
        assert_eq!(pages.check(&path), Ok(512));
        fs::write(&path, contents(3, 0, PAGES, 0)).expect("a file");
        assert!(pages.check(&path).unwrap_err().contains("sector 5"), "what was seen stays");

        let mut pages = Pages::durable(3, PAGES);
        pages.begin(5, 1, 1);
        pages.synced();
        assert!(pages.check(&path).is_err(), "what was synced is there");
        fs::write(&path, contents(4, 0, PAGES, 0)).expect("a file");
        assert!(Pages::durable(3, PAGES).check(&path).is_err(), "another file's bytes");
    }

    #[test]
    fn whole_files_are_old_or_recent_and_nothing_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        let check = |allowed: &[State]| {
            let mut file = Whole { file: 7, allowed: allowed.to_vec() };
            file.check(&path).map(|_| file.newest())
        };
        assert_eq!(check(&[State::Whole(1), State::Absent]), Ok(State::Absent));
        assert!(check(&[State::Whole(1)]).is_err());
        fs::write(&path, contents(7, 0, length(2), 2)).expect("a file");
        assert_eq!(check(&[State::Whole(1), State::Whole(2)]), Ok(State::Whole(2)));
        assert!(check(&[State::Whole(1), State::Absent]).is_err());
        fs::write(&path, &contents(7, 0, length(2), 2)[..SECTOR_LEN]).expect("a file");
        assert!(check(&[State::Whole(2)]).is_err());
        assert_eq!(check(&[State::Partial(2)]), Ok(State::Partial(2)));
    }

    #[test]
    fn a_growing_file_keeps_what_was_synced() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log");
        let grown = || {
            let mut file = Growing::empty(9, 1);
            file.begin(4);
            file.synced();
            file.begin(4);
            file
        };
        let write = |count| fs::write(&path, contents(9, 0, count, 1)).expect("a file");
        write(6);
        assert_eq!(grown().check(&path), Ok((6, 4 * SECTOR)));
        for wrong in [3, 9] {
            write(wrong);
            assert!(grown().check(&path).is_err(), "{wrong} sectors");
        }
    }
}
