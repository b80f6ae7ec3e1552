//! Do superblocks describe one and the same volume?
//!
//! Invariant: what is checked against one superblock (the sizes of the spares, the homes of the copies) holds for the one that
//! the table is built with. (That every page which one names lies within its spare, the decoder checks.)

use remap_format::Superblock;

use super::{Inconsistency, RecoveryError};
use crate::elect::{Election, ElectionError};

/// The superblocks of the elected copies against each other and against `newest`, by which the devices were matched.
///
/// # Errors
/// Two superblocks of one generation differ.
pub(super) fn check(
    newest: &Superblock,
    superblocks: &[Option<Superblock>],
    election: &Election,
) -> Result<(), RecoveryError> {
    let same = |a: &Superblock, b: &Superblock| {
        let shape = |s: &Superblock| (s.base, s.block_shift, s.homes);
        shape(a) == shape(b) && a.spares == b.spares && a.main == b.main
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
    if chosen.spares != newest.spares || chosen.homes != newest.homes {
        return Err(Inconsistency::Spares.into());
    }
    Ok(())
}

#[allow(clippy::indexing_slicing)]
#[cfg(test)]
mod tests {
    use super::*;
    use remap_format::MainIdentity;
    use remap_format::layout::CopyShape;

    fn superblock() -> Superblock {
        let shape = CopyShape { area_pages: 1, journal_pages: 8 };
        let main = MainIdentity { size: 1 << 30, logical_block: 512, ..MainIdentity::default() };
        Superblock {
            generation: 5,
            area: 0,
            entries: 1,
            ..Superblock::new([7; 16], "v", 4096, &shape, &[([9; 16], 1 << 20)], main)
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
            Superblock { base: 4, ..good.clone() },
            Superblock { main, ..good.clone() },
        ] {
            let refused = RecoveryError::Election(ElectionError::Contradiction { generation: 5 });
            assert_eq!(verdict(&good, [good.clone(), other]), Err(refused));
        }
        assert!(matches!(verdict(&larger, [good.clone(), good]), Err(RecoveryError::Inconsistent(_))));
    }
}
