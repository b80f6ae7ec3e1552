//! Files that people name: read within a bound, written whole or not at all.
//!
//! Invariant: what was at a path before a write is there unharmed after one that failed, and is replaced only by those who
//! said so; nothing is read that has no end.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::exit::{Exit, refusal};
use crate::units::format_size;

/// The text of a regular file of at most `max` bytes.
///
/// # Errors
/// It is something else, is larger, is no text, or cannot be read.
pub(crate) fn read_text(path: &Path, max: u64) -> anyhow::Result<String> {
    let place = path.display();
    let cannot = || format!("{place}: cannot be read");
    // A pipe without a writer would keep the open waiting for ever.
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).with_context(cannot)?;
    let found = file.metadata().with_context(cannot)?;
    if !found.is_file() {
        let text = format!("{place}: is a {}: give a regular file", kind(found.file_type()));
        return Err(refusal(Exit::Mismatch, text));
    }
    if found.len() > max {
        let text =
            format!("{place}: has {}, more than {} are not read", format_size(found.len()), format_size(max));
        return Err(refusal(Exit::Mismatch, text));
    }
    let mut text = String::new();
    match file.take(max).read_to_string(&mut text) {
        Ok(_) => Ok(text),
        Err(error) if error.kind() == ErrorKind::InvalidData => {
            Err(refusal(Exit::Mismatch, format!("{place}: is no text")))
        }
        Err(error) => Err(error).with_context(cannot),
    }
}

fn kind(found: fs::FileType) -> &'static str {
    if found.is_dir() {
        "directory"
    } else if found.is_fifo() {
        "pipe"
    } else if found.is_char_device() {
        "character device"
    } else if found.is_block_device() {
        "block device"
    } else {
        "socket"
    }
}

/// May a file be written there? For commands that work for long before they write.
///
/// # Errors
/// There is one already, and `replace` was not said.
pub(crate) fn refuse_existing(path: &Path, replace: bool) -> anyhow::Result<()> {
    match fs::metadata(path) {
        Ok(found) if found.is_file() && !replace => {
            let text = format!("{}: exists; choose another name, or remove it first", path.display());
            Err(refusal(Exit::Busy, text))
        }
        Ok(found) if found.is_dir() => Err(refusal(
            Exit::Mismatch,
            format!("{}: is a directory: give the name of a file", path.display()),
        )),
        _ => Ok(()),
    }
}

/// Writes a file, durably. With `replace`, one that is there gives way to it in one step; a pipe or a terminal takes it as it is.
///
/// # Errors
/// As [`refuse_existing`]; or it cannot be written, and what was there before still is.
pub(crate) fn write(path: &Path, text: &[u8], replace: bool) -> anyhow::Result<()> {
    refuse_existing(path, replace)?;
    let cannot = || format!("{}: cannot be written", path.display());
    match fs::metadata(path) {
        Ok(found) if !found.is_file() => {
            let mut stream = OpenOptions::new().write(true).open(path).with_context(cannot)?;
            stream.write_all(text).with_context(cannot)
        }
        Ok(_) => {
            // What a link names is replaced, not the link.
            let path = path.canonicalize().with_context(cannot)?;
            let beside = beside(&path);
            write_fresh(&beside, text).with_context(cannot)?;
            fs::rename(&beside, &path).inspect_err(|_| drop(fs::remove_file(&beside))).with_context(cannot)
        }
        Err(_) => write_fresh(path, text).with_context(cannot),
    }
}

/// A name in the same directory that nobody else uses.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    path.with_file_name(name)
}

/// Makes a file; when that fails, there is none.
fn write_fresh(path: &Path, text: &[u8]) -> std::io::Result<()> {
    let mut file = File::create_new(path)?;
    let written = file.write_all(text).and_then(|()| file.sync_all());
    // The error that led here is the one to tell.
    written.inspect_err(|_| drop(fs::remove_file(path)))
}

/// To find out by filling the file system would hurt everybody else on it.
fn refuse_no_room(path: &Path, size: u64) -> anyhow::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // What cannot be asked is found out by trying.
    let Ok(found) = rustix::fs::statvfs(dir) else { return Ok(()) };
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    if free >= size {
        return Ok(());
    }
    let (path, size, free) = (path.display(), format_size(size), format_size(free));
    Err(refusal(
        Exit::Failure,
        format!("{path}: cannot make the spare: it needs {size}, and {free} are free there"),
    ))
}

/// A file without contents that is gone again unless it is kept.
#[derive(Debug)]
pub(crate) struct Made {
    path: Option<PathBuf>,
}

impl Made {
    /// A sparse file of `size` bytes.
    ///
    /// # Errors
    /// It exists, or cannot be so large.
    pub(crate) fn create(path: &Path, size: u64) -> anyhow::Result<Self> {
        let place = path.display();
        let file = File::create_new(path).with_context(|| format!("{place}: cannot be made"))?;
        let made = Self { path: Some(path.to_owned()) };
        file.set_len(size).with_context(|| format!("{place}: cannot be {size} bytes large"))?;
        Ok(made)
    }

    /// A spare of `size` bytes, for its owner only.
    ///
    /// # Errors
    /// It exists, or there is no room for it.
    pub(crate) fn spare(path: &Path, size: u64) -> anyhow::Result<Self> {
        let place = || format!("{}: cannot make the spare", path.display());
        refuse_no_room(path, size)?;
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(path).with_context(place)?;
        let made = Self { path: Some(path.to_owned()) };
        // Space that is promised now cannot run out when a block must move.
        match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, size) {
            Err(rustix::io::Errno::OPNOTSUPP) => file.set_len(size).with_context(place)?,
            other => other.map_err(std::io::Error::from).with_context(place)?,
        }
        Ok(made)
    }

    /// It stays.
    pub(crate) fn keep(mut self) {
        self.path = None;
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // The error that led here is the one to tell.
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::exit_of;

    #[test]
    fn what_is_there_stays_or_is_replaced_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        write(&file, b"first", false).unwrap();
        let error = write(&file, b"second", false).unwrap_err();
        assert_eq!(exit_of(&error), Exit::Busy);
        assert_eq!(fs::read(&file).unwrap(), b"first");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        write(&link, b"third", true).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"third");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing is left beside");
        assert_eq!(exit_of(&write(dir.path(), b"x", true).unwrap_err()), Exit::Mismatch);
        write(Path::new("/dev/null"), b"x", false).unwrap();
    }

    #[test]
    fn only_files_with_an_end_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "four").unwrap();
        assert_eq!(read_text(&file, 4).unwrap(), "four");
        for (path, expected) in [
            (file.as_path(), Exit::Mismatch),
            (dir.path(), Exit::Mismatch),
            (Path::new("/dev/zero"), Exit::Mismatch),
            (Path::new("/nowhere"), Exit::NotFound),
        ] {
            assert_eq!(exit_of(&read_text(path, 3).unwrap_err()), expected, "{}", path.display());
        }
    }
}
