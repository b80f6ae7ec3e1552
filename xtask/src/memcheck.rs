//! The unsafe code's tests under valgrind's memcheck: buffers and threads of remap-io, and whole volumes of remap-runtime.
//!
//! Invariant: a run counts only if memcheck also finds the test that is wrong on purpose.
//!
//! Through the threads that stand in for io_uring, which valgrind does not know. Left out: the tests of `devices`, whose ioctls it does not
//! know either.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::tools;

/// What runs under it: arguments of `cargo test`, each binary for itself, one test after another.
const RUNS: [&[&str]; 4] = [
    &["-p", "remap-io", "--lib"],
    &["-p", "remap-io", "--test", "volatile"],
    &["-p", "remap-runtime", "--lib"],
    &["-p", "remap-runtime", "--test", "volume"],
];
const CANARY: &[&str] = &["-p", "remap-io", "--test", "memcheck", "--", "--ignored"];

/// Runs a program; its status is 9 if memcheck found something in it.
const RUNNER: &str = "valgrind --quiet --leak-check=no --fair-sched=yes --error-exitcode=9";

/// Runs `cargo(arguments, environment)` for each part; false as soon as one of them failed.
///
/// # Errors
/// There is no valgrind, or it does not see what is wrong on purpose.
pub(crate) fn check(
    root: &Path,
    mut cargo: impl FnMut(&[&str], &[(&str, &str)]) -> Result<bool>,
) -> Result<bool> {
    tools::find("valgrind").context("valgrind is not installed (package valgrind)")?;
    let host = tools::host(root)?;
    let runner = format!("CARGO_TARGET_{}_RUNNER", host.replace('-', "_").to_uppercase());
    let set = [(runner.as_str(), RUNNER), ("DM_REMAP_IO", "threads")];
    for run in RUNS {
        if !cargo(&[&["test", "--locked"], run].concat(), &set)? {
            return Ok(false);
        }
    }
    let mut canary = Command::new(env!("CARGO"));
    let output = canary
        .current_dir(root)
        .args(["test", "--locked"])
        .args(CANARY)
        .envs(set)
        .output()
        .context("cargo test")?;
    let found = String::from_utf8_lossy(&output.stderr);
    if output.status.success() || !found.contains("Invalid read") {
        bail!("memcheck does not see memory that is read after it was given back");
    }
    Ok(true)
}
