// SPDX-License-Identifier: GPL-2.0
//! What the shim asks, and the answers.
//!
//! Invariant: see the crate. What both sides know is up to date whenever an answer is given.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::cell::Cell;
use core::ffi::{CStr, c_char};
use core::fmt::Write as _;
use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::Relaxed;

use arrayvec::ArrayVec;
use remap_core::memory::NoMemory;
use remap_core::units::Now;
use remap_glue::assemble::Refusal;
use remap_glue::call::Progress;
use remap_glue::target::{Given, MAX_DEVICES, MAX_WORDS, Opened, Target};
use remap_glue::text::Text;
use remap_glue::turn::Driver as _;
use remap_glue::volume::Volume;
use remap_words::notice::Level;
use remap_words::table::Grammar;

use crate::abi::{
    ASSEMBLE, DmrAsk, DmrDevice, DmrShared, DmrView, END, FIGURE, FORGET, FREE, IS_BUSY, IS_FROZEN, IS_LIVE,
    MESSAGE, PARSE, REHEARSE, RESULT, STATUS, TABLE, TUNE, TURN, dmr_random,
};
use crate::driver::Shim;

const EINVAL: i32 = 22;
const ENOMEM: i32 = 12;

/// Words of a table line or message: one more than are taken, so that too many are noticed.
type Words<'a> = ArrayVec<&'a str, { MAX_WORDS + 1 }>;

/// # Safety
/// `argv` has `argc` texts that end with a zero and live for `'a`.
unsafe fn words<'a>(argc: u32, argv: *const *const c_char) -> Words<'a> {
    let mut words = Words::new();
    for index in 0..argc as usize {
        // SAFETY: see above.
        let word = unsafe { CStr::from_ptr(*argv.add(index)) };
        // What is no text is no word that anybody knows; what there is no room for is one too many.
        let _ = words.try_push(word.to_str().unwrap_or("?"));
    }
    words
}

/// # Safety
/// `text` has `room` bytes that nobody else uses.
unsafe fn text<'a>(text: *mut u8, room: u64) -> Text<'a> {
    if room == 0 {
        return Text::new(&mut []);
    }
    // SAFETY: see above.
    Text::new(unsafe { core::slice::from_raw_parts_mut(text, room as usize) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmr_answer(ask: &mut DmrAsk) {
    // SAFETY: as the header says; what is written through it is in cells and atomics.
    let shared = unsafe { &*ask.shared };
    // SAFETY: as the header says.
    let (words, text) = unsafe { (words(ask.argc, ask.argv), text(ask.text, ask.room)) };
    let target = shared.target.get();
    ask.result = match ask.what {
        PARSE => parse(ask, shared, &words, text),
        FREE => {
            // SAFETY: it came from `parse`, and is freed once.
            drop(unsafe { Box::from_raw(target.cast::<[Target; 1]>()) });
            shared.target.set(core::ptr::null_mut());
            return;
        }
        // SAFETY: the header lets one caller at a time ask.
        _ => match unsafe { target.as_mut() } {
            Some(target) => answer(ask, shared, target, &words, text),
            None => -EINVAL,
        },
    };
    // SAFETY: as above.
    note(shared, unsafe { shared.target.get().as_ref() }.and_then(Target::volume));
}

fn answer(
    ask: &mut DmrAsk,
    shared: &DmrShared,
    target: &mut Target,
    words: &[&str],
    mut text: Text<'_>,
) -> i32 {
    let mut shim = Shim { c: ask.c, shared };
    let names = || names(shared);
    let now = Now { mono_ns: ask.mono_ns, unix_s: ask.unix_s };
    let counted = &shared.counts;
    match (ask.what, words) {
        (REHEARSE, _) => {
            let refusal =
                with_given(shared, now, |given| target.rehearse(given, ask.number, &mut shim, &mut text));
            refused(refusal, &mut text)
        }
        (ASSEMBLE, _) => assemble(shared, target, now, &mut shim),
        (END, _) => {
            target.end();
            0
        }
        (TURN, _) => {
            if let Some(volume) = target.volume_mut() {
                volume.turn(now, &mut shim);
            }
            0
        }
        (MESSAGE, _) => {
            let progress = target.message(now, words, &names(), counted, &mut text);
            pending(progress, &mut ask.ticket)
        }
        (RESULT, _) => match target.volume_mut() {
            Some(volume) => pending(volume.answer(ask.ticket, &mut text), &mut ask.ticket),
            None => 0,
        },
        (FORGET, _) => {
            if let Some(volume) = target.volume_mut() {
                volume.forget(ask.ticket);
            }
            0
        }
        // A line that is cut is all that there was room for.
        (STATUS, _) => target.status(&names(), counted, &mut text).map_or(0, |()| 0),
        (FIGURE, [name, ..]) => {
            let since = target.since(counted);
            let told = target.volume().map(|volume| volume.figure(name, &since, &mut text));
            told.map_or(-EINVAL, |_| 0)
        }
        (TUNE, [name, value, ..]) => {
            let tuned = target.volume_mut().is_some_and(|volume| volume.tune(name, value.trim()));
            if tuned { 0 } else { -EINVAL }
        }
        (TABLE, _) => target.table(&names(), &mut text).map_or(0, |()| 0),
        _ => -EINVAL,
    }
}

fn pending(progress: Progress, ticket: &mut u64) -> i32 {
    match progress {
        Progress::Answered => 0,
        Progress::Pending(number) => {
            *ticket = number;
            1
        }
    }
}

/// The errno, with the reason in `text`.
fn refused(result: Result<(), Refusal>, text: &mut Text<'_>) -> i32 {
    let Err(refusal) = result else { return 0 };
    // A reason that is cut is a reason.
    let _ = write!(text, "{refusal}");
    -refusal.errno()
}

fn parse(ask: &DmrAsk, shared: &DmrShared, words: &[&str], mut text: Text<'_>) -> i32 {
    let grammar = match ask.number {
        1 => Grammar::Four,
        2 => Grammar::Two,
        _ => Grammar::Own,
    };
    let parsed = Target::parse(grammar, words, shared.max_remaps, &mut text);
    let target = match parsed {
        Ok(target) => target,
        Err(errno) => return -errno,
    };
    let devices = target.devices();
    let Ok(target) = boxed(target) else {
        // There is room for a few words.
        let _ = text.write_str("Out of memory");
        return -ENOMEM;
    };
    shared.devices_given.set(devices.len() as u32);
    for (place, device) in shared.devices.iter().zip(&devices) {
        let (word, start, sectors) = (device.word as u32, device.start, device.sectors);
        place.set(DmrDevice { word, start, sectors, ..place.get() });
    }
    shared.target.set(Box::into_raw(target).cast());
    0
}

fn boxed(target: Target) -> Result<Box<[Target; 1]>, NoMemory> {
    let mut room = Vec::new();
    room.try_reserve_exact(1).map_err(|_| NoMemory)?;
    room.extend(Some(target).into_iter().take(room.capacity()));
    room.into_boxed_slice().try_into().map_err(|_| NoMemory)
}

fn assemble(shared: &DmrShared, target: &mut Target, now: Now, shim: &mut Shim<'_>) -> i32 {
    let (mut room, mut again) = ([0; 512], Shim { c: shim.c, shared });
    let mut text = Text::new(&mut room);
    let result =
        with_given(shared, now, |given| target.assemble(given, &shared.counts, &mut again, &mut text));
    let level = if result.is_err() { Level::Error } else { Level::Info };
    let errno = refused(result, &mut text);
    if !text.is_empty() {
        shim.log(Some(level), false, text.as_c_str());
    }
    if let Some(volume) = target.volume() {
        let (summary, moving, region_shift) = volume.lookup().summary();
        shared.view.set(DmrView { summary: summary.as_ptr(), moving, lookup: volume.lookup(), region_shift });
    }
    errno
}

/// What device-mapper calls the devices.
fn names(shared: &DmrShared) -> ArrayVec<&str, MAX_DEVICES> {
    let given = shared.devices.iter().take(shared.devices_given.get() as usize);
    let name = |device: DmrDevice| match device.name.is_null() {
        true => "?",
        // SAFETY: the shim keeps it as long as the device is open.
        false => unsafe { CStr::from_ptr(device.name) }.to_str().unwrap_or("?"),
    };
    given.map(|device| name(device.get())).collect()
}

fn with_given<R>(shared: &DmrShared, now: Now, then: impl FnOnce(&Given<'_>) -> R) -> R {
    let opened = |device: &Cell<DmrDevice>| {
        let device = device.get();
        Opened {
            start: device.start,
            sectors: device.sectors,
            size: device.size,
            id: device.id,
            logical_block: device.logical_block,
            read_only: device.read_only != 0,
        }
    };
    let given = shared.devices.iter().take(shared.devices_given.get() as usize);
    let devices: ArrayVec<Opened, MAX_DEVICES> = given.map(opened).collect();
    let mut random = [[0; 16]; MAX_DEVICES];
    // SAFETY: as many bytes as it has.
    unsafe { dmr_random(random.as_mut_ptr().cast(), size_of_val(&random)) };
    let name = CStr::from_bytes_until_nul(&shared.name).ok().and_then(|name| name.to_str().ok());
    let name = name.unwrap_or_default();
    then(&Given { devices: &devices, sectors: shared.sectors, random: &random, name, now })
}

/// A store leaves the other processors' caches without the line, which the fast lane reads.
fn seldom(word: &AtomicU32, value: u32) {
    if word.load(Relaxed) != value {
        word.store(value, Relaxed);
    }
}

/// Notes what the shim looks at without asking.
fn note(shared: &DmrShared, volume: Option<&Volume>) {
    let Some(volume) = volume else {
        shared.state.store(0, Relaxed);
        return;
    };
    let flag = |is: bool, bit: u32| if is { bit } else { 0 };
    let state = flag(volume.engine().is_live(), IS_LIVE)
        | flag(volume.is_frozen(), IS_FROZEN)
        | flag(volume.is_busy(), IS_BUSY);
    let mut members = 1;
    for (n, device) in shared.device_of.iter().enumerate() {
        let given = volume.devices().get(n).copied().flatten();
        seldom(device, given.map_or(0, |given| given as u32 + 1));
        members |= given.map_or(0, |given| 2_u32.wrapping_shl(given as u32));
    }
    seldom(&shared.members, members);
    shared.timeout.store(volume.timeout(), Relaxed);
    shared.answers.store(volume.answers(), Relaxed);
    shared.state.store(state, Relaxed);
}
