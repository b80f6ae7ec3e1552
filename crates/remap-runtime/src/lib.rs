//! Threads, buffers, clock and queues around the engine of `remap-core`.
//!
//! Invariant: one thread per volume (the owner) touches the engine; every other thread has a queue of its own, shares the
//! lock-free view with the owner, and talks to it by messages. What a front end sees is in [`front`].

mod bypass;
mod clock;
pub mod front;
mod gate;
mod grace;
mod mail;
mod mailbox;
mod owner;
mod pattern;
mod queue;
mod regions;
mod spares;
mod status;
mod swap;
mod trace;
mod volume;

pub use bypass::{Bypass, Carried, Hold};
pub use pattern::Pattern;
pub use queue::VolumeQueue;
pub use regions::{REGIONS, Region, WORST, worst_regions};
pub use spares::{
    AdoptError, AdoptOptions, AdoptReport, RewriteError, adopt, contents, examine, examine_at, generations,
    lost_entries, main_identity, rehearse, rewrite,
};
pub use status::{LaneCounters, SpareStatus, Status};
pub use swap::SpareError;
pub use trace::{Stage, StageTimes, Trace, TraceKind, TraceRow};
pub use volume::{MAX_IO, OnNotice, OpenError, OpenOptions, OpenReport, Stopped, Volume, lost_extents};
