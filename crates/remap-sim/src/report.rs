//! What `remap-sim` tells a person about a run that broke a rule (part of the command, not of the library: it has a clock).
//!
//! Invariant: what is printed and what is saved is the same run, and repeats.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use remap_sim::scenario::Scenario;
use remap_sim::shrink;
use remap_sim::world::{Failure, Tally};
use remap_sim::{Violation, seed_file};

/// Prints a line; a reader that went away wants no more of them.
macro_rules! say {
    ($($line:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($line)*);
    }};
}
pub(crate) use say;

/// A panic of the core is told like any other violation, not where it happens.
pub(crate) fn panics_are_findings() {
    std::panic::set_hook(Box::new(|_| {}));
}

/// A violation, shrunk as far as the time allowed.
pub(crate) struct Found {
    scenario: Scenario,
    violation: Violation,
    first: Scenario,
    runs: u64,
}

impl Found {
    /// Shrinks a failure for `limit` at most.
    pub(crate) fn shrink(scenario: &Scenario, failure: &Failure, limit: Duration) -> Self {
        let end = Instant::now() + limit;
        let mut runs = 0;
        let mut more = || {
            runs += 1;
            Instant::now() < end
        };
        let (small, violation) = shrink::shrink(scenario, &failure.violation, &mut more);
        Self { scenario: small, violation, first: scenario.clone(), runs }
    }

    /// Prints the last `events` of the small run.
    pub(crate) fn tell(&self, events: usize) {
        let told = Scenario { transcript: events, ..self.scenario.clone() };
        let lines = shrink::verdict(&told, false).err().map(|failure| failure.transcript).unwrap_or_default();
        say!("{:>7} {:>5}  {:<12} what", "event", "step", "who");
        for line in lines {
            say!("{line}");
        }
        let kept = self.scenario.only.as_ref().map_or(self.scenario.steps, |only| only.len() as u64);
        say!("");
        say!(
            "seed {}, {} steps, shrunk to {kept} steps in {} runs",
            self.first.seed,
            self.first.steps,
            self.runs
        );
        say!("{}", self.violation);
    }

    /// What a file says of it.
    pub(crate) fn text(&self) -> String {
        let words: String = self.violation.to_string().chars().take(200).collect();
        let about = format!("{words}\n(found with seed {}, {} steps)", self.first.seed, self.first.steps);
        seed_file::write(&self.scenario, self.violation.rule, &about)
    }

    /// Writes it where `tests/regressions.rs` finds it.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub(crate) fn save(&self, into: &Path) -> io::Result<PathBuf> {
        fs::create_dir_all(into)?;
        let path = into.join(format!("{}-{}.seed", self.violation.rule, self.first.seed).to_lowercase());
        fs::write(&path, self.text())?;
        Ok(path)
    }
}

/// What many runs did.
pub(crate) fn tell_tally(total: &Tally, seconds: f64) {
    let rate = |n: u64| n as f64 / seconds.max(1e-9);
    let crashes = total.crashes();
    say!(
        "{crashes} crashes ({:.0}/s, {:.0}/h), {} operations ({:.0}/s), {} requests ({} failed), {} sectors checked, hash {:016x}",
        rate(crashes),
        rate(crashes) * 3600.0,
        total.operations,
        rate(total.operations),
        total.requests,
        total.failed_requests,
        total.sectors_checked,
        total.hash
    );
    say!("{}", total.met);
}
