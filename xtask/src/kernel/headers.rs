//! What a module is built against: the headers of a kernel.
//!
//! Invariant: headers that are installed are used as they are; others are unpacked once, and what in them names absolute places is made
//! to name where they are. A compiler of the machine's own is used if it is the one that they name.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::Places;
use super::compiler;
use crate::packages::Apt;
use crate::run::output;
use crate::tools;

/// A kernel's headers.
pub(crate) struct Headers {
    /// The kernel.
    pub(crate) release: String,
    /// For `make -C`.
    pub(crate) folder: PathBuf,
    /// The folder of a compiler that the machine does not have.
    compiler: Option<PathBuf>,
}

impl Headers {
    /// The path to build with; programs in `first` hide others.
    ///
    /// # Errors
    /// A folder's name cannot be in a path.
    pub(crate) fn path(&self, first: Option<PathBuf>) -> Result<OsString> {
        let path = env::var_os("PATH").unwrap_or_default();
        let folders = first.into_iter().chain(self.compiler.clone()).chain(env::split_paths(&path));
        env::join_paths(folders).context("the path to build with")
    }
}

/// Release of the running kernel.
///
/// # Errors
/// `uname` does not say.
pub(crate) fn running() -> Result<String> {
    Ok(output(Command::new("uname").arg("-r"))?.trim().to_owned())
}

/// Headers of a kernel: a release, or the newest of a series of Debian's, or of all.
///
/// # Errors
/// They cannot be had, or their compiler cannot.
pub(crate) fn of(places: &Places<'_>, kernel: &str) -> Result<Headers> {
    let installed = Path::new("/lib/modules").join(kernel).join("build");
    if installed.is_dir() {
        return Ok(Headers { release: kernel.to_owned(), folder: installed, compiler: None });
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
    let variables = folder.join(".kernelvariables");
    let variables =
        fs::read_to_string(&variables).with_context(|| format!("reading {}", variables.display()))?;
    let compiler = match compiler_of(&variables) {
        Some(name) if tools::find(&format!("x86_64-linux-gnu-{name}")).is_none() => {
            Some(compiler::provide(places, name, &root.join("usr/lib"))?)
        }
        _ => None,
    };
    Ok(Headers { release, folder, compiler })
}

/// The compiler that Debian's headers name in `.kernelvariables`: `gcc-14`.
fn compiler_of(variables: &str) -> Option<&str> {
    let line = variables.lines().find_map(|line| line.strip_prefix("CC = "))?;
    line.rsplit_once("$(CROSS_COMPILE)").map(|(_, name)| name.trim())
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

#[cfg(test)]
mod tests {
    use super::compiler_of;

    #[test]
    fn headers_name_their_compiler() {
        let text = "override ARCH = x86\nCCACHE = ccache\n\
                    CC = $(if $(DEBIAN_KERNEL_USE_CCACHE),$(CCACHE)) $(CROSS_COMPILE)gcc-14\n";
        assert_eq!(compiler_of(text), Some("gcc-14"));
        assert_eq!(compiler_of("ARCH = x86\n"), None);
    }
}
