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
use remap_words::notice;

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

/// What a notice says, and how much it matters. `block_sectors`: sectors in a block of the volume.
pub(crate) fn words(notice: &Notice, block_sectors: u64) -> (Level, String) {
    let level = match notice::level(notice) {
        notice::Level::Info => Level::Info,
        notice::Level::Warning => Level::Warning,
        notice::Level::Error => Level::Error,
    };
    let mut text = String::new();
    // A string takes all.
    let _ = notice::write(&mut text, notice, block_sectors);
    (level, text)
}

#[cfg(test)]
mod tests {
    use remap_core::op::{DeviceId, Fault};
    use remap_core::units::{Block, Slot};
    use remap_format::Cause;

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
