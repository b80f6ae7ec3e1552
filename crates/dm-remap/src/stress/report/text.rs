//! The report for people.
//!
//! Invariant: it says nothing that the report for programs does not have.

use std::fmt::Write as _;

use super::{Report, verdict_word};
use crate::units::{format_count, format_size};

impl Report {
    /// For people.
    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        let mut row = |name: &str, value: String| {
            let _ = writeln!(out, "{name:<12} {value}");
        };
        row("run", format!("{}: {}", self.command, self.about));
        let made = if self.volume.made { "made for the run" } else { "given" };
        let direct = if self.volume.direct { "direct I/O" } else { "through the page cache" };
        row(
            "volume",
            format!(
                "{} ({}, {made}, blocks of {}, {direct}), {}",
                self.volume.main,
                format_size(self.volume.used),
                format_size(u64::from(self.volume.block_size)),
                self.volume.state
            ),
        );
        let cut = if self.interrupted { ", interrupted" } else { "" };
        row("time", format!("{:.1} s{cut}, seed {}", self.elapsed_s, self.seed));
        row(
            "in flight",
            format!("{} at most, {}", self.in_flight_max, format_count(self.workers as u64, "worker")),
        );
        row(
            "throughput",
            format!(
                "{:.0} IOPS, {:.1} MB/s ({} operations, {} read, {} written)",
                self.iops,
                self.mb_s,
                self.operations,
                format_size(self.read_bytes),
                format_size(self.written_bytes)
            ),
        );
        out += &self.latencies();
        out += &self.data();
        out += &self.changes();
        for told in self.wrong.iter().chain(&self.unexpected) {
            let _ = writeln!(out, "  {told}");
        }
        match self.problems.as_slice() {
            [] => out += "verdict      all well\n",
            problems => {
                for problem in problems {
                    let _ = writeln!(out, "verdict      FAILED: {problem}");
                }
            }
        }
        if let Some(evidence) = &self.evidence {
            let _ = writeln!(out, "evidence     kept in {evidence}");
        }
        out
    }

    fn latencies(&self) -> String {
        let mut out = format!(
            "{:<12} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10}\n",
            "latency (us)", "count", "p50", "p90", "p99", "p99.9", "max"
        );
        for l in &self.latency {
            let _ = writeln!(
                out,
                "  {:<10} {:>10} {:>10.0} {:>10.0} {:>10.0} {:>10.0} {:>10.0}",
                l.kind, l.count, l.p50_us, l.p90_us, l.p99_us, l.p999_us, l.max_us
            );
        }
        out
    }

    fn data(&self) -> String {
        let (v, e, r, m) = (&self.verified, &self.errors, &self.remaps, &self.metadata);
        let mut out = format!(
            "verified     {} ({} of it read back at the end, {} after the volume was opened again)\n",
            format_size(v.bytes),
            format_size(v.read_back_bytes),
            format_size(v.read_again_bytes)
        );
        let _ = writeln!(out, "wrong bytes  {}", v.wrong_bytes);
        let _ = writeln!(
            out,
            "errors       {} as the drills make them, {} that nothing explains; remapping was suspended {}",
            e.expected,
            e.unexpected,
            format_count(e.breaker_trips, "time")
        );
        let _ = writeln!(
            out,
            "remaps       {} after errors, {} healed in place, {} by command ({} failed); {} on the spare now, {} pending",
            r.automatic,
            r.healed,
            r.commands,
            r.commands_failed,
            format_count(self.table.remapped_blocks, "block"),
            self.table.pending_blocks
        );
        let closed = m.closed.iter().flatten().map(verdict_word).collect::<Vec<_>>().join(", then ");
        let _ = write!(out, "metadata     {closed}");
        if m.compared_in_service + m.undecided_in_service > 0 {
            let _ = write!(
                out,
                "; in service compared {}, {} differed, {} not decided",
                format_count(m.compared_in_service, "time"),
                m.differed_in_service,
                m.undecided_in_service
            );
        }
        out.push('\n');
        out
    }

    /// How the run's end compares with its beginning.
    fn changes(&self) -> String {
        let Some(drift) = &self.drift else { return String::new() };
        let mut out = format!("change       {:>12} {:>12} {:>8}\n", "beginning", "end", "");
        let rows = [
            ("MB/s", drift.throughput_mb_s),
            ("IOPS", drift.iops),
            ("p50 us", drift.p50_us),
            ("p99 us", drift.p99_us),
            ("cpu us/op", drift.cpu_us),
            ("memory MiB", drift.memory_bytes),
            ("descriptors", drift.descriptors),
        ];
        for (name, mut change) in rows {
            if name == "memory MiB" {
                change.baseline /= f64::from(1 << 20);
                change.end /= f64::from(1 << 20);
            }
            let _ = writeln!(
                out,
                "  {name:<10} {:>12.1} {:>12.1} {:>+7.1}%",
                change.baseline, change.end, change.percent
            );
        }
        if let Some(last) = self.windows.last() {
            let most = self.windows.iter().map(|w| w.slots_used).max().unwrap_or(0);
            let _ = writeln!(out, "  slots      {most} in use at most, {} went bad", last.slots_retired);
        }
        out
    }
}
