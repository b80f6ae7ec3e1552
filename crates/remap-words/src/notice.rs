//! What the engine has to tell, in words for a log.
//!
//! Invariant: whoever reads it need not know the code: it names the sectors, and says what to do where something can be done.

use core::fmt::{self, Display, Formatter, Write};

use remap_core::engine::Notice;
use remap_core::units::Block;
use remap_format::Cause;

use crate::answer::{DeviceWord, fault_word};

/// How much it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Good to know.
    Info,
    /// Something was lost, or went bad.
    Warning,
    /// Somebody should do something.
    Error,
}

/// How much the notice matters.
#[must_use]
pub fn level(notice: &Notice) -> Level {
    match notice {
        Notice::Live
        | Notice::Healed { .. }
        | Notice::Cleared { .. }
        | Notice::BreakerReset
        | Notice::Thawed
        | Notice::SpareJoined { .. }
        | Notice::SpareLeft { .. }
        | Notice::Checkpointed { .. } => Level::Info,
        Notice::Pending { .. }
        | Notice::Remapped { .. }
        | Notice::SlotRetired { .. }
        | Notice::NotErased { .. } => Level::Warning,
        Notice::CopyFailed { .. }
        | Notice::BreakerTripped { .. }
        | Notice::Exhausted
        | Notice::Frozen { .. } => Level::Error,
    }
}

fn cause_words(cause: Cause) -> &'static str {
    match cause {
        Cause::ReadError => "a read failed",
        Cause::WriteError => "a write failed",
        Cause::Manual => "by command",
        Cause::Imported => "imported",
        Cause::Predicted => "before it fails",
        Cause::SlotError => "its slot went bad",
    }
}

struct Lost(u128);

impl Display for Lost {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0.count_ones() {
            0 => f.write_str("nothing lost"),
            1 => f.write_str("1 sector lost"),
            n => write!(f, "{n} sectors lost"),
        }
    }
}

/// A block and its sectors.
struct Place(Block, u64);

impl Display for Place {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self(block, block_sectors) = self;
        let first = block.0.saturating_mul(*block_sectors);
        let last = first.saturating_add(block_sectors.saturating_sub(1));
        write!(f, "block {} (sectors {first}-{last})", block.0)
    }
}

/// What the notice says. `block_sectors`: sectors in a block of the volume.
///
/// # Errors
/// `out` took no more.
pub fn write(out: &mut dyn Write, notice: &Notice, block_sectors: u64) -> fmt::Result {
    let place = |block: &Block| Place(*block, block_sectors);
    match notice {
        Notice::Live => out.write_str("the metadata copies are in step"),
        Notice::Pending { block, lost } => {
            write!(
                out,
                "{} cannot be read in full: {}, until they are overwritten",
                place(block),
                Lost(*lost)
            )
        }
        Notice::Remapped { block, to, lost, cause } => {
            write!(out, "{} is now at {to}: {}; {}", place(block), cause_words(*cause), Lost(*lost))
        }
        Notice::Healed { block, lost: 0 } => write!(out, "{} is healed: nothing of it is lost", place(block)),
        Notice::Healed { block, lost } => write!(out, "{} is healed in part: {}", place(block), Lost(*lost)),
        Notice::Cleared { block } => write!(out, "{} is back on the main device", place(block)),
        Notice::SlotRetired { slot } => write!(out, "the spare's slot {slot} went bad and is not used again"),
        Notice::CopyFailed { copy, fault, fenced } => {
            let fate = if *fenced { "marked as not to be believed" } else { "it could not even be marked" };
            write!(out, "metadata copy {copy} could not be written ({}): {fate}", fault_word(*fault))
        }
        Notice::BreakerTripped { device, fault } => write!(
            out,
            "remapping is suspended: {} looks like trouble with the whole device ({}); check cable, power and controller; it goes on by \
             itself when the device answers again",
            DeviceWord(*device),
            fault_word(*fault)
        ),
        Notice::BreakerReset => out.write_str("remapping goes on"),
        Notice::Exhausted => {
            out.write_str("no room is left for another bad block: copy what you need, and replace the disk")
        }
        Notice::Frozen { fault } => write!(
            out,
            "metadata cannot be written ({}): nothing moves until they can; check the spare",
            fault_word(*fault)
        ),
        Notice::Thawed => out.write_str("metadata can be written again"),
        Notice::SpareJoined { spare } => write!(out, "spare {spare} is part of the volume"),
        Notice::SpareLeft { spare } => {
            write!(out, "spare {spare} has left the volume: nothing on it is needed")
        }
        Notice::NotErased { fault } => write!(
            out,
            "a superblock that is out of use could not be erased ({}): never give a spare that has left to this volume again",
            fault_word(*fault)
        ),
        Notice::Checkpointed { generation, copies } => {
            write!(out, "checkpoint: generation {generation} in {copies} of 5 copies")
        }
    }
}

#[cfg(test)]
mod tests {
    use remap_core::op::{DeviceId, Fault};
    use remap_core::units::Slot;
    use std::string::String;

    use super::*;

    fn words(notice: &Notice) -> (Level, String) {
        let mut text = String::new();
        write(&mut text, notice, 8).expect("a string takes all");
        (level(notice), text)
    }

    #[test]
    fn news_name_the_sectors() {
        let notice =
            Notice::Remapped { block: Block(5), to: Slot::new(0, 9), lost: 0b101, cause: Cause::ReadError };
        let (level, text) = words(&notice);
        assert_eq!(level, Level::Warning);
        assert_eq!(text, "block 5 (sectors 40-47) is now at spare0:9: a read failed; 2 sectors lost");
        let (level, text) =
            words(&Notice::BreakerTripped { device: DeviceId::Main, fault: Fault::Transport });
        assert_eq!(level, Level::Error);
        assert!(text.contains("main") && text.contains("transport error"), "{text}");
    }
}
