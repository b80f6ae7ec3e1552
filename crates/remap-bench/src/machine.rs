//! What the figures were measured on.
//!
//! Invariant: nothing here is needed for a measurement; what cannot be found out is left empty.

use std::fs;
use std::process::Command;

use crate::proc;
use crate::record::Machine;

/// This machine, as it is before a run.
pub(crate) fn describe() -> Machine {
    let field = |path: &str, name: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map_or_else(String::new, |(_, value)| value.trim().to_owned())
    };
    let memory = field("/proc/meminfo", "MemTotal");
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    Machine {
        processor: field("/proc/cpuinfo", "model name"),
        cores: std::thread::available_parallelism().map_or(0, usize::from),
        memory_mib: memory.split_whitespace().next().and_then(|kib| kib.parse().ok()).unwrap_or(0_u64) >> 10,
        kernel: format!("Linux {}", kernel.trim()),
        compiler: compiler(),
        load_before: proc::load(),
        load_after: 0.0,
    }
}

/// The compiler that the workspace is built with.
pub(crate) fn compiler() -> String {
    let said = Command::new("rustc").arg("--version").current_dir(env!("CARGO_MANIFEST_DIR")).output();
    said.map_or_else(|_| String::new(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
