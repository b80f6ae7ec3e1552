//! What is in a sector: every sector written names itself, so that a misplaced or stale one gives itself away.
//!
//! Invariant: a stamped sector is one 64-bit word repeated; the word holds the volume's sector and the write's number.

use core::fmt;

/// Bytes of a sector.
pub const SECTOR: usize = 512;
const COUNTER_BITS: u32 = 32;
const TAG_BITS: u32 = 8;
/// In every stamp, so that no stamp is zero.
const TAG: u64 = 0xa5;

/// Contents of a sector as a client sees them.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum Content {
    /// Written for `sector` of the volume by write number `counter` (0: there before the volume was adopted).
    Stamp {
        /// Which sector it was written for.
        sector: u64,
        /// Which write.
        counter: u32,
    },
    /// All zero.
    Zero,
    /// None: reading fails.
    Lost,
    /// Nothing that anybody wrote.
    Garbage,
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stamp { sector, counter } => write!(f, "sector {sector} write {counter}"),
            Self::Zero => f.write_str("zeroes"),
            Self::Lost => f.write_str("lost"),
            Self::Garbage => f.write_str("garbage"),
        }
    }
}

/// Fills a sector with the stamp of a write.
pub fn fill(sector: u64, counter: u32, bytes: &mut [u8]) {
    let word = (sector << (COUNTER_BITS + TAG_BITS)) | (u64::from(counter) << TAG_BITS) | TAG;
    for chunk in bytes.chunks_exact_mut(8) {
        chunk.copy_from_slice(&word.to_le_bytes());
    }
}

/// What a sector's bytes say.
#[must_use]
pub fn read(bytes: &[u8]) -> Content {
    let Some((first, _)) = bytes.split_first_chunk::<8>() else { return Content::Garbage };
    if bytes[8..] != bytes[..bytes.len() - 8] {
        return Content::Garbage;
    }
    let word = u64::from_le_bytes(*first);
    if word == 0 {
        return Content::Zero;
    }
    if word & 0xff != TAG {
        return Content::Garbage;
    }
    let counter = (word >> TAG_BITS) as u32;
    Content::Stamp { sector: word >> (COUNTER_BITS + TAG_BITS), counter }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_read_back() {
        let mut bytes = [0u8; SECTOR];
        assert_eq!(read(&bytes), Content::Zero);
        fill(77, 5, &mut bytes);
        assert_eq!(read(&bytes), Content::Stamp { sector: 77, counter: 5 });
        bytes[300] ^= 1;
        assert_eq!(read(&bytes), Content::Garbage);
        assert_eq!(read(&[0xee; SECTOR]), Content::Garbage);
    }
}
