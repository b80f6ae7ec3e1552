//! What a run needs of the machine.
//!
//! Invariant: what is missing is said, never passed over; where `CI=true` it is a failure.

use std::env;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context as _;

/// What of these is not there: programs, `root`, `fuse`, `loop`, `fs:NAME` (a file system that the kernel mounts).
pub(crate) fn missing(needs: &[String]) -> Option<String> {
    let gone: Vec<&str> = needs.iter().map(String::as_str).filter(|need| !has(need)).collect();
    (!gone.is_empty()).then(|| format!("needs {}", gone.join(", ")))
}

/// Says that a part cannot run here; false where that is a failure.
///
/// # Errors
/// The list of what was skipped (`DM_REMAP_SKIPS`) cannot be written.
pub(crate) fn skip(what: &str, reason: &str) -> anyhow::Result<bool> {
    println!("skipped: {what}: {reason}");
    if let Some(path) = env::var_os("DM_REMAP_SKIPS") {
        let file = OpenOptions::new().append(true).create(true).open(path);
        let line = format!("chaos on {what}: {reason}\n");
        file.and_then(|mut file| file.write_all(line.as_bytes())).context("the list of skipped tests")?;
    }
    Ok(env::var("CI").as_deref() != Ok("true"))
}

fn has(need: &str) -> bool {
    match need {
        "root" => rustix::process::geteuid().is_root(),
        "fuse" => OpenOptions::new().read(true).write(true).open("/dev/fuse").is_ok(),
        "loop" => Path::new("/dev/loop-control").exists(),
        _ => match need.strip_prefix("fs:") {
            Some(name) => mounts(name),
            None => find(need).is_some(),
        },
    }
}

fn mounts(name: &str) -> bool {
    let known = || {
        let list = fs::read_to_string("/proc/filesystems").unwrap_or_default();
        list.lines().any(|line| line.split_whitespace().last() == Some(name))
    };
    let load = || {
        let mut command = Command::new("modprobe");
        command.arg(name).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    known() || (load() && known())
}

/// A program in `PATH` or where Debian keeps those for root.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path).chain(more).map(|folder| folder.join(program)).find(|file| file.is_file())
}
