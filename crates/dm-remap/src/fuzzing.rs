//! Doors for the targets in `fuzz/`, which see only what is public: compiled with `--cfg fuzzing` and never otherwise.
//!
//! Invariant: nothing is parsed or decided here; each door hands its input to the one piece of code that there is for it, and
//! asserts what must hold of whatever comes out.

mod control;
mod lines;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser as _;

pub use control::{Served, conversation, dump, line};
pub use lines::{table, value};

use crate::cli::Cli;
use crate::exit;

/// A command line, words separated by zero bytes: it is understood, or refused in words.
pub fn command_line(words: &[u8]) {
    use std::os::unix::ffi::OsStringExt as _;
    let words = words.split(|byte| *byte == 0).map(|word| OsString::from_vec(word.to_vec()));
    if let Err(refusal) = Cli::try_parse_from(std::iter::once(OsString::from("dm-remap")).chain(words)) {
        assert!(!refusal.to_string().is_empty());
    }
}

/// Carries out a command as the program does; gives its exit code, and in place of a line on standard error the refusal.
///
/// # Panics
/// The words are no command line, or the code is none of the contract.
pub fn command(words: &[String]) -> (u8, String) {
    let all = std::iter::once("dm-remap").chain(words.iter().map(String::as_str));
    let cli = Cli::try_parse_from(all).expect("a command line");
    let (code, why) = match crate::carry_out(&cli.command) {
        Ok(code) => (code, String::new()),
        Err(error) => (exit::exit_of(&error).into(), format!("{error:#}")),
    };
    let number = exit::TABLE.iter().map(|(exit, _)| *exit as u8).find(|n| ExitCode::from(*n) == code);
    (number.expect("a code of the contract"), why)
}
