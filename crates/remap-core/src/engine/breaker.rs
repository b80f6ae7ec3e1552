//! C4: only the medium moves a block.
//!
//! Invariant: while the breaker is open no error makes, changes or removes an entry. It opens at once on a fault of the path
//! (transport, time-out, gone), and when errors that say nothing come faster than the budget; it closes by command, or
//! when a probe of the device succeeds after the cool-down.

use super::Engine;
use super::Notice;
use super::ops::Purpose;
use crate::canary::Canary;
use crate::op::{Buffer, DeviceId, Fault, OpKind};
use crate::units::{Extent, Sector};

/// Blocks blamed on a bare EIO per window before remapping is suspended.
pub const BREAKER_BUDGET: u32 = 2048;
/// The window of the budget, in nanoseconds.
pub const BREAKER_WINDOW_NS: u64 = 60_000_000_000;
/// Pause before the device is probed, in nanoseconds.
pub const BREAKER_COOL_DOWN_NS: u64 = 10_000_000_000;

#[derive(Debug, Default)]
pub(super) struct Breaker {
    open: Option<Open>,
    window_start_ns: u64,
    blamed: u32,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    device: DeviceId,
    fault: Fault,
    probe_at_ns: u64,
    probing: bool,
    /// Probes made so far.
    probes: usize,
    /// Opened by command: only a command closes it.
    held: bool,
}

impl Breaker {
    pub(super) fn open(&self) -> Option<(DeviceId, Fault)> {
        self.open.map(|o| (o.device, o.fault))
    }

    pub(super) fn next_probe(&self) -> Option<u64> {
        self.open.filter(|o| !o.probing && !o.held).map(|o| o.probe_at_ns)
    }
}

impl Engine {
    /// Opens the breaker because of a fault that does not blame the medium.
    pub(super) fn trip(&mut self, device: DeviceId, fault: Fault, held: bool) {
        // No memory says nothing about any device.
        if fault == Fault::NoMemory || (fault == Fault::Transport && self.planted(Canary::TransportBlamed)) {
            return;
        }
        let probe_at_ns = self.now.mono_ns.saturating_add(BREAKER_COOL_DOWN_NS);
        if self.breaker.open.is_none() {
            self.counters.breaker_trips += 1;
            self.notice(Notice::BreakerTripped { device, fault });
        }
        // What a command opened stays open until a command closes it, whatever else happens.
        let (held, probing, probes) =
            self.breaker.open.map_or((held, false, 0), |o| (held || o.held, o.probing, o.probes));
        self.breaker.open = Some(Open { device, fault, probe_at_ns, probing, probes, held });
    }

    /// A fast-lane operation failed with a fault that does not blame the medium.
    pub fn report(&mut self, now: crate::units::Now, device: DeviceId, fault: Fault) {
        self.now = now;
        if !fault.blames_medium() && !matches!(fault, Fault::NoSpace | Fault::Unsupported) {
            self.trip(device, fault, false);
        }
        self.advance();
    }

    /// May an error of this kind change the table now? Counts it against the budget; opens the breaker if that is used up.
    pub(super) fn may_blame(&mut self, device: DeviceId, unknown: bool) -> bool {
        if self.breaker.open.is_some() {
            return false;
        }
        if !unknown {
            return true;
        }
        if self.now.mono_ns.saturating_sub(self.breaker.window_start_ns) >= BREAKER_WINDOW_NS {
            self.breaker.window_start_ns = self.now.mono_ns;
            self.breaker.blamed = 0;
        }
        if self.breaker.blamed >= self.config.breaker_budget {
            self.trip(device, Fault::Unknown, false);
            return false;
        }
        self.breaker.blamed += 1;
        true
    }

    pub(super) fn breaker_advance(&mut self) {
        let due = self.breaker.next_probe().is_some_and(|at| at <= self.now.mono_ns);
        if !due {
            return;
        }
        let Some(open) = &mut self.breaker.open else { return };
        open.probing = true;
        let (device, turn) = (open.device, open.probes);
        open.probes += 1;
        let extent = self.probe_place(device, turn);
        let into = Buffer::Bounce { index: super::PROBE_BOUNCE, offset: 0 };
        self.emit(device, extent, OpKind::Read(into), Purpose::CoolDownProbe);
    }

    /// Where a device is asked whether it answers: at the last sector that was known good (of a spare none is), then at its front, its
    /// middle and its end in turn, so that one bad sector does not speak for the device.
    pub(super) fn probe_place(&self, device: DeviceId, turn: usize) -> Extent {
        let (sectors, last_good) = match device {
            DeviceId::Main => (self.main_sectors(), self.last_good),
            DeviceId::Spare(n) => (self.volume.spares.get(usize::from(n)).map_or(0, |s| s.size / 512), None),
        };
        let unit = self.unit_sectors();
        let at = match turn % 4 {
            0 => last_good.map_or(sectors / 4, |s| s.0),
            1 => 0,
            2 => sectors / 2,
            _ => sectors.saturating_sub(unit),
        };
        Extent::new(Sector(at - at % unit), unit).expect("a unit is not empty")
    }

    pub(super) fn breaker_probe_done(&mut self, outcome: Result<(), Fault>) {
        let Some(open) = &mut self.breaker.open else { return };
        open.probing = false;
        open.probe_at_ns = self.now.mono_ns.saturating_add(BREAKER_COOL_DOWN_NS);
        // A medium error is an answer too: the path works.
        if !open.held && !matches!(outcome, Err(f) if f != Fault::Medium) {
            self.reset_breaker();
        }
    }

    /// The device has left the volume: no probe of it can succeed.
    pub(super) fn forget_trouble_of(&mut self, device: DeviceId) {
        match &mut self.breaker.open {
            Some(open) if open.device == device && open.held => open.device = DeviceId::Main,
            Some(open) if open.device == device => self.reset_breaker(),
            _ => {}
        }
    }

    pub(super) fn reset_breaker(&mut self) {
        if self.breaker.open.take().is_some() {
            self.breaker.blamed = 0;
            self.breaker.window_start_ns = self.now.mono_ns;
            self.notice(Notice::BreakerReset);
            self.wake = true;
        }
    }
}
