//! Sectors as people write them.
//!
//! Invariant: a sector has 512 bytes; what does not fit 64 bits is refused, never wrapped.

use remap_core::units::{Extent, Sector};

/// Why a word is no sector, or no run of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SectorError<'a> {
    /// Not a number, or too large a one.
    #[error("invalid sector '{0}'")]
    Number(&'a str),
    /// Empty, or it ends before it begins.
    #[error("invalid sectors '{0}': write FIRST-LAST or FIRST+COUNT, not empty")]
    Run(&'a str),
}

/// A sector number, decimal or hexadecimal (`0x...`).
#[must_use]
pub fn parse_sector(text: &str) -> Option<u64> {
    let hex = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let (digits, radix) = hex.map_or((text, 10), |hex| (hex, 16));
    // What takes numbers takes a sign too, and a sector has none.
    u64::from_str_radix(digits, radix).ok().filter(|_| !digits.starts_with('+'))
}

/// Sectors of 512 bytes: `A`, `A-B` (both included) or `A+LENGTH`.
///
/// # Errors
/// [`SectorError`].
pub fn parse_sectors(text: &str) -> Result<Extent, SectorError<'_>> {
    let number = |part| parse_sector(part).ok_or(SectorError::Number(part));
    let extent = if let Some((start, len)) = text.split_once('+') {
        Extent::new(Sector(number(start)?), number(len)?)
    } else if let Some((first, last)) = text.split_once('-') {
        let (first, last) = (number(first)?, number(last)?);
        last.checked_add(1).and_then(|end| Extent::between(Sector(first), Sector(end)))
    } else {
        Extent::new(Sector(number(text)?), 1)
    };
    extent.ok_or(SectorError::Run(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString as _;

    #[test]
    fn numbers_and_runs() {
        let run = |text| parse_sectors(text).map(|e| (e.start().0, e.sectors())).map_err(|e| e.to_string());
        assert_eq!(run("7"), Ok((7, 1)));
        assert_eq!(run("0x10+2"), Ok((16, 2)));
        assert_eq!(run("5-9"), Ok((5, 5)));
        for (text, part) in [
            ("", ""),
            ("abc", "abc"),
            ("-1", ""),
            ("+1", ""),
            ("1+-1", "-1"),
            ("99999999999999999999", "99999999999999999999"),
        ] {
            assert_eq!(run(text), Err(SectorError::Number(part).to_string()), "{text}");
        }
        for text in ["9-5", "1+0", "18446744073709551615+2"] {
            assert_eq!(run(text), Err(SectorError::Run(text).to_string()));
        }
    }

    #[test]
    fn sectors_and_ranges() {
        let range =
            |text: &str| parse_sectors(text).map(|e| (e.start().0, e.sectors())).map_err(|e| e.to_string());
        assert_eq!(range("7"), Ok((7, 1)));
        assert_eq!(range("0x10-0x1f"), Ok((16, 16)));
        assert_eq!(range("100+8"), Ok((100, 8)));
        for bad in [
            "",
            "-",
            "9-8",
            "1+0",
            "abc",
            "+5",
            "5-",
            "18446744073709551615",
            "0-18446744073709551615",
            "1--2",
            "0x+5",
            "5-0x+7",
        ] {
            assert!(range(bad).is_err(), "{bad}");
        }
        assert_eq!(range("abc"), Err("invalid sector 'abc'".into()));
    }
}
