//! What the control socket takes and gives: lines, whole conversations, messages to a volume in service; and dumps. JSON of unknown
//! origin is refused, or understood and said again in the same words; memory in proportion to the text.

#![no_main]

use std::path::Path;
use std::sync::{LazyLock, Mutex};

use bench::damage::Scene;
use bench::files::{Files, MemoryFile};
use bench::input::Input;
use bench::{memory, volumes};
use dm_remap::fuzzing::{self, Served};
use libfuzzer_sys::fuzz_target;

/// A number in JSON takes two bytes, and what is read is kept, written and read again.
const MEMORY_PER_BYTE: usize = 512;

/// Largest main device that is served: the message `verify` reads all of it.
const MAIN_MAX: u64 = 16 << 20;

/// Messages to one volume.
const MESSAGES_MAX: usize = 8;

static SCENES: LazyLock<Vec<Scene>> = LazyLock::new(|| {
    let mut scenes = Scene::all(&volumes::all());
    scenes.retain(|scene| scene.believed().superblock.main.size <= MAIN_MAX);
    scenes
});
/// The main device first.
static FILES: LazyLock<Mutex<Files>> = LazyLock::new(Mutex::default);

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::of(bytes);
    let choice = input.u8() & 7;
    let bound = (64 << 10) + MEMORY_PER_BYTE * bytes.len();
    match choice {
        0 | 1 => drop(memory::within(bound, || fuzzing::line(input.rest()))),
        2 | 3 => drop(memory::within(bound, || fuzzing::conversation(input.rest()))),
        4 | 5 => {
            // A volume has tables of its own: the readers' summary, the slots.
            let Ok(text) = std::str::from_utf8(input.rest()) else { return };
            memory::within((16 << 20) + bound, || fuzzing::dump(text));
        }
        _ => messages(input),
    }
});

/// Messages, one a line, to a volume on files.
fn messages(mut input: Input<'_>) {
    let scene = &SCENES[input.below(SCENES.len())];
    let Ok(text) = std::str::from_utf8(input.rest()) else { return };
    let mut files = FILES.lock().expect("one input at a time");
    let spares = &scene.disks().spares;
    let files = files.take(1 + spares.len());
    files[0].blank(scene.believed().superblock.main.size);
    for (file, spare) in files[1..].iter().zip(spares) {
        file.put(spare);
    }
    let paths: Vec<String> = files[1..].iter().map(MemoryFile::path).collect();
    let served = Served::open(Path::new(&files[0].path()), &paths);
    for line in text.lines().take(MESSAGES_MAX) {
        served.message(line);
    }
    served.stop();
}
