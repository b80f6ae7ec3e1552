//! Cells: one load each, run by fio's nbd engine or nbdcopy, and what came out of it.
//!
//! Invariant: every contender gets the same command line but for the address.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, bail};

use crate::fio::{self, Done, Job, Target};
use crate::ground::{Ground, Place, uri};
use crate::needs;
use crate::proc;
use crate::server::Server;

/// What runs in a cell.
#[derive(Clone, Copy)]
pub(crate) enum Run {
    /// fio with a pattern, block size in bytes, requests in flight per connection, and connections.
    Fio { pattern: &'static str, block: u32, depth: u32, connections: u32 },
    /// The same with more arguments.
    FioWith { pattern: &'static str, block: u32, depth: u32, connections: u32, more: &'static [&'static str] },
    /// Long sequential requests on connections that have a part of the device each.
    Streams { pattern: &'static str, more: &'static [&'static str] },
    /// The whole device is read in order while others write here and there: bytes are of the reads, times of the writes.
    Backup,
    /// nbdcopy of the whole device to nowhere.
    CopyFrom,
    /// nbdcopy of a file onto the whole device.
    CopyTo,
}

/// A database's requests: reads and writes of 8 KiB on four connections, and of each a flush after 16 writes.
const DATABASE: Run = Run::FioWith {
    pattern: "randrw",
    block: 8192,
    depth: 8,
    connections: 4,
    more: &["--rwmixread=70", "--fsync=16"],
};
/// Bytes of a request of a stream, those in flight on each connection, and connections.
const STREAMS: (u32, u32, u32) = (256 << 10, 2, 4);
/// Writes in a second while a backup runs.
const BACKUP_WRITES: &str = "--rate_iops=1000";

/// One load.
pub(crate) struct Cell {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) run: Run,
    /// Part of a short run.
    pub(crate) quick: bool,
}

const fn small(
    name: &'static str,
    about: &'static str,
    pattern: &'static str,
    depth: u32,
    connections: u32,
) -> Cell {
    let quick = matches!(pattern.as_bytes(), b"randread") || connections > 1;
    Cell { name, about, run: Run::Fio { pattern, block: 4096, depth, connections }, quick }
}

const fn large(
    name: &'static str,
    about: &'static str,
    pattern: &'static str,
    block: u32,
    depth: u32,
) -> Cell {
    Cell { name, about, run: Run::Fio { pattern, block, depth, connections: 1 }, quick: block == 1 << 20 }
}

const fn depth(name: &'static str, about: &'static str, depth: u32) -> Cell {
    let cell = small(name, about, "randread", depth, 1);
    Cell { quick: depth == 128, ..cell }
}

/// All cells, in the order in which they run.
pub(crate) const CELLS: [Cell; 22] = [
    small("rr-q1", "4 KiB random reads, 1 in flight", "randread", 1, 1),
    depth("rr-q4", "4 KiB random reads, 4 in flight", 4),
    small("rr-q32", "4 KiB random reads, 32 in flight", "randread", 32, 1),
    depth("rr-q128", "4 KiB random reads, 128 in flight", 128),
    depth("rr-q512", "4 KiB random reads, 512 in flight", 512),
    small("rr-4x32", "4 KiB random reads, 4 connections of 32", "randread", 32, 4),
    small("rw-q1", "4 KiB random writes, 1 in flight", "randwrite", 1, 1),
    small("rw-q32", "4 KiB random writes, 32 in flight", "randwrite", 32, 1),
    small("rw-4x32", "4 KiB random writes, 4 connections of 32", "randwrite", 32, 4),
    small("mix-q1", "4 KiB random, half writes, 1 in flight", "randrw", 1, 1),
    small("mix-q32", "4 KiB random, half writes, 32 in flight", "randrw", 32, 1),
    small("mix-4x32", "4 KiB random, half writes, 4 connections of 32", "randrw", 32, 4),
    large("sr-128k", "128 KiB sequential reads, 8 in flight", "read", 128 << 10, 8),
    large("sr-1m", "1 MiB sequential reads, 4 in flight", "read", 1 << 20, 4),
    large("sw-128k", "128 KiB sequential writes, 8 in flight", "write", 128 << 10, 8),
    large("sw-1m", "1 MiB sequential writes, 4 in flight", "write", 1 << 20, 4),
    Cell {
        name: "database",
        about: "8 KiB random, 30 % writes with a flush after 16, 4 connections of 8",
        run: DATABASE,
        quick: true,
    },
    Cell {
        name: "stream-read",
        about: "256 KiB sequential reads, 4 connections of 2, each in its own quarter",
        run: Run::Streams { pattern: "read", more: &[] },
        quick: true,
    },
    Cell {
        name: "stream-write",
        about: "256 KiB sequential writes with a flush after 64, 4 connections of 2, each in its own quarter",
        run: Run::Streams { pattern: "write", more: &["--fsync=64"] },
        quick: false,
    },
    Cell {
        name: "backup",
        about: "1 MiB sequential reads, 2 in flight (MB/s), while others write 1000 random 4 KiB a second (times)",
        run: Run::Backup,
        quick: true,
    },
    Cell {
        name: "copy-from",
        about: "nbdcopy of the whole device to nowhere",
        run: Run::CopyFrom,
        quick: true,
    },
    Cell {
        name: "copy-to",
        about: "nbdcopy of a file onto the whole device",
        run: Run::CopyTo,
        quick: false,
    },
];

impl Cell {
    /// Requests a second are what counts here; else bytes a second.
    pub(crate) fn counts_requests(&self) -> bool {
        matches!(self.run, Run::Fio { block: 4096, .. } | Run::FioWith { .. })
    }

    /// Part of what is drawn, and named, as one.
    pub(crate) fn belongs_to(&self, set: &str) -> bool {
        match self.run {
            Run::Fio { pattern: "randread", connections: 1, block: 4096, .. } => set == CONCURRENCY,
            Run::FioWith { .. } | Run::Streams { .. } | Run::Backup => set == PATTERNS,
            _ => false,
        }
    }

    /// Requests in flight, where they are what a set of cells varies.
    pub(crate) fn in_flight(&self) -> Option<u32> {
        match self.run {
            Run::Fio { depth, .. } if self.belongs_to(CONCURRENCY) => Some(depth),
            _ => None,
        }
    }

    /// It is there for the curve, not to be compared by itself.
    pub(crate) fn is_of_a_curve_only(&self) -> bool {
        self.in_flight().is_some_and(|depth| ![1, 32].contains(&depth))
    }
}

/// Random reads with more and more in flight.
pub(crate) const CONCURRENCY: &str = "concurrency";
/// What a database, a player and a backup do.
pub(crate) const PATTERNS: &str = "patterns";
/// Names that stand for several cells.
pub(crate) const SETS: [&str; 2] = [CONCURRENCY, PATTERNS];

/// What one run of a cell gave.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sample {
    /// Requests a second; 0 for copies.
    pub(crate) iops: f64,
    /// 10^6 bytes a second.
    pub(crate) mb_s: f64,
    /// Time of half of the requests, and of all but one in a hundred, in microseconds; 0 for copies.
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// Processor time of the server, in microseconds for each request (0 for copies), and in seconds for each GiB.
    pub(crate) cpu_us_per_io: f64,
    pub(crate) cpu_s_per_gib: f64,
    /// Processors that neither the server nor its client kept busy.
    pub(crate) foreign: f64,
    /// From the server's start to its first connection, in milliseconds.
    pub(crate) start_ms: f64,
}

/// Runs the cell once; `None` where there is nothing to run (a copy without a server).
///
/// # Errors
/// The client fails.
pub(crate) fn run(
    cell: &Cell,
    ground: &Ground,
    server: Option<&Server>,
    seconds: u32,
) -> anyhow::Result<Option<Sample>> {
    let served = server.is_some();
    if !served && matches!(cell.run, Run::CopyFrom | Run::CopyTo) {
        return Ok(None);
    }
    let times =
        || (server.map_or(0.0, |s| proc::of_tree(s.pid())), proc::of_ended_children(), proc::of_machine());
    let before = times();
    let begin = Instant::now();
    let done = match cell.run {
        Run::Fio { .. } | Run::FioWith { .. } | Run::Streams { .. } | Run::Backup => {
            by_fio(cell.run, ground, served, seconds)?
        }
        Run::CopyFrom => copy(ground, &uri(&ground.socket()), "null:")?,
        Run::CopyTo => copy(ground, &ground.source().to_string_lossy(), &uri(&ground.socket()))?,
    };
    let wall = begin.elapsed().as_secs_f64();
    let after = times();
    let (of_server, of_client, of_all) = (after.0 - before.0, after.1 - before.1, after.2 - before.2);
    Ok(Some(Sample {
        iops: done.requests / done.seconds,
        mb_s: done.bytes / done.seconds / 1e6,
        p50_us: done.p50_us,
        p99_us: done.p99_us,
        cpu_us_per_io: if done.requests > 0.0 { of_server * 1e6 / done.requests } else { 0.0 },
        cpu_s_per_gib: of_server * f64::from(1 << 30) / done.bytes,
        foreign: ((of_all - of_server - of_client) / wall).max(0.0),
        start_ms: server.map_or(0.0, |s| s.start_s * 1e3),
    }))
}

fn by_fio(run: Run, ground: &Ground, served: bool, seconds: u32) -> anyhow::Result<Done> {
    let (socket, main) = (ground.socket(), ground.main());
    let target = if served { Target::Nbd(&socket) } else { Target::File(&main, ground.place == Place::Disk) };
    let small = Job::small(target, "randwrite", ground.size);
    let (streams, in_stream, connected) = STREAMS;
    let job = match run {
        Run::Fio { pattern, block, depth, connections } => {
            Job { pattern, block, depth, connections, ..small }
        }
        Run::FioWith { pattern, block, depth, connections, more } => {
            Job { pattern, block, depth, connections, more, ..small }
        }
        Run::Streams { pattern, more } => Job {
            pattern,
            block: streams,
            depth: in_stream,
            connections: connected,
            apart: true,
            more,
            ..small
        },
        Run::Backup => Job { pattern: "read", block: 1 << 20, depth: 2, ..small },
        Run::CopyFrom | Run::CopyTo => bail!("copies are not made by fio"),
    };
    let writes = Job { depth: 4, more: &[BACKUP_WRITES], ..small };
    let backup = matches!(run, Run::Backup);
    let jobs = if backup { vec![job, writes] } else { vec![job] };
    let done = fio::run(ground.folder.path(), seconds, &jobs)?;
    let first = *done.first().context("a job")?;
    // The times that count are those of the one who is disturbed.
    let times = *done.last().context("a job")?;
    Ok(Done { p50_us: times.p50_us, p99_us: times.p99_us, ..first })
}

fn copy(ground: &Ground, from: &str, to: &str) -> anyhow::Result<Done> {
    let mut command = needs::command("nbdcopy", "libnbd-bin")?;
    command.args([Path::new(from), Path::new(to)]);
    let begin = Instant::now();
    needs::output(command)?;
    let seconds = begin.elapsed().as_secs_f64();
    Ok(Done { requests: 0.0, bytes: ground.size as f64, seconds, p50_us: 0.0, p99_us: 0.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart_and_sets_are_not_empty() {
        for (at, cell) in CELLS.iter().enumerate() {
            assert!(
                !SETS.contains(&cell.name) && CELLS[at + 1..].iter().all(|other| other.name != cell.name)
            );
        }
        let of = |set| CELLS.iter().filter(|cell| cell.belongs_to(set)).map(|c| c.name).collect::<Vec<_>>();
        assert_eq!(of(CONCURRENCY), ["rr-q1", "rr-q4", "rr-q32", "rr-q128", "rr-q512"]);
        assert_eq!(of(PATTERNS), ["database", "stream-read", "stream-write", "backup"]);
    }
}
