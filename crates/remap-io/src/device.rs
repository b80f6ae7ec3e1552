//! An opened device (being written: the signatures are final).
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use remap_core::op::Fault;

use crate::Buf;
use crate::drill::Drill;

/// Whether to bypass the page cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direct {
    /// Direct where the device or file system takes it.
    #[default]
    Auto,
    /// Direct, or the open fails.
    Always,
    /// Through the page cache.
    Never,
}

/// How to open.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// For writing too.
    pub write: bool,
    /// Refuse when somebody else uses it, and keep others out.
    pub exclusive: bool,
    /// Bypass the page cache?
    pub direct: Direct,
    /// Only this part: offset in bytes, length in bytes (`None`: to the end).
    pub slice: Option<(u64, Option<u64>)>,
}

/// Why a device could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("not yet")]
pub struct OpenError {}

/// What a device can do.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Smallest unit of I/O in bytes.
    pub logical_block: u32,
    /// Smallest unit it writes without reading first, in bytes.
    pub physical_block: u32,
    /// Not writable.
    pub read_only: bool,
    /// It spins.
    pub rotational: bool,
    /// Discards do something.
    pub discard: bool,
    /// Zeroes can be written without sending them.
    pub write_zeroes: bool,
    /// O_DIRECT is in use.
    pub direct: bool,
    /// Why it is not.
    pub direct_refused: Option<String>,
}

/// What tells this device from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Bytes.
    pub size: u64,
    /// Bytes.
    pub logical_block: u32,
    /// World-wide name.
    pub wwn: Option<String>,
    /// Serial number.
    pub serial: Option<String>,
    /// Model.
    pub model: Option<String>,
    /// UUID found in the contents, with its kind.
    pub content_uuid: Option<String>,
}

/// An opened file or block device, or a slice of one. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Device {}

#[allow(unused_variables)]
impl Device {
    /// Opens.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(path: &Path, options: &OpenOptions) -> Result<Self, OpenError> {
        unimplemented!()
    }
    /// Path as opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        unimplemented!()
    }
    /// Bytes of the slice, rounded down to the logical block.
    #[must_use]
    pub fn size(&self) -> u64 {
        unimplemented!()
    }
    /// Limits.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        unimplemented!()
    }
    /// Identity.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        unimplemented!()
    }
    /// The same device seen through a fault layer.
    #[must_use]
    pub fn with_drill(self, drill: Arc<Drill>) -> Self {
        unimplemented!()
    }
    /// The same device with another deadline for the blocking calls (default 30 s).
    #[must_use]
    pub fn with_deadline(self, deadline: Duration) -> Self {
        unimplemented!()
    }
    /// Reads the whole buffer.
    ///
    /// # Errors
    /// The fault.
    pub fn read_at(&self, offset: u64, into: &mut Buf) -> Result<(), Fault> {
        unimplemented!()
    }
    /// Writes the whole buffer.
    ///
    /// # Errors
    /// The fault.
    pub fn write_at(&self, offset: u64, from: &Buf) -> Result<(), Fault> {
        unimplemented!()
    }
    /// Makes all completed writes durable.
    ///
    /// # Errors
    /// The fault.
    pub fn flush(&self) -> Result<(), Fault> {
        unimplemented!()
    }
}
