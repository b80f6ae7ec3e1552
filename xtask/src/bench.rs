//! `cargo xtask bench`: the benchmark, on binaries built as users build them.
//!
//! Invariant: the product is built in a run of its own, so that no feature of a tool gets into it.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

/// Builds the product and starts the benchmark with these arguments; false when it failed.
///
/// # Errors
/// Cargo does not start.
pub(crate) fn run(root: &Path, args: &[String]) -> Result<bool> {
    let release = |command: &str, package: &str| {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.current_dir(root).args([command, "--quiet", "--release", "--locked", "--package", package]);
        cargo
    };
    let built = release("build", "dm-remap").status().context("cargo does not start")?;
    if !built.success() {
        return Ok(false);
    }
    // The paths in its arguments are the caller's, so it runs where they are.
    let mut bench = release("run", "remap-bench");
    bench.current_dir(std::env::current_dir().context("the current folder")?);
    bench.arg("--manifest-path").arg(root.join("Cargo.toml")).arg("--").args(args);
    Ok(bench.status().context("cargo does not start")?.success())
}
