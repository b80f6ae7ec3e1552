//! From arguments to opened devices.
//!
//! Invariant: no two devices that one command opens share a byte; and what one opens for writing, nobody else uses.

use std::ops::Range;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use remap_core::recovery::{Recovered, RecoveryError};
use remap_format::layout::LayoutError;
use remap_io::{Device, Direct, OpenOptions};
use remap_runtime::AdoptError;

use crate::exit::{self, Exit, refusal};
use crate::units::{format_size, parse_size};
use remap_words::answer::fault_word;

/// A spare as it is given: `PATH[@START[+LENGTH]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SpareArg {
    pub(crate) path: PathBuf,
    /// First byte.
    pub(crate) start: u64,
    /// Length in bytes; `None`: to the end.
    pub(crate) len: Option<u64>,
}

impl SpareArg {
    /// The whole of a file or device.
    pub(crate) fn whole(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), start: 0, len: None }
    }

    fn slice(&self) -> Option<(u64, Option<u64>)> {
        (self.start > 0 || self.len.is_some()).then_some((self.start, self.len))
    }
}

impl FromStr for SpareArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("give a path".into());
        }
        // Paths may contain an @ (in /dev/disk/by-id they do): only one that a number follows begins a slice.
        let (path, slice) = match text.rsplit_once('@') {
            Some((path, slice)) if !path.is_empty() && slice.starts_with(|c: char| c.is_ascii_digit()) => {
                (path, slice)
            }
            _ => return Ok(Self::whole(text)),
        };
        let (start, len) = match slice.split_once('+') {
            Some((start, len)) => (start, Some(parse_size(len)?)),
            None => (slice, None),
        };
        if len == Some(0) {
            return Err(format!("'{text}': a slice of no bytes holds nothing"));
        }
        Ok(Self { path: path.into(), start: parse_size(start)?, len })
    }
}

/// What a device is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Reading; nobody may write to it meanwhile.
    Read,
    /// Reading and writing; nobody else may use it meanwhile.
    Write,
    /// Reading, whoever else uses it.
    Peek,
}

/// Opens the devices of one command.
#[derive(Debug, Default)]
pub(crate) struct Opener {
    direct: Direct,
    /// The devices stand below a mapped device of ours.
    below_mapper: bool,
    /// What is open already: device and inode, range of bytes, path.
    claimed: Vec<((u64, u64), Range<u64>, PathBuf)>,
}

impl Opener {
    /// With direct I/O where it is possible.
    pub(crate) fn auto() -> Self {
        Self::default()
    }

    /// With direct I/O or not at all.
    pub(crate) fn direct_only() -> Self {
        Self { direct: Direct::Always, ..Self::default() }
    }

    /// For devices that a mapped device carries requests to: what the page cache held of them would be out of date.
    pub(crate) fn below_mapper() -> Self {
        Self { below_mapper: true, ..Self::direct_only() }
    }

    /// A whole file or device.
    ///
    /// # Errors
    /// See [`remap_io::OpenError`]; or it was opened by this command before.
    pub(crate) fn whole(&mut self, path: &Path, access: Access) -> anyhow::Result<Device> {
        self.spare(&SpareArg::whole(path), access)
    }

    /// A spare, or a part of a file or device.
    ///
    /// # Errors
    /// As [`Self::whole`].
    pub(crate) fn spare(&mut self, spare: &SpareArg, access: Access) -> anyhow::Result<Device> {
        let node = node_of(&spare.path);
        // A lock of ours would stand in the way of the next slice of the same file.
        let ours = node.is_some_and(|node| self.claimed.iter().any(|(other, ..)| *other == node));
        let options = OpenOptions {
            write: access == Access::Write,
            exclusive: access != Access::Peek && !ours && !self.below_mapper,
            below_mapper: self.below_mapper && !ours,
            direct: self.direct,
            slice: spare.slice(),
        };
        let mut device = Device::open(&spare.path, &options)?;
        if self.direct == Direct::Auto && !device.is_block_device() && device.limits().logical_block > 512 {
            // The file system below wants larger direct I/O than the disk that the file stands for: sectors matter more.
            drop(device);
            device = Device::open(&spare.path, &OpenOptions { direct: Direct::Never, ..options })?;
        }
        let Some(node) = node else { return Ok(device) };
        let range = spare.start..spare.start.saturating_add(device.size());
        let overlaps = |other: &Range<u64>| range.start < other.end && other.start < range.end;
        if let Some((_, _, other)) = self.claimed.iter().find(|(n, r, _)| *n == node && overlaps(r)) {
            let text = format!(
                "{}: is the same device as {}, or overlaps it: main and spares must not share a byte",
                spare.path.display(),
                other.display()
            );
            return Err(refusal(Exit::Mismatch, text));
        }
        self.claimed.push((node, range, spare.path.clone()));
        Ok(device)
    }

    /// The device is not open any more.
    pub(crate) fn forget(&mut self, device: &Device) {
        self.claimed.retain(|(_, range, path)| path != device.path() || range.start != device.start());
    }

    /// Several spares, in order.
    ///
    /// # Errors
    /// As [`Self::whole`].
    pub(crate) fn spares(&mut self, spares: &[SpareArg], access: Access) -> anyhow::Result<Vec<Device>> {
        spares.iter().map(|spare| self.spare(spare, access)).collect()
    }
}

/// What tells files and devices apart, however they are named; `None`: opening will say what is wrong.
fn node_of(path: &Path) -> Option<(u64, u64)> {
    let found = std::fs::metadata(path).ok()?;
    let block = found.file_type().is_block_device();
    Some(if block { (u64::MAX, found.rdev()) } else { (found.dev(), found.ino()) })
}

/// Reads the metadata of spares; errors name the paths.
///
/// # Errors
/// [`RecoveryError`], in words.
pub(crate) fn examine(spares: &[Device], released_too: bool) -> anyhow::Result<Recovered> {
    remap_runtime::examine(spares, released_too).map_err(|error| recovery_refusal(&error, spares))
}

/// A recovery error that names the path where the typed one has a number.
pub(crate) fn recovery_refusal(error: &RecoveryError, spares: &[Device]) -> anyhow::Error {
    let path =
        |n: usize| spares.get(n).map_or_else(|| format!("spare {n}"), |d| d.path().display().to_string());
    let text = match error {
        RecoveryError::NoMetadata { spare, flaw } => format!(
            "{}: no dm-remap metadata here: {flaw}; check the path (and START, for a slice), or adopt first",
            path(*spare)
        ),
        RecoveryError::Unreachable { spare, fault } => format!(
            "{}: does not answer ({}); nothing was changed; check its cable and power, and try again",
            path(*spare),
            fault_word(*fault)
        ),
        RecoveryError::MixedVolumes { spare, name } => format!(
            "{}: belongs to volume '{name}', not to the volume of {}; give the spares of one volume",
            path(*spare),
            path(0)
        ),
        RecoveryError::DuplicateSpare { first, second } => format!(
            "{} and {}: are the same spare or copies of each other; give each spare once",
            path(*first),
            path(*second)
        ),
        RecoveryError::NotAMember { spare, name } => format!(
            "{}: is not part of volume '{name}': it was taken out of it, or joining it did not finish; leave it out",
            path(*spare)
        ),
        RecoveryError::MissingSpare { missing, expected } => format!(
            "the volume has {expected} spares, and number {missing} of them was not given: add it with --spare"
        ),
        other => match spares {
            [only] => format!("{}: {other}", only.path().display()),
            _ => other.to_string(),
        },
    };
    refusal(exit::of_recovery(error), text)
}

/// An adopt error that names the path where the typed one has a number.
pub(crate) fn adopt_refusal(error: AdoptError, spares: &[Device]) -> anyhow::Error {
    let AdoptError::Layout(LayoutError::TooSmall { spare, size, block_size, least }) = error else {
        return error.into();
    };
    let path = spares.get(usize::from(spare)).map(|d| d.path().display().to_string()).unwrap_or_default();
    let text = format!(
        "{path}: is too small: it has {size} bytes, and with blocks of {block_size} bytes a spare needs at least \
         {least} bytes ({}); use a larger one",
        format_size(least)
    );
    refusal(Exit::Mismatch, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spares_and_slices() {
        let spare = |text: &str| text.parse::<SpareArg>();
        assert_eq!(spare("/dev/sdc"), Ok(SpareArg::whole("/dev/sdc")));
        let slice = |start, len| Ok(SpareArg { path: "/dev/sdc".into(), start, len });
        assert_eq!(spare("/dev/sdc@1M"), slice(1 << 20, None));
        assert_eq!(spare("/dev/sdc@2048s+4G"), slice(1 << 20, Some(4 << 30)));
        assert_eq!(spare("/dev/disk/by-id/usb@host"), Ok(SpareArg::whole("/dev/disk/by-id/usb@host")));
        for bad in ["", "/x@1Q", "/x@1M+", "/x@1M+0", "/x@1M+y"] {
            assert!(spare(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn devices_must_not_overlap() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        std::fs::write(&path, vec![0; 1 << 20]).unwrap();
        let at = |start, len| SpareArg { path: path.clone(), start, len: Some(len) };
        let mut opener = Opener::auto();
        let _holds_the_lock = opener.spare(&at(0, 4096 * 8), Access::Write).unwrap();
        opener.spare(&at(4096 * 8, 4096 * 8), Access::Write).expect("neighbours do not overlap");
        let error = opener.spare(&at(4096 * 12, 4096 * 8), Access::Write).unwrap_err();
        assert_eq!(exit::exit_of(&error), Exit::Mismatch);
        let error = Opener::auto().whole(&path, Access::Write).unwrap_err();
        assert_eq!(exit::exit_of(&error), Exit::Busy, "another command's lock holds");
    }
}
