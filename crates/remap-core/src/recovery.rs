//! From whatever is on the spares to a table that can be trusted, or to a refusal that says why (C8).
//!
//! Invariant: recovery only reads. It believes the newest generation that any copy proves, page by page and record by
//! record from any copy in which it is whole, and nothing else; two whole copies that say different things about one
//! generation are a refusal. [`Recovered`] is the only way to an engine.

mod geometry;
pub mod history;
mod newer;
mod replay;
pub mod rollback;
mod scan;

use alloc::string::String;
use alloc::vec::Vec;

use remap_format::layout::{self, CopyShape};
use remap_format::{COPIES, DecodeError, Entry, EntryState, Superblock, SuperblockFlags, newer};

use self::replay::Session;
use self::scan::{Strangers, match_devices, newest_superblock};
use crate::canary::Planted;
use crate::elect::ElectionError;
use crate::memory::{self, NoMemory};
use crate::op::Fault;
use crate::pool::{ClaimError, SparePool};
use crate::table::Table;
use crate::units::Block;

/// How recovery reads the spares. Blocking; the caller classifies faults and bounds the time of each call.
pub trait SpareReader {
    /// Bytes of spare device number `spare`, in the order in which the devices were given.
    ///
    /// # Errors
    /// The device's fault.
    fn read(&mut self, spare: usize, offset: u64, into: &mut [u8]) -> Result<(), Fault>;

    /// For recovery's own use: there was no memory for something that it read, so it ends with [`RecoveryError::Memory`].
    fn starve(&mut self) {}

    /// A way to break the contract on purpose; nothing, unless the simulator says so.
    fn planted(&self) -> Planted {
        Planted::default()
    }
}

/// What was wrong with a place on a spare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// It could not be read.
    #[error("cannot be read ({0:?})")]
    Unreadable(Fault),
    /// It is not what it should be.
    #[error(transparent)]
    Damaged(DecodeError),
    /// It is whole, but older than the newest generation.
    #[error("is out of date")]
    Stale,
    /// It was marked as not to be believed when it could not be kept in step.
    #[error("was taken out of use after a write error")]
    Fenced,
}

/// What recovery found in one of the five copies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyReport {
    /// Copy number.
    pub copy: u8,
    /// On which spare of the volume.
    pub spare: u8,
    /// First byte on that spare.
    pub start: u64,
    /// Generation it proves, with its journal, if it has a whole superblock.
    pub generation: Option<u64>,
    /// The first flaw, and the byte offset of it on the spare; `None`: in step.
    pub flaw: Option<(Flaw, u64)>,
    /// Which superblock page (0 or 1) holds the current superblock, if one does.
    pub superblock_page: Option<u8>,
    /// Which checkpoint area that superblock names.
    pub area: Option<u8>,
    /// What lies in its superblock pages.
    pub pages: [SuperblockPage; 2],
}

/// What lies in a superblock page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SuperblockPage {
    /// Nothing that says which spare this is.
    #[default]
    Nothing,
    /// A whole superblock.
    Whole,
    /// A whole superblock that says that its copy is not to be believed.
    Fence,
    /// It begins like a superblock and is not whole. Another one written there could, torn, make the first one whole: such a page
    /// must be erased before.
    Torn,
}

/// Why a volume cannot be assembled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecoveryError {
    /// Nothing on these devices is ours.
    #[error("no dm-remap metadata on spare {spare}: {flaw}")]
    NoMetadata {
        /// Which of the given devices.
        spare: usize,
        /// What was there instead.
        flaw: Flaw,
    },
    /// The path to a spare failed while its metadata were read: what could not be read may be newer than what could.
    #[error(
        "spare {spare} does not answer ({fault:?}); nothing was changed; check its cable and power, and try again"
    )]
    Unreachable {
        /// Which of the given devices.
        spare: usize,
        /// How it failed.
        fault: Fault,
    },
    /// Two volumes' spares were given together.
    #[error("spare {spare} belongs to volume '{name}', not to the same volume as the first one")]
    MixedVolumes {
        /// Which of the given devices.
        spare: usize,
        /// The other volume's name.
        name: String,
    },
    /// A spare of the volume was not given.
    #[error("the volume has {expected} spares; number {missing} was not given")]
    MissingSpare {
        /// Its number in the volume.
        missing: u8,
        /// Spares of the volume.
        expected: usize,
    },
    /// A spare that is not, or not any more, or not yet, one of the volume's.
    #[error(
        "spare {spare} is not part of volume '{name}': it was taken out of it, or joining it did not finish; leave it out"
    )]
    NotAMember {
        /// Which of the given devices.
        spare: usize,
        /// The volume's name.
        name: String,
    },
    /// A device was given twice or a spare was cloned.
    #[error("spares {first} and {second} are the same spare or copies of each other")]
    DuplicateSpare {
        /// One.
        first: usize,
        /// The other.
        second: usize,
    },
    /// A spare is smaller than it was.
    #[error("spare {spare} has {found} bytes, {expected} when it was added; nothing was changed")]
    SpareShrank {
        /// Its number in the volume.
        spare: u8,
        /// Bytes now.
        found: u64,
        /// Bytes then.
        expected: u64,
    },
    /// The volume was given up on purpose.
    #[error(
        "volume '{name}' was released: its main device stands alone again; use --force to open it all the same"
    )]
    Released {
        /// Its name.
        name: String,
    },
    /// See [`ElectionError`].
    #[error(transparent)]
    Election(#[from] ElectionError),
    /// A page of the table is whole in no copy.
    #[error("page {page} of the table is damaged in every copy; nothing was changed (see 'metadata repair')")]
    TableLost {
        /// Its number.
        page: u32,
    },
    /// A record of the journal is whole in no copy, but later ones are.
    #[error(
        "journal record {generation} is damaged in every copy; nothing was changed (see 'metadata repair')"
    )]
    JournalHole {
        /// Its generation.
        generation: u64,
    },
    /// Records show that a newer checkpoint was in use, but no copy names it any more.
    #[error(
        "the table of generation {generation} was in use, but no copy names it any more; nothing was changed (see 'metadata repair')"
    )]
    CheckpointLost {
        /// Its generation.
        generation: u64,
    },
    /// The table contradicts itself.
    #[error("the table is not consistent: {0}")]
    Inconsistent(Inconsistency),
    /// Out of memory.
    #[error(transparent)]
    Memory(#[from] NoMemory),
}

/// What contradicts what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Inconsistency {
    /// Two superblocks of one volume.
    #[error("superblocks name different spares")]
    Spares,
    /// The superblock and the sizes of the spares.
    #[error("the metadata do not fit on the spares")]
    Places,
    /// The checkpoint and the superblock.
    #[error("{found} entries where the superblock says {expected}")]
    Count {
        /// Entries that there are.
        found: u64,
        /// Entries that there should be.
        expected: u64,
    },
    /// An entry and the slots.
    #[error("entry at block {block}: {error}")]
    Slots {
        /// Its first block.
        block: u64,
        /// What is wrong with its slots.
        error: ClaimError,
    },
    /// An entry that says that there is none.
    #[error("entry at block {block}: an absent entry in a table")]
    Absent {
        /// Its first block.
        block: u64,
    },
    /// An entry and the main device.
    #[error("entry at block {block} lies behind the end of the main device")]
    BehindEnd {
        /// Its first block.
        block: u64,
    },
    /// Two entries.
    #[error("entry at block {block}: overlaps another entry")]
    Overlap {
        /// The first block of one of them.
        block: u64,
    },
}

impl From<Inconsistency> for RecoveryError {
    fn from(what: Inconsistency) -> Self {
        match what {
            Inconsistency::Slots { error: ClaimError::Memory(no_memory), .. } => Self::Memory(no_memory),
            _ => Self::Inconsistent(what),
        }
    }
}

/// A volume whose metadata were read and believed.
#[derive(Debug)]
pub struct Recovered {
    /// The volume as its newest superblock describes it (role, area and generation are those of the checkpoint).
    pub superblock: Superblock,
    /// For each spare of the volume, which of the given devices it is; `None`: it has left the volume.
    pub devices: Vec<Option<usize>>,
    /// The table.
    pub table: Table,
    /// Its slots.
    pub pool: SparePool,
    /// Generation of the table: the newest one that any disk names.
    pub generation: u64,
    /// Generation that has the same table and can be read: an older one only if the newest checkpoint could not be.
    pub base: u64,
    /// Next free journal page.
    pub journal_position: u32,
    /// What was found in each copy.
    pub copies: Vec<CopyReport>,
    /// Superblocks where no copy lives any more (spare, first byte): left behind by copies that moved.
    pub strays: Vec<(u8, u64)>,
    /// Must all copies be written anew before the volume is served?
    pub needs_repair: bool,
}

impl Recovered {
    /// Copies in step.
    #[must_use]
    pub fn good_copies(&self) -> u8 {
        self.copies.iter().filter(|c| c.flaw.is_none()).count() as u8
    }

    /// The table was edited while nobody served it: it is that of no generation that a disk holds, and all copies are to be written.
    pub fn mark_edited(&mut self) {
        self.generation = self.generation.wrapping_add(EDITED);
        self.base = self.generation;
        self.needs_repair = true;
    }

    /// A volume that has never been written: `superblock` describes it, `entries` are in its table from the start, its devices are
    /// given in the order of its spares.
    ///
    /// # Errors
    /// Memory, or entries that contradict each other.
    pub fn fresh(mut superblock: Superblock, entries: &[Entry]) -> Result<Self, RecoveryError> {
        let mut copies = memory::list(usize::from(COPIES))?;
        for place in layout::copy_places(&superblock.spares, &superblock.homes) {
            let report = CopyReport {
                copy: place.copy,
                spare: place.spare,
                start: place.start,
                generation: None,
                flaw: Some((Flaw::Damaged(DecodeError::Magic("superblock")), place.start)),
                superblock_page: None,
                area: None,
                pages: [SuperblockPage::Nothing; 2],
            };
            memory::push(&mut copies, report);
        }
        let mut table = Table::create(main_blocks(&superblock), superblock.block_sectors())?;
        let mut pool = empty_pool(&superblock)?;
        for entry in entries {
            install(&superblock, &mut table, &mut pool, entry)?;
        }
        let generation = superblock.generation;
        superblock.base = generation;
        let mut devices = memory::list(superblock.spares.len())?;
        let mut given = 0..superblock.spares.len();
        let numbers = superblock.spares.iter().map(|s| if s.is_present() { given.next() } else { None });
        memory::extend(&mut devices, superblock.spares.len(), numbers);
        Ok(Self {
            superblock,
            devices,
            table,
            pool,
            generation,
            base: generation,
            journal_position: 0,
            copies,
            strays: Vec::new(),
            needs_repair: true,
        })
    }
}

/// Blocks of the main device; a last one may be cut short by the device's end.
#[must_use]
pub fn main_blocks(superblock: &Superblock) -> u64 {
    superblock.main.size.div_ceil(u64::from(superblock.block_size()))
}

/// The shape of the volume's copies.
#[must_use]
pub fn shape_of(superblock: &Superblock) -> CopyShape {
    CopyShape { area_pages: superblock.area_pages, journal_pages: superblock.journal_pages }
}

/// The same superblock once more.
pub(crate) fn copy_of(superblock: &Superblock) -> Result<Superblock, NoMemory> {
    superblock.try_clone().map_err(|_| NoMemory)
}

pub(crate) fn empty_pool(superblock: &Superblock) -> Result<SparePool, NoMemory> {
    let block_size = u64::from(superblock.block_size());
    let mut pool = SparePool::default();
    for (index, spare) in (0u8..).zip(&superblock.spares) {
        pool.add_spare(index, spare.slots, &layout::kept_slots(spare, block_size))?;
    }
    Ok(pool)
}

/// Puts an entry read from disk (or given at creation) into table and pool.
fn install(
    superblock: &Superblock,
    table: &mut Table,
    pool: &mut SparePool,
    entry: &Entry,
) -> Result<(), RecoveryError> {
    let block = entry.block;
    if matches!(entry.state, EntryState::Remapped | EntryState::Retired) {
        pool.claim(entry).map_err(|error| Inconsistency::Slots { block, error })?;
    }
    match entry.state {
        EntryState::Retired => return Ok(()),
        EntryState::Absent => return Err(Inconsistency::Absent { block }.into()),
        EntryState::Pending | EntryState::Remapped => {}
    }
    if entry.end() > main_blocks(superblock) {
        return Err(Inconsistency::BehindEnd { block }.into());
    }
    if table.next_from(Block(block)).is_some_and(|e| e.block < entry.end()) {
        return Err(Inconsistency::Overlap { block }.into());
    }
    table.apply(entry)?;
    Ok(())
}

/// Reads the metadata on `sizes.len()` spare devices of these sizes (bytes), in any order.
///
/// `released_too`: open a volume that was released.
///
/// # Errors
/// [`RecoveryError`]; nothing was written.
pub fn recover(
    reader: &mut dyn SpareReader,
    sizes: &[u64],
    released_too: bool,
) -> Result<Recovered, RecoveryError> {
    watch(reader, |reader| recover_from(reader, sizes, released_too))
}

/// Runs `job`; a path that failed meanwhile, or memory that was refused, is the only answer: what was found without the rest may
/// be older than what there is.
fn watch<T>(
    reader: &mut dyn SpareReader,
    job: impl FnOnce(&mut dyn SpareReader) -> Result<T, RecoveryError>,
) -> Result<T, RecoveryError> {
    let mut watched = Watched { reader, path: None, starved: false };
    let outcome = job(&mut watched);
    match watched.path {
        _ if watched.starved => Err(NoMemory.into()),
        Some((spare, fault)) => Err(RecoveryError::Unreachable { spare, fault }),
        None => outcome,
    }
}

/// Notes whether the path to a device failed, which says nothing about what is on it.
struct Watched<'r> {
    reader: &'r mut dyn SpareReader,
    path: Option<(usize, Fault)>,
    starved: bool,
}

impl SpareReader for Watched<'_> {
    fn read(&mut self, spare: usize, offset: u64, into: &mut [u8]) -> Result<(), Fault> {
        self.reader.read(spare, offset, into).inspect_err(|&fault| {
            // A time-out may be a bad sector that the drive does not give up on; these two never are.
            if matches!(fault, Fault::Transport | Fault::Gone) {
                self.path.get_or_insert((spare, fault));
            }
            self.starved |= fault == Fault::NoMemory;
        })
    }

    fn starve(&mut self) {
        self.starved = true;
    }

    fn planted(&self) -> Planted {
        self.reader.planted()
    }
}

fn recover_from(
    reader: &mut dyn SpareReader,
    sizes: &[u64],
    released_too: bool,
) -> Result<Recovered, RecoveryError> {
    let superblock = newest_superblock(reader, sizes, None)?;
    let (devices, strays) = match_devices(reader, sizes, &superblock, Strangers::Refused)?;
    for (spare, record) in (0u8..).zip(&superblock.spares) {
        let device = devices.get(usize::from(spare)).copied().flatten();
        let found = device.and_then(|d| sizes.get(d)).copied().unwrap_or(0);
        if found < record.size {
            return Err(RecoveryError::SpareShrank { spare, found, expected: record.size });
        }
    }
    let mut session = Session::begin(reader, memory::copy(&devices)?, copy_of(&superblock)?, None)?;
    if session.superblock().flags.has(SuperblockFlags::RELEASED) && !released_too {
        return Err(RecoveryError::Released { name: superblock.name });
    }
    let entries = match session.read_checkpoint() {
        Err(lost @ RecoveryError::TableLost { .. }) if session.journal_is_empty() => {
            let newest = copy_of(session.superblock())?;
            return recover_base(reader, sizes, &newest)?.ok_or(lost);
        }
        other => other?,
    };
    let (table, pool) = session.build(&entries)?;
    let mut recovered = session.replay(table, pool)?;
    recovered.needs_repair |= !strays.is_empty();
    recovered.strays = strays;
    Ok(recovered)
}

/// Generations that an edit takes: more than what a life that was cut short can have left behind.
pub(crate) const EDITED: u64 = 16;

/// Checkpoints that superblocks can name: there are two superblock pages in each copy.
const MOST_CHECKPOINTS: usize = 2 * COPIES as usize;

/// The checkpoint that `lost` names cannot be read, and nothing was committed after it: its table is that of its base, where a
/// crash left it in place (a spare that was to join with that checkpoint has not). `None`: it is not there any more.
fn recover_base(
    reader: &mut dyn SpareReader,
    sizes: &[u64],
    lost: &Superblock,
) -> Result<Option<Recovered>, RecoveryError> {
    let (mut base, mut limit) = (lost.base, lost.generation);
    for _ in 1..MOST_CHECKPOINTS {
        let begun = newest_superblock(reader, sizes, Some(limit)).and_then(|before| {
            let (devices, _) = match_devices(reader, sizes, &before, Strangers::Ignored)?;
            Session::begin(reader, devices, before, Some(limit))
        });
        let Some(mut session) = if_readable(begun)? else { return Ok(None) };
        limit = session.generation();
        if newer(limit, base) {
            // Cut short as well: it is not what the lost one was made of.
            continue;
        }
        let replayed = match session.read_checkpoint() {
            Err(RecoveryError::TableLost { .. }) if limit == base => {
                base = session.superblock().base;
                continue;
            }
            Err(other) => Err(other),
            Ok(entries) => {
                session.build(&entries).and_then(|(table, pool)| session.replay_to(table, pool, base))
            }
        };
        let found = if_readable(replayed)?.flatten();
        return Ok(found.map(|found| Recovered { generation: lost.generation, needs_repair: true, ..found }));
    }
    Ok(None)
}

/// `None` for what cannot be read or contradicts itself; no memory is another matter.
fn if_readable<T>(outcome: Result<T, RecoveryError>) -> Result<Option<T>, RecoveryError> {
    match outcome {
        Ok(found) => Ok(Some(found)),
        Err(memory @ RecoveryError::Memory(_)) => Err(memory),
        Err(_) => Ok(None),
    }
}
