//! Lists of bad sectors, in every format: a text is refused, or gives a map that keeps its invariant, takes no more memory than its
//! text allows for, and survives being written and read again. Specifications of drills are read by the same rules.

#![no_main]

use std::io::{self, Write};

use bench::input::Input;
use bench::memory;
use libfuzzer_sys::fuzz_target;
use remap_core::units::Sector;
use remap_io::badmap::{BadMap, Format, Run, Status};
use remap_io::drill::Drill;

/// Two bytes of text can make a run, which is 24 bytes, and is kept twice while the list grows and once more sorted.
const MEMORY_PER_BYTE: usize = 96;

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::of(bytes);
    let choices = input.u8();
    let Ok(text) = std::str::from_utf8(input.rest()) else { return };
    let format = match choices & 7 {
        0 => Format::Auto,
        1 => Format::Ddrescue,
        2 => Format::Badblocks,
        3 => Format::List,
        _ => return drill(text),
    };
    let block_size = match choices >> 3 {
        0 => None,
        n => Some(1_u32 << n),
    };
    let bound = (64 << 10) + MEMORY_PER_BYTE * text.len();
    let (parsed, _) = memory::within(bound, || BadMap::parse(text, format, block_size));
    let map = match parsed {
        Ok(map) => map,
        Err(error) => {
            assert!(error.text.chars().count() <= 64 && error.line <= text.lines().count() + 1, "{error}");
            return;
        }
    };
    sound(&map);
    written(&map, block_size);
});

fn sound(map: &BadMap) {
    for pair in map.runs().windows(2) {
        let [a, b] = pair else { continue };
        assert!(a.extent.end() <= b.extent.start(), "sorted and apart: {a:?} {b:?}");
        assert!(a.extent.end() < b.extent.start() || a.status != b.status, "merged: {a:?} {b:?}");
    }
    assert_eq!(map.end(), map.runs().last().map_or(Sector(0), |run| run.extent.end()));
    let all: u64 = map.runs().iter().fold(0, |sum: u64, run| sum.saturating_add(run.extent.sectors()));
    assert!(map.sectors(&Status::ALL) <= map.end().0 && all <= map.end().0);
}

fn written(map: &BadMap, block_size: Option<u32>) {
    // What ends at 2^64 bytes cannot be said in bytes.
    if map.end().0 > 0 && map.end().0 < u64::MAX / 512 {
        let text = map.to_ddrescue(map.end().0, Status::Finished, "a comment\nof two lines");
        let again = BadMap::parse(&text, Format::Auto, None).expect("what was written is read");
        let worse: Vec<Run> =
            map.runs().iter().copied().filter(|run| run.status != Status::Finished).collect();
        let found: Vec<Run> =
            again.runs().iter().copied().filter(|run| run.status != Status::Finished).collect();
        assert_eq!(worse, found);
    }
    let size = block_size.unwrap_or(512);
    let mut out = Room { text: Vec::new() };
    if map.to_badblocks(size, &mut out).is_ok() {
        let text = String::from_utf8(out.text).expect("digits");
        let again = BadMap::parse(&text, Format::Badblocks, Some(size)).expect("what was written is read");
        let sectors = u64::from(size) / 512;
        for extent in map.extents(&[Status::Bad]) {
            let (first, last) = (extent.start().0 / sectors, (extent.end().0 - 1) / sectors);
            let covered =
                |block: u64| again.extents(&[Status::Bad]).any(|e| e.contains(Sector(block * sectors)));
            assert!(covered(first) && covered(last), "{extent} in {text:?}");
        }
    }
}

/// Takes so much and no more: a large bad region makes a line for every block.
struct Room {
    text: Vec<u8>,
}

impl Write for Room {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.text.len() + bytes.len() > 1 << 14 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn drill(text: &str) {
    // A drill may name files; what is fuzzed must not open any.
    let names_a_file = text.split(',').any(|item| {
        let (key, value) = item.split_once('=').unwrap_or((item, ""));
        let (key, value) = (key.trim(), value.trim());
        key == "state" || (key == "bad" && !value.starts_with("sectors:"))
    });
    if names_a_file {
        return;
    }
    let bound = (64 << 10) + MEMORY_PER_BYTE * text.len();
    match memory::within(bound, || Drill::parse(text)).0 {
        Ok(drill) => assert!(!format!("{drill:?}").is_empty()),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
