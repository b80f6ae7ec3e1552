//! Block devices and files as dm-remap uses them: opening and identifying them, I/O queues with deadlines, the errno to
//! [`Fault`](remap_core::op::Fault) mapping, maps of bad sectors, drills (fault layers that make a healthy device
//! fail on command), and what a program needs that stands below others' files: device-mapper, the kernel's word of failed
//! requests, memory that stays.
//!
//! Invariant: only this crate knows an errno, and no operation outlives its deadline: its tag completes in time, and the
//! memory it uses stays alive until the kernel is done with it.

pub mod badmap;
mod buf;
mod device;
pub mod drill;
mod errno;
mod flushes;
mod identity;
mod ioctl;
pub mod mapper;
mod numa;
mod open;
pub mod process;
mod queue;
mod sysfs;
pub mod users;
pub mod watch;
mod zombie;

pub use badmap::BadMap;
pub use buf::{AllocError, BUF_ALIGN, Buf, BufSlice};
pub use device::{BLOCKING_DEADLINE, Device};
pub use drill::Drill;
pub use flushes::Audience;
pub use identity::Identity;
pub use numa::bind_thread;
pub use open::{Direct, Limits, OpenError, OpenOptions};
pub use queue::{DeviceOp, IoBackend, IoKind, IoQueue, Wake, Watch};
