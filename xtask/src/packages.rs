//! Debian packages without installing them.
//!
//! Invariant: only package sources that the machine itself uses are asked, by package name; lists, archives and the (empty) status are
//! our own, below `target/packages`. One process at a time uses them.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::run::output;
use crate::tools;

/// A private apt.
pub(crate) struct Apt {
    folder: PathBuf,
    /// Locked for as long as this lives.
    _lock: File,
}

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Where compilers and kernels newer than the release's own come from.
const BACKPORTS: &str = "trixie-backports";
/// The release that they are made for, whose packages they want beside them.
const BACKPORTED: &str = "trixie";
/// What people call the newest kernel that the sources have.
pub(crate) const NEWEST: &str = "newest";
/// What a program for this machine names as its loader.
pub(crate) const LOADER: &str = "lib64/ld-linux-x86-64.so.2";

/// Lists that are older are read again.
const FRESH_SECONDS: u64 = 24 * 3600;

impl Apt {
    /// Reads the lists, at most once a day. Waits while another process fetches packages into the same tree.
    ///
    /// # Errors
    /// There is no Debian package source on this machine, or it does not answer.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        Self::read(root.join("target/packages"), sources)
    }

    /// The same for the release that kernels of the backports are made for: by itself, so that nothing of it gets among the machine's own.
    ///
    /// # Errors
    /// As with [`Apt::open`].
    pub(crate) fn open_backported(root: &Path) -> Result<Self> {
        Self::read(root.join("target/packages").join(BACKPORTED), backported)
    }

    fn read(folder: PathBuf, sources: fn() -> Result<String>) -> Result<Self> {
        for program in ["apt-get", "dpkg-deb"] {
            ensure!(
                tools::find(program).is_some(),
                "`{program}` is not here: kernels and programs are taken from Debian packages, which wants a machine that runs Debian"
            );
        }
        for below in ["lists/partial", "archives/partial"] {
            fs::create_dir_all(folder.join(below)).context("making a folder for packages")?;
        }
        let lock = File::create(folder.join("lock")).context("making a lock for packages")?;
        lock.lock().context("locking packages")?;
        let apt = Self { folder, _lock: lock };
        let stamp = apt.folder.join("read");
        let age = fs::metadata(&stamp).ok().and_then(|stamp| stamp.modified().ok()?.elapsed().ok());
        if age.is_some_and(|age| age.as_secs() < FRESH_SECONDS) {
            return Ok(apt);
        }
        fs::write(apt.folder.join("sources.list"), sources()?)?;
        fs::write(apt.folder.join("status"), "")?;
        fs::write(apt.folder.join("conf"), apt.configuration())?;
        output(apt.command("apt-get").args(["-qq", "update"]))?;
        fs::write(&stamp, "")?;
        Ok(apt)
    }

    fn configuration(&self) -> String {
        let at = self.folder.display();
        format!(
            "Dir::Etc::sourcelist \"{at}/sources.list\"; Dir::Etc::sourceparts \"/dev/null\"; Dir::Etc::preferencesparts \"/dev/null\";\n\
             Dir::State::lists \"{at}/lists\"; Dir::State::status \"{at}/status\"; Dir::Cache::archives \"{at}/archives\";\n\
             Dir::Cache::pkgcache \"\"; Dir::Cache::srcpkgcache \"\"; APT::Sandbox::User \"root\"; Acquire::Languages \"none\";\n\
             APT::Install-Recommends \"0\"; Debug::NoLocking \"1\"; APT::Update::Error-Mode \"any\"; Acquire::Retries \"3\";\n"
        )
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", self.folder.join("conf"));
        command
    }

    /// Packages that a package depends on.
    ///
    /// # Errors
    /// There is no such package.
    pub(crate) fn depends(&self, package: &str) -> Result<Vec<String>> {
        let text = output(self.command("apt-cache").args(["depends", package]))?;
        let names =
            text.lines().filter_map(|line| line.trim().trim_start_matches('|').strip_prefix("Depends: "));
        Ok(names.map(str::to_owned).collect())
    }

    /// The package (`linux-headers-...`, `linux-image-...`) of a kernel: the newest of all, of a series of Debian's (6.1, 6.12), or a release.
    ///
    /// # Errors
    /// The sources have no such series.
    pub(crate) fn kernel(&self, kind: &str, kernel: &str) -> Result<String> {
        let begins = format!("linux-{kind}-");
        let release = format!("{begins}amd64");
        // A release has one series under its own name; others have a package each, which names no kernel but theirs.
        let meta = match kernel {
            NEWEST => format!("{release}={}", self.version(&release, "")?),
            series if series.split('.').count() == 2 => self
                .version(&release, &format!("{series}."))
                .map_or_else(|_| format!("{begins}{series}-amd64"), |version| format!("{release}={version}")),
            release => return Ok(format!("{begins}{release}")),
        };
        let found = self.depends(&meta)?.into_iter().find(|name| name.starts_with(&begins));
        found.with_context(|| format!("package {meta} names no kernel"))
    }

    /// The newest version of a package that begins so.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn version(&self, package: &str, begins: &str) -> Result<String> {
        let text = output(self.command("apt-cache").args(["madison", package]))?;
        let versions = text.lines().filter_map(|line| line.split('|').nth(1)).map(str::trim);
        let mut fitting = versions.filter(|version| version.starts_with(begins));
        let found = fitting.next().map(str::to_owned);
        found.with_context(|| format!("the package sources of this machine have no {package} {begins}"))
    }

    /// These packages and all that they depend on, as `name=version`.
    ///
    /// # Errors
    /// One of them cannot be had.
    pub(crate) fn closure(&self, packages: &[String]) -> Result<Vec<String>> {
        let text = output(self.command("apt-get").args(["-qq", "--simulate", "install"]).args(packages))?;
        Ok(text.lines().filter_map(installed).collect())
    }

    /// Fetches packages (`name` or `name=version`) and unpacks them below `into`.
    ///
    /// # Errors
    /// One cannot be had.
    pub(crate) fn unpack(&self, packages: &[String], into: &Path) -> Result<()> {
        let folder = self.folder.join("fetched");
        if folder.exists() {
            fs::remove_dir_all(&folder).context("removing packages of a run that was interrupted")?;
        }
        fs::create_dir_all(&folder)?;
        output(self.command("apt-get").args(["-qq", "download"]).args(packages).current_dir(&folder))?;
        fs::create_dir_all(into)?;
        for entry in fs::read_dir(&folder)? {
            output(Command::new("dpkg-deb").arg("-x").arg(entry?.path()).arg(into))?;
        }
        fs::remove_dir_all(&folder).context("removing fetched packages")
    }
}

/// `Inst NAME (VERSION SOURCE [ARCHITECTURE]) ...` as `NAME=VERSION`.
fn installed(line: &str) -> Option<String> {
    let mut words = line.strip_prefix("Inst ")?.split_whitespace();
    let name = words.next()?;
    let version = words.find_map(|word| word.strip_prefix('('))?;
    Some(format!("{name}={version}"))
}

/// Whether a file in the ELF format names a loader (programs do, and the C library); `None`: it is something else.
///
/// # Errors
/// It cannot be read.
pub(crate) fn elf(file: &Path) -> Result<Option<bool>> {
    let mut head = Vec::new();
    let opened = File::open(file).and_then(|file| file.take(4096).read_to_end(&mut head));
    opened.with_context(|| format!("reading {}", file.display()))?;
    let loader = b"/ld-linux-x86-64.so.2\0";
    let names = || head.windows(loader.len()).any(|part| part == loader);
    Ok(head.starts_with(b"\x7fELF").then(names))
}

/// The machine's Debian sources, and the backports beside them.
fn sources() -> Result<String> {
    let release = fs::read_to_string("/etc/os-release").context("reading /etc/os-release")?;
    let name = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME=")).unwrap_or("stable");
    let mut sources = source("/debian", name)? + &source("/debian", BACKPORTS)?;
    if let Ok(security) = source("/debian-security", &format!("{name}-security")) {
        sources += &security;
    }
    Ok(sources)
}

/// The release that the backports are made for, and these.
fn backported() -> Result<String> {
    Ok(source("/debian", BACKPORTED)? + &source("/debian", BACKPORTS)?)
}

/// A line for a suite of the archive that ends so.
fn source(end: &str, suite: &str) -> Result<String> {
    let mut text = fs::read_to_string("/etc/apt/sources.list").unwrap_or_default();
    for entry in fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten() {
        text += &fs::read_to_string(entry.path()).unwrap_or_default();
        text.push('\n');
    }
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let mut words = lines.flat_map(str::split_whitespace).filter(|word| word.contains("://"));
    let archive = words.find_map(|uri| Some(uri.trim_end_matches('/')).filter(|uri| uri.ends_with(end)));
    let Some(archive) = archive else { bail!("this machine has no Debian package source in /etc/apt") };
    ensure!(
        Path::new(KEYRING).is_file(),
        "{KEYRING} is not here, by which packages are known to be Debian's: install debian-archive-keyring"
    );
    Ok(format!("deb [signed-by={KEYRING}] {archive} {suite} main\n"))
}

#[cfg(test)]
mod tests {
    use super::installed;

    #[test]
    fn what_apt_would_install() {
        let line = "Inst libc6 (2.36-9+deb12u13 Debian:12.12/stable [amd64]) []";
        assert_eq!(installed(line).as_deref(), Some("libc6=2.36-9+deb12u13"));
        let line = "Inst libgcc-s1 [12.2.0-14] (12.2.0-14+deb12u1 Debian:12.12/stable [amd64])";
        assert_eq!(installed(line).as_deref(), Some("libgcc-s1=12.2.0-14+deb12u1"));
        assert_eq!(installed("Conf libc6 (2.36-9 Debian:12.12/stable [amd64])"), None);
    }
}
