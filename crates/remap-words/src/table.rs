//! The table line of the device-mapper target, in the three grammars that it answers to.
//!
//! Invariant: a line that is taken names one main device and 1 to 16 spares, and every word of it was understood.
//!
//! ```text
//! dm-remap     <main> <spare> [<start> <sectors>] [<#words> <option>...]
//! remap        <main> <spare> <start> <sectors>
//! dm-remap-v4  <main> <spare>
//! ```
//! `start` and `sectors` say which slice of the spare is used, in sectors of 512 bytes. Options: see [`OPTIONS`].

use arrayvec::ArrayVec;
use remap_format::{MAX_SPARES, Policy};

use crate::sectors::parse_sector;

/// The options of `dm-remap`, as the refusal of an unknown one lists them.
pub const OPTIONS: &str = "spare <device>, spare_slice <device> <start> <sectors>, block_size <bytes>, \
                           policy rewrite-then-remap|remap-only, max_remaps <blocks>, status v2|v4, adopt blank|force|never, \
                           any_main, any_state";

/// Which target the line is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grammar {
    /// `dm-remap`.
    Own,
    /// `remap`: four words.
    Four,
    /// `dm-remap-v4`: two words.
    Two,
}

/// A spare of the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpareWord {
    /// Which word names the device.
    pub word: usize,
    /// First sector of its slice.
    pub start: u64,
    /// Sectors of the slice; 0: up to the end of the device.
    pub sectors: u64,
}

/// Which status line is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// The line of version 2.0.
    #[default]
    V2,
    /// 31 words with those of device-mapper.
    V4,
}

/// What may become of a spare that holds no volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Adopt {
    /// It becomes one if it holds nothing that is known.
    #[default]
    Blank,
    /// It becomes one, whatever it holds.
    Force,
    /// Nothing: only a volume that there is already is served.
    Never,
}

/// A line that was understood. The main device is its first word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableLine {
    /// The spares, at least one.
    pub spares: ArrayVec<SpareWord, MAX_SPARES>,
    /// Bytes; `None`: what the volume has, 4096 for a volume that is made.
    pub block_size: Option<u32>,
    /// `None`: the volume's own.
    pub policy: Option<Policy>,
    /// Most blocks on spares.
    pub max_remaps: Option<u64>,
    /// Which status line.
    pub form: Form,
    /// What may become of a blank spare.
    pub adopt: Adopt,
    /// Serve this main device though it is not the one that was adopted.
    pub any_main: bool,
    /// Serve a volume that was released.
    pub any_state: bool,
}

/// Why a line was not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError<'a> {
    /// The number of words is wrong.
    #[error("Invalid argument count: {0}")]
    Count(&'static str),
    /// Not a sector number.
    #[error("Invalid spare start sector '{0}': a number of 512-byte sectors")]
    Start(&'a str),
    /// Not a length.
    #[error("Invalid spare length '{0}': a number of 512-byte sectors, at least 1")]
    Length(&'a str),
    /// The words behind the devices do not begin with their number.
    #[error("{found} words follow '{said}': options are counted, as in '2 policy remap-only'")]
    OptionCount {
        /// What stands there.
        said: &'a str,
        /// How many words follow.
        found: usize,
    },
    /// No such option.
    #[error("unknown option '{0}' (there are: {OPTIONS})")]
    Option(&'a str),
    /// The option lacks words.
    #[error("option '{0}' needs more words (options: {OPTIONS})")]
    Missing(&'a str),
    /// The option has a value that it does not know.
    #[error("option '{option}' does not take '{value}' (options: {OPTIONS})")]
    Value {
        /// Which.
        option: &'static str,
        /// What it got.
        value: &'a str,
    },
    /// Too many spares.
    #[error("a volume has at most {MAX_SPARES} spares")]
    Spares,
}

const OWN: &str = "dm-remap <main> <spare> [<start> <sectors>] [<#words> <option>...]";
const FOUR: &str = "need: <main_dev> <spare_dev> <spare_start> <spare_len>";
const TWO: &str = "dm-remap-v4 <main_device> <spare_device>";

/// Reads the words of a line (those behind the target's name).
///
/// # Errors
/// [`TableError`].
pub fn parse<'a>(grammar: Grammar, words: &[&'a str]) -> Result<TableLine, TableError<'a>> {
    let mut line = TableLine {
        spares: ArrayVec::new(),
        block_size: None,
        policy: None,
        max_remaps: None,
        form: if grammar == Grammar::Two { Form::V4 } else { Form::V2 },
        adopt: Adopt::Blank,
        any_main: false,
        any_state: false,
    };
    let whole = SpareWord { word: 1, start: 0, sectors: 0 };
    match (grammar, words) {
        (Grammar::Two, [_, _]) => line.spares.push(whole),
        (Grammar::Two, _) => return Err(TableError::Count(TWO)),
        (Grammar::Four, [_, _, start, sectors]) => line.spares.push(slice(1, start, sectors)?),
        (Grammar::Four, _) => return Err(TableError::Count(FOUR)),
        (Grammar::Own, [_, _]) => line.spares.push(whole),
        // A slice has two numbers; the first option is a word.
        (Grammar::Own, [_, _, start, sectors, rest @ ..]) if parse_sector(sectors).is_some() => {
            line.spares.push(slice(1, start, sectors)?);
            options(&mut line, 4, rest)?;
        }
        (Grammar::Own, [_, _, rest @ ..]) => {
            line.spares.push(whole);
            options(&mut line, 2, rest)?;
        }
        (Grammar::Own, _) => return Err(TableError::Count(OWN)),
    }
    Ok(line)
}

fn slice<'a>(word: usize, start: &'a str, sectors: &'a str) -> Result<SpareWord, TableError<'a>> {
    let first = parse_sector(start).ok_or(TableError::Start(start))?;
    let len = parse_sector(sectors).filter(|&len| len > 0 && first.checked_add(len).is_some());
    Ok(SpareWord { word, start: first, sectors: len.ok_or(TableError::Length(sectors))? })
}

/// The counted options; `at` is the number of words in front.
fn options<'a>(line: &mut TableLine, at: usize, words: &[&'a str]) -> Result<(), TableError<'a>> {
    let Some((said, mut rest)) = words.split_first() else { return Ok(()) };
    if said.parse() != Ok(rest.len()) {
        return Err(TableError::OptionCount { said, found: rest.len() });
    }
    while let Some((option, values)) = rest.split_first() {
        let word = at + words.len() - values.len();
        let taken = one_option(line, word, option, values)?;
        rest = values.get(taken..).unwrap_or(&[]);
    }
    Ok(())
}

/// One option, whose first value would be word number `word`; gives the number of values that it took.
fn one_option<'a>(
    line: &mut TableLine,
    word: usize,
    option: &'a str,
    values: &[&'a str],
) -> Result<usize, TableError<'a>> {
    let spare = |line: &mut TableLine, spare| line.spares.try_push(spare).map_err(|_| TableError::Spares);
    let value = |option, value| TableError::Value { option, value };
    match (option, values) {
        ("any_main", _) => line.any_main = true,
        ("any_state", _) => line.any_state = true,
        ("spare", [_, ..]) => spare(line, SpareWord { word, start: 0, sectors: 0 })?,
        ("spare_slice", [_, start, sectors, ..]) => spare(line, slice(word, start, sectors)?)?,
        ("block_size", [bytes, ..]) => {
            let fits = |b: &u32| b.is_power_of_two() && (512..=65536).contains(b);
            line.block_size = Some(bytes.parse().ok().filter(fits).ok_or(value("block_size", bytes))?);
        }
        ("policy", ["rewrite-then-remap", ..]) => line.policy = Some(Policy::RewriteThenRemap),
        ("policy", ["remap-only", ..]) => line.policy = Some(Policy::RemapOnly),
        ("policy", [other, ..]) => return Err(value("policy", other)),
        ("max_remaps", [blocks, ..]) => {
            let most = blocks.parse().ok().filter(|&blocks| blocks > 0);
            line.max_remaps = Some(most.ok_or(value("max_remaps", blocks))?);
        }
        ("status", ["v2", ..]) => line.form = Form::V2,
        ("status", ["v4", ..]) => line.form = Form::V4,
        ("status", [other, ..]) => return Err(value("status", other)),
        ("adopt", ["blank", ..]) => line.adopt = Adopt::Blank,
        ("adopt", ["force", ..]) => line.adopt = Adopt::Force,
        ("adopt", ["never", ..]) => line.adopt = Adopt::Never,
        ("adopt", [other, ..]) => return Err(value("adopt", other)),
        ("spare" | "spare_slice" | "block_size" | "policy" | "max_remaps" | "status" | "adopt", _) => {
            return Err(TableError::Missing(option));
        }
        (other, _) => return Err(TableError::Option(other)),
    }
    Ok(match option {
        "any_main" | "any_state" => 0,
        "spare_slice" => 3,
        _ => 1,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::{String, ToString as _};
    use std::vec::Vec;

    fn read(grammar: Grammar, line: &str) -> Result<TableLine, String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        parse(grammar, &words).map_err(|error| error.to_string())
    }

    #[test]
    fn the_old_lines() {
        let two = read(Grammar::Two, "/dev/a /dev/b").expect("two words");
        assert_eq!(
            (two.form, two.spares.as_slice()),
            (Form::V4, &[SpareWord { word: 1, start: 0, sectors: 0 }][..])
        );
        let four = read(Grammar::Four, "8:0 8:16 2048 4096").expect("four words");
        assert_eq!(four.spares.as_slice(), [SpareWord { word: 1, start: 2048, sectors: 4096 }]);
        assert_eq!(four.form, Form::V2);
        for (grammar, line) in [
            (Grammar::Two, "/dev/a"),
            (Grammar::Two, "/dev/a /dev/b 1 any_main"),
            (Grammar::Four, "/dev/a /dev/b"),
            (Grammar::Four, "/dev/a /dev/b 0"),
            (Grammar::Own, "/dev/a"),
            (Grammar::Own, ""),
        ] {
            assert!(read(grammar, line).is_err_and(|e| e.starts_with("Invalid argument count")), "{line}");
        }
        for (line, text) in [
            ("a b x 1", "Invalid spare start"),
            ("a b 0 x", "Invalid spare length"),
            ("a b 0 0", "Invalid spare length"),
            ("a b 18446744073709551615 2", "Invalid spare length"),
        ] {
            assert!(read(Grammar::Four, line).is_err_and(|e| e.starts_with(text)), "{line}");
        }
    }

    #[test]
    fn options_are_counted_and_named() {
        let line = read(
            Grammar::Own,
            "a b 0 800 9 block_size 8192 policy remap-only max_remaps 5 any_main status v4",
        );
        let line = line.expect("a good line");
        assert_eq!((line.block_size, line.policy), (Some(8192), Some(Policy::RemapOnly)));
        assert_eq!((line.max_remaps, line.any_main, line.form), (Some(5), true, Form::V4));
        let line =
            read(Grammar::Own, "a b 8 spare c spare_slice d 8 800 adopt force").expect("several spares");
        let words: Vec<_> = line.spares.iter().map(|s| (s.word, s.start, s.sectors)).collect();
        assert_eq!(words, [(1, 0, 0), (4, 0, 0), (6, 8, 800)]);
        assert_eq!(line.adopt, Adopt::Force);
        assert_eq!(read(Grammar::Own, "a b 0"), read(Grammar::Own, "a b"));
        for (line, text) in [
            ("a b 2 any_main", "1 words follow '2'"),
            ("a b any_main", "0 words follow 'any_main'"),
            ("a b 1 bogus", "unknown option 'bogus'"),
            ("a b 1 policy", "option 'policy' needs more words"),
            ("a b 2 policy maybe", "option 'policy' does not take 'maybe'"),
            ("a b 2 block_size 1000", "option 'block_size' does not take '1000'"),
            ("a b 2 max_remaps 0", "option 'max_remaps' does not take '0'"),
            ("a b 3 spare_slice c 1", "option 'spare_slice' needs more words"),
        ] {
            assert!(
                read(Grammar::Own, line).is_err_and(|e| e.starts_with(text)),
                "{line}: {:?}",
                read(Grammar::Own, line)
            );
        }
        let many = std::format!("a b 32 {}", "spare c ".repeat(16));
        assert_eq!(read(Grammar::Own, &many), Err("a volume has at most 16 spares".into()));
    }
}
