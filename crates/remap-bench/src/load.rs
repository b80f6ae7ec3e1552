//! Cells: one load each, run by fio's nbd engine or nbdcopy, and what came out of it.
//!
//! Invariant: every contender gets the same command line but for the address.

use std::path::Path;
use std::time::Instant;

use anyhow::Context as _;
use serde_json::Value;

use crate::ground::{Ground, Place, uri};
use crate::needs;
use crate::proc;
use crate::server::Server;

/// What runs in a cell.
#[derive(Clone, Copy)]
pub(crate) enum Run {
    /// fio with a pattern, block size in bytes, requests in flight per connection, and connections.
    Fio { pattern: &'static str, block: u32, depth: u32, connections: u32 },
    /// nbdcopy of the whole device to nowhere.
    CopyFrom,
    /// nbdcopy of a file onto the whole device.
    CopyTo,
}

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

/// All cells, in the order in which they run.
pub(crate) const CELLS: [Cell; 15] = [
    small("rr-q1", "4 KiB random reads, 1 in flight", "randread", 1, 1),
    small("rr-q32", "4 KiB random reads, 32 in flight", "randread", 32, 1),
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
        matches!(self.run, Run::Fio { block: 4096, .. })
    }
}

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

struct Done {
    requests: f64,
    bytes: f64,
    seconds: f64,
    p50_us: f64,
    p99_us: f64,
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
    if !served && !matches!(cell.run, Run::Fio { .. }) {
        return Ok(None);
    }
    let times =
        || (server.map_or(0.0, |s| proc::of_tree(s.pid())), proc::of_ended_children(), proc::of_machine());
    let before = times();
    let begin = Instant::now();
    let done = match cell.run {
        Run::Fio { pattern, block, depth, connections } => {
            fio(ground, served, pattern, block, [depth, connections, seconds])?
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

fn fio(
    ground: &Ground,
    served: bool,
    pattern: &str,
    block: u32,
    [depth, connections, seconds]: [u32; 3],
) -> anyhow::Result<Done> {
    let mut command = needs::command("fio", "fio")?;
    command.args([
        "--name=bench",
        "--group_reporting",
        "--output-format=json",
        "--unified_rw_reporting=mixed",
    ]);
    command.args(["--time_based", "--randrepeat=0", "--norandommap", "--random_generator=tausworthe64"]);
    command.arg(format!("--rw={pattern}")).arg(format!("--bs={block}")).arg(format!("--runtime={seconds}"));
    command.arg(format!("--iodepth={depth}")).arg(format!("--numjobs={connections}"));
    command.arg(format!("--size={}", ground.size)).current_dir(ground.folder.path());
    if served {
        command.arg("--ioengine=nbd").arg(format!("--uri={}", uri(&ground.socket())));
    } else {
        let direct = u8::from(ground.place == Place::Disk);
        command.arg("--ioengine=io_uring").arg(format!("--direct={direct}"));
        command.arg(format!("--filename={}", ground.main().display()));
    }
    let said = needs::output(command)?;
    // Notes may stand before the report.
    let report = said.find('{').map(|at| &said[at..]).context("fio printed no report")?;
    parse(report)
}

fn parse(report: &str) -> anyhow::Result<Done> {
    let report: Value = serde_json::from_str(report).context("fio's report is not JSON")?;
    let job = &report["jobs"][0]["mixed"];
    let number = |value: &Value| value.as_f64().context("fio's report lacks a figure");
    let percentile = |name: &str| number(&job["clat_ns"]["percentile"][name]).map(|ns| ns / 1e3);
    let requests = number(&job["total_ios"])?;
    Ok(Done {
        requests,
        bytes: number(&job["io_bytes"])?,
        // The jobs of a group end at slightly different times; fio's own rate allows for it.
        seconds: requests / number(&job["iops"])?,
        p50_us: percentile("50.000000")?,
        p99_us: percentile("99.000000")?,
    })
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
    use super::parse;

    #[test]
    fn a_report_of_fio_is_read() {
        let report = r#"{"jobs": [{"mixed": {"io_bytes": 8192, "total_ios": 2, "iops": 4.0,
            "clat_ns": {"percentile": {"50.000000": 1000, "99.000000": 3000}}}}]}"#;
        let done = parse(report).expect("a report");
        assert_eq!((done.requests, done.bytes, done.seconds), (2.0, 8192.0, 0.5));
        assert_eq!((done.p50_us, done.p99_us), (1.0, 3.0));
        assert!(parse("{}").is_err());
    }
}
