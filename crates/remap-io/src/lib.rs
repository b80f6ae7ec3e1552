//! Block devices and files as dm-remap uses them: opening and identifying them, I/O queues with deadlines, the errno to
//! [`Fault`](remap_core::op::Fault) mapping, and drills (fault layers that make a healthy device fail on command).
//!
//! Invariant: only this crate knows an errno, and no operation outlives its deadline: its tag completes in time, and the
//! memory it uses stays alive until the kernel is done with it.

mod buf;
mod device;
mod drill;
mod queue;

pub use buf::{AllocError, BUF_ALIGN, Buf, BufSlice};
pub use device::{Device, Direct, Identity, Limits, OpenError, OpenOptions};
pub use drill::Drill;
pub use queue::{DeviceOp, IoBackend, IoKind, IoQueue, Wake, Watch};
