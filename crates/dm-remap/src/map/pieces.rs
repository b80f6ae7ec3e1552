//! A volume as a list of pieces: where each stretch of sectors is now.
//!
//! Invariant: the pieces of a volume follow each other from sector 0 to its end without gap or overlap, and no two
//! neighbours could be one piece.

use remap_core::units::{Extent, Sector, Slot};
use remap_format::{Entry, EntryState};

/// Where a piece's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// On the main device, at the same sectors.
    Main,
    /// On a spare of the volume, from this sector of the spare on.
    Spare {
        /// Which spare.
        spare: u8,
        /// First sector, counted from the start of the spare (of its slice).
        sector: u64,
    },
    /// Nowhere.
    Lost,
}

/// A stretch of the volume with one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// The volume's sectors.
    pub extent: Extent,
    /// Where they are.
    pub place: Place,
}

impl Piece {
    /// Could `next`, which follows, be one piece with this one?
    fn continues(&self, next: &Self) -> bool {
        self.extent.end() == next.extent.start()
            && match (self.place, next.place) {
                (Place::Main, Place::Main) | (Place::Lost, Place::Lost) => true,
                (Place::Spare { spare: a, sector }, Place::Spare { spare: b, sector: then }) => {
                    a == b && sector + self.extent.sectors() == then
                }
                _ => false,
            }
    }
}

/// Collects pieces in order.
struct Line {
    size: u64,
    pieces: Vec<Piece>,
}

impl Line {
    fn reached(&self) -> u64 {
        self.pieces.last().map_or(0, |p| p.extent.end().0)
    }

    /// Appends `[start, end)`, cut off at the end of the volume and at what is there already.
    fn push(&mut self, start: u64, end: u64, place: Place) {
        let from = start.max(self.reached());
        let Some(extent) = Extent::between(Sector(from), Sector(end.min(self.size))) else { return };
        let place = match place {
            Place::Spare { spare, sector } => Place::Spare { spare, sector: sector + (from - start) },
            other => other,
        };
        let piece = Piece { extent, place };
        match self.pieces.last_mut().filter(|last| last.continues(&piece)) {
            Some(last) => {
                let merged = Extent::between(last.extent.start(), extent.end());
                last.extent = merged.unwrap_or(last.extent);
            }
            None => self.pieces.push(piece),
        }
    }
}

/// The pieces of a volume of `size` sectors with blocks of `block_sectors` sectors and these entries, sorted by block.
#[must_use]
pub(crate) fn pieces<'e>(
    size: u64,
    block_sectors: u32,
    entries: impl IntoIterator<Item = &'e Entry>,
) -> Vec<Piece> {
    let mut line = Line { size, pieces: Vec::new() };
    let block = u64::from(block_sectors);
    for entry in entries {
        if !matches!(entry.state, EntryState::Pending | EntryState::Remapped) {
            continue;
        }
        let start = entry.block.saturating_mul(block);
        let end = entry.end().saturating_mul(block);
        let reached = line.reached();
        line.push(reached, start, Place::Main);
        let held = |offset: u64| match entry.state {
            EntryState::Remapped => {
                let slot = Slot(entry.slot);
                Place::Spare { spare: slot.spare(), sector: slot.index() * block + offset }
            }
            _ => Place::Main,
        };
        if entry.lost == 0 {
            line.push(start, end, held(0));
        } else if entry.lost == Entry::full_mask(block_sectors) {
            line.push(start, end, Place::Lost);
        } else {
            // Only single blocks are partly lost.
            for sector in 0..block {
                let lost = entry.lost >> sector & 1 == 1;
                line.push(start + sector, start + sector + 1, if lost { Place::Lost } else { held(sector) });
            }
        }
    }
    let reached = line.reached();
    line.push(reached, size, Place::Main);
    line.pieces
}

/// The same pieces, with these extents (sorted, apart) as lost.
#[must_use]
pub(crate) fn with_lost(pieces: &[Piece], lost: &[Extent]) -> Vec<Piece> {
    let size = pieces.last().map_or(0, |piece| piece.extent.end().0);
    let mut line = Line { size, pieces: Vec::with_capacity(pieces.len() + 2 * lost.len()) };
    let mut lost = lost.iter().peekable();
    for piece in pieces {
        let (start, end) = (piece.extent.start().0, piece.extent.end().0);
        let mut at = start;
        while at < end {
            while lost.next_if(|lost| lost.end().0 <= at).is_some() {}
            let next = lost.peek().map_or(end, |lost| lost.start().0);
            if next <= at {
                let until = lost.peek().map_or(end, |lost| lost.end().0).min(end);
                line.push(at, until, Place::Lost);
                at = until;
                continue;
            }
            let place = match piece.place {
                Place::Spare { spare, sector } => Place::Spare { spare, sector: sector + (at - start) },
                other => other,
            };
            let until = next.min(end);
            line.push(at, until, place);
            at = until;
        }
    }
    line.pieces
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use remap_format::{Cause, EntryFlags, NO_SLOT};

    /// An entry for tests.
    pub(crate) fn entry(block: u64, count: u32, slot: Option<Slot>, lost: u128) -> Entry {
        Entry {
            block,
            count,
            slot: slot.map_or(NO_SLOT, |s| s.0),
            lost,
            state: if slot.is_some() { EntryState::Remapped } else { EntryState::Pending },
            cause: Cause::ReadError,
            flags: EntryFlags::default(),
            errors: 1,
            time: 1_700_000_000,
        }
    }

    fn show(pieces: &[Piece]) -> String {
        let words: Vec<String> = pieces
            .iter()
            .map(|p| match p.place {
                Place::Main => format!("{}m", p.extent),
                Place::Spare { spare, sector } => format!("{}s{spare}@{sector}", p.extent),
                Place::Lost => format!("{}x", p.extent),
            })
            .collect();
        words.join(" ")
    }

    #[test]
    fn a_healthy_volume_is_one_piece() {
        assert_eq!(show(&pieces(100, 8, &[])), "[0,100)m");
    }

    #[test]
    fn neighbours_are_merged_across_entries() {
        let entries = [
            entry(1, 1, Some(Slot::new(0, 5)), 0),
            entry(2, 2, Some(Slot::new(0, 6)), 0),
            entry(4, 1, Some(Slot::new(1, 8)), 0),
            entry(6, 1, None, 0xff),
            entry(7, 1, None, 0x0f),
        ];
        assert_eq!(
            show(&pieces(80, 8, &entries)),
            "[0,8)m [8,32)s0@40 [32,40)s1@64 [40,48)m [48,60)x [60,80)m"
        );
    }

    #[test]
    fn extents_are_lost_across_pieces_and_inside_of_them() {
        let entries = [entry(1, 2, Some(Slot::new(0, 3)), 0), entry(4, 1, None, 0xff)];
        let pieces = pieces(80, 8, &entries);
        let lost = |extents: &[(u64, u64)]| {
            let extents: Vec<Extent> =
                extents.iter().map(|&(a, b)| Extent::between(Sector(a), Sector(b)).unwrap()).collect();
            show(&with_lost(&pieces, &extents))
        };
        assert_eq!(lost(&[]), show(&pieces));
        assert_eq!(
            lost(&[(0, 4), (6, 10), (16, 17), (39, 41), (79, 90)]),
            "[0,4)x [4,6)m [6,10)x [10,16)s0@26 [16,17)x [17,24)s0@33 [24,32)m [32,41)x [41,79)m [79,80)x"
        );
        assert_eq!(lost(&[(0, 80)]), "[0,80)x");
    }

    #[test]
    fn a_partly_lost_block_on_a_spare_is_cut_and_the_end_is_clipped() {
        let entries = [entry(1, 1, Some(Slot::new(0, 3)), 0b0110), entry(2, 1, Some(Slot::new(0, 9)), 0)];
        assert_eq!(show(&pieces(19, 8, &entries)), "[0,8)m [8,9)s0@24 [9,11)x [11,16)s0@27 [16,19)s0@72");
    }
}
