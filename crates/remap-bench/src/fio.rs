//! Runs of fio.
//!
//! Invariant: every contender gets the same command line but for the address.

use std::path::Path;

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::ground::uri;
use crate::needs;

/// Where a job's requests go.
#[derive(Clone, Copy)]
pub(crate) enum Target<'a> {
    /// The export behind a Unix socket.
    Nbd(&'a Path),
    /// A file, by io_uring; past the page cache or not.
    File(&'a Path, bool),
}

/// Some like threads of a run.
#[derive(Clone, Copy)]
pub(crate) struct Job<'a> {
    pub(crate) target: Target<'a>,
    /// Bytes that it uses.
    pub(crate) size: u64,
    pub(crate) pattern: &'a str,
    /// Bytes of a request.
    pub(crate) block: u32,
    /// Requests in flight for each connection.
    pub(crate) depth: u32,
    pub(crate) connections: u32,
    /// Each connection has a part of the device for itself.
    pub(crate) apart: bool,
    pub(crate) more: &'a [&'a str],
}

impl<'a> Job<'a> {
    /// 4 KiB, one at a time.
    pub(crate) fn small(target: Target<'a>, pattern: &'a str, size: u64) -> Self {
        Self { target, size, pattern, block: 4096, depth: 1, connections: 1, apart: false, more: &[] }
    }

    fn args(&self) -> Vec<String> {
        let part = if self.apart { self.size / u64::from(self.connections) } else { self.size };
        let part = part / u64::from(self.block) * u64::from(self.block);
        let mut args = vec![
            "--name=bench".to_owned(),
            "--new_group".to_owned(),
            format!("--rw={}", self.pattern),
            format!("--bs={}", self.block),
            format!("--iodepth={}", self.depth),
            format!("--numjobs={}", self.connections),
            format!("--size={part}"),
        ];
        if self.apart {
            args.push(format!("--offset_increment={part}"));
        }
        match self.target {
            Target::Nbd(socket) => {
                args.extend(["--ioengine=nbd".to_owned(), format!("--uri={}", uri(socket))])
            }
            Target::File(file, direct) => args.extend([
                "--ioengine=io_uring".to_owned(),
                format!("--filename={}", file.display()),
                format!("--direct={}", u8::from(direct)),
            ]),
        }
        args.extend(self.more.iter().map(|arg| (*arg).to_owned()));
        args
    }
}

/// What came of a job.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Done {
    pub(crate) requests: f64,
    pub(crate) bytes: f64,
    pub(crate) seconds: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
}

/// Runs all jobs at once, for so many seconds; what came of each.
///
/// # Errors
/// fio fails, or reports less than it was asked for.
pub(crate) fn run(folder: &Path, seconds: u32, jobs: &[Job<'_>]) -> anyhow::Result<Vec<Done>> {
    let mut command = needs::command("fio", "fio")?;
    command.args(["--group_reporting", "--output-format=json", "--unified_rw_reporting=mixed"]);
    command.args(["--time_based", "--randrepeat=0", "--norandommap", "--random_generator=tausworthe64"]);
    command.arg(format!("--runtime={seconds}")).current_dir(folder);
    for job in jobs {
        command.args(job.args());
    }
    let said = needs::output(command)?;
    // Notes may stand before the report.
    let report = said.find('{').map(|at| &said[at..]).context("fio printed no report")?;
    let done = parse(report)?;
    ensure!(done.len() == jobs.len(), "fio reports {} jobs, not {}", done.len(), jobs.len());
    Ok(done)
}

fn parse(report: &str) -> anyhow::Result<Vec<Done>> {
    let report: Value = serde_json::from_str(report).context("fio's report is not JSON")?;
    let jobs = report["jobs"].as_array().context("fio's report lists no jobs")?;
    jobs.iter().map(|job| job_done(&job["mixed"])).collect()
}

fn job_done(job: &Value) -> anyhow::Result<Done> {
    let number = |value: &Value| value.as_f64().context("fio's report lacks a figure");
    let percentile = |name: &str| number(&job["clat_ns"]["percentile"][name]).map(|ns| ns / 1e3);
    let requests = number(&job["total_ios"])?;
    Ok(Done {
        requests,
        bytes: number(&job["io_bytes"])?,
        // The threads of a job end at slightly different times; fio's own rate allows for it.
        seconds: requests / number(&job["iops"])?,
        p50_us: percentile("50.000000")?,
        p99_us: percentile("99.000000")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_of_fio_is_read() {
        let report = r#"{"jobs": [{"mixed": {"io_bytes": 8192, "total_ios": 2, "iops": 4.0,
            "clat_ns": {"percentile": {"50.000000": 1000, "99.000000": 3000}}}}]}"#;
        let done = parse(report).expect("a report")[0];
        assert_eq!((done.requests, done.bytes, done.seconds), (2.0, 8192.0, 0.5));
        assert_eq!((done.p50_us, done.p99_us), (1.0, 3.0));
        assert!(parse("{}").is_err() && parse(r#"{"jobs": [{}]}"#).is_err());
    }

    #[test]
    fn connections_that_are_apart_share_the_device() {
        let path = Path::new("/s");
        let job = Job {
            block: 1 << 20,
            connections: 4,
            apart: true,
            ..Job::small(Target::File(path, true), "read", 10 << 20)
        };
        let args = job.args();
        for wanted in ["--size=2097152", "--offset_increment=2097152", "--direct=1", "--filename=/s"] {
            assert!(args.iter().any(|arg| arg == wanted), "{wanted} in {args:?}");
        }
    }
}
