//! Reading drill specifications: `KEY=VALUE`, separated by commas.
//!
//! Invariant: every key is known, has a value that makes sense, and is given at most once.

use std::time::Duration;

use rustix::io::Errno;

use super::{Bad, KEYS, Moment, On, Spec};
use crate::badmap::{Format, Status};

/// What is wrong with a specification.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("drill, at character {position} (`{item}`): {problem}")]
pub struct SyntaxError {
    /// Where the item begins, in characters from 1.
    pub position: usize,
    /// The item.
    pub item: String,
    /// What is wrong with it and what would do.
    pub problem: String,
}

const ERRNOS: [(&str, Errno); 11] = [
    ("EIO", Errno::IO),
    ("ENODATA", Errno::NODATA),
    ("EILSEQ", Errno::ILSEQ),
    ("ENOLINK", Errno::NOLINK),
    ("ETIMEDOUT", Errno::TIMEDOUT),
    ("ENODEV", Errno::NODEV),
    ("ENXIO", Errno::NXIO),
    ("ENOSPC", Errno::NOSPC),
    ("EREMOTEIO", Errno::REMOTEIO),
    ("EOPNOTSUPP", Errno::OPNOTSUPP),
    ("EINVAL", Errno::INVAL),
];

pub(super) fn parse(text: &str) -> Result<Spec, SyntaxError> {
    let mut spec = Spec {
        bad: None,
        format: Format::Auto,
        block: None,
        statuses: vec![Status::Bad],
        errno: Errno::IO,
        on: On { read: true, write: true, flush: false },
        heal: false,
        latency: Duration::ZERO,
        bad_latency: Duration::ZERO,
        gone_after: None,
        gone_for: None,
        after: None,
        never_after: None,
        rate: 0,
        seed: 1,
        state: None,
        cache: None,
    };
    let mut seen: Vec<&str> = Vec::new();
    let mut position = 1;
    for item in text.split(',') {
        let fail = |problem| SyntaxError { position, item: item.to_owned(), problem };
        let (key, value) = match item.split_once('=') {
            Some((key, value)) => (key.trim(), Some(value.trim())),
            None => (item.trim(), None),
        };
        if seen.contains(&key) {
            return Err(fail(format!("the key `{key}` is given twice; give it once")));
        }
        set(&mut spec, key, value).map_err(fail)?;
        seen.push(key);
        position += item.chars().count() + 1;
    }
    let whole =
        |problem: &str| SyntaxError { position: 1, item: text.to_owned(), problem: problem.to_owned() };
    if spec.heal && spec.bad.is_none() {
        return Err(whole("`heal` needs bad sectors; add `bad=`"));
    }
    if spec.state.is_some() && !spec.heal {
        return Err(whole("`state` remembers healed sectors; add `heal`"));
    }
    if spec.rate > 0 && spec.bad.is_some() {
        return Err(whole("`rate` and `bad` exclude each other; stack two drills"));
    }
    if spec.gone_for.is_some() && !same_kind(spec.gone_after, spec.gone_for) {
        return Err(whole(
            "`gone-for` needs a `gone-after` of the same kind (both times, or both operations)",
        ));
    }
    Ok(spec)
}

fn same_kind(a: Option<Moment>, b: Option<Moment>) -> bool {
    matches!(
        (a, b),
        (Some(Moment::Time(_)), Some(Moment::Time(_)))
            | (Some(Moment::Operations(_)), Some(Moment::Operations(_)))
    )
}

fn set(spec: &mut Spec, key: &str, value: Option<&str>) -> Result<(), String> {
    if key == "heal" {
        return match value {
            None => {
                spec.heal = true;
                Ok(())
            }
            Some(_) => Err("`heal` takes no value; leave out the `=`".to_owned()),
        };
    }
    if !KEYS.iter().any(|(known, _)| *known == key) {
        let known: Vec<&str> = KEYS.iter().map(|(known, _)| *known).collect();
        return Err(format!("unknown key `{key}`; known keys: {}", known.join(", ")));
    }
    let Some(value) = value.filter(|value| !value.is_empty()) else {
        return Err(format!("the key `{key}` needs a value; write `{key}=...`"));
    };
    match key {
        "bad" => {
            spec.bad = Some(match value.strip_prefix("sectors:") {
                Some(list) => Bad::Sectors(list.to_owned()),
                None => Bad::File(value.into()),
            });
        }
        "format" => {
            spec.format = Format::named(value)
                .ok_or_else(|| format!("expected one of {}", Format::NAMES.join(", ")))?;
        }
        "block" => {
            spec.block = Some(value.parse().map_err(|_| "expected a block size in bytes, such as 4096")?)
        }
        "statuses" => {
            let statuses: Option<Vec<Status>> = value.chars().map(Status::of).collect();
            spec.statuses = statuses.ok_or("expected some of the characters - * / ? +")?;
        }
        "errno" => {
            let found = ERRNOS.iter().find(|(name, _)| *name == value);
            let names = || ERRNOS.map(|(name, _)| name).join(", ");
            spec.errno = found.ok_or_else(|| format!("expected one of {}", names()))?.1;
        }
        "on" => spec.on = on(value).ok_or("expected read, write, both, flush or all")?,
        "latency" => spec.latency = duration(value).ok_or(DURATION)?,
        "bad-latency" => spec.bad_latency = duration(value).ok_or(DURATION)?,
        "gone-after" => spec.gone_after = Some(moment(value).ok_or(MOMENT)?),
        "gone-for" => spec.gone_for = Some(moment(value).ok_or(MOMENT)?),
        "after" => spec.after = Some(moment(value).ok_or(MOMENT)?),
        "never-after" => spec.never_after = Some(value.parse().map_err(|_| "expected a number of errors")?),
        "rate" => spec.rate = rate(value).ok_or("expected a number from 0 to 1, such as 0.001")?,
        "volatile-cache" => spec.cache = Some(size(value).ok_or(SIZE)?),
        "seed" => spec.seed = value.parse().map_err(|_| "expected a whole number")?,
        _ => spec.state = Some(value.into()),
    }
    Ok(())
}

const DURATION: &str = "expected a time such as 500us, 5ms, 2s or 1min";
const SIZE: &str = "expected a size such as 65536, 512K, 64M or 1G";
const MOMENT: &str = "expected a time such as 5ms or 10s, or a number of operations such as 100ops";

/// Bytes, more than none.
fn size(value: &str) -> Option<u64> {
    let (number, shift) = match value.strip_suffix(['K', 'M', 'G']) {
        Some(number) if value.ends_with('K') => (number, 10),
        Some(number) if value.ends_with('M') => (number, 20),
        Some(number) => (number, 30),
        None => (value, 0),
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift).filter(|&bytes| bytes > 0)
}

fn on(value: &str) -> Option<On> {
    let (read, write, flush) = match value {
        "read" => (true, false, false),
        "write" => (false, true, false),
        "both" => (true, true, false),
        "flush" => (false, false, true),
        "all" => (true, true, true),
        _ => return None,
    };
    Some(On { read, write, flush })
}

fn moment(value: &str) -> Option<Moment> {
    match value.strip_suffix("ops") {
        Some(count) => count.parse().ok().map(Moment::Operations),
        None => duration(value).map(Moment::Time),
    }
}

fn duration(value: &str) -> Option<Duration> {
    let digits = value.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = (value[..digits].parse::<u64>().ok()?, &value[digits..]);
    match unit {
        "us" => Some(Duration::from_micros(number)),
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "min" => number.checked_mul(60).map(Duration::from_secs),
        _ => None,
    }
}

/// A share of 1 as a share of 2^32: decimal digits, no floating point, so that a seed means the same everywhere.
fn rate(value: &str) -> Option<u64> {
    let (whole, part) = value.split_once('.').unwrap_or((value, ""));
    if !whole.bytes().chain(part.bytes()).all(|b| b.is_ascii_digit()) || whole.is_empty() || part.len() > 9 {
        return None;
    }
    let scale = 10_u64.pow(u32::try_from(part.len()).ok()?);
    let part = if part.is_empty() { 0 } else { part.parse::<u64>().ok()? };
    let value = whole.parse::<u64>().ok()?.checked_mul(scale)?.checked_add(part)?;
    (value <= scale)
        .then(|| (u128::from(value) << 32) / u128::from(scale))
        .and_then(|rate| u64::try_from(rate).ok())
}
