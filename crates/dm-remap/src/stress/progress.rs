//! What a run says while it lasts.
//!
//! Invariant: on a terminal it is one line that changes, elsewhere a line now and then, all of it on standard error.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::phase::Tally;
use crate::units::{format_duration, format_size};

/// Between two lines where there is no terminal.
const PAUSE: Duration = Duration::from_secs(10);

/// See the module.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    quiet: bool,
    duration: Duration,
    /// When the last line was said, and what had been done by then.
    said: Instant,
    requests: u64,
    bytes: u64,
}

impl Progress {
    /// Of a run that lasts so long.
    pub(crate) fn of(quiet: bool, duration: Duration) -> Self {
        let bar = (!quiet && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg}") {
                bar.set_style(style);
            }
            bar
        });
        Self { bar, quiet, duration, said: Instant::now(), requests: 0, bytes: 0 }
    }

    /// What is being done, when it is something else than before.
    pub(crate) fn step(&mut self, text: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(text.to_owned()),
            None if !self.quiet => eprintln!("dm-remap: {text}"),
            None => {}
        }
    }

    /// How the load is going, if it is time to say so.
    pub(crate) fn load(&mut self, elapsed: Duration, tally: &Tally) {
        let since = self.said.elapsed();
        let pause = if self.bar.is_some() { Duration::from_secs(1) } else { PAUSE };
        if self.quiet || since < pause {
            return;
        }
        let (requests, bytes) = (tally.meter.requests(), tally.meter.bytes());
        let seconds = since.as_secs_f64();
        let findings = &tally.findings;
        let text = format!(
            "{} of {}: {:.0} IOPS, {:.1} MB/s, {} verified, {} wrong bytes, errors: {} expected, {} not",
            format_duration(elapsed),
            format_duration(self.duration),
            (requests.saturating_sub(self.requests)) as f64 / seconds,
            (bytes.saturating_sub(self.bytes)) as f64 / 1e6 / seconds,
            format_size(findings.verified_bytes),
            findings.wrong_bytes,
            findings.expected_errors,
            findings.unexpected_errors + findings.doubtful_errors
        );
        (self.said, self.requests, self.bytes) = (Instant::now(), requests, bytes);
        self.step(&text);
    }

    /// Nothing more is said.
    pub(crate) fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        self.quiet = true;
    }
}
