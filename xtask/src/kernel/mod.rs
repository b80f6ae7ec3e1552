//! The kernel module: `cargo xtask kernel build`, and its DKMS package.
//!
//! Invariant: nothing is installed; what is fetched and built stays below `target/kernel`. A module is only there if every gate let it
//! pass: of the Rust object ([`gate`]) and of the kernel's own build (no warning of any kind).

mod compiler;
mod disassembly;
mod dkms;
mod gate;
mod headers;
mod module;
mod object;

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Args, Subcommand};

/// What is to be done.
#[derive(Args)]
pub(crate) struct KernelArgs {
    #[command(subcommand)]
    chore: KernelChore,
}

#[derive(Subcommand)]
enum KernelChore {
    /// Build the Rust object, check it, and build the module
    Build {
        /// For this kernel: a release (6.12.1-amd64), a series of Debian's (6.1, 6.12), or newest; the running one if none is named
        #[arg(long = "kernel", value_name = "RELEASE")]
        kernels: Vec<String>,
        /// Write what can panic to kernel/rust/panics.txt instead of comparing it with that
        #[arg(long)]
        note_panics: bool,
    },
    /// Build the Rust object and check it
    Object,
    /// Build the Debian package whose users build the module with gcc and headers alone, and build it from the package
    Dkms {
        /// Try it for this kernel: as with `build`
        #[arg(long = "kernel", value_name = "RELEASE")]
        kernels: Vec<String>,
    },
}

/// Where things are.
pub(crate) struct Places<'a> {
    /// The tree.
    pub(crate) root: &'a Path,
    /// What is fetched and built.
    pub(crate) target: PathBuf,
}

impl<'a> Places<'a> {
    fn of(root: &'a Path) -> Self {
        Self { root, target: root.join("target/kernel") }
    }
}

/// Does the chore; `false` when a gate did not let something pass.
///
/// # Errors
/// Something could not be fetched or built.
pub(crate) fn run(root: &Path, args: &KernelArgs) -> Result<bool> {
    match &args.chore {
        KernelChore::Object => check(&Places::of(root), false).map(|object| object.is_some()),
        KernelChore::Build { kernels, note_panics } => build(root, &or_running(kernels)?, *note_panics),
        KernelChore::Dkms { kernels } => dkms(root, &or_running(kernels)?),
    }
}

fn or_running(kernels: &[String]) -> Result<Vec<String>> {
    Ok(if kernels.is_empty() { vec![headers::running()?] } else { kernels.to_vec() })
}

/// Builds the package, and from it the module for each of these kernels; `false` when that is not the module that `build` gives.
///
/// # Errors
/// Something could not be fetched or built.
pub(crate) fn dkms(root: &Path, kernels: &[String]) -> Result<bool> {
    let places = Places::of(root);
    let Some(object) = check(&places, false)? else { return Ok(false) };
    let package = dkms::build(&places, &object)?;
    let mut good = true;
    for kernel in kernels {
        let headers = headers::of(&places, kernel)?;
        good &= match module::build(&places, &headers, &object)? {
            Some(module) => dkms::try_out(&places, &package, &headers, &module)?,
            None => false,
        };
    }
    Ok(good)
}

/// Builds the module for each of these kernels; `false` when a gate did not let something pass.
///
/// # Errors
/// Something could not be fetched or built.
pub(crate) fn build(root: &Path, kernels: &[String], note_panics: bool) -> Result<bool> {
    let places = Places::of(root);
    let Some(object) = check(&places, note_panics)? else { return Ok(false) };
    let mut good = true;
    for kernel in kernels {
        let headers = headers::of(&places, kernel)?;
        good &= module::build(&places, &headers, &object)?.is_some();
    }
    Ok(good)
}

/// Builds the object; `None`: a gate found something.
fn check(places: &Places<'_>, note_panics: bool) -> Result<Option<PathBuf>> {
    let object = object::build(places)?;
    let findings = gate::check(places, &object, note_panics)?;
    for finding in &findings {
        eprintln!("gate: {finding}");
    }
    Ok(findings.is_empty().then_some(object))
}
