//! What people and scripts write on command lines, and what is written for device-mapper: values of all kinds, whole command
//! lines, and tables of `linear` and `error` lines, read again by device-mapper's rules.

#![no_main]

use std::sync::LazyLock;

use bench::damage::Scene;
use bench::input::Input;
use bench::{judge, memory, volumes};
use dm_remap::fuzzing;
use libfuzzer_sys::fuzz_target;
use remap_core::recovery::Recovered;
use remap_format::{Entry, EntryState, NO_BLOCK};

/// Beyond it a table has lines for sectors that no kernel has.
const MAIN_MAX: u64 = 1 << 40;

static SCENES: LazyLock<Vec<Scene>> = LazyLock::new(|| {
    let mut scenes = Scene::all(&volumes::all());
    scenes.retain(|scene| scene.believed().superblock.main.size <= MAIN_MAX);
    scenes
});

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::of(bytes);
    let bound = (4 << 20) + 256 * bytes.len();
    match input.u8() & 7 {
        0..=3 => {
            let Ok(text) = std::str::from_utf8(input.rest()) else { return };
            memory::within(bound, || fuzzing::value(text));
        }
        4 => drop(memory::within(bound, || fuzzing::command_line(input.rest()))),
        _ => table(input),
    }
});

/// A table of any entries that a volume can have.
fn table(mut input: Input<'_>) {
    let believed = SCENES[input.below(SCENES.len())].believed();
    let (start, name) = (u64::from(input.u16()), char::from(input.u8()));
    let mut entries = Vec::new();
    while !input.is_empty() && entries.len() < 32 {
        let mut entry = bench::damage::entry(&mut input);
        entry.count = entry.count.min(64);
        if entry.state != EntryState::Absent && (entry.block == NO_BLOCK || entry.block < 1 << 20) {
            entries.extend(Entry::decode(&entry.encode(), believed.superblock.block_sectors()));
        }
    }
    let Ok(volume) = Recovered::fresh(believed.superblock.clone(), &entries) else { return };
    let sizes: Vec<u64> = volume.superblock.spares.iter().map(|spare| spare.size).collect();
    judge::consistent(&volume, &sizes);
    fuzzing::table(&volume, start, &name.to_string());
}
