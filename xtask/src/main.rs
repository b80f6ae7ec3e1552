//! Checks and chores of the workspace: `cargo xtask test` is what a person runs, `cargo xtask ci` what a machine runs.
//!
//! Invariant: nothing is left out in silence. What did not run is named at the end with its reason, and where
//! `CI=true` it is a failure.

mod bench;
mod coverage;
mod fuzz;
mod kernel;
mod lanes;
mod layers;
mod memcheck;
mod packages;
mod run;
mod tally;
mod tidy;
mod tools;
mod vm;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Checks and chores of the dm-remap workspace")]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Install what the tests need (as root; otherwise say what is missing), then run everything that `ci` runs
    Test,
    /// Run everything: tidy, layers, fmt, clippy, docs, tests, simulator, real clients, crash lane
    Ci {
        /// Only these lanes (see `cargo xtask lanes`)
        #[arg(long, value_delimiter = ',', value_name = "LANE")]
        only: Vec<String>,
    },
    /// Fuzz the decoders, recovery and the protocols; see fuzz/README.md
    Fuzz(fuzz::FuzzArgs),
    /// Build the kernel module; see docs/kernel.md
    Kernel(kernel::KernelArgs),
    /// Run scripts in guests under kernels of their own; see docs/vm.md
    Vm(vm::VmArgs),
    /// Measure dm-remap against what a user would pick instead; `cargo xtask bench --help` lists the options
    #[command(disable_help_flag = true)]
    Bench {
        /// Handed to the benchmark
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Measure which lines of the pure crates run in their tests; fails under 95 %
    Coverage,
    /// List the lanes of `ci`
    Lanes,
    /// Install the tools that the tests need, or say which are missing
    Tools,
    /// Check sizes, names and documents
    Tidy,
    /// Check which crate may use which
    Layers,
}

fn main() -> ExitCode {
    match work(&Cli::parse().chore) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Does the chore; it fails when it found something wrong.
fn work(chore: &Chore) -> Result<ExitCode> {
    let root = root();
    let good = match chore {
        Chore::Test => {
            tools::provide()?;
            lanes::run(&root, &[])?
        }
        Chore::Ci { only } => lanes::run(&root, only)?,
        Chore::Fuzz(args) => fuzz::run(&root, args)?.0,
        Chore::Kernel(args) => kernel::run(&root, args)?,
        Chore::Vm(args) => return vm::run(&root, args),
        Chore::Bench { args } => bench::run(&root, args)?,
        Chore::Coverage => coverage::run(&root)?,
        Chore::Lanes => {
            lanes::list();
            true
        }
        Chore::Tools => tools::provide()?,
        Chore::Tidy => report(&tidy::check(&root)?),
        Chore::Layers => report(&layers::check(&root)?),
    };
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints the findings; true when there are none.
fn report(findings: &[String]) -> bool {
    for finding in findings {
        eprintln!("{finding}");
    }
    findings.is_empty()
}

/// The workspace's directory.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}
