//! Manual pages and shell completions, from the one definition of the command line.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::CommandFactory as _;

use crate::cli::{Cli, GenerateCompletionsArgs, GenerateManArgs};
use crate::exit::Exit;

/// Writes `dm-remap.1` and one page for each command.
pub(crate) fn pages(args: &GenerateManArgs) -> anyhow::Result<ExitCode> {
    let place = || format!("{}: cannot write the pages", args.dir.display());
    std::fs::create_dir_all(&args.dir).with_context(place)?;
    clap_mangen::generate_to(Cli::command(), &args.dir).with_context(place)?;
    Ok(Exit::Done.into())
}

/// Writes a completion script to standard output.
pub(crate) fn completions(args: &GenerateCompletionsArgs) -> anyhow::Result<ExitCode> {
    clap_complete::generate(args.shell, &mut Cli::command(), "dm-remap", &mut std::io::stdout());
    Ok(Exit::Done.into())
}
