//! The module: the shim and the Rust object, linked by the kernel's own build.
//!
//! Invariant: a warning of the compiler, of objtool or of modpost is a failure.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::Places;
use super::headers::Headers;

/// Builds `dm-remap.ko`; `None` when the build had something to say.
///
/// # Errors
/// It could not be run.
pub(crate) fn build(places: &Places<'_>, headers: &Headers, object: &Path) -> Result<Option<PathBuf>> {
    let out = places.target.join("module").join(&headers.release);
    lay_out(places, object, &out)?;
    let module = make(headers, &out, None)?;
    if let Some(module) = &module {
        println!("{}: {}", headers.release, module.strip_prefix(places.root).unwrap_or(module).display());
    }
    Ok(module)
}

/// Puts the shim and the object into a folder of their own: all that the kernel's build needs.
///
/// # Errors
/// They cannot be copied.
pub(crate) fn lay_out(places: &Places<'_>, object: &Path, out: &Path) -> Result<()> {
    if out.exists() {
        fs::remove_dir_all(out).context("removing an earlier build")?;
    }
    fs::create_dir_all(out)?;
    for entry in fs::read_dir(places.root.join("kernel/module"))? {
        let entry = entry?;
        fs::copy(entry.path(), out.join(entry.file_name()))?;
    }
    fs::copy(object, out.join("remap_object.o_shipped"))?;
    Ok(())
}

/// Runs the kernel's build in that folder; programs in `first` hide others. `None` when it had something to say.
///
/// # Errors
/// It could not be run.
pub(crate) fn make(headers: &Headers, out: &Path, first: Option<PathBuf>) -> Result<Option<PathBuf>> {
    let mut make = Command::new("make");
    make.arg("-C").arg(&headers.folder).arg(format!("M={}", out.display())).arg("modules");
    make.env("PATH", headers.path(first)?);
    let done = make.output().context("make does not start")?;
    let said = [done.stdout, done.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    let bad: Vec<&str> = said.lines().filter(|line| is_bad(line)).collect();
    for line in &bad {
        eprintln!("{}: {line}", headers.release);
    }
    let module = out.join("dm-remap.ko");
    let built = done.status.success() && module.is_file();
    if !built && bad.is_empty() {
        eprintln!("{}: {}", headers.release, said.trim());
    }
    Ok((built && bad.is_empty()).then_some(module))
}

/// Does the line tell of something wrong? (That type information is skipped, and with it the program that makes it, is as it should be.)
fn is_bad(line: &str) -> bool {
    let line = line.to_lowercase();
    let tells = ["warning", "error:", "undefined!"].iter().any(|word| line.contains(word));
    let expected = ["compiler differs from the one used", "pahole version differs from the one used"];
    tells && !expected.iter().any(|word| line.contains(word))
}

#[cfg(test)]
mod tests {
    use super::is_bad;

    #[test]
    fn what_the_kernels_build_says() {
        assert!(is_bad("dm-remap.o: warning: objtool: dmr_map+0x5: 'naked' return found in RETHUNK build"));
        assert!(is_bad("ERROR: modpost: \"__udivti3\" [dm-remap.ko] undefined!"));
        assert!(is_bad("io.c:5:1: error: expected"));
        assert!(!is_bad("  CC [M]  target.o"));
        assert!(!is_bad("warning: the compiler differs from the one used to build the kernel"));
        assert!(!is_bad("warning: pahole version differs from the one used to build the kernel"));
        assert!(!is_bad("Skipping BTF generation for dm-remap.ko due to unavailability of vmlinux"));
    }
}
