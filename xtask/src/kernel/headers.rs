//! What a module is built against: the headers of a kernel.
//!
//! Invariant: headers that are installed are used as they are; others are unpacked once, and what in them names absolute places is made
//! to name where they are.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::Places;
use crate::packages::Apt;
use crate::run::output;

/// A kernel's headers.
pub(crate) struct Headers {
    /// The kernel.
    pub(crate) release: String,
    /// For `make -C`.
    pub(crate) folder: PathBuf,
}

/// Release of the running kernel.
///
/// # Errors
/// `uname` does not say.
pub(crate) fn running() -> Result<String> {
    Ok(output(Command::new("uname").arg("-r"))?.trim().to_owned())
}

/// Headers of a kernel: a release, or a series of Debian's.
///
/// # Errors
/// They cannot be had.
pub(crate) fn of(places: &Places<'_>, kernel: &str) -> Result<Headers> {
    let installed = Path::new("/lib/modules").join(kernel).join("build");
    if installed.is_dir() {
        return Ok(Headers { release: kernel.to_owned(), folder: installed });
    }
    let apt = Apt::open(places.root)?;
    let package = apt.kernel("headers", kernel)?;
    let release = package.trim_start_matches("linux-headers-").to_owned();
    let root = places.target.join("headers").join(&release);
    let folder = root.join("usr/src").join(&package);
    if !root.join("ready").exists() {
        let mut packages = vec![package.clone()];
        packages.extend(apt.depends(&package)?.into_iter().filter(|name| is_part(name)));
        apt.unpack(&packages, &root)?;
        relocate(&root, &folder)?;
        fs::write(root.join("ready"), "")?;
    }
    Ok(Headers { release, folder })
}

/// Compilers and libraries are the machine's own.
fn is_part(package: &str) -> bool {
    ["linux-headers-", "linux-kbuild-", "linux-config-"].iter().any(|part| package.starts_with(part))
}

/// Makes absolute places below `/usr` name those below `root`.
fn relocate(root: &Path, folder: &Path) -> Result<()> {
    let moved = |text: &str| {
        let at = root.display();
        text.replace("/usr/src/linux-", &format!("{at}/usr/src/linux-"))
            .replace("/usr/lib/linux-", &format!("{at}/usr/lib/linux-"))
    };
    for name in ["Makefile", ".kernelvariables", ".config"] {
        let file = folder.join(name);
        if let Ok(text) = fs::read_to_string(&file) {
            fs::write(&file, moved(&text)).with_context(|| format!("writing {}", file.display()))?;
        }
    }
    let mut folders = vec![root.join("usr/src"), root.join("usr/lib")];
    while let Some(here) = folders.pop() {
        for entry in fs::read_dir(&here).into_iter().flatten().flatten() {
            let (path, kind) = (entry.path(), entry.file_type()?);
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_symlink() {
                let to = fs::read_link(&path)?;
                if let Ok(below) = to.strip_prefix("/") {
                    fs::remove_file(&path)?;
                    symlink(root.join(below), &path)?;
                }
            }
        }
    }
    // With it the build wants tools for type information that a module does not need.
    match fs::remove_file(folder.join("vmlinux")) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}
