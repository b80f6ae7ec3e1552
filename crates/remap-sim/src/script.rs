//! Scripted lives of a volume: each short, each about one thing that a volume goes through.
//!
//! Invariant: a script is the same in every run; what a sweep does to it (a crash, a failing operation) comes from outside.

mod lives;

use remap_core::engine::Command;
use remap_core::op::RequestKind;
use remap_core::units::{Extent, Sector};
use remap_format::{Cause, Entry, EntryFlags, EntryState, NO_SLOT, Policy};

use crate::Violation;
use crate::disk::Bad;
use crate::scenario::{Faults, Scenario, spare_sizes};
use crate::world::World;

pub use lives::{all, volume_on};

/// One thing that is done.
#[derive(Clone, Debug)]
pub enum Act {
    /// A client asks for `sectors` sectors from `start` on.
    Request(RequestKind, u64, u64),
    /// A person asks.
    Command(Command),
    /// Sectors of the main device go bad.
    Spoil(u64, u64, Bad),
    /// Sectors of the slot that holds this block go bad: block, first sector in it, sectors.
    SpoilSlot(u64, u64, u64, Bad),
    /// Sectors of a metadata copy go bad: copy, first sector in it, sectors.
    SpoilCopy(u8, u64, u64, Bad),
    /// A metadata copy's bad sectors are good again.
    MendCopy(u8),
    /// Seconds pass.
    Wait(u64),
    /// The power fails and comes back; what is left of unflushed writes follows the seed.
    PowerCut,
    /// A blank disk, so many times as large as the first spare, joins; with metadata copies?
    Join(u64, bool),
    /// As [`Act::Join`], with copies, of a disk on which no journal can begin.
    JoinBad(u64),
    /// A spare leaves.
    Leave(u8),
    /// The volume is released; the next power cut finds somebody who takes it back.
    Release,
    /// Between two lives these blocks are noted as lost, as an import does it.
    Import(u64, u64),
}

/// A life.
#[derive(Clone, Debug)]
pub struct Script {
    /// For people, and to choose it.
    pub name: &'static str,
    /// The volume.
    pub scenario: Scenario,
    /// What is done, step by step; the acts of one step begin together, and the step ends when all operations have.
    pub steps: Vec<Vec<Act>>,
}

/// The volume of a script.
#[derive(Clone, Copy, Debug)]
struct Shape {
    policy: Policy,
    blocks: u64,
    block_shift: u8,
    spares: usize,
    /// Slots, about, beside what metadata take.
    slots: u64,
    /// The first generation is close to the largest number.
    wraps: bool,
}

impl Shape {
    fn scenario(self) -> Scenario {
        // A seed divisible by four starts close to the wrap, the closer the smaller.
        let seed = if self.wraps { 4 } else { 1 };
        let block = 1 << self.block_shift;
        Scenario {
            block_shift: self.block_shift,
            logical_block: 512,
            main_sectors: self.blocks * block / 512,
            spares: spare_sizes(self.spares, block, self.slots),
            policy: self.policy,
            clients: 4,
            faults: Faults { crash: true, ..Faults::default() },
            commands: true,
            ..Scenario::of_seed(seed, 0)
        }
    }
}

fn extent(start: u64, sectors: u64) -> Extent {
    Extent::new(Sector(start), sectors).expect("scripts have no empty extents")
}

impl Script {
    /// Blocks that the script gives a reason to have an entry.
    #[must_use]
    pub fn marked_blocks(&self) -> Vec<u64> {
        let per_block = (1 << self.scenario.block_shift) / 512;
        let blocks = |start: u64, end: u64| start / per_block..end.div_ceil(per_block);
        let of = |act: &Act| match *act {
            Act::Spoil(start, sectors, _) => blocks(start, start + sectors),
            Act::Command(Command::Remap(extent, _)) => blocks(extent.start().0, extent.end().0),
            Act::Import(block, count) => block..block + count,
            _ => 0..0,
        };
        self.steps.iter().flatten().flat_map(of).collect()
    }
}

impl World {
    /// Begins one act of a script; `false` if it cannot be done here (a slot that the block does not have).
    ///
    /// # Errors
    /// What it showed is a violation.
    pub fn begin_act(&mut self, act: &Act) -> Result<bool, Violation> {
        let done = match *act {
            Act::Request(kind, start, sectors) => {
                self.begin_request(kind, extent(start, sectors))?;
                true
            }
            Act::Command(command) => {
                self.begin_command(command)?;
                true
            }
            Act::Wait(seconds) => {
                self.wait(seconds)?;
                true
            }
            Act::PowerCut => {
                self.crash()?;
                self.assemble()?;
                true
            }
            Act::Import(block, count) => {
                self.crash()?;
                self.assemble_edited(&[imported(block, count, self.block_sectors())])?;
                true
            }
            Act::Join(size, copies) => self.blank_spare_joins(size, copies)?,
            Act::JoinBad(size) => self.bad_spare_joins(size)?,
            Act::Leave(spare) => {
                self.spare_leaves(spare)?;
                true
            }
            Act::Release => {
                self.release()?;
                true
            }
            Act::Spoil(start, sectors, bad) => self.spoil_main_at(extent(start, sectors), bad),
            Act::SpoilSlot(block, first, sectors, bad) => self.spoil_slot_of(block, first, sectors, bad),
            Act::SpoilCopy(copy, first, sectors, bad) => self.spoil_copy(copy, first, sectors, bad),
            Act::MendCopy(copy) => {
                self.mend_copy(copy);
                true
            }
        };
        Ok(done)
    }
}

fn imported(block: u64, count: u64, block_sectors: u64) -> Entry {
    Entry {
        block,
        count: count as u32,
        slot: NO_SLOT,
        lost: Entry::full_mask(block_sectors as u32),
        state: EntryState::Pending,
        cause: Cause::Imported,
        flags: EntryFlags::STALE,
        errors: 0,
        time: 1_700_000_000,
    }
}
