// SPDX-License-Identifier: GPL-2.0
//! Messages under way: what was asked, and what became of it.
//!
//! Invariant: every message has an answer. One that needs the engine's work gets a ticket; its answer can be asked for once, after it was
//! [`Volume::answers`] went up; a message that nobody waits for any more is forgotten when it ends.

use alloc::vec::Vec;
use core::fmt::{self, Display, Formatter, Write};

use remap_core::engine::{Command, CommandId, CommandOutcome};
use remap_core::memory::NoMemory;
use remap_core::units::{Block, Extent, Now, Sector};
use remap_format::Cause;
use remap_words::answer::{self, Count, SpareSector};
use remap_words::figures::Asked;
use remap_words::message::{self, Message, MessageError};

use crate::spares::{CHANGES, Change, Names};
use crate::volume::Volume;

/// Messages under way at a time; as many as the engine takes commands.
const MAX_CALLS: usize = 64;

/// What was asked.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Order {
    Message(Message),
    Spares(Change),
}

#[derive(Debug)]
struct Call {
    ticket: u64,
    order: Order,
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
    /// Answers that could be asked for until now.
    ended: u32,
}

impl Calls {
    pub(crate) fn with_room() -> Result<Self, NoMemory> {
        let mut list = Vec::new();
        list.try_reserve_exact(MAX_CALLS).map_err(|_| NoMemory)?;
        Ok(Self { list, last: 0, ended: 0 })
    }

    pub(crate) fn are_under_way(&self) -> bool {
        !self.list.is_empty()
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
    /// Takes a message. The answer goes into `out`, now or after [`Volume::answer`]. `names` are those of the spares of the table line.
    pub fn message(
        &mut self,
        now: Now,
        words: &[&str],
        names: &[Names<'_>],
        asked: Asked,
        out: &mut dyn Write,
    ) -> Progress {
        self.now = now;
        if let Some(progress) = self.spare_message(now, words, names, out) {
            return progress;
        }
        let message = match message::parse(words, self.sectors()) {
            Ok(message) => message,
            Err(refusal) => {
                // An answer that is cut is an answer.
                let _ = match refusal {
                    MessageError::Unknown(word) => {
                        write!(out, "error: unknown command '{word}' (try: {}, {CHANGES})", message::KNOWN)
                    }
                    refusal => write!(out, "{refusal}"),
                };
                return Progress::Answered;
            }
        };
        match self.command_for(message) {
            Some(command) => {
                let begun = self.order(now, command, Order::Message(message), out);
                if begun.is_some() {
                    match message {
                        Message::Suspend => self.suspended = true,
                        Message::Resume => self.suspended = false,
                        _ => {}
                    }
                }
                begun.unwrap_or(Progress::Answered)
            }
            None => {
                let _ = self.say(message, asked, out);
                Progress::Answered
            }
        }
    }

    /// What the engine is to do for it; `None`: nothing.
    fn command_for(&self, message: Message) -> Option<Command> {
        let everything = || Extent::new(Sector(0), self.sectors());
        Some(match message {
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
        })
    }

    /// Begins what the engine does; `None`: there is no room, and `out` says so.
    pub(crate) fn order(
        &mut self,
        now: Now,
        command: Command,
        order: Order,
        out: &mut dyn Write,
    ) -> Option<Progress> {
        let ticket = self.calls.last.wrapping_add(1);
        let damaged = 5 - usize::from(self.copies_in_step().min(5));
        let room = self.calls.list.len() < self.calls.list.capacity().min(MAX_CALLS);
        if !room || self.engine.command(now, CommandId(ticket), command).is_err() {
            // An answer that is cut is an answer.
            let _ = out.write_str("error: too many messages are under way; try again");
            return None;
        }
        self.calls.last = ticket;
        self.calls.list.push(Call { ticket, order, damaged, outcome: None, forgotten: false });
        Some(Progress::Pending(ticket))
    }

    /// Goes up whenever the answer to a message can be asked for.
    #[must_use]
    pub fn answers(&self) -> u32 {
        self.calls.ended
    }

    /// The engine is done with one.
    pub(crate) fn call_ended(&mut self, ticket: u64, outcome: &CommandOutcome) {
        let Some(at) = self.calls.list.iter().position(|call| call.ticket == ticket) else { return };
        let mut order = self.calls.list.get(at).map(|call| call.order);
        if let Some(Order::Spares(change)) = &mut order
            && self.spares_changed(ticket, change, outcome).is_none()
        {
            // With its next step it goes on.
            if let Some(call) = self.calls.list.get_mut(at) {
                call.order = Order::Spares(*change);
            }
            return;
        }
        let Some(call) = self.calls.list.get_mut(at) else { return };
        call.order = order.unwrap_or(call.order);
        call.outcome = Some(*outcome);
        self.calls.ended = self.calls.ended.wrapping_add(1);
        self.calls.list.retain(|call| call.ticket != ticket || !call.forgotten);
    }

    /// The answer to a message, if it has ended.
    pub fn answer(&mut self, ticket: u64, out: &mut dyn Write) -> Progress {
        let Some(at) = self.calls.list.iter().position(|call| call.ticket == ticket) else {
            return Progress::Answered;
        };
        if self.calls.list.get(at).is_some_and(|call| call.outcome.is_none()) {
            return Progress::Pending(ticket);
        }
        let call = self.calls.list.swap_remove(at);
        let outcome = call.outcome.unwrap_or_default();
        let entries = self.engine.counts().entries;
        // An answer that is cut is an answer.
        let message = match call.order {
            Order::Message(message) => message,
            Order::Spares(change) => {
                let _ = self.say_change(change, &outcome, out);
                return Progress::Answered;
            }
        };
        let _ = match message {
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
        Progress::Answered
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
            Message::Help => write!(out, "Commands: {}, {CHANGES}", message::KNOWN),
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
