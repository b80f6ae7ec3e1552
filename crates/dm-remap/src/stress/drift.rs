//! Did it become slower, or need more? Windows of time are compared with the run's own beginning.
//!
//! Invariant: the first window is a warm-up and compared with nothing; a change is judged from medians of several windows
//! where there are enough of them.

use serde::Serialize;

/// Windows that a run has, where it is long enough.
pub(crate) const WINDOWS: u32 = 20;
/// With fewer nothing is judged.
const WINDOWS_MIN: usize = 4;

/// What was measured in a stretch of time.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Window {
    /// Since the start of the run, at its end.
    pub end_s: f64,
    pub seconds: f64,
    pub iops: f64,
    pub mb_s: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    /// Processor time of the whole process for a request.
    pub cpu_us: f64,
    /// Memory in use, and open file descriptors, at its end.
    pub memory_bytes: u64,
    pub descriptors: u64,
    /// Slots of the spare that are in use, and that went bad.
    pub slots_used: u64,
    pub slots_retired: u64,
}

/// How a figure changed from the baseline to the end.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Change {
    pub baseline: f64,
    pub end: f64,
    /// Above zero: it grew.
    pub percent: f64,
}

impl Change {
    fn of(baseline: f64, end: f64) -> Self {
        let percent = if baseline > 0.0 { (end / baseline - 1.0) * 100.0 } else { 0.0 };
        Self { baseline, end, percent }
    }
}

/// What changed.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Drift {
    /// Windows at each end of the run that were compared.
    pub compared: usize,
    pub throughput_mb_s: Change,
    pub iops: Change,
    pub p50_us: Change,
    pub p99_us: Change,
    pub cpu_us: Change,
    pub memory_bytes: Change,
    pub descriptors: Change,
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

impl Drift {
    /// Compares the quarter after the warm-up with the last quarter; `None`: there are too few windows.
    pub(crate) fn of(windows: &[Window]) -> Option<Self> {
        if windows.len() < WINDOWS_MIN {
            return None;
        }
        let compared = windows.len() / 4;
        let (first, last) = (&windows[1..=compared], &windows[windows.len() - compared..]);
        let change = |of: &dyn Fn(&Window) -> f64| {
            Change::of(median(first.iter().map(of)), median(last.iter().map(of)))
        };
        Some(Self {
            compared,
            throughput_mb_s: change(&|w| w.mb_s),
            iops: change(&|w| w.iops),
            p50_us: change(&|w| w.p50_us),
            p99_us: change(&|w| w.p99_us),
            cpu_us: change(&|w| w.cpu_us),
            memory_bytes: change(&|w| w.memory_bytes as f64),
            descriptors: change(&|w| w.descriptors as f64),
        })
    }

    /// The figures that became worse by more than so many percent, in words.
    pub(crate) fn worse_than(&self, percent: f64) -> Vec<String> {
        let rows = [
            ("throughput", -self.throughput_mb_s.percent),
            ("requests a second", -self.iops.percent),
            ("median latency", self.p50_us.percent),
            ("99th percentile of the latency", self.p99_us.percent),
        ];
        let worse = rows.into_iter().filter(|(_, by)| *by > percent);
        worse.map(|(what, by)| format!("{what} became worse by {by:.0} %")).collect()
    }

    /// What grew that must not: memory, descriptors.
    pub(crate) fn leaks(&self) -> Vec<String> {
        /// A heap breathes.
        const MEMORY_PERCENT: f64 = 25.0;
        const MEMORY_BYTES: f64 = (32 << 20) as f64;
        /// Descriptors that a check of the moment may have open.
        const DESCRIPTORS: f64 = 8.0;
        let mut leaks = Vec::new();
        let memory = &self.memory_bytes;
        if memory.percent > MEMORY_PERCENT && memory.end - memory.baseline > MEMORY_BYTES {
            leaks.push(format!("memory in use grew by {:.0} %", memory.percent));
        }
        let more = self.descriptors.end - self.descriptors.baseline;
        if more > DESCRIPTORS {
            leaks.push(format!("{more:.0} more file descriptors are open than at the start"));
        }
        leaks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn windows(of: impl Fn(usize) -> Window) -> Vec<Window> {
        (0..20).map(of).collect()
    }

    fn steady() -> Window {
        let (iops, mb_s, p50_us, p99_us) = (1000.0, 40.0, 100.0, 900.0);
        Window { iops, mb_s, p50_us, p99_us, memory_bytes: 64 << 20, descriptors: 20, ..Window::default() }
    }

    #[test]
    fn a_steady_run_does_not_drift() {
        // A cold start, and one window that was disturbed, say nothing.
        let noisy = windows(|n| match n {
            0 => Window { iops: 1.0, p99_us: 1e6, ..steady() },
            17 => Window { iops: 10.0, mb_s: 0.4, p50_us: 1e4, ..steady() },
            _ => steady(),
        });
        let drift = Drift::of(&noisy).expect("enough windows");
        assert_eq!((drift.compared, drift.iops.percent, drift.p99_us.percent), (5, 0.0, 0.0));
        assert!(drift.worse_than(1.0).is_empty() && drift.leaks().is_empty());
    }

    #[test]
    fn a_run_that_becomes_slower_is_told() {
        let slow = windows(|n| Window {
            iops: 1000.0 - 40.0 * n as f64,
            p99_us: 900.0 * (1.0 + n as f64 / 10.0),
            ..steady()
        });
        let drift = Drift::of(&slow).expect("enough windows");
        assert_eq!(
            drift.iops,
            Change { baseline: 880.0, end: 320.0, percent: (320.0 / 880.0 - 1.0) * 100.0 }
        );
        assert_eq!(
            drift.worse_than(50.0),
            [
                "requests a second became worse by 64 %",
                "99th percentile of the latency became worse by 108 %"
            ]
        );
        assert_eq!(drift.worse_than(70.0).len(), 1);
        let better = windows(|n| Window { iops: 1000.0 + 100.0 * n as f64, ..steady() });
        assert!(Drift::of(&better).expect("enough").worse_than(0.0).is_empty());
    }

    #[test]
    fn what_leaks_is_told() {
        let leaky = windows(|n| Window {
            memory_bytes: (64 + 8 * n as u64) << 20,
            descriptors: 20 + n as u64,
            ..steady()
        });
        let leaks = Drift::of(&leaky).expect("enough").leaks();
        assert_eq!(
            leaks,
            ["memory in use grew by 127 %", "14 more file descriptors are open than at the start"]
        );
        let breathing = windows(|n| Window { memory_bytes: (10 + n as u64) << 20, ..steady() });
        assert!(Drift::of(&breathing).expect("enough").leaks().is_empty(), "little of little");
    }

    #[test]
    fn a_short_run_is_not_judged() {
        assert!(Drift::of(&[steady(); 3]).is_none());
        assert_eq!(Drift::of(&[steady(); 4]).expect("enough").compared, 1);
        assert_eq!(Change::of(0.0, 5.0).percent, 0.0);
    }
}
