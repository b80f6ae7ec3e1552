//! The rules of the contract by number, and what breaking one looks like.
//!
//! Invariant: every [`Violation`] names the rule that it breaks. What was seen does not always tell which of several rules let
//! it happen (a write that vanished may be C1, C5, C10 or C11); then the rule is the one that forbids what was seen.

use core::fmt;

/// A rule of the contract (see `remap-core`'s documentation).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// Nothing is acknowledged early.
    C1,
    /// Data before map.
    C2,
    /// Lost stays lost.
    C3,
    /// Only the medium moves a block.
    C4,
    /// Freed late.
    C5,
    /// Bounded.
    C6,
    /// Deterministic core.
    C7,
    /// Refuse, don't guess.
    C8,
    /// Nothing is written to the main device that the client did not write.
    C9,
    /// Idempotent.
    C10,
    /// Concurrent requests cannot be lost by a move.
    C11,
}

impl Rule {
    /// All of them, in order.
    pub const ALL: [Self; 11] = [
        Self::C1,
        Self::C2,
        Self::C3,
        Self::C4,
        Self::C5,
        Self::C6,
        Self::C7,
        Self::C8,
        Self::C9,
        Self::C10,
        Self::C11,
    ];

    /// Its heading.
    #[must_use]
    pub fn heading(self) -> &'static str {
        match self {
            Self::C1 => "nothing is acknowledged early",
            Self::C2 => "data before map",
            Self::C3 => "lost stays lost",
            Self::C4 => "only the medium moves a block",
            Self::C5 => "freed late",
            Self::C6 => "bounded",
            Self::C7 => "deterministic core",
            Self::C8 => "refuse, don't guess",
            Self::C9 => "nothing is written to main that no client wrote",
            Self::C10 => "idempotent",
            Self::C11 => "a move loses no request",
        }
    }

    /// It was broken so.
    #[must_use]
    pub fn broken(self, text: impl Into<String>) -> Violation {
        Violation { rule: self, text: text.into() }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The contract was broken: what was seen, and why it may not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which rule.
    pub rule: Rule,
    /// What was seen.
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.rule, self.rule.heading(), self.text)
    }
}

impl std::error::Error for Violation {}
