//! The command `sweep`: which sweeps, how deep, and their figures.
//!
//! Invariant: it prints what it looked at in numbers, or the first finding and how to see it again.

use std::io::Write;
use std::time::Instant;

use super::{Finding, copies, crash, failure, flips};
use crate::script::{self, Script};

/// A kind of sweep.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The power fails at each operation of each script
    Crashes,
    /// Operations of each script fail, every second one in turn (with --deep: every one)
    Failures,
    /// Copies of the metadata are damaged, stale or ahead
    Copies,
    /// Bits of the metadata are flipped one by one
    Flips,
}

/// What to sweep.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Which sweeps; all if none is named
    #[arg(value_enum)]
    kinds: Vec<Kind>,
    /// Only scripts whose name contains this
    #[arg(long, value_name = "TEXT", default_value = "")]
    script: String,
    /// Go further: more states of each crash, every crash of a recovery, stale copies of any age
    #[arg(long)]
    deep: bool,
    /// A line for each script
    #[arg(long, short)]
    verbose: bool,
}

impl Options {
    /// Sweeps and prints.
    ///
    /// # Errors
    /// The first violation.
    pub fn run(&self, out: &mut dyn Write) -> Result<(), Finding> {
        let wanted = |kind| self.kinds.is_empty() || self.kinds.contains(&kind);
        if wanted(Kind::Crashes) {
            self.crashes(out)?;
        }
        if wanted(Kind::Failures) {
            self.failures(out)?;
        }
        if wanted(Kind::Copies) {
            self.copies(out)?;
        }
        if wanted(Kind::Flips) {
            self.flips(out)?;
        }
        Ok(())
    }

    fn scripts(&self) -> Vec<Script> {
        script::all().into_iter().filter(|s| s.name.contains(&self.script)).collect()
    }

    fn crashes(&self, out: &mut dyn Write) -> Result<(), Finding> {
        let bounds = if self.deep { crash::Bounds::DEEP } else { crash::Bounds::SHORT };
        let start = Instant::now();
        let mut total = crash::Tally::default();
        let scripts = self.scripts();
        for script in &scripts {
            let begin = Instant::now();
            let tally = crash::sweep(script, &bounds)?;
            total.add(&tally);
            if self.verbose {
                say(out, &format!("{:<32} {}", script.name, of_crashes(&tally, begin)));
            }
        }
        say(out, &format!("crashes: {} scripts, {}", scripts.len(), of_crashes(&total, start)));
        Ok(())
    }

    fn failures(&self, out: &mut dyn Write) -> Result<(), Finding> {
        let start = Instant::now();
        let mut total = failure::Tally::default();
        let scripts = self.scripts();
        for script in &scripts {
            let begin = Instant::now();
            let tally = failure::sweep(script, if self.deep { 1 } else { 2 })?;
            total.add(&tally);
            if self.verbose {
                say(out, &format!("{:<32} {}", script.name, of_failures(&tally, begin)));
            }
        }
        say(out, &format!("failures: {} scripts, {}", scripts.len(), of_failures(&total, start)));
        Ok(())
    }

    fn copies(&self, out: &mut dyn Write) -> Result<(), Finding> {
        for spares in [1, 2, 3, 6] {
            let start = Instant::now();
            let bounds = match (self.deep, spares) {
                (true, _) => copies::Bounds::DEEP,
                (false, 1) => copies::Bounds::SHORT,
                (false, _) => copies::Bounds::MIXED,
            };
            let copies::Tally { sets, newest, older, refused } =
                copies::sweep(&script::volume_on(spares), &bounds)?;
            let seconds = start.elapsed().as_secs_f64();
            let line = format!(
                "copies: {spares} spares, {sets} sets: {newest} newest, {older} older (none newer left), {refused} refused, {seconds:.1} s"
            );
            say(out, &line);
        }
        Ok(())
    }

    fn flips(&self, out: &mut dyn Write) -> Result<(), Finding> {
        let start = Instant::now();
        let bounds = if self.deep { flips::Bounds::DEEP } else { flips::Bounds::SHORT };
        let flips::Tally { flips, noticed, alone, refused, shorter, pairs } =
            flips::sweep(&script::volume_on(1), &bounds)?;
        let seconds = start.elapsed().as_secs_f64();
        let line = format!(
            "flips: {flips} in one copy ({noticed} noticed), {pairs} in two, {alone} in the last ({refused} refused, {shorter} end at the record before), {seconds:.1} s"
        );
        say(out, &line);
        Ok(())
    }
}

fn of_crashes(tally: &crash::Tally, start: Instant) -> String {
    let seconds = start.elapsed().as_secs_f64();
    format!(
        "{} operations, {} cuts ({} whole), {} states ({} different), {} recoveries cut again ({} cuts), {seconds:.1} s",
        tally.operations,
        tally.cuts,
        tally.whole_cuts,
        tally.states,
        tally.different,
        tally.recoveries,
        tally.again_cuts
    )
}

fn of_failures(tally: &failure::Tally, start: Instant) -> String {
    let seconds = start.elapsed().as_secs_f64();
    format!(
        "{} operations, {} lives ({} requests failed, {} freezes, {} suspensions), {seconds:.1} s",
        tally.operations, tally.lives, tally.failed_requests, tally.freezes, tally.trips
    )
}

/// Prints a line; a reader that went away wants no more of them.
fn say(out: &mut dyn Write, line: &str) {
    let _ = writeln!(out, "{line}");
}
