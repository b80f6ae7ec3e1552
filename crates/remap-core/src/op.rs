//! What goes in and out of the engine: requests, device operations, faults.

use alloc::vec::Vec;

use crate::units::Extent;

/// A classified device failure. Only `remap-io` knows the errno behind it.
///
/// C4: [`Fault::Medium`] and [`Fault::Protection`] may lead to a remap; [`Fault::Unknown`] (a bare EIO) only after
/// confirmation and within a budget; all others never.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The medium cannot give or take these bytes (ENODATA).
    Medium,
    /// Protection information did not match (EILSEQ).
    Protection,
    /// The path to the device failed (ENOLINK).
    Transport,
    /// The device did not answer within the deadline (ETIMEDOUT).
    Timeout,
    /// The device is not there any more (ENODEV, ENXIO, a short read, ENOSPC on a fixed-size device).
    Gone,
    /// A growing back end (a sparse file) has no room.
    NoSpace,
    /// The device does not know this operation (EOPNOTSUPP).
    Unsupported,
    /// An error that says nothing (a bare EIO, EREMOTEIO).
    Unknown,
    /// Memory was refused, here or by the driver (ENOMEM): nothing was tried, and nothing is said about any device.
    NoMemory,
}

impl Fault {
    /// May this fault, once confirmed, mark a sector bad (C4)?
    #[must_use]
    pub fn blames_medium(self) -> bool {
        matches!(self, Self::Medium | Self::Protection | Self::Unknown)
    }
}

/// A device of the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeviceId {
    /// The main device.
    Main,
    /// Spare number n of the volume.
    Spare(u8),
}

/// Names a client request between `submit` and its completion event. The caller chooses it; unique while in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Names a device operation between `poll_op` and `handle_completion`. The engine chooses it; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId(pub u64);

/// What a client asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestKind {
    /// Read the extent into the request's buffer.
    Read,
    /// Write the request's buffer; with `fua`, durable before it completes.
    Write {
        /// Force unit access.
        fua: bool,
    },
    /// Make the extent read as zeroes.
    WriteZeroes {
        /// Force unit access.
        fua: bool,
        /// The space may be given back (NBD without NO_HOLE).
        may_unmap: bool,
    },
    /// The contents are no longer needed.
    Discard,
    /// All completed writes become durable. The extent is ignored.
    Flush,
}

/// A request from a client. Sectors are of the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The caller's name for it.
    pub id: RequestId,
    /// What to do.
    pub kind: RequestKind,
    /// Where, in the volume's sectors.
    pub extent: Extent,
}

/// Where an operation's bytes come from or go to. The engine never looks at a caller's data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Buffer {
    /// The buffer of a client's request, from a byte offset on.
    Request {
        /// Whose buffer.
        id: RequestId,
        /// Byte offset in it.
        offset: u64,
    },
    /// A bounce buffer of one block, owned by the driver: index below [`crate::engine::MAX_JOBS`].
    Bounce {
        /// Which one.
        index: u16,
        /// Byte offset in it.
        offset: u32,
    },
    /// Bytes the engine made itself (metadata), for writes only.
    Owned(Vec<u8>),
}

/// What a device operation does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpKind {
    /// Device to buffer.
    Read(Buffer),
    /// Buffer to device; with `fua`, durable before it completes.
    Write {
        /// Source.
        from: Buffer,
        /// Force unit access.
        fua: bool,
    },
    /// Make the extent read as zeroes.
    WriteZeroes {
        /// Force unit access.
        fua: bool,
        /// The space may be given back.
        may_unmap: bool,
    },
    /// Contents no longer needed (a hint).
    Discard,
    /// Everything completed on this device becomes durable. The extent is ignored.
    Flush,
    /// Not a device operation: complete it with `Ok` once every fast-lane request that overlaps the extent (volume
    /// sectors) and began before now has finished (C11).
    Grace,
}

/// One operation for the driver to carry out, in any order with others that are out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    /// Hand this back with the outcome.
    pub id: OpId,
    /// On which device.
    pub device: DeviceId,
    /// Where, in sectors of that device (of the spare's whole slice, metadata included).
    pub extent: Extent,
    /// What.
    pub kind: OpKind,
}
