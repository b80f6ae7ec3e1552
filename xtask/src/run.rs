//! Child processes: their output is passed on as it comes and looked at on the way.
//!
//! Invariant: no child runs longer than its limit; `timeout` ends its whole process group.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::tally::{Reader, Tally};

/// Lines of a child's output that are kept.
const KEPT: usize = 80;

/// What became of a child.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// It ended with status 0.
    pub(crate) good: bool,
    /// How it ended, for people.
    pub(crate) end: String,
    /// Tests that it said to have run.
    pub(crate) tally: Tally,
    /// The last lines that it printed.
    pub(crate) last: VecDeque<String>,
}

/// What is made of the output on its way.
#[derive(Default)]
struct Seen {
    reader: Reader,
    last: VecDeque<String>,
}

/// A command line that ends after `limit`, with `root` as its directory.
pub(crate) fn limited(root: &Path, limit: Duration, program: &str, args: &[&str]) -> Command {
    let mut command = Command::new("timeout");
    command.arg("--kill-after=20").arg(limit.as_secs().to_string());
    command.arg(program).args(args).current_dir(root).stdin(Stdio::null());
    command
}

/// Runs it to its end.
///
/// # Errors
/// It could not be started.
pub(crate) fn run(mut command: Command) -> Result<Outcome> {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{command:?} does not start; is coreutils' `timeout` installed?"))?;
    let seen = Mutex::new(Seen::default());
    let out = child.stdout.take();
    let err = child.stderr.take();
    thread::scope(|scope| {
        scope.spawn(|| out.map(|pipe| pass_on(pipe, std::io::stdout(), &seen)));
        scope.spawn(|| err.map(|pipe| pass_on(pipe, std::io::stderr(), &seen)));
    });
    let status = child.wait().context("waiting for a child")?;
    let end = match status.code() {
        Some(124 | 137) => "ran out of time".to_owned(),
        _ => status.to_string(),
    };
    let Seen { reader, last } = seen.into_inner().unwrap_or_default();
    Ok(Outcome { good: status.success(), end, tally: reader.tally(), last })
}

fn pass_on(from: impl Read, mut to: impl Write, seen: &Mutex<Seen>) {
    let mut lines = BufReader::new(from);
    let mut line = Vec::new();
    while matches!(lines.read_until(b'\n', &mut line), Ok(1..)) {
        if let Ok(mut seen) = seen.lock() {
            let line = String::from_utf8_lossy(&line);
            seen.reader.line(&line);
            if seen.last.len() == KEPT {
                seen.last.pop_front();
            }
            seen.last.push_back(line.into_owned());
        }
        // A closed terminal is no reason to stop the tests.
        let _ = to.write_all(&line).and_then(|()| to.flush());
        line.clear();
    }
}
