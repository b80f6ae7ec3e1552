//! What the kernel says about processors: of a server with its children, of this program's children, of the machine.
//!
//! Invariant: all times are seconds of processor time; what cannot be read counts as none, because a process may end while it is
//! looked at.

use std::fs;

/// Processor time of a process, its threads and all processes below it, ended or not.
///
/// A child that ends passes from one sum to the other meanwhile: then both are taken again.
pub(crate) fn of_tree(pid: u32) -> f64 {
    let stat = format!("/proc/{pid}/stat");
    loop {
        let ended = fields(&stat, 13..15);
        let all = seconds(fields(&stat, 11..15)) + children(pid).into_iter().map(of_tree).sum::<f64>();
        if ended == fields(&stat, 13..15) {
            return all;
        }
    }
}

/// Not every kernel lists them with their parent.
fn children(pid: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.filter(|child| fields(&format!("/proc/{child}/stat"), 1..2) == u64::from(pid)).collect()
}

/// Processor time of this program's children that have ended and been waited for.
pub(crate) fn of_ended_children() -> f64 {
    seconds(fields("/proc/self/stat", 13..15))
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

/// Bytes of memory that a process has in use.
pub(crate) fn resident_of(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    let pages: u64 = text.split_whitespace().nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * rustix::param::page_size() as u64
}

/// Threads of a process.
pub(crate) fn threads_of(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().count()
}

/// What the scheduler gave the threads of a process, finer than ticks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scheduled {
    pub(crate) threads: usize,
    /// Microseconds on a processor.
    pub(crate) us: f64,
    /// Times that one went to a processor.
    pub(crate) wakes: f64,
}

/// See [`Scheduled`].
pub(crate) fn scheduled(pid: u32) -> Scheduled {
    let mut sum = Scheduled { threads: 0, us: 0.0, wakes: 0.0 };
    for thread in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let text = fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
        let fields: Vec<f64> = text.split_whitespace().filter_map(|field| field.parse().ok()).collect();
        if let [nanoseconds, _, slices] = fields[..] {
            sum.threads += 1;
            sum.us += nanoseconds / 1e3;
            sum.wakes += slices;
        }
    }
    sum
}

/// Sum of some fields of a `stat` file, counted from the one behind the name.
fn fields(path: &str, fields: std::ops::Range<usize>) -> u64 {
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
        let begin = of_tree(std::process::id());
        let mut sum = 0_u64;
        while fields("/proc/self/stat", 11..13) < 5 {
            sum = std::hint::black_box(sum + 1);
        }
        let end = of_tree(std::process::id());
        assert!(end >= begin && end > 0.0 && of_machine() > end);
        let pid = std::process::id();
        assert!(resident_of(pid) > 100_000 && threads_of(pid) > 0);
        assert!(scheduled(pid).threads > 0 && scheduled(pid).us > 0.0);
    }

    #[test]
    fn children_are_found() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("a child");
        let found = children(std::process::id());
        child.kill().expect("a kill");
        child.wait().expect("its end");
        assert!(found.contains(&child.id()));
    }
}
