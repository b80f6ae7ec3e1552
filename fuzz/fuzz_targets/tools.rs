//! The offline metadata commands on spares with any damage: each ends with a code of the contract and says something, reads
//! without writing, and writes all of it or nothing; what it made is whole and says the same.

#![no_main]

use std::sync::{LazyLock, Mutex};

use bench::damage::Scene;
use bench::input::Input;
use bench::tools::{Bench, Task};
use bench::{judge, memory, volumes};
use libfuzzer_sys::fuzz_target;

static SCENES: LazyLock<Vec<Scene>> = LazyLock::new(|| Scene::all(&volumes::all()));
static BENCH: LazyLock<Mutex<Bench>> = LazyLock::new(Mutex::default);

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::of(bytes);
    let scene = &SCENES[input.below(SCENES.len())];
    let task = match input.below(8) {
        0 => Task::Read,
        1 => Task::Repair,
        2 => Task::Restore,
        3 => Task::RestoreOver,
        4 => Task::Forged,
        _ => Task::Rollback(input.u8()),
    };
    // What a forger writes: which number of the dump, and what instead of it.
    let mut forgery = Input::of(input.bytes(if matches!(task, Task::Forged) { 24 } else { 0 }));
    let mut spares = scene.damaged(&mut input).spares;
    spares.retain(|spare| spare.len() >= 512);
    let sizes: Vec<u64> = spares.iter().map(|spare| spare.len() as u64).collect();
    // Two recoveries at a time, their texts, the images that are compared, and the buffers of the devices.
    let bound = 3 * judge::recovery_bound(&sizes) + (16 << 20);
    let mut bench = BENCH.lock().expect("one input at a time");
    memory::within(bound, || {
        bench.judge(task, &spares, &scene.disks().spares, |dump| forged(&dump, &mut forgery));
    });
});

/// A dump with up to two other numbers in it.
fn forged(dump: &str, input: &mut Input<'_>) -> String {
    let mut dump = dump.to_owned();
    for _ in 0..2 {
        let number = usize::from(input.u16());
        let instead = bench::damage::number(input);
        if number == 0 {
            continue;
        }
        let starts: Vec<usize> = dump
            .match_indices(": ")
            .map(|(at, _)| at + 2)
            .filter(|at| dump[*at..].starts_with(|c: char| c.is_ascii_digit()))
            .collect();
        let Some(&start) = starts.get((number - 1) % starts.len().max(1)) else { continue };
        let end = dump[start..].find(|c: char| !c.is_ascii_digit()).map_or(dump.len(), |len| start + len);
        dump.replace_range(start..end, &instead.to_string());
    }
    dump
}
