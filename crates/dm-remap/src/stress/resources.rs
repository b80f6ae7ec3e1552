//! What the process uses of the machine, as the kernel counts it.
//!
//! Invariant: what cannot be read is 0, and then nothing is judged by it.

use std::time::Duration;

/// At a moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Resources {
    /// Resident memory.
    pub memory_bytes: u64,
    /// Open file descriptors.
    pub descriptors: u64,
    /// Processor time since the start of the process.
    pub cpu: Duration,
}

impl Resources {
    /// As they are now.
    pub(crate) fn now() -> Self {
        Self { memory_bytes: memory_bytes().unwrap_or(0), descriptors: descriptors(), cpu: cpu() }
    }
}

fn memory_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

fn descriptors() -> u64 {
    // The listing itself has one open.
    std::fs::read_dir("/proc/self/fd").map_or(0, |list| (list.count() as u64).saturating_sub(1))
}

fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_counts() {
        let now = Resources::now();
        assert!(now.memory_bytes > 0 && now.descriptors >= 3 && now.cpu > Duration::ZERO, "{now:?}");
    }
}
