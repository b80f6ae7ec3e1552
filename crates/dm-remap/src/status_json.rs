//! The state of a volume as `status --json` prints it and as it crosses the control socket.
//!
//! Invariant: fields are only ever added; a change of meaning takes a higher [`SCHEMA_VERSION`].

use remap_core::engine::VolumeState;
use remap_core::op::DeviceId;
use remap_nbd::ConnectionStatus;
use remap_runtime::{LaneCounters, Pattern, Region, Status};
use remap_words::answer::{DeviceWord, fault_word};
use serde::{Deserialize, Serialize};

/// Version of the fields below.
pub(crate) const SCHEMA_VERSION: u32 = 1;

/// See the module. Sizes in bytes, sectors of 512 bytes, times in seconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StatusReport {
    pub(crate) schema_version: u32,
    pub(crate) program_version: String,
    pub(crate) pid: u32,
    pub(crate) name: String,
    pub(crate) uuid: String,
    /// `healthy`, `degraded`, `exhausted` or `frozen`.
    pub(crate) state: String,
    pub(crate) read_only: bool,
    pub(crate) size: u64,
    pub(crate) block_size: u32,
    pub(crate) policy: String,
    pub(crate) created: u64,
    pub(crate) uptime: u64,
    pub(crate) main: MainReport,
    pub(crate) spares: Vec<SpareReport>,
    pub(crate) slots: SlotsReport,
    pub(crate) max_remaps: Option<u64>,
    pub(crate) table: TableReport,
    /// The worst regions of the main device, at most 32, in order.
    #[serde(default)]
    pub(crate) regions: Vec<RegionReport>,
    pub(crate) metadata: MetadataReport,
    /// Why remapping is suspended, if it is.
    pub(crate) suspended: Option<SuspendedReport>,
    pub(crate) requests: RequestsReport,
    pub(crate) events: EventsReport,
    pub(crate) drills: Vec<DrillReport>,
    pub(crate) exports: Vec<String>,
    pub(crate) clients: Vec<ClientReport>,
    /// The mapped device that carries the volume, if one does (stock tables).
    #[serde(default)]
    pub(crate) mapper: Option<MapperReport>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MapperReport {
    /// Its name below `/dev/mapper`.
    pub(crate) name: String,
    pub(crate) path: String,
    /// Its number, `MAJOR:MINOR`.
    pub(crate) device: String,
    /// Segments of its table.
    pub(crate) segments: u64,
    /// Since the start: tables taken into service, suspensions, and the longest of them in microseconds.
    pub(crate) reloads: u64,
    pub(crate) suspensions: u64,
    pub(crate) suspended_us_max: u64,
    /// Who tells of errors.
    pub(crate) errors_from: String,
    /// Failed requests that were heard of.
    pub(crate) read_errors: u64,
    pub(crate) write_errors: u64,
    /// Sectors found unreadable that stay on the main device; they are in no table.
    pub(crate) left_to_main: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MainReport {
    pub(crate) path: String,
    pub(crate) logical_block: u32,
    pub(crate) direct: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SpareReport {
    /// Its number in the volume.
    #[serde(default)]
    pub(crate) number: u8,
    pub(crate) path: String,
    /// First byte of the slice.
    pub(crate) start: u64,
    pub(crate) size: u64,
    pub(crate) slots: SlotsReport,
}

/// Slots are blocks of a spare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SlotsReport {
    pub(crate) total: u64,
    pub(crate) used: u64,
    pub(crate) free: u64,
    pub(crate) retired: u64,
}

impl From<remap_core::pool::SlotCounts> for SlotsReport {
    fn from(slots: remap_core::pool::SlotCounts) -> Self {
        let used = slots.total.saturating_sub(slots.free);
        Self { total: slots.total, used, free: slots.free, retired: slots.retired }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TableReport {
    pub(crate) entries: u64,
    pub(crate) remapped_blocks: u64,
    pub(crate) pending_blocks: u64,
    pub(crate) lost_sectors: u64,
}

/// A part of the main device in which blocks are in trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RegionReport {
    pub(crate) first_sector: u64,
    pub(crate) sectors: u64,
    pub(crate) remapped_blocks: u64,
    pub(crate) pending_blocks: u64,
    pub(crate) lost_sectors: u64,
    pub(crate) errors: u64,
}

impl From<&Region> for RegionReport {
    fn from(region: &Region) -> Self {
        Self {
            first_sector: region.extent.start().0,
            sectors: region.extent.sectors(),
            remapped_blocks: region.remapped_blocks,
            pending_blocks: region.pending_blocks,
            lost_sectors: region.lost_sectors,
            errors: region.errors,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MetadataReport {
    pub(crate) generation: u64,
    pub(crate) copies_in_step: [bool; 5],
    pub(crate) commits: u64,
    pub(crate) checkpoints: u64,
    /// Times that a copy could not be kept in step.
    pub(crate) copy_failures: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SuspendedReport {
    /// `main`, or `spareN` in the volume's order.
    pub(crate) device: String,
    /// See [`fault_word`]; or [`BY_COMMAND`].
    pub(crate) fault: String,
}

/// In place of a fault: somebody asked for it.
pub(crate) const BY_COMMAND: &str = "by command";

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RequestsReport {
    pub(crate) reads: u64,
    pub(crate) writes: u64,
    pub(crate) flushes: u64,
    pub(crate) read_bytes: u64,
    pub(crate) written_bytes: u64,
    pub(crate) failed_reads: u64,
    pub(crate) failed_writes: u64,
    /// Requests, or parts of them, by lane.
    pub(crate) fast: u64,
    pub(crate) slow: u64,
    pub(crate) remapped: u64,
    /// Of the last 64 reads and writes of each connection: `sequential`, `random`, `mixed`; `unknown` before there were so many.
    #[serde(default)]
    pub(crate) pattern: String,
}

impl RequestsReport {
    fn of(lanes: &LaneCounters, pattern: Pattern) -> Self {
        Self {
            reads: lanes.reads,
            writes: lanes.writes,
            flushes: lanes.flushes,
            read_bytes: lanes.read_bytes,
            written_bytes: lanes.written_bytes,
            failed_reads: lanes.failed_reads,
            failed_writes: lanes.failed_writes,
            fast: lanes.fast,
            slow: lanes.slow,
            remapped: lanes.remapped,
            pattern: pattern.word().to_owned(),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EventsReport {
    /// Device operations that failed, in both lanes.
    pub(crate) read_errors: u64,
    pub(crate) write_errors: u64,
    pub(crate) auto_remaps: u64,
    pub(crate) manual_remaps: u64,
    pub(crate) heals: u64,
    pub(crate) breaker_trips: u64,
    pub(crate) dropped_suspicions: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DrillReport {
    pub(crate) device: String,
    pub(crate) enabled: bool,
    pub(crate) bad_sectors: u64,
    pub(crate) operations: u64,
    pub(crate) failed: u64,
    pub(crate) healed_sectors: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClientReport {
    pub(crate) peer: String,
    pub(crate) requests: u64,
    pub(crate) bytes_read: u64,
    pub(crate) bytes_written: u64,
}

impl From<ConnectionStatus> for ClientReport {
    fn from(client: ConnectionStatus) -> Self {
        Self {
            peer: client.peer,
            requests: client.requests,
            bytes_read: client.bytes_read,
            bytes_written: client.bytes_written,
        }
    }
}

/// `main`, or `spareN`.
pub(crate) fn device_word(device: DeviceId) -> String {
    DeviceWord(device).to_string()
}

/// What the server knows beside the volume's own status.
pub(crate) struct Surroundings {
    /// First bytes of the spares' slices, in the volume's order.
    pub(crate) copy_failures: u64,
    pub(crate) suspended_by_command: bool,
    pub(crate) drills: Vec<DrillReport>,
    pub(crate) exports: Vec<String>,
    pub(crate) clients: Vec<ClientReport>,
    pub(crate) mapper: Option<MapperReport>,
}

impl StatusReport {
    /// The report of a volume in this process.
    pub(crate) fn of(status: &Status, around: Surroundings) -> Self {
        let spares = status.spares.iter().map(|spare| SpareReport {
            number: spare.number,
            path: spare.path.display().to_string(),
            start: spare.start,
            size: spare.size,
            slots: spare.slots.into(),
        });
        let (counters, lanes) = (status.counters, status.lanes);
        Self {
            schema_version: SCHEMA_VERSION,
            program_version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            name: status.name.clone(),
            uuid: status.uuid.clone(),
            state: status.state.word().to_owned(),
            read_only: status.read_only,
            size: status.size,
            block_size: status.block_size,
            policy: status.policy.word().to_owned(),
            created: status.created,
            uptime: status.uptime.as_secs(),
            main: MainReport {
                path: status.main.display().to_string(),
                logical_block: status.logical_block,
                direct: status.direct,
            },
            spares: spares.collect(),
            slots: status.slots.into(),
            max_remaps: status.max_remaps,
            table: TableReport {
                entries: status.counts.entries,
                remapped_blocks: status.counts.remapped_blocks,
                pending_blocks: status.counts.pending_blocks,
                lost_sectors: status.counts.lost_sectors,
            },
            regions: status.regions.iter().map(RegionReport::from).collect(),
            metadata: MetadataReport {
                generation: status.generation,
                copies_in_step: status.copies_in_step,
                commits: counters.commits,
                checkpoints: counters.checkpoints,
                copy_failures: around.copy_failures,
            },
            suspended: status.breaker.map(|(device, fault)| SuspendedReport {
                device: device_word(device),
                fault: if around.suspended_by_command { BY_COMMAND } else { fault_word(fault) }.to_owned(),
            }),
            requests: RequestsReport::of(&lanes, status.pattern),
            events: EventsReport {
                read_errors: counters.read_errors + lanes.read_errors,
                write_errors: counters.write_errors + lanes.write_errors,
                auto_remaps: counters.auto_remaps,
                manual_remaps: counters.manual_remaps,
                heals: counters.heals,
                breaker_trips: counters.breaker_trips,
                dropped_suspicions: counters.dropped_suspicions,
            },
            drills: around.drills,
            exports: around.exports,
            clients: around.clients,
            mapper: around.mapper,
        }
    }

    /// The state as a value; `None` for a word of a later program.
    pub(crate) fn volume_state(&self) -> Option<VolumeState> {
        [VolumeState::Healthy, VolumeState::Degraded, VolumeState::Exhausted, VolumeState::Frozen]
            .into_iter()
            .find(|state| state.word() == self.state)
    }

    /// Metadata copies in step, of 5.
    pub(crate) fn copies(&self) -> usize {
        self.metadata.copies_in_step.iter().filter(|&&good| good).count()
    }
}
