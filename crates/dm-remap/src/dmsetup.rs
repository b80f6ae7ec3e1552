//! A volume as a device-mapper table of `linear` and `error` lines: the same device without our software.
//!
//! Invariant: the table covers every sector of the volume exactly once, in order; a sector reads through it what the
//! volume would read, and lost sectors stay errors.

use std::fmt::Write as _;

use crate::exit::{Exit, refusal};
use crate::map::pieces::{Piece, Place};

/// How a device is called in the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeviceName {
    path: String,
    offset: u64,
}

impl DeviceName {
    /// Of the block device at `path`; `offset` sectors of it are in front of the part that the volume uses (a spare may be a slice).
    ///
    /// # Errors
    /// No table can hold this path: dmsetup reads line by line, and the kernel takes the byte 0xa0 (part of some letters) for
    /// white space, which cannot be escaped in text.
    pub(crate) fn of(path: String, offset: u64) -> anyhow::Result<Self> {
        if path.bytes().any(|byte| matches!(byte, b'\n' | 0xa0)) {
            let text = format!(
                "{path:?}: cannot stand in a device-mapper table; give another path of the device with --main-path or --spare-path"
            );
            return Err(refusal(Exit::Usage, text));
        }
        Ok(Self { path, offset })
    }
}

/// The table's text, one line a piece. `spares` are in the volume's order and at least as many as the pieces name.
pub(crate) fn table(pieces: &[Piece], main: &DeviceName, spares: &[DeviceName]) -> String {
    let mut out = String::new();
    for piece in pieces {
        let (start, sectors) = (piece.extent.start().0, piece.extent.sectors());
        let target = match piece.place {
            Place::Lost => None,
            Place::Main => Some((main, start)),
            Place::Spare { spare, sector } => spares.get(usize::from(spare)).map(|name| (name, sector)),
        };
        // Writing to a string cannot fail.
        let _ = match target {
            Some((name, sector)) => {
                writeln!(out, "{start} {sectors} linear {} {}", escaped(&name.path), name.offset + sector)
            }
            None => writeln!(out, "{start} {sectors} error"),
        };
    }
    out
}

/// Device-mapper cuts a line at white space unless a backslash stands before it.
fn escaped(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for c in path.chars() {
        if c.is_whitespace() || c == '\\' {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::pieces::{pieces, tests::entry};
    use remap_core::units::Slot;

    const SECTOR: usize = 512;

    /// A small reader of tables, written from device-mapper's own rules: gives each sector's bytes, `None` for an error.
    fn read_by(table: &str, devices: &[(&str, &[u8])], size: usize) -> Vec<Option<Vec<u8>>> {
        let mut sectors: Vec<Option<Vec<u8>>> = Vec::new();
        for line in table.lines() {
            let mut words = vec![String::new()];
            let mut chars = line.chars();
            while let Some(c) = chars.next() {
                match c {
                    '\\' => words.last_mut().unwrap().extend(chars.next()),
                    ' ' => words.push(String::new()),
                    c => words.last_mut().unwrap().push(c),
                }
            }
            let start: usize = words[0].parse().unwrap();
            let len: usize = words[1].parse().unwrap();
            assert_eq!(start, sectors.len(), "a gap or an overlap before: {line}");
            assert!(len > 0, "an empty line: {line}");
            match (words[2].as_str(), words.len()) {
                ("error", 3) => sectors.extend((0..len).map(|_| None)),
                ("linear", 5) => {
                    let device = devices.iter().find(|(path, _)| *path == words[3]).unwrap().1;
                    let at: usize = words[4].parse().unwrap();
                    for n in at..at + len {
                        sectors.push(Some(device[n * SECTOR..(n + 1) * SECTOR].to_vec()));
                    }
                }
                _ => panic!("not a line that we write: {line}"),
            }
        }
        assert_eq!(sectors.len(), size, "the table ends early or late");
        sectors
    }

    /// A device whose every sector says who and where it is.
    fn device(tag: u8, sectors: usize) -> Vec<u8> {
        (0..sectors).flat_map(|n| [[tag, n.to_le_bytes()[0]]; SECTOR / 2].concat()).collect()
    }

    #[test]
    fn reading_by_the_table_gives_the_volume() {
        let (main, first, second) = (device(1, 90), device(2, 100), device(3, 100));
        let entries = [
            entry(0, 1, Some(Slot::new(0, 4)), 0),
            entry(1, 1, Some(Slot::new(1, 2)), 0b1000_0001),
            entry(3, 2, None, 0xff),
            entry(6, 1, None, 0b0011_0000),
            entry(7, 3, Some(Slot::new(0, 8)), 0),
            entry(11, 1, Some(Slot::new(1, 7)), 0),
        ];
        // What each sector must be, worked out without pieces.
        let expected: Vec<Option<Vec<u8>>> = (0..90u64)
            .map(|sector| {
                let (block, within) = (sector / 8, sector % 8);
                let hit = entries.iter().find(|e| e.block <= block && block < e.end());
                let (from, at) = match hit {
                    Some(e) if e.lost >> within & 1 == 1 => return None,
                    Some(e) if e.slot != u64::MAX => {
                        let slot = Slot(e.slot).offset(block - e.block);
                        let prefix = if slot.spare() == 0 { 0 } else { 16 };
                        ([&first, &second][usize::from(slot.spare())], slot.index() * 8 + within + prefix)
                    }
                    _ => (&main, sector),
                };
                let at = usize::try_from(at).unwrap() * SECTOR;
                Some(from[at..at + SECTOR].to_vec())
            })
            .collect();
        let name = |path: &str, offset| DeviceName::of(path.into(), offset).unwrap();
        let names = [name("/dev/first", 0), name("/dev/my spare", 16)];
        let text = table(&pieces(90, 8, &entries), &name("/dev/main", 0), &names);
        let read =
            read_by(&text, &[("/dev/main", &main), ("/dev/first", &first), ("/dev/my spare", &second)], 90);
        assert_eq!(read, expected, "{text}");
        // Were nothing merged there would be more lines.
        assert_eq!(text.lines().count(), 12, "{text}");
    }

    #[test]
    fn paths_that_no_table_can_hold_are_refused() {
        for path in ["/dev/a\nb", "/dev/voil\u{e0}", "/dev/a\u{a0}b"] {
            assert!(DeviceName::of(path.into(), 0).is_err(), "{path:?}");
        }
        assert!(DeviceName::of("/dev/m\u{fc}ll \\eimer".into(), 0).is_ok());
    }
}
