//! A program that runs to its end.
//!
//! Invariant: it ends, because `timeout` runs it, and what it said is shown when it ended otherwise than expected.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use super::needs;

/// Longest run of one program, in seconds.
const LIMIT: &str = "180";

/// A command line in the making.
pub(crate) struct Tool {
    command: Command,
    name: String,
}

impl Tool {
    /// A program by name or path.
    pub(crate) fn of(program: impl AsRef<OsStr>) -> Self {
        let program = program.as_ref();
        let found = program.to_str().and_then(needs::find);
        let mut command = Command::new("timeout");
        command.args(["--kill-after=5", LIMIT]).stdin(Stdio::null()).env("LC_ALL", "C");
        command.arg(found.as_deref().map_or(program, Path::as_os_str));
        Self { command, name: program.to_string_lossy().into_owned() }
    }

    /// A Python script with libnbd.
    pub(crate) fn python(script: &str) -> Self {
        Self::of(needs::PYTHON).arg("-c").arg(script)
    }

    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    pub(crate) fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.command.args(args);
        self
    }

    pub(crate) fn folder(mut self, folder: &Path) -> Self {
        self.command.current_dir(folder);
        self
    }

    /// Runs it, however it ends.
    pub(crate) fn run(mut self) -> Output {
        let output = self.command.output();
        output.unwrap_or_else(|error| panic!("{} does not start: {error}", self.name))
    }

    /// Runs it, expects success, and returns its standard output.
    pub(crate) fn ok(self) -> String {
        self.code(0).0
    }

    /// Runs it, expects this exit code, and returns its standard output and standard error.
    pub(crate) fn code(self, expected: i32) -> (String, String) {
        let line = format!("{:?}", self.command);
        let output = self.run();
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(expected), "{line}\nstdout: {out}\nstderr: {err}");
        (out, err)
    }

    /// Runs it, expects failure (but not a time-out), and returns its standard error.
    pub(crate) fn fails(self) -> String {
        let line = format!("{:?}", self.command);
        let output = self.run();
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        let code = output.status.code();
        assert!(!matches!(code, Some(0 | 124 | 137) | None), "{line}: {code:?}\nstderr: {err}");
        err
    }
}
