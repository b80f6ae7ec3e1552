//! A volume in service: opening it, asking it, stopping it.
//!
//! Invariant: nothing is served before the main device is known to be the one the spares belong to and all metadata copies
//! are in step (or it is known which are not); after [`Volume::stop`] no thread of the volume is left and nothing is in
//! flight.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use remap_core::engine::{Command, CommandOutcome, Engine, EngineConfig, Notice};
use remap_core::op::Fault;
use remap_core::recovery::{CopyReport, Recovered, RecoveryError};
use remap_core::units::{Block, Extent, SECTOR_SIZE, Sector};
use remap_core::view::View;
use remap_format::{Entry, EntryState, Superblock};
use remap_io::{Buf, Device, IoBackend};

use crate::bypass::{Bypass, BypassThread, let_go_of_pending};
use crate::clock::Clock;
use crate::front::{BlockState, Export, Geometry, StatusRange};
use crate::mail::{QueueMail, ToOwner};
use crate::mailbox::Mailbox;
use crate::owner;
use crate::queue::VolumeQueue;
use crate::spares::{examine, main_identity};
use crate::status::{self, LaneCounters, Status};
use crate::swap::SpareDevices;
use crate::trace::Trace;

/// Largest request that a front end may submit, in bytes (the NBD protocol's own limit for clients that do not ask).
pub const MAX_IO: u32 = 32 << 20;

/// Called with all news, from the owner's thread; must not block.
pub type OnNotice = Box<dyn Fn(&Notice) + Send>;

/// How to open a volume.
pub struct OpenOptions {
    /// Policy and limits.
    pub engine: EngineConfig,
    /// Time that a device operation may take.
    pub deadline: Duration,
    /// How to talk to the kernel.
    pub io: IoBackend,
    /// Refuse writes, write nothing anywhere.
    pub read_only: bool,
    /// Accept a main device whose identity differs, and remember the new one.
    pub force_identity: bool,
    /// Open a volume that was released.
    pub force_released: bool,
    /// Where news go.
    pub on_notice: Option<OnNotice>,
    /// What carries the clients' requests instead of our queues, if they do not.
    pub bypass: Option<Box<dyn Bypass>>,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            engine: EngineConfig::default(),
            deadline: Duration::from_secs(30),
            io: IoBackend::Auto,
            read_only: false,
            force_identity: false,
            force_released: false,
            on_notice: None,
            bypass: None,
        }
    }
}

/// What opening found.
#[derive(Clone, Debug)]
pub struct OpenReport {
    /// The metadata copies as they were found.
    pub copies: Vec<CopyReport>,
    /// Copies were not in step and were written anew.
    pub repaired: bool,
    /// Things a person should know.
    pub warnings: Vec<String>,
    /// For each spare of the volume, which of the given ones it is; `None`: it has left the volume.
    pub devices: Vec<Option<usize>>,
}

/// Why a volume could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// See [`RecoveryError`].
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    /// The main device is not the one that was adopted.
    #[error(
        "{main}: is not the main device of volume '{volume}': {difference}; nothing was changed (if it is the right one all the same, use --force)"
    )]
    WrongMain {
        /// Path of the main device.
        main: PathBuf,
        /// The volume's name.
        volume: String,
        /// What differs.
        difference: String,
    },
    /// The main device is smaller than it was.
    #[error(
        "{main}: has {found} bytes, {expected} when it was adopted: a main device must not shrink; nothing was changed"
    )]
    MainShrank {
        /// Path of the main device.
        main: PathBuf,
        /// Bytes now.
        found: u64,
        /// Bytes then.
        expected: u64,
    },
    /// The copies could not be brought in step.
    #[error(
        "cannot write metadata to the spare ({0:?}); check the spare, or open the volume with --read-only"
    )]
    Metadata(Fault),
    /// A device cannot be written.
    #[error("{0}: is read-only; use --read-only to read what is there")]
    ReadOnly(PathBuf),
    /// Written by a newer program.
    #[error(
        "uses features {bits:#x} that this program does not know: a newer dm-remap is needed to write; --read-only works"
    )]
    Features {
        /// The unknown bits.
        bits: u64,
    },
    /// The kernel gave no thread, ring or descriptor.
    #[error("cannot start: {0}")]
    System(#[from] std::io::Error),
}

/// The volume was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the volume is not in service any more")]
pub struct Stopped;

/// What queues, owner and handles share.
pub(crate) struct Shared {
    pub(crate) main: Device,
    pub(crate) spares: SpareDevices,
    pub(crate) view: Arc<View>,
    pub(crate) volume: Superblock,
    pub(crate) read_only: bool,
    pub(crate) deadline: Duration,
    pub(crate) io: IoBackend,
    pub(crate) owner: Mailbox<ToOwner>,
    pub(crate) queues: Mutex<Vec<Arc<QueueMail>>>,
    /// Counters of queues that are gone.
    pub(crate) past: Mutex<LaneCounters>,
    pub(crate) stopping: AtomicBool,
    pub(crate) trace: Trace,
    pub(crate) max_remaps: Option<u64>,
    pub(crate) clock: Clock,
    /// Holds taken so far.
    pub(crate) holds: AtomicU64,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Shared {
    pub(crate) fn block_sectors(&self) -> u64 {
        u64::from(self.volume.block_sectors())
    }

    /// Finishes what is under way and ends the owner; once.
    fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            self.owner.post(ToOwner::Stop);
            // A panic of the owner was printed by its own thread.
            let _ = thread.join();
        }
    }

    pub(crate) fn queues(&self) -> Vec<Arc<QueueMail>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A volume in service. Cheap to clone; the last handle that goes stops it.
#[derive(Clone)]
pub struct Volume {
    pub(crate) shared: Arc<Shared>,
    _last: Arc<StopWithLast>,
}

/// Stops the owner when the last handle is dropped.
struct StopWithLast(Arc<Shared>);

impl Drop for StopWithLast {
    fn drop(&mut self) {
        self.0.stop();
    }
}

impl Volume {
    /// Assembles the volume of these spares (in any order) with this main device and starts its owner.
    ///
    /// # Errors
    /// [`OpenError`]; nothing was written unless it is [`OpenError::Metadata`].
    pub fn open(
        main: Device,
        spares: Vec<Device>,
        mut options: OpenOptions,
    ) -> Result<(Self, OpenReport), OpenError> {
        let mut recovered = examine(&spares, options.force_released || options.read_only)?;
        let mut warnings = Vec::new();
        check_writable(&main, &spares, options.read_only)?;
        if recovered.superblock.ro_compat != 0 && !options.read_only {
            return Err(OpenError::Features { bits: recovered.superblock.ro_compat });
        }
        let changed = check_main(&main, &recovered.superblock, options.force_identity, &mut warnings)?;
        if changed && !options.read_only {
            let size = recovered.superblock.main.size;
            recovered.superblock.main = main_identity(&main);
            recovered.superblock.main.size = size;
            recovered.needs_repair = true;
        }
        if options.force_released {
            recovered.superblock.flags = remap_format::SuperblockFlags::default();
            recovered.needs_repair = true;
        }
        warn_of_copies(&recovered, &mut warnings);
        let copies = recovered.copies.clone();
        let repaired = recovered.needs_repair && !options.read_only;
        if options.read_only {
            recovered.needs_repair = false;
        }
        let devices = recovered.devices.clone();
        let spares = devices.iter().map(|d| d.and_then(|d| spares.get(d).cloned())).collect();
        if options.bypass.is_some() && !options.read_only {
            let gone = let_go_of_pending(&mut recovered)?;
            if gone > 0 {
                recovered.needs_repair = true;
                warnings.push(format!(
                    "{gone} pending entries are left to the main device itself (stock tables)"
                ));
            }
        }
        let on_notice = options.on_notice.take();
        let bypass = options.bypass.take();
        let volume = Self::start(main, spares, recovered, &options, on_notice, bypass)?;
        Ok((volume, OpenReport { copies, repaired, warnings, devices }))
    }

    fn start(
        main: Device,
        spares: Vec<Option<Device>>,
        recovered: Recovered,
        options: &OpenOptions,
        on_notice: Option<OnNotice>,
        bypass: Option<Box<dyn Bypass>>,
    ) -> Result<Self, OpenError> {
        let clock = Clock::start();
        let shared = Arc::new(Shared {
            main,
            spares: SpareDevices::of(spares),
            view: Arc::clone(recovered.table.view()),
            volume: recovered.superblock.clone(),
            read_only: options.read_only,
            deadline: options.deadline,
            io: options.io,
            owner: Mailbox::open()?,
            queues: Mutex::default(),
            past: Mutex::default(),
            stopping: AtomicBool::new(false),
            trace: Trace::default(),
            max_remaps: options.engine.max_remaps,
            clock,
            holds: AtomicU64::new(0),
            thread: Mutex::default(),
        });
        let bypass = bypass.map(|bypass| BypassThread::start(&shared, bypass)).transpose()?;
        let (live, is_live) = mpsc::channel();
        let (for_owner, config) = (Arc::clone(&shared), options.engine);
        let thread = std::thread::Builder::new().name("owner".into()).spawn(move || {
            owner::run(&for_owner, recovered, config, clock, on_notice, bypass, &live);
        })?;
        *shared.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        let volume = Self { _last: Arc::new(StopWithLast(Arc::clone(&shared))), shared };
        match is_live.recv() {
            Ok(Ok(())) => Ok(volume),
            Ok(Err(owner::StartError::Metadata(fault))) => {
                volume.stop();
                Err(OpenError::Metadata(fault))
            }
            Ok(Err(owner::StartError::System(error))) => {
                volume.stop();
                Err(OpenError::System(error))
            }
            Err(_) => Err(OpenError::System(std::io::Error::other("the owner thread ended"))),
        }
    }

    /// Asks the engine something, in the owner's thread.
    pub(crate) fn query<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Engine) -> T + Send + 'static,
    ) -> Result<T, Stopped> {
        let (send, receive) = mpsc::channel();
        let question = move |engine: &Engine| {
            // The asker may have gone away; then nobody wants the answer.
            let _ = send.send(ask(engine));
        };
        self.shared.owner.post(ToOwner::Query(Box::new(question)));
        receive.recv().map_err(|_| Stopped)
    }

    /// Carries out a command and waits for its end.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn command(&self, command: Command) -> Result<CommandOutcome, Stopped> {
        let (reply, receive) = mpsc::channel();
        self.shared.owner.post(ToOwner::Command { command, reply });
        receive.recv().map_err(|_| Stopped)
    }

    /// The main device.
    #[must_use]
    pub fn main(&self) -> &Device {
        &self.shared.main
    }

    /// The volume's state.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn status(&self) -> Result<Status, Stopped> {
        let shared = Arc::clone(&self.shared);
        self.query(move |engine| status::of(&shared, engine))
    }

    /// All entries of the durable table, in order.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn entries(&self) -> Result<Vec<Entry>, Stopped> {
        self.query(|engine| engine.table().iter().collect())
    }

    /// The entries that touch an extent, each whole, in order.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn entries_in(&self, extent: Extent) -> Result<Vec<Entry>, Stopped> {
        let per_block = self.shared.block_sectors();
        self.query(move |engine| {
            let mut entries = Vec::new();
            let mut block = Block(extent.start().0 / per_block);
            while let Some(entry) =
                engine.table().next_from(block).filter(|e| e.block * per_block < extent.end().0)
            {
                entries.push(entry);
                block = Block(entry.end());
            }
            entries
        })
    }

    /// Slots that went bad.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn retired(&self) -> Result<Vec<Entry>, Stopped> {
        self.query(|engine| engine.retired().to_vec())
    }

    /// Sectors that no device holds, as sorted runs.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn lost(&self) -> Result<Vec<Extent>, Stopped> {
        let sectors = self.shared.volume.main.size / SECTOR_SIZE;
        let per_block = self.shared.block_sectors();
        self.query(move |engine| lost_extents(engine.table().iter(), per_block, sectors))
    }

    /// The volume as its superblock described it when it was opened (spares may have come and gone since).
    #[must_use]
    pub fn superblock(&self) -> &Superblock {
        &self.shared.volume
    }

    /// Finishes what is under way and ends the owner. Queues that still exist give [`crate::front::FrontError::Shutdown`].
    pub fn stop(&self) {
        self.shared.stop();
    }

    /// Takes what waits in the devices' write caches to their media. For after the stop: the machine may be switched off
    /// next, and no client sends a flush any more.
    ///
    /// # Errors
    /// Path of the first device that did not flush.
    pub fn settle(&self) -> Result<(), PathBuf> {
        if self.shared.read_only {
            return Ok(());
        }
        let spares = self.spares().into_iter().map(|(_, spare)| spare);
        let devices = std::iter::once(self.shared.main.clone()).chain(spares);
        let refused: Vec<Device> = devices.filter(|device| device.flush().is_err()).collect();
        refused.first().map_or(Ok(()), |device| Err(device.path().to_path_buf()))
    }
}

/// Runs of sectors that entries say are lost.
pub fn lost_extents(
    entries: impl Iterator<Item = Entry>,
    block_sectors: u64,
    main_sectors: u64,
) -> Vec<Extent> {
    let mut lost: Vec<Extent> = Vec::new();
    let mut add = |start: u64, end: u64| {
        let end = end.min(main_sectors);
        match lost.last_mut() {
            Some(last) if last.end().0 == start && end > start => {
                if let Some(longer) = Extent::between(last.start(), Sector(end)) {
                    *last = longer;
                }
            }
            _ => lost.extend(Extent::between(Sector(start), Sector(end))),
        }
    };
    for entry in entries.filter(|e| e.lost != 0 && e.state != EntryState::Retired) {
        let start = entry.block * block_sectors;
        if entry.count > 1 {
            add(start, entry.end() * block_sectors);
            continue;
        }
        for bit in (0..block_sectors.min(128)).filter(|bit| entry.lost & (1 << bit) != 0) {
            add(start + bit, start + bit + 1);
        }
    }
    lost
}

fn check_writable(main: &Device, spares: &[Device], read_only: bool) -> Result<(), OpenError> {
    let locked = std::iter::once(main).chain(spares).find(|d| d.limits().read_only);
    match locked {
        Some(device) if !read_only => Err(OpenError::ReadOnly(device.path().to_path_buf())),
        _ => Ok(()),
    }
}

/// Is this the main device that was adopted? `Ok(true)`: it is taken for it by force.
fn check_main(
    main: &Device,
    superblock: &Superblock,
    force: bool,
    warnings: &mut Vec<String>,
) -> Result<bool, OpenError> {
    let then = &superblock.main;
    let now = main_identity(main);
    let path = || main.path().to_path_buf();
    if now.size < then.size {
        return Err(OpenError::MainShrank { main: path(), found: now.size, expected: then.size });
    }
    let mut difference = None;
    let named = [
        ("WWN", &then.wwn, &now.wwn),
        ("serial number", &then.serial, &now.serial),
        ("content", &then.content_uuid, &now.content_uuid),
    ];
    if named.iter().all(|(_, then, _)| then.is_empty()) {
        warnings.push(format!(
            "{}: had no WWN, serial number or known contents when it was adopted; only its size could be checked",
            main.path().display()
        ));
    }
    // The strongest identity that was known then decides; what cannot be read now proves nothing.
    if let Some((what, then, now)) = named.into_iter().find(|(_, then, _)| !then.is_empty()) {
        if now.is_empty() && what == "content" && !start_is_readable(main) {
            warnings.push(format!(
                "{}: the start of the device cannot be read, so that it is the right one could not be confirmed",
                main.path().display()
            ));
        } else if then != now {
            let now = if now.is_empty() { "none" } else { now };
            difference = Some(format!("its {what} is {now}, {then} was adopted"));
        }
    }
    if difference.is_none() && now.size != then.size {
        difference = Some(format!("it has {} bytes, {} when it was adopted", now.size, then.size));
    }
    if now.logical_block > then.logical_block {
        difference = Some(format!(
            "its logical block is {} bytes, {} when it was adopted",
            now.logical_block, then.logical_block
        ));
    }
    match difference {
        None => Ok(false),
        Some(_) if force => Ok(true),
        Some(difference) => {
            Err(OpenError::WrongMain { main: path(), volume: superblock.name.clone(), difference })
        }
    }
}

fn start_is_readable(main: &Device) -> bool {
    let len = main.size().min(128 << 10) as usize;
    let Ok(mut buf) = Buf::alloc(len) else { return true };
    main.read_at(0, &mut buf).is_ok()
}

fn warn_of_copies(recovered: &Recovered, warnings: &mut Vec<String>) {
    for copy in &recovered.copies {
        if let Some((flaw, at)) = &copy.flaw {
            warnings.push(format!("metadata copy {} on spare {}, byte {at}: {flaw}", copy.copy, copy.spare));
        }
    }
}

impl Export for Volume {
    type Queue = VolumeQueue;

    fn geometry(&self) -> Geometry {
        let shared = &self.shared;
        let limits = shared.main.limits();
        Geometry {
            size: shared.volume.main.size,
            min_io: shared.volume.main.logical_block,
            preferred_io: shared.volume.block_size().max(4096),
            max_io: MAX_IO,
            read_only: shared.read_only,
            can_discard: limits.discard,
            rotational: limits.rotational,
            name: shared.volume.name.clone(),
            description: format!("{} behind dm-remap", shared.main.path().display()),
        }
    }

    fn queue(&self) -> std::io::Result<VolumeQueue> {
        VolumeQueue::open(&self.shared)
    }

    fn block_status(&self, offset: u64, len: u64, max_ranges: usize) -> Vec<StatusRange> {
        let per_block = self.shared.block_sectors();
        let all = || vec![StatusRange { len, state: BlockState::Healthy }];
        let sectors =
            Extent::between(Sector(offset / SECTOR_SIZE), Sector((offset + len).div_ceil(SECTOR_SIZE)));
        let Some(extent) = sectors else { return all() };
        let ranges = self.query(move |engine| states_of(engine, &extent, per_block, max_ranges));
        ranges.map_or_else(|_| all(), |ranges| trim(ranges, offset, len))
    }

    fn trace(&self) -> &Trace {
        &self.shared.trace
    }
}

/// States of an extent, in sectors from its start; stops after `max` ranges.
fn states_of(engine: &Engine, extent: &Extent, per_block: u64, max: usize) -> Vec<(u64, BlockState)> {
    let mut ranges: Vec<(u64, BlockState)> = Vec::new();
    let mut at = extent.start().0;
    let end = extent.end().0;
    while at < end && ranges.len() <= max {
        let block = Block(at / per_block);
        let entry = engine.table().next_from(block).filter(|e| e.block * per_block < end);
        let (until, state) = match entry {
            None => (end, BlockState::Healthy),
            Some(e) if e.block > block.0 => (e.block * per_block, BlockState::Healthy),
            Some(e) => {
                let held =
                    if e.state == EntryState::Remapped { BlockState::Remapped } else { BlockState::Pending };
                let lost = |sector: u64| e.lost & (1 << (sector % per_block)) != 0;
                let state = if lost(at) { BlockState::Lost } else { held };
                let uniform = e.lost == 0 || e.count > 1;
                let limit = if uniform { e.end() } else { block.0 + 1 } * per_block;
                let same = (at..limit.min(end)).take_while(|&s| uniform || lost(s) == lost(at));
                let until = if uniform { limit } else { at + same.count() as u64 };
                (until, state)
            }
        };
        let until = until.min(end);
        match ranges.last_mut() {
            Some((len, last)) if *last == state => *len += until - at,
            _ => ranges.push((until - at, state)),
        }
        at = until;
    }
    ranges.truncate(max.max(1));
    ranges
}

/// From sectors to bytes, cut to the bytes that were asked for.
fn trim(ranges: Vec<(u64, BlockState)>, offset: u64, len: u64) -> Vec<StatusRange> {
    let mut skip = offset % SECTOR_SIZE;
    let mut left = len;
    let mut out = Vec::with_capacity(ranges.len());
    for (sectors, state) in ranges {
        let bytes = (sectors * SECTOR_SIZE - skip).min(left);
        skip = 0;
        left -= bytes;
        out.push(StatusRange { len: bytes, state });
    }
    out
}
