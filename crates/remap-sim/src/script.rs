//! Scripted lives of a volume: each short, each about one thing that a volume goes through.
//!
//! Invariant: a script is the same in every run; what a sweep does to it (a crash, a failing operation) comes from outside.

mod lives;

use remap_core::engine::Command;
use remap_core::op::RequestKind;
use remap_core::units::{Extent, Sector};
use remap_format::{Cause, Entry, EntryFlags, EntryState, NO_SLOT, Policy};

use crate::disk::Bad;
use crate::scenario::{Faults, Scenario, spare_sizes};
use crate::world::World;
use crate::{Checked, Rule};

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

impl World {
    /// Begins one act of a script.
    ///
    /// # Errors
    /// What it showed is a violation, or the act cannot be done here.
    pub fn begin_act(&mut self, act: &Act) -> Checked {
        let done = match *act {
            Act::Request(kind, start, sectors) => {
                return self.begin_request(kind, extent(start, sectors));
            }
            Act::Command(command) => return self.begin_command(command),
            Act::Wait(seconds) => return self.wait(seconds),
            Act::PowerCut => {
                self.crash()?;
                return self.assemble();
            }
            Act::Import(block, count) => {
                self.crash()?;
                return self.assemble_edited(&[imported(block, count, self.block_sectors())]);
            }
            Act::Spoil(start, sectors, bad) => self.spoil_main_at(extent(start, sectors), bad),
            Act::SpoilSlot(block, first, sectors, bad) => self.spoil_slot_of(block, first, sectors, bad),
            Act::SpoilCopy(copy, first, sectors, bad) => self.spoil_copy(copy, first, sectors, bad),
            Act::MendCopy(copy) => {
                self.mend_copy(copy);
                true
            }
        };
        if done { Ok(()) } else { Err(Rule::C7.broken(format!("the script cannot do {act:?} here"))) }
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
