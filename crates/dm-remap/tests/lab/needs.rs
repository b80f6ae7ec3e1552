//! What a test needs of the machine.
//!
//! Invariant: what is missing is said, never passed over; where `CI=true` it is a failure.

use std::env;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Python of the system: the one that Debian's packages extend.
pub(crate) const PYTHON: &str = "/usr/bin/python3";

/// True when all of these are there; otherwise the test is to return. A need is the name of a program, or `python-nbd`
/// (libnbd's binding).
#[must_use]
pub(crate) fn can(needs: &[&str]) -> bool {
    let missing: Vec<String> = needs.iter().filter(|need| !has(need)).map(|need| explain(need)).collect();
    if missing.is_empty() {
        return true;
    }
    skip(&missing.join("; "));
    false
}

/// Says that the test cannot run.
pub(crate) fn skip(reason: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    println!("skipped: {test}: {reason}");
    assert!(env::var("CI").as_deref() != Ok("true"), "cannot run on CI: {reason}");
    if let Some(file) = env::var_os("DM_REMAP_SKIPS") {
        let file = OpenOptions::new().append(true).create(true).open(file);
        let written = file.and_then(|mut file| file.write_all(format!("{test}: {reason}\n").as_bytes()));
        written.expect("the list of skipped tests can be written");
    }
}

fn has(need: &str) -> bool {
    match need {
        "python-nbd" => succeeds(PYTHON, &["-c", "import nbd"]),
        _ => find(need).is_some(),
    }
}

fn explain(need: &str) -> String {
    match need {
        "python-nbd" => "python3-libnbd is not installed".to_owned(),
        _ => format!("`{need}` is not installed (`cargo xtask tools` installs it)"),
    }
}

fn succeeds(program: &str, args: &[&str]) -> bool {
    let run = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    run.is_ok_and(|status| status.success())
}

/// A program in `PATH` or where Debian keeps those for root.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path).chain(more).map(|folder| folder.join(program)).find(|file| file.is_file())
}
