//! The Rust object: `core` and `alloc` built for a kernel, then our crates, linked into one file that knows no kernel's structures.
//!
//! Invariant: the same compiler and the library source of the same release; the flags are those that mainline gives Rust code on x86.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::Places;
use crate::packages::Apt;
use crate::run::output;

const TARGET: &str = "x86_64-unknown-none";

/// No SSE, no red zone and no unwinding come with the target; these add what a kernel with return thunks, retpolines, IBT and call depth
/// tracking asks of every object.
const FLAGS: [&str; 14] = [
    "-Crelocation-model=static",
    "-Ccode-model=kernel",
    "-Cno-redzone=y",
    "-Cforce-frame-pointers=n",
    "-Cforce-unwind-tables=n",
    "-Cembed-bitcode=y",
    "-Cjump-tables=n",
    "-Csymbol-mangling-version=v0",
    "-Zfunction-sections=n",
    "-Zplt=yes",
    "-Zfunction-return=thunk-extern",
    "-Zretpoline-external-thunk",
    "-Zindirect-branch-cs-prefix",
    "-Zcf-protection=branch",
];
const PATCHABLE: &str = "-Zpatchable-function-entry=16,16";

/// The library wants it by name; nothing in it is needed.
const BUILTINS: &str = "#![no_std] #![feature(compiler_builtins)] #![compiler_builtins]\n";

/// Builds the object and gives its path.
///
/// # Errors
/// It does not build, or the library's source cannot be had.
pub(crate) fn build(places: &Places<'_>) -> Result<PathBuf> {
    let sysroot = sysroot(places)?;
    let target = places.target.join("object");
    let mut flags: Vec<String> = vec!["--sysroot".into(), sysroot.display().to_string()];
    flags.extend(FLAGS.iter().chain(&[PATCHABLE]).map(|flag| (*flag).to_owned()));
    // The object says where in the tree something is, not where the tree is.
    flags.push(format!("--remap-path-prefix={}=", places.root.display()));
    let done = Command::new("cargo")
        .args(["build", "--quiet", "--release", "--locked", "--package", "remap-object", "--target", TARGET])
        .current_dir(places.root.join("kernel/rust"))
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_DIR", &target)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        .status()
        .context("cargo does not start")?;
    if !done.success() {
        bail!("the Rust object does not build");
    }
    let archive = target.join(TARGET).join("release/libremap_object.a");
    extract(&archive, &places.target.join("remap_object.o"))
}

/// With fat LTO the archive holds one object with everything that is reachable.
fn extract(archive: &Path, object: &Path) -> Result<PathBuf> {
    let names = output(Command::new("ar").arg("t").arg(archive))?;
    let mut ours = names.lines().filter(|name| name.starts_with("remap_object"));
    let (Some(name), None) = (ours.next(), ours.next()) else {
        bail!("{}: not one object of ours in it: {names}", archive.display());
    };
    let bytes = Command::new("ar").arg("p").arg(archive).arg(name).output().context("ar does not start")?;
    fs::write(object, bytes.stdout).with_context(|| format!("writing {}", object.display()))?;
    Ok(object.to_owned())
}

/// `core` and `alloc` with our flags, built once for each compiler.
fn sysroot(places: &Places<'_>) -> Result<PathBuf> {
    let version = output(Command::new("rustc").arg("-vV").current_dir(places.root))?;
    let release =
        version.lines().find_map(|line| line.strip_prefix("release: ")).context("rustc names no release")?;
    let sysroot = places.target.join("sysroot").join(release);
    let ready = sysroot.join("ready");
    // What was built with other flags is not ready.
    if fs::read_to_string(&ready).is_ok_and(|flags| flags == FLAGS.join(" ")) {
        return Ok(sysroot);
    }
    let library = library(places, release)?;
    let out = sysroot.join("lib/rustlib").join(TARGET).join("lib");
    fs::create_dir_all(&out)?;
    let builtins = sysroot.join("builtins.rs");
    fs::write(&builtins, BUILTINS)?;
    let crates = [
        ("core", "2024", library.join("core/src/lib.rs"), &[][..]),
        ("compiler_builtins", "2021", builtins, &["core"][..]),
        ("alloc", "2024", library.join("alloc/src/lib.rs"), &["core", "compiler_builtins"][..]),
    ];
    for (name, edition, source, uses) in crates {
        let mut rustc = Command::new("rustc");
        rustc.current_dir(places.root).env("RUSTC_BOOTSTRAP", "1");
        rustc.args(["--crate-type", "rlib", "--crate-name", name, "--edition", edition, "--target", TARGET]);
        rustc.args(["-Copt-level=2", "-Cpanic=abort", "-Ccodegen-units=1", "--cap-lints", "allow"]);
        rustc.args(FLAGS).args([PATCHABLE, "--sysroot=/nonexistent", "--out-dir"]).arg(&out);
        for used in uses {
            rustc.arg("--extern").arg(format!("{used}={}", out.join(format!("lib{used}.rlib")).display()));
        }
        output(rustc.arg(source))?;
    }
    fs::write(&ready, FLAGS.join(" "))?;
    Ok(sysroot)
}

/// The source of the standard library of this release: the toolchain's own, or Debian's package of it.
fn library(places: &Places<'_>, release: &str) -> Result<PathBuf> {
    let toolchain = output(Command::new("rustc").args(["--print", "sysroot"]).current_dir(places.root))?;
    let own = Path::new(toolchain.trim()).join("lib/rustlib/src/rust/library");
    if own.join("core/src/lib.rs").is_file() {
        return Ok(own);
    }
    let root = places.target.join("rust-src");
    let library = root.join(format!("usr/src/rustc-{release}/library"));
    if !library.join("core/src/lib.rs").is_file() {
        let apt = Apt::open(places.root)?;
        let version = apt.version("rust-src", &format!("{release}+"))?;
        apt.unpack(&[format!("rust-src={version}")], &root)?;
    }
    Ok(library)
}
