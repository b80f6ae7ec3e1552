//! Finding superblocks: on which devices, of which volume, in which copies.

use alloc::vec::Vec;

use arrayvec::ArrayVec;
use remap_format::layout;
use remap_format::{CopyRole, DecodeError, PAGE_SIZE, SpareRecord, Superblock, SuperblockFlags, newer};

use super::{CopyReport, Flaw, RecoveryError, SpareReader, SuperblockPage, copy_of};
use crate::memory;

/// Places that are looked at on one device: those of its size, and of the sizes that superblocks found there record. An honest
/// device has a few; one with more was made by somebody who wants us to look for ever.
const MAX_PLACES: usize = 64;

/// What to do with devices that are not of the volume.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Strangers {
    Refused,
    Ignored,
}

/// A superblock that was found, and where.
struct Found {
    /// First byte of the place for a copy.
    place: u64,
    superblock: Superblock,
    /// Its copy is not to be believed; it still says which spare this is.
    fenced: bool,
}

/// The newest believable superblock on any device (older than `before`); every device must hold one of the same volume.
pub(super) fn newest_superblock(
    reader: &mut dyn SpareReader,
    sizes: &[u64],
    before: Option<u64>,
) -> Result<Superblock, RecoveryError> {
    let mut best: Option<Superblock> = None;
    let mut label = None;
    let mut volume = None;
    for device in 0..sizes.len() {
        let found = scan_device(reader, device, sizes)?;
        for Found { place, superblock, fenced } in found {
            if *volume.get_or_insert(superblock.volume) != superblock.volume {
                return Err(RecoveryError::MixedVolumes { spare: device, name: superblock.name });
            }
            let late = before.is_some_and(|limit| !newer(limit, superblock.generation));
            if superblock.role == CopyRole::Label {
                // It is written before the spare joins, and says nothing about the table.
                label = Some(superblock);
            } else if !fenced
                && !late
                && is_at_home(&superblock, place)
                && best.as_ref().is_none_or(|b| newer(superblock.generation, b.generation))
            {
                best = Some(superblock);
            }
        }
    }
    best.or(label).ok_or(RecoveryError::NoMetadata { spare: 0, flaw: Flaw::Fenced })
}

/// Does it lie where it says that its copy lives? One that does not was written to a wrong place: the checkpoint that it names may
/// never have been durable.
fn is_at_home(superblock: &Superblock, place: u64) -> bool {
    let CopyRole::Copy(copy) = superblock.role else { return false };
    let homes = layout::copy_places(&superblock.spares, &superblock.homes);
    homes.get(usize::from(copy)).is_some_and(|h| (h.spare, h.start) == (superblock.spare_index, place))
}

/// All whole superblocks on a device; at least one.
fn scan_device(
    reader: &mut dyn SpareReader,
    device: usize,
    sizes: &[u64],
) -> Result<Vec<Found>, RecoveryError> {
    let size = sizes.get(device).copied().unwrap_or(0);
    let mut found: Vec<Found> = Vec::new();
    let mut flaw = None;
    let mut places: ArrayVec<u64, MAX_PLACES> = ArrayVec::new();
    layout::search_places(size).into_iter().for_each(|place| places.push(place));
    let mut next = 0;
    while let Some(&place) = places.get(next) {
        next += 1;
        for page in 0..layout::SUPERBLOCK_PAGES {
            match read_superblock(reader, device, place + page * PAGE_SIZE as u64, size) {
                Ok(superblock) => {
                    let fenced = superblock.flags.has(SuperblockFlags::FENCED);
                    // A device that has grown keeps its anchors where its recorded size puts them.
                    let recorded =
                        superblock.spares.get(usize::from(superblock.spare_index)).map_or(0, |s| s.size);
                    for old in layout::search_places(recorded) {
                        if !places.contains(&old) && !places.is_full() {
                            places.push(old);
                        }
                    }
                    memory::try_push(&mut found, Found { place, superblock, fenced })?;
                }
                Err(Flaw::Damaged(e @ (DecodeError::Version { .. } | DecodeError::Incompatible { .. }))) => {
                    return Err(RecoveryError::NoMetadata { spare: device, flaw: Flaw::Damaged(e) });
                }
                Err(other) => {
                    // Damage says more than blank pages do.
                    if matches!(flaw, None | Some(Flaw::Damaged(DecodeError::Magic(_)))) {
                        flaw = Some(other);
                    }
                }
            }
        }
    }
    if found.is_empty() {
        let flaw = flaw.unwrap_or(Flaw::Damaged(DecodeError::Magic("superblock")));
        return Err(RecoveryError::NoMetadata { spare: device, flaw });
    }
    Ok(found)
}

fn read_superblock(
    reader: &mut dyn SpareReader,
    device: usize,
    at: u64,
    size: u64,
) -> Result<Superblock, Flaw> {
    let mut page = [0; PAGE_SIZE];
    if at.checked_add(PAGE_SIZE as u64).is_none_or(|end| end > size) {
        return Err(Flaw::Damaged(DecodeError::Magic("superblock")));
    }
    reader.read(device, at, &mut page).map_err(Flaw::Unreadable)?;
    Superblock::decode(&page).map_err(|error| {
        if matches!(error, DecodeError::Memory(_)) {
            reader.starve();
        }
        Flaw::Damaged(error)
    })
}

/// Which given device is which spare of the volume, and the superblocks that lie where no copy lives.
#[expect(clippy::type_complexity, reason = "two lists that one scan gives")]
pub(super) fn match_devices(
    reader: &mut dyn SpareReader,
    sizes: &[u64],
    best: &Superblock,
    strangers: Strangers,
) -> Result<(Vec<Option<usize>>, Vec<(u8, u64)>), RecoveryError> {
    let mut devices: Vec<Option<usize>> = memory::list(best.spares.len())?;
    memory::resize(&mut devices, best.spares.len(), None);
    let mut strays = Vec::new();
    let homes = layout::copy_places(&best.spares, &best.homes);
    for device in 0..sizes.len() {
        let found = scan_device(reader, device, sizes)?;
        let member = found.iter().map(|f| &f.superblock).find(|s| {
            let index = usize::from(s.spare_index);
            let own = |of: &Superblock| of.spares.get(index).filter(|r| r.is_present()).map(|r| r.uuid);
            s.volume == best.volume && own(s).is_some() && own(s) == own(best)
        });
        let Some(spare) = member.map(|s| s.spare_index) else {
            if strangers == Strangers::Ignored {
                continue;
            }
            let name = copy_of(best)?.name;
            return Err(RecoveryError::NotAMember { spare: device, name });
        };
        match devices.get_mut(usize::from(spare)) {
            Some(Some(other)) => {
                return Err(RecoveryError::DuplicateSpare { first: *other, second: device });
            }
            Some(place) => *place = Some(device),
            None => {}
        }
        // Elsewhere than where copies may live it is what a client wrote to a slot.
        let record = best.spares.get(usize::from(spare)).copied().unwrap_or(SpareRecord::GONE);
        let kept = layout::metadata_ranges(&record);
        let copies = found.iter().filter(|f| matches!(f.superblock.role, CopyRole::Copy(_)));
        for f in copies.filter(|f| kept.clone().any(|(start, _)| start == f.place)) {
            let stray = (spare, f.place);
            if !homes.iter().any(|h| (h.spare, h.start) == stray) && !strays.contains(&stray) {
                memory::try_push(&mut strays, stray)?;
            }
        }
    }
    let there = |missing: u8| devices.get(usize::from(missing)).is_some_and(Option::is_some);
    let expected = best.spares.iter().filter(|s| s.is_present()).count();
    for (missing, record) in (0u8..).zip(&best.spares) {
        if record.is_present() && !there(missing) {
            return Err(RecoveryError::MissingSpare { missing, expected });
        }
    }
    Ok((devices, strays))
}

/// The current superblock of one copy: the newer of its two pages; with `before`, of those older than that generation.
pub(super) fn read_copy_superblock(
    reader: &mut dyn SpareReader,
    device: usize,
    size: u64,
    place: &layout::CopyPlace,
    newest: &Superblock,
    before: Option<u64>,
) -> (CopyReport, Option<Superblock>) {
    let mut report = CopyReport {
        copy: place.copy,
        spare: place.spare,
        start: place.start,
        generation: None,
        flaw: None,
        superblock_page: None,
        area: None,
        pages: [SuperblockPage::Nothing; 2],
    };
    let mut current: Option<Superblock> = None;
    let mut flaw = None;
    for (page, lies) in (0u8..).zip(&mut report.pages) {
        let at = place.start + u64::from(page) * PAGE_SIZE as u64;
        match read_superblock(reader, device, at, size) {
            Ok(s) if s.volume != newest.volume || s.role != CopyRole::Copy(place.copy) => {
                flaw = Some((Flaw::Damaged(DecodeError::Magic("superblock of this copy")), at));
            }
            Ok(s) if s.flags.has(SuperblockFlags::FENCED) => *lies = SuperblockPage::Fence,
            Ok(s) => {
                *lies = SuperblockPage::Whole;
                let late = before.is_some_and(|limit| !newer(limit, s.generation));
                if !late && current.as_ref().is_none_or(|c| newer(s.generation, c.generation)) {
                    report.superblock_page = Some(page);
                    report.area = Some(s.area);
                    current = Some(s);
                }
            }
            Err(other) => {
                if matches!(other, Flaw::Damaged(e) if !matches!(e, DecodeError::Magic(_))) {
                    *lies = SuperblockPage::Torn;
                }
                flaw = Some((other, at));
            }
        }
    }
    if report.pages.contains(&SuperblockPage::Fence) {
        report.flaw = Some((Flaw::Fenced, place.start));
        report.superblock_page = None;
        return (report, None);
    }
    if let Some(found) = &current {
        report.generation = Some(found.generation);
        // A torn older page is normal after a crash; a page that cannot be read is damage.
        report.flaw = flaw.filter(|(f, _)| matches!(f, Flaw::Unreadable(_)));
    } else {
        report.flaw = Some(flaw.unwrap_or((Flaw::Stale, place.start)));
    }
    (report, current)
}
