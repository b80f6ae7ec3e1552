//! Values of options.
//!
//! Invariant: a value that parses is well-formed; whether it suits a device is found out later.

use std::str::FromStr;

use clap::ValueEnum;
use remap_io::badmap;

/// What to do when a bad block is overwritten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum PolicyArg {
    /// Try it in place, so that the drive can reallocate it; remap if that fails
    #[default]
    RewriteThenRemap,
    /// Remap at once; never write to a sector that failed
    RemapOnly,
}

impl From<PolicyArg> for remap_format::Policy {
    fn from(policy: PolicyArg) -> Self {
        match policy {
            PolicyArg::RewriteThenRemap => Self::RewriteThenRemap,
            PolicyArg::RemapOnly => Self::RemapOnly,
        }
    }
}

/// How to talk to the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum IoArg {
    /// io_uring where the system allows it
    #[default]
    Auto,
    /// io_uring or nothing
    Uring,
    /// Threads
    Threads,
}

impl From<IoArg> for remap_io::IoBackend {
    fn from(io: IoArg) -> Self {
        match io {
            IoArg::Auto => Self::Auto,
            IoArg::Uring => Self::Uring,
            IoArg::Threads => Self::Threads,
        }
    }
}

/// Format of a list of bad sectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum MapFormat {
    /// Found out from the text
    #[default]
    Auto,
    /// A map file of GNU ddrescue
    Ddrescue,
    /// Block numbers as badblocks writes them
    Badblocks,
    /// Sectors of 512 bytes: 4711, 100-199, 0x1f00
    List,
}

impl From<MapFormat> for badmap::Format {
    fn from(format: MapFormat) -> Self {
        match format {
            MapFormat::Auto => Self::Auto,
            MapFormat::Ddrescue => Self::Ddrescue,
            MapFormat::Badblocks => Self::Badblocks,
            MapFormat::List => Self::List,
        }
    }
}

/// Form of `map export`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportFormat {
    /// Map of the whole device: + good, - lost
    Ddrescue,
    /// Numbers of blocks with lost sectors
    Badblocks,
    /// Lost sectors of 512 bytes
    List,
    /// A device-mapper table that gives the same device without dm-remap
    Dmsetup,
    /// All entries
    Json,
}

/// Form of `metadata dump`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum DumpFormat {
    /// What 'metadata restore' reads
    #[default]
    Json,
    /// For people
    Text,
}

/// Statuses of a ddrescue map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Statuses(pub(crate) Vec<badmap::Status>);

impl FromStr for Statuses {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let status = |symbol| {
            badmap::Status::of(symbol).ok_or_else(|| {
                format!("'{symbol}' is not a status of a ddrescue map: use some of - * / ? and +")
            })
        };
        let statuses: Vec<_> = text.chars().map(status).collect::<Result<_, _>>()?;
        if statuses.is_empty() { Err("give at least one of - * / ?".into()) } else { Ok(Self(statuses)) }
    }
}

/// Which device a drill is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DrillTarget {
    /// The main device.
    Main,
    /// A spare, numbered as the spares are given.
    Spare(usize),
}

impl FromStr for DrillTarget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let spare = || text.strip_prefix("spare")?.parse().ok().map(Self::Spare);
        let found = if text == "main" { Some(Self::Main) } else { spare() };
        found.ok_or_else(|| format!("'{text}' is not a device for a drill: use main, spare0, spare1, ..."))
    }
}

impl std::fmt::Display for DrillTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Main => f.write_str("main"),
            Self::Spare(n) => write!(f, "spare{n}"),
        }
    }
}

/// `--drill DEVICE:SPEC`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DrillArg {
    pub(crate) target: DrillTarget,
    pub(crate) spec: String,
}

impl FromStr for DrillArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (target, spec) =
            text.split_once(':').ok_or("write a drill as DEVICE:SPEC, such as main:bad=bad.map")?;
        Ok(Self { target: target.parse()?, spec: spec.to_owned() })
    }
}

/// A name that can be part of a file name: letters, digits, and `.`, `_`, `-` inside; at most 64 bytes.
pub(crate) fn parse_name(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let begins = text.starts_with(|c: char| c.is_ascii_alphanumeric());
    if begins && text.chars().all(plain) && text.len() < remap_format::TEXT_LEN {
        Ok(text.to_owned())
    } else {
        Err("a name begins with a letter or digit, goes on with those or . _ -, and has at most 63 of them"
            .into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drills_and_names() {
        let drill: DrillArg = "spare1:bad=sectors:1-2".parse().unwrap();
        assert_eq!(drill, DrillArg { target: DrillTarget::Spare(1), spec: "bad=sectors:1-2".into() });
        for bad in ["main", "disk:rate=1", "spare:rate=1", "spare-1:rate=1"] {
            assert!(bad.parse::<DrillArg>().is_err(), "{bad}");
        }
        for bad in ["", "a/b", "..", "-x", "ä", &"n".repeat(64)] {
            assert!(parse_name(bad).is_err(), "{bad}");
        }
        assert!(parse_name("my-disk_1.img").is_ok());
        assert!("-*/?".parse::<Statuses>().is_ok_and(|s| s.0.len() == 4));
        assert!("x".parse::<Statuses>().is_err());
    }
}
