//! Clients and the fast lane: a request is cut by placement into parts; healthy and settled ones go to the devices, the rest
//! to the engine.
//!
//! Invariant: each request ends once, when its last part has; a grace period ends only when every fast-lane part that
//! overlaps it and began before has ended (C11).

use remap_core::engine::RequestError;
use remap_core::op::{DeviceId, Fault, OpId, Request, RequestId, RequestKind};
use remap_core::units::{Block, Extent, Sector};
use remap_core::view::Placement;

use super::World;
use super::devices::{Into, Who, Work};
use crate::coverage::Kind;
use crate::inside;
use crate::scenario::Canary;
use crate::stamp::{self, Content, SECTOR};
use crate::{Checked, Rule};

/// Longest request in blocks.
const MAX_BLOCKS: u64 = 6;
/// Requests that a client may send again after a restart.
const MOST_REPLAYS: usize = 8;

/// A client's request.
#[derive(Debug)]
pub(super) struct Client {
    kind: RequestKind,
    extent: Extent,
    buf: Vec<u8>,
    pub(super) begun: u64,
    /// Write number.
    write: u32,
    parts_left: u32,
    failed: Option<RequestError>,
    /// Sectors that a read could not give.
    bad: Vec<Extent>,
    /// The client was told (only by the canary that tells too early).
    told: bool,
}

/// A part of a request with one placement.
#[derive(Debug)]
pub(super) struct Part {
    client: u64,
    extent: Option<Extent>,
    slow: bool,
}

impl World {
    pub(super) fn begin_any_request(&mut self) -> Checked {
        let live = self.life.as_ref().is_some_and(|l| l.engine.is_live());
        if !live || self.clients.len() >= self.scenario.clients || self.release.is_under_way() {
            return self.complete_any();
        }
        let fua = self.rng.chance(1, 5);
        let kind = match self.rng.below(20) {
            0..=8 => RequestKind::Read,
            9..=16 => RequestKind::Write { fua },
            17 => RequestKind::WriteZeroes { fua, may_unmap: self.rng.chance(1, 2) },
            18 => RequestKind::Discard,
            _ => RequestKind::Flush,
        };
        let extent = self.any_extent(MAX_BLOCKS);
        if !self.replays.is_empty() && self.luck.chance(1, 2) {
            let (kind, extent, counter) = self.replays.remove(0);
            self.meet(Kind::Replay);
            return self.begin_request_as(kind, extent, counter);
        }
        self.begin_request(kind, extent)
    }

    /// An extent of whole logical blocks, mostly short; half of them near the front, so that requests meet.
    pub(super) fn any_extent(&mut self, most_blocks: u64) -> Extent {
        let (unit, per_block, sectors) = (self.unit(), self.block_sectors(), self.scenario.main_sectors);
        let units = sectors / unit;
        let reach = if self.rng.chance(1, 2) { units.min(4 * per_block.div_ceil(unit)) } else { units };
        let start = self.rng.below(reach) * unit;
        let most = match self.rng.below(3) {
            0 => 1,
            1 => per_block / unit,
            _ => most_blocks * per_block / unit,
        };
        let len = (1 + self.rng.below(most.max(1))) * unit;
        let aligned = self.rng.chance(1, 3);
        let (start, len) = if aligned {
            let start = start - start % per_block;
            (start, len.next_multiple_of(per_block))
        } else {
            (start, len)
        };
        Extent::new(Sector(start), len.min(sectors - start)).expect("the volume has whole logical blocks")
    }

    /// A client submits a request.
    ///
    /// # Errors
    /// What it showed is a violation.
    pub fn begin_request(&mut self, kind: RequestKind, extent: Extent) -> Checked {
        self.begin_request_as(kind, extent, self.next_write)
    }

    /// A client submits a request, maybe one that it submitted before: `counter` is the number in what it writes.
    fn begin_request_as(&mut self, kind: RequestKind, extent: Extent, counter: u32) -> Checked {
        let id = self.id();
        let write = self.next_write;
        self.next_write += 1;
        self.remember(kind, extent, counter);
        self.note(6, id, || format!("client {id}: {kind:?} {extent} (write {write})"));
        self.tally.requests += 1;
        let mut buf = Vec::new();
        match kind {
            RequestKind::Read => buf.resize(extent.bytes() as usize, 0xcc),
            RequestKind::Write { .. } => {
                buf.resize(extent.bytes() as usize, 0);
                for (sector, bytes) in (extent.start().0..).zip(buf.chunks_exact_mut(SECTOR)) {
                    stamp::fill(sector, counter, bytes);
                }
            }
            _ => {}
        }
        for sector in self.written_by(kind, extent) {
            let content = match kind {
                RequestKind::Write { .. } => Content::Stamp { sector, counter },
                _ => Content::Zero,
            };
            self.written[sector as usize] = true;
            self.zeroed[sector as usize] |= content == Content::Zero;
            self.oracle.begin(sector, content, u64::from(write), self.tick);
        }
        let begun = self.tick;
        let client = Client {
            kind,
            extent,
            buf,
            begun,
            write,
            parts_left: 1,
            failed: None,
            bad: Vec::new(),
            told: false,
        };
        self.clients.insert(id, client);
        if self.scenario.canary == Some(Canary::AckEarly) {
            self.tell_client(id)?;
        }
        if kind == RequestKind::Flush {
            self.begin_flush(id)?;
        } else {
            self.begin_parts(id, kind, extent)?;
        }
        // The part that kept it open while its parts were begun.
        self.client_part_ended(id)
    }

    /// What changes something may be sent again after a restart (C10).
    fn remember(&mut self, kind: RequestKind, extent: Extent, counter: u32) {
        if self.scenario.faults.replay && !matches!(kind, RequestKind::Read | RequestKind::Flush) {
            if self.recent.len() == MOST_REPLAYS {
                self.recent.pop_front();
            }
            self.recent.push_back((kind, extent, counter));
        }
        let write = matches!(kind, RequestKind::Write { .. });
        self.meet(Kind::of_request(kind));
        let block = self.block_sectors();
        if write && !(extent.start().0.is_multiple_of(block) && extent.sectors().is_multiple_of(block)) {
            self.meet(Kind::PartialWrite);
        }
        if write && self.clients.values().any(|c| c.kind != RequestKind::Flush && c.extent.overlaps(&extent))
        {
            self.meet(Kind::Overlap);
        }
    }

    fn written_by(&self, kind: RequestKind, extent: Extent) -> core::ops::Range<u64> {
        match kind {
            RequestKind::Read | RequestKind::Flush => 0..0,
            _ => extent.start().0..extent.end().0,
        }
    }

    fn begin_flush(&mut self, client: u64) -> Checked {
        let nowhere = Extent::new(Sector(0), 1).expect("one sector");
        for disk in core::iter::once(0).chain(self.present_disks()) {
            let part = self.add_part(client, None, false);
            let dropped = self.scenario.canary == Some(Canary::DropClientFlush);
            let work = self.flush_work(disk, Who::Part(part), dropped);
            self.begin_out(Who::Part(part), disk, nowhere, work)?;
        }
        Ok(())
    }

    fn add_part(&mut self, client: u64, extent: Option<Extent>, slow: bool) -> u64 {
        let id = self.id();
        self.parts.insert(id, Part { client, extent, slow });
        if let Some(client) = self.clients.get_mut(&client) {
            client.parts_left += 1;
        }
        id
    }

    fn begin_parts(&mut self, client: u64, kind: RequestKind, extent: Extent) -> Checked {
        let per_block = self.block_sectors();
        let (mut at, end) = (extent.start().0, extent.end().0);
        while at < end {
            let Some(life) = &self.life else { return Ok(()) };
            let block = Block(at / per_block);
            let stretch = life.view.first(block, Block(end.div_ceil(per_block)));
            let until = ((block.0 + stretch.blocks) * per_block).min(end);
            let here = Extent::between(Sector(at), Sector(until)).expect("a stretch has blocks");
            match stretch.placement {
                Placement::Main => self.begin_fast(client, kind, here, 0, at)?,
                Placement::Settled(slot) => {
                    let disk = life.spare_disks[usize::from(slot.spare())];
                    let sector = slot.index() * per_block + at % per_block;
                    if kind != RequestKind::Discard {
                        self.begin_fast(client, kind, here, disk, sector)?;
                    }
                }
                Placement::Slow if kind == RequestKind::Discard => {}
                Placement::Slow => {
                    let part = self.add_part(client, Some(here), true);
                    self.submit_slow(part, kind, here)?;
                }
            }
            at = until;
        }
        Ok(())
    }

    fn submit_slow(&mut self, part: u64, kind: RequestKind, extent: Extent) -> Checked {
        let now = self.now;
        self.note(7, part, || format!("fast lane: part {part} {extent} to the engine"));
        let Some(life) = &mut self.life else { return Ok(()) };
        let request = Request { id: RequestId(part), kind, extent };
        if let Err(error) = inside::core(|| life.engine.submit(now, request)) {
            return Err(Rule::C6.broken(format!("part {part}: not taken: {error}")));
        }
        self.pump()
    }

    fn begin_fast(
        &mut self,
        client: u64,
        kind: RequestKind,
        extent: Extent,
        disk: usize,
        sector: u64,
    ) -> Checked {
        let part = self.add_part(client, Some(extent), false);
        let physical = Extent::new(Sector(sector), extent.sectors()).expect("as long as the part");
        let work = match kind {
            RequestKind::Read => Work::Read(Into::Part(part, 0)),
            RequestKind::Write { fua } => {
                let bytes = self.part_bytes(part, 0, extent.bytes() as usize).map(<[u8]>::to_vec);
                Work::Write { bytes: bytes.unwrap_or_default(), fua }
            }
            RequestKind::WriteZeroes { fua, .. } => {
                Work::Write { bytes: vec![0; extent.bytes() as usize], fua }
            }
            RequestKind::Discard | RequestKind::Flush => Work::Discard,
        };
        self.note(8, part, || format!("fast lane: part {part} {extent} on disk {disk} at {sector}"));
        self.begin_out(Who::Part(part), disk, physical, work)
    }

    /// Bytes of a part, from a byte on.
    pub(super) fn part_bytes(&self, part: u64, offset: usize, len: usize) -> Option<&[u8]> {
        let part = self.parts.get(&part)?;
        let client = self.clients.get(&part.client)?;
        let first = (part.extent?.start().0 - client.extent.start().0) as usize * SECTOR + offset;
        client.buf.get(first..first + len)
    }

    pub(super) fn fill_part(&mut self, part: u64, offset: usize, bytes: &[u8]) {
        let Some(part) = self.parts.get(&part) else { return };
        let Some((client, extent)) = self.clients.get_mut(&part.client).zip(part.extent) else { return };
        let first = (extent.start().0 - client.extent.start().0) as usize * SECTOR + offset;
        client.buf[first..first + bytes.len()].copy_from_slice(bytes);
    }

    /// A fast-lane operation ended.
    pub(super) fn fast_done(&mut self, id: u64, disk: usize, result: Result<(), Fault>) -> Checked {
        let Some(part) = self.parts.get_mut(&id) else {
            return Err(Rule::C6.broken(format!("part {id} ended twice")));
        };
        // It has left the fast lane: a grace period that begins from now on does not wait for it.
        part.slow = true;
        self.leave_graces(id)?;
        let Some(part) = self.parts.get(&id) else { return Ok(()) };
        let extent = part.extent;
        let kind = self.clients.get(&part.client).map(|c| c.kind).unwrap_or(RequestKind::Flush);
        let Err(fault) = result else { return self.part_done(id, Ok(()), &[]) };
        match (extent, kind) {
            (_, RequestKind::Discard) => self.part_done(id, Ok(()), &[]),
            (Some(extent), _) if fault.blames_medium() => self.submit_slow(id, kind, extent),
            _ => {
                let now = self.now;
                let spare_of = |life: &super::Life| life.spare_disks.iter().position(|&d| d == disk);
                if let Some(life) = &mut self.life {
                    let device = match spare_of(life) {
                        Some(spare) => DeviceId::Spare(spare as u8),
                        None => DeviceId::Main,
                    };
                    inside::core(|| life.engine.report(now, device, fault));
                }
                self.pump()?;
                self.part_done(id, Err(RequestError::Io(fault)), &[])
            }
        }
    }

    pub(super) fn part_done(&mut self, id: u64, result: Result<(), RequestError>, bad: &[Extent]) -> Checked {
        let Some(part) = self.parts.remove(&id) else {
            return Err(Rule::C6.broken(format!("part {id} ended twice")));
        };
        if let Some(client) = self.clients.get_mut(&part.client)
            && let Err(error) = result
        {
            let whole = part.extent.filter(|_| bad.is_empty());
            client.failed.get_or_insert(error);
            client.bad.extend(bad.iter().copied().chain(whole));
        }
        self.client_part_ended(part.client)
    }

    fn client_part_ended(&mut self, id: u64) -> Checked {
        let Some(client) = self.clients.get_mut(&id) else { return Ok(()) };
        client.parts_left -= 1;
        if client.parts_left > 0 {
            return Ok(());
        }
        self.tell_client(id)?;
        self.clients.remove(&id);
        Ok(())
    }

    /// The client hears how its request went: the oracle judges.
    fn tell_client(&mut self, id: u64) -> Checked {
        let Some(client) = self.clients.get_mut(&id).filter(|c| !c.told) else { return Ok(()) };
        let (kind, extent, begun, write) = (client.kind, client.extent, client.begun, client.write);
        let early = client.parts_left > 0;
        if early && kind == RequestKind::Read {
            return Ok(());
        }
        client.told = true;
        let failed = client.failed.filter(|_| !early);
        self.note(9, id, || match failed {
            None => format!("client {id}: done"),
            Some(error) => format!("client {id}: failed: {error:?}"),
        });
        self.tally.failed_requests += u64::from(failed.is_some());
        match kind {
            RequestKind::Read => self.judge_read(id, failed)?,
            RequestKind::Flush => {
                if failed.is_none() {
                    self.judge_flush(id, begun)?;
                    let oldest = self.oldest();
                    self.oracle.flushed(begun, oldest);
                } else {
                    self.clients_hear();
                }
            }
            RequestKind::Discard | RequestKind::Write { .. } | RequestKind::WriteZeroes { .. } => {
                let fua = matches!(
                    kind,
                    RequestKind::Write { fua: true } | RequestKind::WriteZeroes { fua: true, .. }
                );
                let acked = failed.is_none() && kind != RequestKind::Discard;
                let oldest = self.oldest();
                for sector in extent.start().0..extent.end().0 {
                    self.oracle.end(sector, u64::from(write), acked, fua, self.tick, oldest);
                }
            }
        }
        match failed {
            Some(error) if kind != RequestKind::Read => self.judge_failure(id, error, begun),
            _ => Ok(()),
        }
    }

    /// A request may fail without a bad sector only if there was trouble while it was under way (C6, C4).
    fn judge_failure(&self, id: u64, error: RequestError, begun: u64) -> Checked {
        let excused = match error {
            RequestError::NoSpace => self.full_at >= begun,
            RequestError::Io(_) => self.trouble >= begun,
        };
        if excused {
            Ok(())
        } else {
            Err(Rule::C6.broken(format!("client {id}: failed with {error:?} for no reason")))
        }
    }

    fn judge_read(&mut self, id: u64, failed: Option<RequestError>) -> Checked {
        let Some(client) = self.clients.get(&id) else { return Ok(()) };
        let (extent, begun) = (client.extent, client.begun);
        for (index, sector) in (extent.start().0..extent.end().0).enumerate() {
            let Some(client) = self.clients.get(&id) else { break };
            let bad = failed.is_some() && client.bad.iter().any(|b| b.contains(Sector(sector)));
            if bad && self.trouble >= begun {
                continue;
            }
            let seen = if bad {
                Content::Lost
            } else {
                stamp::read(&client.buf[index * SECTOR..(index + 1) * SECTOR])
            };
            self.tally.sectors_checked += 1;
            if seen == Content::Lost {
                self.meet(Kind::LostRead);
            }
            self.oracle.check(sector, seen, begun, self.tick)?;
        }
        Ok(())
    }

    pub(super) fn begin_grace(&mut self, op: OpId, extent: Extent) -> Checked {
        let overlaps = |p: &Part| !p.slow && p.extent.is_some_and(|e| e.overlaps(&extent));
        let mut parts: Vec<u64> = self.parts.iter().filter(|(_, p)| overlaps(p)).map(|(&id, _)| id).collect();
        if self.scenario.canary == Some(Canary::GraceAtOnce) {
            parts.clear();
        }
        if parts.is_empty() {
            return self.end_grace(op);
        }
        self.graces.push((op, parts));
        Ok(())
    }

    fn end_grace(&mut self, op: OpId) -> Checked {
        let now = self.now;
        self.note(10, op.0, || format!("fast lane: grace of op {} ends", super::words::number(op)));
        if let Some(life) = &mut self.life {
            inside::core(|| life.engine.handle_completion(now, op, Ok(())));
        }
        self.pump()
    }

    fn leave_graces(&mut self, part: u64) -> Checked {
        let mut ended = Vec::new();
        self.graces.retain_mut(|(op, parts)| {
            parts.retain(|&p| p != part);
            if parts.is_empty() {
                ended.push(*op);
            }
            !parts.is_empty()
        });
        for op in ended {
            self.end_grace(op)?;
        }
        Ok(())
    }
}
