//! The command `sweep`: which sweeps, how deep, and their figures.
//!
//! Invariant: it prints what it looked at in numbers, or the first finding and how to see it again.

use std::io::Write;
use std::time::Instant;

use super::{Finding, crash};
use crate::script;

/// What to sweep.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Only scripts whose name contains this
    #[arg(long, value_name = "TEXT", default_value = "")]
    script: String,
    /// Go further: more states of each crash, and more crashes of recoveries
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
        let bounds = if self.deep { crash::Bounds::DEEP } else { crash::Bounds::SHORT };
        let start = Instant::now();
        let mut total = crash::Tally::default();
        let mut scripts = 0;
        for script in script::all().iter().filter(|s| s.name.contains(&self.script)) {
            let begin = Instant::now();
            let tally = crash::sweep(script, &bounds)?;
            scripts += 1;
            total.add(&tally);
            if self.verbose {
                say(out, &format!("{:<32} {}", script.name, figures(&tally, begin)));
            }
        }
        say(out, &format!("crashes: {scripts} scripts, {}", figures(&total, start)));
        Ok(())
    }
}

fn figures(tally: &crash::Tally, start: Instant) -> String {
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

/// Prints a line; a reader that went away wants no more of them.
fn say(out: &mut dyn Write, line: &str) {
    let _ = writeln!(out, "{line}");
}
