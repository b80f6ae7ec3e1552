// SPDX-License-Identifier: GPL-2.0
//! Messages under way: what was asked, and what became of it.
//!
//! Invariant: every message has an answer. One that needs the engine's work gets a ticket; its answer can be asked for once, after it was
//! told that it is there; a message that nobody waits for any more is forgotten when it ends.

use alloc::vec::Vec;
use core::fmt::{self, Display, Formatter, Write};

use remap_core::engine::{Command, CommandId, CommandOutcome};
use remap_core::memory::NoMemory;
use remap_core::units::{Block, Extent, Now, Sector};
use remap_format::Cause;
use remap_words::answer::{self, Count, SpareSector};
use remap_words::figures::Asked;
use remap_words::message::{self, Message};

use crate::volume::Volume;

/// Messages under way at a time; as many as the engine takes commands.
const MAX_CALLS: usize = 64;

#[derive(Debug)]
struct Call {
    ticket: u64,
    message: Message,
    /// Copies out of step when it was asked.
    damaged: usize,
    outcome: Option<CommandOutcome>,
    forgotten: bool,
}

/// The messages under way.
#[derive(Debug)]
pub(crate) struct Calls {
    list: Vec<Call>,
    last: u64,
}

impl Calls {
    pub(crate) fn with_room() -> Result<Self, NoMemory> {
        let mut list = Vec::new();
        list.try_reserve_exact(MAX_CALLS).map_err(|_| NoMemory)?;
        Ok(Self { list, last: 0 })
    }

    /// The engine is done with one; is somebody waiting?
    pub(crate) fn ended(&mut self, ticket: u64, outcome: &CommandOutcome) -> bool {
        let Some(call) = self.list.iter_mut().find(|call| call.ticket == ticket) else { return false };
        call.outcome = Some(*outcome);
        let waits = !call.forgotten;
        if !waits {
            self.list.retain(|call| call.ticket != ticket);
        }
        waits
    }
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The answer was written.
    Answered,
    /// It is being done.
    Pending(u64),
}

/// Sectors that are lost, for people.
struct Lost(u64);

impl Display for Lost {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Count(self.0, "sector"))
    }
}

impl Volume {
    /// Takes a message. The answer goes into `out`, now or after [`Volume::answer`].
    pub fn message(&mut self, now: Now, words: &[&str], asked: Asked, out: &mut dyn Write) -> Progress {
        let message = match message::parse(words, self.sectors()) {
            Ok(message) => message,
            Err(refusal) => {
                // An answer that is cut is an answer.
                let _ = write!(out, "{refusal}");
                return Progress::Answered;
            }
        };
        match self.begin(now, message) {
            Some(progress) => {
                if progress == Progress::Answered {
                    let _ = out.write_str("error: too many messages are under way; try again");
                }
                progress
            }
            None => {
                let _ = self.say(message, asked, out);
                Progress::Answered
            }
        }
    }

    /// Begins what needs the engine; `None`: nothing does. `Answered`: there is no room.
    fn begin(&mut self, now: Now, message: Message) -> Option<Progress> {
        let everything = || Extent::new(Sector(0), self.sectors());
        let command = match message {
            Message::Remap(extent) => Command::Remap(extent, Cause::Manual),
            Message::TestRemap(sector) => Command::Remap(Extent::new(sector, 1)?, Cause::Manual),
            Message::Verify(None) => Command::Verify { extent: everything()?, all: false },
            Message::Verify(Some(extent)) => Command::Verify { extent, all: true },
            Message::Clear(extent) => Command::Clear(match extent {
                Some(extent) => extent,
                None => everything()?,
            }),
            Message::Save | Message::Sync | Message::Restore => Command::Save,
            Message::Suspend => Command::Suspend,
            Message::Resume => Command::Resume,
            _ => return None,
        };
        if self.calls.list.len() >= MAX_CALLS {
            return Some(Progress::Answered);
        }
        self.calls.last += 1;
        let ticket = self.calls.last;
        let damaged = 5 - usize::from(self.copies_in_step().min(5));
        if self.engine.command(now, CommandId(ticket), command).is_err() {
            return Some(Progress::Answered);
        }
        match message {
            Message::Suspend => self.suspended = true,
            Message::Resume => self.suspended = false,
            _ => {}
        }
        self.calls.list.push(Call { ticket, message, damaged, outcome: None, forgotten: false });
        Some(Progress::Pending(ticket))
    }

    /// The answer to a message that has ended.
    pub fn answer(&mut self, ticket: u64, out: &mut dyn Write) {
        let Some(at) = self.calls.list.iter().position(|call| call.ticket == ticket) else { return };
        let call = self.calls.list.swap_remove(at);
        let outcome = call.outcome.unwrap_or_default();
        let entries = self.engine.counts().entries;
        // An answer that is cut is an answer.
        let _ = match call.message {
            Message::Remap(extent) if extent.sectors() == 1 => {
                let place = self.place_of(extent.start());
                answer::remapped_one(out, extent.start(), &outcome, place)
            }
            Message::Remap(_) => answer::remapped(out, &outcome, &Lost(outcome.lost_sectors)),
            Message::TestRemap(sector) => {
                let place = self.place_of(sector);
                answer::test_remapped(out, sector, &outcome, place)
            }
            Message::Verify(_) => answer::verified(out, &outcome, &Lost(outcome.lost_sectors)),
            Message::Clear(extent) => answer::cleared(out, &outcome, extent.is_none()),
            Message::Save => answer::saved(out, outcome.error, self.copies_in_step()),
            Message::Sync => answer::synced(out, outcome.error, entries),
            Message::Restore => answer::restored(out, outcome.error, entries, call.damaged),
            Message::Suspend => out.write_str("remapping suspended"),
            Message::Resume => out.write_str("remapping resumed"),
            _ => Ok(()),
        };
    }

    /// Nobody waits for the answer any more.
    pub fn forget(&mut self, ticket: u64) {
        self.calls.list.retain(|call| call.ticket != ticket || call.outcome.is_none());
        if let Some(call) = self.calls.list.iter_mut().find(|call| call.ticket == ticket) {
            call.forgotten = true;
        }
    }

    /// What can be said at once.
    fn say(&mut self, message: Message, asked: Asked, out: &mut dyn Write) -> fmt::Result {
        let figures = self.figures(asked);
        match message {
            Message::Ping => out.write_str("pong"),
            Message::Help => write!(out, "Commands: {}", message::KNOWN),
            Message::Look(sector) => {
                let block_sectors = u64::from(self.engine.volume().block_sectors());
                let entry = self.engine.table().get(Block(sector.0 / block_sectors));
                let lost = entry.is_some_and(|e| e.lost & (1 << (sector.0 % block_sectors)) != 0);
                answer::looked(out, sector, self.place_of(sector), lost)
            }
            Message::Health => answer::health(out, &figures),
            Message::Status => answer::status(out, &figures),
            Message::Stats => answer::stats(out, &figures, &self.then),
            Message::ClearStats => {
                self.then = (asked, figures.read_errors().saturating_add(figures.write_errors()));
                out.write_str("Statistics cleared")
            }
            Message::CacheStats => answer::cache_stats(out, &figures),
            Message::MetadataStatus => answer::metadata_status(out, &figures, self.copy_failures),
            _ => Ok(()),
        }
    }

    fn place_of(&self, sector: Sector) -> Option<SpareSector> {
        let volume = self.engine.volume();
        let block_sectors = u64::from(volume.block_sectors());
        let entry = self.engine.table().get(Block(sector.0.checked_div(block_sectors)?))?;
        SpareSector::of(&entry, sector, block_sectors, volume.present().count() > 1)
    }
}
