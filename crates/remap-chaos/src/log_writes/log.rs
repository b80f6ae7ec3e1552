//! The log that device-mapper's target log-writes keeps, decoded.
//!
//! Invariant: whatever the bytes are, decoding ends with entries that lie inside of the log, or with an error that names the
//! entry.
//!
//! The log is in sectors of its own size. The first holds four little-endian numbers: magic (64 bits), version (64), number of
//! entries (64), bytes of a sector (32). Then the entries follow each other: a sector that begins with four numbers of 64 bits
//! (sector of the device, sectors, flags, bytes of text behind these numbers), and, if it is of a write, the sectors written.

use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;

use anyhow::{Context as _, bail, ensure};

const MAGIC: u64 = 0x006a_7366_7773_6872;
const VERSION: u64 = 1;
const SECTOR_SIZES: Range<u32> = 512..65537;
const HEAD: usize = 32;

const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;
const MARK: u64 = 8;
const METADATA: u64 = 16;

/// What somebody asked of the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// Nothing but a flush.
    Nothing,
    /// The bytes are in the log.
    Write,
    Discard,
    /// Somebody left a word.
    Mark(String),
}

/// An entry. Places are in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) what: What,
    /// All that comes before in the log is durable.
    pub(crate) flush: bool,
    /// It is durable itself.
    pub(crate) fua: bool,
    /// It is, and it has no place among writes of other bytes to the same sectors: see [`contested`].
    pub(crate) contested: bool,
    /// Of the device.
    pub(crate) bytes: Range<u64>,
    /// Where in the log what was written is.
    pub(crate) contents: u64,
}

/// The first sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Super {
    entries: u64,
    sector: u64,
}

fn number(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
}

impl Super {
    fn decode(bytes: &[u8; HEAD]) -> anyhow::Result<Self> {
        let (magic, version, entries) = (number(bytes, 0), number(bytes, 8), number(bytes, 16));
        ensure!(magic == MAGIC, "this is no log of log-writes: magic {magic:#x}");
        ensure!(version == VERSION, "a log of version {version}; version {VERSION} is known");
        let sector = (number(bytes, 24) & 0xffff_ffff) as u32;
        ensure!(
            sector.is_power_of_two() && SECTOR_SIZES.contains(&sector),
            "sectors of {sector} bytes; a power of two from 512 to 65536 is known"
        );
        Ok(Self { entries, sector: sector.into() })
    }
}

/// Decodes the entry whose first sector is given; `at` is where that begins, `end` where the log does.
fn decode(first: &[u8], at: u64, end: u64) -> anyhow::Result<Entry> {
    let sector = first.len() as u64;
    let (place, sectors, flags) = (number(first, 0), number(first, 8), number(first, 16));
    let unknown = flags & !(FLUSH | FUA | DISCARD | MARK | METADATA);
    ensure!(unknown == 0, "unknown flags {unknown:#x}");
    let text = usize::try_from(number(first, 24)).ok().and_then(|len| first[HEAD..].get(..len));
    let text =
        text.with_context(|| format!("{} bytes of text in a sector of {sector}", number(first, 24)))?;
    let bytes = sectors.checked_mul(sector).context("longer than any device")?;
    let start = place.checked_mul(sector).context("behind the end of any device")?;
    let past = start.checked_add(bytes).context("behind the end of any device")?;
    let contents = at + sector;
    let what = match flags & (DISCARD | MARK) {
        0 if sectors == 0 => What::Nothing,
        0 => What::Write,
        DISCARD => What::Discard,
        MARK if sectors == 0 => What::Mark(String::from_utf8_lossy(text).into_owned()),
        _ => bail!("flags {flags:#x} and {sectors} sectors do not go together"),
    };
    if what == What::Write {
        let room = end.saturating_sub(contents);
        ensure!(bytes <= room, "{bytes} bytes were written, {room} are left in the log");
    }
    Ok(Entry {
        what,
        flush: flags & FLUSH != 0,
        fua: flags & FUA != 0,
        contested: false,
        bytes: start..past,
        contents,
    })
}

/// Reads all entries of a log.
///
/// # Errors
/// It cannot be read, or is none.
pub(crate) fn read<R: Read + Seek>(log: &mut R) -> anyhow::Result<Vec<Entry>> {
    let end = log.seek(SeekFrom::End(0)).context("the end of the log")?;
    let mut head = [0; HEAD];
    log.rewind().context("the first sector")?;
    log.read_exact(&mut head).context("the first sector")?;
    let Super { entries, sector } = Super::decode(&head)?;
    let mut found = Vec::new();
    let mut at = sector;
    let mut first = vec![0; usize::try_from(sector)?];
    for index in 0..entries {
        ensure!(
            at < end,
            "{entries} entries are announced; number {index} would be behind the end of the log"
        );
        let name = || format!("entry {index}, at byte {at} of the log");
        log.seek(SeekFrom::Start(at)).and_then(|_| log.read_exact(&mut first)).with_context(name)?;
        let entry = decode(&first, at, end).with_context(name)?;
        let written = if entry.what == What::Write { entry.bytes.end - entry.bytes.start } else { 0 };
        at = entry.contents + written;
        found.push(entry);
    }
    for index in 0..found.len() {
        let contested = contested(log, &found, index).with_context(|| format!("entry {index}"))?;
        found[index].contested = contested;
    }
    Ok(found)
}

/// Does other contents for its sectors come behind an entry that is durable by itself, before the next flush? That is in the log when it
/// completes, the others only when a flush takes them along: which of two came last is not known. Of the same bytes it does not matter; the target
/// makes such pairs. What it writes is FUA if it carries out a write anew that failed, since a device without a cache may have dropped the flag of the first
/// try, and that may have reached the sectors beside the bad one.
fn contested<R: Read + Seek>(log: &mut R, entries: &[Entry], index: usize) -> anyhow::Result<bool> {
    let entry = &entries[index];
    if !entry.fua {
        return Ok(false);
    }
    for other in entries[index + 1..].iter().take_while(|other| !other.flush) {
        let both = entry.bytes.start.max(other.bytes.start)..entry.bytes.end.min(other.bytes.end);
        if other.what == What::Write
            && !both.is_empty()
            && written(log, entry, &both)? != written(log, other, &both)?
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What an entry wrote to these bytes of the device, which are among its own.
pub(crate) fn written<R: Read + Seek>(
    log: &mut R,
    entry: &Entry,
    bytes: &Range<u64>,
) -> anyhow::Result<Vec<u8>> {
    let mut buffer = vec![0; usize::try_from(bytes.end - bytes.start)?];
    log.seek(SeekFrom::Start(entry.contents + (bytes.start - entry.bytes.start)))
        .and_then(|_| log.read_exact(&mut buffer))?;
    Ok(buffer)
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Cursor;

    use remap_sim::rng::Rng;

    use super::*;

    /// A log of 512-byte sectors; each entry is flags, place, and what was written or marked.
    pub(crate) fn log(entries: &[(u64, u64, &[u8])]) -> Vec<u8> {
        let sector = |numbers: &[u64], text: &[u8]| {
            let mut bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
            bytes.extend(text);
            bytes.resize(512, 0);
            bytes
        };
        let mut log = sector(&[MAGIC, VERSION, entries.len() as u64, 512], &[]);
        for &(flags, place, bytes) in entries {
            if flags & MARK != 0 {
                log.extend(sector(&[0, 0, flags, bytes.len() as u64], bytes));
            } else {
                log.extend(sector(&[place, bytes.len() as u64 / 512, flags, 0], &[]));
                log.extend(bytes);
            }
        }
        log
    }

    fn said(log: &[u8]) -> String {
        format!("{:#}", read(&mut Cursor::new(log)).unwrap_err())
    }

    #[test]
    fn entries_of_all_kinds_are_read() {
        let bytes = [7; 1024];
        let log =
            log(&[(0, 3, &bytes), (FLUSH, 0, &[]), (MARK, 0, b"here"), (FUA | METADATA, 9, &bytes[..512])]);
        let entries = read(&mut Cursor::new(&log)).unwrap();
        let entry = |what, bytes, contents| Entry {
            what,
            flush: false,
            fua: false,
            contested: false,
            bytes,
            contents,
        };
        assert_eq!(
            entries,
            [
                entry(What::Write, 1536..2560, 1024),
                Entry { flush: true, ..entry(What::Nothing, 0..0, 2560) },
                entry(What::Mark("here".into()), 0..0, 3072),
                Entry { fua: true, ..entry(What::Write, 4608..5120, 3584) },
            ]
        );
    }

    #[test]
    fn a_durable_write_beside_other_bytes_for_its_sectors_is_contested() {
        let contested = |plain: &[u8], place, flush| {
            let fua = [[1; 512], [2; 512]].concat();
            let log = log(&[(FUA, 3, &fua), (flush, 0, &[]), (0, place, plain), (FLUSH, 0, &[])]);
            read(&mut Cursor::new(&log)).unwrap()[0].contested
        };
        assert!(contested(&[3; 512], 4, MARK) && contested(&[2; 1024], 3, MARK));
        assert!(!contested(&[2; 512], 4, MARK), "the same bytes");
        assert!(!contested(&[3; 512], 5, MARK), "elsewhere");
        assert!(!contested(&[3; 512], 4, FLUSH), "later");
    }

    #[test]
    fn a_discard_has_no_bytes_in_the_log() {
        let mut log = log(&[(DISCARD, 3, &[]), (MARK, 0, b"on")]);
        log[512 + 8] = 200;
        let entries = read(&mut Cursor::new(&log)).unwrap();
        assert_eq!((&entries[0].what, &entries[0].bytes), (&What::Discard, &(1536..103_936)));
        assert_eq!(entries[1].what, What::Mark("on".into()));
    }

    #[test]
    fn what_is_no_log_is_refused_with_the_reason() {
        let good = log(&[(0, 3, &[7; 1024])]);
        let with = |at: usize, byte: u8| {
            let mut log = good.clone();
            log[at] = byte;
            said(&log)
        };
        assert!(said(&good[..20]).contains("first sector"));
        assert!(with(0, 1).contains("no log of log-writes"));
        assert!(with(8, 2).contains("version 2"));
        assert!(with(25, 3).contains("sectors of 768 bytes"));
        assert!(with(16, 2).contains("number 1 would be behind the end"));
        assert!(with(512 + 16, 32).contains("entry 0, at byte 512 of the log: unknown flags 0x20"));
        assert!(with(512 + 16, 12).contains("do not go together"));
        assert!(with(512 + 16, 8).contains("do not go together"));
        assert!(with(512 + 8, 3).contains("1536 bytes were written, 1024 are left"));
        assert!(with(512 + 15, 0xff).contains("longer than any device"));
        assert!(with(512 + 7, 0xff).contains("behind the end of any device"));
        assert!(with(512 + 26, 1).contains("bytes of text"));
        assert!(said(&good[..700]).contains("entry 0"));
    }

    #[test]
    fn no_bytes_make_it_panic_or_leave_the_log() {
        let good = log(&[(0, 3, &[7; 1024]), (FLUSH, 0, &[]), (MARK, 0, b"here"), (DISCARD, 1, &[])]);
        let mut rng = Rng::seeded(1);
        for _ in 0..20_000 {
            let mut log = good.clone();
            for _ in 0..=rng.below(3) {
                // Mostly where numbers are.
                let sector = rng.index(log.len() / 512) * 512;
                log[sector + rng.index(34)] = rng.pick(&[0, 1, 0x7f, 0x80, 0xff]);
            }
            log.truncate(log.len() - rng.index(2) * rng.index(log.len()));
            for entry in read(&mut Cursor::new(&log)).unwrap_or_default() {
                assert!(entry.bytes.start <= entry.bytes.end);
                let len = if entry.what == What::Write { entry.bytes.end - entry.bytes.start } else { 0 };
                assert!(entry.contents + len <= log.len() as u64);
            }
        }
    }
}
