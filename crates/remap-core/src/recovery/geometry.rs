//! Do superblocks describe one and the same volume, and can its metadata lie where they say?
//!
//! Invariant: what is checked against one superblock (the sizes of the spares, the places of the copies) holds for the one that
//! the table is built with; and every page that it names lies within its spare, so that memory is bounded by what is there.

use remap_format::layout;
use remap_format::{COPIES, Superblock};

use super::{Inconsistency, RecoveryError, shape_of, spare_sizes};
use crate::elect::{Election, ElectionError};

/// The superblocks of the elected copies against each other and against `newest`, by which the devices were matched.
///
/// # Errors
/// Two superblocks of one generation differ, or the metadata do not fit on the spares.
pub(super) fn check(
    newest: &Superblock,
    superblocks: &[Option<Superblock>],
    election: &Election,
) -> Result<(), RecoveryError> {
    let same = |a: &Superblock, b: &Superblock| {
        a.block_shift == b.block_shift && a.spares == b.spares && a.main == b.main
    };
    let of_member = |(superblock, member)| -> Option<&Superblock> {
        let superblock: &Option<Superblock> = superblock;
        superblock.as_ref().filter(|_| member)
    };
    let mut members = superblocks.iter().zip(election.members).filter_map(of_member);
    let Some(chosen) = members.next() else { return Ok(()) };
    if members.any(|other| !same(chosen, other)) {
        return Err(ElectionError::Contradiction { generation: election.generation }.into());
    }
    if chosen.spares != newest.spares {
        return Err(Inconsistency::Spares.into());
    }
    if !fits(chosen) {
        return Err(Inconsistency::Places.into());
    }
    Ok(())
}

/// Does every copy end before the next one on its spare begins?
fn fits(superblock: &Superblock) -> bool {
    let sizes = spare_sizes(superblock);
    let len = shape_of(superblock).bytes();
    let places = layout::copy_places(&sizes);
    places.len() == usize::from(COPIES)
        && places.iter().all(|place| {
            let behind =
                places.iter().filter(|other| other.spare == place.spare && other.start > place.start);
            let size = sizes.get(usize::from(place.spare)).copied().unwrap_or(0);
            let end = behind.map(|other| other.start).min().unwrap_or(size);
            let shared = places.iter().filter(|o| o.spare == place.spare && o.start == place.start).count();
            shared == 1 && place.start.checked_add(len).is_some_and(|last| last <= end)
        })
}

#[cfg(test)]
#[allow(clippy::indexing_slicing)]
mod tests {
    use super::*;
    use remap_format::{CopyRole, MainIdentity, Policy, SpareRecord, SuperblockFlags};
    use std::vec;

    fn superblock() -> Superblock {
        Superblock {
            role: CopyRole::Copy(0),
            volume: [7; 16],
            name: "v".into(),
            spare_index: 0,
            spares: vec![SpareRecord { uuid: [9; 16], size: 1 << 20, slots: 256 }],
            block_shift: 12,
            policy: Policy::RewriteThenRemap,
            flags: SuperblockFlags::default(),
            generation: 5,
            area: 0,
            entries: 1,
            area_pages: 1,
            journal_pages: 8,
            created: 1,
            written: 2,
            compat: 0,
            ro_compat: 0,
            main: MainIdentity { size: 1 << 30, logical_block: 512, ..MainIdentity::default() },
        }
    }

    fn verdict(newest: &Superblock, copies: [Superblock; 2]) -> Result<(), RecoveryError> {
        let election = Election { generation: 5, members: [true, true, false, false, false] };
        check(newest, &copies.map(Some), &election)
    }

    #[test]
    fn copies_of_one_generation_describe_one_volume() {
        let good = superblock();
        assert_eq!(verdict(&good, [good.clone(), Superblock { area: 1, ..good.clone() }]), Ok(()));
        let mut larger = good.clone();
        larger.spares.iter_mut().for_each(|spare| spare.size *= 2);
        let main = MainIdentity { size: 1 << 29, ..good.main.clone() };
        for other in [
            larger.clone(),
            Superblock { block_shift: 13, ..good.clone() },
            Superblock { main, ..good.clone() },
        ] {
            let refused = RecoveryError::Election(ElectionError::Contradiction { generation: 5 });
            assert_eq!(verdict(&good, [good.clone(), other]), Err(refused));
        }
        assert!(matches!(verdict(&larger, [good.clone(), good]), Err(RecoveryError::Inconsistent(_))));
    }

    #[test]
    fn metadata_lie_within_their_spare() {
        let good = superblock();
        for (area_pages, journal_pages) in [(u32::MAX, 8), (1, u32::MAX), (1, 100), (200, 8)] {
            let large = Superblock { area_pages, journal_pages, ..good.clone() };
            assert!(matches!(
                verdict(&large, [large.clone(), large.clone()]),
                Err(RecoveryError::Inconsistent(_))
            ));
        }
        let mut small = good.clone();
        small.spares.iter_mut().for_each(|spare| (spare.size, spare.slots) = (8192, 2));
        assert!(verdict(&small, [small.clone(), small.clone()]).is_err());
    }
}
