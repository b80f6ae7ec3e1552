// SPDX-License-Identifier: GPL-2.0
//! Faults as the block layer's errors, which are errnos.
//!
//! Invariant: the only place where the two meet.

use remap_core::op::Fault;

const EIO: i32 = 5;
const EAGAIN: i32 = 11;
const ENOMEM: i32 = 12;
const EBUSY: i32 = 16;
const ENODEV: i32 = 19;
const ENOSPC: i32 = 28;
const EBADE: i32 = 52;
const ENODATA: i32 = 61;
const ENOLINK: i32 = 67;
const EILSEQ: i32 = 84;
const EOPNOTSUPP: i32 = 95;
const ETIMEDOUT: i32 = 110;

/// What an error (0: none, else negative) says of the operation that ended with it.
///
/// # Errors
/// The fault.
pub fn outcome(error: i32) -> Result<(), Fault> {
    Err(match error.wrapping_neg() {
        0 => return Ok(()),
        ENODATA => Fault::Medium,
        EILSEQ => Fault::Protection,
        // EBADE: somebody else has reserved the device.
        ENOLINK | EBADE => Fault::Transport,
        ETIMEDOUT => Fault::Timeout,
        ENODEV => Fault::Gone,
        ENOSPC => Fault::NoSpace,
        EOPNOTSUPP => Fault::Unsupported,
        ENOMEM | EBUSY | EAGAIN => Fault::NoMemory,
        _ => Fault::Unknown,
    })
}

/// What the client is told. A lost sector is EIO, as from a disk, and not ENODATA, which file systems take for something else.
#[must_use]
pub fn error(result: Result<(), Fault>) -> i32 {
    -match result {
        Ok(()) => 0,
        Err(Fault::Protection) => EILSEQ,
        Err(Fault::Transport) => ENOLINK,
        Err(Fault::Timeout) => ETIMEDOUT,
        Err(Fault::NoSpace) => ENOSPC,
        Err(Fault::Unsupported) => EOPNOTSUPP,
        Err(Fault::NoMemory) => ENOMEM,
        Err(Fault::Medium | Fault::Gone | Fault::Unknown) => EIO,
    }
}
