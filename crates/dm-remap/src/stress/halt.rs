//! When a run ends.
//!
//! Invariant: it only ever becomes later: from going on, over no more load, to nothing more at all.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use anyhow::Context as _;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Shared by all who work on a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Halt {
    /// Times that somebody asked for an end.
    asked: Arc<AtomicU32>,
    /// The load has lasted as long as it should.
    load_is_over: Arc<AtomicBool>,
    /// Something is wrong: nothing is to be written any more.
    evidence: Arc<AtomicBool>,
}

impl Halt {
    /// One that SIGINT, SIGTERM and SIGHUP reach: the first ends the load, the second what is read back, too.
    ///
    /// # Errors
    /// No thread, or no signals.
    pub(crate) fn on_signals() -> anyhow::Result<Self> {
        let halt = Self::default();
        let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM]).context("cannot wait for signals")?;
        let asked = Arc::clone(&halt.asked);
        let body = move || {
            for _ in signals.forever() {
                asked.fetch_add(1, Ordering::Relaxed);
            }
        };
        std::thread::Builder::new().name("signals".to_owned()).spawn(body)?;
        Ok(halt)
    }

    /// The load has lasted as long as it should.
    pub(crate) fn end_load(&self) {
        self.load_is_over.store(true, Ordering::Relaxed);
    }

    /// A wrong byte was seen.
    pub(crate) fn for_evidence(&self) {
        self.evidence.store(true, Ordering::Relaxed);
    }

    /// Was a wrong byte seen?
    pub(crate) fn has_evidence(&self) -> bool {
        self.evidence.load(Ordering::Relaxed)
    }

    /// Did somebody ask for an end?
    pub(crate) fn is_interrupted(&self) -> bool {
        self.asked.load(Ordering::Relaxed) > 0
    }

    /// Did somebody insist?
    pub(crate) fn is_insisted(&self) -> bool {
        self.asked.load(Ordering::Relaxed) > 1
    }

    /// Is it the end of the load, or of reading back?
    pub(crate) fn is_reached(&self, load: bool) -> bool {
        if load {
            self.load_is_over.load(Ordering::Relaxed) || self.is_interrupted() || self.has_evidence()
        } else {
            self.is_insisted()
        }
    }
}
