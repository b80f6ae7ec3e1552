//! Programs that run to their end.
//!
//! Invariant: each ends in time, because `timeout` runs it; what it said is told when it failed.

use std::ffi::OsStr;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

use crate::needs;

/// Longest run of one program, in seconds.
const LIMIT: &str = "120";

/// Runs a program to a good end; what it printed.
///
/// # Errors
/// It does not start, or does not end with 0.
pub(crate) fn run<A: AsRef<OsStr>>(program: &str, args: &[A]) -> anyhow::Result<String> {
    let found = needs::find(program).with_context(|| format!("{program} is not installed"))?;
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", LIMIT]).arg(found).args(args).stdin(Stdio::null()).env("LC_ALL", "C");
    let output = command.output().with_context(|| format!("{program} does not start"))?;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        bail!("{command:?}: {}\n{}", output.status, said.concat().trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
