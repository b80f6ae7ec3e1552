//! What a script prints: a line for each check, and what it measured.
//!
//! Invariant: a script has passed only if every check did, their number is the one that it announces at its end, and its status is 0.

use super::machine::End;
use crate::tally::Tally;

/// A guest prints it before it cuts its own power, or before it starts again in good order.
const POWER_CUT: &str = "# power cut";
const REBOOT: &str = "# reboot";

/// What was measured: `# ratio WHAT: N of 10000 ...`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ratio {
    pub(super) what: String,
    /// Ten thousandths.
    pub(super) value: u64,
}

/// The output of one script, over all its lives.
#[derive(Debug, Default)]
pub(super) struct Checks {
    pub(super) tally: Tally,
    /// What is wrong: checks that failed, and what is wrong with the run.
    pub(super) faults: Vec<String>,
    pub(super) ratios: Vec<Ratio>,
    /// Checks of this life.
    seen: u64,
    announced: Option<u64>,
    cut: bool,
}

impl Checks {
    /// Takes a line of output into account.
    pub(super) fn line(&mut self, line: &str) {
        if let Some(rest) = line.strip_prefix("ok ") {
            self.check(rest);
            self.tally.passed += 1;
        } else if let Some(rest) = line.strip_prefix("not ok ") {
            self.check(rest);
            self.tally.failed += 1;
            self.faults.push(line.to_owned());
        } else if let Some(number) = line.strip_prefix("1..") {
            self.announced = number.trim().parse().ok();
        } else if line == POWER_CUT || line == REBOOT {
            self.cut = true;
        } else if let Some(ratio) = line.strip_prefix("# ratio ").and_then(ratio) {
            self.ratios.push(ratio);
        }
    }

    fn check(&mut self, rest: &str) {
        self.seen += 1;
        let number = rest.split(' ').next().and_then(|number| number.parse().ok());
        if number != Some(self.seen) {
            self.wrong(format!("check {} came as `{rest}`: a line was lost, or came twice", self.seen));
        }
    }

    /// A life is over. All but the last end by a power cut.
    pub(super) fn ended(&mut self, end: &End, last: bool, seconds: u64) {
        match end {
            End::TimeLimit => self.wrong(format!("did not end within {seconds} s")),
            End::Died(_) if !last && self.cut => {}
            End::Died(how) => self.wrong(format!("the guest died ({how})")),
            End::NeverBegan(how) => self.wrong(format!("the guest did not come to its script ({how})")),
            End::Script(status) if !last => {
                self.wrong(format!(
                    "the script ended with status {status} instead of cutting the power or starting again"
                ));
            }
            End::Script(status) => {
                if *status != 0 && self.tally.failed == 0 {
                    self.wrong(format!("the script ended with status {status}"));
                }
                if self.announced != Some(self.seen) {
                    let announced = self.announced.map_or("no number".to_owned(), |n| n.to_string());
                    self.wrong(format!("{} checks ran, and it announced {announced}", self.seen));
                }
            }
        }
        (self.seen, self.announced, self.cut) = (0, None, false);
    }

    /// Something is wrong with the run: one check that failed.
    pub(super) fn wrong(&mut self, what: String) {
        self.tally.failed += 1;
        self.faults.push(what);
    }

    /// Compares what was measured with what is in the tree: `KERNEL WHAT: N` on each line.
    pub(super) fn compare(&mut self, kernel: &str, known: &str, bound: u64) {
        for Ratio { what, value } in std::mem::take(&mut self.ratios) {
            let is = |line: &&str| line.starts_with(&format!("{kernel} {what}: "));
            let known = known.lines().find(is).and_then(|line| line.rsplit_once(": ")?.1.parse::<u64>().ok());
            match known {
                Some(known) if known.abs_diff(value) <= bound => self.tally.passed += 1,
                Some(known) => self.wrong(format!(
                    "{what}: {value} of 10000, and it was {known}: if that is meant, note it with `cargo xtask vm test --note-speed`"
                )),
                None => self.wrong(format!("{what}: {value} of 10000, and nothing is known of it")),
            }
            self.ratios.push(Ratio { what, value });
        }
        if self.ratios.is_empty() {
            self.wrong("nothing was measured".to_owned());
        }
    }
}

/// `WHAT: N of 10000 ...`
fn ratio(text: &str) -> Option<Ratio> {
    let (what, rest) = text.split_once(": ")?;
    let value = rest.split_once(" of 10000")?.0.parse().ok()?;
    Some(Ratio { what: what.to_owned(), value })
}

#[cfg(test)]
mod tests {
    use super::{Checks, End, POWER_CUT, REBOOT};

    fn checks(lines: &[&str], end: &End, last: bool) -> Checks {
        let mut checks = Checks::default();
        lines.iter().for_each(|line| checks.line(line));
        checks.ended(end, last, 10);
        checks
    }

    #[test]
    fn all_is_well() {
        let seen = checks(&["ok 1 - a", "# b", "ok 2 - c", "1..2"], &End::Script(0), true);
        assert_eq!((seen.tally.passed, seen.tally.failed), (2, 0));
        assert!(seen.faults.is_empty());
    }

    #[test]
    fn whatever_is_wrong_is_a_fault() {
        let died = End::Died("signal".to_owned());
        let cases: [(&[&str], &End, bool); 9] = [
            (&["ok 1 - a", "not ok 2 - c", "1..2"], &End::Script(1), true),
            (&["ok 1 - a"], &End::Script(0), true),
            (&["ok 1 - a", "1..2"], &End::Script(0), true),
            (&["ok 1 - a", "ok 3 - a", "1..2"], &End::Script(0), true),
            (&["ok 1 - a", "1..1"], &End::Script(3), true),
            (&["ok 1 - a"], &died, true),
            (&["ok 1 - a"], &died, false),
            (&["ok 1 - a", "1..1"], &End::Script(0), false),
            (&[], &End::TimeLimit, true),
        ];
        for (lines, end, last) in cases {
            let seen = checks(lines, end, last);
            assert_eq!((seen.tally.failed, seen.faults.len()), (1, 1), "{lines:?}");
        }
    }

    #[test]
    fn a_power_cut_ends_a_life() {
        let mut seen = checks(&["ok 1 - a", POWER_CUT], &End::Died(String::new()), false);
        for line in ["ok 1 - b", "1..1"] {
            seen.line(line);
        }
        seen.ended(&End::Script(0), true, 10);
        assert_eq!((seen.tally.passed, seen.tally.failed), (2, 0));
        let seen = checks(&["ok 1 - a", REBOOT], &End::Died(String::new()), false);
        assert_eq!(seen.tally.failed, 0, "it starts again in good order");
        let last = checks(&["ok 1 - a", POWER_CUT], &End::Died(String::new()), true);
        assert_eq!(last.tally.failed, 1, "the last life ends in order");
    }

    #[test]
    fn drift_is_found() {
        let known = "6.1 randread: 9000\n6.12 randread: 9700\n6.12 one in four randread: 9650\n";
        let drift = |line: &str| {
            let mut checks = Checks::default();
            checks.line(line);
            checks.compare("6.12", known, 30);
            checks.tally.failed
        };
        assert_eq!(drift("# ratio randread: 9671 of 10000 (linear 1, volume 1 per second)"), 0);
        assert_eq!(drift("# ratio randread: 9669 of 10000"), 1);
        assert_eq!(drift("# ratio one in four randread: 9650 of 10000"), 0);
        assert_eq!(drift("# ratio randwrite: 9700 of 10000"), 1);
        assert_eq!(drift("# nothing"), 1);
    }
}
