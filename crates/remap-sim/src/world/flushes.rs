//! Flushes that fail: what they lose, and who hears of it.
//!
//! Invariant: a flush of a device is answered well only if the lane that asks (the engine, the clients) had heard, when it began, of
//! every flush of that device that has failed (a client's request hears when it ends); that is what remap-io promises. A flush that failed may have lost any write that it was to
//! make durable, whoever wrote it, and a later one that succeeds brings nothing back.

use remap_core::op::Fault;

use super::World;
use super::devices::{Who, Work};
use crate::coverage::Kind;
use crate::disk::FlushLoss;
use crate::{Checked, Rule};

/// What is known of the failed flushes of one disk.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Failures {
    count: u64,
    /// Of these, how many the engine and the clients have heard of.
    heard: [u64; 2],
    fault: Option<Fault>,
    /// All fail from now on, until the device is opened anew: its page cache has forgotten which pages are not on the medium.
    latched: bool,
}

/// The last time that flushes which failed lost writes of clients.
#[derive(Clone, Copy, Debug)]
pub(super) struct Debt {
    /// When they did first.
    since: u64,
    /// When a client was told.
    pub(super) told: u64,
}

impl Debt {
    pub(super) const NONE: Self = Self { since: 0, told: 0 };

    fn add(&mut self, tick: u64) {
        if self.told < u64::MAX {
            *self = Self { since: tick, told: u64::MAX };
        }
    }
}

/// Who flushes: index into what was heard.
const ENGINE: usize = 0;
const CLIENTS: usize = 1;

impl World {
    /// A flush that begins now.
    pub(super) fn flush_work(&self, disk: usize, who: Who, dropped: bool) -> Work {
        let lane = if matches!(who, Who::Part(_)) { CLIENTS } else { ENGINE };
        let heard = self.failures.get(disk).map_or(0, |f| f.heard[lane]);
        Work::Flush { mark: self.disks[disk].mark(), dropped, heard }
    }

    pub(super) fn flush(
        &mut self,
        disk: usize,
        mark: u64,
        heard: u64,
        fails: Option<Fault>,
    ) -> Result<(), Fault> {
        if !self.scenario.faults.flush_drops {
            return match fails.filter(|_| self.may_lose_flushes(disk)) {
                Some(fault) => {
                    self.meet(Kind::FlushFails);
                    Err(fault)
                }
                None => self.disks[disk].flush(mark),
            };
        }
        self.failures.resize(self.failures.len().max(self.disks.len()), Failures::default());
        let failures = self.failures[disk];
        if let Some(fault) = failures.fault.filter(|_| failures.latched) {
            return Err(fault);
        }
        let result = match fails.filter(|_| self.may_lose_flushes(disk)) {
            Some(fault) => Err(fault),
            None => self.disks[disk].flush(mark),
        };
        if let Err(fault) = result {
            self.lose_writes(disk, mark, fault);
            return Err(fault);
        }
        let failures = self.failures[disk];
        if heard >= failures.count {
            return Ok(());
        }
        self.meet(Kind::FlushDebt);
        Err(failures.fault.unwrap_or(Fault::Unknown))
    }

    /// The engine was told that a flush of this disk failed.
    pub(super) fn engine_hears(&mut self, disk: usize) {
        if let Some(failures) = self.failures.get_mut(disk) {
            failures.heard[ENGINE] = failures.count;
        }
    }

    /// A client was told that its flush failed: whatever was lost before that may have been its own.
    pub(super) fn clients_hear(&mut self) {
        for failures in &mut self.failures {
            failures.heard[CLIENTS] = failures.count;
        }
        self.flush_debt.told = self.flush_debt.told.min(self.tick);
    }

    /// A spare has left and is flushed no more: what clients have not heard of it they hear from the main device.
    pub(super) fn main_takes_over_flushes(&mut self, disk: usize) {
        if let Some(&left) = self.failures.get(disk)
            && left.heard[CLIENTS] < left.count
        {
            let main = &mut self.failures[0];
            (main.count, main.fault) = (main.count + 1, left.fault);
        }
    }

    /// A client's flush ended well: no flush that failed before it began had lost writes without a client being told.
    pub(super) fn judge_flush(&self, id: u64, begun: u64) -> Checked {
        if (self.flush_debt.since + 1..self.flush_debt.told).contains(&begun) {
            let text =
                format!("client {id}: a flush ends well; one before it lost writes, and nobody was told");
            return Err(Rule::C1.broken(text));
        }
        Ok(())
    }

    /// Metadata copies with silent trouble leave no room for losing the others.
    fn may_lose_flushes(&self, disk: usize) -> bool {
        disk == 0 || self.victims.is_empty()
    }

    fn lose_writes(&mut self, disk: usize, mark: u64, fault: Fault) {
        let page_cache = self.scenario.faults.page_cache;
        let loss = match (page_cache, self.luck.below(3)) {
            // A medium that is written through a page cache: the kernel gives the pages up.
            (true, _) => FlushLoss::GivenUp,
            (false, 0) => FlushLoss::Nothing,
            (false, _) => FlushLoss::Forgotten,
        };
        let unit = self.unit();
        let dropped = self.disks[disk].flush_fails(mark, loss, unit, &mut self.luck);
        let failures = &mut self.failures[disk];
        failures.count += 1;
        failures.fault = Some(fault);
        failures.latched = page_cache;
        self.meet(match (dropped.is_empty(), loss) {
            (true, _) => Kind::FlushFails,
            (false, FlushLoss::GivenUp) => Kind::FlushDropsUnseen,
            (false, _) => Kind::FlushDrops,
        });
        self.note(26, disk as u64, || format!("disk {disk}: a flush fails, {loss:?} of sectors {dropped:?}"));
        for sector in dropped {
            if let Some(logical) = self.volume_sector(disk, sector)
                && self.oracle.doubt(logical)
            {
                self.flush_debt.add(self.tick);
            }
        }
    }

    /// Will flushes fail until the volume is assembled anew?
    pub(super) fn flushes_are_latched(&self) -> bool {
        self.failures.iter().any(|f| f.latched)
    }
}
