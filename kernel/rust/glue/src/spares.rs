// SPDX-License-Identifier: GPL-2.0
//! Spares that join and leave while the volume is served: `add-spare`, `retire-spare`, `migrate`.
//!
//! Invariant: only a table line opens devices. A device that joins was named by the line, was not of the volume when it was
//! assembled, and held nothing then; it waits, and nobody writes to it, until it is told to join.

use core::fmt::{self, Write};

use remap_core::engine::{Command, CommandId, CommandOutcome};
use remap_core::recovery::shape_of;
use remap_core::units::Now;
use remap_format::SpareRecord;
use remap_format::layout::joining_spare;
use remap_words::answer::{Count, why};

use crate::call::{Order, Progress};
use crate::volume::Volume;

/// Messages that change the spares, as the list of known ones ends with them.
pub(crate) const CHANGES: &str = "add-spare, retire-spare, migrate";

/// How a spare of the table line is called: as in the line, and by device-mapper.
pub type Names<'a> = [&'a str; 2];

/// A spare of the table line that is not of the volume.
#[derive(Clone, Copy, Debug)]
pub struct Waiting {
    /// Which of the given ones.
    pub given: usize,
    /// Bytes.
    pub bytes: u64,
    /// Logical block in bytes.
    pub logical_block: u32,
    /// What it is called if it joins.
    pub uuid: [u8; 16],
}

/// What is to become of the spares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    /// This one joins, and then...
    pub(crate) joins: Option<u8>,
    /// ... this one leaves.
    pub(crate) leaves: Option<u8>,
    /// It has joined.
    pub(crate) joined: bool,
}

impl Volume {
    /// A message that changes the spares; `None`: it is none. What is refused has its answer in `out`.
    pub(crate) fn spare_message(
        &mut self,
        now: Now,
        words: &[&str],
        names: &[Names<'_>],
        out: &mut dyn Write,
    ) -> Option<Progress> {
        let (command, args) = words.split_first()?;
        let is = |word: &str| command.eq_ignore_ascii_case(word);
        let number = |text: &str| text.parse::<u8>().ok();
        // An answer that is cut is an answer.
        let refused = |text: fmt::Result| {
            let _ = text;
            Some(Progress::Answered)
        };
        let begun = match args {
            [spare] if is("add-spare") => self.join(now, spare, names, None, out),
            [word] if is("retire-spare") => match number(word) {
                Some(number) => self.retire(now, number, out),
                None => {
                    return refused(write!(
                        out,
                        "error: '{word}' is not the number of a spare (0 is the first)"
                    ));
                }
            },
            [spare] if is("migrate") => {
                let first_two = {
                    let mut present = self.engine.volume().present().map(|(n, _)| n);
                    (present.next(), present.next())
                };
                match first_two {
                    (Some(only), None) => self.join(now, spare, names, Some(only), out),
                    _ => {
                        return refused(out.write_str("error: which spare is it to replace? add its number"));
                    }
                }
            }
            [spare, word] if is("migrate") => match number(word).filter(|&number| self.has_spare(number)) {
                Some(number) => self.join(now, spare, names, Some(number), out),
                None => return refused(write!(out, "error: the volume has no spare number {word}")),
            },
            [_, word] if is("add-spare") && word.eq_ignore_ascii_case("force") => {
                return refused(out.write_str(
                    "error: a spare that holds something joins only if the table line says 'adopt force': load such a line first",
                ));
            }
            _ if is("add-spare") || is("retire-spare") || is("migrate") => {
                return refused(write!(out, "error: wrong arguments for '{command}' (try: help)"));
            }
            _ => return None,
        };
        Some(begun.unwrap_or(Progress::Answered))
    }

    pub(crate) fn has_spare(&self, number: u8) -> bool {
        self.engine.volume().spares.get(usize::from(number)).is_some_and(SpareRecord::is_present)
    }

    /// `None`: it was refused.
    fn join(
        &mut self,
        now: Now,
        word: &str,
        names: &[Names<'_>],
        leaves: Option<u8>,
        out: &mut dyn Write,
    ) -> Option<Progress> {
        let refuse = |text: fmt::Result| {
            // An answer that is cut is an answer.
            let _ = text;
            None::<Progress>
        };
        let Some(given) = names.iter().position(|names| names.contains(&word)) else {
            return refuse(write!(
                out,
                "error: {word} is not in the table line: load one with the option 'spare {word}', resume, and say this again"
            ));
        };
        if let Some(number) = self.number_of(given) {
            return refuse(write!(out, "error: {word} is spare {number} of the volume already"));
        }
        let Some(spare) = self.waiting.iter().find(|waiting| waiting.given == given).copied() else {
            return refuse(write!(
                out,
                "error: {word} has left the volume: load the table line anew before it joins again"
            ));
        };
        let volume = self.engine.volume();
        if spare.logical_block > volume.main.logical_block {
            return refuse(write!(
                out,
                "error: {word}: its logical block is {} bytes, larger than the volume's {}",
                spare.logical_block, volume.main.logical_block
            ));
        }
        let Some(number) = self.engine.next_spare() else {
            return refuse(
                out.write_str("error: the volume has had as many spares as it can name: load the table anew"),
            );
        };
        let block_size = u64::from(volume.block_size());
        let bytes = spare.bytes - spare.bytes.checked_rem(block_size).unwrap_or(0);
        let record = match joining_spare(spare.uuid, bytes, number, &shape_of(volume), block_size) {
            Ok(record) => record,
            Err(error) => return refuse(write!(out, "error: {error}")),
        };
        let place = usize::from(number);
        // There is room for all that a volume can name.
        while self.devices.len() <= place && self.devices.len() < self.devices.capacity() {
            self.devices.push(None);
        }
        let Some(device) = self.devices.get_mut(place) else {
            return refuse(out.write_str("error: too many spares"));
        };
        *device = Some(given);
        let command = Command::AddSpare { spare: number, record, copies: leaves.is_none() };
        let order = Order::Spares(Change { joins: Some(number), leaves, joined: false });
        let begun = self.order(now, command, order, out);
        if begun.is_none() {
            self.let_go(number);
        }
        begun
    }

    /// `None`: it was refused.
    fn retire(&mut self, now: Now, number: u8, out: &mut dyn Write) -> Option<Progress> {
        if self.cannot_leave(number, out) {
            return None;
        }
        let order = Order::Spares(Change { joins: None, leaves: Some(number), joined: false });
        self.order(now, Command::RetireSpare { spare: number }, order, out)
    }

    /// Says why a spare cannot leave, if it cannot.
    fn cannot_leave(&self, number: u8, out: &mut dyn Write) -> bool {
        let (own, all) = (self.engine.slots(Some(number)), self.engine.slots(None));
        let (blocks, free) = (own.total.saturating_sub(own.free), all.free.saturating_sub(own.free));
        // An answer that is cut is an answer.
        let _ = if !self.has_spare(number) {
            write!(out, "error: the volume has no spare number {number}")
        } else if self.engine.volume().present().count() == 1 {
            write!(
                out,
                "error: spare {number} is the volume's only one: add another first, or release the volume"
            )
        } else if !self.engine.can_leave(number) {
            write!(
                out,
                "error: the metadata copies on spare {number} have no room on the others: add a larger spare first"
            )
        } else if blocks > free {
            write!(
                out,
                "error: {blocks} blocks are on spare {number}, and the others have {free} free slots: add another spare first"
            )
        } else {
            return false;
        };
        true
    }

    /// The command has ended; `None`: with another step it goes on.
    pub(crate) fn spares_changed(
        &mut self,
        ticket: u64,
        change: &mut Change,
        outcome: &CommandOutcome,
    ) -> Option<()> {
        if let (Some(number), false) = (change.joins, change.joined) {
            if !self.has_spare(number) || outcome.error.is_some() {
                self.let_go(number);
                return Some(());
            }
            change.joined = true;
            let given = self.devices.get(usize::from(number)).copied().flatten();
            self.waiting.retain(|waiting| Some(waiting.given) != given);
            if let Some(leaves) = change.leaves {
                let command = Command::RetireSpare { spare: leaves };
                return self.engine.command(self.now, CommandId(ticket), command).is_err().then_some(());
            }
            return Some(());
        }
        if let Some(number) = change.leaves.filter(|&number| !self.has_spare(number)) {
            self.let_go(number);
        }
        Some(())
    }

    /// No operation goes to this spare any more.
    fn let_go(&mut self, number: u8) {
        if let Some(device) = self.devices.get_mut(usize::from(number)) {
            *device = None;
        }
    }

    /// The answer.
    pub(crate) fn say_change(
        &self,
        change: Change,
        outcome: &CommandOutcome,
        out: &mut dyn Write,
    ) -> fmt::Result {
        let moved = Count(outcome.done, "block");
        if let (Some(joins), true) = (change.joins, change.joined) {
            write!(out, "spare {joins} has joined")?;
        }
        let left = change.leaves.filter(|&number| !self.has_spare(number));
        match (change.leaves, left) {
            (Some(_), Some(left)) => {
                let and = if change.joined { " and " } else { "" };
                write!(out, "{and}spare {left} has left the volume ({moved} moved off it)")?;
            }
            _ if outcome.error.is_some() || !change.joined => {
                let but = if change.joined {
                    ", but the other has not left: "
                } else {
                    "error: it did not work out: "
                };
                let why = why(outcome.error);
                return write!(
                    out,
                    "{but}{why}; {moved} had moved, nothing is lost; check the spares and try again"
                );
            }
            _ => {}
        }
        out.write_str(
            "; from now on the table line must name the devices of just the spares that the volume has",
        )
    }
}
