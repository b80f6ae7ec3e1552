//! Spares that join and leave a volume in service.
//!
//! Invariant: a device is in [`SpareDevices`] before the engine may name it, and stays until the engine has let go of it; whoever
//! has an operation out holds the device by a clone of its own.

use std::sync::{Mutex, MutexGuard, PoisonError};

use remap_core::engine::{Command, CommandOutcome, RequestError};
use remap_core::op::Fault;
use remap_core::recovery::shape_of;
use remap_format::layout::{LayoutError, joining_spare};
use remap_format::{MAX_SPARES, SpareRecord};
use remap_io::Device;

use crate::mail::ToQueue;
use crate::spares::{AdoptError, RewriteError, check_spare, wipe};
use crate::volume::{Stopped, Volume};

/// The devices of the spares, by their numbers in the volume.
#[derive(Debug)]
pub(crate) struct SpareDevices {
    devices: Mutex<Vec<Option<Device>>>,
    /// Held by whoever changes them, from asking the engine for a number to its answer.
    change: Mutex<()>,
}

impl SpareDevices {
    pub(crate) fn of(devices: Vec<Option<Device>>) -> Self {
        Self { devices: Mutex::new(devices), change: Mutex::default() }
    }

    /// All of them, as they are now.
    pub(crate) fn snapshot(&self) -> Vec<Option<Device>> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn get(&self, number: u8) -> Option<Device> {
        self.devices
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(usize::from(number))
            .cloned()
            .flatten()
    }

    /// Those that are there, with their numbers.
    pub(crate) fn present(&self) -> Vec<(u8, Device)> {
        (0u8..).zip(self.snapshot()).filter_map(|(number, device)| Some((number, device?))).collect()
    }

    fn set(&self, number: u8, device: Option<Device>) {
        let mut devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        let least = usize::from(number) + 1;
        if devices.len() < least {
            devices.resize(least, None);
        }
        if let Some(place) = devices.get_mut(usize::from(number)) {
            *place = device;
        }
    }
}

/// Why a spare did not join or leave.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpareError {
    /// The device cannot be a spare of this volume.
    #[error(transparent)]
    Unfit(#[from] AdoptError),
    /// It is too small for one slot.
    #[error("{spare}: has {size} bytes, which is too small for a spare of this volume")]
    TooSmall {
        /// Path of the device.
        spare: String,
        /// Its size in bytes.
        size: u64,
    },
    /// All numbers are taken.
    #[error(
        "a volume can name {MAX_SPARES} spares, and this one has; stop and start it to use the numbers of those that left again"
    )]
    Full,
    /// Nothing may be written.
    #[error("the volume is served read-only")]
    ReadOnly,
    /// Not a spare of the volume.
    #[error("the volume has no spare number {0}")]
    NoSuchSpare(u8),
    /// The last one cannot leave.
    #[error("spare {0} is the volume's only one: add another first, or release the volume")]
    Last(u8),
    /// The others cannot take over the metadata copies.
    #[error("the metadata copies on spare {0} have no room on the others: add a larger spare first")]
    NoHomes(u8),
    /// The others cannot take over the blocks.
    #[error(
        "{blocks} blocks are on spare {spare}, and the others have {free} free slots: add another spare first"
    )]
    NoSlots {
        /// The spare.
        spare: u8,
        /// Blocks on it.
        blocks: u64,
        /// Slots that are free on the others.
        free: u64,
    },
    /// The device failed while it was prepared.
    #[error("{0}: {1}")]
    Prepare(String, RewriteError),
    /// It was tried, and did not work out; nothing is lost.
    #[error("it did not work out ({}): {done} blocks had moved; nothing is lost; check the spares and try again", cause(*error))]
    Failed {
        /// Blocks that had moved.
        done: u64,
        /// The first failure.
        error: RequestError,
    },
    /// The volume was stopped.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

fn cause(error: RequestError) -> &'static str {
    match error {
        RequestError::NoSpace => "no slot is free",
        RequestError::Io(Fault::Medium | Fault::Protection) => "a medium error",
        RequestError::Io(Fault::Transport | Fault::Timeout | Fault::Gone) => "a device does not answer",
        RequestError::Io(_) => "metadata or blocks cannot be written now",
    }
}

impl Volume {
    /// The spares in service, with their numbers in the volume.
    #[must_use]
    pub fn spares(&self) -> Vec<(u8, Device)> {
        self.shared.spares.present()
    }

    /// A spare joins the volume, and with `copies` takes over its share of the metadata copies; gives its number. Whatever
    /// `force` allows to be on it is lost.
    ///
    /// # Errors
    /// [`SpareError`]; unless it is [`SpareError::Failed`] or [`SpareError::Prepare`], nothing was written.
    pub fn add_spare(&self, device: Device, copies: bool, force: bool) -> Result<u8, SpareError> {
        let _change = self.change_spares()?;
        let path = device.path().display().to_string();
        check_spare(&device, self.shared.main.limits().logical_block, force)?;
        let block_size = u64::from(self.shared.volume.block_size());
        let size = device.size() - device.size() % block_size;
        let uuid = *uuid::Uuid::new_v4().as_bytes();
        let (number, record) = self
            .query(move |engine| {
                let number = engine.next_spare().ok_or(SpareError::Full)?;
                let planned = joining_spare(uuid, size, number, &shape_of(engine.volume()), block_size);
                planned
                    .map(|record| (number, record))
                    .map_err(|error: LayoutError| SpareError::Unfit(AdoptError::Layout(error)))
            })?
            .map_err(|error| match error {
                SpareError::Unfit(AdoptError::Layout(_)) => {
                    SpareError::TooSmall { spare: path.clone(), size }
                }
                other => other,
            })?;
        wipe(&device).map_err(|error| SpareError::Prepare(path, error))?;
        self.shared.spares.set(number, Some(device.clone()));
        let outcome = self.command(Command::AddSpare { spare: number, record, copies })?;
        if !self.has_spare(number)? {
            self.let_go(number);
            // Its label says that it is of this volume; if that stays, the next one who adds it must force it.
            let _ = wipe(&device);
        }
        settled(outcome).map(|_| number)
    }

    /// Moves the blocks and the metadata copies off a spare, and lets it go; gives the number of blocks that moved.
    ///
    /// # Errors
    /// [`SpareError`]; blocks that had moved stay where they are.
    pub fn retire_spare(&self, number: u8) -> Result<u64, SpareError> {
        let _change = self.change_spares()?;
        self.query(move |engine| {
            let present: Vec<u8> = engine.volume().present().map(|(n, _)| n).collect();
            if !present.contains(&number) {
                return Err(SpareError::NoSuchSpare(number));
            }
            if present.len() == 1 {
                return Err(SpareError::Last(number));
            }
            if !engine.can_leave(number) {
                return Err(SpareError::NoHomes(number));
            }
            let (own, all) = (engine.slots(Some(number)), engine.slots(None));
            let (blocks, free) = (own.total - own.free, all.free - own.free);
            if blocks > free {
                return Err(SpareError::NoSlots { spare: number, blocks, free });
            }
            Ok(())
        })??;
        let outcome = self.command(Command::RetireSpare { spare: number })?;
        let moved = settled(outcome)?;
        self.let_go(number);
        Ok(moved)
    }

    /// One change at a time.
    fn change_spares(&self) -> Result<MutexGuard<'_, ()>, SpareError> {
        if self.shared.read_only {
            return Err(SpareError::ReadOnly);
        }
        Ok(self.shared.spares.change.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn has_spare(&self, number: u8) -> Result<bool, Stopped> {
        self.query(move |engine| {
            engine.volume().spares.get(usize::from(number)).is_some_and(SpareRecord::is_present)
        })
    }

    /// The engine does not name the device any more.
    fn let_go(&self, number: u8) {
        let leaves = self.shared.spares.snapshot().get(usize::from(number)).cloned().flatten();
        if let Some(device) = leaves {
            // What moved off it may be what was there before a flush that failed; a client must hear of that all the same.
            self.shared.main.take_over_failed_flushes(&device);
        }
        self.shared.spares.set(number, None);
        for queue in self.shared.queues() {
            queue.mail.post(ToQueue::SparesChanged);
        }
    }
}

fn settled(outcome: CommandOutcome) -> Result<u64, SpareError> {
    match outcome.error {
        Some(error) => Err(SpareError::Failed { done: outcome.done, error }),
        None => Ok(outcome.done),
    }
}
