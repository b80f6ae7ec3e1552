//! Maps of bad sectors: what GNU ddrescue, badblocks and plain lists say about a device.
//!
//! Invariant: the runs of a [`BadMap`] are sorted, do not overlap, neighbours differ in status, and there are at most
//! [`RUNS_MAX`]; so no text can exhaust memory.

mod parse;
mod write;

use remap_core::units::{Extent, SECTOR_SIZE, Sector};

pub use parse::{ParseError, Problem};

/// Most runs that a map may have.
pub const RUNS_MAX: usize = 4 << 20;

/// What is known about a run of sectors; ddrescue's characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    /// `+` was read.
    Finished,
    /// `?` was not tried.
    NonTried,
    /// `*` failed, its edges not yet found.
    NonTrimmed,
    /// `/` failed, its sectors not yet tried one by one.
    NonScraped,
    /// `-` cannot be read.
    Bad,
}

impl Status {
    /// All, from the best to the worst. Where two share a sector the worse one has it.
    pub const ALL: [Self; 5] =
        [Self::Finished, Self::NonTried, Self::NonTrimmed, Self::NonScraped, Self::Bad];

    /// Its character in a ddrescue map file.
    #[must_use]
    pub fn symbol(self) -> char {
        match self {
            Self::Finished => '+',
            Self::NonTried => '?',
            Self::NonTrimmed => '*',
            Self::NonScraped => '/',
            Self::Bad => '-',
        }
    }

    /// The status with this character.
    #[must_use]
    pub fn of(symbol: char) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.symbol() == symbol)
    }
}

/// Sectors with one status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Which sectors.
    pub extent: Extent,
    /// What is known about them.
    pub status: Status,
}

/// How a map is written down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Found out from the text. Plain numbers are sectors, or blocks if a block size is given.
    #[default]
    Auto,
    /// A GNU ddrescue map file (HDDSuperClone writes the same).
    Ddrescue,
    /// Block numbers as badblocks writes them; needs the block size.
    Badblocks,
    /// 512-byte sectors: `4711`, `100-199` (both included), `0x1f00`, separated by line ends or `;`.
    List,
}

impl Format {
    /// All names that [`Self::named`] knows.
    pub const NAMES: [&'static str; 4] = ["auto", "ddrescue", "badblocks", "list"];

    /// The format with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "auto" => Some(Self::Auto),
            "ddrescue" => Some(Self::Ddrescue),
            "badblocks" => Some(Self::Badblocks),
            "list" => Some(Self::List),
            _ => None,
        }
    }
}

/// A map of sectors and their status. Sectors that no run names are unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BadMap {
    runs: Vec<Run>,
}

impl BadMap {
    /// Reads a map. `block_size` in bytes (a power of two from 512 to 1 MiB) is what badblocks was run with.
    ///
    /// # Errors
    /// [`ParseError`] names the line, its text, and what was expected.
    pub fn parse(text: &str, format: Format, block_size: Option<u32>) -> Result<Self, ParseError> {
        parse::parse(text, format, block_size)
    }

    /// A map of these runs in any order; where they overlap the worse status wins.
    ///
    /// # Errors
    /// The number of runs, when they are more than [`RUNS_MAX`].
    pub fn from_runs(runs: impl IntoIterator<Item = Run>) -> Result<Self, usize> {
        let mut runs: Vec<Run> = runs.into_iter().take(RUNS_MAX + 1).collect();
        if runs.len() > RUNS_MAX {
            return Err(runs.len());
        }
        runs.sort_unstable_by_key(|run| (run.extent.start(), run.extent.end()));
        Ok(Self { runs: flatten(&runs) })
    }

    /// The runs in order.
    #[must_use]
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// The runs with one of these statuses, neighbours merged.
    pub fn extents(&self, statuses: &[Status]) -> impl Iterator<Item = Extent> {
        let mut wanted =
            self.runs.iter().filter(|run| statuses.contains(&run.status)).map(|run| run.extent).peekable();
        std::iter::from_fn(move || {
            let mut extent = wanted.next()?;
            while let Some(next) = wanted.next_if(|next| next.start() == extent.end()) {
                extent = Extent::between(extent.start(), next.end())?;
            }
            Some(extent)
        })
    }

    /// Number of sectors with one of these statuses.
    #[must_use]
    pub fn sectors(&self, statuses: &[Status]) -> u64 {
        self.extents(statuses).map(|extent| extent.sectors()).sum()
    }

    /// One past the last sector that the map names; 0 for an empty map.
    #[must_use]
    pub fn end(&self) -> Sector {
        self.runs.last().map_or(Sector(0), |run| run.extent.end())
    }
}

/// Sectors of a byte range. What is not finished covers every sector that it touches; what is finished only those that
/// it covers whole.
fn sectors_of(start: u64, end: u64, status: Status) -> Option<Extent> {
    let (first, last) = if status == Status::Finished {
        (start.div_ceil(SECTOR_SIZE), end / SECTOR_SIZE)
    } else {
        (start / SECTOR_SIZE, end.div_ceil(SECTOR_SIZE))
    };
    Extent::between(Sector(first), Sector(last))
}

/// Makes runs, sorted by start, disjoint and merges equal neighbours: at each sector the worst status wins.
fn flatten(sorted: &[Run]) -> Vec<Run> {
    let mut flat: Vec<Run> = Vec::with_capacity(sorted.len());
    // How far the runs of each status that began so far reach; so nested runs cost no more than others.
    let mut reach = [0_u64; Status::ALL.len()];
    let mut at = 0;
    let mut later = sorted.iter().peekable();
    loop {
        while let Some(run) = later.next_if(|run| run.extent.start().0 <= at) {
            let reach = &mut reach[run.status as usize];
            *reach = (*reach).max(run.extent.end().0);
        }
        let begins = later.peek().map(|run| run.extent.start().0);
        let worst = Status::ALL.into_iter().rev().find(|&status| reach[status as usize] > at);
        let next = match (worst, begins) {
            (None, None) => return flat,
            (None, Some(begins)) => begins,
            (Some(status), begins) => reach[status as usize].min(begins.unwrap_or(u64::MAX)),
        };
        if let (Some(status), Some(extent)) = (worst, Extent::between(Sector(at), Sector(next))) {
            append(&mut flat, Run { extent, status });
        }
        at = next;
    }
}

/// Adds a run behind the last one, or makes the last one longer.
fn append(runs: &mut Vec<Run>, run: Run) {
    if let Some(last) = runs.last_mut()
        && last.status == run.status
        && last.extent.end() == run.extent.start()
        && let Some(joined) = Extent::between(last.extent.start(), run.extent.end())
    {
        last.extent = joined;
        return;
    }
    runs.push(run);
}

#[cfg(test)]
mod tests;
