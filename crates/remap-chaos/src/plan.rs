//! What happens in each life of a server, from a seed.
//!
//! Invariant: a plan asks for nothing beyond what docs/faults.md promises to survive: copies are damaged only when all five
//! were in step, and at most four of them.

use std::time::Duration;

use remap_sim::rng::Rng;

/// Shortest and longest load between kills.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Pace {
    from: Duration,
    to: Duration,
}

/// Parses `0.2..1.5`, in seconds.
pub(crate) fn parse_pace(text: &str) -> Result<Pace, String> {
    let (from, to) = text.split_once("..").ok_or("write a range of seconds as A..B")?;
    let seconds = |s: &str| {
        let number = s.parse::<f64>().map_err(|e| format!("'{s}': {e}"))?;
        Duration::try_from_secs_f64(number).map_err(|e| format!("'{s}': {e}"))
    };
    let pace = Pace { from: seconds(from)?, to: seconds(to)? };
    if pace.from <= pace.to { Ok(pace) } else { Err("the range is empty".into()) }
}

impl Pace {
    fn pick(self, rng: &mut Rng) -> Duration {
        let range = u64::try_from((self.to - self.from).as_micros()).unwrap_or(u64::MAX);
        self.from + Duration::from_micros(rng.below(range.saturating_add(1)))
    }
}

/// How a life ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum End {
    /// SIGKILL so soon after the start that it reads, repairs or has just begun to serve: at this share, in thousandths, of
    /// the time that the last start took.
    Starting(u32),
    /// SIGKILL after so much load.
    Load(Duration),
    /// SIGTERM after so much load.
    Stop(Duration),
}

impl End {
    /// How long clients work before it.
    pub(crate) fn load(self) -> Duration {
        match self {
            Self::Starting(_) => Duration::ZERO,
            Self::Load(load) | Self::Stop(load) => load,
        }
    }
}

/// What else is wrong with the devices in a life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The main device is slow.
    Slow,
    /// The path to the main device fails now and then.
    MainPath,
    /// The main device vanishes for a while.
    MainGone,
    /// The path to the spare fails now and then.
    SparePath,
    /// So many copies do not take journal records.
    Copies(u8),
}

impl Trouble {
    /// Requests may fail although no sector is bad.
    pub(crate) fn fails_requests(self) -> bool {
        self != Self::Slow
    }

    /// Copies may be out of step when the life ends.
    pub(crate) fn touches_metadata(self) -> bool {
        matches!(self, Self::SparePath | Self::Copies(_))
    }
}

/// One life.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Life {
    pub(crate) end: End,
    pub(crate) trouble: Option<Trouble>,
    /// More sectors go bad before it starts.
    pub(crate) more_bad: bool,
    /// So many copies are damaged before it starts, if all were in step.
    pub(crate) damage: u8,
    /// Of this life's drills and requests.
    pub(crate) seed: u64,
    /// The kill takes everything above the server, too (always so with a volatile cache).
    pub(crate) whole: bool,
}

impl Life {
    /// The next one. `rough`: the devices may be in trouble that fails requests.
    pub(crate) fn next(rng: &mut Rng, pace: Pace, rough: bool) -> Self {
        let load = pace.pick(rng);
        let end = match rng.below(20) {
            0..=3 => End::Starting(u32::try_from(rng.below(1200)).unwrap_or(0)),
            4 => End::Stop(load),
            _ => End::Load(load),
        };
        let trouble = match rng.below(if rough { 16 } else { 64 }) {
            0 => Some(Trouble::Slow),
            1 if rough => Some(Trouble::MainPath),
            2 if rough => Some(Trouble::MainGone),
            3 if rough => Some(Trouble::SparePath),
            4 | 5 if rough => Some(Trouble::Copies(1 + u8::try_from(rng.below(3)).unwrap_or(0))),
            _ => None,
        };
        Self {
            end,
            trouble,
            more_bad: rng.chance(1, 2),
            damage: if rng.chance(1, 3) { 1 + u8::try_from(rng.below(4)).unwrap_or(0) } else { 0 },
            seed: rng.next_u64() >> 16,
            whole: rng.chance(1, 2),
        }
    }

    /// A last life in which nothing goes wrong any more.
    pub(crate) fn last() -> Self {
        Self {
            end: End::Stop(Duration::ZERO),
            trouble: None,
            more_bad: false,
            damage: 0,
            seed: 0,
            whole: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_is_a_range_of_seconds() {
        let pace = parse_pace("0.2..1.5").expect("a range");
        let mut rng = Rng::seeded(1);
        for _ in 0..100 {
            let picked = pace.pick(&mut rng);
            assert!(picked >= pace.from && picked <= pace.to);
        }
        for bad in ["1", "2..1", "a..b", "-1..2", "0..inf"] {
            assert!(parse_pace(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn plans_follow_from_the_seed_and_stay_inside_the_promise() {
        let lives = |seed| {
            let mut rng = Rng::seeded(seed);
            let pace = parse_pace("0..1").expect("a range");
            (0..500).map(|_| Life::next(&mut rng, pace, true)).collect::<Vec<_>>()
        };
        assert_eq!(format!("{:?}", lives(7)), format!("{:?}", lives(7)));
        let lives = lives(7);
        assert!(lives.iter().all(|life| life.damage <= 4));
        assert!(lives.iter().any(|life| life.damage == 4));
        assert!(lives.iter().any(|life| matches!(life.end, End::Starting(_))));
        assert!(lives.iter().any(|life| life.trouble == Some(Trouble::Copies(3))));
    }
}
