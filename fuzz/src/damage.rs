//! Damage to the metadata of a small volume, as an input tells it: single fields, pages in the wrong place, stale and torn
//! ones, records and entries that were never written, places that cannot be read.
//!
//! Invariant: an edit is applied to each copy in its mask alike, so that damage to all copies is as likely as damage to one.

use core::mem::offset_of;

use remap_core::op::Fault;
use remap_core::recovery::{Recovered, recover, shape_of};
use remap_format::layout::{CopyShape, copy_places};
use remap_format::{
    Cause, CheckpointPage, ENTRY_SIZE, Entry, EntryFlags, EntryState, NO_BLOCK, NO_SLOT, PAGE_ENTRIES,
    PAGE_SIZE, PageHeader, RawPageHeader, RawRecordHeader, RawSpare, RawSuperblock, Record, RecordHeader,
    TIME_EPOCH,
};
use zerocopy::FromBytes;

use crate::disks::Disks;
use crate::input::Input;
use crate::seal::{Kind, seal};
use crate::volumes::Volume;

/// A moment of a volume, and what is known of it before it is damaged.
pub struct Scene {
    disks: Disks,
    earlier: Vec<Disks>,
    believed: Recovered,
    shape: CopyShape,
    /// Device and first byte of each copy.
    places: Vec<(usize, usize)>,
}

impl Scene {
    /// Every moment of every volume.
    pub fn all(volumes: &[Volume]) -> Vec<Self> {
        volumes.iter().flat_map(Self::of_volume).collect()
    }

    fn of_volume(volume: &Volume) -> impl Iterator<Item = Self> {
        volume.moments.iter().enumerate().map(|(n, moment)| {
            let mut disks = moment.clone();
            let sizes = disks.sizes();
            let believed = recover(&mut disks, &sizes, true).expect("whole");
            assert!(believed.copies.iter().all(|copy| copy.flaw.is_none()), "an undamaged scene");
            let places = copy_places(&believed.superblock.spares, &believed.superblock.homes)
                .iter()
                .map(|p| (usize::from(p.spare), p.start as usize))
                .collect();
            let shape = shape_of(&volume.superblock);
            Self { disks, earlier: volume.moments[..n].to_vec(), believed, shape, places }
        })
    }

    /// The spares before any damage.
    pub fn disks(&self) -> &Disks {
        &self.disks
    }

    /// What recovery believes before any damage.
    pub fn believed(&self) -> &Recovered {
        &self.believed
    }

    /// A copy's journal from page `position` on, and whatever lies behind it.
    pub fn journal<'d>(&self, disks: &'d mut Disks, copy: usize, position: u32) -> Option<&'d mut [u8]> {
        self.bytes(disks, copy, self.shape.journal_at(position) as usize / PAGE_SIZE)
    }

    /// Makes a page of a copy's journal fail.
    pub fn fail_journal(&self, disks: &mut Disks, copy: usize, position: u32, fault: Fault) {
        let (device, start) = self.places[copy];
        let page = (start as u64 + self.shape.journal_at(position)) / PAGE_SIZE as u64;
        disks.faults.insert((device, page), fault);
    }

    /// A copy's journal from page `position` to its end, unless that page fails; pages behind it that fail are blank.
    pub fn read_journal(&self, disks: &Disks, copy: usize, position: u32) -> Option<Vec<u8>> {
        let (device, start) = self.places[copy];
        let from = start + self.shape.journal_at(position) as usize;
        let to = start + self.shape.bytes() as usize;
        let first = (from / PAGE_SIZE) as u64;
        if disks.faults.contains_key(&(device, first)) {
            return None;
        }
        let mut bytes = disks.spares.get(device)?.get(from..to)?.to_vec();
        for ((_, page), _) in disks.faults.range((device, first)..=(device, (to / PAGE_SIZE) as u64)) {
            let at = (page - first) as usize * PAGE_SIZE;
            if let Some(blank) = bytes.get_mut(at..at + PAGE_SIZE) {
                blank.fill(0);
            }
        }
        Some(bytes)
    }

    fn pages(&self) -> usize {
        self.shape.bytes() as usize / PAGE_SIZE
    }

    /// What lies on page `place` of a copy.
    fn kind(&self, place: usize) -> Kind {
        let areas = 2 + 2 * self.shape.area_pages as usize;
        match place {
            0 | 1 => Kind::Superblock,
            _ if place < areas => Kind::Page,
            _ => Kind::Record,
        }
    }

    fn bytes<'d>(&self, disks: &'d mut Disks, copy: usize, place: usize) -> Option<&'d mut [u8]> {
        let (device, start) = self.places[copy];
        disks.spares.get_mut(device)?.get_mut(start + place * PAGE_SIZE..)
    }

    fn page<'d>(&self, disks: &'d Disks, copy: usize, place: usize) -> Option<&'d [u8]> {
        let (device, start) = self.places[copy];
        disks.spares.get(device)?.get(start + place * PAGE_SIZE..)?.get(..PAGE_SIZE)
    }

    /// The undamaged disks with all the damage that the input tells of.
    pub fn damaged(&self, input: &mut Input<'_>) -> Disks {
        let mut disks = self.disks.clone();
        for _ in 0..64 {
            if input.is_empty() {
                break;
            }
            self.edit(input, &mut disks);
        }
        disks
    }

    fn edit(&self, input: &mut Input<'_>, disks: &mut Disks) {
        let what = input.below(12);
        let mask = match input.u8() & 31 {
            0 => 31,
            mask => mask,
        };
        let place = usize::from(input.u8()) % self.pages();
        let copies: Vec<usize> = (0..self.places.len()).filter(|copy| mask & (1 << copy) != 0).collect();
        match what {
            0 => self.field(input, disks, &copies, place),
            1 => self.poke(input, disks, &copies, place),
            2 => self.misdirect(input, disks, &copies, place),
            3 | 4 => self.stale(input, disks, &copies, if what == 3 { Some(place) } else { None }),
            5 => self.torn(input, disks, &copies, place),
            6 => self.blank(input, disks, &copies, place),
            7 => self.unreadable(input, disks, &copies, place),
            8 => self.record(input, disks, &copies),
            9 => self.checkpoint(input, disks, &copies),
            10 => self.entry(input, disks, &copies, place),
            _ => resize(input, disks),
        }
    }

    fn each(
        &self,
        disks: &mut Disks,
        copies: &[usize],
        place: usize,
        sealed: bool,
        mut edit: impl FnMut(usize, &mut [u8]),
    ) {
        for &copy in copies {
            if let Some(bytes) = self.bytes(disks, copy, place) {
                edit(copy, bytes);
                if sealed {
                    seal(self.kind(place), bytes);
                }
            }
        }
    }

    fn field(&self, input: &mut Input<'_>, disks: &mut Disks, copies: &[usize], place: usize) {
        let fields = match self.kind(place) {
            Kind::Superblock => SUPERBLOCK_FIELDS,
            Kind::Page => PAGE_FIELDS,
            Kind::Record => RECORD_FIELDS,
        };
        let (at, len) = fields[input.below(fields.len())];
        let (relative, value) = (input.u8() & 1 == 0, number(input));
        self.each(disks, copies, place, true, |_, bytes| {
            let Some(field) = bytes.get_mut(at..at + len) else { return };
            let mut word = [0; 8];
            word[..len].copy_from_slice(field);
            let found = u64::from_le_bytes(word);
            let value = if relative { found.wrapping_add(value) } else { value };
            field.copy_from_slice(&value.to_le_bytes()[..len]);
        });
    }

    fn poke(&self, input: &mut Input<'_>, disks: &mut Disks, copies: &[usize], place: usize) {
        let (at, flip, sealed) = (usize::from(input.u16()) % PAGE_SIZE, input.u8(), input.u8() & 1 == 0);
        self.each(disks, copies, place, sealed, |_, bytes| {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= flip;
            }
        });
    }

    /// A page in the wrong place; with `fixed` it says that it belongs there.
    fn misdirect(&self, input: &mut Input<'_>, disks: &mut Disks, copies: &[usize], place: usize) {
        let from = (input.below(self.places.len()), input.below(self.pages()));
        let fixed = input.u8() & 1 == 0;
        let Some(page) = self.page(disks, from.0, from.1).map(<[u8]>::to_vec) else { return };
        self.each(disks, copies, place, fixed, |copy, bytes| {
            let Some(to) = bytes.get_mut(..PAGE_SIZE) else { return };
            to.copy_from_slice(&page);
            if fixed {
                self.retarget(to, copy, place);
            }
        });
    }

    fn retarget(&self, page: &mut [u8], copy: usize, place: usize) {
        let area = self.shape.area_pages as usize;
        match self.kind(place) {
            Kind::Superblock => {
                if let Ok((raw, _)) = RawSuperblock::mut_from_prefix(page) {
                    raw.copy = copy as u8;
                }
            }
            Kind::Page => {
                if let Ok((raw, _)) = RawPageHeader::mut_from_prefix(page) {
                    raw.copy = copy as u8;
                    raw.index = (((place - 2) % area) as u32).into();
                }
            }
            Kind::Record => {
                if let Ok((raw, _)) = RawRecordHeader::mut_from_prefix(page) {
                    raw.copy = copy as u8;
                    raw.position = ((place - 2 - 2 * area) as u32).into();
                }
            }
        }
    }

    /// A page, or a whole copy, as it was earlier: writes that got lost.
    fn stale(&self, input: &mut Input<'_>, disks: &mut Disks, copies: &[usize], place: Option<usize>) {
        let moment = input.u8();
        if self.earlier.is_empty() {
            return;
        }
        let earlier = &self.earlier[usize::from(moment) % self.earlier.len()];
        for place in place.map_or(0..self.pages(), |place| place..place + 1) {
            for &copy in copies {
                if let (Some(to), Some(from)) =
                    (self.bytes(disks, copy, place), self.page(earlier, copy, place))
                {
                    if let Some(to) = to.get_mut(..PAGE_SIZE) {
                        to.copy_from_slice(from);
                    }
                }
            }
        }
    }

    /// The first sectors of a page are from another page, or zero.
    fn torn(&self, input: &mut Input<'_>, disks: &mut Disks, copies: &[usize], place: usize) {
        let sectors = 1 + input.below(7);
        let from = input.below(self.pages() + 1);
        for &copy in copies {
            let other = self.page(disks, copy, from).map_or_else(|| vec![0; PAGE_SIZE], <[u8]>::to_vec);
            if let Some(to) = self.bytes(disks, copy, place) {
                if let Some(to) = to.get_mut(..sectors * 512) {
                    to.copy_from_slice(&other[..sectors * 512]);
                }
            }
        }
    }

    fn blank(&self, input: &mut Input<'_>, disks: &mut Disks, copies: &[usize], place: usize) {
        let pages = 1 + input.below(4);
        for place in (place..self.pages()).take(pages) {
            self.each(disks, copies, place, false, |_, bytes| {
                if let Some(page) = bytes.get_mut(..PAGE_SIZE) {
                    page.fill(0);
                }
            });
        }
    }

    fn unreadable(&self, input: &mut Input<'_>, disks: &mut Disks, copies: &[usize], place: usize) {
        const FAULTS: [Fault; 6] =
            [Fault::Medium, Fault::Unknown, Fault::Timeout, Fault::Protection, Fault::Transport, Fault::Gone];
        let fault = FAULTS[input.below(FAULTS.len())];
        for &copy in copies {
            let (device, start) = self.places[copy];
            disks.faults.insert((device, (start / PAGE_SIZE + place) as u64), fault);
        }
    }

    /// A record at (or about) the end of the journal.
    fn record(&self, input: &mut Input<'_>, disks: &mut Disks, copies: &[usize]) {
        let behind = |base: u64, input: &mut Input<'_>| base.wrapping_add_signed(i64::from(input.u8() as i8));
        let generation = behind(self.believed.generation.wrapping_add(1), input);
        let position = behind(self.believed.journal_position.into(), input) as u32 % self.shape.journal_pages;
        let checkpoint = match input.u8() {
            n if n < 224 => self.believed.superblock.generation,
            n => generation.wrapping_sub(u64::from(n - 224)),
        };
        let count = match input.u8() {
            n if n < 200 => usize::from(n % 6),
            n => usize::from(n - 200) * 24,
        };
        let edits: Vec<Entry> = (0..count).map(|_| entry(input)).collect();
        let pages = Record::pages_for(edits.len());
        let place = 2 + 2 * self.shape.area_pages as usize + position as usize;
        for &copy in copies {
            let volume = self.believed.superblock.volume_tag();
            let header = RecordHeader { volume, copy: copy as u8, position, checkpoint, generation };
            if let Some(to) =
                self.bytes(disks, copy, place).and_then(|bytes| bytes.get_mut(..pages * PAGE_SIZE))
            {
                Record::encode(&header, &edits, to);
            }
        }
    }

    /// A page of the checkpoint, with entries of our own; the superblocks count them.
    fn checkpoint(&self, input: &mut Input<'_>, disks: &mut Disks, copies: &[usize]) {
        let index = input.below(self.shape.area_pages as usize);
        let count = input.below(PAGE_ENTRIES + 1);
        let entries: Vec<Entry> = (0..count).map(|_| entry(input)).collect();
        for &copy in copies {
            let area = self.believed.copies.get(copy).and_then(|c| c.area).unwrap_or(0);
            let header = PageHeader {
                volume: self.believed.superblock.volume_tag(),
                copy: copy as u8,
                index: index as u32,
                generation: self.believed.superblock.generation,
            };
            let place = 2 + usize::from(area) * self.shape.area_pages as usize + index;
            if let Some(bytes) = self.bytes(disks, copy, place) {
                if let Some(page) = bytes.get_mut(..PAGE_SIZE) {
                    CheckpointPage::encode(&header, &entries, page);
                }
            }
            for place in [0, 1] {
                self.each(disks, &[copy], place, true, |_, bytes| {
                    if let Ok((raw, _)) = RawSuperblock::mut_from_prefix(bytes) {
                        raw.entries = ((index * PAGE_ENTRIES + count) as u64).into();
                    }
                });
            }
        }
    }

    /// One entry of a page or record.
    fn entry(&self, input: &mut Input<'_>, disks: &mut Disks, copies: &[usize], place: usize) {
        use zerocopy::IntoBytes;
        let (index, counted, entry) = (usize::from(input.u8()) % 8, input.u8() & 1 == 1, entry(input));
        if self.kind(place) == Kind::Superblock {
            return;
        }
        // Headers of pages and records are equally long.
        let at = size_of::<RawPageHeader>() + index * ENTRY_SIZE;
        let record = self.kind(place) == Kind::Record;
        self.each(disks, copies, place, true, |_, bytes| {
            let Some(to) = bytes.get_mut(at..at + ENTRY_SIZE) else { return };
            to.copy_from_slice(entry.encode().as_bytes());
            let least = index as u16 + 1;
            if counted
                && record
                && let Ok((raw, _)) = RawRecordHeader::mut_from_prefix(bytes)
            {
                raw.count = least.max(raw.count.get()).into();
            } else if counted && let Ok((raw, _)) = RawPageHeader::mut_from_prefix(bytes) {
                raw.count = least.max(raw.count.get()).into();
            }
        });
    }
}

/// A device that grew or shrank.
fn resize(input: &mut Input<'_>, disks: &mut Disks) {
    let (device, by) = (input.u8(), i32::from(input.u8() as i8) * 512);
    if disks.spares.is_empty() {
        return;
    }
    let count = disks.spares.len();
    let spare = &mut disks.spares[usize::from(device) % count];
    let len = spare.len().saturating_add_signed(by as isize);
    spare.resize(len, 0);
}

/// A number as bugs like them: small, just below zero, about a power of two, or any.
pub fn number(input: &mut Input<'_>) -> u64 {
    let (how, byte) = (input.u8() % 8, input.u8());
    match how {
        0..=2 => byte.into(),
        3 => u64::from(byte).wrapping_neg(),
        4 => 1 << (byte % 64),
        5 => (1 << (byte % 64)) - 1,
        6 => input.u16().into(),
        _ => input.u64(),
    }
}

/// An entry that could be written, or nearly.
pub fn entry(input: &mut Input<'_>) -> Entry {
    let shape = input.u8();
    let state = match shape & 3 {
        0 => EntryState::Remapped,
        1 => EntryState::Pending,
        2 => EntryState::Absent,
        _ => EntryState::Retired,
    };
    let plain = shape & 128 == 0;
    let block = number(input);
    let count = if shape & 4 == 0 { 1 } else { number(input) as u32 };
    let slot = (u64::from(shape >> 3 & 7) << 56) ^ number(input);
    let lost = match shape >> 6 & 1 {
        0 if state == EntryState::Pending => 1,
        0 => 0,
        _ => 1_u128.checked_shl(u32::from(input.u8() % 130)).unwrap_or(0).wrapping_sub(1),
    };
    let wants_slot = matches!(state, EntryState::Remapped | EntryState::Retired);
    Entry {
        block: if plain && state == EntryState::Retired { NO_BLOCK } else { block },
        count,
        slot: if plain && !wants_slot { NO_SLOT } else { slot },
        lost: if plain && !matches!(state, EntryState::Remapped | EntryState::Pending) { 0 } else { lost },
        state,
        cause: Cause::Manual,
        flags: EntryFlags::default(),
        errors: 0,
        time: TIME_EPOCH,
    }
}

type Field = (usize, usize);

const SUPERBLOCK_FIELDS: &[Field] = &[
    (offset_of!(RawSuperblock, generation), 8),
    (offset_of!(RawSuperblock, entries), 8),
    (offset_of!(RawSuperblock, area_pages), 4),
    (offset_of!(RawSuperblock, journal_pages), 4),
    (offset_of!(RawSuperblock, flags), 4),
    (offset_of!(RawSuperblock, version), 2),
    (offset_of!(RawSuperblock, role), 1),
    (offset_of!(RawSuperblock, copy), 1),
    (offset_of!(RawSuperblock, compat), 8),
    (offset_of!(RawSuperblock, ro_compat), 8),
    (offset_of!(RawSuperblock, incompat), 8),
    (offset_of!(RawSuperblock, volume), 1),
    (offset_of!(RawSuperblock, spare), 1),
    (offset_of!(RawSuperblock, spare_index), 1),
    (offset_of!(RawSuperblock, spare_count), 1),
    (offset_of!(RawSuperblock, block_shift), 1),
    (offset_of!(RawSuperblock, area), 1),
    (offset_of!(RawSuperblock, policy), 1),
    (offset_of!(RawSuperblock, main_size), 8),
    (offset_of!(RawSuperblock, main_logical_block), 4),
    (offset_of!(RawSuperblock, name), 1),
    (offset_of!(RawSuperblock, spares) + offset_of!(RawSpare, uuid), 1),
    (offset_of!(RawSuperblock, spares) + offset_of!(RawSpare, size), 8),
    (offset_of!(RawSuperblock, spares) + offset_of!(RawSpare, slots), 8),
    (offset_of!(RawSuperblock, spares) + offset_of!(RawSpare, anchors), 1),
    (offset_of!(RawSuperblock, spares) + offset_of!(RawSpare, reserve_pages), 4),
    (offset_of!(RawSuperblock, homes), 2),
    (offset_of!(RawSuperblock, homes) + 4, 2),
    (offset_of!(RawSuperblock, spares) + size_of::<RawSpare>() + offset_of!(RawSpare, size), 8),
    (offset_of!(RawSuperblock, spares) + size_of::<RawSpare>() + offset_of!(RawSpare, slots), 8),
];

const PAGE_FIELDS: &[Field] = &[
    (offset_of!(RawPageHeader, volume), 8),
    (offset_of!(RawPageHeader, generation), 8),
    (offset_of!(RawPageHeader, index), 4),
    (offset_of!(RawPageHeader, count), 2),
    (offset_of!(RawPageHeader, copy), 1),
];

const RECORD_FIELDS: &[Field] = &[
    (offset_of!(RawRecordHeader, volume), 8),
    (offset_of!(RawRecordHeader, checkpoint), 8),
    (offset_of!(RawRecordHeader, generation), 8),
    (offset_of!(RawRecordHeader, position), 4),
    (offset_of!(RawRecordHeader, count), 2),
    (offset_of!(RawRecordHeader, copy), 1),
    (offset_of!(RawRecordHeader, pages), 1),
];
