//! What is known about a volume that is being served: plain values, for any front end to print.

use std::path::PathBuf;
use std::sync::PoisonError;
use std::time::Duration;

use remap_core::engine::{Counters, Engine, VolumeState};
use remap_core::op::{DeviceId, Fault};
use remap_core::pool::SlotCounts;
use remap_core::table::TableCounts;
use remap_core::units::SECTOR_SIZE;
use remap_format::Policy;

use crate::pattern::Pattern;
use crate::regions::{Region, worst_regions};
use crate::volume::Shared;

/// A spare of the volume.
#[derive(Clone, Debug)]
pub struct SpareStatus {
    /// Its number in the volume.
    pub number: u8,
    /// First byte of its slice on the file or device.
    pub start: u64,
    /// Where it is.
    pub path: PathBuf,
    /// Size of the slice in bytes.
    pub size: u64,
    /// How its slots are used.
    pub slots: SlotCounts,
}

/// What clients asked, all queues together, since the volume was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaneCounters {
    /// Read requests.
    pub reads: u64,
    /// Write requests (write zeroes and discards included).
    pub writes: u64,
    /// Flush requests.
    pub flushes: u64,
    /// Bytes asked to be read.
    pub read_bytes: u64,
    /// Bytes asked to be written.
    pub written_bytes: u64,
    /// Requests (or parts) served without the owner.
    pub fast: u64,
    /// Requests (or parts) that the owner handled.
    pub slow: u64,
    /// Parts served from a spare by the fast lane.
    pub remapped: u64,
    /// Reads that ended with an error for the client.
    pub failed_reads: u64,
    /// Writes that ended with an error for the client.
    pub failed_writes: u64,
    /// Device reads that failed in the fast lane.
    pub read_errors: u64,
    /// Device writes that failed in the fast lane.
    pub write_errors: u64,
}

/// A volume's state.
#[derive(Clone, Debug)]
pub struct Status {
    /// Volume name.
    pub name: String,
    /// Volume UUID, as text.
    pub uuid: String,
    /// State.
    pub state: VolumeState,
    /// Path of the main device.
    pub main: PathBuf,
    /// Size of the volume in bytes.
    pub size: u64,
    /// Block size in bytes.
    pub block_size: u32,
    /// Logical block of the main device in bytes.
    pub logical_block: u32,
    /// Policy in force.
    pub policy: Policy,
    /// Writes are refused.
    pub read_only: bool,
    /// Is the main device used with O_DIRECT?
    pub direct: bool,
    /// The spares.
    pub spares: Vec<SpareStatus>,
    /// All slots.
    pub slots: SlotCounts,
    /// Table totals.
    pub counts: TableCounts,
    /// Where the trouble is: the worst regions of the main device.
    pub regions: Vec<Region>,
    /// Slow lane counters.
    pub counters: Counters,
    /// Client counters.
    pub lanes: LaneCounters,
    /// What clients have been doing lately.
    pub pattern: Pattern,
    /// Generation of the durable table.
    pub generation: u64,
    /// Copies in step, by number.
    pub copies_in_step: [bool; 5],
    /// Remapping is suspended because of this.
    pub breaker: Option<(DeviceId, Fault)>,
    /// Most blocks that may be remapped, if limited.
    pub max_remaps: Option<u64>,
    /// Since the volume was opened.
    pub uptime: Duration,
    /// When the volume was adopted, seconds since 1970.
    pub created: u64,
}

/// The state of a volume now.
pub(crate) fn of(shared: &Shared, engine: &Engine) -> Status {
    let mut lanes = *shared.past.lock().unwrap_or_else(PoisonError::into_inner);
    let queues = shared.queues();
    for queue in &queues {
        queue.counters.add_to(&mut lanes);
    }
    let spares = shared.spares.present().into_iter().map(|(number, device)| SpareStatus {
        number,
        path: device.path().to_path_buf(),
        start: device.start(),
        size: device.size(),
        slots: engine.slots(Some(number)),
    });
    let volume = engine.volume();
    Status {
        name: volume.name.clone(),
        uuid: uuid::Uuid::from_bytes(volume.volume).to_string(),
        state: engine.state(),
        main: shared.main.path().to_path_buf(),
        size: volume.main.size,
        block_size: volume.block_size(),
        logical_block: volume.main.logical_block,
        policy: volume.policy,
        read_only: shared.read_only,
        direct: shared.main.limits().direct,
        spares: spares.collect(),
        slots: engine.slots(None),
        counts: engine.counts(),
        regions: worst_regions(
            engine.table().iter(),
            u64::from(volume.block_sectors()),
            volume.main.size / SECTOR_SIZE,
        ),
        counters: engine.counters(),
        lanes,
        pattern: Pattern::of(queues.iter().map(|queue| &queue.recent)),
        generation: engine.generation(),
        copies_in_step: engine.copies_in_step(),
        breaker: engine.breaker(),
        max_remaps: shared.max_remaps,
        uptime: shared.clock.elapsed(),
        created: volume.created,
    }
}
