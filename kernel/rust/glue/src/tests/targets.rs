// SPDX-License-Identifier: GPL-2.0
//! A target from its line to its end, as tests drive it.
//!
//! Invariant: devices are in memory, and operations are carried out at once.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use remap_core::op::Fault;
use remap_core::units::Now;
use remap_words::table::Grammar;

use super::{Disks, Kernel, SECTORS};
use crate::shown::Lanes;
use crate::target::{Given, Opened, Target};

fn opened(disks: &Disks) -> [Opened; 2] {
    let device = |id, bytes: usize| {
        let size = bytes as u64 / 512;
        Opened { sectors: size, size, id, logical_block: 512, ..Opened::default() }
    };
    [device(1, disks.main.len()), device(2, disks.spare.len())]
}

fn given(devices: &[Opened]) -> Given<'_> {
    let now = Now { mono_ns: 1, unix_s: 1_700_000_000 };
    Given { devices, sectors: SECTORS as u64, random: &[[7; 16], [9; 16]], name: "my disk", now }
}

#[test]
fn a_target_lives_from_its_line_to_its_end() {
    let mut why = String::new();
    assert_eq!(Target::parse(Grammar::Two, &["m"], 0, &mut why).unwrap_err(), 22);
    assert!(why.starts_with("Invalid argument count"), "{why}");
    assert_eq!(Target::parse(Grammar::Own, &["m"; 97], 0, &mut why).unwrap_err(), 7);
    let mut target = Target::parse(Grammar::Own, &["m", "s", "2", "status", "v4"], 0, &mut why).unwrap();
    assert_eq!(target.devices().iter().map(|device| device.word).collect::<Vec<_>>(), [0, 1]);
    let mut text = String::new();
    target.table(&["1:0", "1:1"], &mut text).unwrap();
    assert_eq!(text, "1:0 1:1 2 status v4");
    let (mut disks, mut said) = (Disks::blank(), String::new());
    let devices = opened(&disks);
    target.rehearse(&given(&devices), 0, &mut disks, &mut said).unwrap();
    assert!(disks.spare.iter().all(|&byte| byte == 0) && target.volume().is_none());
    // What was counted before it was assembled is not its own.
    let lanes = |reads, writes, flushes| Lanes { reads, writes, flushes, ..Lanes::default() };
    target.assemble(&given(&devices), &lanes(100, 50, 0), &mut disks, &mut said).unwrap();
    assert_eq!(said, "adopted as volume 'my_disk' with blocks of 4096 bytes. ");
    assert_eq!(target.since(&lanes(103, 57, 5)), lanes(3, 2, 5));
    text.clear();
    target.status(&["1:0", "1:1"], &lanes(103, 57, 5), &mut text).unwrap();
    assert!(text.starts_with("v4.0 1:0 1:1 3 2 "), "{text}");
    text.clear();
    let now = Now { mono_ns: 1, unix_s: 1_700_000_000 };
    target.message(now, &["add-spare", "s"], &["1:0", "1:1"], &Lanes::default(), &mut text);
    assert_eq!(text, "error: s is spare 0 of the volume already");
    target.end();
    assert!(target.volume().is_none());
}

#[test]
fn devices_that_do_not_fit_are_refused() {
    let mut disks = Disks::blank();
    let target = Target::parse(Grammar::Own, &["m", "s"], 0, &mut String::new()).unwrap();
    let mut refusal = |change: &dyn Fn(&mut [Opened; 2], &mut u64)| {
        let mut devices = opened(&disks);
        let mut sectors = SECTORS as u64;
        change(&mut devices, &mut sectors);
        let given = Given { sectors, ..given(&devices) };
        let refusal = target.rehearse(&given, 0, &mut disks, &mut String::new()).unwrap_err();
        format!("{} {refusal}", refusal.errno())
    };
    let behind = refusal(&|devices, _| devices[1].start = 1);
    assert!(behind.starts_with("22 Spare area exceeds device size"), "{behind}");
    assert!(refusal(&|devices, _| devices[1].id = 1).contains("are the same device"));
    assert!(refusal(&|_, sectors| *sectors += 8).starts_with("22 Table line longer than the main device"));
    let large = refusal(&|devices, sectors| {
        devices[0].size = 1 << 43;
        *sectors = (1 << 42) + 8;
    });
    assert!(large.starts_with("27 Main device larger than the 2 PiB"), "{large}");
}

#[test]
fn logical_blocks_that_became_smaller_are_refused() {
    let mut disks = Disks::blank();
    let mut target = Target::parse(Grammar::Own, &["m", "s"], 0, &mut String::new()).unwrap();
    let mut devices = opened(&disks);
    devices.iter_mut().for_each(|device| device.logical_block = 4096);
    target.assemble(&given(&devices), &Lanes::default(), &mut disks, &mut String::new()).unwrap();
    let mut kernel = Kernel { disks, ..Kernel::default() };
    loop {
        target.volume_mut().unwrap().turn(given(&devices).now, &mut kernel);
        if kernel.done.is_empty() {
            break;
        }
    }
    target.end();
    let devices = opened(&kernel.disks);
    let refusal = target.rehearse(&given(&devices), 0, &mut kernel.disks, &mut String::new()).unwrap_err();
    assert!(format!("{refusal}").starts_with("the volume has logical blocks of 4096 bytes"), "{refusal}");
}

#[test]
fn names_of_adopted_volumes_fit_a_file_name() {
    for (mapped, name) in [
        ("data", "data"),
        ("vg-my.disk_1", "vg-my.disk_1"),
        ("my\\x20disk", "my_x20disk"),
        ("..", "volume"),
        ("", "volume"),
    ] {
        assert_eq!(crate::target::plain_name(mapped).as_str(), name);
    }
    assert_eq!(crate::target::plain_name(&"x".repeat(127)).len(), 63);
}

#[test]
fn errors_of_the_block_layer_are_faults() {
    use crate::errno::{error, outcome};
    assert_eq!((outcome(0), error(Ok(()))), (Ok(()), 0));
    for (errno, fault, told) in [
        (61, Fault::Medium, 5),
        (84, Fault::Protection, 84),
        (67, Fault::Transport, 67),
        (52, Fault::Transport, 67),
        (110, Fault::Timeout, 110),
        (19, Fault::Gone, 5),
        (28, Fault::NoSpace, 28),
        (95, Fault::Unsupported, 95),
        (12, Fault::NoMemory, 12),
        (11, Fault::NoMemory, 12),
        (5, Fault::Unknown, 5),
        (121, Fault::Unknown, 5),
    ] {
        assert_eq!((outcome(-errno), error(Err(fault))), (Err(fault), -told));
    }
}
