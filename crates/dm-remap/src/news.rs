//! The log of a serving process: what happened, one line each, with time and level, on standard error.
//!
//! Invariant: whoever has news never waits for the terminal: lines go through a bounded queue, and those that do not fit
//! are counted and the count is told.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::SystemTime;

use remap_core::engine::Notice;
use remap_core::units::Block;
use remap_format::Cause;

use crate::status_json::{device_word, fault_word};
use crate::units::format_time;

/// Lines that may wait for the terminal.
const QUEUE_MAX: usize = 1024;

/// How much it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    Info,
    Warning,
    Error,
}

impl Level {
    fn word(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// Where news go. Cheap to clone.
#[derive(Clone)]
pub(crate) struct News {
    lines: SyncSender<String>,
    dropped: Arc<AtomicU64>,
}

/// Writes the lines; ends when all [`News`] are gone.
pub(crate) struct Writer(JoinHandle<()>);

impl News {
    /// A log on standard error.
    ///
    /// # Errors
    /// No thread.
    pub(crate) fn open() -> std::io::Result<(Self, Writer)> {
        let (lines, queue) = sync_channel(QUEUE_MAX);
        let dropped = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&dropped);
        let writer =
            std::thread::Builder::new().name("news".to_owned()).spawn(move || write(&queue, &count))?;
        Ok((Self { lines, dropped }, Writer(writer)))
    }

    /// One line.
    pub(crate) fn say(&self, level: Level, text: &str) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let line = format!("{} {:<7} {text}\n", format_time(now), level.word());
        if self.lines.try_send(line).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Writer {
    /// Waits until everything is written.
    pub(crate) fn finish(self) {
        // It cannot panic; and if it did, there is nowhere to say so.
        let _ = self.0.join();
    }
}

fn write(queue: &Receiver<String>, dropped: &AtomicU64) {
    for line in queue {
        let missed = dropped.swap(0, Ordering::Relaxed);
        let mut error = std::io::stderr().lock();
        // A closed terminal takes no news; the service goes on.
        let _ = error.write_all(line.as_bytes());
        if missed > 0 {
            let _ = writeln!(error, "({missed} lines were dropped here: the terminal was too slow)");
        }
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

fn lost_words(lost: u128) -> String {
    match lost.count_ones() {
        0 => "nothing lost".to_owned(),
        1 => "1 sector lost".to_owned(),
        n => format!("{n} sectors lost"),
    }
}

/// What a notice says, and how much it matters. `block_sectors`: sectors in a block of the volume.
pub(crate) fn words(notice: &Notice, block_sectors: u64) -> (Level, String) {
    let place = |block: &Block| {
        let first = block.0.saturating_mul(block_sectors);
        format!("block {} (sectors {first}-{})", block.0, first.saturating_add(block_sectors - 1))
    };
    match notice {
        Notice::Live => (Level::Info, "the metadata copies are in step".into()),
        Notice::Pending { block, lost } => (
            Level::Warning,
            format!(
                "{} cannot be read in full: {}, until they are overwritten",
                place(block),
                lost_words(*lost)
            ),
        ),
        Notice::Remapped { block, to, lost, cause } => (
            Level::Warning,
            format!("{} is now at {to}: {}; {}", place(block), cause_words(*cause), lost_words(*lost)),
        ),
        Notice::Healed { block, lost: 0 } => {
            (Level::Info, format!("{} is healed: nothing of it is lost", place(block)))
        }
        Notice::Healed { block, lost } => {
            (Level::Info, format!("{} is healed in part: {}", place(block), lost_words(*lost)))
        }
        Notice::Cleared { block } => (Level::Info, format!("{} is back on the main device", place(block))),
        Notice::SlotRetired { slot } => {
            (Level::Warning, format!("the spare's slot {slot} went bad and is not used again"))
        }
        Notice::CopyFailed { copy, fault, fenced } => {
            let fate = if *fenced { "marked as not to be believed" } else { "it could not even be marked" };
            (
                Level::Error,
                format!("metadata copy {copy} could not be written ({}): {fate}", fault_word(*fault)),
            )
        }
        Notice::BreakerTripped { device, fault } => (
            Level::Error,
            format!(
                "remapping is suspended: {} looks like trouble with the whole device ({}); check cable, power and \
                 controller; it goes on by itself when the device answers again",
                device_word(*device),
                fault_word(*fault)
            ),
        ),
        Notice::BreakerReset => (Level::Info, "remapping goes on".into()),
        Notice::Exhausted => (
            Level::Error,
            "no room is left for another bad block: copy what you need, and replace the disk".into(),
        ),
        Notice::Frozen { fault } => (
            Level::Error,
            format!(
                "metadata cannot be written ({}): nothing moves until they can; check the spare",
                fault_word(*fault)
            ),
        ),
        Notice::Thawed => (Level::Info, "metadata can be written again".into()),
        Notice::SpareJoined { spare } => (Level::Info, format!("spare {spare} is part of the volume")),
        Notice::SpareLeft { spare } => {
            (Level::Info, format!("spare {spare} has left the volume: nothing on it is needed"))
        }
        Notice::NotErased { fault } => (
            Level::Warning,
            format!(
                "a superblock that is out of use could not be erased ({}): never give a spare that has left to this \
                 volume again",
                fault_word(*fault)
            ),
        ),
        Notice::Checkpointed { generation, copies } => {
            (Level::Info, format!("checkpoint: generation {generation} in {copies} of 5 copies"))
        }
    }
}

#[cfg(test)]
mod tests {
    use remap_core::op::{DeviceId, Fault};
    use remap_core::units::Slot;

    use super::*;

    #[test]
    fn news_name_the_sectors() {
        let notice =
            Notice::Remapped { block: Block(5), to: Slot::new(0, 9), lost: 0b101, cause: Cause::ReadError };
        let (level, text) = words(&notice, 8);
        assert_eq!(level, Level::Warning);
        assert_eq!(text, "block 5 (sectors 40-47) is now at spare0:9: a read failed; 2 sectors lost");
        let (level, text) =
            words(&Notice::BreakerTripped { device: DeviceId::Main, fault: Fault::Transport }, 8);
        assert_eq!(level, Level::Error);
        assert!(text.contains("main") && text.contains("transport error"), "{text}");
    }
}
