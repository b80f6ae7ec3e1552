//! A volume's pieces as segments of a mapped device, and the comparison of a live table with what the metadata say.
//!
//! Invariant: the segments cover the volume exactly once, in order; every border is a multiple of the logical block; what the metadata call
//! lost, and what stands on a device that is not there, is an error.

use remap_core::units::{Block, Extent, Sector};
use remap_format::{Entry, EntryState};
use remap_io::mapper::{DeviceNumber, Segment, Target};

use crate::map::pieces::{Piece, Place, pieces, with_lost};

/// A spare as a table names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SpareNumber {
    /// Its number in the volume.
    pub(super) spare: u8,
    pub(super) device: DeviceNumber,
    /// First sector of its slice.
    pub(super) start: u64,
}

/// What a table is made for; sizes in sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) size: u64,
    pub(super) block: u32,
    /// The logical block.
    pub(super) unit: u64,
    pub(super) main: DeviceNumber,
}

/// The pieces of the volume, with `closed` blocks as lost, cut at multiples of the logical block.
fn cut(shape: &Shape, entries: &[Entry], closed: &[Block]) -> Vec<Piece> {
    let pieces = pieces(shape.size, shape.block, entries);
    let block = u64::from(shape.block);
    let closed = closed.iter().filter_map(|b| Extent::new(Sector(b.0 * block), block));
    let lost = pieces.iter().filter(|piece| piece.place == Place::Lost).map(|piece| piece.extent);
    let mut lost: Vec<Extent> = lost.chain(closed).map(|extent| rounded(&extent, shape.unit)).collect();
    lost.sort_unstable_by_key(Extent::start);
    let mut apart: Vec<Extent> = Vec::with_capacity(lost.len());
    for extent in lost {
        match apart.last_mut().filter(|last| last.end() >= extent.start()) {
            Some(last) => {
                *last = Extent::between(last.start(), last.end().max(extent.end())).unwrap_or(*last);
            }
            None => apart.push(extent),
        }
    }
    with_lost(&pieces, &apart)
}

/// Grown to multiples of the logical block: a lost sector takes the others of its logical block along.
fn rounded(extent: &Extent, unit: u64) -> Extent {
    let start = extent.start().0 - extent.start().0 % unit;
    Extent::between(Sector(start), Sector(extent.end().0.next_multiple_of(unit))).unwrap_or(*extent)
}

/// The table of a volume with these entries; `closed` blocks are errors.
pub(super) fn segments(
    shape: &Shape,
    spares: &[SpareNumber],
    entries: &[Entry],
    closed: &[Block],
) -> Vec<Segment> {
    let target = |piece: &Piece| match piece.place {
        Place::Main => Target::Linear { device: shape.main, sector: piece.extent.start().0 },
        Place::Spare { spare, sector } => {
            spares.iter().find(|known| known.spare == spare).map_or(Target::Error, |known| Target::Linear {
                device: known.device,
                sector: known.start + sector,
            })
        }
        Place::Lost => Target::Error,
    };
    let segment = |piece: Piece| Segment {
        start: piece.extent.start().0,
        sectors: piece.extent.sectors(),
        target: target(&piece),
    };
    cut(shape, entries, closed).into_iter().map(segment).collect()
}

/// Does a live table send requests anywhere but where the metadata say? Gives the first such sector. Errors agree with everything (nothing
/// was written there); so do devices that are not there any more, and so does the main device where an entry only notes what it cannot read.
pub(super) fn disagreement(
    live: &[Segment],
    shape: &Shape,
    spares: &[SpareNumber],
    entries: &[Entry],
    is_present: impl Fn(DeviceNumber) -> bool,
) -> Option<u64> {
    let witnessed = |entry: &&Entry| entry.state != EntryState::Pending || entry.flags.stale();
    let noted: Vec<Entry> = entries.iter().filter(witnessed).copied().collect();
    let wanted = segments(shape, spares, &noted, &[]);
    let mut wanted = wanted.iter().peekable();
    for segment in live {
        let end = segment.start + segment.sectors;
        let device = match &segment.target {
            Target::Error => continue,
            Target::Linear { device, .. } if !is_present(*device) => continue,
            Target::Other(_) => return Some(segment.start),
            Target::Linear { device, sector } => (*device, *sector),
        };
        let mut at = segment.start;
        while at < end {
            while wanted.next_if(|w| w.start + w.sectors <= at).is_some() {}
            let Some(other) = wanted.peek() else { return Some(at) };
            let agrees = match other.target {
                Target::Linear { device: there, sector } => {
                    (there, sector + (at - other.start)) == (device.0, device.1 + (at - segment.start))
                }
                _ => false,
            };
            if !agrees {
                return Some(at);
            }
            at = end.min(other.start + other.sectors);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use remap_core::units::Slot;
    use remap_format::EntryFlags;

    use super::*;
    use crate::map::pieces::tests::entry;

    const MAIN: DeviceNumber = DeviceNumber { major: 8, minor: 0 };
    const SPARE: DeviceNumber = DeviceNumber { major: 8, minor: 16 };
    const SPARES: [SpareNumber; 1] = [SpareNumber { spare: 0, device: SPARE, start: 100 }];

    fn shape(unit: u64) -> Shape {
        Shape { size: 80, block: 8, unit, main: MAIN }
    }

    fn show(table: &[Segment]) -> String {
        let word = |s: &Segment| match &s.target {
            Target::Linear { device, sector } => format!("{}+{} {device} {sector}", s.start, s.sectors),
            _ => format!("{}+{} error", s.start, s.sectors),
        };
        table.iter().map(word).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn a_table_names_devices_by_number() {
        let entries = [entry(1, 1, Some(Slot::new(0, 5)), 0b1), entry(3, 1, None, 0b110)];
        assert_eq!(
            show(&segments(&shape(1), &SPARES, &entries, &[])),
            "0+8 8:0 0, 8+1 error, 9+7 8:16 141, 16+9 8:0 16, 25+2 error, 27+53 8:0 27"
        );
        assert_eq!(
            show(&segments(&shape(8), &SPARES, &entries, &[Block(9), Block(3)])),
            "0+8 8:0 0, 8+8 error, 16+8 8:0 16, 24+8 error, 32+40 8:0 32, 72+8 error",
            "with logical blocks of 4096 bytes all borders are multiples of 8"
        );
        assert_eq!(
            show(&segments(&shape(4), &SPARES, &entries, &[])),
            "0+8 8:0 0, 8+4 error, 12+4 8:16 144, 16+8 8:0 16, 24+4 error, 28+52 8:0 28"
        );
        let elsewhere = [entry(1, 1, Some(Slot::new(3, 5)), 0)];
        assert_eq!(
            show(&segments(&shape(1), &SPARES, &elsewhere, &[])),
            "0+8 8:0 0, 8+8 error, 16+64 8:0 16"
        );
    }

    #[test]
    fn a_live_table_agrees_with_the_metadata_that_it_was_made_from() {
        let entries = [entry(1, 1, Some(Slot::new(0, 5)), 0b1), entry(3, 1, Some(Slot::new(0, 7)), 0)];
        let compare =
            |live: &[Segment], entries: &[Entry]| disagreement(live, &shape(1), &SPARES, entries, |_| true);
        let live = segments(&shape(1), &SPARES, &entries, &[]);
        assert_eq!(compare(&live, &entries), None);
        assert_eq!(compare(&segments(&shape(1), &SPARES, &entries, &[Block(1), Block(6)]), &entries), None);
        // The block went home, or moved elsewhere, behind the table's back.
        assert_eq!(compare(&live, &entries[..1]), Some(24));
        assert_eq!(compare(&live, &[entries[0], entry(3, 1, Some(Slot::new(0, 8)), 0)]), Some(24));
        // Something is lost that the table gives.
        assert_eq!(compare(&live, &[entries[0], entry(3, 1, Some(Slot::new(0, 7)), 0b10)]), Some(25));
        assert_eq!(compare(&segments(&shape(1), &SPARES, &[], &[]), &entries), Some(8));
    }

    #[test]
    fn one_live_segment_may_be_two_pieces() {
        // Two slices of one disk that touch: a table made by hand can have both in one.
        let slices = [SPARES[0], SpareNumber { spare: 1, device: SPARE, start: 148 }];
        let entries = [entry(1, 1, Some(Slot::new(0, 5)), 0), entry(2, 1, Some(Slot::new(1, 0)), 0)];
        let segment =
            |sectors| Segment { start: 8, sectors, target: Target::Linear { device: SPARE, sector: 140 } };
        let compare = |live| disagreement(&[live], &shape(1), &slices, &entries, |_| true);
        assert_eq!(compare(segment(16)), None);
        assert_eq!(compare(segment(17)), Some(24));
    }

    #[test]
    fn what_the_main_device_witnesses_itself_is_no_disagreement() {
        let live = segments(&shape(1), &SPARES, &[], &[]);
        let pending = entry(2, 1, None, 0b11);
        let stale = Entry { flags: EntryFlags::STALE, ..pending };
        let compare = |entries: &[Entry]| disagreement(&live, &shape(1), &SPARES, entries, |_| true);
        assert_eq!(compare(&[pending]), None);
        assert_eq!(compare(&[stale]), Some(16));
    }

    #[test]
    fn a_device_that_is_gone_agrees_and_a_foreign_one_does_not() {
        let gone = Shape { main: DeviceNumber { major: 8, minor: 32 }, ..shape(1) };
        let live = segments(&gone, &SPARES, &[], &[]);
        assert_eq!(disagreement(&live, &shape(1), &SPARES, &[], |device| device == MAIN), None);
        assert_eq!(disagreement(&live, &shape(1), &SPARES, &[], |_| true), Some(0));
        let other = [Segment { start: 0, sectors: 80, target: Target::Other("zero".into()) }];
        assert_eq!(disagreement(&other, &shape(1), &SPARES, &[], |_| true), Some(0));
    }
}
