//! Reading maps.
//!
//! Invariant: a text is taken whole or refused with the line that is wrong; nothing is skipped silently but comments.

use remap_core::units::{Extent, SECTOR_SIZE, Sector};

use super::{BadMap, Format, RUNS_MAX, Run, Status, flatten, sectors_of};

/// Longest part of a line that an error shows.
const SHOWN_CHARS: usize = 60;

/// Why a map could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem} (it says {text:?})")]
pub struct ParseError {
    /// Line number, from 1; 0 when it is about the text as a whole.
    pub line: usize,
    /// The line, shortened.
    pub text: String,
    /// What is wrong.
    pub problem: Problem,
}

/// What is wrong with a line of a map.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Something else was expected.
    #[error("expected {0}")]
    Expected(&'static str),
    /// The end is beyond 2^64 bytes.
    #[error("the range ends beyond 2^64 bytes; expected a position and size within a device")]
    TooFar,
    /// A range that ends before it begins.
    #[error("the range ends before it begins; expected FIRST-LAST with FIRST at most LAST")]
    Backwards,
    /// ddrescue: bytes that no line describes.
    #[error(
        "bytes {from:#x} to {to:#x} are missing before it; expected every line to begin where the last one ended"
    )]
    Gap {
        /// First byte missing.
        from: u64,
        /// First byte described again.
        to: u64,
    },
    /// ddrescue: bytes that two lines describe.
    #[error("it begins at {from:#x}, before the end of the last one at {to:#x}; expected it to begin there")]
    Overlap {
        /// Where it begins.
        from: u64,
        /// Where the last one ended.
        to: u64,
    },
    /// Too many runs.
    #[error("more than {RUNS_MAX} runs; split the map")]
    TooMany,
    /// No block size was given for block numbers.
    #[error(
        "the block size is not known; give the one that badblocks was run with (its default is 1024 bytes)"
    )]
    BlockSizeMissing,
    /// A block size that cannot be.
    #[error("a block size of {0} bytes; expected a power of two from 512 to 1048576")]
    BlockSize(u32),
    /// Nothing in it.
    #[error("no line of a ddrescue map in it; expected `POSITION SIZE STATUS` lines")]
    Empty,
}

pub(super) fn parse(text: &str, format: Format, block_size: Option<u32>) -> Result<BadMap, ParseError> {
    let general = |problem| ParseError { line: 0, text: String::new(), problem };
    if let Some(size) = block_size
        && !(size.is_power_of_two() && (512..=1 << 20).contains(&size))
    {
        return Err(general(Problem::BlockSize(size)));
    }
    // Some editors begin a file with a byte-order mark.
    let text = text.trim_start_matches('\u{feff}');
    let format = if format == Format::Auto { detect(text, block_size) } else { format };
    match (format, block_size) {
        (Format::Ddrescue, _) => ddrescue(text),
        (Format::Badblocks, Some(size)) => list(text, u64::from(size)),
        (Format::Badblocks, None) => Err(general(Problem::BlockSizeMissing)),
        _ => list(text, SECTOR_SIZE),
    }
}

/// Lines with something on them: number from 1, text without comment.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    (text.split('\n').enumerate())
        .map(|(index, line)| (index + 1, line.split('#').next().unwrap_or_default().trim()))
        .filter(|(_, line)| !line.is_empty())
}

fn detect(text: &str, block_size: Option<u32>) -> Format {
    let is_status = |word: &str| {
        let mut chars = word.chars();
        matches!((chars.next(), chars.next()), (Some(c), None) if phase(c) || Status::of(c).is_some())
    };
    let first = lines(text).next().map(|(_, line)| line).unwrap_or_default();
    let mut words = first.split_whitespace().skip(1);
    // A comment says it too: a map file that is still empty has nothing else.
    let titled = text.lines().take_while(|line| line.starts_with('#')).any(|line| line.contains("ddrescue"));
    if words.next().is_some_and(is_status) || words.next().is_some_and(is_status) || titled {
        Format::Ddrescue
    } else if block_size.is_some() && lines(text).all(|(_, line)| line.bytes().all(|b| b.is_ascii_digit())) {
        Format::Badblocks
    } else {
        Format::List
    }
}

/// What ddrescue was doing: the statuses, filling (`F`), generating (`G`), finished (`+`).
fn phase(c: char) -> bool {
    matches!(c, 'F' | 'G') || Status::of(c).is_some()
}

/// The first line says where ddrescue was: `POSITION PHASE [PASS]`. All others: `POSITION SIZE STATUS`.
fn ddrescue(text: &str) -> Result<BadMap, ParseError> {
    let mut runs = Vec::new();
    let mut end = None;
    for (index, (line, words)) in lines(text).enumerate() {
        let fail = |problem| failure(line, words, problem);
        let expected = |what| fail(Problem::Expected(what));
        let words: Vec<&str> = words.split_whitespace().take(4).collect();
        let symbol = |word: &str| word.parse::<char>().ok();
        match words[..] {
            [at, what, ref pass @ ..] if index == 0 && pass.len() <= 1 && symbol(what).is_some_and(phase) => {
                number(at).ok_or_else(|| expected("the current position as a decimal or 0x number"))?;
                if pass.first().is_some_and(|pass| number(pass).is_none()) {
                    return Err(expected("the number of the current pass"));
                }
            }
            [at, size, status] => {
                let at = number(at).ok_or_else(|| expected("a position in bytes, decimal or 0x"))?;
                let size = number(size).ok_or_else(|| expected("a size in bytes, decimal or 0x"))?;
                let status = symbol(status)
                    .and_then(Status::of)
                    .ok_or_else(|| expected("a status: one of ? (not tried) * / - (bad) + (read)"))?;
                let next = at.checked_add(size).ok_or_else(|| fail(Problem::TooFar))?;
                match end {
                    Some(end) if at > end => return Err(fail(Problem::Gap { from: end, to: at })),
                    Some(end) if at < end => return Err(fail(Problem::Overlap { from: at, to: end })),
                    _ => end = Some(next),
                }
                if let Some(extent) = sectors_of(at, next, status) {
                    runs.push(Run { extent, status });
                }
                if runs.len() > RUNS_MAX {
                    return Err(fail(Problem::TooMany));
                }
            }
            _ if index == 0 => return Err(expected("`POSITION PHASE [PASS]`, as in `0x1000 + 1`")),
            _ => return Err(expected("`POSITION SIZE STATUS`, as in `0x1000 0x200 -`")),
        }
    }
    if end.is_none() {
        return Err(ParseError { line: 0, text: String::new(), problem: Problem::Empty });
    }
    runs.sort_unstable_by_key(|run| (run.extent.start(), run.extent.end()));
    Ok(BadMap { runs: flatten(&runs) })
}

/// Numbers and ranges of units of `unit` bytes, all of them bad.
fn list(text: &str, unit: u64) -> Result<BadMap, ParseError> {
    let mut runs = Vec::new();
    for (line, whole) in lines(text) {
        for item in whole.split([';', ',', ' ', '\t']).filter(|item| !item.is_empty()) {
            let fail = |problem| failure(line, item, problem);
            let (first, last) = item.split_once('-').unwrap_or((item, item));
            let expected =
                || fail(Problem::Expected("a number such as 4711 or 0x1267, or a range such as 100-199"));
            let (first, last) = (number(first).ok_or_else(expected)?, number(last).ok_or_else(expected)?);
            if first > last {
                return Err(fail(Problem::Backwards));
            }
            let start = first.checked_mul(unit);
            let end = last.checked_add(1).and_then(|end| end.checked_mul(unit));
            let (Some(start), Some(end)) = (start, end) else { return Err(fail(Problem::TooFar)) };
            let extent = Extent::between(Sector(start / SECTOR_SIZE), Sector(end / SECTOR_SIZE));
            runs.extend(extent.map(|extent| Run { extent, status: Status::Bad }));
            if runs.len() > RUNS_MAX {
                return Err(fail(Problem::TooMany));
            }
        }
    }
    runs.sort_unstable_by_key(|run| (run.extent.start(), run.extent.end()));
    Ok(BadMap { runs: flatten(&runs) })
}

fn failure(line: usize, text: &str, problem: Problem) -> ParseError {
    ParseError { line, text: text.chars().take(SHOWN_CHARS).collect(), problem }
}

/// Decimal or `0x` number.
fn number(word: &str) -> Option<u64> {
    let (digits, radix) = match word.strip_prefix("0x").or_else(|| word.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None => (word, 10),
    };
    // from_str_radix takes a sign.
    digits.bytes().all(|b| b.is_ascii_alphanumeric()).then(|| u64::from_str_radix(digits, radix).ok())?
}
