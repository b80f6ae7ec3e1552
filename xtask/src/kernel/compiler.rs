//! A compiler that this machine's release does not have: newer kernels are built with flags that only newer compilers know.
//!
//! Invariant: nothing is installed, and neither root nor a namespace is needed. Every program of the packages is started by a script beside it, with the
//! loader and the libraries that were unpacked with it; what else a build runs is the machine's own.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::Places;
use crate::packages::{Apt, LOADER, elf};

/// What the kernel's own programs (objtool, modpost) are linked with, beside what a compiler brings.
const LIBRARY: &str = "libelf1t64";

/// What a program is called when a script has its name.
const MOVED: &str = "elf";

/// Unpacks the compiler if it is not here, and lets programs below `kbuild`, of the same release, run. Gives the folder for the path.
///
/// # Errors
/// The compiler cannot be had.
pub(crate) fn provide(places: &Places<'_>, name: &str, kbuild: &Path) -> Result<PathBuf> {
    let root = places.target.join("compiler").join(name);
    let ready = root.join("ready");
    if !ready.exists() {
        println!("xtask: this machine has no {name}: unpacking one below {}", root.display());
        let apt = Apt::open_backported(places.root)?;
        let wanted = [name, "binutils", LIBRARY].map(str::to_owned);
        let packages = apt.closure(&wanted).with_context(|| {
            format!("this machine has no x86_64-linux-gnu-{name}, and its package sources have none either")
        })?;
        apt.unpack(&packages, &root)?;
        for folder in ["usr/bin", "usr/libexec"] {
            wrap(&root, &root.join(folder))?;
        }
        fs::write(&ready, "")?;
    }
    wrap(&root, kbuild)?;
    Ok(root.join("usr/bin"))
}

/// Puts a script in the place of each program below a folder. (Links lead to the scripts.)
fn wrap(root: &Path, folder: &Path) -> Result<()> {
    let libraries = root.join("usr/lib/x86_64-linux-gnu");
    let mut folders = vec![folder.to_owned()];
    while let Some(here) = folders.pop() {
        for entry in fs::read_dir(&here).with_context(|| format!("listing {}", here.display()))? {
            let entry = entry?;
            let (file, kind) = (entry.path(), entry.file_type()?);
            if kind.is_dir() {
                folders.push(file);
            } else if kind.is_file() && is_program(&file)? {
                replace(root, &libraries, &file)?;
            }
        }
    }
    Ok(())
}

/// At every moment there is a program or its script.
fn replace(root: &Path, libraries: &Path, file: &Path) -> Result<()> {
    let [moved, part] = [MOVED, "part"].map(|end| PathBuf::from(format!("{}.{end}", file.display())));
    // One that is there is of a run that was interrupted.
    let _ = fs::remove_file(&moved);
    fs::hard_link(file, &moved).with_context(|| format!("linking {}", file.display()))?;
    fs::write(&part, script(&root.join("usr").join(LOADER), libraries, &moved))
        .and_then(|()| fs::set_permissions(&part, fs::Permissions::from_mode(0o755)))
        .and_then(|()| fs::rename(&part, file))
        .with_context(|| format!("writing {}", file.display()))
}

fn is_program(file: &Path) -> Result<bool> {
    let end = file.extension().unwrap_or_default();
    Ok(end != MOVED && end != "so" && elf(file)?.is_some_and(|names_loader| names_loader))
}

/// Programs find what belongs to them by the name that they are called by, so they keep it.
fn script(loader: &Path, libraries: &Path, program: &Path) -> String {
    let [loader, libraries, program] =
        [loader, libraries, program].map(|path| quoted(&path.display().to_string()));
    format!("#!/bin/sh\nexec {loader} --argv0 \"$0\" --library-path {libraries} {program} \"$@\"\n")
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::script;
    use std::path::Path;

    #[test]
    fn programs_are_started_with_their_own_libraries() {
        let text = script(Path::new("/a b/ld.so"), Path::new("/lib"), Path::new("/it's/as.elf"));
        assert_eq!(
            text,
            "#!/bin/sh\nexec '/a b/ld.so' --argv0 \"$0\" --library-path '/lib' '/it'\\''s/as.elf' \"$@\"\n"
        );
    }
}
