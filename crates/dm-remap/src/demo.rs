//! `demo`: the whole thing on an image that fails on command, told step by step.
//!
//! Invariant: every number that is printed was counted or measured in this run; whatever is not as promised is said in the
//! report and makes the demo fail.

mod damage;
mod files;
mod image;
mod ledger;
mod owners;
mod random;
mod reading;
mod server;
mod story;
mod tools;

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use anyhow::{Context as _, ensure};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::cli::DemoArgs;
use crate::exit::{Exit, refusal};
pub(crate) use random::Random;
use server::WorkDir;
use story::{Plan, Story};
use tools::Tools;

/// Smallest image with a file system and room for files.
const SIZE_MIN: u64 = 16 << 20;
/// Largest image that is made without a map.
const SIZE_MAX: u64 = 4 << 30;

/// Somebody wants the demo to end: it does so by way of an error, so that it leaves no process and no file behind.
static INTERRUPTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Fails once the demo is to end.
fn go_on() -> anyhow::Result<()> {
    let interrupted = INTERRUPTED.get().is_some_and(|flag| flag.load(Ordering::Relaxed));
    ensure!(!interrupted, "the demo was interrupted; nothing of it is left running");
    Ok(())
}

/// Runs the demo.
///
/// # Errors
/// A program is missing, the directory cannot be used, or a step could not be taken at all.
pub(crate) fn run(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    if !(SIZE_MIN..=SIZE_MAX).contains(&args.size) {
        return Err(refusal(Exit::Usage, "--size: give 16M to 4G; for a larger disk give a --map of it"));
    }
    let plan = Plan::of(args)?;
    let tools = Tools::find().map_err(|missing| {
        let text = format!(
            "{missing} was not found, and the demo makes a real file system with it: install the package e2fsprogs \
             (apt install e2fsprogs, dnf install e2fsprogs, pacman -S e2fsprogs)"
        );
        refusal(Exit::NotFound, text)
    })?;
    let interrupted = INTERRUPTED.get_or_init(Arc::default);
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(interrupted)).context("signals")?;
    }
    let work = WorkDir::make(args.dir.as_deref(), args.keep)?;
    let good = Story::begin(&plan, &tools, &work)?.tell()?;
    if args.keep {
        println!("\nEverything is kept in {}", work.path().display());
    }
    Ok(if good { Exit::Done } else { Exit::Failure }.into())
}
