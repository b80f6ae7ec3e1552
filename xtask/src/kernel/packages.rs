//! Debian packages without installing them.
//!
//! Invariant: only package sources that the machine itself uses are asked, by package name; lists, archives and the (empty) status are
//! our own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{Places, output};

/// A private apt.
pub(crate) struct Apt {
    folder: PathBuf,
}

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Where compilers newer than the release's own come from.
const BACKPORTS: &str = "trixie-backports";

impl Apt {
    /// Reads the lists, at most once a day.
    ///
    /// # Errors
    /// There is no Debian package source on this machine, or it does not answer.
    pub(crate) fn open(places: &Places<'_>) -> Result<Self> {
        let apt = Self { folder: places.target.join("apt") };
        let fresh = |file: &Path| {
            let age = fs::metadata(file).ok()?.modified().ok()?.elapsed().ok()?;
            Some(age.as_secs() < 24 * 3600)
        };
        let stamp = apt.folder.join("read");
        if fresh(&stamp) == Some(true) {
            return Ok(apt);
        }
        for folder in ["lists/partial", "archives/partial"] {
            fs::create_dir_all(apt.folder.join(folder)).context("making a folder for packages")?;
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
             Debug::NoLocking \"1\";\n"
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

    /// Fetches packages (`name` or `name=version`) and unpacks them below `into`.
    ///
    /// # Errors
    /// One cannot be had.
    pub(crate) fn unpack(&self, packages: &[String], into: &Path) -> Result<()> {
        let folder = into.with_extension("debs");
        fs::create_dir_all(&folder)?;
        output(self.command("apt-get").args(["-qq", "download"]).args(packages).current_dir(&folder))?;
        fs::create_dir_all(into)?;
        for entry in fs::read_dir(&folder)? {
            output(Command::new("dpkg-deb").arg("-x").arg(entry?.path()).arg(into))?;
        }
        fs::remove_dir_all(&folder).context("removing fetched packages")
    }
}

/// The machine's Debian sources, and the backports beside them.
fn sources() -> Result<String> {
    let mut text = fs::read_to_string("/etc/apt/sources.list").unwrap_or_default();
    for entry in fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten() {
        text += &fs::read_to_string(entry.path()).unwrap_or_default();
        text.push('\n');
    }
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let words: Vec<&str> =
        lines.flat_map(str::split_whitespace).filter(|word| word.contains("://")).collect();
    let of = |end: &str| words.iter().map(|uri| uri.trim_end_matches('/')).find(|uri| uri.ends_with(end));
    let Some(archive) = of("/debian") else { bail!("this machine has no Debian package source in /etc/apt") };
    let release = fs::read_to_string("/etc/os-release").context("reading /etc/os-release")?;
    let name = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME=")).unwrap_or("stable");
    let mut sources = format!(
        "deb [signed-by={KEYRING}] {archive} {name} main\ndeb [signed-by={KEYRING}] {archive} {BACKPORTS} main\n"
    );
    if let Some(security) = of("/debian-security") {
        sources += &format!("deb [signed-by={KEYRING}] {security} {name}-security main\n");
    }
    Ok(sources)
}
