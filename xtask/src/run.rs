//! Child processes: their output is passed on as it comes and looked at on the way.
//!
//! Invariant: no child runs longer than its limit; `timeout` ends its whole process group.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

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

/// The same command with all its children, ended after so many seconds, or when the thread that starts it ends.
pub(crate) fn in_time(seconds: u64, command: &Command) -> Command {
    let mut limited = Command::new("setpriv");
    // `timeout` makes a process group of its own, which a key that ends this process does not reach.
    limited.args(["--pdeathsig", "TERM", "timeout", "--kill-after=5"]).arg(seconds.to_string());
    limited.arg(command.get_program()).args(command.get_args()).stdin(Stdio::null());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    limited
}

/// Did a command with a limit meet it? (`timeout` is among those that it kills in the end.)
pub(crate) fn ran_out(status: ExitStatus) -> bool {
    matches!(status.code(), Some(124 | 137)) || status.signal() == Some(9)
}

/// What a command prints; an error if it fails.
///
/// # Errors
/// It does not start, or does not end well.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let done = command.output().with_context(|| format!("{command:?} does not start"))?;
    if !done.status.success() {
        bail!("{command:?}: {}: {}", done.status, String::from_utf8_lossy(&done.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
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
    let end = if ran_out(status) { "ran out of time".to_owned() } else { status.to_string() };
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
