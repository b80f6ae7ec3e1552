//! Recovery from the spares of a small volume after any damage: it ends with a refusal or with a table that is consistent,
//! within its bounds; and what it believes can be served, written anew, and is then believed again.

#![no_main]

use std::sync::LazyLock;

use bench::damage::Scene;
use bench::input::Input;
use bench::{judge, volumes};
use libfuzzer_sys::fuzz_target;

static SCENES: LazyLock<Vec<Scene>> = LazyLock::new(|| Scene::all(&volumes::all()));

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::of(bytes);
    let scene = &SCENES[input.below(SCENES.len())];
    let choices = input.u8();
    let (released_too, anew) = (choices & 1 == 0, choices & 2 == 0);
    let mut disks = scene.damaged(&mut input);
    let count = disks.spares.len();
    match choices >> 2 & 7 {
        1 => disks.spares.reverse(),
        2 => disks.spares.truncate(count - 1),
        3 => disks.spares.rotate_left(1),
        4 => {
            let twin = disks.spares[0].clone();
            disks.spares.push(twin);
        }
        _ => {}
    }
    if let Ok(recovered) = judge::recovered(&mut disks, released_too) {
        judge::serve(recovered, &mut disks, anew);
    }
});
