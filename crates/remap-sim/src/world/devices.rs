//! Operations on their way: when they take effect, when they end, and how.
//!
//! Invariant: an operation takes effect once, at some moment between its begin and its end, and ends once; only a write that was
//! answered with a time-out may take effect after its end, and until then nothing begins on its range (what remap-io promises).
//! What a crash meets on its way may have happened or not.

use remap_core::op::{Buffer, DeviceId, Fault, Op, OpId, OpKind};
use remap_core::units::Extent;

use super::{World, words};
use crate::coverage::Kind;
use crate::inside;
use crate::scenario::Canary;
use crate::stamp::{self, Content, SECTOR};
use crate::{Checked, Rule, Violation};

/// Who waits for an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    Engine(OpId),
    /// A part of a client's request, in the fast lane.
    Part(u64),
}

/// Where a read's bytes go.
#[derive(Clone, Copy, Debug)]
pub(super) enum Into {
    /// A part's buffer, from a byte on.
    Part(u64, usize),
    Bounce(usize, usize),
}

#[derive(Clone, Debug)]
pub(super) enum Work {
    Read(Into),
    Write {
        bytes: Vec<u8>,
        fua: bool,
    },
    /// Makes durable what was written before the mark.
    Flush {
        mark: u64,
        dropped: bool,
        /// Failed flushes of the disk of which who waits had heard when it began.
        heard: u64,
    },
    Discard,
}

/// An operation on its way.
#[derive(Clone, Debug)]
pub(super) struct Out {
    pub(super) who: Who,
    /// Index of the disk.
    pub(super) disk: usize,
    pub(super) extent: Extent,
    pub(super) work: Work,
    /// Once it has taken effect: how that went, and what was read.
    pub(super) effect: Option<(Result<(), Fault>, Vec<u8>)>,
    pub(super) pace: Pace,
}

/// How long an operation takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    Prompt,
    /// It does not end before this step.
    Slow(u64),
    /// It does not end within its deadline.
    Hung,
}

/// What remap-io gives a device operation at most, in nanoseconds.
const DEADLINE_NS: u64 = 30_000_000_000;

impl World {
    fn disk_of(&self, device: DeviceId) -> usize {
        match (device, &self.life) {
            (DeviceId::Spare(n), Some(life)) => life.spare_disks.get(usize::from(n)).copied().unwrap_or(0),
            _ => 0,
        }
    }

    /// The engine asked for an operation.
    pub(super) fn begin_engine_op(&mut self, op: Op) -> Checked {
        self.note(1, op.id.0, || format!("engine: {}", words::operation(&op)));
        let disk = self.disk_of(op.device);
        let len = op.extent.bytes() as usize;
        let work = match op.kind {
            OpKind::Grace => return self.begin_grace(op.id, op.extent),
            OpKind::Read(into) => Work::Read(match into {
                Buffer::Request { id, offset } => Into::Part(id.0, offset as usize),
                Buffer::Bounce { index, offset } => Into::Bounce(usize::from(index), offset as usize),
                Buffer::Owned(_) => return Err(Rule::C2.broken("a read into the engine's own bytes")),
            }),
            OpKind::Write { from, fua } => Work::Write { bytes: self.bytes_of(from, len)?, fua },
            OpKind::WriteZeroes { fua, .. } => Work::Write { bytes: vec![0; len], fua },
            OpKind::Discard => Work::Discard,
            OpKind::Flush => {
                let dropped = self.scenario.canary == Some(Canary::DropEngineFlush);
                self.flush_work(disk, Who::Engine(op.id), dropped)
            }
        };
        self.begin_out(Who::Engine(op.id), disk, op.extent, work)
    }

    fn bytes_of(&mut self, from: Buffer, len: usize) -> Result<Vec<u8>, Violation> {
        match from {
            Buffer::Owned(bytes) if bytes.len() == len => Ok(bytes),
            Buffer::Owned(bytes) => {
                Err(Rule::C2.broken(format!("{} bytes for an operation of {len}", bytes.len())))
            }
            Buffer::Bounce { index, offset } => {
                let bounce = self.bounce(usize::from(index));
                let offset = offset as usize;
                let bytes = bounce.get(offset..offset + len);
                bytes.map(<[u8]>::to_vec).ok_or_else(|| Rule::C2.broken("a bounce buffer is one block"))
            }
            Buffer::Request { id, offset } => self
                .part_bytes(id.0, offset as usize, len)
                .map(|bytes| bytes.to_vec())
                .ok_or_else(|| Rule::C2.broken(format!("bytes of part {} that are not there", id.0))),
        }
    }

    fn bounce(&mut self, index: usize) -> &mut Vec<u8> {
        let block = 1 << self.scenario.block_shift;
        let bounce = &mut self.bounces[index];
        if bounce.is_empty() {
            bounce.resize(block, 0xbb);
        }
        bounce
    }

    pub(super) fn begin_out(&mut self, who: Who, disk: usize, extent: Extent, work: Work) -> Checked {
        if disk == 0 {
            self.check_main_write(&extent, &work)?;
        }
        self.tally.operations += 1;
        let pace = self.pace(disk);
        let in_the_way = !matches!(work, Work::Flush { .. })
            && self.late.iter().any(|l| l.disk == disk && l.extent.overlaps(&extent));
        let effect = in_the_way.then_some((Err(Fault::Timeout), Vec::new()));
        if in_the_way {
            self.meet(Kind::LateWriteInTheWay);
        }
        self.outs.push(Out { who, disk, extent, work, effect, pace });
        if self.rng.chance(1, 4) && !self.stage.effects_late {
            let last = self.outs.len() - 1;
            self.take_effect(last);
        }
        Ok(())
    }

    /// C9, and no sector of the main device ever gets what was meant for another.
    fn check_main_write(&self, extent: &Extent, work: &Work) -> Checked {
        let bytes = match work {
            Work::Write { bytes, .. } => Some(bytes),
            Work::Discard => None,
            Work::Read(_) | Work::Flush { .. } => return Ok(()),
        };
        for (index, sector) in (extent.start().0..extent.end().0).enumerate() {
            let here = sector as usize;
            let block = (sector / self.block_sectors()) as usize;
            if !self.written.get(here).copied().unwrap_or(false)
                && !self.clearing.get(block).copied().unwrap_or(false)
            {
                return Err(
                    Rule::C9.broken(format!("main sector {sector} is written, but no client wrote it"))
                );
            }
            let Some(bytes) = bytes else { continue };
            match stamp::read(&bytes[index * SECTOR..(index + 1) * SECTOR]) {
                Content::Stamp { sector: named, .. } if named == sector => {}
                Content::Zero if self.zeroed[here] => {}
                other => {
                    return Err(Rule::C9.broken(format!("main sector {sector} is about to get {other:?}")));
                }
            }
        }
        Ok(())
    }

    /// The operation happens (it ends later).
    fn take_effect(&mut self, index: usize) {
        let (discard_zeroes, flush_fails) = (self.rng.chance(1, 2), self.flush_fails());
        if self.outs[index].effect.is_some() {
            return;
        }
        let staged = self.staged_fault(index);
        let out = &self.outs[index];
        let (disk, extent) = (out.disk, out.extent);
        let weather = self.disks[disk].fault;
        self.disks[disk].fault = weather.or(staged);
        if let Work::Flush { mark, dropped: false, heard } = out.work {
            let result = self.flush(disk, mark, heard, flush_fails);
            self.disks[disk].fault = weather;
            self.outs[index].effect = Some((result, Vec::new()));
            return;
        }
        let stray = match out.work {
            Work::Write { .. } => self.stray(disk, &extent),
            _ => None,
        };
        let out = &mut self.outs[index];
        let disk = &mut self.disks[disk];
        let mut read = Vec::new();
        let result = match &out.work {
            Work::Read(_) => {
                read.resize(out.extent.bytes() as usize, 0);
                disk.read(&out.extent, &mut read)
            }
            Work::Write { .. } if stray == Some(None) => Ok(()),
            Work::Write { bytes, fua } => {
                disk.write(&stray.flatten().unwrap_or(extent), bytes, *fua, &mut self.rng)
            }
            Work::Flush { .. } => Ok(()),
            Work::Discard if discard_zeroes => {
                let zeroes = vec![0; out.extent.bytes() as usize];
                disk.write(&out.extent, &zeroes, false, &mut self.rng)
            }
            Work::Discard => Ok(()),
        };
        disk.fault = weather;
        out.effect = Some((result, read));
    }

    /// Some operation ends.
    pub(super) fn complete_any(&mut self) -> Checked {
        if self.outs.is_empty() {
            return Ok(());
        }
        let index = self.rng.index(self.outs.len());
        match self.outs[index].pace {
            Pace::Slow(until) if until > self.steps && !self.quiet => Ok(()),
            Pace::Hung if !self.quiet => {
                self.give_up(index);
                self.complete(index)
            }
            _ => self.complete(index),
        }
    }

    /// An operation has had no answer for as long as its deadline.
    fn give_up(&mut self, index: usize) {
        self.now.mono_ns += DEADLINE_NS;
        self.meet(Kind::Hung);
        let out = &mut self.outs[index];
        let changes = matches!(out.work, Work::Write { .. } | Work::Discard);
        // It may have happened, may happen later, or may never happen.
        if out.effect.is_none() && changes && self.luck.chance(2, 3) {
            self.late.push(out.clone());
        }
        out.effect = Some((Err(Fault::Timeout), Vec::new()));
    }

    fn pace(&mut self, disk: usize) -> Pace {
        if !self.scenario.faults.hang || !self.adopted || self.quiet || !self.may_fail_as_a_whole(disk) {
            return Pace::Prompt;
        }
        if self.storm.is_none() && self.luck.chance(1, 600) {
            self.storm = Some((disk, self.steps + self.luck.below(30)));
        }
        let storm = self.storm.is_some_and(|(there, until)| there == disk && until > self.steps);
        if self.storm.is_some_and(|(_, until)| until <= self.steps) {
            self.storm = None;
        }
        if storm || self.luck.chance(1, self.scenario.one_in(200)) {
            return Pace::Hung;
        }
        if self.luck.chance(1, 60) {
            self.meet(Kind::Slow);
            return Pace::Slow(self.steps + self.luck.below(60));
        }
        Pace::Prompt
    }

    /// Now and then a write that was given up happens after all, or is known never to.
    pub(super) fn late_writes_land(&mut self) {
        if !self.late.is_empty() && self.luck.chance(1, 30) {
            let at = self.luck.index(self.late.len());
            self.late_write_ends(at);
        }
    }

    pub(super) fn late_write_ends(&mut self, at: usize) {
        let out = self.late.swap_remove(at);
        if self.luck.chance(1, 3) {
            return;
        }
        let zeroes = vec![0; out.extent.bytes() as usize];
        let bytes = match &out.work {
            Work::Write { bytes, .. } => bytes,
            _ => &zeroes,
        };
        // Whether it went well interests nobody any more.
        let _ = self.disks[out.disk].write(&out.extent, bytes, false, &mut self.luck);
        self.meet(Kind::LateWrite);
        self.note(25, out.extent.start().0, || {
            format!("disk {}: the late write to {} lands", out.disk, out.extent)
        });
    }

    pub(super) fn complete(&mut self, index: usize) -> Checked {
        self.take_effect(index);
        let out = self.outs.swap_remove(index);
        let (mut result, read) = out.effect.unwrap_or((Err(Fault::Gone), Vec::new()));
        if let Work::Read(into) = out.work {
            self.deliver(into, &read);
        }
        if let Err(fault) = result {
            if !fault.blames_medium() || matches!(out.work, Work::Flush { .. }) {
                self.trouble = self.tick + 1;
            }
            if fault == Fault::NoSpace {
                self.full_at = self.tick + 1;
            }
            if self.scenario.canary == Some(Canary::PathFaultAsMedium) && fault == Fault::Transport {
                result = Err(Fault::Medium);
            }
        }
        let number = match out.who {
            Who::Engine(op) => op.0,
            Who::Part(part) => part,
        };
        self.note(2, number ^ result.map_or_else(|f| f as u64 + 1, |()| 0), || {
            let (what, who) = (words::work(&out.work), words::waiting(out.who));
            format!("disk {}: {what:<9} {} for {who}: {}", out.disk, out.extent, words::ended(result))
        });
        match out.who {
            Who::Part(part) => self.fast_done(part, out.disk, result),
            Who::Engine(op) => {
                if result.is_err() && matches!(out.work, Work::Flush { .. }) {
                    self.engine_hears(out.disk);
                }
                let now = self.now;
                if let Some(life) = &mut self.life {
                    inside::core(|| life.engine.handle_completion(now, op, result));
                }
                self.pump()
            }
        }
    }

    fn deliver(&mut self, into: Into, read: &[u8]) {
        match into {
            Into::Part(part, offset) => self.fill_part(part, offset, read),
            Into::Bounce(index, offset) => {
                let bounce = self.bounce(index);
                bounce[offset..offset + read.len()].copy_from_slice(read);
            }
        }
    }

    /// What was on its way when the power failed happened in part.
    pub(super) fn strand_operations(&mut self) {
        let outs = core::mem::take(&mut self.outs);
        for out in core::mem::take(&mut self.late).into_iter().chain(outs) {
            if let (None, Work::Write { bytes, .. }) = (&out.effect, &out.work) {
                // Whether it reached the medium is decided with all other unflushed writes.
                let _ = self.disks[out.disk].write(&out.extent, bytes, false, &mut self.rng);
            }
        }
    }
}
