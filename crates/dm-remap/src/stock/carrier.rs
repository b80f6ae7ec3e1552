//! The mapped device as the volume's owner drives it: suspended, given the durable table, resumed.
//!
//! Invariant: a table comes into service in one step with the resume; a spare that the table does not name is claimed by us, one that it
//! names by device-mapper, so that nobody else can take it either way.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use remap_core::units::SECTOR_SIZE;
use remap_io::Device;
use remap_io::mapper::{DeviceMapper, DeviceNumber, MapperError, Segment, Target};
use remap_io::users::Claim;
use remap_runtime::{Bypass, Carried};

use super::table::{Shape, SpareNumber, segments};
use crate::news::{Level, News};

/// What happened to the device.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    /// Tables taken into service.
    pub(crate) reloads: AtomicU64,
    /// Segments of the one in service.
    pub(crate) segments: AtomicU64,
    /// Suspensions, and the longest, in microseconds.
    pub(crate) suspensions: AtomicU64,
    pub(crate) suspended_us_max: AtomicU64,
}

/// How to take a claim: of a path, in a test of nothing.
pub(super) type TakeClaim = fn(&std::path::Path) -> anyhow::Result<Option<Claim>>;

/// A claim of the kernel's.
pub(super) fn take_claim(path: &std::path::Path) -> anyhow::Result<Option<Claim>> {
    Ok(Some(Claim::take(path)?))
}

/// A device that we keep others from.
#[derive(Debug)]
pub(super) struct Claimed {
    pub(super) number: DeviceNumber,
    pub(super) _claim: Option<Claim>,
}

pub(super) struct Carrier {
    pub(super) mapper: Box<dyn DeviceMapper>,
    pub(super) name: String,
    pub(super) shape: Shape,
    pub(super) read_only: bool,
    pub(super) claims: Vec<Claimed>,
    pub(super) take_claim: TakeClaim,
    /// How a device's number is found: in a test it has none.
    pub(super) number_of: fn(&Device) -> Option<DeviceNumber>,
    pub(super) figures: Arc<Figures>,
    pub(super) news: News,
    /// The table in service, as far as we know it, and whether the device is suspended.
    pub(super) live: Option<Vec<Segment>>,
    pub(super) suspended: Option<Instant>,
}

impl Carrier {
    /// The numbers of spares; one that is no block device is not named by any table.
    fn numbers(&self, spares: &[(u8, Device)]) -> Vec<SpareNumber> {
        let number = |(spare, device): &(u8, Device)| {
            Some(SpareNumber {
                spare: *spare,
                device: (self.number_of)(device)?,
                start: device.start() / SECTOR_SIZE,
            })
        };
        spares.iter().filter_map(number).collect()
    }

    fn take_into_service(
        &mut self,
        table: Vec<Segment>,
        paths: &[(DeviceNumber, PathBuf)],
    ) -> Result<(), MapperError> {
        if self.live.as_ref() != Some(&table) {
            let named = |number: DeviceNumber| names(&table, number);
            self.claims.retain(|claimed| !named(claimed.number));
            self.mapper.load(&self.name, &table, self.read_only)?;
            // Until it is in service we do not know which one is.
            self.live = None;
        }
        self.mapper.resume(&self.name)?;
        if self.live.is_none() {
            self.figures.reloads.fetch_add(1, Ordering::Relaxed);
            self.figures.segments.store(table.len() as u64, Ordering::Relaxed);
            self.claim_the_others(&table, paths);
            self.live = Some(table);
        }
        Ok(())
    }

    /// Best effort: who takes a spare that no table names, and that was free until now, is refused by nobody but us.
    fn claim_the_others(&mut self, table: &[Segment], paths: &[(DeviceNumber, PathBuf)]) {
        for (number, path) in paths {
            let known = self.claims.iter().any(|claimed| claimed.number == *number);
            if known || names(table, *number) {
                continue;
            }
            match (self.take_claim)(path) {
                Ok(claim) => self.claims.push(Claimed { number: *number, _claim: claim }),
                Err(error) => {
                    self.news.say(Level::Warning, &format!("somebody else could take it now: {error:#}"))
                }
            }
        }
    }
}

fn names(table: &[Segment], number: DeviceNumber) -> bool {
    table.iter().any(|s| matches!(s.target, Target::Linear { device, .. } if device == number))
}

impl Bypass for Carrier {
    fn suspend(&mut self) -> io::Result<()> {
        // Later requests wait from the begin of the call on.
        let since = Instant::now();
        match self.mapper.suspend(&self.name) {
            Ok(()) => {
                self.suspended = Some(since);
                self.figures.suspensions.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Err(error) => {
                self.news.say(Level::Error, &format!("nothing can move: {error}"));
                Err(io::Error::other(error))
            }
        }
    }

    fn carry(&mut self, carried: &Carried) -> io::Result<()> {
        let spares = self.numbers(&carried.spares);
        let table = segments(&self.shape, &spares, &carried.entries, &carried.closed);
        if self.live.as_ref() == Some(&table) && self.suspended.is_none() {
            return Ok(());
        }
        if !carried.closed.is_empty() {
            let count = carried.closed.len();
            let text = format!("{count} blocks whose move takes long are errors until it has ended");
            self.news.say(Level::Warning, &text);
        }
        let path =
            |(_, device): &(u8, Device)| Some(((self.number_of)(device)?, device.path().to_path_buf()));
        let paths: Vec<(DeviceNumber, PathBuf)> = carried.spares.iter().filter_map(path).collect();
        match self.take_into_service(table, &paths) {
            Ok(()) => {
                if let Some(since) = self.suspended.take() {
                    let us = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
                    self.figures.suspended_us_max.fetch_max(us, Ordering::Relaxed);
                }
                Ok(())
            }
            Err(error) => {
                self.news.say(Level::Error, &format!("requests wait, and it is tried again: {error}"));
                Err(io::Error::other(error))
            }
        }
    }
}
