//! Which copies to believe: a pure function, so that its cases can be a table.
//!
//! Rule: the newest generation that any whole, unfenced copy names wins, because a superblock is written only after all
//! that it names is durable, and because a copy that cannot be kept in step is fenced before the next commit is
//! acknowledged. Copies that name the same generation must agree in everything else but the area, which is each copy's own.

use remap_format::{COPIES, Superblock, newer};

/// What of a copy's superblock counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyHeader {
    /// Generation of its checkpoint.
    pub generation: u64,
    /// Entries in the checkpoint.
    pub entries: u64,
    /// Shape: pages in an area, pages in the journal.
    pub shape: (u32, u32),
}

impl CopyHeader {
    /// The header of a superblock.
    #[must_use]
    pub fn of(superblock: &Superblock) -> Self {
        Self {
            generation: superblock.generation,
            entries: superblock.entries,
            shape: (superblock.area_pages, superblock.journal_pages),
        }
    }
}

/// The outcome: a generation, and the copies that hold it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Election {
    /// Generation of the checkpoint to start from.
    pub generation: u64,
    /// Copies that name it; at least one.
    pub members: [bool; COPIES as usize],
}

/// No copy can be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ElectionError {
    /// No copy is whole.
    #[error("none of the {COPIES} metadata copies is whole; nothing was changed (see 'metadata repair')")]
    NoQuorum,
    /// Two copies are whole and say different things about the same generation.
    #[error(
        "metadata copies contradict each other about generation {generation}; nothing was changed (was a spare cloned or restored?)"
    )]
    Contradiction {
        /// Which one.
        generation: u64,
    },
}

/// Which copies to believe. `None`: the copy has no whole superblock, or is fenced.
///
/// # Errors
/// See [`ElectionError`].
pub fn elect(copies: &[Option<CopyHeader>; COPIES as usize]) -> Result<Election, ElectionError> {
    let mut best: Option<CopyHeader> = None;
    for header in copies.iter().flatten() {
        if best.is_none_or(|b| newer(header.generation, b.generation)) {
            best = Some(*header);
        }
    }
    let best = best.ok_or(ElectionError::NoQuorum)?;
    let mut members = [false; COPIES as usize];
    for (member, header) in members.iter_mut().zip(copies) {
        match header {
            Some(h) if h.generation == best.generation && *h != best => {
                return Err(ElectionError::Contradiction { generation: best.generation });
            }
            Some(h) => *member = h.generation == best.generation,
            None => {}
        }
    }
    Ok(Election { generation: best.generation, members })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy(generation: u64, entries: u64) -> Option<CopyHeader> {
        Some(CopyHeader { generation, entries, shape: (1, 8) })
    }

    #[test]
    fn cases() {
        let (old, now, wrapped, other) = (copy(7, 1), copy(8, 2), copy(2, 2), copy(8, 3));
        let last = copy(u64::MAX, 2);
        let yes =
            |members: [u8; 5], generation| Ok(Election { generation, members: members.map(|m| m == 1) });
        let cases = [
            ([now, now, now, now, now], yes([1, 1, 1, 1, 1], 8)),
            ([old, now, now, None, now], yes([0, 1, 1, 0, 1], 8)),
            ([old, old, old, old, now], yes([0, 0, 0, 0, 1], 8)),
            ([None, None, now, None, None], yes([0, 0, 1, 0, 0], 8)),
            ([last, last, wrapped, last, last], yes([0, 0, 1, 0, 0], 2)),
            ([None, None, None, None, None], Err(ElectionError::NoQuorum)),
            ([now, other, now, now, now], Err(ElectionError::Contradiction { generation: 8 })),
            ([old, copy(7, 9), now, None, None], yes([0, 0, 1, 0, 0], 8)),
        ];
        for (copies, expected) in cases {
            assert_eq!(elect(&copies), expected, "{copies:?}");
        }
    }
}
