//! What a volume has to say about itself: plain values, whoever collected them.
//!
//! Invariant: figures that depend on others are worked out here and nowhere else.

use remap_core::engine::{Counters, VolumeState};
use remap_core::table::TableCounts;

/// What clients asked, in requests (a kernel: bios), since the volume was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
    /// Requests or parts that were served without the owner.
    pub fast: u64,
    /// Requests or parts that the owner handled.
    pub slow: u64,
    /// Parts served from a spare without the owner.
    pub remapped: u64,
    /// Reads that ended with an error for the client.
    pub failed_reads: u64,
    /// Writes that did.
    pub failed_writes: u64,
    /// Device reads that failed outside of the owner.
    pub read_errors: u64,
    /// Device writes that did.
    pub write_errors: u64,
}

/// A volume's figures.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// State.
    pub state: VolumeState,
    /// Nothing may be written.
    pub read_only: bool,
    /// Remapping was suspended.
    pub suspended: bool,
    /// Sectors of the volume.
    pub sectors: u64,
    /// Bytes.
    pub block_size: u32,
    /// Bytes.
    pub logical_block: u32,
    /// Totals of the table.
    pub counts: TableCounts,
    /// Slots that can hold blocks, all spares together.
    pub slots: u64,
    /// Of these, the free ones.
    pub free_slots: u64,
    /// Most blocks that may be remapped, if limited.
    pub max_remaps: Option<u64>,
    /// What the engine counted.
    pub counters: Counters,
    /// What clients asked.
    pub asked: Asked,
    /// Metadata copies in step, of five.
    pub copies: u8,
}

impl Figures {
    /// Health as the module of version 2 numbered it: 0 excellent, 1 good, 2 fair, 3 poor, 4 critical.
    #[must_use]
    pub fn health_code(&self) -> u8 {
        match self.state {
            VolumeState::Healthy => 0,
            VolumeState::Degraded if self.counts.lost_sectors == 0 => 1,
            // A volume that is only looked at is as good as what its table says.
            VolumeState::Frozen if self.read_only => match self.counts {
                TableCounts { lost_sectors: 1.., .. } => 2,
                TableCounts { entries, .. } => u8::from(entries > 0),
            },
            VolumeState::Degraded => 2,
            VolumeState::Exhausted => 3,
            VolumeState::Frozen => 4,
        }
    }

    /// Health in percent, for what asks so.
    #[must_use]
    pub fn health_percent(&self) -> u8 {
        100 - 20 * self.health_code().min(5)
    }

    /// Blocks that spares can take in all.
    #[must_use]
    pub fn most_remaps(&self) -> u64 {
        self.max_remaps.unwrap_or(self.slots).min(self.slots)
    }

    /// Slots in use.
    #[must_use]
    pub fn used_slots(&self) -> u64 {
        self.slots.saturating_sub(self.free_slots)
    }

    /// Device reads that failed, in either lane.
    #[must_use]
    pub fn read_errors(&self) -> u64 {
        self.counters.read_errors.saturating_add(self.asked.read_errors)
    }

    /// Device writes that failed, in either lane.
    #[must_use]
    pub fn write_errors(&self) -> u64 {
        self.counters.write_errors.saturating_add(self.asked.write_errors)
    }

    /// Requests.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.asked.reads.saturating_add(self.asked.writes)
    }

    /// Sectors of blocks that are on a spare.
    #[must_use]
    pub fn remapped_sectors(&self) -> u64 {
        self.counts.remapped_blocks.saturating_mul(u64::from(self.block_size / 512))
    }
}

#[cfg(test)]
impl Figures {
    /// A volume that was never in trouble.
    pub(crate) fn sample() -> Self {
        Self {
            state: VolumeState::Healthy,
            read_only: false,
            suspended: false,
            sectors: 204_800,
            block_size: 4096,
            logical_block: 512,
            counts: TableCounts::default(),
            slots: 1000,
            free_slots: 1000,
            max_remaps: None,
            counters: Counters::default(),
            asked: Asked::default(),
            copies: 5,
        }
    }
}
