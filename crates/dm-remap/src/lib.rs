//! dm-remap: keeps a failing disk in service.
//!
//! Invariant: this crate parses, prints and connects; what moves a block is below it. Standard output is for what was
//! asked; everything else goes to standard error; the exit code is the contract of `exit`.

mod adopt;
mod boot;
mod cli;
mod control;
mod demo;
mod dmsetup;
mod exit;
mod files;
#[cfg(fuzzing)]
pub mod fuzzing;
mod manual;
mod map;
mod message;
mod metadata;
mod news;
mod notify;
mod open;
mod release;
mod serve;
mod status;
mod status_json;
mod status_line;
mod stock;
mod stress;
mod trace;
mod units;
mod wire;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Parser as _;

/// The program: does what the command line of the process says, and gives the exit code.
#[must_use]
pub fn run() -> ExitCode {
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(message) => return usage(&message),
    };
    // These outlive whoever reads what they print: two serve others, one has a server to stop, one a volume to remove.
    let outlives = matches!(
        cli.command,
        cli::Command::Serve(_) | cli::Command::Stock(_) | cli::Command::Demo(_) | cli::Command::Stress(_)
    );
    if !outlives {
        end_with_the_reader();
    }
    carry_out(&cli.command).unwrap_or_else(|error| {
        eprintln!("dm-remap: {error:#}");
        exit::exit_of(&error).into()
    })
}

fn carry_out(command: &cli::Command) -> anyhow::Result<ExitCode> {
    match command {
        cli::Command::Adopt(args) => adopt::run(args),
        cli::Command::Serve(args) => serve::run(args),
        cli::Command::Stock(args) => stock::run(args),
        cli::Command::Status(args) => status::run(args),
        cli::Command::Trace(args) => trace::run(args),
        cli::Command::Message(args) => message::run(args),
        cli::Command::Map(args) => map::run(args),
        cli::Command::Metadata(args) => metadata::run(args),
        cli::Command::Release(args) => release::run(args),
        cli::Command::Demo(args) => demo::run(args),
        cli::Command::Stress(args) => stress::run(args),
        cli::Command::GenerateMan(args) => manual::pages(args),
        cli::Command::GenerateCompletions(args) => manual::completions(args),
        cli::Command::GenerateUnits(args) => boot::units(args),
    }
}

/// `dm-remap map list | head` ends quietly when `head` has seen enough, as other programs do.
fn end_with_the_reader() {
    let always = Arc::new(AtomicBool::new(true));
    // Without it there is only an uglier end.
    let _ = signal_hook::flag::register_conditional_default(signal_hook::consts::SIGPIPE, always);
}

/// `--help` and `--version` come this way too.
fn usage(message: &clap::Error) -> ExitCode {
    // Nobody is left to tell that it could not be printed.
    let _ = message.print();
    if message.use_stderr() { exit::Exit::Usage.into() } else { exit::Exit::Done.into() }
}
