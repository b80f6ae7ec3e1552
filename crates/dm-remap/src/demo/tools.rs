//! The programs of e2fsprogs that the demo calls: making a file system, asking it what is where, checking it.
//!
//! Invariant: each call either gives the program's whole output or an error with the program's own words.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

/// Bytes in a file-system block of the demo's images.
pub(crate) const FS_BLOCK: u64 = 4096;

/// Where the programs are.
#[derive(Clone, Debug)]
pub(crate) struct Tools {
    mke2fs: PathBuf,
    debugfs: PathBuf,
    dumpe2fs: PathBuf,
    e2fsck: PathBuf,
}

/// A run of file-system blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Blocks {
    /// First block.
    pub start: u64,
    /// One past the last.
    pub end: u64,
}

/// A piece of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileExtent {
    /// First block of the file that is here.
    pub logical: u64,
    /// Where it is.
    pub blocks: Blocks,
}

/// What e2fsck said.
#[derive(Clone, Debug)]
pub(crate) struct Verdict {
    /// Nothing is wrong.
    pub clean: bool,
    /// Its words.
    pub text: String,
}

/// The program in PATH, or where systems keep it that hide it from users.
fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(usual).map(|dir| dir.join(name)).find(|file| file.is_file())
}

impl Tools {
    /// Looks for the programs.
    ///
    /// # Errors
    /// The name of the first one that is missing.
    pub(crate) fn find() -> Result<Self, &'static str> {
        Ok(Self {
            mke2fs: find("mke2fs").ok_or("mke2fs")?,
            debugfs: find("debugfs").ok_or("debugfs")?,
            dumpe2fs: find("dumpe2fs").ok_or("dumpe2fs")?,
            e2fsck: find("e2fsck").ok_or("e2fsck")?,
        })
    }

    /// Version of e2fsprogs, for the report.
    pub(crate) fn version(&self) -> String {
        let output = run(&self.mke2fs, ["-V"]).map(|o| o.errors).unwrap_or_default();
        output.lines().next().unwrap_or("mke2fs").to_owned()
    }

    /// Makes an ext4 file system in `image` with the files of `tree` in it.
    pub(crate) fn make(&self, image: &Path, tree: &Path, seed: u64) -> anyhow::Result<()> {
        let uuid = format!("de300000-0000-4000-8000-{:012x}", seed & 0xffff_ffff_ffff);
        let options = format!("hash_seed={uuid},lazy_itable_init=1,lazy_journal_init=1");
        let block = FS_BLOCK.to_string();
        let options = ["-q", "-F", "-t", "ext4", "-b", &block, "-m", "0", "-U", &uuid, "-E", &options, "-d"]
            .map(OsStr::new);
        let output = run(&self.mke2fs, options.into_iter().chain([tree.as_os_str(), image.as_os_str()]))?;
        output.expect(&[0], "mke2fs")
    }

    /// Runs a debugfs script; gives what it printed.
    pub(crate) fn script(
        &self,
        image: &Path,
        write: bool,
        script: &str,
        scratch: &Path,
    ) -> anyhow::Result<String> {
        let file = scratch.join("debugfs.script");
        fs::write(&file, script).context("the script for debugfs")?;
        let mut args: Vec<OsString> = vec!["-f".into(), file.clone().into()];
        if write {
            args.insert(0, "-w".into());
        }
        args.push(image.into());
        let output = run(&self.debugfs, args)?;
        fs::remove_file(&file).context("the script for debugfs")?;
        Ok(output.text)
    }

    /// Runs a debugfs script that reads only, with `inside` as its working directory.
    pub(crate) fn script_in(
        &self,
        image: &Path,
        script: &str,
        scratch: &Path,
        inside: &Path,
    ) -> anyhow::Result<()> {
        let file = scratch.join("debugfs.script");
        fs::write(&file, script).context("the script for debugfs")?;
        let mut command = Command::new(&self.debugfs);
        let output = command.arg("-f").arg(&file).arg(image).current_dir(inside).output();
        output.with_context(|| format!("cannot run {}", self.debugfs.display()))?;
        fs::remove_file(&file).context("the script for debugfs")
    }

    /// Where these files (paths from the root of the file system, without white space) lie in the image.
    pub(crate) fn extents(
        &self,
        image: &Path,
        files: &[String],
        scratch: &Path,
    ) -> anyhow::Result<Vec<Vec<FileExtent>>> {
        let script: String = files.iter().map(|file| format!("ex /{file}\n")).collect();
        let text = self.script(image, false, &script, scratch)?;
        let found = parse_extents(&text);
        if found.len() != files.len() {
            bail!("debugfs spoke of {} files where {} were asked for", found.len(), files.len());
        }
        Ok(found)
    }

    /// The blocks that no file and no metadata use.
    pub(crate) fn free_blocks(&self, image: &Path) -> anyhow::Result<Vec<Blocks>> {
        let output = run(&self.dumpe2fs, [image.as_os_str()])?;
        output.expect(&[0], "dumpe2fs")?;
        Ok(parse_free(&output.text))
    }

    /// Makes the bitmaps agree with the files after [`Self::script`] placed some.
    pub(crate) fn settle(&self, image: &Path) -> anyhow::Result<()> {
        let output = run(&self.e2fsck, [OsStr::new("-fy"), image.as_os_str()])?;
        output.expect(&[0, 1], "e2fsck -fy")
    }

    /// Checks a file system without changing it.
    pub(crate) fn check(&self, image: &Path) -> anyhow::Result<Verdict> {
        let output = run(&self.e2fsck, [OsStr::new("-fn"), image.as_os_str()])?;
        Ok(Verdict { clean: output.status == Some(0), text: output.text })
    }
}

struct Output {
    status: Option<i32>,
    text: String,
    errors: String,
}

impl Output {
    fn expect(&self, good: &[i32], what: &str) -> anyhow::Result<()> {
        match self.status {
            Some(status) if good.contains(&status) => Ok(()),
            _ => bail!("{what} failed: {}", self.errors.trim()),
        }
    }
}

fn run<A: AsRef<OsStr>>(program: &Path, args: impl IntoIterator<Item = A>) -> anyhow::Result<Output> {
    let output = Command::new(program)
        .args(args)
        .env("LC_ALL", "C")
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    Ok(Output {
        status: output.status.code(),
        text: String::from_utf8_lossy(&output.stdout).into_owned(),
        errors: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// The leaves of the extent trees that debugfs prints, a list for each `ex` command.
fn parse_extents(text: &str) -> Vec<Vec<FileExtent>> {
    let mut files: Vec<Vec<FileExtent>> = Vec::new();
    for line in text.lines() {
        if line.starts_with("debugfs: ex ") {
            files.push(Vec::new());
            continue;
        }
        let numbers: Vec<u64> =
            line.replace(['/', '-'], " ").split_whitespace().map_while(|w| w.parse().ok()).collect();
        // level, depth, index, of, first and last logical block, first and last physical block, length
        if let [level, depth, _, _, logical, _, start, end, _] = numbers[..]
            && level == depth
            && let Some(file) = files.last_mut()
        {
            file.push(FileExtent { logical, blocks: Blocks { start, end: end + 1 } });
        }
    }
    files
}

/// The free blocks that dumpe2fs lists group by group, neighbours merged.
fn parse_free(text: &str) -> Vec<Blocks> {
    let mut free: Vec<Blocks> = Vec::new();
    let lists = text.lines().filter_map(|line| line.strip_prefix("  Free blocks: "));
    for run in lists.flat_map(|list| list.split(", ")) {
        let (start, end) = run.split_once('-').unwrap_or((run, run));
        let (Ok(start), Ok(end)) = (start.trim().parse::<u64>(), end.trim().parse::<u64>()) else { continue };
        match free.last_mut().filter(|last| last.end == start) {
            Some(last) => last.end = end + 1,
            None => free.push(Blocks { start, end: end + 1 }),
        }
    }
    free
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_are_the_leaves_only() {
        let text = "debugfs: ex /a\nLevel Entries       Logical      Physical Length Flags\n \
                    0/ 1   1/  1     0 -   899  7000              900\n \
                    1/ 1   1/  2     0 -   219  2287 -  2506    220 \n \
                    1/ 1   2/  2   220 -   899  4000 -  4679    680 Uninit\n\
                    debugfs: ex /empty\nLevel Entries       Logical      Physical Length Flags\n";
        let extent = |logical, start, end| FileExtent { logical, blocks: Blocks { start, end } };
        assert_eq!(parse_extents(text), [vec![extent(0, 2287, 2507), extent(220, 4000, 4680)], vec![]]);
    }

    #[test]
    fn free_runs_are_merged_across_groups() {
        let text = "Free blocks:              99\nGroup 0:\n  Free blocks: 7, 10-19\n  Free inodes: 1-2\nGroup 1:\n  \
                    Free blocks: 20-29, 40\nGroup 2:\n  Free blocks: \n";
        let run = |start, end| Blocks { start, end };
        assert_eq!(parse_free(text), [run(7, 8), run(10, 30), run(40, 41)]);
    }
}
