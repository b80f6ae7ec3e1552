//! What the stress commands write: every sector names itself, its version and the run, so that one that is misplaced, stale
//! or from elsewhere gives itself away.
//!
//! Invariant: a stamped sector is one 16-byte word repeated: its number on the volume, the version of its unit, and the run.

/// Bytes of a sector.
pub(crate) const SECTOR: usize = 512;
/// Bytes of a word.
const WORD: usize = 16;
/// In the run of every stamp, so that a stamp is known as one, and none is zero.
const TAG: u32 = 0xa5;

/// Which run wrote something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run(u32);

/// What a sector's bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// Written by this run.
    Stamp { sector: u64, version: u32 },
    /// Written by another run.
    Foreign { sector: u64, version: u32 },
    /// All zero.
    Zeroes,
    /// Nothing that a run wrote, or parts of several.
    Garbage,
}

impl std::fmt::Display for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stamp { sector, version } => write!(f, "sector {sector} version {version}"),
            Self::Foreign { sector, version } => {
                write!(f, "sector {sector} version {version} of another run")
            }
            Self::Zeroes => f.write_str("zeroes"),
            Self::Garbage => f.write_str("bytes that nobody wrote"),
        }
    }
}

fn word(run: Run, sector: u64, version: u32) -> [u8; WORD] {
    let whole = u128::from(sector) | u128::from(version) << 64 | u128::from(run.0) << 96;
    whole.to_le_bytes()
}

impl Run {
    /// A run told from others by a number drawn for it.
    pub(crate) fn of(drawn: u64) -> Self {
        Self((drawn as u32) << 8 | TAG)
    }

    /// Fills a sector.
    pub(crate) fn fill(self, sector: u64, version: u32, bytes: &mut [u8]) {
        let word = word(self, sector, version);
        for chunk in bytes.chunks_exact_mut(WORD) {
            chunk.copy_from_slice(&word);
        }
    }

    /// Is it this stamp, to the last byte?
    pub(crate) fn matches(self, sector: u64, version: u32, bytes: &[u8]) -> bool {
        let word = word(self, sector, version);
        bytes.chunks_exact(WORD).all(|chunk| chunk == word)
    }

    /// What a sector's bytes say.
    pub(crate) fn read(self, bytes: &[u8]) -> Content {
        let Some((first, _)) = bytes.split_first_chunk::<WORD>() else { return Content::Garbage };
        if !bytes.chunks_exact(WORD).all(|chunk| chunk == first) {
            return Content::Garbage;
        }
        let whole = u128::from_le_bytes(*first);
        let (sector, version, run) = (whole as u64, (whole >> 64) as u32, (whole >> 96) as u32);
        match run {
            _ if whole == 0 => Content::Zeroes,
            run if run == self.0 => Content::Stamp { sector, version },
            run if run & 0xff == TAG => Content::Foreign { sector, version },
            _ => Content::Garbage,
        }
    }
}

/// Nothing but zeroes?
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks_exact(WORD).all(|chunk| chunk == [0; WORD])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_read_back_and_tell_themselves_apart() {
        let (run, other) = (Run::of(7), Run::of(8));
        let mut bytes = [0; SECTOR];
        assert_eq!(run.read(&bytes), Content::Zeroes);
        run.fill(u64::MAX, 5, &mut bytes);
        assert!(run.matches(u64::MAX, 5, &bytes));
        assert!(!run.matches(u64::MAX, 4, &bytes) && !run.matches(1, 5, &bytes));
        assert_eq!(run.read(&bytes), Content::Stamp { sector: u64::MAX, version: 5 });
        assert_eq!(other.read(&bytes), Content::Foreign { sector: u64::MAX, version: 5 });
        for at in [0, 15, 300, 511] {
            let mut torn = bytes;
            torn[at] ^= 1;
            assert!(!run.matches(u64::MAX, 5, &torn));
            assert_eq!(run.read(&torn), Content::Garbage, "byte {at}");
        }
    }
}
