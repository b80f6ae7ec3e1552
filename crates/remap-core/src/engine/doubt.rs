//! What a flush that failed leaves in doubt.
//!
//! Invariant: bytes that a job wrote and that nothing made durable since are not trusted once a flush of their device failed,
//! whoever asked for it: the device may have thrown them away, and a later flush that succeeds brings nothing back (C2). Such
//! jobs end without changing anything.

use super::job::Step;
use super::{Engine, RequestError};
use crate::op::{DeviceId, Fault};
use crate::units::Now;

impl Engine {
    /// A flush of the device failed.
    pub(super) fn flush_failed(&mut self, device: DeviceId, fault: Fault) {
        if fault == Fault::NoMemory {
            // It never came to the device.
            return;
        }
        for job in self.jobs.iter_mut().flatten() {
            let slot = match job.step {
                Step::WriteSlot => job.slot,
                Step::InPlace => job.old_slot(),
                Step::CopyBack => None,
                _ => continue,
            };
            if slot.map_or(DeviceId::Main, |s| DeviceId::Spare(s.spare())) == device {
                job.fault.get_or_insert(fault);
            }
        }
        // Edits do not say whose they are: all that would have been flushed together is given up.
        for job in self.commit.take_staged_on(device) {
            self.abort_job(job, RequestError::Io(fault));
        }
    }

    /// A flush of the device that the fast lane passed on failed: what jobs wrote there before may be gone.
    pub fn report_flush(&mut self, now: Now, device: DeviceId, fault: Fault) {
        self.now = now;
        self.flush_failed(device, fault);
        self.advance();
    }

    /// A flush that a client asked the engine for failed, on one of the devices.
    pub(super) fn some_flush_failed(&mut self, fault: Fault) {
        let spares = u8::try_from(self.volume.spares.len()).unwrap_or(u8::MAX);
        for device in core::iter::once(DeviceId::Main).chain((0..spares).map(DeviceId::Spare)) {
            self.flush_failed(device, fault);
        }
    }
}
