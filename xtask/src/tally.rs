//! How many tests ran, from what the test runners print.
//!
//! Invariant: only summary lines count, so no test is counted twice. What nextest calls skipped is mostly what another
//! lane runs, so it is not counted here.

use std::ops::AddAssign;

/// Numbers of tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
}

/// Reads the output of one run of tests.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    libtest: Tally,
    nextest: Option<Tally>,
}

impl Reader {
    /// Takes a line of output into account.
    pub(crate) fn line(&mut self, line: &str) {
        let line = line.trim();
        if let Some(rest) = line.strip_prefix("test result: ") {
            rest.split(['.', ';']).for_each(|part| self.libtest.count(part));
        } else if line.starts_with("Summary [")
            && let Some((_, counts)) = line.split_once(" run: ")
        {
            let tally = self.nextest.insert(Tally::default());
            counts.split(',').for_each(|part| tally.count(part));
        }
    }

    /// What ran. Under nextest each failed test shows a libtest summary of its own, which must not count twice.
    pub(crate) fn tally(&self) -> Tally {
        self.nextest.unwrap_or(self.libtest)
    }
}

impl Tally {
    fn count(&mut self, part: &str) {
        let mut words = part.split_whitespace();
        let Some(Ok(number)) = words.next().map(str::parse::<u64>) else { return };
        match words.next() {
            Some("passed") => self.passed += number,
            Some("failed" | "exec" | "timed") => self.failed += number,
            _ => {}
        }
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

#[cfg(test)]
mod tests {
    use super::{Reader, Tally};

    fn tally(lines: &[&str]) -> Tally {
        let mut reader = Reader::default();
        for line in lines {
            reader.line(line);
        }
        reader.tally()
    }

    #[test]
    fn nextest_summary() {
        let seen = tally(&[
            "     Summary [  12.345s] 40 tests run: 37 passed (1 slow), 2 failed, 1 timed out, 5 skipped\n",
            "        FAIL [   0.010s] dm-remap::cli_usage 3 passed\n",
            "    test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 38 filtered out\n",
        ]);
        assert_eq!(seen, Tally { passed: 37, failed: 3 });
        assert_eq!(tally(&["Summary [ 0.1s] 1 test run: 1 passed, 0 skipped"]).passed, 1);
    }

    #[test]
    fn libtest_summaries_add_up() {
        let seen = tally(&[
            "test result: ok. 4 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s\n",
            "test result: FAILED. 4 passed; 2 failed; 0 ignored; 0 measured; 7 filtered out; finished in 1.01s\n",
        ]);
        assert_eq!(seen, Tally { passed: 8, failed: 2 });
    }
}
