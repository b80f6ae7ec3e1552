// SPDX-License-Identifier: GPL-2.0
//! Figures and tunables by name, one value each: what a kernel shows in a folder of small files.
//!
//! Invariant: a name says its unit unless it counts what it names; the order of [`FIGURES`] is their numbering, and changes nothing else.

use core::ffi::CStr;
use core::fmt::{self, Write};

use remap_format::Policy;
use remap_words::figures::{Asked, Figures};

use crate::volume::Volume;

/// What the driver counts, since the table was loaded.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lanes {
    /// Parts of bios that read.
    pub reads: u64,
    /// Those that write or zero.
    pub writes: u64,
    /// Bios that flush.
    pub flushes: u64,
    /// Parts of bios that discard.
    pub discards: u64,
    /// Sectors read.
    pub read_sectors: u64,
    /// Sectors written.
    pub written_sectors: u64,
    /// Parts that the owner handled.
    pub slow: u64,
    /// Parts that went straight to a spare.
    pub remapped: u64,
    /// Device reads of the fast lane that failed.
    pub read_errors: u64,
    /// Device writes that did.
    pub write_errors: u64,
    /// Reads that ended with an error for the client.
    pub failed_reads: u64,
    /// Writes that did.
    pub failed_writes: u64,
}

impl Lanes {
    /// What was counted since `then`. The driver's kernel counts flushes as writes, too.
    #[must_use]
    pub fn since(&self, then: &Self) -> Self {
        Self {
            reads: self.reads.saturating_sub(then.reads),
            writes: self.writes.saturating_sub(then.writes).saturating_sub(self.flushes),
            discards: self.discards.saturating_sub(then.discards),
            read_sectors: self.read_sectors.saturating_sub(then.read_sectors),
            written_sectors: self.written_sectors.saturating_sub(then.written_sectors),
            ..*self
        }
    }
}

impl From<Lanes> for Asked {
    fn from(lanes: Lanes) -> Self {
        let parts = lanes.reads.saturating_add(lanes.writes).saturating_add(lanes.discards);
        Self {
            reads: lanes.reads,
            writes: lanes.writes,
            fast: parts.saturating_sub(lanes.slow),
            slow: lanes.slow,
            remapped: lanes.remapped,
            failed_reads: lanes.failed_reads,
            failed_writes: lanes.failed_writes,
            read_errors: lanes.read_errors,
            write_errors: lanes.write_errors,
        }
    }
}

/// What a figure says.
#[derive(Clone, Copy)]
enum Value {
    /// A number of what the volume says of itself.
    Volume(fn(&Figures) -> u64),
    /// A number of what the driver counted.
    Lanes(fn(&Lanes) -> u64),
    Generation,
    Spares,
    State,
    /// 0: as many as there are slots.
    MaxRemaps,
    Policy,
    TriggerFailure,
}

const FIGURES: [(&CStr, Value); 34] = [
    (c"state", Value::State),
    (c"health_percent", Value::Volume(|f| f.health_percent().into())),
    (c"block_size_bytes", Value::Volume(|f| f.block_size.into())),
    (c"remapped_blocks", Value::Volume(|f| f.counts.remapped_blocks)),
    (c"pending_blocks", Value::Volume(|f| f.counts.pending_blocks)),
    (c"lost_sectors", Value::Volume(|f| f.counts.lost_sectors)),
    (c"table_entries", Value::Volume(|f| f.counts.entries)),
    (c"spares", Value::Spares),
    (c"spare_blocks", Value::Volume(|f| f.slots)),
    (c"spare_free_blocks", Value::Volume(|f| f.free_slots)),
    (c"generation", Value::Generation),
    (c"copies_in_step", Value::Volume(|f| f.copies.into())),
    (c"commits", Value::Volume(|f| f.counters.commits)),
    (c"checkpoints", Value::Volume(|f| f.counters.checkpoints)),
    (c"auto_remaps", Value::Volume(|f| f.counters.auto_remaps)),
    (c"manual_remaps", Value::Volume(|f| f.counters.manual_remaps)),
    (c"heals", Value::Volume(|f| f.counters.heals)),
    (c"breaker_trips", Value::Volume(|f| f.counters.breaker_trips)),
    (c"read_errors", Value::Volume(Figures::read_errors)),
    (c"write_errors", Value::Volume(Figures::write_errors)),
    (c"failed_reads", Value::Lanes(|l| l.failed_reads)),
    (c"failed_writes", Value::Lanes(|l| l.failed_writes)),
    (c"reads", Value::Lanes(|l| l.reads)),
    (c"writes", Value::Lanes(|l| l.writes)),
    (c"flushes", Value::Lanes(|l| l.flushes)),
    (c"discards", Value::Lanes(|l| l.discards)),
    (c"read_sectors", Value::Lanes(|l| l.read_sectors)),
    (c"written_sectors", Value::Lanes(|l| l.written_sectors)),
    (c"fast_parts", Value::Lanes(|l| Asked::from(*l).fast)),
    (c"owner_parts", Value::Lanes(|l| l.slow)),
    (c"spare_parts", Value::Lanes(|l| l.remapped)),
    (c"max_remaps", Value::MaxRemaps),
    (c"policy", Value::Policy),
    (c"trigger_failure", Value::TriggerFailure),
];

const POLICIES: [(&str, Policy); 2] =
    [("rewrite-then-remap", Policy::RewriteThenRemap), ("remap-only", Policy::RemapOnly)];

/// The name of a figure, and whether it can be set; `None` behind the last.
#[must_use]
pub fn name(number: usize) -> Option<(&'static CStr, bool)> {
    let (name, value) = FIGURES.get(number)?;
    Some((name, matches!(value, Value::MaxRemaps | Value::Policy | Value::TriggerFailure)))
}

fn find(name: &str) -> Option<&'static Value> {
    FIGURES.iter().find(|(known, _)| known.to_bytes() == name.as_bytes()).map(|(_, value)| value)
}

impl Volume {
    /// The value of a figure, with a line end; nothing if there is no such figure.
    ///
    /// # Errors
    /// `out` took no more.
    pub fn figure(&self, name: &str, lanes: &Lanes, out: &mut dyn Write) -> fmt::Result {
        let Some(value) = find(name) else { return Ok(()) };
        let number = match value {
            Value::Volume(of) => of(&self.figures((*lanes).into())),
            Value::Lanes(of) => of(lanes),
            Value::Generation => self.engine.generation(),
            Value::Spares => self.engine.volume().present().count() as u64,
            Value::MaxRemaps => self.max_remaps.unwrap_or(0),
            Value::TriggerFailure => self.fails_after,
            Value::State => return writeln!(out, "{}", self.engine.state().word()),
            Value::Policy => {
                let known = POLICIES.iter().find(|(_, policy)| *policy == self.engine.policy());
                return writeln!(out, "{}", known.map_or("", |(word, _)| word));
            }
        };
        writeln!(out, "{number}")
    }

    /// Sets a figure; `false`: it cannot have this value.
    pub fn tune(&mut self, name: &str, text: &str) -> bool {
        match find(name) {
            Some(Value::MaxRemaps) => {
                let Ok(most) = text.parse::<u64>() else { return false };
                self.max_remaps = Some(most).filter(|&most| most != 0);
                self.engine.set_max_remaps(self.max_remaps);
                true
            }
            Some(Value::TriggerFailure) => text.parse().map(|inputs| self.fails_after = inputs).is_ok(),
            Some(Value::Policy) => {
                let known = POLICIES.iter().find(|(word, _)| *word == text);
                known.is_some_and(|(_, policy)| {
                    self.engine.set_policy(*policy);
                    true
                })
            }
            _ => false,
        }
    }
}
