//! What was seen: bytes verified, bytes that are wrong, errors and what explains them.
//!
//! Invariant: every wrong sector and every error is counted; the first of them are told in words.

use super::faults::Meaning;
use super::stamp::SECTOR;

/// Things that are told in words, of each kind.
const TOLD_MAX: usize = 16;

/// What was seen, by one worker or by all.
#[derive(Clone, Debug, Default)]
pub(crate) struct Findings {
    /// Bytes that were read back and are what they should be.
    pub verified_bytes: u64,
    /// Bytes of sectors that are not what they should be.
    pub wrong_bytes: u64,
    /// Requests that failed as a drill was asked to make them.
    pub expected_errors: u64,
    /// Requests that failed on a bad sector whose block should have moved.
    pub doubtful_errors: u64,
    /// Requests that failed and nothing explains it.
    pub unexpected_errors: u64,
    /// The first wrong sectors.
    pub wrong: Vec<String>,
    /// The first errors that are not expected.
    pub errors: Vec<String>,
}

impl Findings {
    /// A sector is wrong.
    pub(crate) fn wrong(&mut self, text: impl FnOnce() -> String) {
        self.wrong_bytes += SECTOR as u64;
        if self.wrong.len() < TOLD_MAX {
            self.wrong.push(text());
        }
    }

    /// A request failed.
    pub(crate) fn error(&mut self, meaning: Meaning, text: impl FnOnce() -> String) {
        match meaning {
            Meaning::Expected => self.expected_errors += 1,
            Meaning::Doubtful => self.doubtful_errors += 1,
            Meaning::Unexpected => self.unexpected_errors += 1,
        }
        if meaning != Meaning::Expected && self.errors.len() < TOLD_MAX {
            self.errors.push(text());
        }
    }

    /// Once it is known whether remapping was suspended at times: errors that this explains were to be expected.
    pub(crate) fn settle(&mut self, was_suspended: bool) {
        let doubtful = std::mem::take(&mut self.doubtful_errors);
        if was_suspended {
            self.expected_errors += doubtful;
        } else {
            self.unexpected_errors += doubtful;
        }
        if self.unexpected_errors == 0 {
            self.errors.clear();
        }
    }

    /// Adds what somebody else saw.
    pub(crate) fn add(&mut self, other: Self) {
        self.verified_bytes += other.verified_bytes;
        self.wrong_bytes += other.wrong_bytes;
        self.expected_errors += other.expected_errors;
        self.doubtful_errors += other.doubtful_errors;
        self.unexpected_errors += other.unexpected_errors;
        let room = |told: &Vec<String>| TOLD_MAX.saturating_sub(told.len());
        let (wrong, errors) = (room(&self.wrong), room(&self.errors));
        self.wrong.extend(other.wrong.into_iter().take(wrong));
        self.errors.extend(other.errors.into_iter().take(errors));
    }

    /// All as it should be?
    #[cfg(test)]
    pub(crate) fn good(&self) -> bool {
        self.wrong_bytes == 0 && self.unexpected_errors == 0 && self.doubtful_errors == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_counts_and_doubts_are_settled() {
        let mut all = Findings::default();
        for n in 0..20 {
            let mut one = Findings { verified_bytes: 512, ..Findings::default() };
            one.wrong(|| format!("sector {n}"));
            one.error(Meaning::Doubtful, || format!("error {n}"));
            one.error(Meaning::Expected, || unreachable!("not told"));
            all.add(one);
        }
        assert_eq!((all.wrong_bytes, all.wrong.len(), all.errors.len()), (20 * 512, 16, 16));
        let mut suspended = all.clone();
        suspended.settle(true);
        assert_eq!((suspended.expected_errors, suspended.unexpected_errors), (40, 0));
        assert!(suspended.errors.is_empty() && !suspended.good(), "wrong bytes stay wrong");
        all.settle(false);
        assert_eq!((all.expected_errors, all.unexpected_errors), (20, 20));
    }
}
