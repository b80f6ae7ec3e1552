//! The programs that the tests and chores call, and the packages of Debian or crates.io that bring them.
//!
//! Invariant: a program that is there is left alone; Debian's packages are installed only as root and only when missing.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// Program and package.
const TOOLS: [(&str, &str); 31] = [
    ("nbdinfo", "libnbd-bin"),
    ("nbdcopy", "libnbd-bin"),
    ("nbdfuse", "nbdfuse"),
    ("nbdkit", "nbdkit"),
    ("fusermount3", "fuse3"),
    ("qemu-img", "qemu-utils"),
    ("qemu-io", "qemu-utils"),
    ("fio", "fio"),
    ("mke2fs", "e2fsprogs"),
    ("e2fsck", "e2fsprogs"),
    ("debugfs", "e2fsprogs"),
    ("mkfs.ext4", "e2fsprogs"),
    ("mkfs.xfs", "xfsprogs"),
    ("xfs_repair", "xfsprogs"),
    ("mkfs.btrfs", "btrfs-progs"),
    ("btrfs", "btrfs-progs"),
    ("mount", "mount"),
    ("losetup", "mount"),
    ("python3", "python3"),
    ("sha256sum", "coreutils"),
    ("timeout", "coreutils"),
    ("blkid", "util-linux"),
    ("valgrind", "valgrind"),
    ("gcc-12", "gcc-12"),
    ("make", "make"),
    ("objdump", "binutils"),
    ("dkms", "dkms"),
    ("strip", "binutils"),
    ("setpriv", "util-linux"),
    ("tar", "tar"),
    ("systemd-analyze", "systemd"),
];

/// Python's binding of libnbd is looked for by importing it.
const PYTHON_NBD: (&str, &str) = ("python3: import nbd", "python3-libnbd");

/// Installs what is missing, as root; otherwise says what to install. True when nothing is missing in the end.
///
/// # Errors
/// Never for a missing tool: the lanes that need it say so.
pub(crate) fn provide() -> Result<bool> {
    let gone = missing();
    if gone.is_empty() {
        return Ok(true);
    }
    let mut packages: Vec<&str> = gone.iter().map(|(_, package)| *package).collect();
    packages.sort_unstable();
    packages.dedup();
    let names: Vec<&str> = gone.iter().map(|(tool, _)| *tool).collect();
    println!("xtask: missing: {}", names.join(", "));
    let line = format!("apt-get install -y --no-install-recommends {}", packages.join(" "));
    if !root() || find("apt-get").is_none() {
        println!(
            "xtask: not root, or no apt-get here. To run every test, install them first:\n  sudo {line}"
        );
        return Ok(false);
    }
    // The lists may be fresh enough; fetching them is the slow part.
    if !install(&packages)? {
        apt(&["update"])?;
        // One by one, so that a package that cannot be had takes only its own tests with it.
        for package in packages {
            if !install(&[package])? {
                println!("xtask: package {package} cannot be installed");
            }
        }
    }
    Ok(missing().is_empty())
}

fn install(packages: &[&str]) -> Result<bool> {
    let mut args = vec!["install", "-y", "-q", "--no-install-recommends"];
    args.extend(packages);
    apt(&args)
}

fn apt(args: &[&str]) -> Result<bool> {
    println!("xtask: apt-get {}", args.join(" "));
    let status = Command::new("apt-get")
        .args(args)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .status()
        .context("apt-get does not start")?;
    Ok(status.success())
}

/// Installs a subcommand of cargo from crates.io if it is missing.
///
/// # Errors
/// It cannot be installed.
pub(crate) fn provide_from_cargo(name: &str) -> Result<()> {
    let subcommand = name.strip_prefix("cargo-").unwrap_or(name);
    let there = Command::new(env!("CARGO")).args([subcommand, "--version"]).stderr(Stdio::null()).output();
    if there.is_ok_and(|output| output.status.success()) {
        return Ok(());
    }
    println!("xtask: cargo install {name} (some minutes, once)");
    let status = Command::new(env!("CARGO"))
        .args(["install", "--locked", name])
        .stdin(Stdio::null())
        .status()
        .context("cargo does not start")?;
    ensure!(status.success(), "{name} cannot be installed");
    Ok(())
}

/// What is not there, with the package that brings it.
fn missing() -> Vec<(&'static str, &'static str)> {
    let mut gone: Vec<_> = TOOLS.into_iter().filter(|(tool, _)| find(tool).is_none()).collect();
    let import = Command::new("/usr/bin/python3").args(["-c", "import nbd"]).stderr(Stdio::null()).status();
    if !import.is_ok_and(|status| status.success()) {
        gone.push(PYTHON_NBD);
    }
    gone
}

/// The target triple of this machine.
///
/// # Errors
/// There is no `rustc`, or it does not say.
pub(crate) fn host(root: &Path) -> Result<String> {
    let rustc =
        Command::new("rustc").arg("-vV").current_dir(root).output().context("rustc does not start")?;
    let said = String::from_utf8_lossy(&rustc.stdout);
    let host = said.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc names no host")?.to_owned())
}

/// A program in `PATH` or where Debian keeps those for root.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path).chain(more).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// Is this process root?
fn root() -> bool {
    let id = Command::new("id").arg("-u").output();
    id.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}
