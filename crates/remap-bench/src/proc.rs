//! What the kernel says about processors: of a server with its children, of this program's children, of the machine.
//!
//! Invariant: all times are seconds of processor time; what cannot be read counts as none, because a process may end while it is
//! looked at.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// Between two looks at processes that may end.
const STEP: Duration = Duration::from_millis(10);

/// Processor time that a process and all below it spend until `over` is set.
///
/// They are looked at all along: a server may start a process for each connection and never ask how it ended, and then the kernel forgets
/// what it spent.
pub(crate) fn spent(pid: u32, over: &AtomicBool) -> f64 {
    let mut seen: BTreeMap<u32, (f64, f64)> =
        of_tree(pid).into_iter().map(|(pid, now)| (pid, (now, now))).collect();
    loop {
        let last = over.load(Ordering::Acquire);
        for (pid, now) in of_tree(pid) {
            seen.entry(pid).or_default().1 = now;
        }
        if last {
            return seen.values().map(|(first, last)| last - first).sum();
        }
        thread::sleep(STEP);
    }
}

/// A process and all below it, each with its processor time so far.
fn of_tree(pid: u32) -> Vec<(u32, f64)> {
    let mut found = vec![(pid, seconds(stat_fields(&format!("/proc/{pid}/stat"), 11..13)))];
    for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|child| child.parse().ok()) {
            found.extend(of_tree(child));
        }
    }
    found
}

/// Processor time of this program's children that have ended and been waited for.
pub(crate) fn of_ended_children() -> f64 {
    seconds(stat_fields("/proc/self/stat", 13..15))
}

/// Processor time of everything on the machine, with what its host took away.
pub(crate) fn of_machine() -> f64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().next().unwrap_or_default();
    let fields: Vec<u64> = line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    // user, nice, system; idle and waiting left out; interrupts, soft interrupts, stolen.
    seconds([0, 1, 2, 5, 6, 7].into_iter().filter_map(|field| fields.get(field)).sum())
}

/// Load average of the last minute.
pub(crate) fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(f64::NAN)
}

/// Sum of some fields of a `stat` file, counted from the one behind the name.
fn stat_fields(path: &str, fields: std::ops::Range<usize>) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    // The name is in brackets and may hold anything.
    let behind = text.rsplit_once(") ").map_or("", |(_, behind)| behind);
    let wanted = behind.split_whitespace().skip(fields.start).take(fields.len());
    wanted.filter_map(|field| field.parse::<u64>().ok()).sum()
}

fn seconds(ticks: u64) -> f64 {
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_seen() {
        let over = AtomicBool::new(false);
        let seen = thread::scope(|scope| {
            let watcher = scope.spawn(|| spent(std::process::id(), &over));
            let mut sum = 0_u64;
            let busy = || of_tree(std::process::id())[0].1;
            let begin = busy();
            while busy() < begin + 0.05 {
                sum = std::hint::black_box(sum + 1);
            }
            over.store(true, Ordering::Release);
            watcher.join().expect("no panic")
        });
        assert!(seen > 0.0 && of_machine() > seen);
    }
}
