//! Programs that this one starts.
//!
//! Invariant: what is missing is named with the package that brings it, never passed over.

use std::env;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

/// A program in `PATH` or where Debian keeps those for root.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path).chain(more).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// A command line of a program that must be there.
///
/// # Errors
/// It is not.
pub(crate) fn command(program: &str, package: &str) -> anyhow::Result<Command> {
    let found = find(program).with_context(|| format!("{program} is not installed (package {package})"))?;
    let mut command = Command::new(found);
    command.stdin(Stdio::null()).env("LC_ALL", "C");
    Ok(command)
}

/// Runs a command to a good end; what it printed.
///
/// # Errors
/// It does not start, or does not end with 0; then what it said.
pub(crate) fn output(mut command: Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("{command:?} does not start"))?;
    if !output.status.success() {
        // What a program has to say about its end is on standard error; fio prints a long empty report beside it.
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?}: {}\n{}", output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
