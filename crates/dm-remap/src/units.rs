//! Sizes, sectors and times as people write and read them.
//!
//! Invariant: a size is in bytes, a sector is 512 bytes; what does not fit 64 bits is refused, never wrapped.

use std::time::Duration;

use remap_core::units::SECTOR_SIZE;

const SIZE_FORMS: &str = "write bytes, or a number with K, M, G, T (or KiB, MiB, ...; KB, MB, ... for powers of 1000) \
                          or s for sectors of 512 bytes, such as 64M or 123s";

/// Units of a size, by their lower-case names.
const UNITS: [(&str, u64); 17] = [
    ("", 1),
    ("b", 1),
    ("s", SECTOR_SIZE),
    ("k", 1 << 10),
    ("m", 1 << 20),
    ("g", 1 << 30),
    ("t", 1 << 40),
    ("p", 1 << 50),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
    ("pib", 1 << 50),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
];

/// A size in bytes, such as `4096`, `64M`, `1.5GiB`, `123s`.
///
/// # Errors
/// What is wrong, in words.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let refuse = || format!("'{text}' is not a size: {SIZE_FORMS}");
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim().to_ascii_lowercase();
    let factor =
        UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor).ok_or_else(refuse)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole: u64 = whole.parse().map_err(|_| refuse())?;
    let too_large = || format!("'{text}' is more than 2^64 bytes");
    let bytes = whole.checked_mul(factor).ok_or_else(too_large)?;
    if fraction.is_empty() {
        return if number.ends_with('.') { Err(refuse()) } else { Ok(bytes) };
    }
    // Nine digits are exact enough for any size that a person types.
    let digits = fraction.len().min(9);
    let part: u64 = fraction.get(..digits).and_then(|f| f.parse().ok()).ok_or_else(refuse)?;
    let scale = 10_u128.pow(u32::try_from(digits).unwrap_or(9));
    let part = u64::try_from(u128::from(part) * u128::from(factor) / scale).map_err(|_| too_large())?;
    bytes.checked_add(part).ok_or_else(too_large)
}

/// A block size: a power of two from 512 to 65536 bytes.
///
/// # Errors
/// What is wrong, in words.
pub(crate) fn parse_block_size(text: &str) -> Result<u32, String> {
    let bytes = parse_size(text)?;
    u32::try_from(bytes)
        .ok()
        .filter(|b| b.is_power_of_two() && (512..=65536).contains(b))
        .ok_or_else(|| format!("'{text}': a block size is a power of two from 512 to 64K"))
}

/// A time, such as `30s`, `500ms`, `2m`; a plain number counts seconds.
///
/// # Errors
/// What is wrong, in words.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let refuse = || format!("'{text}' is not a time: write it as 500ms, 30s or 2m, above zero");
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| refuse())?;
    let factor_ms = match unit {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        _ => return Err(refuse()),
    };
    number.checked_mul(factor_ms).filter(|ms| *ms > 0).map(Duration::from_millis).ok_or_else(refuse)
}

/// Bytes for people: `64.0 MiB`, exact below 1 KiB.
pub(crate) fn format_size(bytes: u64) -> String {
    const NAMES: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut exponent = (63 - bytes.leading_zeros()) / 10;
    let tenths = |exponent: u32| {
        let unit = 1_u128 << (10 * exponent);
        (u128::from(bytes) * 10 + unit / 2) / unit
    };
    // 1023.96 KiB is better said as 1.0 MiB.
    if tenths(exponent) >= 10_240 && exponent < 6 {
        exponent += 1;
    }
    let tenths = tenths(exponent);
    let name = NAMES[usize::try_from(exponent).unwrap_or(1).clamp(1, 6) - 1];
    format!("{}.{} {name}", tenths / 10, tenths % 10)
}

/// A count for people: `1 block`, `2 blocks`.
pub(crate) fn format_count(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// Sectors for people, with their size: `13 sectors (6.5 KiB)`.
pub(crate) fn format_sectors(sectors: u64) -> String {
    format!("{} ({})", format_count(sectors, "sector"), format_size(sectors.saturating_mul(SECTOR_SIZE)))
}

/// A span of time for people: `3d 4h`, `5m 12s`, `7s`.
pub(crate) fn format_duration(span: Duration) -> String {
    let s = span.as_secs();
    match s {
        0..=59 => format!("{s}s"),
        60..=3599 => format!("{}m {}s", s / 60, s % 60),
        3600..=86399 => format!("{}h {}m", s / 3600, s / 60 % 60),
        _ => format!("{}d {}h", s / 86400, s / 3600 % 24),
    }
}

/// Seconds since 1970 as UTC: `2026-11-21T13:20:15Z`.
pub(crate) fn format_time(unix_s: u64) -> String {
    let (days, s) = (unix_s / 86400, unix_s % 86400);
    // Days to a date, by eras of 400 years that begin on March 1st.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", s / 3600, s / 60 % 60, s % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_with_units() {
        let size = |text: &str| parse_size(text).unwrap();
        assert_eq!(size("4096"), 4096);
        assert_eq!(size("4K"), 4096);
        assert_eq!(size("64MiB"), 64 << 20);
        assert_eq!(size("1.5g"), 3 << 29);
        assert_eq!(size("123s"), 123 * 512);
        assert_eq!(size("2MB"), 2_000_000);
        for bad in
            ["", "K", "-1", "1..5", "1.", ".5K", "12x", "1 2", "99999999999T", "18446744073709551616", "0x10"]
        {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_block_size("4K"), Ok(4096));
        for bad in ["256", "3K", "128K", "0"] {
            assert!(parse_block_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_for_people() {
        assert_eq!(format_size(0), "0 B");
        assert_eq!(format_size(1023), "1023 B");
        assert_eq!(format_size(1536), "1.5 KiB");
        assert_eq!(format_size((1 << 20) - 1), "1.0 MiB");
        assert_eq!(format_size(64 << 20), "64.0 MiB");
        assert_eq!(format_size(u64::MAX), "16.0 EiB");
        assert_eq!(format_sectors(1), "1 sector (512 B)");
    }

    #[test]
    fn times() {
        assert_eq!(parse_duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(parse_duration("5"), Ok(Duration::from_secs(5)));
        for bad in ["", "0", "s", "-1s", "1y", "99999999999999999999s", "9999999999999999999h"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
        assert_eq!(format_time(0), "1970-01-01T00:00:00Z");
        assert_eq!(format_time(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(format_time(1_795_267_215), "2026-11-21T13:20:15Z");
        assert_eq!(format_duration(Duration::from_secs(90_061)), "1d 1h");
    }
}
