//! Programs of Debian packages, for the host and for the guest: unpacked side by side, never installed.
//!
//! Invariant: a program runs with the tree's own libraries and loader, whatever the machine has installed. A package is unpacked once.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::packages::{Apt, LOADER, elf};
use crate::run::output;

/// What every run may use. More can be asked for by name.
const PACKAGES: [&str; 23] = [
    "btrfs-progs",
    "busybox-static",
    "coreutils",
    "cryptsetup-bin",
    "dash",
    "dmsetup",
    "e2fsprogs",
    "fdisk",
    "fio",
    "kmod",
    "lvm2",
    "mdadm",
    "mount",
    "multipath-tools",
    "nbd-client",
    "nbdkit",
    "systemd",
    "udev",
    "user-mode-linux",
    "util-linux",
    "xfsprogs",
    "xz-utils",
    "zstd",
];

/// What guests run in.
const EMULATOR: &str = "qemu-system-x86";

/// Where packages keep libraries. (Some name a folder of their own in the program.)
const LIBRARIES: [&str; 7] = [
    "usr/lib/x86_64-linux-gnu",
    "lib/x86_64-linux-gnu",
    "usr/lib/x86_64-linux-gnu/ceph",
    "usr/lib/x86_64-linux-gnu/systemd",
    "usr/lib/systemd",
    "lib/systemd",
    "usr/lib",
];

const PROGRAMS: [&str; 4] = ["usr/sbin", "sbin", "usr/bin", "bin"];

/// Unpacked packages.
pub(super) struct Tree {
    root: PathBuf,
}

/// A file of the tree and where a guest has it: relative to `/`, below `usr`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Part {
    pub(super) file: PathBuf,
    pub(super) path: String,
}

/// A program as a guest has it.
pub(super) struct Program {
    /// It, or what it links to, and its libraries.
    pub(super) parts: Vec<Part>,
    /// Its own path and where that points, if it is a link.
    pub(super) link: Option<(String, String)>,
}

impl Tree {
    /// The tree, with these packages beside those that every run may use.
    ///
    /// # Errors
    /// A package cannot be had.
    pub(super) fn provide(root: &Path, more: &[String]) -> Result<Self> {
        let wanted: Vec<String> =
            PACKAGES.iter().map(|name| (*name).to_owned()).chain(more.iter().cloned()).collect();
        Self::unpack(root.join("target/vm/tree"), &wanted, || Apt::open(root))
    }

    /// A tree with qemu. It is the one of the release that the backports are made for: under 7.2 two guests died of an `int3` that the other
    /// processor had just taken back, which none did under 10.0, and guests took longer (`walk` a sixth, `shown` nearly half).
    ///
    /// # Errors
    /// A package cannot be had.
    pub(super) fn emulator(root: &Path) -> Result<Self> {
        Self::unpack(root.join("target/vm/emulator"), &[EMULATOR.to_owned()], || Apt::open_backported(root))
    }

    fn unpack(root: PathBuf, wanted: &[String], open: impl FnOnce() -> Result<Apt>) -> Result<Self> {
        let tree = Self { root };
        let ready = tree.root.join("packages");
        let has = fs::read_to_string(&ready).unwrap_or_default();
        if wanted.iter().all(|name| has.lines().any(|line| line == name)) {
            return Ok(tree);
        }
        println!("xtask: unpacking packages below {}", tree.root.display());
        let apt = open()?;
        let marks = tree.root.join("unpacked");
        fs::create_dir_all(&marks).with_context(|| format!("making {}", marks.display()))?;
        let all = apt.closure(wanted)?;
        let missing: Vec<String> = all.into_iter().filter(|package| !marks.join(package).exists()).collect();
        if !missing.is_empty() {
            apt.unpack(&missing, &tree.root)?;
        }
        for package in &missing {
            fs::write(marks.join(package), "")?;
        }
        fs::write(&ready, wanted.join("\n")).context("noting what is unpacked")?;
        Ok(tree)
    }

    /// A place in the tree: packages put files below `/usr`, or (older ones) beside it.
    pub(super) fn find(&self, path: &str) -> Option<PathBuf> {
        let below = path.strip_prefix("usr/").unwrap_or(path);
        [format!("usr/{below}"), below.to_owned()]
            .into_iter()
            .map(|path| self.root.join(path))
            .find(|file| file.exists())
    }

    /// A program.
    ///
    /// # Errors
    /// No package that is unpacked has it.
    pub(super) fn program(&self, name: &str) -> Result<PathBuf> {
        let mut places = PROGRAMS.iter().map(|folder| self.root.join(folder).join(name));
        let found = places.find(|file| file.exists() || file.is_symlink());
        found.with_context(|| {
            format!("no package that is unpacked has a program `{name}`; name one with --package")
        })
    }

    /// To run a program of the tree on this machine.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn command(&self, name: &str) -> Result<Command> {
        Ok(self.command_of(&self.program(name)?))
    }

    fn command_of(&self, program: &Path) -> Command {
        let mut command = Command::new(self.loader());
        command.arg("--library-path").arg(self.library_path()).arg(program);
        command
    }

    fn loader(&self) -> PathBuf {
        self.find(LOADER).unwrap_or_else(|| self.root.join(LOADER))
    }

    fn library_path(&self) -> String {
        LIBRARIES.map(|folder| self.root.join(folder).display().to_string()).join(":")
    }

    /// The program as the guest has it: with what it links to, and its libraries.
    ///
    /// # Errors
    /// It or one of its libraries is missing.
    pub(super) fn in_guest(&self, name: &str) -> Result<Program> {
        let file = self.program(name)?;
        let mut link = None;
        let mut target = file.clone();
        if let Ok(to) = fs::read_link(&file) {
            target = self.resolve(&file, &to);
            if !target.is_file() {
                bail!(
                    "{}: points to {}, which no package that is unpacked has",
                    file.display(),
                    to.display()
                );
            }
            link = Some((self.guest_path(&file)?, format!("/{}", self.guest_path(&target)?)));
        }
        Ok(Program { parts: self.with_libraries(&target, &self.guest_path(&target)?)?, link })
    }

    /// Where a link in the tree leads; links of packages may be absolute.
    fn resolve(&self, link: &Path, to: &Path) -> PathBuf {
        let place = match to.strip_prefix("/") {
            Ok(below) => self.root.join(below),
            Err(_) => link.parent().unwrap_or(link).join(to),
        };
        match fs::read_link(&place) {
            Ok(next) => self.resolve(&place, &next),
            Err(_) => place,
        }
    }

    /// A file that the guest has at `path`, with the libraries that it is linked with.
    ///
    /// # Errors
    /// A library is not in the tree.
    pub(super) fn with_libraries(&self, file: &Path, path: &str) -> Result<Vec<Part>> {
        let mut parts = vec![Part { file: file.to_owned(), path: path.to_owned() }];
        if !is_dynamic(file)? {
            return Ok(parts);
        }
        let mut loader = Command::new(self.loader());
        let said = output(loader.arg("--library-path").arg(self.library_path()).arg("--list").arg(file))?;
        for library in libraries(&said).with_context(|| format!("{}", file.display()))? {
            let path = self.guest_path(&library)?;
            parts.push(Part { file: library, path });
        }
        parts.push(Part { file: self.loader(), path: format!("usr/{LOADER}") });
        Ok(parts)
    }

    /// All files of a folder of the tree, at the same place in the guest.
    pub(super) fn folder(&self, path: &str) -> Result<Vec<Part>> {
        let below = path.strip_prefix("usr/").unwrap_or(path);
        let mut parts = Vec::new();
        for folder in [format!("usr/{below}"), below.to_owned()].map(|path| self.root.join(path)) {
            let mut folders = vec![folder];
            while let Some(folder) = folders.pop() {
                for entry in fs::read_dir(&folder).into_iter().flatten() {
                    let file = entry?.path();
                    if file.is_dir() {
                        folders.push(file);
                    } else if file.is_file() {
                        parts.push(Part { path: self.guest_path(&file)?, file });
                    }
                }
            }
        }
        parts.sort();
        Ok(parts)
    }

    /// In the guest `/bin`, `/sbin`, `/lib` and `/lib64` are those below `/usr`.
    fn guest_path(&self, file: &Path) -> Result<String> {
        let below = file.strip_prefix(&self.root).with_context(|| {
            format!("{}: of this machine, and of no package that is unpacked", file.display())
        })?;
        Ok(merged(&below.display().to_string()))
    }
}

fn merged(path: &str) -> String {
    match path.split('/').next() {
        Some("bin" | "sbin" | "lib" | "lib64") => format!("usr/{path}"),
        _ => path.to_owned(),
    }
}

/// Is it a program with a loader, or a library?
fn is_dynamic(file: &Path) -> Result<bool> {
    let library = file.to_string_lossy().contains(".so");
    Ok(elf(file)?.is_some_and(|names_loader| names_loader || library))
}

/// Places of libraries in what the loader lists.
fn libraries(listed: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for line in listed.lines() {
        let Some((name, place)) = line.trim().split_once(" => ") else { continue };
        match place.split_whitespace().next() {
            Some(path) if path.starts_with('/') => {
                if !path.ends_with("/ld-linux-x86-64.so.2") {
                    found.push(PathBuf::from(path));
                }
            }
            _ => bail!("library {name} is in no package that is unpacked"),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::{libraries, merged};

    #[test]
    fn what_the_loader_lists() {
        let listed = "\tlinux-vdso.so.1 (0x00007ffc)\n\tlibc.so.6 => /t/lib/libc.so.6 (0x00007f)\n\
                      \t/lib64/ld-linux-x86-64.so.2 => /t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let found = libraries(listed).expect("all are there");
        assert_eq!(found, [std::path::Path::new("/t/lib/libc.so.6")]);
        let error = libraries("\tlibx.so.1 => not found\n").expect_err("one is missing");
        assert!(error.to_string().contains("libx.so.1"), "{error}");
    }

    #[test]
    fn guests_have_one_place_for_programs() {
        assert_eq!(merged("sbin/dmsetup"), "usr/sbin/dmsetup");
        assert_eq!(merged("usr/sbin/dmsetup"), "usr/sbin/dmsetup");
        assert_eq!(merged("etc/lvm"), "etc/lvm");
    }
}
